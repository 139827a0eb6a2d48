package trt

import (
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// What evaluator computes of each kind of node.

func gathered(x, index value, axis int) value {
	want(index.dtype == nvinfer.Int32 || index.dtype == nvinfer.Int64, "indices of %s", index.dtype)
	out := newValue(x.dtype, slices.Concat(x.dims[:axis], index.dims, x.dims[axis+1:]))
	before, inner := product(x.dims[:axis]), product(x.dims[axis+1:])
	for b := range before {
		for i, k := range index.n {
			want(k >= 0 && int(k) < x.dims[axis], "index %g of %d", k, x.dims[axis])
			copy(out.n[(b*len(index.n)+i)*inner:][:inner], x.n[(b*x.dims[axis]+int(k))*inner:][:inner])
		}
	}
	return out
}

func reshaped(n nvinfer.Node, in []value) value {
	dims := slices.Clone(n.Dims)
	if len(in) > 1 {
		want(in[1].dtype == nvinfer.Int64, "sizes of %s", in[1].dtype)
		dims = nil
		for _, d := range in[1].n {
			dims = append(dims, int(d))
		}
	}
	infer, rest := -1, 1
	for i, d := range dims {
		if d == 0 {
			dims[i] = in[0].dims[i]
		}
		if d == -1 {
			want(infer < 0, "%v", dims)
			infer = i
		} else {
			rest *= dims[i]
		}
	}
	if infer >= 0 {
		dims[infer] = len(in[0].n) / rest
	}
	want(product(dims) == len(in[0].n), "%v to %v", in[0].dims, dims)
	return value{in[0].dtype, dims, slices.Clone(in[0].n)}
}

// walk calls f with the place of each number of dims, in order.
func walk(dims []int, f func(i int, at []int)) {
	at := make([]int, len(dims))
	for i := range product(dims) {
		f(i, at)
		for k := len(dims) - 1; k >= 0; k-- {
			if at[k]++; at[k] < dims[k] {
				break
			}
			at[k] = 0
		}
	}
}

// index of the number at a place, where sizes of 1 serve for all.
func (v value) index(at []int) int {
	i := 0
	for k, d := range v.dims {
		i *= d
		if d > 1 {
			i += at[k]
		}
	}
	return i
}

func transposed(x value, order []int) value {
	dims := make([]int, len(order))
	for i, k := range order {
		dims[i] = x.dims[k]
	}
	out, from := newValue(x.dtype, dims), make([]int, len(order))
	walk(dims, func(i int, at []int) {
		for k, o := range order {
			from[o] = at[k]
		}
		out.n[i] = x.n[x.index(from)]
	})
	return out
}

// common are the sizes of values together.
func common(in []value) []int {
	dims := slices.Clone(in[0].dims)
	for _, v := range in[1:] {
		want(len(v.dims) == len(dims), "%v and %v", dims, v.dims)
		for k, d := range v.dims {
			want(d == dims[k] || d == 1 || dims[k] == 1, "%v and %v", dims, v.dims)
			if dims[k] == 1 {
				dims[k] = d
			}
		}
	}
	return dims
}

func broadcast(dtype nvinfer.DType, in []value, f func(x []float64) float64) value {
	out, x := newValue(dtype, common(in)), make([]float64, len(in))
	walk(out.dims, func(i int, at []int) {
		for k, v := range in {
			x[k] = v.n[v.index(at)]
		}
		out.n[i] = f(x)
	})
	return out
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func elementWise(op int, a, b value) value {
	want(a.dtype == b.dtype, "%s and %s", a.dtype, b.dtype)
	dtype := a.dtype
	if op == nvinfer.Equal || op == nvinfer.Greater || op == nvinfer.Less {
		dtype = nvinfer.Bool
	}
	whole := a.dtype == nvinfer.Int32 || a.dtype == nvinfer.Int64
	return broadcast(dtype, []value{a, b}, func(x []float64) float64 {
		a, b := x[0], x[1]
		switch op {
		case nvinfer.Sum:
			return a + b
		case nvinfer.Prod:
			return a * b
		case nvinfer.Max:
			return max(a, b)
		case nvinfer.Min:
			return min(a, b)
		case nvinfer.Sub:
			return a - b
		case nvinfer.Div:
			if whole {
				return math.Trunc(a / b)
			}
			return a / b
		case nvinfer.Pow:
			return math.Pow(a, b)
		case nvinfer.And:
			return truth(a != 0 && b != 0)
		case nvinfer.Or:
			return truth(a != 0 || b != 0)
		case nvinfer.Equal:
			return truth(a == b)
		case nvinfer.Greater:
			return truth(a > b)
		case nvinfer.Less:
			return truth(a < b)
		}
		panic(op)
	})
}

var unaries = map[int]func(float64) float64{
	nvinfer.Exp: math.Exp, nvinfer.Log: math.Log, nvinfer.Sqrt: math.Sqrt, nvinfer.Abs: math.Abs, nvinfer.Erf: math.Erf,
	nvinfer.Recip: func(x float64) float64 { return 1 / x },
	nvinfer.Neg:   func(x float64) float64 { return -x },
	nvinfer.Not:   func(x float64) float64 { return 1 - x },
}

var activations = map[int]func(float64) float64{
	nvinfer.ReLU: func(x float64) float64 { return max(x, 0) }, nvinfer.Tanh: math.Tanh,
	nvinfer.Sigmoid: func(x float64) float64 { return 1 / (1 + math.Exp(-x)) },
	nvinfer.GELUErf: func(x float64) float64 { return x / 2 * (1 + math.Erf(x/math.Sqrt2)) },
	nvinfer.GELUTanh: func(x float64) float64 {
		return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	},
}

func mapped(x value, f func(float64) float64) value {
	out := newValue(x.dtype, x.dims)
	for i, n := range x.n {
		out.n[i] = f(n)
	}
	return out
}

// eachRow computes rows of the last axis in place.
func eachRow(x value, f func(row []float64)) value {
	out := value{x.dtype, x.dims, slices.Clone(x.n)}
	for row := range slices.Chunk(out.n, x.dims[len(x.dims)-1]) {
		f(row)
	}
	return out
}

func softmax(row []float64) {
	most, sum := slices.Max(row), 0.0
	for i, x := range row {
		row[i] = math.Exp(x - most)
		sum += row[i]
	}
	for i := range row {
		row[i] /= sum
	}
}

func reduced(x value, op, axis int, keep bool) value {
	var order []int // the axis last
	for i := range x.dims {
		if i != axis {
			order = append(order, i)
		}
	}
	y, size := transposed(x, append(order, axis)), x.dims[axis]
	dims := slices.Clone(y.dims[:len(y.dims)-1])
	if keep {
		dims = slices.Insert(dims, axis, 1)
	}
	out := newValue(x.dtype, dims)
	for i := range out.n {
		row := y.n[i*size:][:size]
		switch op {
		case nvinfer.ReduceMax:
			out.n[i] = slices.Max(row)
		default:
			for _, x := range row {
				out.n[i] += x
			}
			if op == nvinfer.ReduceAvg {
				out.n[i] /= float64(size)
			}
		}
	}
	return out
}

func concatenated(in []value, axis int) value {
	dims := slices.Clone(in[0].dims)
	for _, v := range in[1:] {
		want(v.dtype == in[0].dtype && len(v.dims) == len(dims), "%v %s and %v %s", dims, in[0].dtype, v.dims, v.dtype)
		dims[axis] += v.dims[axis]
	}
	out := newValue(in[0].dtype, dims)
	at, inner := 0, product(dims[axis+1:])
	for b := range product(dims[:axis]) {
		for _, v := range in {
			n := v.dims[axis] * inner
			at += copy(out.n[at:], v.n[b*n:][:n])
		}
	}
	want(at == len(out.n), "%v", dims)
	return out
}

func sliced(x, start, size value, stride []int) value {
	want(start.dtype == nvinfer.Int64 && size.dtype == nvinfer.Int64 && len(start.n) == len(x.dims) && len(size.n) == len(x.dims), "%v of %v", size.dims, x.dims)
	dims := make([]int, len(x.dims))
	for k, n := range size.n {
		dims[k] = int(n)
		want(int(start.n[k])+(dims[k]-1)*stride[k] < x.dims[k], "%v from %v of %v", dims, start.n, x.dims)
	}
	out := newValue(x.dtype, dims)
	walk(dims, func(i int, at []int) {
		from := 0
		for k, d := range x.dims {
			from = from*d + int(start.n[k]) + at[k]*stride[k]
		}
		out.n[i] = x.n[from]
	})
	return out
}

func multiplied(a, b value, transposeA, transposeB bool) value {
	want(a.dtype == b.dtype && len(a.dims) == len(b.dims), "%v %s times %v %s", a.dims, a.dtype, b.dims, b.dtype)
	rank := len(a.dims)
	turned := func(v value, turn bool) value {
		if !turn {
			return v
		}
		order := make([]int, rank)
		for i := range order {
			order[i] = i
		}
		order[rank-2], order[rank-1] = rank-1, rank-2
		return transposed(v, order)
	}
	a, b = turned(a, transposeA), turned(b, !transposeB) // rows of both are what is multiplied
	rows, inner, columns := a.dims[rank-2], a.dims[rank-1], b.dims[rank-2]
	want(b.dims[rank-1] == inner, "%v times %v", a.dims, b.dims)
	outer := func(v value) value { return value{dims: v.dims[:rank-2]} }
	batch := common([]value{outer(a), outer(b)})
	out := newValue(a.dtype, append(slices.Clone(batch), rows, columns))
	walk(batch, func(i int, at []int) {
		x, y := a.n[outer(a).index(at)*rows*inner:], b.n[outer(b).index(at)*columns*inner:]
		for r := range rows {
			for c := range columns {
				sum, p, q := 0.0, x[r*inner:][:inner], y[c*inner:][:inner]
				for k, u := range p {
					sum += u * q[k]
				}
				out.n[(i*rows+r)*columns+c] = sum
			}
		}
	})
	return out
}

func normalised(x, scale, bias value, axis int, eps float64) value {
	want(axis == len(x.dims)-1 && x.dtype == nvinfer.Float32 && scale.dtype == x.dtype && bias.dtype == x.dtype, "axis %d of %v %s", axis, x.dims, x.dtype)
	return eachRow(x, func(row []float64) {
		mean, squares := 0.0, 0.0
		for _, n := range row {
			mean += n / float64(len(row))
		}
		for _, n := range row {
			squares += (n - mean) * (n - mean) / float64(len(row))
		}
		for i, n := range row {
			row[i] = (n-mean)/math.Sqrt(squares+eps)*scale.n[i] + bias.n[i]
		}
	})
}

// attended: q [batch, heads, queries, dim], k and v [batch, kv heads, keys, dim]. Scores are not rounded.
func attended(n nvinfer.Node, in []value) value {
	q, k, v := in[0], in[1], in[2]
	want(q.dtype == k.dtype && k.dtype == v.dtype && slices.Equal(k.dims[:3], v.dims[:3]), "%v, %v, %v", q.dims, k.dims, v.dims)
	batch, heads, queries, dim := q.dims[0], q.dims[1], q.dims[2], q.dims[3]
	kvHeads, keys := k.dims[1], k.dims[2]
	causal, extra := n.Ints[0] != 0, n.Ints[2]
	if extra == 1 {
		want(in[3].dtype == q.dtype || in[3].dtype == nvinfer.Bool, "a mask of %s", in[3].dtype)
	}
	out, row := newValue(q.dtype, []int{batch, heads, queries, v.dims[3]}), make([]float64, keys)
	walk([]int{batch, heads, queries}, func(i int, at []int) {
		part := (at[0]*kvHeads + at[1]*kvHeads/heads) * keys
		for key := range keys {
			sum := 0.0
			for d, x := range q.n[i*dim:][:dim] {
				sum += x * k.n[(part+key)*dim+d]
			}
			seen := !causal || key <= at[2]
			switch {
			case extra == 2:
				seen = seen && float64(key) < in[3].n[at[0]]
			case extra == 1 && in[3].dtype == nvinfer.Bool:
				seen = seen && in[3].n[in[3].index([]int{at[0], at[1], at[2], key})] != 0
			case extra == 1:
				sum += in[3].n[in[3].index([]int{at[0], at[1], at[2], key})]
			}
			if row[key] = sum; !seen {
				row[key] = math.Inf(-1)
			}
		}
		softmax(row)
		for key, p := range row {
			for d := range v.dims[3] {
				out.n[i*v.dims[3]+d] += p * v.n[(part+key)*v.dims[3]+d]
			}
		}
	})
	return out
}

// quantised scales all numbers by one, or those of an axis each by its own.
func quantised(x, scale value, n nvinfer.Node, f func(x, scale float64) float64) value {
	out := newValue(n.DType, x.dims)
	walk(x.dims, func(i int, at []int) {
		s := scale.n[0]
		if n.Ints[0] >= 0 {
			s = scale.n[at[n.Ints[0]]]
		}
		out.n[i] = f(x.n[i], s)
	})
	return out
}
