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

// TestAloneCallsRunApart: whatever waits together, no run holds items of such a call and of another one.
func TestAloneCallsRunApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(2, engine.Limits{BestTokens: 20}, takes(time.Millisecond))
		h := newHarness(t, e, nil)
		var calls sync.WaitGroup
		for tag := 1; tag <= 40; tag++ {
			calls.Go(func() {
				_, err := h.do(context.Background(), tagged(t, tag, 2, 3, 2), Options{Prepared: tag%4 < 2, Alone: tag%2 == 0})
				require.NoError(t, err)
			})
		}
		calls.Wait()
		mixed := 0
		for _, run := range e.recorded() {
			tags := map[int]bool{}
			alone := false
			for _, s := range run {
				tags[s.id] = true
				alone = alone || s.id%2 == 0
			}
			if alone {
				require.Len(t, tags, 1, "%v", run)
				if run[0].id%4 < 2 {
					require.Len(t, run, 3, "a batch that fits is one run")
				}
			}
			mixed = max(mixed, len(tags))
		}
		require.Greater(t, mixed, 1, "the others still share runs")
		h.close()
	})
}

// TestAloneCallDoesNotWait for what is being prepared, unless that is its own.
func TestAloneCallDoesNotWait(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		waits   time.Duration
	}{
		"alone":  {Options{Prepared: true, Alone: true}, 0},
		"shared": {Options{Prepared: true}, 2 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHarness(t, newAdder(1, engine.Limits{}, nil), nil)
				slow := tagged(t, 1, 1)
				slow.prepare = func(int) error { time.Sleep(time.Second); return nil }
				var calls sync.WaitGroup
				calls.Go(func() { h.ok(slow) })
				synctest.Wait()
				stats, err := h.do(context.Background(), tagged(t, 2, 1, 1), c.options)
				require.NoError(t, err)
				require.Equal(t, c.waits, stats.Total)
				calls.Wait()
				h.close()
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(1, engine.Limits{}, nil)
		h := newHarness(t, e, nil)
		w := tagged(t, 1, repeat(2*prepareChunk, 1)...)
		w.prepare = func(int) error { time.Sleep(time.Microsecond); return nil }
		_, err := h.do(context.Background(), w, Options{Alone: true})
		require.NoError(t, err)
		require.Len(t, e.recorded(), 1, "its own chunks are awaited")
		h.close()
	})
}

// TestAloneCallThatHangs: a batch that waited beside it is served by the other slot.
func TestAloneCallThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newAdder(2, engine.Limits{BestTokens: 100}, func(ctx context.Context, _ int, b *engine.Batch) error {
			if b.InputIDs[0] == 3 {
				<-ctx.Done()
				return ctx.Err()
			}
			time.Sleep(time.Duration(b.Tokens()) * time.Millisecond)
			return nil
		})
		h := newHarness(t, e, func(c *Config) { c.RunTimeout = time.Second })
		var calls sync.WaitGroup
		begun := time.Now()
		for _, c := range []struct {
			work *work
			code status.Code
			took time.Duration
		}{
			{tagged(t, 1, 10), status.OK, 10 * time.Millisecond},
			{tagged(t, 2, 20), status.OK, 20 * time.Millisecond},
			{tagged(t, 3, 3), status.Unhealthy, 1010 * time.Millisecond},
			{tagged(t, 4, 3, 4), status.OK, 27 * time.Millisecond},
		} {
			calls.Go(func() {
				_, err := h.do(context.Background(), c.work, Options{Prepared: true, Alone: true})
				require.NoError(t, err)
				require.Equal(t, len(c.work.fails), c.work.count(c.code))
				require.Equal(t, c.took, time.Since(begun))
			})
			synctest.Wait()
		}
		calls.Wait()
		h.close()
	})
}
