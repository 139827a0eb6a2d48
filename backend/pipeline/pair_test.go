package pipeline

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/auto"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// TestPairThatLosesAnEngine: runs that only the lost engine could take are halved until the other one takes them.
func TestPairThatLosesAnEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lost atomic.Bool
		small := newAdder(2, engine.Limits{MaxTokens: 64, MaxLength: 64, BestTokens: 64}, func(ctx context.Context, run int, b *engine.Batch) error {
			return takes(time.Duration(1000+100*b.Tokens())*time.Microsecond)(ctx, run, b)
		})
		large := newAdder(2, engine.Limits{MaxTokens: 4096, MaxLength: 64}, func(ctx context.Context, run int, b *engine.Batch) error {
			if lost.Load() {
				return status.Errorf(status.Unhealthy, "lost")
			}
			return takes(5*time.Millisecond)(ctx, run, b)
		})
		candidates := [2]auto.Candidate{{Name: "small", Engine: small}, {Name: "large", Engine: large}}
		e, choice, err := auto.Open(t.Context(), candidates, auto.Tables{Vocab: 100}, func(string) {})
		require.NoError(t, err)
		require.Equal(t, "small up to 40 tokens a run, large above (1x32: 4.20 / 5.00 ms, 1x64: 7.40 / 5.00 ms)", choice)
		h := newHarness(t, e, nil)
		runs := func() [2]int64 { return [2]int64{small.count.Load(), large.count.Load()} }
		before := runs()
		h.ok(tagged(t, 1, 10))
		require.Equal(t, [2]int64{before[0] + 1, before[1]}, runs())
		h.ok(tagged(t, 2, repeat(10, 10)...))
		require.Greater(t, runs()[1], before[1])
		require.NoError(t, h.Health())

		lost.Store(true)
		h.ok(tagged(t, 3, repeat(100, 3)...))
		before = runs()
		h.ok(tagged(t, 4, repeat(100, 3)...))
		require.Equal(t, before[1], runs()[1], "a lost engine gets no more runs")
		require.Greater(t, runs()[0], before[0])
		require.Equal(t, status.Unhealthy, status.CodeOf(h.Health()))
		require.ErrorContains(t, h.Health(), "large: lost; small serves the runs that it can take")
		h.close()
	})
}
