package kernels_test

import (
	"fmt"
	"math"
	"math/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels/kerneltest"
)

var (
	widths     = []int{1, 2, 3, 7, 8, 20, 33, 384, 1031}
	acts       = []int{0, 1, 2, 3, 4, 5, 6}
	nan32      = float32(math.NaN())
	infinity32 = float32(math.Inf(1))
)

func TestBiasAct(t *testing.T) {
	for _, act := range acts {
		for _, width := range widths {
			random := rand.New(rand.NewSource(int64(width)))
			x, bias := normal(random, 5*width), normal(random, width)
			for i := range x {
				x[i] *= 4
			}
			want := make([]float64, len(x))
			plain := make([]float64, len(x))
			for i := range x {
				want[i] = refAct(act, float64(x[i]+bias[i%width]))
				plain[i] = refAct(act, float64(x[i]))
			}
			eachLevel(t, func(t *testing.T) {
				y := make([]float32, len(x))
				kerneltest.BiasAct(act, x, bias, y, 5, width, 1)
				requireClose(t, want, y, 4e-7)
				copy(y, x)
				kerneltest.BiasAct(act, y, nil, y, 5, width, 1)
				requireClose(t, plain, y, 4e-7)
			})
		}
	}
}

// The errors that kernels.h states, over the whole range that matters in small steps.
func TestActivationAccuracy(t *testing.T) {
	const n = 400_000
	x := make([]float32, n)
	for i := range x {
		x[i] = (float32(i) - n/2) * 20 / (n / 2)
	}
	for _, act := range acts {
		want := make([]float64, n)
		for i := range x {
			want[i] = refAct(act, float64(x[i]))
		}
		eachLevel(t, func(t *testing.T) {
			y := make([]float32, n)
			kerneltest.BiasAct(act, x, nil, y, n/100, 100, 2)
			tolerance := 4e-7
			if act == kerneltest.ActGelu {
				tolerance = 1.5e-7
			}
			requireClose(t, want, y, tolerance)
		})
	}
}

func TestActivationOfExtremes(t *testing.T) {
	huge := float32(math.MaxFloat32)
	eachLevel(t, func(t *testing.T) {
		for _, act := range acts {
			y := make([]float32, 5)
			kerneltest.BiasAct(act, []float32{nan32, huge, -huge, infinity32, 0}, nil, y, 1, 5, 1)
			require.True(t, math.IsNaN(float64(y[0])), "activation %d of NaN: %v", act, y[0])
			top, bottom := huge, float32(0)
			switch act {
			case kerneltest.ActTanh:
				top, bottom = 1, -1
			case kerneltest.ActIdentity:
				bottom = -huge
			}
			require.InEpsilon(t, top, y[1], 1e-7, "activation %d of the largest float", act)
			require.InDelta(t, bottom, y[2], 1e-7, "activation %d of the smallest float", act)
			if act != kerneltest.ActTanh {
				require.Equal(t, infinity32, y[3], "activation %d of infinity", act)
			}
			require.Zero(t, y[4])
		}
	})
}

func TestGatedAct(t *testing.T) {
	for _, inner := range widths {
		for _, gateFirst := range []bool{true, false} {
			random := rand.New(rand.NewSource(int64(inner)))
			x, bias := normal(random, 3*2*inner), normal(random, 2*inner)
			gate, up := 0, inner
			if !gateFirst {
				gate, up = inner, 0
			}
			for _, b := range [][]float32{nil, bias} {
				want := make([]float64, 3*inner)
				for i := range want {
					row := x[i/inner*2*inner:]
					g, u := gate+i%inner, up+i%inner
					want[i] = refAct(kerneltest.ActSilu, float64(row[g])+at(b, g, 0)) * (float64(row[u]) + at(b, u, 0))
				}
				eachLevel(t, func(t *testing.T) {
					y := make([]float32, len(want))
					kerneltest.GatedAct(kerneltest.ActSilu, gateFirst, x, b, y, 3, inner, 1)
					requireClose(t, want, y, 2e-6)
				})
			}
		}
	}
}

func TestResidualNorm(t *testing.T) {
	for _, width := range append([]int{4096}, widths...) {
		for _, norm := range []int{kerneltest.NormLayer, kerneltest.NormRMS} {
			for options := range 16 {
				const rows = 3
				random := rand.New(rand.NewSource(int64(width + options)))
				n := kerneltest.ResidualNorm{X: normal(random, rows*width), Rows: rows, Width: width,
					Norm: norm, Eps: 1e-5}
				if options&1 != 0 {
					n.XBias, n.Residual = normal(random, width), normal(random, rows*width)
				}
				if options&2 != 0 {
					n.Weight, n.OnePlusWeight = normal(random, width), options&8 != 0
				}
				if options&4 != 0 {
					n.Bias = normal(random, width)
				}
				sum := make([]float32, rows*width)
				want := make([]float64, rows*width)
				for i := range want {
					sum[i] = n.X[i]
					if options&1 != 0 {
						sum[i] = n.X[i] + n.XBias[i%width] + n.Residual[i]
					}
					want[i] = float64(sum[i])
				}
				for r := range rows {
					refNorm(want[r*width:(r+1)*width], norm, n.Eps, n.Weight, n.OnePlusWeight, n.Bias)
				}
				eachLevel(t, func(t *testing.T) {
					m := n
					m.Y = make([]float32, rows*width)
					if options&8 != 0 {
						m.Sum = make([]float32, rows*width)
					}
					m.Run(1)
					requireClose(t, want, m.Y, 2e-6)
					if m.Sum != nil {
						require.Equal(t, sum, m.Sum)
					}
					m.X = append([]float32(nil), n.X...) // in place
					m.Y = m.X
					m.Run(2)
					requireClose(t, want, m.Y, 2e-6)
				})
			}
		}
	}
}

// Rows far from zero, where a one-pass variance in fp32 would be lost.
func TestLayerNormOfLargeMean(t *testing.T) {
	const width = 1000
	random := rand.New(rand.NewSource(1))
	x := normal(random, width)
	want := make([]float64, width)
	for i := range x {
		x[i] += 5000
		want[i] = float64(x[i])
	}
	refNorm(want, kerneltest.NormLayer, 1e-12, nil, false, nil)
	eachLevel(t, func(t *testing.T) {
		n := kerneltest.ResidualNorm{X: x, Y: make([]float32, width), Rows: 1, Width: width,
			Norm: kerneltest.NormLayer, Eps: 1e-12}
		n.Run(1)
		requireClose(t, want, n.Y, 1e-6)
	})
}

func TestPool(t *testing.T) {
	cu := cumulate([]int{0, 1, 2, 31, 257, 0, 5})
	skip := []int32{0, 1, 1, 7, 200, 3, 9}
	for _, width := range []int{1, 7, 8, 33, 384} {
		x := normal(rand.New(rand.NewSource(int64(width))), int(cu[len(cu)-1])*width)
		for kind := kerneltest.PoolCls; kind <= kerneltest.PoolWeightedMean; kind++ {
			for _, s := range [][]int32{nil, skip} {
				want := refPool(kind, x, cu, s, width)
				eachLevel(t, func(t *testing.T) {
					y := make([]float32, len(want))
					kerneltest.Pool(kind, x, cu, s, y, width, 2)
					requireClose(t, want, y, 1e-6)
				})
			}
		}
	}
}

func TestRowsAreIndependentOfEachOtherAndOfThreads(t *testing.T) {
	const rows, width = 900, 131
	random := rand.New(rand.NewSource(1))
	x, bias := normal(random, rows*width), normal(random, width)
	kernels := map[string]func(x []float32, threads int) []float32{
		"bias_act": func(x []float32, threads int) []float32 {
			y := make([]float32, rows*width)
			kerneltest.BiasAct(kerneltest.ActGelu, x, bias, y, rows, width, threads)
			return y
		},
		"residual_norm": func(x []float32, threads int) []float32 {
			n := kerneltest.ResidualNorm{X: x, XBias: bias, Y: make([]float32, rows*width), Rows: rows, Width: width,
				Norm: kerneltest.NormLayer, Eps: 1e-12}
			n.Run(threads)
			return n.Y
		},
	}
	for kind := kerneltest.PoolCls; kind <= kerneltest.PoolWeightedMean; kind++ {
		kernels[fmt.Sprintf("pool %d", kind)] = func(x []float32, threads int) []float32 {
			cu := make([]int32, rows+1) // sequences of one row, so that rows stay comparable
			for i := range cu {
				cu[i] = int32(i)
			}
			y := make([]float32, rows*width)
			kerneltest.Pool(kind, x, cu, nil, y, width, threads)
			return y
		}
	}
	for name, kernel := range kernels {
		t.Run(name, func(t *testing.T) {
			eachLevel(t, func(t *testing.T) {
				clean := kernel(x, 1)
				require.Equal(t, clean, kernel(x, 4))
				bad := append([]float32(nil), x...)
				bad[7*width+3] = nan32
				got := kernel(bad, 4)
				require.True(t, math.IsNaN(float64(got[7*width+3])))
				require.Equal(t, clean[:7*width], got[:7*width])
				require.Equal(t, clean[8*width:], got[8*width:])
			})
		})
	}
}
