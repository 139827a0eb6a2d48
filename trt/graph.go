package trt

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// network is what a lowering fills: nvinfer.Network, or in tests one that computes.
type network interface {
	Input(name string, dtype nvinfer.DType, dims ...int) (nvinfer.Tensor, error)
	Dimension(input nvinfer.Tensor, axis int, name string) error
	Add(n nvinfer.Node) (nvinfer.Tensor, error)
	Output(t nvinfer.Tensor, name string) error
	Describe(t nvinfer.Tensor) (nvinfer.DType, []int, error)
}

// graph adds nodes to a network. The first error stops it: later calls do nothing, and err tells it.
type graph struct {
	net network
	err error
	// constants of ours by what they are made of; each is in the network once.
	constants map[string]nvinfer.Tensor
}

type tensor = nvinfer.Tensor

func newGraph(net network) *graph {
	return &graph{net: net, constants: make(map[string]nvinfer.Tensor)}
}

func (g *graph) fail(err error) {
	if g.err == nil {
		g.err = err
	}
}

func (g *graph) add(n nvinfer.Node) tensor {
	if g.err != nil {
		return 0
	}
	t, err := g.net.Add(n)
	if err != nil {
		g.fail(err)
	}
	return t
}

func (g *graph) input(name string, dtype nvinfer.DType, dims ...int) tensor {
	if g.err != nil {
		return 0
	}
	t, err := g.net.Input(name, dtype, dims...)
	if err != nil {
		g.fail(err)
	}
	return t
}

// named says that axes of inputs that have one name have one size.
func (g *graph) named(input tensor, axis int, name string) {
	if g.err == nil {
		g.fail(g.net.Dimension(input, axis, name))
	}
}

func (g *graph) output(x tensor, name string) {
	if g.err == nil {
		g.fail(g.net.Output(x, name))
	}
}

// constant adds numbers that key names: the same key gives the same tensor.
func (g *graph) constant(key string, dtype nvinfer.DType, dims []int, data func() ([]byte, error)) tensor {
	if t, ok := g.constants[key]; ok || g.err != nil {
		return t
	}
	bytes, err := data()
	if err != nil {
		g.fail(err)
		return 0
	}
	t := g.add(nvinfer.Node{Kind: nvinfer.Constant, DType: dtype, Dims: dims, Data: bytes, Name: key})
	g.constants[key] = t
	return t
}

// floats adds float32 numbers.
func (g *graph) floats(key string, dims []int, numbers func() []float32) tensor {
	return g.constant(key, nvinfer.Float32, dims, func() ([]byte, error) { return float32Bytes(numbers()), nil })
}

func float32Bytes(numbers []float32) []byte {
	data := make([]byte, 0, 4*len(numbers))
	for _, x := range numbers {
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
	}
	return data
}

// scalar adds a float32 number of that many dimensions, each of size 1.
func (g *graph) scalar(x float32, rank int) tensor {
	return g.floats(fmt.Sprintf("scalar %b rank %d", x, rank), ones(rank), func() []float32 { return []float32{x} })
}

// integer adds an int32 number of that many dimensions, each of size 1.
func (g *graph) integer(n int32, rank int) tensor {
	return g.constant(fmt.Sprintf("integer %d rank %d", n, rank), nvinfer.Int32, ones(rank), func() ([]byte, error) {
		return binary.LittleEndian.AppendUint32(nil, uint32(n)), nil
	})
}

// sizes adds int64 numbers [n], for shapes.
func (g *graph) sizes(numbers ...int) tensor {
	return g.constant(fmt.Sprint("sizes ", numbers), nvinfer.Int64, []int{len(numbers)}, func() ([]byte, error) {
		var data []byte
		for _, n := range numbers {
			data = binary.LittleEndian.AppendUint64(data, uint64(n))
		}
		return data, nil
	})
}

func ones(rank int) []int {
	dims := make([]int, rank)
	for i := range dims {
		dims[i] = 1
	}
	return dims
}

func (g *graph) unaryNode(kind nvinfer.Kind, x tensor, ints ...int) tensor {
	return g.add(nvinfer.Node{Kind: kind, Inputs: []tensor{x}, Ints: ints})
}

func (g *graph) shape(x tensor) tensor               { return g.unaryNode(nvinfer.Shape, x) }
func (g *graph) transpose(x tensor, p ...int) tensor { return g.unaryNode(nvinfer.Transpose, x, p...) }
func (g *graph) unary(op int, x tensor) tensor       { return g.unaryNode(nvinfer.Unary, x, op) }
func (g *graph) activation(a int, x tensor) tensor   { return g.unaryNode(nvinfer.Activation, x, a) }
func (g *graph) softmax(x tensor, axis int) tensor   { return g.unaryNode(nvinfer.Softmax, x, axis) }

// reduce keeps the axis with size 1 where keep is set.
func (g *graph) reduce(op int, x tensor, axis int, keep bool) tensor {
	k := 0
	if keep {
		k = 1
	}
	return g.unaryNode(nvinfer.Reduce, x, op, axis, k)
}

func (g *graph) cast(x tensor, dtype nvinfer.DType) tensor {
	return g.add(nvinfer.Node{Kind: nvinfer.Cast, DType: dtype, Inputs: []tensor{x}})
}

func (g *graph) binary(op int, a, b tensor) tensor {
	return g.add(nvinfer.Node{Kind: nvinfer.ElementWise, Inputs: []tensor{a, b}, Ints: []int{op}})
}

func (g *graph) sum(a, b tensor) tensor  { return g.binary(nvinfer.Sum, a, b) }
func (g *graph) prod(a, b tensor) tensor { return g.binary(nvinfer.Prod, a, b) }

// matmul is a product in dtype that sums in float32. Of inputs in 16 bits TensorRT may sum in float16 otherwise, and does; casts round a product are
// how a strongly typed network forbids it: none of them is done, they become accumulation_type in the plan's program. Products in FP8 stay as they are.
// Source: https://github.com/pytorch/TensorRT/pull/3110
func (g *graph) matmul(a, b tensor, transposeA, transposeB int, dtype nvinfer.DType) tensor {
	if dtype != nvinfer.Float32 {
		a, b = g.cast(a, nvinfer.Float32), g.cast(b, nvinfer.Float32)
	}
	y := g.add(nvinfer.Node{Kind: nvinfer.MatMul, Inputs: []tensor{a, b}, Ints: []int{transposeA, transposeB}})
	if dtype != nvinfer.Float32 {
		y = g.cast(y, dtype)
	}
	return y
}

func (g *graph) gather(data, indices tensor, axis int) tensor {
	return g.add(nvinfer.Node{Kind: nvinfer.Gather, Inputs: []tensor{data, indices}, Ints: []int{axis}})
}

// reshape: 0 keeps a size, one -1 is inferred.
func (g *graph) reshape(x tensor, dims ...int) tensor {
	return g.add(nvinfer.Node{Kind: nvinfer.Reshape, Inputs: []tensor{x}, Dims: dims})
}

// reshapeTo takes the sizes from an int64 tensor.
func (g *graph) reshapeTo(x, shape tensor) tensor {
	return g.add(nvinfer.Node{Kind: nvinfer.Reshape, Inputs: []tensor{x, shape}})
}

func (g *graph) concat(axis int, parts ...tensor) tensor {
	if len(parts) == 1 {
		return parts[0]
	}
	return g.add(nvinfer.Node{Kind: nvinfer.Concat, Inputs: parts, Ints: []int{axis}})
}

func (g *graph) choose(condition, a, b tensor) tensor {
	return g.add(nvinfer.Node{Kind: nvinfer.Select, Inputs: []tensor{condition, a, b}})
}

// last takes numbers [from, from + n) of the last dimension of x, which has that rank.
func (g *graph) last(x tensor, rank, from, n int) tensor {
	start := make([]int, rank)
	start[rank-1] = from
	stride := ones(rank)
	size := g.sizes(n)
	if rank > 1 {
		leading := make([]int, rank-1)
		for i := range leading {
			leading[i] = i
		}
		size = g.concat(0, g.gather(g.shape(x), g.indices(leading...), 0), size)
	}
	return g.add(nvinfer.Node{Kind: nvinfer.Slice, Inputs: []tensor{x, g.sizes(start...), size}, Ints: stride})
}

// strided takes numbers from, from + 2, ... of the last dimension: n of them.
func (g *graph) strided(x tensor, rank, from, n int) tensor {
	start, stride := make([]int, rank), ones(rank)
	start[rank-1], stride[rank-1] = from, 2
	leading := make([]int, rank-1)
	for i := range leading {
		leading[i] = i
	}
	size := g.concat(0, g.gather(g.shape(x), g.indices(leading...), 0), g.sizes(n))
	return g.add(nvinfer.Node{Kind: nvinfer.Slice, Inputs: []tensor{x, g.sizes(start...), size}, Ints: stride})
}

// headsOf takes heads [from, from + n) of x [sequences, longest, heads, dim].
func (g *graph) headsOf(x tensor, from, n, dim int) tensor {
	size := g.concat(0, g.gather(g.shape(x), g.indices(0, 1), 0), g.sizes(n, dim))
	return g.add(nvinfer.Node{Kind: nvinfer.Slice, Inputs: []tensor{x, g.sizes(0, 0, from, 0), size}, Ints: ones(4)})
}

// indices adds int32 numbers [n].
func (g *graph) indices(numbers ...int) tensor {
	return g.constant(fmt.Sprint("indices ", numbers), nvinfer.Int32, []int{len(numbers)}, func() ([]byte, error) {
		var data []byte
		for _, n := range numbers {
			data = binary.LittleEndian.AppendUint32(data, uint32(n))
		}
		return data, nil
	})
}
