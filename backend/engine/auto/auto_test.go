package auto

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watched is a mock whose runs and closing are counted, and whose description can be changed.
type watched struct {
	*mock.Engine
	info   engine.Info
	slots  []engine.Slot
	runs   atomic.Int64
	closed int
}

type watchedSlot struct {
	engine.Slot
	owner *watched
}

func (s watchedSlot) Run(ctx context.Context) (engine.Output, error) {
	s.owner.runs.Add(1)
	return s.Slot.Run(ctx)
}

func (w *watched) Info() engine.Info    { return w.info }
func (w *watched) Slots() []engine.Slot { return w.slots }
func (w *watched) Close() error         { w.closed++; return w.Engine.Close() }

func watch(c mock.Config, slots int, l engine.Limits) *watched {
	c.Dimensions, c.VocabSize = 8, 100
	w := &watched{Engine: mock.Open(c, slots, l)}
	w.info = w.Engine.Info()
	for _, s := range w.Engine.Slots() {
		w.slots = append(w.slots, watchedSlot{s, w})
	}
	return w
}

var (
	tables    = Tables{Vocab: 100, Types: 2}
	fourK     = engine.Limits{MaxTokens: 4096, MaxSequences: 64}
	cheapRun  = mock.Config{RunMicros: 500, TokenMicros: 5}
	cheapRows = mock.Config{RunMicros: 6500, TokenMicros: 1}
)

func silent(string) {}

func pairOf(a, b engine.Engine, tokens int) *Pair {
	return newPair([2]Candidate{{"a", a}, {"b", b}}, tokens, silent)
}

// fillWith makes b a batch of sequences of these lengths.
func fillWith(b *engine.Batch, lengths ...int) {
	b.Reset()
	for _, n := range lengths {
		for k := range n {
			b.InputIDs, b.TypeIDs, b.PositionIDs = append(b.InputIDs, int32((n*7+k)%100)), append(b.TypeIDs, 0), append(b.PositionIDs, int32(k))
		}
		b.EndSequence(engine.Pooled, 0)
	}
}

// TestCrossing finds 500 + 5t = 6500 + t, between the measured sizes, whichever engine comes first.
func TestCrossing(t *testing.T) {
	for _, turned := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			a, b := watch(cheapRun, 2, fourK), watch(cheapRows, 2, fourK)
			candidates := [2]Candidate{{"tensorrt", a}, {"onnxruntime", b}}
			if turned {
				candidates[0], candidates[1] = candidates[1], candidates[0]
			}
			e, choice, err := Open(t.Context(), candidates, tables, silent)
			require.NoError(t, err)
			require.Equal(t, "tensorrt up to 1500 tokens a run, onnxruntime above (1x32: 0.66 / 6.53 ms, 1x128: 1.14 / 6.63 ms, 1x256: 1.78 / 6.76 ms, "+
				"8x64: 3.06 / 7.01 ms, 8x128: 5.62 / 7.52 ms, 8x256: 10.7 / 8.55 ms, 32x128: 21.0 / 10.6 ms)", choice)
			info := e.Info()
			require.Equal(t, "tensorrt+onnxruntime", info.Name)
			require.Equal(t, "cpu", info.Device)
			require.Equal(t, "float32", info.Precision)
			require.Equal(t, "tensorrt up to 1500 tokens a run, onnxruntime above", info.Details["choice"])
			require.Equal(t, "tensorrt 1.14 ms, onnxruntime 6.63 ms", info.Details["choice.1x128"])
			require.Len(t, e.Slots(), 2)

			s := e.Slots()[1]
			for _, c := range []struct{ n, small int }{{1, 1}, {5, 1}, {6, 0}, {16, 0}} { // of 256 tokens each
				before := [2]int64{a.runs.Load(), b.runs.Load()}
				fillWith(s.Batch(), lengths(c.n, 256)...)
				_, err := s.Run(t.Context())
				require.NoError(t, err)
				require.Equal(t, []int64{int64(c.small), int64(1 - c.small)}, []int64{a.runs.Load() - before[0], b.runs.Load() - before[1]}, c.n)
			}
			require.NoError(t, e.Close())
			require.Equal(t, []int{1, 1}, []int{a.closed, b.closed})
		})
	}
}

func lengths(n, length int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = length
	}
	return all
}

func TestOneIsFasterThroughout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, fast := watch(mock.Config{RunMicros: 900, TokenMicros: 6}, 1, fourK), watch(cheapRun, 1, fourK)
		e, choice, err := Open(t.Context(), [2]Candidate{{"tensorrt", slow}, {"onnxruntime", fast}}, tables, silent)
		require.NoError(t, err)
		require.Same(t, fast, e)
		require.Regexp(t, `^onnxruntime, as fast as tensorrt or faster \(1x32: 0.66 / 1.09 ms, .*\)$`, choice)
		require.Equal(t, []int{1, 0}, []int{slow.closed, fast.closed})
	})
}

// TestDifferentResults: precisions and outputs must not depend on the size of a run.
func TestDifferentResults(t *testing.T) {
	for reason, change := range map[string]func(*engine.Info){
		"one computes in bfloat16, the other in float32":                          func(i *engine.Info) { i.Precision = "bfloat16" },
		"one computes in TF32, the other in float32":                              func(i *engine.Info) { i.Details = map[string]string{"products": "TF32"} },
		"their outputs are not the same (0x3 and 0x7; 8, 8, 100 and 8, 8, 100 co": func(i *engine.Info) { i.Outputs &^= engine.Sparse },
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b := watch(cheapRun, 1, fourK), watch(cheapRows, 1, fourK)
			change(&a.info)
			e, choice, err := Open(t.Context(), [2]Candidate{{"tensorrt", a}, {"onnxruntime", b}}, tables, silent)
			require.NoError(t, err)
			require.Same(t, a, e)
			require.Contains(t, choice, "tensorrt, the faster one over all sizes (1x32: 0.66 / 6.53 ms")
			require.Contains(t, choice, "onnxruntime is not used for some of them, since "+reason)
			require.Equal(t, []int{0, 1}, []int{a.closed, b.closed})
		})
	}
}

// bent gives other vectors than the engine that it wraps.
type bent struct {
	engine.Slot
	bend func(row []float32)
}

func (s bent) Run(ctx context.Context) (engine.Output, error) {
	out, err := s.Slot.Run(ctx)
	if s.bend(out.Pooled); len(out.TokenVectors) > 0 {
		s.bend(out.TokenVectors)
	}
	return out, err
}

// TestWrongVectors: the faster engine computes something else, so that it is not used.
func TestWrongVectors(t *testing.T) {
	for name, bend := range map[string]func([]float32){
		"signs": func(r []float32) { r[0], r[1], r[2] = -r[0], -r[1], -r[2] },
		"a NaN": func(r []float32) { r[5] = float32(math.NaN()) },
		"a batch of eight": func(r []float32) { // of width 8, as an engine does that has one bad shape
			if len(r) == 8*8 {
				r[11] = -r[11]
			}
		},
		"nothing": func([]float32) {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fast, slow := watch(mock.Config{RunMicros: 100, TokenMicros: 1}, 1, fourK), watch(cheapRun, 1, fourK)
				fast.slots[0] = bent{fast.slots[0], bend}
				var told []string
				e, choice, err := Open(t.Context(), [2]Candidate{{"tensorrt", fast}, {"onnxruntime", slow}}, tables, func(m string) { told = append(told, m) })
				require.NoError(t, err)
				if name == "nothing" {
					require.Same(t, fast, e)
					require.Empty(t, told)
				} else {
					require.Same(t, slow, e)
					require.Contains(t, choice, "onnxruntime; tensorrt: not used: its vectors are not those of onnxruntime: the least cosine is ")
					require.Equal(t, 1, fast.closed)
					require.Len(t, told, 1)
				}
				require.NoError(t, e.Close())
			})
		})
	}
}

// TestComparingFails: an engine that fails only then leaves the other one in use.
func TestComparingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runs := func() *watched { return watch(mock.Config{RunMicros: 100, TokenMicros: 1}, 1, fourK) }
		counted := runs()
		_, err := Measure(t.Context(), counted, shapes(counted.info.Limits), tables)
		require.NoError(t, err)
		require.NoError(t, counted.Close())
		last := int(counted.runs.Load()) + 1
		a, b := watch(mock.Config{RunMicros: 100, TokenMicros: 1, Faults: []mock.Fault{{Kind: mock.Error, From: last}}}, 1, fourK), runs()
		e, choice, err := Open(t.Context(), [2]Candidate{{"tensorrt", a}, {"onnxruntime", b}}, tables, silent)
		require.NoError(t, err)
		require.Same(t, b, e)
		require.Contains(t, choice, "onnxruntime; tensorrt: not used: comparing the vectors: mock: run")
		require.Equal(t, []int{1, 0}, []int{a.closed, b.closed})
		require.NoError(t, e.Close())
	})
}

// TestNumbersThatAreNotFinite: the engine that is believed otherwise is not, where only its numbers are NaN.
func TestNumbersThatAreNotFinite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fine, broken := watch(cheapRun, 1, fourK), watch(cheapRun, 1, fourK)
		broken.slots[0] = bent{broken.slots[0], func(r []float32) { r[5] = float32(math.Inf(1)) }}
		e, choice, err := Open(t.Context(), [2]Candidate{{"tensorrt", fine}, {"onnxruntime", broken}}, tables, silent)
		require.NoError(t, err)
		require.Same(t, fine, e)
		require.Contains(t, choice, "tensorrt; onnxruntime: not used: its vectors hold NaN or infinity where those of tensorrt do not")
		require.Equal(t, []int{0, 1}, []int{fine.closed, broken.closed})
		require.NoError(t, e.Close())
	})
}

func TestMeasuringFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := mock.Config{Faults: []mock.Fault{{Kind: mock.Error, From: 20}}}
		a, b := watch(broken, 1, fourK), watch(cheapRows, 1, fourK)
		var logged []string
		e, choice, err := Open(t.Context(), [2]Candidate{{"tensorrt", a}, {"onnxruntime", b}}, tables, func(m string) { logged = append(logged, m) })
		require.NoError(t, err)
		require.Same(t, b, e)
		require.Equal(t, "onnxruntime; tensorrt: not used: measuring a run of 1x256: mock: run 20 fails as scripted", choice)
		require.Equal(t, []string{"engine tensorrt is not used: measuring a run of 1x256: mock: run 20 fails as scripted"}, logged)
		require.Equal(t, []int{1, 0}, []int{a.closed, b.closed})

		a, b = watch(broken, 1, fourK), watch(broken, 1, fourK)
		_, _, err = Open(t.Context(), [2]Candidate{{"tensorrt", a}, {"onnxruntime", b}}, tables, silent)
		require.Equal(t, status.Inference, status.CodeOf(err))
		require.ErrorContains(t, err, "tensorrt: measuring a run of 1x256: mock: run 20 fails as scripted; onnxruntime: measuring")
		require.Equal(t, []int{1, 1}, []int{a.closed, b.closed})

		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		a, b = watch(cheapRun, 1, fourK), watch(cheapRows, 1, fourK)
		_, _, err = Open(ctx, [2]Candidate{{"tensorrt", a}, {"onnxruntime", b}}, tables, silent)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, status.Cancelled, status.CodeOf(err))
		require.Equal(t, []int{1, 1}, []int{a.closed, b.closed})
	})
}

func TestMeasure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := watch(mock.Config{RunMicros: 1000, TokenMicros: 1000, Faults: []mock.Fault{{Kind: mock.Slow, From: 3, DelayMS: 50, Count: 3}}}, 1, fourK)
		times, err := Measure(t.Context(), e, []Shape{{1, 32}, {8, 64}}, tables)
		require.NoError(t, err)
		require.Equal(t, []time.Duration{33 * time.Millisecond, 513 * time.Millisecond}, times, "the median, not the mean")
		require.EqualValues(t, 2+7+2+1, e.runs.Load(), "long runs are measured less often")
		require.Zero(t, e.Slots()[0].Batch().Tokens())
	})
	b := engine.NewBatch(fourK)
	fill(b, Shape{8, 64}, Tables{Vocab: 7, Types: 1, FirstPosition: 2}, engine.Pooled)
	require.NoError(t, b.Validate(engine.Limits{MaxTokens: 512, MaxSequences: 8, MaxLength: 64}, 7, 1, 66))
	require.Equal(t, []int{8, 512, 64}, []int{b.Sequences(), b.Tokens(), b.MaxLength})
}

func TestShapes(t *testing.T) {
	require.Equal(t, []Shape{{1, 32}, {1, 128}, {1, 512}, {8, 64}, {8, 128}, {8, 512}, {32, 128}, {32, 512}},
		shapes(engine.Limits{MaxTokens: 16384, MaxSequences: 256, MaxLength: 8192}))
	require.Equal(t, []Shape{{1, 16}, {8, 16}}, shapes(engine.Limits{MaxTokens: 511, MaxSequences: 256, MaxLength: 16}))
	require.Equal(t, []Shape{{1, 1}}, shapes(engine.Limits{MaxTokens: 1, MaxSequences: 1, MaxLength: 1}))
}

func measured(ms ...[2]float64) []measurement {
	sizes := []Shape{{1, 32}, {1, 128}, {1, 512}, {8, 64}, {8, 128}, {8, 512}, {32, 128}, {32, 512}}
	var all []measurement
	for i, m := range ms {
		all = append(all, measurement{sizes[i], [2]time.Duration{time.Duration(m[0] * 1e6), time.Duration(m[1] * 1e6)}})
	}
	return all
}

func TestChoose(t *testing.T) {
	for name, c := range map[string]struct {
		all    []measurement
		want   rule
		single int
	}{
		"an h100": {measured([2]float64{0.61, 1.81}, [2]float64{0.7, 1.8}, [2]float64{1, 1.9}, [2]float64{0.9, 1.9}, [2]float64{1.2, 2}, [2]float64{3.4, 2.9},
			[2]float64{3, 2.8}, [2]float64{12.9, 8.4}), rule{small: 0, tokens: 1024 + 3072*8*100/(8*100+35*10)}, 0},
		"always the same": {measured([2]float64{1, 1}, [2]float64{2, 2}, [2]float64{3, 3}), rule{alone: true}, 0},
		"nothing gained":  {measured([2]float64{1, 1.04}, [2]float64{2, 2.08}, [2]float64{3, 2}), rule{small: 1, alone: true}, 1},
		"noise inside": {measured([2]float64{1, 2}, [2]float64{1.1, 1}, [2]float64{1, 2}, [2]float64{1, 2}, [2]float64{4, 3}),
			rule{small: 0, tokens: 512 + 256}, 0},
		"two of as many tokens, of which each wins one": {measured([2]float64{2, 1}, [2]float64{2, 1}, [2]float64{1, 2}, [2]float64{2, 1}, [2]float64{1, 2}),
			rule{small: 1, tokens: 512}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			got, single := choose(c.all)
			require.Equal(t, c.want.alone, got.alone)
			require.Equal(t, c.want.small, got.small)
			require.InDelta(t, c.want.tokens, got.tokens, 30)
			require.Equal(t, c.single, single)
		})
	}
}
