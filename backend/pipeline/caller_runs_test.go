package pipeline

import (
	"bytes"
	"context"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// placed is an adder that notes, for each run, whether the caller of Do executes it. Runs take a millisecond for each token.
func placed(slots int, l engine.Limits) (e *adder, byCaller func() []bool) {
	var mu sync.Mutex
	var places []bool
	e = newAdder(slots, l, func(ctx context.Context, run int, b *engine.Batch) error {
		mu.Lock()
		places = append(places, bytes.Contains(debug.Stack(), []byte("pipeline.(*Pipeline).Do(")))
		mu.Unlock()
		return takes(time.Duration(b.Tokens())*time.Millisecond)(ctx, run, b)
	})
	return e, func() []bool {
		mu.Lock()
		defer mu.Unlock()
		return places
	}
}

var callerRuns = Options{Prepared: true, Alone: true, CallerRuns: true}

func TestCallerRuns(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		lengths []int
		want    []bool
		ends    bool // the context can
	}{
		"one run":                   {callerRuns, []int{3, 4}, []bool{true}, false},
		"shared":                    {Options{Prepared: true, CallerRuns: true}, []int{3}, []bool{true}, false},
		"the rest goes to a runner": {callerRuns, []int{8, 8, 8}, []bool{true, false, false}, false},
		"not asked for":             {Options{Prepared: true}, []int{3}, []bool{false}, false},
		"not prepared":              {Options{CallerRuns: true}, []int{3}, []bool{false}, false},
		"a context that can end":    {callerRuns, []int{3}, []bool{false}, true},
		"nothing to run":            {callerRuns, []int{0}, nil, false},
		"no items":                  {callerRuns, nil, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, byCaller := placed(1, engine.Limits{BestTokens: 10})
				h := newHarness(t, e, nil)
				synctest.Wait() // the runner waits
				ctx := context.Background()
				if c.ends {
					ctx = t.Context()
				}
				for range 2 {
					w := tagged(t, 1, c.lengths...)
					_, err := h.do(ctx, w, c.options)
					require.NoError(t, err)
					require.Equal(t, len(c.lengths), w.count(status.OK))
					synctest.Wait()
				}
				require.Equal(t, append(c.want, c.want...), byCaller())
				h.close()
			})
		})
	}
}

// TestCallerRunsInTurn: a call for which no slot is free waits as others do, and nobody is left waiting when a slot comes free.
func TestCallerRunsInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, byCaller := placed(2, engine.Limits{BestTokens: 10})
		h := newHarness(t, e, nil)
		var calls sync.WaitGroup
		begun := time.Now()
		for tag, ends := range []time.Duration{10, 10, 20, 20, 30} {
			synctest.Wait()
			calls.Go(func() {
				w := tagged(t, 1+tag, 10)
				_, err := h.do(context.Background(), w, callerRuns)
				require.NoError(t, err)
				require.Equal(t, 1, w.count(status.OK))
				require.Equal(t, ends*time.Millisecond, time.Since(begun))
			})
		}
		calls.Wait()
		require.Equal(t, []bool{true, true, false, false, false}, byCaller())
		h.close()
	})
}

// TestCallerRunsFailures: culprits are found as in other runs.
func TestCallerRunsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, func(_ context.Context, _ int, b *engine.Batch) error {
			if slices.Contains(b.InputIDs, 7) {
				panic("seven")
			}
			return nil
		}), nil)
		synctest.Wait()
		w := tagged(t, 1, 2, 2, 2, 2)
		w.add(tagged(t, 7, 3).sequences[0])
		_, err := h.do(context.Background(), w, callerRuns)
		require.NoError(t, err)
		require.Equal(t, []status.Code{status.OK, status.OK, status.OK, status.OK, status.Internal}, w.codes())
		h.close()
	})
}

// TestCallerRunsStuck: the run is given up in time, for health and for those who wait. Only its caller has to wait for it.
func TestCallerRunsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{}, inRun(1, stuckFor(10*time.Second)))
		h := newHarness(t, e, func(c *Config) { c.RunTimeout = time.Second })
		synctest.Wait()
		var calls sync.WaitGroup
		running, waiting := tagged(t, 1, 1, 1), tagged(t, 2, 1)
		begun := time.Now()
		calls.Go(func() {
			_, err := h.do(context.Background(), running, callerRuns)
			require.NoError(t, err)
			require.Equal(t, 2, running.count(status.Unhealthy))
			require.Equal(t, time.Second+watchdogGrace, running.doneAt[0].Sub(begun))
			require.Equal(t, 10*time.Second, time.Since(begun))
		})
		synctest.Wait()
		calls.Go(func() {
			_, err := h.do(context.Background(), waiting, callerRuns)
			require.Equal(t, status.Unhealthy, status.CodeOf(err))
			require.Equal(t, time.Second+watchdogGrace, time.Since(begun))
		})
		time.Sleep(2 * time.Second)
		require.ErrorContains(t, h.Health(), "1 of 1 slots hung")
		_, err := h.do(context.Background(), tagged(t, 3, 1), callerRuns)
		require.Equal(t, status.Unhealthy, status.CodeOf(err), "new calls fail at once")
		h.mu.Lock()
		require.Empty(t, h.calls, "Close would not wait for it")
		h.mu.Unlock()
		calls.Wait()
		require.NoError(t, h.Health(), "it came back")
		h.ok(tagged(t, 4, 1))
		h.close()
	})
}

// TestCallerRunsHung: a run that heeds the run timeout ends with it.
func TestCallerRunsHung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, inRun(1, hung)), func(c *Config) { c.RunTimeout = time.Second })
		synctest.Wait()
		w := tagged(t, 1, 1, 1)
		stats, err := h.do(context.Background(), w, callerRuns)
		require.NoError(t, err)
		require.Equal(t, 2, w.count(status.Unhealthy))
		require.Equal(t, time.Second, stats.Total)
		_, err = h.do(context.Background(), tagged(t, 2, 1), callerRuns)
		require.NoError(t, err)
		h.close()
	})
}

// TestCloseDuringCallerRuns: Close waits for such a run as for others, tells it to stop, and gives it up.
func TestCloseDuringCallerRuns(t *testing.T) {
	for name, c := range map[string]struct {
		run    func(context.Context) error
		gives  time.Duration // the run timeout
		closes time.Duration // when Close returns
		code   status.Code
		ends   time.Duration // when the call does
		call   status.Code
	}{
		"ends in time": {stuckFor(time.Second), time.Hour, time.Second, status.OK, time.Second, status.OK},
		"cut off":      {hung, time.Hour, 2 * time.Second, status.Timeout, 2 * time.Second, status.ShutDown},
		"given up": {stuckFor(time.Minute), time.Second, time.Second + watchdogGrace + defaultCloseGrace, status.Unhealthy,
			time.Minute, status.OK},
		"stuck": {stuckFor(time.Minute), time.Hour, 2*time.Second + defaultCloseGrace, status.Unhealthy, time.Minute, status.OK},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, newAdder(2, engine.Limits{}, inRun(1, c.run)), func(config *Config) { config.RunTimeout = c.gives })
				synctest.Wait()
				var calls sync.WaitGroup
				begun := time.Now()
				calls.Go(func() {
					_, err := h.do(context.Background(), tagged(t, 1, 1), callerRuns)
					require.Equal(t, c.call, status.CodeOf(err))
					require.Equal(t, c.ends, time.Since(begun))
				})
				synctest.Wait()
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				require.Equal(t, c.code, status.CodeOf(h.Close(ctx)))
				require.Equal(t, c.closes, time.Since(begun))
				calls.Wait()
			})
		})
	}
}

// TestCallerRunsBesideUseSlot: a slot that is used by hand is not free.
func TestCallerRunsBesideUseSlot(t *testing.T) {
	e, byCaller := placed(1, engine.Limits{})
	h := newHarness(t, e, nil)
	waits := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.Pipeline.idle) == 1
	}
	require.Eventually(t, waits, 10*time.Second, time.Millisecond)
	var calls sync.WaitGroup
	require.NoError(t, h.UseSlot(0, func(engine.Slot) error {
		calls.Go(func() {
			_, err := h.do(context.Background(), tagged(t, 1, 3), callerRuns)
			require.NoError(t, err)
		})
		require.Eventually(t, func() bool { return !waits() }, 10*time.Second, time.Millisecond, "the runner has taken the call")
		require.Empty(t, byCaller())
		return nil
	}))
	calls.Wait()
	require.Equal(t, []bool{false}, byCaller())
	h.close()
}
