package nvinfer

// #include <stdlib.h>
// #include "call.h"
import "C"

import (
	"errors"
	"runtime"
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Kinds of errors: ErrBadPlan is for callers to act on.
var (
	ErrBadPlan  = errors.New("the plan is not for this TensorRT or device")
	ErrNoMemory = errors.New("out of memory")
)

// DType is a data type: nvinfer1::DataType.
type DType int32

// The data types.
const (
	Float32  DType = C.BEI_TRT_FLOAT32
	Float16  DType = C.BEI_TRT_FLOAT16
	Int32    DType = C.BEI_TRT_INT32
	Bool     DType = C.BEI_TRT_BOOL
	Float8   DType = C.BEI_TRT_FLOAT8
	BFloat16 DType = C.BEI_TRT_BFLOAT16
	Int64    DType = C.BEI_TRT_INT64
)

// Bytes is the size of a number; 0 for unknown types.
func (d DType) Bytes() int {
	return map[DType]int{Float32: 4, Float16: 2, Int32: 4, Bool: 1, Float8: 1, BFloat16: 2, Int64: 8}[d]
}

// String returns the name in a config's dtype, or of the kind of number.
func (d DType) String() string {
	return map[DType]string{Float32: "float32", Float16: "float16", Int32: "int32", Bool: "bool", Float8: "float8", BFloat16: "bfloat16", Int64: "int64"}[d]
}

// Kind is what a node computes: BEI_TRT_* of trt/shim.h, which says each one's inputs and numbers.
type Kind int32

// The kinds.
const (
	Constant      Kind = C.BEI_TRT_CONSTANT
	Shape         Kind = C.BEI_TRT_SHAPE
	Gather        Kind = C.BEI_TRT_GATHER
	Reshape       Kind = C.BEI_TRT_RESHAPE
	Transpose     Kind = C.BEI_TRT_TRANSPOSE
	MatMul        Kind = C.BEI_TRT_MATMUL
	ElementWise   Kind = C.BEI_TRT_ELEMENTWISE
	Unary         Kind = C.BEI_TRT_UNARY
	Activation    Kind = C.BEI_TRT_ACTIVATION
	Softmax       Kind = C.BEI_TRT_SOFTMAX
	Reduce        Kind = C.BEI_TRT_REDUCE
	Concat        Kind = C.BEI_TRT_CONCAT
	Slice         Kind = C.BEI_TRT_SLICE
	Iota          Kind = C.BEI_TRT_IOTA
	Cast          Kind = C.BEI_TRT_CAST
	Select        Kind = C.BEI_TRT_SELECT
	Normalization Kind = C.BEI_TRT_NORMALIZATION
	Attention     Kind = C.BEI_TRT_ATTENTION
	Quantize      Kind = C.BEI_TRT_QUANTIZE
	Dequantize    Kind = C.BEI_TRT_DEQUANTIZE
)

// Numbers of nvinfer1::ElementWiseOperation, UnaryOperation, ActivationType and ReduceOperation.
const (
	Sum, Prod, Max, Min, Sub, Div, Pow        = 0, 1, 2, 3, 4, 5, 6
	And, Or, Equal, Greater, Less             = 8, 9, 11, 12, 13
	Exp, Log, Sqrt, Recip, Abs, Neg, Erf, Not = 0, 1, 2, 3, 4, 5, 19, 20
	ReLU, Sigmoid, Tanh, GELUErf, GELUTanh    = 0, 1, 2, 12, 13
	ReduceSum, ReduceMax, ReduceAvg           = 0, 2, 4
)

// Tensor is a tensor of a network.
type Tensor int32

// Node is one operation of a network.
type Node struct {
	Kind   Kind
	DType  DType
	Inputs []Tensor
	Ints   []int
	Eps    float32
	Dims   []int
	Data   []byte // of a constant, row-major; read until Build returns
	Name   string
}

// Network is a network under construction. It needs no device. One goroutine at a time may use it.
type Network struct {
	library *Library
	network *C.bei_trt_network
	pinner  runtime.Pinner // the data of constants
	scratch *C.bei_trt_node
}

// NewNetwork returns an empty network. The caller frees it.
func (l *Library) NewNetwork() (*Network, error) {
	n := &Network{library: l}
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t { return C.call_network_new(l.api, l.library, &n.network, e) }); err != nil {
		return nil, err
	}
	n.scratch = (*C.bei_trt_node)(C.calloc(1, C.sizeof_bei_trt_node))
	return n, nil
}

// Free frees the network. The plan that it built stays.
func (n *Network) Free() {
	C.call_network_free(n.library.api, n.network)
	C.free(unsafe.Pointer(n.scratch))
	n.pinner.Unpin()
}

func setDims(to *C.bei_trt_dims, dims []int) error {
	if len(dims) > C.BEI_TRT_MAX_DIMS {
		return status.Errorf(status.Unsupported, "%d dimensions; TensorRT takes %d", len(dims), C.BEI_TRT_MAX_DIMS)
	}
	to.count = C.int32_t(len(dims))
	for i, d := range dims {
		to.size[i] = C.int64_t(d)
	}
	return nil
}

func getDims(d *C.bei_trt_dims) []int {
	dims := make([]int, d.count)
	for i := range dims {
		dims[i] = int(d.size[i])
	}
	return dims
}

// Input adds an input; -1 in dims is a size known at run time.
func (n *Network) Input(name string, dtype DType, dims ...int) (Tensor, error) {
	var d C.bei_trt_dims
	if err := setDims(&d, dims); err != nil {
		return 0, err
	}
	cName := C.CString(name)
	defer C.free(unsafe.Pointer(cName))
	var t C.int32_t
	err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_network_input(n.library.api, n.network, cName, C.int32_t(dtype), &d, &t, e)
	})
	return Tensor(t), err
}

// Dimension names an axis of an input: axes of one name have one size in each launch.
func (n *Network) Dimension(input Tensor, axis int, name string) error {
	cName := C.CString(name)
	defer C.free(unsafe.Pointer(cName))
	return call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_network_dimension(n.library.api, n.network, C.int32_t(input), C.int32_t(axis), cName, e)
	})
}

// Add adds a node and returns its output.
func (n *Network) Add(node Node) (Tensor, error) {
	s := n.scratch
	*s = C.bei_trt_node{kind: C.int32_t(node.Kind), dtype: C.int32_t(node.DType), input_count: C.int32_t(len(node.Inputs)), int_count: C.int32_t(len(node.Ints))}
	if len(node.Inputs) > len(s.inputs) || len(node.Ints) > len(s.ints) {
		return 0, status.Errorf(status.Unsupported, "a node of %d inputs and %d numbers", len(node.Inputs), len(node.Ints))
	}
	for i, t := range node.Inputs {
		s.inputs[i] = C.int32_t(t)
	}
	for i, v := range node.Ints {
		s.ints[i] = C.int64_t(v)
	}
	s.floats[0] = C.float(node.Eps)
	if err := setDims(&s.dims, node.Dims); err != nil {
		return 0, err
	}
	if node.Kind == Constant {
		size := node.DType.Bytes()
		for _, d := range node.Dims {
			size *= d
		}
		if size != len(node.Data) {
			return 0, status.Errorf(status.Internal, "constant %s of %v %s has %d bytes instead of %d", node.Name, node.Dims, node.DType, len(node.Data), size)
		}
		if data := unsafe.SliceData(node.Data); data != nil {
			n.pinner.Pin(data)
			s.data = unsafe.Pointer(data)
		}
	}
	if node.Name != "" {
		s.name = C.CString(node.Name)
		defer C.free(unsafe.Pointer(s.name))
	}
	var t C.int32_t
	err := call(status.Start, func(e *C.bei_trt_error) C.int32_t { return C.call_network_add(n.library.api, n.network, s, &t, e) })
	return Tensor(t), err
}

// Output makes a tensor an output of that name.
func (n *Network) Output(t Tensor, name string) error {
	cName := C.CString(name)
	defer C.free(unsafe.Pointer(cName))
	return call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_network_output(n.library.api, n.network, C.int32_t(t), cName, e)
	})
}

// Describe returns a tensor's type and dimensions, as TensorRT derives them.
func (n *Network) Describe(t Tensor) (DType, []int, error) {
	var dtype C.int32_t
	var d C.bei_trt_dims
	err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_network_tensor(n.library.api, n.network, C.int32_t(t), &dtype, &d, e)
	})
	return DType(dtype), getDims(&d), err
}

// Tensors lists the inputs and outputs; after Build with the profile's ranges.
func (n *Network) Tensors() ([]TensorInfo, error) {
	return tensors(func(infos *C.bei_trt_tensor_info, room C.int32_t, count *C.int32_t, e *C.bei_trt_error) C.int32_t {
		return C.call_network_tensors(n.library.api, n.network, infos, room, count, e)
	})
}

// Range is the sizes that an input may have in runs; kernels are chosen for Best.
type Range struct {
	Name              string
	Least, Best, Most []int
}

// BuildOptions of Build. Zero values are defaults.
type BuildOptions struct {
	Inputs []Range // all whose sizes are known at run time
}

// Build returns the plan. It blocks for seconds.
func (n *Network) Build(o BuildOptions) ([]byte, error) {
	inputs := make([]C.bei_trt_profile_input, len(o.Inputs))
	for i, r := range o.Inputs {
		inputs[i].name = C.CString(r.Name)
		defer C.free(unsafe.Pointer(inputs[i].name))
		for k, dims := range [][]int{r.Least, r.Best, r.Most} {
			if err := setDims([]*C.bei_trt_dims{&inputs[i].least, &inputs[i].best, &inputs[i].most}[k], dims); err != nil {
				return nil, err
			}
		}
	}
	options := (*C.bei_trt_build_options)(C.calloc(1, C.sizeof_bei_trt_build_options))
	defer C.free(unsafe.Pointer(options))
	options.input_count = C.int32_t(len(inputs))
	if len(inputs) > 0 {
		size := C.size_t(len(inputs)) * C.sizeof_bei_trt_profile_input
		options.inputs = (*C.bei_trt_profile_input)(C.malloc(size))
		defer C.free(unsafe.Pointer(options.inputs))
		copy(unsafe.Slice(options.inputs, len(inputs)), inputs)
	}
	var b *C.bei_trt_blob
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_network_build(n.library.api, n.network, options, &b, e)
	}); err != nil {
		return nil, err
	}
	return n.library.blob(b), nil
}
