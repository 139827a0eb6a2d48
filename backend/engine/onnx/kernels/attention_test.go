package kernels_test

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels/kerneltest"
)

// eachLevel runs a test at every level that this CPU has. Tests of this package do not run in parallel, since the level
// is the process's.
func eachLevel(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	before := kernels.Level()
	defer func() { require.NoError(t, kernels.SetLevel(before)) }()
	for _, level := range []string{"scalar", "vec128", "avx2"} {
		if err := kernels.SetLevel(level); err != nil {
			t.Logf("not tested here: %v", err)
			continue
		}
		t.Run(level, test)
	}
}

func run(a *kerneltest.Attention, threads int) []float32 {
	out := make([]float32, a.TotalTokens*a.Heads*a.Dim)
	for i := range out {
		out[i] = float32(math.NaN()) // whatever is not written shows
	}
	a.Run(out, threads)
	return out
}

func requireClose(t *testing.T, want []float64, got []float32, tolerance float64) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		if d := math.Abs(want[i] - float64(got[i])); !(d <= tolerance*max(1, math.Abs(want[i]))) {
			require.Failf(t, "too far", "element %d: %v, want %v (off by %.2g)", i, got[i], want[i], d)
		}
	}
}

func withRope(a *kerneltest.Attention, kind, dim int) {
	const positions = 300
	a.Rope, a.RopeDim = kind, dim
	for p := range positions {
		for i := range dim / 2 {
			angle := float64(p) * math.Pow(10000, -2*float64(i)/float64(dim))
			a.RopeCos = append(a.RopeCos, float32(math.Cos(angle)))
			a.RopeSin = append(a.RopeSin, float32(math.Sin(angle)))
		}
	}
	for s := range len(a.CuSeqlens) - 1 {
		for i := a.CuSeqlens[s]; i < a.CuSeqlens[s+1]; i++ {
			a.Positions = append(a.Positions, i-a.CuSeqlens[s]+2)
		}
	}
}

// Everything at once, as far as head_dim lets it.
func withAll(random *rand.Rand, a *kerneltest.Attention) {
	a.Bias = normal(random, (a.Heads+2*a.KVHeads)*a.Dim)
	a.QKNorm, a.QKNormEps, a.OnePlusWeight = kerneltest.NormRMS, 1e-6, true
	a.QWeight, a.KWeight = normal(random, a.Dim), normal(random, a.Dim)
	if a.Dim >= 2 {
		withRope(a, kerneltest.RopeHalf, a.Dim/2*2)
	}
	a.Causal, a.Left, a.Softcap = true, 70, 5
	a.Slopes = normal(random, a.Heads)
	for i := range a.Slopes {
		a.Slopes[i] = float32(math.Abs(float64(a.Slopes[i]))) / 8
	}
	a.RelativeMax, a.RelativeBias = 9, normal(random, a.Heads*19)
}

// withPlaces adds disentangled attention: rows for distances up to most.
func withPlaces(random *rand.Rand, a *kerneltest.Attention, rows, most int) {
	a.PlaceKeys, a.PlaceQueries, a.PlaceMax = normal(random, rows*a.Heads*a.Dim), normal(random, rows*a.Heads*a.Dim), most
	for range 2*most + 1 {
		a.PlaceRows = append(a.PlaceRows, random.Int31n(int32(rows)))
	}
}

var awkward = []int{0, 1, 2, 3, 31, 0, 24, 25, 257, 0}

func TestAttentionAgainstReference(t *testing.T) {
	type attention = kerneltest.Attention
	type setup func(*rand.Rand, *attention)
	type shape struct{ heads, kv, dim int }
	cases := map[string]struct {
		shape
		setup
	}{
		"bias": {shape{2, 2, 32}, func(r *rand.Rand, a *attention) { a.Bias = normal(r, 6*32) }},
		"layer qk-norm": {shape{2, 1, 33}, func(r *rand.Rand, a *attention) {
			a.QKNorm, a.QKNormEps = kerneltest.NormLayer, 1e-5
			a.QWeight, a.KWeight = normal(r, 33), normal(r, 33)
			a.QNormBias, a.KNormBias = normal(r, 33), normal(r, 33)
		}},
		"rms qk-norm": {shape{2, 1, 20}, func(r *rand.Rand, a *attention) {
			a.QKNorm, a.QKNormEps = kerneltest.NormRMS, 1e-6
		}},
		"rope half": {shape{2, 2, 64}, func(_ *rand.Rand, a *attention) {
			withRope(a, kerneltest.RopeHalf, 64)
		}},
		"rope interleaved": {shape{2, 2, 20}, func(_ *rand.Rand, a *attention) {
			withRope(a, kerneltest.RopeInterleaved, 20)
		}},
		"rope partial": {shape{2, 1, 33}, func(_ *rand.Rand, a *attention) {
			withRope(a, kerneltest.RopeHalf, 14)
		}},
		"rope partial int": {shape{2, 1, 33}, func(_ *rand.Rand, a *attention) {
			withRope(a, kerneltest.RopeInterleaved, 14)
		}},
		"causal": {shape{4, 2, 32}, func(_ *rand.Rand, a *attention) { a.Causal = true }},
		"window": {shape{2, 2, 32}, func(_ *rand.Rand, a *attention) {
			a.Left, a.Right = 20, 7
		}},
		"window 0": {shape{2, 2, 32}, func(_ *rand.Rand, a *attention) {
			a.Left, a.Right = 0, 0
		}},
		"window left":  {shape{2, 2, 32}, func(_ *rand.Rand, a *attention) { a.Left = 64 }},
		"window right": {shape{2, 2, 32}, func(_ *rand.Rand, a *attention) { a.Right = 130 }},
		"causal window": {shape{2, 2, 32}, func(_ *rand.Rand, a *attention) {
			a.Causal, a.Left, a.Right = true, 3, 9
		}},
		"softcap": {shape{2, 2, 32}, func(_ *rand.Rand, a *attention) {
			a.Softcap, a.Scale = 3, 1
		}},
		"alibi": {shape{2, 2, 32}, func(_ *rand.Rand, a *attention) {
			a.Slopes = []float32{0.25, 0.004}
		}},
		"relative bias": {shape{2, 1, 32}, func(r *rand.Rand, a *attention) {
			a.RelativeMax, a.RelativeBias = 16, normal(r, 66)
		}},
		"relative bias 0": {shape{2, 1, 32}, func(r *rand.Rand, a *attention) {
			a.RelativeBias = normal(r, 2)
		}},
		"places": {shape{3, 3, 20}, func(r *rand.Rand, a *attention) {
			withPlaces(r, a, 70, 140)
			a.Bias = normal(r, 9*20)
		}},
		"places of keys": {shape{2, 2, 33}, func(r *rand.Rand, a *attention) {
			withPlaces(r, a, 5, 3)
			a.PlaceQueries = nil
		}},
		"places of queries, softcap, window": {shape{2, 2, 7}, func(r *rand.Rand, a *attention) {
			withPlaces(r, a, 300, 260)
			a.PlaceKeys, a.Softcap, a.Left, a.Right = nil, 4, 90, 40
		}},
		"places and all": {shape{2, 2, 64}, func(r *rand.Rand, a *attention) {
			withAll(r, a)
			withPlaces(r, a, 30, 0)
		}},
		"large scores":  {shape{2, 2, 32}, func(_ *rand.Rand, a *attention) { a.Scale = 20 }},
		"multi-query":   {shape{7, 1, 20}, func(_ *rand.Rand, _ *attention) {}},
		"group of five": {shape{10, 2, 32}, withAll},
	}
	for _, dim := range []int{1, 7, 20, 32, 33, 64, 80, 128, 256} {
		cases[fmt.Sprintf("dim %d", dim)] = struct {
			shape
			setup
		}{shape{2, 2, dim}, func(_ *rand.Rand, _ *kerneltest.Attention) {}}
		cases[fmt.Sprintf("dim %d, all", dim)] = struct {
			shape
			setup
		}{shape{3, 1, dim}, withAll}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewSource(7))
			a := newAttention(random, awkward, c.heads, c.kv, c.dim)
			c.setup(random, a)
			want := refAttention(a)
			eachLevel(t, func(t *testing.T) {
				tolerance := 5e-6
				if a.Scale == 20 {
					tolerance = 2e-4 // a score of 300 has an error of 2e-5 in fp32, and so have the weights
				}
				requireClose(t, want, run(a, 1), tolerance)
			})
		})
	}
}

func TestAttentionIsTheSameAloneBatchedAndParallel(t *testing.T) {
	random := rand.New(rand.NewSource(3))
	for _, shape := range [][3]int{{12, 12, 32}, {6, 1, 20}} {
		heads, kv, dim := shape[0], shape[1], shape[2]
		lengths := []int{5, 300, 0, 41, 1, 129}
		for _, all := range []bool{false, true} {
			a := newAttention(random, lengths, heads, kv, dim)
			if all {
				withAll(random, a)
			}
			eachLevel(t, func(t *testing.T) {
				batched := run(a, 1)
				for _, threads := range []int{2, 3, 16} {
					require.Equal(t, batched, run(a, threads), "%d threads", threads)
				}
				for s, n := range lengths {
					from, width := int(a.CuSeqlens[s]), (heads+2*kv)*dim
					alone := *a
					alone.CuSeqlens, alone.TotalTokens = []int32{0, int32(n)}, n
					alone.QKV = a.QKV[from*width : (from+n)*width]
					if a.Positions != nil {
						alone.Positions = a.Positions[from:]
					}
					require.Equal(t, batched[from*heads*dim:(from+n)*heads*dim], run(&alone, 2), "sequence %d", s)
				}
			})
		}
	}
}

func TestAttentionRowsOutsideSequencesAreZero(t *testing.T) {
	a := newAttention(rand.New(rand.NewSource(3)), []int{4, 9}, 2, 2, 20)
	a.CuSeqlens = []int32{0, 4}
	eachLevel(t, func(t *testing.T) {
		require.Equal(t, make([]float32, 9*40), run(a, 2)[4*40:])
	})
	a.CuSeqlens = []int32{0}
	require.Equal(t, make([]float32, 13*40), run(a, 2))
	a.TotalTokens = 0
	require.Empty(t, run(a, 2))
}

func TestAttentionKeepsNonFiniteValuesInTheirSequence(t *testing.T) {
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		for _, head := range []int{0, 2, 4} { // in q, k, v
			random := rand.New(rand.NewSource(3))
			a := newAttention(random, []int{30, 30, 30}, 2, 2, 20)
			a.Causal = true
			eachLevel(t, func(t *testing.T) {
				clean := run(a, 1)
				element := &a.QKV[(40*6+head)*20]
				before := *element
				*element = float32(bad)
				got := run(a, 2)
				*element = before
				require.Equal(t, clean[:30*40], got[:30*40])
				require.Equal(t, clean[60*40:], got[60*40:])
				if math.IsNaN(bad) {
					require.True(t, math.IsNaN(float64(got[40*40])), "the token itself shows it")
				}
			})
		}
	}
}

// A query whose scores are all -inf (an infinite bias, say) gives zeros, not NaN.
func TestAttentionOfNothingIsZero(t *testing.T) {
	a := newAttention(rand.New(rand.NewSource(3)), []int{140}, 1, 1, 8)
	a.RelativeBias = []float32{float32(math.Inf(-1))}
	eachLevel(t, func(t *testing.T) {
		require.Equal(t, make([]float32, 140*8), run(a, 1))
	})
}
