package kernels_test

import (
	"fmt"
	"math/rand"
	"testing"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels/kerneltest"
)

// report adds a rate of 1e9 per second, given the count of one iteration.
func report(b *testing.B, count float64, unit string) {
	b.ReportMetric(count*float64(b.N)/b.Elapsed().Seconds()/1e9, unit)
}

func BenchmarkAttention(b *testing.B) {
	mixed := make([]int, 32)
	for i := range mixed {
		mixed[i] = 8 + i*8
	}
	uniform := func(n, length int) []int {
		l := make([]int, n)
		for i := range l {
			l[i] = length
		}
		return l
	}
	for _, c := range []struct {
		name      string
		heads, kv int
		dim       int
		lengths   []int
		causal    bool
		places    bool // disentangled attention, as in DeBERTa
	}{
		{"h12d32/len8", 12, 12, 32, uniform(64, 8), false, false},
		{"h12d32/len19", 12, 12, 32, uniform(1, 19), false, false},
		{"h12d32/len32", 12, 12, 32, uniform(32, 32), false, false},
		{"h12d32/len128", 12, 12, 32, uniform(8, 128), false, false},
		{"h12d32/len256", 12, 12, 32, uniform(4, 256), false, false},
		{"h12d32/len512", 12, 12, 32, uniform(2, 512), false, false},
		{"h12d32/len8..256", 12, 12, 32, mixed, false, false},
		{"h12d64/len128", 12, 12, 64, uniform(8, 128), false, false},
		{"h12d64/len512", 12, 12, 64, uniform(2, 512), false, false},
		{"h16kv8d128/causal512", 16, 8, 128, uniform(2, 512), true, false},
		{"h12d64/causal2048", 12, 12, 64, uniform(1, 2048), true, false},
		{"h12d64/places19", 12, 12, 64, uniform(1, 19), false, true},
		{"h12d64/places128", 12, 12, 64, uniform(8, 128), false, true},
		{"h12d64/places512", 12, 12, 64, uniform(2, 512), false, true},
	} {
		a := newAttention(rand.New(rand.NewSource(1)), c.lengths, c.heads, c.kv, c.dim)
		a.Causal = c.causal
		if c.places {
			withPlaces(rand.New(rand.NewSource(2)), a, 512, 512)
		}
		out := make([]float32, a.TotalTokens*c.heads*c.dim)
		flop := 0.0
		for _, n := range c.lengths {
			area := float64(n) * float64(n)
			if c.causal {
				area = float64(n) * float64(n+1) / 2
			}
			flop += 4 * area * float64(c.heads*c.dim)
		}
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/threads%d", c.name, threads), func(b *testing.B) {
				for range b.N {
					a.Run(out, threads)
				}
				report(b, flop, "GF/s")
			})
		}
	}
}

func BenchmarkRowwise(b *testing.B) {
	const rows, width = 1024, 1536
	random := rand.New(rand.NewSource(1))
	x, y, bias := normal(random, rows*width), make([]float32, rows*width), normal(random, width)
	b.Run("gelu", func(b *testing.B) {
		for range b.N {
			kerneltest.BiasAct(kerneltest.ActGelu, x, bias, y, rows, width, 1)
		}
		report(b, rows*width, "Gelem/s")
	})
	b.Run("layernorm384", func(b *testing.B) {
		n := kerneltest.ResidualNorm{X: x, XBias: bias[:384], Residual: y, Y: make([]float32, rows*384), Rows: rows,
			Width: 384, Norm: kerneltest.NormLayer, Eps: 1e-12, Weight: bias[:384], Bias: bias[384:768]}
		for range b.N {
			n.Run(1)
		}
		report(b, rows*384, "Gelem/s")
	})
	b.Run("meanpool384", func(b *testing.B) {
		cu := []int32{0, 256, 512, 1024}
		for range b.N {
			kerneltest.Pool(kerneltest.PoolMean, x, cu, nil, y, 384, 1)
		}
		report(b, rows*384, "Gelem/s")
	})
}
