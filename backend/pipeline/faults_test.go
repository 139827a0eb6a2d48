package pipeline

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// inRun makes run number n behave as f, and others end at once.
func inRun(n int, f func(ctx context.Context) error) func(context.Context, int, *engine.Batch) error {
	return func(ctx context.Context, run int, _ *engine.Batch) error {
		if run == n {
			return f(ctx)
		}
		return nil
	}
}

func hung(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func stuckFor(d time.Duration) func(context.Context) error {
	return func(context.Context) error { time.Sleep(d); return nil }
}

func TestHungRunIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{}, inRun(1, hung))
		h := newHarness(t, e, func(c *Config) { c.RunTimeout = time.Second })
		w := tagged(t, 1, 1, 1, 1, 1)
		stats, err := h.do(context.Background(), w, Options{})
		require.NoError(t, err)
		require.Equal(t, 4, w.count(status.Unhealthy))
		require.ErrorContains(t, w.fails[0], "the run was given up after 1s: run_timeout_ms is 1000")
		require.Equal(t, time.Second, stats.Total, "and not halved")
		require.Len(t, e.recorded(), 1)
		require.Equal(t, status.Unhealthy, status.CodeOf(h.Health()), "until a run succeeds")
		h.ok(tagged(t, 2, 1))
		require.NoError(t, h.Health())
		h.close()
	})
}

func TestStuckSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{}, inRun(2, stuckFor(10*time.Second)))
		h := newHarness(t, e, func(c *Config) { c.RunTimeout = time.Second })
		h.ok(tagged(t, 1, 1))
		var calls sync.WaitGroup
		running, waiting := tagged(t, 1, 1, 1), tagged(t, 2, 1, 1)
		begun := time.Now()
		calls.Go(func() {
			_, err := h.do(context.Background(), running, Options{})
			require.NoError(t, err)
			require.Equal(t, 2, running.count(status.Unhealthy))
		})
		synctest.Wait()
		calls.Go(func() {
			_, err := h.do(context.Background(), waiting, Options{}) // without a deadline
			require.Equal(t, status.Unhealthy, status.CodeOf(err))
		})
		calls.Wait()
		require.Equal(t, time.Second+watchdogGrace, time.Since(begun))

		require.Equal(t, 1.0, h.metric("bei_slots_busy").Metric[0].Gauge.GetValue())
		time.Sleep(time.Second)
		require.ErrorContains(t, h.Health(), "1 of 1 slots hung: a run has not returned after 2s (run_timeout_ms is 1000)")
		late := tagged(t, 3, 1)
		_, err := h.do(context.Background(), late, Options{})
		require.Equal(t, status.Unhealthy, status.CodeOf(err), "new calls fail at once")
		require.Zero(t, late.prepared.Load())

		time.Sleep(10 * time.Second)
		require.NoError(t, h.Health(), "it came back")
		require.Zero(t, h.metric("bei_slots_busy").Metric[0].Gauge.GetValue())
		h.ok(tagged(t, 4, 1))
		h.close()
	})
}

func TestOneStuckSlotOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(2, engine.Limits{BestTokens: 10}, inRun(1, stuckFor(time.Minute))), func(c *Config) { c.RunTimeout = time.Second })
		w := tagged(t, 1, repeat(100, 10)...)
		stats, err := h.do(context.Background(), w, Options{Prepared: true})
		require.NoError(t, err)
		require.Equal(t, 99, w.count(status.OK), "the other slot did the rest")
		require.Equal(t, 1, w.count(status.Unhealthy))
		require.Equal(t, time.Second+watchdogGrace, stats.Total)
		require.ErrorContains(t, h.Health(), "1 of 2 slots hung")
		h.ok(tagged(t, 2, 1))
		time.Sleep(time.Minute)
		require.NoError(t, h.Health())
		h.close()
	})
}

// TestStuckHalfOfAFailedRun: what waited behind the half is served by the other slot, at once and once.
func TestStuckHalfOfAFailedRun(t *testing.T) {
	for _, c := range []struct {
		callerRuns       bool
		served, returned int // runs, and seconds
	}{{false, 3, 1}, {true, 2, 60}} {
		synctest.Test(t, func(t *testing.T) {
			e := newAdder(2, engine.Limits{}, func(ctx context.Context, run int, _ *engine.Batch) error {
				switch run {
				case 1:
					return errors.New("the run of four fails")
				case 2:
					return stuckFor(time.Minute)(ctx)
				}
				return nil
			})
			h := newHarness(t, e, func(c *Config) { c.RunTimeout = time.Second })
			synctest.Wait() // for idle slots
			w := tagged(t, 1, 1, 1, 1, 1)
			begun := time.Now()
			_, err := h.do(context.Background(), w, Options{Prepared: true, CallerRuns: c.callerRuns})
			require.NoError(t, err)
			require.Equal(t, c.returned, int(time.Since(begun).Seconds()))
			ok := (c.served - 2) * 2 // a caller who runs it himself waits for the slot, and is told that all of it failed
			require.Equal(t, ok, w.count(status.OK))
			require.Equal(t, 4-ok, w.count(status.Unhealthy))
			time.Sleep(time.Minute)
			require.NoError(t, h.Health())
			require.Len(t, e.recorded(), c.served)
			h.ok(tagged(t, 2, 1))
			h.close()
		})
	}
}

// TestCallerLeavesStuckRun: a caller with a timeout does not wait for the watchdog, and its memory is not touched when the
// run comes back.
func TestCallerLeavesStuckRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, inRun(1, stuckFor(time.Second))), nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		defer cancel()
		_, err := h.do(ctx, tagged(t, 1, 1, 2, 3), Options{})
		require.Equal(t, status.Timeout, status.CodeOf(err))
		h.ok(tagged(t, 2, 1))
		h.close()
	})
}

func TestCloseStopsAHungRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, inRun(1, hung)), nil)
		var calls sync.WaitGroup
		calls.Go(func() {
			_, err := h.do(context.Background(), tagged(t, 1, 1), Options{})
			require.Equal(t, status.ShutDown, status.CodeOf(err))
		})
		synctest.Wait()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.Equal(t, status.Timeout, status.CodeOf(h.Close(ctx)))
		require.Equal(t, time.Second, time.Since(begun))
		calls.Wait()
		h.idle()
	})
}

func TestCloseAbandonsAStuckRun(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, inRun(1, stuckFor(time.Minute))), func(c *Config) { c.RunTimeout = time.Second })
		h.closeGrace = 3 * time.Second
		w := tagged(t, 1, 1)
		_, err := h.do(context.Background(), w, Options{})
		require.NoError(t, err)
		require.Equal(t, 1, w.count(status.Unhealthy))
		begun := time.Now()
		err = h.Close(context.Background())
		require.Equal(t, status.Unhealthy, status.CodeOf(err))
		require.ErrorContains(t, err, "has not returned 3s after it was told to stop; its slot is abandoned")
		require.Equal(t, 3*time.Second, time.Since(begun))
		time.Sleep(time.Minute)
		h.idle()
	})
}

// fails makes runs fail that hold a sequence whose first id is one of bad.
func fails(bad ...int) func(context.Context, int, *engine.Batch) error {
	return func(_ context.Context, _ int, b *engine.Batch) error {
		for i := range b.Sequences() {
			if id := int(b.InputIDs[b.CuSeqLens[i]]); slices.Contains(bad, id) {
				return errors.New("bad item")
			}
		}
		return nil
	}
}

func TestBadItemsAreIsolated(t *testing.T) {
	for _, c := range []struct {
		name  string
		items int
		bad   []int
		runs  int // at most
	}{
		{"one", 64, []int{37}, 1 + 2*6},
		{"the first", 64, []int{0}, 1 + 2*6},
		{"the last", 63, []int{62}, 1 + 2*6},
		{"alone", 1, []int{0}, 1},
		{"of two", 2, []int{1}, 3},
		{"two", 64, []int{0, 63}, 1 + 4*6},
		{"neighbours", 64, []int{31, 32}, 1 + 4*6},
		{"eight", 512, []int{5, 77, 130, 200, 261, 333, 400, 511}, 1 + 16*9},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newAdder(1, engine.Limits{}, fails(c.bad...))
			h := newHarness(t, e, nil)
			w := &work{t: t}
			for i := range c.items {
				w.add(Sequence{IDs: []uint32{uint32(i), 1}, Outputs: engine.Pooled})
			}
			_, err := h.do(context.Background(), w, Options{Prepared: true})
			require.NoError(t, err)
			for i, code := range w.codes() {
				if slices.Contains(c.bad, i) {
					require.Equal(t, status.Inference, code)
					require.ErrorContains(t, w.fails[i], "bad item")
				} else {
					require.Equal(t, status.OK, code, "item %d", i)
				}
			}
			require.LessOrEqual(t, len(e.recorded()), c.runs)
			require.Equal(t, float64(len(e.recorded())-1), h.metric("bei_isolation_runs_total").Metric[0].Counter.GetValue())
			require.NoError(t, h.Health(), "a bad item is no bad engine")
			h.close()
		})
	}
}

// TestIsolationIsBounded: an engine that fails always is not asked for ever.
func TestIsolationIsBounded(t *testing.T) {
	e := newAdder(1, engine.Limits{}, func(context.Context, int, *engine.Batch) error { return errors.New("always") })
	h := newHarness(t, e, nil)
	w := tagged(t, 1, repeat(512, 1)...)
	_, err := h.do(context.Background(), w, Options{Prepared: true})
	require.NoError(t, err)
	require.Equal(t, 512, w.count(status.Inference))
	require.LessOrEqual(t, len(e.recorded()), 1+16*10)
	h.close()
}

// TestIsolationSparesOtherCalls: the culprit's call is not the others'.
func TestIsolationSparesOtherCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad := fails(5)
		e := newAdder(1, engine.Limits{}, func(ctx context.Context, run int, b *engine.Batch) error {
			time.Sleep(runTime)
			return bad(ctx, run, b)
		})
		h := newHarness(t, e, nil)
		var calls sync.WaitGroup
		calls.Go(func() { h.ok(tagged(t, 99, 1)) }) // keeps the slot busy until the others are there
		synctest.Wait()
		for tag := range 10 {
			calls.Go(func() {
				w := tagged(t, tag, 3, 3, 3)
				_, err := h.do(context.Background(), w, Options{})
				require.NoError(t, err)
				if tag == 5 {
					require.Equal(t, 3, w.count(status.Inference))
				} else {
					require.Equal(t, 3, w.count(status.OK))
				}
			})
		}
		calls.Wait()
		h.close()
	})
}

func TestLostEngineIsNotHalved(t *testing.T) {
	e := newAdder(1, engine.Limits{}, inRun(1, func(context.Context) error { return status.Errorf(status.Unhealthy, "lost") }))
	h := newHarness(t, e, nil)
	w := tagged(t, 1, repeat(100, 1)...)
	_, err := h.do(context.Background(), w, Options{Prepared: true})
	require.NoError(t, err)
	require.Equal(t, 100, w.count(status.Unhealthy))
	require.Len(t, e.recorded(), 1)
	require.ErrorContains(t, h.Health(), "lost")
	h.ok(tagged(t, 2, 1))
	require.NoError(t, h.Health())
	e.health.Store(status.Errorf(status.Unhealthy, "the device is gone"))
	require.ErrorContains(t, h.Health(), "the device is gone")
	h.close()
}

func TestPanics(t *testing.T) {
	e := newAdder(1, engine.Limits{}, nil)
	e.hook = func(_ context.Context, _ int, b *engine.Batch) error {
		if b.InputIDs[0] == 13 {
			panic("engine")
		}
		return nil
	}
	h := newHarness(t, e, nil)
	panics := func(at int) func(int) error {
		return func(i int) error {
			if i == at {
				panic("work")
			}
			return nil
		}
	}
	for _, prepared := range []bool{true, false} {
		for name, w := range map[string]*work{"engine": tagged(t, 13, 1), "work": tagged(t, 1, 1, 1, 1), "work ": tagged(t, 1, 1, 1, 1)} {
			bad := 1
			switch name {
			case "engine":
				bad = 0
			case "work":
				w.prepare = panics(bad)
			default:
				w.deliver = panics(bad)
			}
			_, err := h.do(context.Background(), w, Options{Prepared: prepared})
			require.NoError(t, err)
			require.Equal(t, status.Internal, w.codes()[bad], name)
			require.Equal(t, 1, w.count(status.Internal), name)
			require.ErrorContains(t, w.fails[bad], "panic")
		}
	}
	h.ok(tagged(t, 1, 1))
	h.close()
}

func TestBadOutputIsAFailedRun(t *testing.T) {
	e := newAdder(1, engine.Limits{}, nil)
	h := newHarness(t, e, nil)
	e.cut.Store(true)
	w := tagged(t, 1, 5)
	_, err := h.do(context.Background(), w, Options{})
	require.NoError(t, err)
	require.Equal(t, status.Internal, w.codes()[0])
	require.ErrorContains(t, w.fails[0], `engine "adder" gave 1 numbers for 1 x 2 pooled rows`)
	h.close()
}

// TestItemsAreCheckedAgainstTheEngine: what Prepare lets through must not overrun the slot's batch.
func TestItemsAreCheckedAgainstTheEngine(t *testing.T) {
	h := newHarness(t, newAdder(1, engine.Limits{MaxTokens: 10, MaxLength: 10, BestTokens: 10}, nil), nil)
	for _, prepared := range []bool{true, false} {
		w := tagged(t, 1, 10, 11, 1)
		_, err := h.do(context.Background(), w, Options{Prepared: prepared})
		require.NoError(t, err)
		require.Equal(t, []status.Code{status.OK, status.TooLong, status.OK}, w.codes())
		require.ErrorContains(t, w.fails[1], "the item has 11 tokens, the limit is 10 (max_length)")
	}
	h.close()
}

func TestItemErrorsKeepTheirCodes(t *testing.T) {
	h := newHarness(t, newAdder(1, engine.Limits{}, nil), nil)
	for _, prepared := range []bool{true, false} {
		w := tagged(t, 1, 1, 1, 1, 1, 0)
		w.prepare = func(i int) error {
			return []error{nil, status.Errorf(status.InvalidUTF8, "typed"), errors.New("untyped"), nil, nil}[i]
		}
		w.deliver = func(i int) error {
			return []error{errors.New("untyped"), nil, nil, status.Errorf(status.NonFinite, "typed"), nil}[i]
		}
		_, err := h.do(context.Background(), w, Options{Prepared: prepared})
		require.NoError(t, err)
		require.Equal(t, []status.Code{status.Inference, status.InvalidUTF8, status.Tokenization, status.NonFinite, status.OK}, w.codes())
	}
	h.close()
}

// TestMockFaults runs the mock engine's faults, as programs that use the library see them.
func TestMockFaults(t *testing.T) {
	bad := int32(7)
	for _, c := range []struct {
		fault  mock.Fault
		first  []status.Code // of three items in the first call
		second status.Code   // of an item in the second
	}{
		{mock.Fault{Kind: mock.Slow, From: 1, Count: 1, DelayMS: 10}, []status.Code{0, 0, 0}, 0},
		{mock.Fault{Kind: mock.Hung, From: 1, Count: 1}, slices.Repeat([]status.Code{status.Unhealthy}, 3), 0},
		{mock.Fault{Kind: mock.Stuck, From: 1, Count: 1, DelayMS: 2000}, slices.Repeat([]status.Code{status.Unhealthy}, 3), status.Unhealthy},
		{mock.Fault{Kind: mock.Error, From: 1, Count: 1}, []status.Code{0, 0, 0}, 0}, // the halves succeed
		{mock.Fault{Kind: mock.BadItem, TokenID: &bad}, []status.Code{0, status.Inference, 0}, 0},
		{mock.Fault{Kind: mock.Lost, From: 1, Count: 1}, slices.Repeat([]status.Code{status.Unhealthy}, 3), status.Unhealthy},
		{mock.Fault{Kind: mock.Panic, From: 1, Count: 1}, []status.Code{0, 0, 0}, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := mock.Open(mock.Config{Dimensions: 2, Faults: []mock.Fault{c.fault}}, 1, engine.Limits{})
			h := newHarness(t, e, func(c *Config) { c.RunTimeout = time.Second })
			w := &work{t: t, sequences: make([]Sequence, 3)}
			for i, id := range []uint32{6, 7, 8} {
				w.sequences[i] = Sequence{IDs: []uint32{id}, Outputs: engine.Pooled}
			}
			first := &anyRows{work: w}
			_, err := h.Do(context.Background(), first, Options{})
			require.NoError(t, err)
			require.Equal(t, c.first, w.codes(), c.fault.Kind)
			w.sequences = w.sequences[:1]
			_, err = h.Do(context.Background(), first, Options{})
			if c.fault.Kind == mock.Stuck {
				require.Equal(t, c.second, status.CodeOf(err))
				time.Sleep(time.Second)
			} else {
				require.NoError(t, err)
				require.Equal(t, []status.Code{c.second}, w.codes(), c.fault.Kind)
			}
			h.close()
		})
	}
}

// anyRows is work that does not know its rows.
type anyRows struct{ *work }

func (w *anyRows) Deliver(i int, r Rows) error {
	if len(r.Pooled) != 2 {
		w.t.Errorf("%d columns", len(r.Pooled))
	}
	return nil
}
