package mock

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const all = engine.Pooled | engine.TokenVectors | engine.Sparse

func open(t testing.TB, c Config) *Engine {
	e := Open(c, 1, engine.Limits{})
	require.NoError(t, e.Health())
	return e
}

// fill puts sequences into b, which want all outputs.
func fill(b *engine.Batch, sequences ...[]int32) {
	b.Reset()
	for _, s := range sequences {
		for k, id := range s {
			b.InputIDs, b.TypeIDs, b.PositionIDs = append(b.InputIDs, id), append(b.TypeIDs, 0), append(b.PositionIDs, int32(k))
		}
		b.EndSequence(all, 0)
	}
}

func run(t testing.TB, s engine.Slot, sequences ...[]int32) engine.Output {
	fill(s.Batch(), sequences...)
	out, err := s.Run(context.Background())
	require.NoError(t, err)
	return out
}

func TestDefaults(t *testing.T) {
	e := open(t, Config{})
	require.Equal(t, Config{Kind: Embedding, Dimensions: 384, Labels: 2, VocabSize: 30522, TypeVocab: 2, MaxLength: 256}, e.Config())
	require.Equal(t, engine.Info{Name: "mock", Version: "1", Device: "cpu", Precision: "float32", Outputs: all,
		Limits:      engine.Limits{MaxTokens: 16384, MaxSequences: 512, MaxLength: 256, BestTokens: 1024},
		PooledWidth: 384, TokenWidth: 384, SparseWidth: 30522}, e.Info())
	require.Len(t, e.Slots(), 1)
	require.NoError(t, e.Close())
	require.NoError(t, e.Close())
}

func TestLimits(t *testing.T) {
	e := Open(Config{MaxLength: 100, Padded: true}, 3, engine.Limits{MaxTokens: 200, MaxSequences: 7, MaxLength: 500, BestTokens: 150})
	require.Len(t, e.Slots(), 3)
	require.Equal(t, engine.Limits{MaxTokens: 200, MaxSequences: 7, MaxLength: 100, BestTokens: 150, Padded: true}, e.Info().Limits)

	e = Open(Config{MaxLength: 100_000}, 1, engine.Limits{})
	require.Equal(t, 100_000, e.Info().Limits.MaxTokens, "one item always fits")
	e = Open(Config{MaxLength: 10}, 1, engine.Limits{MaxTokens: 20})
	require.Equal(t, engine.Limits{MaxTokens: 20, MaxSequences: 20, MaxLength: 10, BestTokens: 20}, e.Info().Limits)

	e = Open(Config{MaxLength: 100}, 1, engine.Limits{MaxTokens: 99, BestTokens: 500})
	require.Equal(t, engine.Limits{MaxTokens: 99, MaxSequences: 99, MaxLength: 99, BestTokens: 99}, e.Info().Limits)
	e = Open(Config{}, 1, engine.Limits{BestTokens: 20_000})
	require.Equal(t, 20_000, e.Info().Limits.MaxTokens)
}

func TestKinds(t *testing.T) {
	e := open(t, Config{Kind: Classifier, Labels: 3})
	require.Equal(t, engine.Pooled, e.Info().Outputs)
	out := run(t, e.Slots()[0], []int32{1, 2}, []int32{3})
	require.Len(t, out.Pooled, 6)
	require.Nil(t, out.TokenVectors)
	require.Nil(t, out.Sparse)

	e = open(t, Config{Kind: TokenClassifier, Labels: 3})
	require.Equal(t, engine.TokenVectors, e.Info().Outputs)
	out = run(t, e.Slots()[0], []int32{1, 2}, []int32{3})
	require.Nil(t, out.Pooled)
	require.Len(t, out.TokenVectors, 9)
}

// TestVectors: the same sequence gives the same rows alone and in any batch, others give other rows, all within [-1, 1).
func TestVectors(t *testing.T) {
	e := open(t, Config{Dimensions: 8, VocabSize: 50})
	alone := run(t, e.Slots()[0], []int32{5, 6, 7})
	other := open(t, Config{Dimensions: 8, VocabSize: 50})
	batch := run(t, other.Slots()[0], []int32{9}, nil, []int32{5, 6, 7}, []int32{7, 6, 5})
	require.Len(t, batch.Pooled, 4*8)
	require.Len(t, batch.TokenVectors, 7*8)
	require.Len(t, batch.Sparse, 4*50)
	require.Equal(t, alone.Pooled, batch.Pooled[16:24])
	require.Equal(t, alone.TokenVectors, batch.TokenVectors[8:32])
	require.Equal(t, alone.Sparse, batch.Sparse[100:150])
	require.NotEqual(t, batch.Pooled[16:24], batch.Pooled[24:32], "order counts")
	require.Equal(t, make([]float32, 8), batch.Pooled[8:16], "no tokens, no vector")
	for k := range 8 {
		var sum float64
		for row := range 3 {
			v := alone.TokenVectors[row*8+k]
			require.True(t, v >= -1 && v < 1)
			sum += float64(v)
		}
		require.InDelta(t, sum/3, alone.Pooled[k], 1e-6, "pooled is the mean")
	}
	for id, v := range alone.Sparse {
		require.Equal(t, id >= 5 && id <= 7, v != 0)
		require.GreaterOrEqual(t, v, float32(0))
	}

	// Types and positions count, too; a smaller batch reuses the memory.
	b := e.Slots()[0].Batch()
	fill(b, []int32{5, 6, 7})
	b.TypeIDs[0] = 1
	typed, err := e.Slots()[0].Run(context.Background())
	require.NoError(t, err)
	require.NotEqual(t, batch.Pooled[16:24], typed.Pooled)
}

func TestOutputsAsAsked(t *testing.T) {
	e := open(t, Config{Dimensions: 4})
	b := e.Slots()[0].Batch()
	for _, want := range []engine.Outputs{engine.Pooled, engine.TokenVectors, engine.Sparse} {
		fill(b, []int32{1})
		b.Outputs = want
		out, err := e.Slots()[0].Run(context.Background())
		require.NoError(t, err)
		require.Equal(t, want == engine.Pooled, out.Pooled != nil)
		require.Equal(t, want == engine.TokenVectors, out.TokenVectors != nil)
		require.Equal(t, want == engine.Sparse, out.Sparse != nil)
	}
}

func TestCost(t *testing.T) {
	for _, c := range []struct {
		padded bool
		want   time.Duration
	}{{false, 1000*time.Microsecond + 4*10*time.Microsecond}, {true, 1000*time.Microsecond + 6*10*time.Microsecond}} {
		synctest.Test(t, func(t *testing.T) {
			e := open(t, Config{Dimensions: 1, RunMicros: 1000, TokenMicros: 10, Padded: c.padded})
			begun := time.Now()
			run(t, e.Slots()[0], []int32{1, 2, 3}, []int32{1})
			require.Equal(t, c.want, time.Since(begun))

			ctx, cancel := context.WithTimeout(context.Background(), time.Microsecond)
			defer cancel()
			_, err := e.Slots()[0].Run(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Equal(t, c.want+time.Microsecond, time.Since(begun), "a run that is told to stop stops")
		})
	}
}

func TestFaults(t *testing.T) {
	seven := int32(7)
	ok, bad := []int32{1, 2}, []int32{7}
	for _, c := range []struct {
		name  string
		fault Fault
		// of four runs, of which the third holds token 7
		took  [4]time.Duration
		codes [4]status.Code
	}{
		{"slow", Fault{Kind: Slow, From: 2, Count: 2, DelayMS: 5}, [4]time.Duration{0, 5 * time.Millisecond, 5 * time.Millisecond, 0}, [4]status.Code{}},
		{"slow in all", Fault{Kind: Slow, DelayMS: 1}, [4]time.Duration{time.Millisecond, time.Millisecond, time.Millisecond, time.Millisecond}, [4]status.Code{}},
		{"hung", Fault{Kind: Hung, From: 1, Count: 1}, [4]time.Duration{time.Second}, [4]status.Code{status.Internal}},
		{"stuck", Fault{Kind: Stuck, From: 4, Count: 1, DelayMS: 3000}, [4]time.Duration{0, 0, 0, 3 * time.Second}, [4]status.Code{0, 0, 0, status.Internal}},
		{"error", Fault{Kind: Error, From: 2, Count: 1}, [4]time.Duration{}, [4]status.Code{0, status.Inference}},
		{"bad item", Fault{Kind: BadItem, TokenID: &seven}, [4]time.Duration{}, [4]status.Code{0, 0, status.Inference, 0}},
		{"slow with a token", Fault{Kind: Slow, TokenID: &seven, DelayMS: 2}, [4]time.Duration{0, 0, 2 * time.Millisecond, 0}, [4]status.Code{}},
		{"error with a token", Fault{Kind: Error, TokenID: &seven, Count: 1}, [4]time.Duration{}, [4]status.Code{0, 0, status.Inference, 0}},
		{"a token's second run", Fault{Kind: Error, TokenID: &seven, From: 2}, [4]time.Duration{}, [4]status.Code{}},
		{"bad item without a token", Fault{Kind: BadItem}, [4]time.Duration{}, [4]status.Code{}},
		{"lost", Fault{Kind: Lost, From: 2, Count: 1}, [4]time.Duration{}, [4]status.Code{0, status.Unhealthy, status.Unhealthy, status.Unhealthy}},
		{"from without count", Fault{Kind: Error, From: 3}, [4]time.Duration{}, [4]status.Code{0, 0, status.Inference, status.Inference}},
		{"count without from", Fault{Kind: Error, Count: 2}, [4]time.Duration{}, [4]status.Code{status.Inference, status.Inference}},
	} {
		synctest.Test(t, func(t *testing.T) {
			e := open(t, Config{Dimensions: 1, Faults: []Fault{c.fault}})
			for i := range 4 {
				sequences := [][]int32{ok, ok}
				if i == 2 {
					sequences[1] = bad
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				begun := time.Now()
				fill(e.Slots()[0].Batch(), sequences...)
				_, err := e.Slots()[0].Run(ctx)
				cancel()
				require.Equal(t, c.codes[i], status.CodeOf(err), "%s, run %d: %v", c.name, i+1, err)
				require.Equal(t, c.took[i], time.Since(begun), "%s, run %d", c.name, i+1)
			}
			require.Equal(t, c.fault.Kind == Lost, e.Health() != nil)
		})
	}
	e := open(t, Config{Faults: []Fault{{Kind: Panic}}})
	require.PanicsWithValue(t, "mock: scripted panic", func() { _, _ = e.Slots()[0].Run(context.Background()) })
}

// TestUntilFile holds runs for as long as the test wants.
func TestUntilFile(t *testing.T) {
	for kind, returns := range map[string]time.Duration{Slow: time.Second, Stuck: 3 * time.Second} {
		release := filepath.Join(t.TempDir(), "release")
		synctest.Test(t, func(t *testing.T) {
			e := open(t, Config{Dimensions: 1, Faults: []Fault{{Kind: kind, UntilFile: release}}})
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			begun := time.Now()
			fill(e.Slots()[0].Batch(), []int32{1})
			go func() {
				time.Sleep(3*time.Second - time.Microsecond) // runs look each millisecond
				require.NoError(t, os.WriteFile(release, nil, 0o600))
			}()
			_, err := e.Slots()[0].Run(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded, kind)
			require.Equal(t, returns, time.Since(begun))
			time.Sleep(3 * time.Second)
			_, err = e.Slots()[0].Run(context.Background()) // the file is there
			require.NoError(t, err)
			require.Equal(t, returns+3*time.Second, time.Since(begun))
		})
	}
}

func TestNaN(t *testing.T) {
	seven := int32(7)
	for _, token := range []*int32{nil, &seven} {
		e := open(t, Config{Dimensions: 2, VocabSize: 10, Faults: []Fault{{Kind: NaN, TokenID: token}}})
		out := run(t, e.Slots()[0], []int32{1, 2}, []int32{7}, []int32{3})
		for i, first := range []int{0, 2, 3} { // first token of the sequence
			want := token == nil || i == 1
			for _, v := range []float32{out.Pooled[i*2], out.TokenVectors[first*2], out.Sparse[i*10]} {
				require.Equal(t, want, math.IsNaN(float64(v)), "sequence %d", i)
			}
		}
	}
	// Of outputs that are not asked for there is nothing to spoil.
	e := open(t, Config{Dimensions: 2, Faults: []Fault{{Kind: NaN}}})
	b := e.Slots()[0].Batch()
	fill(b, []int32{1}, []int32{2})
	b.Outputs = engine.Pooled
	_, err := e.Slots()[0].Run(context.Background())
	require.NoError(t, err)
}

func TestSlotsRunConcurrently(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := Open(Config{Dimensions: 1, RunMicros: 1000}, 4, engine.Limits{})
		begun := time.Now()
		var runs sync.WaitGroup
		for _, s := range e.Slots() {
			runs.Go(func() { run(t, s, []int32{1, 2, 3}) })
		}
		runs.Wait()
		require.Equal(t, time.Millisecond, time.Since(begun))
	})
}

func TestStats(t *testing.T) {
	e := open(t, Config{Padded: true, Faults: []Fault{{Kind: Error, From: 2, Count: 1}, {Kind: Lost, From: 4}}})
	s := e.Slots()[0]
	run(t, s, []int32{1, 2, 3}, []int32{4})
	_, err := s.Run(context.Background())
	require.Error(t, err)
	run(t, s, []int32{1, 2})
	want := engine.Stats{Engine: "mock", Runs: 2, Launches: 2, Tokens: 6, PaddingTokens: 2, Replicas: []engine.Replica{{Device: "cpu", Serving: true}}}
	require.Equal(t, []engine.Stats{want}, e.Stats())
	_, err = s.Run(context.Background())
	require.Error(t, err)
	want.Replicas[0].Serving = false
	require.Equal(t, []engine.Stats{want}, e.Stats())
}
