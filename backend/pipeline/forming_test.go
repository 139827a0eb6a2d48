package pipeline

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func lengths(run []seen) (l []int) {
	for _, s := range run {
		l = append(l, s.length)
	}
	return l
}

func TestRunBudget(t *testing.T) {
	for _, c := range []struct {
		name   string
		limits engine.Limits
		items  []int
		want   [][]int
	}{
		{"sum of tokens", engine.Limits{BestTokens: 10}, []int{6, 5, 4, 1, 1}, [][]int{{6}, {5, 4, 1}, {1}}},
		{"exactly full", engine.Limits{BestTokens: 10}, []int{5, 5, 10, 1}, [][]int{{5, 5}, {10}, {1}}},
		{"above the best alone", engine.Limits{BestTokens: 10}, []int{3, 25, 3, 3}, [][]int{{3}, {25}, {3, 3}}},
		{"sequences", engine.Limits{BestTokens: 10, MaxSequences: 3}, []int{1, 1, 1, 1, 1, 1, 1}, [][]int{{1, 1, 1}, {1, 1, 1}, {1}}},
		{"padded", engine.Limits{BestTokens: 12, Padded: true}, []int{4, 4, 4, 4}, [][]int{{4, 4, 4}, {4}}},
		{"padded by a longer one", engine.Limits{BestTokens: 12, Padded: true}, []int{2, 6, 2, 6}, [][]int{{2, 6}, {2, 6}}},
		{"padded above the best", engine.Limits{BestTokens: 12, Padded: true}, []int{13, 1, 1}, [][]int{{13}, {1, 1}}},
	} {
		for _, prepared := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				e := newAdder(1, c.limits, nil)
				h := newHarness(t, e, func(c *Config) { c.PrepareWorkers = 1 })
				stats, err := h.do(context.Background(), tagged(t, 1, c.items...), Options{Prepared: prepared})
				require.NoError(t, err)
				var got [][]int
				tokens := 0
				for _, run := range e.recorded() {
					got = append(got, lengths(run))
				}
				for _, n := range c.items {
					tokens += n
				}
				require.Equal(t, c.want, got, c.name)
				require.Equal(t, len(c.want), stats.Runs, c.name)
				require.Equal(t, tokens, stats.Tokens, c.name)
				h.close()
			})
		}
	}
}

func TestLongHeadIsPassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{BestTokens: 10}, takes(time.Millisecond))
		h := newHarness(t, e, nil)
		var calls sync.WaitGroup
		for _, w := range []*work{tagged(t, 1, 10), tagged(t, 2, 2, 9), tagged(t, 3, repeat(30, 1)...)} {
			calls.Go(func() { h.ok(w) })
			synctest.Wait()
		}
		calls.Wait()
		runs := e.recorded()
		require.Equal(t, []seen{{1, 10}}, runs[0])
		require.Equal(t, []int{1, 2, 1, 1, 1, 1, 1, 1, 1}, lengths(runs[1]), "the short ones fill up what the long one leaves")
		require.Equal(t, repeat(10, 1), lengths(runs[2]))
		require.Equal(t, []seen{{2, 9}, {3, 1}}, runs[3], "the one passed over begins the next run in its turn")
		h.close()
	})
}

// TestFullRunsOfManyCalls covers more passed calls than are looked at.
func TestFullRunsOfManyCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{BestTokens: 10}, takes(time.Millisecond))
		h := newHarness(t, e, nil)
		var calls sync.WaitGroup
		for range 3 * maxPassed {
			calls.Go(func() { h.ok(tagged(t, 1, 6)) })
		}
		calls.Wait()
		require.Len(t, e.recorded(), 3*maxPassed)
		h.close()
	})
}

func TestLateFormation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{}, takes(10*time.Millisecond))
		h := newHarness(t, e, nil)
		var calls sync.WaitGroup
		for tag, at := range []time.Duration{0, time.Millisecond, 9 * time.Millisecond} {
			calls.Go(func() {
				time.Sleep(at)
				stats := h.ok(tagged(t, tag, 5))
				require.Equal(t, 10*time.Millisecond, stats.Inference)
				require.Equal(t, stats.Total, stats.Queue+stats.Inference)
			})
		}
		calls.Wait()
		runs := e.recorded()
		require.Len(t, runs, 2)
		require.Equal(t, []seen{{0, 5}}, runs[0])
		require.Equal(t, []seen{{1, 5}, {2, 5}}, runs[1], "what arrives while the slot is busy joins the next run")
		h.close()
	})
}

func TestOneItemRunsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{}, takes(time.Millisecond))
		h := newHarness(t, e, func(c *Config) { c.MaxWait = time.Hour })
		require.Equal(t, Stats{Total: time.Millisecond, Inference: time.Millisecond, Tokens: 5, Runs: 1}, h.ok(tagged(t, 1, 5)))
		h.close()
	})
}

func TestWaitForOthersIsBounded(t *testing.T) {
	for _, c := range []struct {
		name    string
		maxWait time.Duration
		prepare time.Duration // of the other item
		tokens  int           // of the item that waits
		want    time.Duration // until its end, with runs of 1 ms
		runs    int
	}{
		{"no wait", 0, time.Second, 5, time.Millisecond, 2},
		{"to its end", 2 * time.Millisecond, time.Second, 5, 3 * time.Millisecond, 2},
		{"others come first", 2 * time.Millisecond, time.Millisecond, 5, 2 * time.Millisecond, 1},
		{"a full run does not wait", time.Hour, time.Second, 1024, time.Millisecond, 2},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := newAdder(1, engine.Limits{}, takes(time.Millisecond))
			h := newHarness(t, e, func(config *Config) { config.MaxWait = c.maxWait })
			slow := tagged(t, 1, 5)
			slow.prepare = func(int) error { time.Sleep(c.prepare); return nil }
			var calls sync.WaitGroup
			calls.Go(func() { require.Equal(t, c.prepare, h.ok(slow).Prepare) })
			synctest.Wait()
			require.Equal(t, c.want, h.ok(tagged(t, 2, c.tokens)).Total, c.name)
			calls.Wait()
			require.Len(t, e.recorded(), c.runs, c.name)
			h.close()
		})
	}
}

// TestWaitEndsWithTheOthers: a failed or cancelled preparation is nothing to wait for.
func TestWaitEndsWithTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, nil), func(c *Config) { c.MaxWait = time.Hour })
		slow := tagged(t, 1, 5)
		slow.prepare = func(int) error {
			time.Sleep(time.Millisecond)
			return status.Errorf(status.TooLong, "too long")
		}
		var calls sync.WaitGroup
		calls.Go(func() {
			_, err := h.do(context.Background(), slow, Options{})
			require.NoError(t, err)
			require.Equal(t, []status.Code{status.TooLong}, slow.codes())
		})
		synctest.Wait()
		require.Equal(t, time.Millisecond, h.ok(tagged(t, 2, 5)).Total)
		calls.Wait()
		h.close()
	})
}

func TestSlotsOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(3, engine.Limits{BestTokens: 10}, takes(10*time.Millisecond))
		h := newHarness(t, e, nil)
		stats, err := h.do(context.Background(), tagged(t, 1, repeat(9, 10)...), Options{Prepared: true})
		require.NoError(t, err)
		require.Equal(t, 30*time.Millisecond, stats.Total, "one call fills all slots")
		require.Equal(t, 9, stats.Runs)
		require.Equal(t, 10*time.Millisecond, stats.Inference)
		require.Equal(t, 10*time.Millisecond, stats.Queue, "0, 10 and 20 ms")

		start := time.Now()
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() { h.ok(tagged(t, 1, 10)) })
		}
		synctest.Wait()
		require.Equal(t, 3.0, h.metric("bei_slots_busy").Metric[0].Gauge.GetValue())
		calls.Wait()
		require.Equal(t, 10*time.Millisecond, time.Since(start))
		h.close()
	})
}

// TestEverySequenceField covers type ids, position ids, offsets, all outputs and zero tokens, mixed in one run.
func TestEverySequenceField(t *testing.T) {
	for _, prepared := range []bool{true, false} {
		e := newAdder(1, engine.Limits{}, nil)
		var skips []int32
		e.hook = func(_ context.Context, _ int, b *engine.Batch) error {
			skips = append(skips, b.PoolSkip...)
			require.NoError(t, b.Validate(e.info.Limits, 10, 10, 1000))
			return nil
		}
		h := newHarness(t, e, nil)
		w := &work{t: t}
		w.add(Sequence{IDs: []uint32{1, 2, 3}, FirstPosition: 2, PoolSkip: 2, Outputs: engine.Pooled})
		w.add(Sequence{IDs: []uint32{5, 6, 8, 5, 7}, FirstPosition: 6, Outputs: engine.Pooled})
		w.add(Sequence{IDs: []uint32{4, 5}, TypeIDs: []uint32{0, 1}, Outputs: engine.Pooled | engine.TokenVectors | engine.Sparse})
		w.add(Sequence{Outputs: engine.TokenVectors})
		w.add(Sequence{IDs: []uint32{6}, PositionIDs: []uint32{99}, Outputs: engine.TokenVectors})
		w.add(Sequence{IDs: []uint32{7}, TypeIDs: []uint32{3}, PositionIDs: []uint32{7}, Outputs: engine.Sparse})
		_, err := h.do(context.Background(), w, Options{Prepared: prepared})
		require.NoError(t, err)
		require.Equal(t, 6, w.count(status.OK), "%v", w.fails)
		require.Equal(t, []int32{2, 0, 0, 0, 0}, skips)
		h.close()
	}
}

func TestNoItems(t *testing.T) {
	h := newHarness(t, newAdder(1, engine.Limits{}, nil), nil)
	stats, err := h.Do(context.Background(), &work{t: t}, Options{})
	require.NoError(t, err)
	require.Zero(t, stats.Runs)
	h.close()
	_, err = h.Do(context.Background(), &work{t: t}, Options{})
	require.Equal(t, status.ShutDown, status.CodeOf(err))
}
