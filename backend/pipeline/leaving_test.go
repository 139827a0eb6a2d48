package pipeline

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestAdmission(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, takes(runTime)), func(c *Config) { c.MaxItems = 10 })
		_, err := h.do(context.Background(), tagged(t, 1, repeat(11, 1)...), Options{})
		require.Equal(t, status.InvalidArgument, status.CodeOf(err))
		require.ErrorContains(t, err, "11 items are more than one call may have: the limit is 10 (queue.max_items)")

		var calls sync.WaitGroup
		calls.Go(func() { h.ok(tagged(t, 1, repeat(7, 1)...)) })
		synctest.Wait()
		require.Equal(t, 7.0, h.metric("bei_admitted_items").Metric[0].Gauge.GetValue())
		full := tagged(t, 2, repeat(4, 1)...)
		_, err = h.do(context.Background(), full, Options{})
		require.Equal(t, status.Overloaded, status.CodeOf(err))
		require.ErrorContains(t, err, "the queue is full: 7 items wait, 4 more would exceed the limit of 10")
		require.Zero(t, full.prepared.Load())
		h.ok(tagged(t, 3, repeat(3, 1)...))
		calls.Wait()
		h.ok(tagged(t, 4, repeat(10, 1)...))
		require.Zero(t, h.metric("bei_admitted_items").Metric[0].Gauge.GetValue())
		h.close()
	})
}

func TestEndedContextAdmitsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{}, nil), nil)
		past, cancel := context.WithDeadline(context.Background(), time.Now())
		cancel()
		cancelled, cancel := context.WithCancel(context.Background())
		cancel()
		caused, cause := context.WithCancelCause(context.Background())
		cause(status.Errorf(status.ShutDown, "the cause"))
		for want, ctx := range map[status.Code]context.Context{status.Timeout: past, status.Cancelled: cancelled, status.ShutDown: caused} {
			for _, prepared := range []bool{true, false} {
				w := tagged(t, 1, 1, 2)
				_, err := h.do(ctx, w, Options{Prepared: prepared})
				require.Equal(t, want, status.CodeOf(err))
				require.Zero(t, w.prepared.Load())
			}
		}
		h.close()
	})
}

// TestContextEnds lets a call's deadline pass, or its cancellation come, after 50 ms at each stage of its way.
func TestContextEnds(t *testing.T) {
	const long, short, deadline = 100 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond
	for _, c := range []struct {
		name     string
		busy     bool // another call has the only slot
		run      time.Duration
		items    int
		call     status.Code // of the call when it times out
		ok       int         // items done
		returned time.Duration
	}{
		{"waiting for a slot", true, long, 3, status.Overloaded, 0, deadline},
		{"during a run", false, long, 3, status.Timeout, 0, deadline},
		{"between runs", false, 9 * time.Millisecond, 80, status.OK, 50, deadline},
		{"after the end", false, short, 3, status.OK, 3, short},
	} {
		for _, cancelled := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, newAdder(1, engine.Limits{BestTokens: 10}, takes(c.run)), func(c *Config) { c.PrepareWorkers = 1 })
				var calls sync.WaitGroup
				if c.busy {
					calls.Go(func() { h.ok(tagged(t, 9, 10)) })
					synctest.Wait()
				}
				w := tagged(t, 1, repeat(c.items, 1)...)
				ctx, cancel := context.WithTimeout(context.Background(), deadline)
				want, item := c.call, status.Timeout
				if cancelled {
					ctx, cancel = context.WithCancel(context.Background())
					time.AfterFunc(deadline, cancel)
					item = status.Cancelled
					if want != status.OK {
						want = item
					}
				}
				defer cancel()
				begun := time.Now()
				_, err := h.do(ctx, w, Options{})
				require.Equal(t, want, status.CodeOf(err), c.name)
				require.Equal(t, c.returned, time.Since(begun), c.name)
				if err == nil {
					require.Equal(t, c.ok, w.count(status.OK), c.name)
					require.Equal(t, c.items-c.ok, w.count(item), c.name)
				}
				calls.Wait()
				h.ok(tagged(t, 3, 1, 2, 3))
				h.close()
			})
		}
	}
}

// TestGoneItemsAreNotRun: a run that was formed from calls that have left does not take place.
func TestGoneItemsAreNotRun(t *testing.T) {
	e := newAdder(1, engine.Limits{}, nil)
	h := newHarness(t, e, nil)
	gone := &call{work: tagged(t, 1, 1), items: make([]item, 1), gone: true}
	r := &runner{p: h.Pipeline, slot: e.slots[0]}
	err, _ := r.run([]pick{{gone, 0}}, nil)
	require.Nil(t, err)
	require.Empty(t, e.recorded())
	r.failAll([]pick{{gone, 0}}, status.Errorf(status.Internal, "nobody is told"))
	h.close()
}

func TestContextError(t *testing.T) {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("not a status"))
	require.Equal(t, status.Cancelled, ContextError(ctx, time.Second).Code)
	require.ErrorContains(t, ContextError(ctx, 1234567*time.Nanosecond), "cancelled after 1.235ms")
}

func TestCloseLetsCallsFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{BestTokens: 10}, takes(runTime)), nil)
		var calls sync.WaitGroup
		for _, prepared := range []bool{true, false} {
			calls.Go(func() {
				w := tagged(t, 1, repeat(100, 5)...)
				_, err := h.do(context.Background(), w, Options{Prepared: prepared})
				require.NoError(t, err)
				require.Equal(t, 100, w.count(status.OK))
			})
		}
		synctest.Wait()
		begun := time.Now()
		var closes sync.WaitGroup
		for range 3 {
			closes.Go(func() {
				require.NoError(t, h.Close(context.Background()))
				require.Equal(t, 100*runTime, time.Since(begun))
			})
		}
		synctest.Wait()
		_, err := h.do(context.Background(), tagged(t, 2, 1), Options{})
		require.Equal(t, status.ShutDown, status.CodeOf(err))
		require.Equal(t, status.ShutDown, status.CodeOf(h.Health()))
		closes.Wait()
		calls.Wait()
		h.close()
	})
}

func TestCloseCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t, newAdder(1, engine.Limits{BestTokens: 10}, takes(10*time.Millisecond)), nil)
		var calls sync.WaitGroup
		running, half, waiting := tagged(t, 1, 10), tagged(t, 2, 10, 10, 10), tagged(t, 3, 10)
		errs := make([]error, 3)
		for i, w := range []*work{half, running, waiting} {
			calls.Go(func() { _, errs[i] = h.do(context.Background(), w, Options{Prepared: true}) })
			synctest.Wait()
		}
		// Runs: half, half, running (cut off).
		ctx, cancel := context.WithTimeout(context.Background(), 25*time.Millisecond)
		defer cancel()
		err := h.Close(ctx)
		calls.Wait()
		require.Equal(t, status.Timeout, status.CodeOf(err))
		require.ErrorContains(t, err, "3 calls were cut off")
		require.NoError(t, errs[0])
		require.Equal(t, []status.Code{status.OK, status.OK, status.ShutDown}, half.codes())
		require.Equal(t, status.ShutDown, status.CodeOf(errs[1]))
		require.Equal(t, status.ShutDown, status.CodeOf(errs[2]))
		h.idle()
	})
}

// TestLeavingDuringPreparation ends calls, by their context and by Close, while an item is being prepared: Do returns when that item's
// preparation does, and no other item is touched.
func TestLeavingDuringPreparation(t *testing.T) {
	for _, closing := range []bool{false, true} {
		h := newHarness(t, newAdder(1, engine.Limits{}, nil), nil)
		ctx, cancel := context.WithCancel(context.Background())
		entered, gate := make(chan struct{}), make(chan struct{})
		w := tagged(t, 1, repeat(100, 1)...)
		var once sync.Once
		w.prepare = func(i int) error {
			if i == 20 {
				once.Do(func() { close(entered) })
				<-gate
			}
			return nil
		}
		done := make(chan error)
		go func() {
			_, err := h.do(ctx, w, Options{})
			done <- err
		}()
		<-entered
		want, closed := status.Cancelled, make(chan error, 1)
		if closing {
			want = status.ShutDown
			ended, cancel := context.WithCancel(context.Background())
			cancel()
			go func() { closed <- h.Close(ended) }()
		} else {
			cancel()
		}
		require.Never(t, func() bool { return len(done) > 0 }, 20*time.Millisecond, 5*time.Millisecond)
		close(gate)
		err := <-done
		if err == nil {
			require.Equal(t, 100, w.count(status.OK)+w.count(want), "%v", w.codes())
		} else {
			require.Equal(t, want, status.CodeOf(err))
		}
		cancel()
		if closing {
			require.Equal(t, status.Timeout, status.CodeOf(<-closed))
			h.idle()
			continue
		}
		h.ok(tagged(t, 2, 1))
		h.close()
	}
}

// TestLeavingHoldsNoSlot: a call that leaves must wait for the item that is being tokenized; the slot, and so everybody else,
// must not.
func TestLeavingHoldsNoSlot(t *testing.T) {
	running, tokenizing, entered := make(chan struct{}), make(chan struct{}), make(chan struct{})
	h := newHarness(t, newAdder(1, engine.Limits{}, func(_ context.Context, run int, _ *engine.Batch) error {
		if run == 1 {
			<-running
		}
		return nil
	}), func(c *Config) { c.MaxWait = 0 })
	var calls sync.WaitGroup
	calls.Go(func() { h.ok(tagged(t, 1, 1)) })
	require.Eventually(t, func() bool { return h.metric("bei_slots_busy").Metric[0].Gauge.GetValue() == 1 }, 5*time.Second, time.Millisecond)

	leaving := tagged(t, 2, repeat(prepareChunk+1, 1)...)
	leaving.prepare = func(i int) error {
		if i == prepareChunk {
			close(entered)
			<-tokenizing
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	calls.Go(func() {
		_, err := h.do(ctx, leaving, Options{})
		require.Equal(t, status.Cancelled, status.CodeOf(err))
	})
	<-entered
	cancel()
	require.Eventually(t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for c := range h.calls {
			if !c.touch() {
				return true
			}
			c.release()
		}
		return false
	}, 5*time.Second, time.Millisecond)

	close(running)
	other := make(chan struct{})
	calls.Go(func() { h.ok(tagged(t, 3, 1)); close(other) })
	select {
	case <-other:
	case <-time.After(5 * time.Second):
		t.Error("the slot waits with the leaving call")
	}
	close(tokenizing)
	calls.Wait()
	h.close()
}
