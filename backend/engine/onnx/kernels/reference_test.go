package kernels_test

import (
	"math"
	"math/rand"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels/kerneltest"
)

// The reference: every kernel by its definition in kernels.h, in float64 and in the most direct way.

func normal(random *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(random.NormFloat64())
	}
	return x
}

func cumulate(lengths []int) []int32 {
	cu := []int32{0}
	for _, n := range lengths {
		cu = append(cu, cu[len(cu)-1]+int32(n))
	}
	return cu
}

// newAttention is plain bidirectional attention over random rows; tests set what else they want.
func newAttention(random *rand.Rand, lengths []int, heads, kvHeads, dim int) *kerneltest.Attention {
	cu := cumulate(lengths)
	total := int(cu[len(cu)-1])
	return &kerneltest.Attention{
		QKV: normal(random, total*(heads+2*kvHeads)*dim), CuSeqlens: cu, TotalTokens: total,
		Heads: heads, KVHeads: kvHeads, Dim: dim, Scale: float32(1 / math.Sqrt(float64(dim))), Left: -1, Right: -1,
	}
}

func at(s []float32, i int, absent float64) float64 {
	if s == nil {
		return absent
	}
	return float64(s[i])
}

func refNorm(x []float64, kind int, eps float32, weight []float32, onePlus bool, bias []float32) {
	mean, square := 0.0, 0.0
	if kind == kerneltest.NormLayer {
		for _, v := range x {
			mean += v / float64(len(x))
		}
	}
	for _, v := range x {
		square += (v - mean) * (v - mean) / float64(len(x))
	}
	for i, v := range x {
		w := at(weight, i, 1)
		if onePlus && weight != nil {
			w++
		}
		x[i] = (v-mean)/math.Sqrt(square+float64(eps))*w + at(bias, i, 0)
	}
}

func refRope(a *kerneltest.Attention, x []float64, token int) {
	half := a.RopeDim / 2
	for i := range half {
		u, v := i, i+half
		if a.Rope == kerneltest.RopeInterleaved {
			u, v = 2*i, 2*i+1
		}
		c := float64(a.RopeCos[int(a.Positions[token])*half+i])
		s := float64(a.RopeSin[int(a.Positions[token])*half+i])
		x[u], x[v] = x[u]*c-x[v]*s, x[v]*c+x[u]*s
	}
}

// refHead reads head number h (q, then k, then v heads) of a token.
func refHead(a *kerneltest.Attention, token, h int) []float64 {
	x := make([]float64, a.Dim)
	for i := range x {
		x[i] = float64(a.QKV[(token*(a.Heads+2*a.KVHeads)+h)*a.Dim+i]) + at(a.Bias, h*a.Dim+i, 0)
	}
	if h >= a.Heads+a.KVHeads {
		return x
	}
	if a.QKNorm != kerneltest.NormNone {
		if h < a.Heads {
			refNorm(x, a.QKNorm, a.QKNormEps, a.QWeight, a.OnePlusWeight, a.QNormBias)
		} else {
			refNorm(x, a.QKNorm, a.QKNormEps, a.KWeight, a.OnePlusWeight, a.KNormBias)
		}
	}
	if a.Rope != kerneltest.RopeNone {
		refRope(a, x, token)
	}
	return x
}

func refAttention(a *kerneltest.Attention) []float64 {
	out := make([]float64, a.TotalTokens*a.Heads*a.Dim)
	for s := range len(a.CuSeqlens) - 1 {
		start, n := int(a.CuSeqlens[s]), int(a.CuSeqlens[s+1]-a.CuSeqlens[s])
		for h := range a.Heads {
			kv := h / (a.Heads / a.KVHeads)
			k, v := make([][]float64, n), make([][]float64, n)
			for j := range n {
				k[j], v[j] = refHead(a, start+j, a.Heads+kv), refHead(a, start+j, a.Heads+a.KVHeads+kv)
			}
			for i := range n {
				o := out[((start+i)*a.Heads+h)*a.Dim:][:a.Dim]
				refRow(a, h, i, refHead(a, start+i, h), k, v, o)
			}
		}
	}
	return out
}

func refRow(a *kerneltest.Attention, h, i int, q []float64, k, v [][]float64, out []float64) {
	scores, top := make([]float64, len(k)), math.Inf(-1)
	for j := range k {
		if a.Causal && j > i || a.Left >= 0 && j < i-a.Left || a.Right >= 0 && j > i+a.Right {
			scores[j] = math.Inf(-1)
			continue
		}
		for d := range q {
			said := q[d] * k[j][d]
			if a.PlaceRows != nil {
				place := (int(a.PlaceRows[min(max(i-j, -a.PlaceMax), a.PlaceMax)+a.PlaceMax])*a.Heads+h)*a.Dim + d
				said += q[d]*at(a.PlaceKeys, place, 0) + k[j][d]*at(a.PlaceQueries, place, 0)
			}
			scores[j] += said * float64(a.Scale)
		}
		if c := float64(a.Softcap); c != 0 {
			scores[j] = c * math.Tanh(scores[j]/c)
		}
		scores[j] -= at(a.Slopes, h, 0) * math.Abs(float64(i-j))
		r := a.RelativeMax
		scores[j] += at(a.RelativeBias, h*(2*r+1)+min(max(j-i, -r), r)+r, 0)
		top = max(top, scores[j])
	}
	sum := 0.0
	for j := range scores {
		scores[j] = math.Exp(scores[j] - top)
		sum += scores[j]
	}
	for j := range scores {
		for d := range out {
			out[d] += scores[j] / sum * v[j][d]
		}
	}
}

func refAct(act int, x float64) float64 {
	switch act {
	case kerneltest.ActGelu:
		return x / 2 * math.Erfc(-x/math.Sqrt2)
	case kerneltest.ActGeluTanh:
		return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case kerneltest.ActQuickGelu:
		return x / (1 + math.Exp(-1.702*x))
	case kerneltest.ActRelu:
		return max(x, 0)
	case kerneltest.ActSilu:
		return x / (1 + math.Exp(-x))
	case kerneltest.ActTanh:
		return math.Tanh(x)
	}
	return x
}

func refPool(kind int, x []float32, cu, skip []int32, width int) []float64 {
	out := make([]float64, (len(cu)-1)*width)
	for s := range len(cu) - 1 {
		first, n := int(cu[s]), int(cu[s+1]-cu[s])
		for c := range width {
			value := func(t int) float64 { return float64(x[(first+t)*width+c]) }
			y := &out[s*width+c]
			if n == 0 {
				continue
			}
			if kind == kerneltest.PoolCls {
				*y = value(0)
				continue
			}
			if kind == kerneltest.PoolLast {
				*y = value(n - 1)
				continue
			}
			from := 0
			if skip != nil {
				from = int(skip[s])
			}
			sum, weights, top := 0.0, 0.0, math.Inf(-1)
			for t := from; t < n; t++ {
				w := 1.0
				if kind == kerneltest.PoolWeightedMean {
					w = float64(t + 1)
				}
				sum, weights, top = sum+w*value(t), weights+w, max(top, value(t))
			}
			switch {
			case weights == 0:
			case kind == kerneltest.PoolMax:
				*y = top
			case kind == kerneltest.PoolMeanSqrtLen:
				*y = sum / math.Sqrt(weights)
			default:
				*y = sum / weights
			}
		}
	}
	return out
}
