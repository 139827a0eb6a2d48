package suite

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// Contract tests what holds for every engine, whatever it computes. open must accept any limits. The sequences are valid
// for the engine; there must be at least three, none empty. Runs of one sequence agree within the bounds: other
// neighbours may mean other kernels, which round otherwise.
func Contract(t *testing.T, open func(*testing.T, engine.Limits) engine.Engine, sequences []Sequence, bounds Bounds) {
	e := open(t, engine.Limits{})
	slot, info := e.Slots()[0], e.Info()
	require.GreaterOrEqual(t, len(sequences), 3)
	truth := make([]Sequence, len(sequences)) // each alone
	for i, q := range sequences {
		results, err := Compute(t.Context(), slot, info, []Sequence{q}, info.Outputs)
		require.NoError(t, err)
		truth[i] = q
		truth[i].take(results[0])
	}
	same := func(t *testing.T, slot engine.Slot, picked []Sequence, want engine.Outputs) {
		results, err := Compute(t.Context(), slot, info, picked, want)
		require.NoError(t, err)
		for i := range results {
			q := picked[i]
			if want&engine.Pooled == 0 {
				q.Pooled = nil
			}
			if want&engine.TokenVectors == 0 {
				q.TokenVectors = nil
			}
			if want&engine.Sparse == 0 {
				q.Sparse = nil
			}
			require.NoError(t, results[i].matches(&q, bounds), "sequence %d", i)
		}
	}
	empty := Sequence{Pooled: make([]float64, info.PooledWidth), Sparse: make([]float64, info.SparseWidth)}

	t.Run("info", func(t *testing.T) {
		l := info.Limits
		for _, n := range []int{l.MaxTokens, l.MaxSequences, l.MaxLength, l.BestTokens, len(e.Slots())} {
			require.Positive(t, n)
		}
		require.LessOrEqual(t, l.MaxLength, l.MaxTokens)
		require.LessOrEqual(t, l.BestTokens, l.MaxTokens)
		require.NotEmpty(t, info.Name)
		require.Equal(t, info.Outputs&engine.Pooled != 0, info.PooledWidth > 0)
		require.Equal(t, info.Outputs&engine.TokenVectors != 0, info.TokenWidth > 0)
		require.Equal(t, info.Outputs&engine.Sparse != 0, info.SparseWidth > 0)
		require.NoError(t, e.Health())
		require.Same(t, slot.Batch(), slot.Batch())
	})
	t.Run("alone equals in a batch, in any order", func(t *testing.T) {
		random := rand.New(rand.NewPCG(1, 2))
		for range 4 {
			same(t, slot, pick(truth, random.Perm(len(truth))), info.Outputs)
		}
	})
	t.Run("each output by itself", func(t *testing.T) {
		for _, want := range []engine.Outputs{engine.Pooled, engine.TokenVectors, engine.Sparse} {
			if info.Outputs&want != 0 {
				same(t, slot, truth, want)
			}
		}
		same(t, slot, truth, 0)
	})
	t.Run("zero-token sequences", func(t *testing.T) {
		same(t, slot, []Sequence{empty, truth[0], empty, empty, truth[1], empty}, info.Outputs)
		same(t, slot, []Sequence{empty, empty}, info.Outputs)
		same(t, slot, nil, info.Outputs)
	})
	t.Run("one token", func(t *testing.T) {
		q := sequences[0]
		one := Sequence{IDs: q.IDs[:1], Types: q.Types[:1], Positions: q.Positions[:1]}
		results, err := Compute(t.Context(), slot, info, []Sequence{one}, info.Outputs)
		require.NoError(t, err)
		one.take(results[0])
		same(t, slot, []Sequence{truth[1], one, truth[2]}, info.Outputs)
	})
	t.Run("the largest batch", func(t *testing.T) { largest(t, e, truth[0], same) })
	t.Run("slots at once", func(t *testing.T) {
		var group sync.WaitGroup
		for n, s := range e.Slots() {
			group.Go(func() {
				random := rand.New(rand.NewPCG(uint64(n), 3))
				for range 20 {
					order := random.Perm(len(truth))[:1+random.IntN(len(truth))]
					results, err := Compute(context.Background(), s, info, pick(truth, order), info.Outputs)
					if err != nil {
						t.Errorf("slot %d: %v", n, err)
						return
					}
					for i := range results {
						if err := results[i].matches(&truth[order[i]], bounds); err != nil {
							t.Errorf("slot %d: %v", n, err)
						}
					}
				}
			})
		}
		group.Wait()
	})
	t.Run("a context that ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := Compute(ctx, slot, info, truth, info.Outputs)
		require.ErrorIs(t, err, context.Canceled)
		ctx, cancel = context.WithDeadline(t.Context(), time.Now())
		defer cancel()
		_, err = Compute(ctx, slot, info, truth, info.Outputs)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		same(t, slot, truth, info.Outputs)
	})
	t.Run("a context that ends at any moment", func(t *testing.T) {
		for i := range 50 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*20*time.Microsecond)
			_, err := Compute(ctx, slot, info, truth, info.Outputs)
			cancel()
			if err != nil {
				require.ErrorIs(t, err, context.DeadlineExceeded)
			}
			same(t, slot, truth[:1], info.Outputs)
		}
	})
	t.Run("close", func(t *testing.T) {
		require.NoError(t, e.Close())
		require.NoError(t, e.Close())
	})
	t.Run("small limits", func(t *testing.T) {
		longest := 0
		for _, q := range sequences {
			longest = max(longest, len(q.IDs))
		}
		e := open(t, engine.Limits{MaxTokens: longest, MaxSequences: 2, MaxLength: longest, BestTokens: 1})
		l := e.Info().Limits
		require.Equal(t, longest, l.MaxTokens)
		require.Equal(t, 2, l.MaxSequences)
		for i := range truth {
			same(t, e.Slots()[0], truth[i:i+1], info.Outputs)
		}
		require.NoError(t, e.Close())
	})
}

// take makes what a sequence gave what it must give.
func (q *Sequence) take(r Result) {
	q.Pooled, q.TokenVectors, q.Sparse = float64s(r.Pooled), float64s(r.TokenVectors), float64s(r.Sparse)
}

// largest fills a batch up to the limits of tokens and of sequences with copies of one sequence.
func largest(t *testing.T, e engine.Engine, q Sequence, same func(*testing.T, engine.Slot, []Sequence, engine.Outputs)) {
	l := e.Info().Limits
	var full []Sequence
	for range min(l.MaxSequences, l.MaxTokens/len(q.IDs)) {
		full = append(full, q)
	}
	same(t, e.Slots()[0], full, e.Info().Outputs)

	one := Sequence{IDs: q.IDs[:1], Types: q.Types[:1], Positions: q.Positions[:1]}
	many := make([]Sequence, l.MaxSequences)
	for i := range min(l.MaxSequences, l.MaxTokens) {
		many[i] = one
	}
	same(t, e.Slots()[0], many, e.Info().Outputs&^engine.TokenVectors)
}
