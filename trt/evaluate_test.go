package trt

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// evaluator is a network whose nodes are computed as they are added, for the inputs of one launch. Numbers are held in float64 and rounded to a
// node's type. It is as strict as a strongly typed network: types must be equal, sizes equal or 1, indices in range.
type evaluator struct {
	values          []value
	inputs, outputs map[string]value
}

type value struct {
	dtype nvinfer.DType
	dims  []int
	n     []float64
}

func newValue(dtype nvinfer.DType, dims []int) value {
	return value{dtype, slices.Clone(dims), make([]float64, product(dims))}
}

func product(dims []int) int {
	n := 1
	for _, d := range dims {
		n *= d
	}
	return n
}

// rounded is x in a type: floats to nearest, ties to even, E4M3 without infinity.
func rounded(x float64, dtype nvinfer.DType) float64 {
	float := func(bits, least int, most float64) float64 {
		if x == 0 || math.IsInf(x, 0) || math.IsNaN(x) {
			return x
		}
		_, e := math.Frexp(x)
		unit := math.Ldexp(1, max(e-bits, least))
		r := math.RoundToEven(x/unit) * unit
		if math.Abs(r) > most {
			return math.Copysign(math.Inf(1), r)
		}
		return r
	}
	switch dtype {
	case nvinfer.Float32:
		return float64(float32(x))
	case nvinfer.Float16:
		return float(11, -24, 65504)
	case nvinfer.BFloat16:
		return float(8, -133, math.MaxFloat32)
	case nvinfer.Float8:
		return max(-448, min(448, float(4, -9, 1e9)))
	default:
		return x
	}
}

func (e *evaluator) push(v value) nvinfer.Tensor {
	for i, x := range v.n {
		v.n[i] = rounded(x, v.dtype)
	}
	e.values = append(e.values, v)
	return nvinfer.Tensor(len(e.values) - 1)
}

func (e *evaluator) Input(name string, dtype nvinfer.DType, dims ...int) (nvinfer.Tensor, error) {
	v, ok := e.inputs[name]
	if !ok || v.dtype != dtype || len(v.dims) != len(dims) {
		return 0, fmt.Errorf("input %s is %v of %s", name, dims, dtype)
	}
	return e.push(v), nil
}

func (e *evaluator) Dimension(nvinfer.Tensor, int, string) error { return nil }

func (e *evaluator) Output(t nvinfer.Tensor, name string) error {
	e.outputs[name] = e.values[t]
	return nil
}

func (e *evaluator) Describe(t nvinfer.Tensor) (nvinfer.DType, []int, error) {
	return e.values[t].dtype, e.values[t].dims, nil
}

func (e *evaluator) Add(n nvinfer.Node) (t nvinfer.Tensor, err error) {
	defer func() { // sizes that do not fit
		if r := recover(); r != nil {
			err = fmt.Errorf("node of kind %d: %v", n.Kind, r)
		}
	}()
	in := make([]value, len(n.Inputs))
	for i, t := range n.Inputs {
		in[i] = e.values[t]
	}
	return e.push(compute(n, in)), nil
}

func want(ok bool, format string, arguments ...any) {
	if !ok {
		panic(fmt.Sprintf(format, arguments...))
	}
}

func compute(n nvinfer.Node, in []value) value {
	switch n.Kind {
	case nvinfer.Constant:
		return constantOf(n)
	case nvinfer.Shape:
		out := newValue(nvinfer.Int64, []int{len(in[0].dims)})
		for i, d := range in[0].dims {
			out.n[i] = float64(d)
		}
		return out
	case nvinfer.Gather:
		return gathered(in[0], in[1], n.Ints[0])
	case nvinfer.Reshape:
		return reshaped(n, in)
	case nvinfer.Transpose:
		return transposed(in[0], n.Ints)
	case nvinfer.MatMul:
		return multiplied(in[0], in[1], n.Ints[0] != 0, n.Ints[1] != 0)
	case nvinfer.ElementWise:
		return elementWise(n.Ints[0], in[0], in[1])
	case nvinfer.Unary:
		return mapped(in[0], unaries[n.Ints[0]])
	case nvinfer.Activation:
		return mapped(in[0], activations[n.Ints[0]])
	case nvinfer.Softmax:
		want(n.Ints[0] == len(in[0].dims)-1, "axis %d", n.Ints[0])
		return eachRow(in[0], softmax)
	case nvinfer.Reduce:
		return reduced(in[0], n.Ints[0], n.Ints[1], n.Ints[2] != 0)
	case nvinfer.Concat:
		return concatenated(in, n.Ints[0])
	case nvinfer.Slice:
		return sliced(in[0], in[1], in[2], n.Ints)
	case nvinfer.Iota:
		out := newValue(nvinfer.Int32, []int{int(in[0].n[0])})
		for i := range out.n {
			out.n[i] = float64(i)
		}
		return out
	case nvinfer.Cast:
		return value{n.DType, in[0].dims, slices.Clone(in[0].n)}
	case nvinfer.Select:
		want(in[0].dtype == nvinfer.Bool && in[1].dtype == in[2].dtype, "types %s, %s, %s", in[0].dtype, in[1].dtype, in[2].dtype)
		return broadcast(in[1].dtype, in, func(x []float64) float64 {
			if x[0] != 0 {
				return x[1]
			}
			return x[2]
		})
	case nvinfer.Normalization:
		return normalised(in[0], in[1], in[2], n.Ints[0], float64(n.Eps))
	case nvinfer.Attention:
		return attended(n, in)
	case nvinfer.Quantize:
		return quantised(in[0], in[1], n, func(x, scale float64) float64 { return x / scale })
	case nvinfer.Dequantize:
		return quantised(in[0], in[1], n, func(x, scale float64) float64 { return x * scale })
	}
	panic("unknown")
}

func constantOf(n nvinfer.Node) value {
	out := newValue(n.DType, n.Dims)
	size, little := n.DType.Bytes(), binary.LittleEndian
	want(len(n.Data) == size*len(out.n), "%d bytes for %v of %s", len(n.Data), n.Dims, n.DType)
	for i := range out.n {
		b := n.Data[i*size:]
		switch n.DType {
		case nvinfer.Float32:
			out.n[i] = float64(math.Float32frombits(little.Uint32(b)))
		case nvinfer.BFloat16:
			out.n[i] = float64(math.Float32frombits(uint32(little.Uint16(b)) << 16))
		case nvinfer.Float16:
			out.n[i] = decoded(int(little.Uint16(b)), 5, 10)
		case nvinfer.Float8:
			out.n[i] = decoded(int(b[0]), 4, 3)
		case nvinfer.Int32:
			out.n[i] = float64(int32(little.Uint32(b)))
		case nvinfer.Int64:
			out.n[i] = float64(int64(little.Uint64(b)))
		default:
			out.n[i] = float64(b[0])
		}
	}
	return out
}

// decoded is a finite float of so many bits of exponent and fraction.
func decoded(bits, exponent, fraction int) float64 {
	e, f := bits>>fraction&(1<<exponent-1), bits&(1<<fraction-1)
	if e > 0 {
		f |= 1 << fraction
	} else {
		e = 1
	}
	x := math.Ldexp(float64(f), e-(1<<(exponent-1)-1)-fraction)
	if bits>>(exponent+fraction)&1 != 0 {
		return -x
	}
	return x
}
