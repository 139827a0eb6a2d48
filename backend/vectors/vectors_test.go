package vectors

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// everyLevel runs test with AVX2, where the CPU has it, and without.
func everyLevel(t *testing.T, test func(t *testing.T)) {
	best := avx2
	defer func() { avx2 = best }()
	t.Run("as this CPU is", test)
	avx2 = 0
	t.Run("without AVX2", test)
}

func seeded(n int) []float32 {
	random := rand.New(rand.NewPCG(1, uint64(n)))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(random.NormFloat64())
	}
	return v
}

func TestFinite(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	everyLevel(t, func(t *testing.T) {
		require.True(t, Finite(nil))
		for n := 1; n <= 70; n++ {
			v := seeded(n)
			for i, x := range v {
				for _, good := range []float32{0, math.MaxFloat32, -math.MaxFloat32, math.SmallestNonzeroFloat32} {
					v[i] = good
					require.True(t, Finite(v), "%v at %d of %d", good, i, n)
				}
				for _, bad := range []float32{inf, -inf, nan} {
					v[i] = bad
					require.False(t, Finite(v), "%v at %d of %d", bad, i, n)
				}
				v[i] = x
			}
		}
		require.False(t, Finite([]float32{inf, -inf}))
		most := make([]float32, 1<<20)
		for i := range most {
			most[i] = math.MaxFloat32
		}
		require.True(t, Finite(most))
	})
}

func TestNormalize(t *testing.T) {
	results := make(map[int][]float32)
	everyLevel(t, func(t *testing.T) {
		for n := 1; n <= 70; n++ {
			src := seeded(n + 3) // what comes after n counts for nothing
			var sum float64
			for _, x := range src[:n] {
				sum += float64(x) * float64(x)
			}
			dst := make([]float32, n+1)
			Normalize(dst[1:], src) // odd addresses, as rows of odd widths have
			for i := range n {
				require.InDelta(t, float64(src[i])/math.Sqrt(sum), dst[1+i], 1e-7)
			}
			if results[n] == nil {
				results[n] = dst
			}
			require.Equal(t, results[n], dst, "another level gave other bits")
		}
		dst := make([]float32, 3)
		for _, src := range [][]float32{{3, 0, 4}, {1e38, 3e38, 2e38}, {1e-45, 0, 1e-44}, {-1, 1e-30, 1e30}} {
			Normalize(dst, src)
			require.InDelta(t, 1, math.Sqrt(float64(dst[0])*float64(dst[0])+float64(dst[1])*float64(dst[1])+float64(dst[2])*float64(dst[2])), 1e-7)
		}
	})
}

// BenchmarkRow is what a pooled row of BERT-base costs.
func BenchmarkRow(b *testing.B) {
	src, dst := seeded(768), make([]float32, 768)
	for b.Loop() {
		if !Finite(src) {
			b.Fatal("not finite")
		}
		Normalize(dst, src)
	}
}
