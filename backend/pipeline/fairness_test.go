package pipeline

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

const runTime = time.Millisecond

func TestShortCallsOvertakeALongOne(t *testing.T) {
	for _, prepared := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, newAdder(1, engine.Limits{BestTokens: 100}, takes(runTime)), nil)
			long := tagged(t, 1, repeat(10_000, 10)...)
			var calls sync.WaitGroup
			calls.Go(func() {
				stats, err := h.do(context.Background(), long, Options{Prepared: prepared})
				require.NoError(t, err)
				require.GreaterOrEqual(t, stats.Runs, 1000)
				require.Less(t, stats.Total, 1150*runTime, "the shorts take little")
			})
			synctest.Wait()
			for range 100 {
				time.Sleep(runTime * 7 / 3)
				short := tagged(t, 2, 10)
				stats, err := h.do(context.Background(), short, Options{Prepared: prepared})
				require.NoError(t, err)
				require.LessOrEqual(t, stats.Total, 2*runTime, "the rest of one run, and its own")
			}
			calls.Wait()
			h.close()
		})
	}
}

// TestNobodyStarves keeps an engine busy with ever new short calls. A long call must get its share all the same.
func TestNobodyStarves(t *testing.T) {
	for _, c := range []struct {
		name            string
		long, short     int // priorities
		clients         int
		longTokensShare float64 // the least, of a run
	}{
		{"equals", 0, 0, 8, 1.0 / 9},
		{"low below normal", -1, 0, 8, 1.0 / 33},
		{"low below high", -1, 1, 8, 1.0 / 129},
		{"high above low", 1, -1, 8, 16.0 / 17},
		{"high above many low", 1, -1, 200, 16.0 / 17},
		{"low below many normal", -1, 0, 200, 1.0 / 5},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHarness(t, newAdder(1, engine.Limits{BestTokens: 100}, takes(runTime)), nil)
			ctx, cancel := context.WithCancel(context.Background())
			var shorts sync.WaitGroup
			for range c.clients {
				shorts.Go(func() {
					for ctx.Err() == nil {
						_, err := h.do(context.Background(), tagged(t, 2, 50), Options{Priority: c.short, Prepared: true})
						require.NoError(t, err)
					}
				})
			}
			synctest.Wait()
			// 20 items of 50 tokens are 10 runs.
			stats, err := h.do(context.Background(), tagged(t, 1, repeat(20, 50)...), Options{Priority: c.long, Prepared: true})
			require.NoError(t, err)
			require.LessOrEqual(t, float64(stats.Total/runTime), 10/c.longTokensShare*1.1+2, c.name)
			cancel()
			shorts.Wait()
			h.close()
		})
	}
}

// TestPrioritiesShareByWeight runs three long calls until one of them is done.
func TestPrioritiesShareByWeight(t *testing.T) {
	for _, prepared := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			e := newAdder(1, engine.Limits{BestTokens: 100}, takes(runTime))
			h := newHarness(t, e, nil)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			var calls sync.WaitGroup
			for priority := -2; priority <= 1; priority++ {
				if priority == -2 {
					// Keeps the slot busy until the others are there.
					calls.Go(func() { h.ok(tagged(t, 9, 100)) })
					synctest.Wait()
					continue
				}
				calls.Go(func() {
					_, err := h.do(ctx, tagged(t, 5+priority, repeat(3000, 10)...), Options{Priority: priority, Prepared: prepared})
					require.NoError(t, err)
					if priority == 1 {
						cancel()
					}
				})
			}
			calls.Wait()
			served := map[int]float64{}
			for _, run := range e.recorded() {
				for _, s := range run {
					served[s.id] += float64(s.length)
				}
			}
			require.Equal(t, 30_000.0, served[6])
			require.InEpsilon(t, 4*served[4], served[5], 0.05)
			require.InEpsilon(t, 16*served[4], served[6], 0.05)
			h.close()
		})
	}
}

// TestEqualCallsAreServedInOrder keeps a queue of one-item calls, of which the first must be served first.
func TestEqualCallsAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{BestTokens: 10}, takes(runTime))
		h := newHarness(t, e, nil)
		var calls sync.WaitGroup
		for tag := range 40 {
			calls.Go(func() { h.ok(tagged(t, tag, 10)) })
			synctest.Wait()
		}
		calls.Wait()
		var order []int
		for _, run := range e.recorded() {
			order = append(order, run[0].id)
		}
		require.True(t, slices.IsSorted(order), "%v", order)
		h.close()
	})
}

// TestIdleCallsSaveNoCredit: a call that came back after a pause must not shut others out.
func TestIdleCallsSaveNoCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{BestTokens: 10}, takes(runTime))
		h := newHarness(t, e, func(c *Config) { c.MaxWait = 0 })
		var calls sync.WaitGroup
		paused := tagged(t, 1, repeat(20, 10)...)
		paused.prepare = func(i int) error {
			if i == 8 {
				time.Sleep(100 * runTime) // with nothing ready meanwhile
			}
			return nil
		}
		calls.Go(func() { h.ok(paused) })
		calls.Go(func() { h.ok(tagged(t, 2, repeat(200, 10)...)) })
		calls.Wait()
		runs := e.recorded()
		back := 100 + slices.IndexFunc(runs[100:], func(r []seen) bool { return r[0].id == 1 })
		require.GreaterOrEqual(t, back, 100)
		for i := back; i+3 < back+10; i++ {
			require.NotEqual(t, runs[i], runs[i+1], "they take turns")
		}
		h.close()
	})
}

// TestPrepareBackPressure: a call of any size is prepared only a little ahead of the slots.
func TestPrepareBackPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const items, length, workers = 50_000, 10, 4
		most := 0
		var h *harness
		e := newAdder(2, engine.Limits{BestTokens: 1000}, nil)
		e.hook = func(context.Context, int, *engine.Batch) error {
			time.Sleep(runTime)
			h.mu.Lock()
			defer h.mu.Unlock()
			most = max(most, h.Pipeline.readyTokens)
			return nil
		}
		h = newHarness(t, e, func(c *Config) { c.PrepareWorkers = workers })
		w := tagged(t, 1, repeat(items, length)...)
		stats, err := h.do(context.Background(), w, Options{})
		require.NoError(t, err)
		require.Equal(t, items, w.count(status.OK))
		require.LessOrEqual(t, most, h.aheadTokens()+workers*prepareChunk*length)
		require.LessOrEqual(t, stats.Runs, items*length/1000*21/20, "and the slots are kept full")
		h.close()
	})
}

// TestPreparationTakesTurns: a short text is not prepared after a long call's thousands.
func TestPreparationTakesTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, takes(runTime)), nil)
		slow := func(int) error { time.Sleep(runTime); return nil }
		long := tagged(t, 1, repeat(1000, 1)...)
		long.prepare = slow
		var calls sync.WaitGroup
		calls.Go(func() { h.ok(long) })
		time.Sleep(10 * runTime)
		short := tagged(t, 2, 1)
		short.prepare = slow
		require.Less(t, h.ok(short).Total, (2*prepareChunk+5)*runTime)
		calls.Wait()
		h.close()
	})
}
