package nvinfer

// #include <stdlib.h>
// #include "call.h"
import "C"

import (
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Specialization is how shapes get their kernels in flavours that make kernels at run time (HasRuntimeCache).
type Specialization int32

// The specializations.
const (
	Lazy  Specialization = 0 // in the background
	Eager Specialization = 1 // in the run that has the shape first
	Never Specialization = 2 // kernels for any shape only
)

// ProgramOptions of NewProgram.
type ProgramOptions struct {
	Device         int
	Specialization Specialization
	NativeGraphs   bool   // the flavour captures CUDA graphs by itself
	Cache          []byte // of an earlier program's Cache; nil: none
}

// Program is a plan on a device.
type Program struct {
	library *Library
	program *C.bei_trt_program
}

// NewProgram puts a plan on a device. ErrBadPlan says that it must be built again.
func (l *Library) NewProgram(plan []byte, o ProgramOptions) (*Program, error) {
	if len(plan) == 0 {
		return nil, status.Errorf(status.Start, "%w: it is empty", ErrBadPlan)
	}
	options := (*C.bei_trt_program_options)(C.calloc(1, C.sizeof_bei_trt_program_options))
	defer C.free(unsafe.Pointer(options))
	options.device, options.specialization = C.int32_t(o.Device), C.int32_t(o.Specialization)
	if o.NativeGraphs {
		options.native_graphs = 1
	}
	if len(o.Cache) > 0 {
		options.cache = C.CBytes(o.Cache)
		defer C.free(unsafe.Pointer(options.cache))
		options.cache_size = C.size_t(len(o.Cache))
	}
	p := &Program{library: l}
	err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_program_new(l.api, l.library, unsafe.Pointer(unsafe.SliceData(plan)), C.size_t(len(plan)), options, &p.program, e)
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// TensorInfo describes an input or output of a program.
type TensorInfo struct {
	Name        string
	IsInput     bool
	DType       DType
	Dims        []int // -1: known at run time
	Least, Most []int // of inputs
}

// maxTensors bounds the inputs and outputs of a program.
const maxTensors = 32

// Tensors lists the inputs and outputs.
func (p *Program) Tensors() ([]TensorInfo, error) {
	var infos [maxTensors]C.bei_trt_tensor_info
	var count C.int32_t
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_program_tensors(p.library.api, p.program, &infos[0], maxTensors, &count, e)
	}); err != nil {
		return nil, err
	}
	var tensors []TensorInfo
	for i := range infos[:count] {
		t := &infos[i]
		tensors = append(tensors, TensorInfo{
			Name: C.GoString(&t.name[0]), IsInput: t.is_input != 0, DType: DType(t.dtype),
			Dims: getDims(&t.dims), Least: getDims(&t.least), Most: getDims(&t.most),
		})
	}
	return tensors, nil
}

// Memory returns the device bytes of the weights and, at most, of each lane's context.
func (p *Program) Memory() (weights, context uint64, err error) {
	var m C.bei_trt_program_memory
	err = call(status.Start, func(e *C.bei_trt_error) C.int32_t { return C.call_program_memory(p.library.api, p.program, &m, e) })
	return uint64(m.weights), uint64(m.context), err
}

// Cache returns the kernels made so far, for the next program of this plan on a like device. Unsupported without HasRuntimeCache.
func (p *Program) Cache() ([]byte, error) {
	var b *C.bei_trt_blob
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t { return C.call_program_cache(p.library.api, p.program, &b, e) }); err != nil {
		return nil, err
	}
	return p.library.blob(b), nil
}

// Free frees the program. Its lanes must be freed before.
func (p *Program) Free() { C.call_program_free(p.library.api, p.program) }

// Binding is an input or output of a lane with the most bytes that a run needs.
type Binding struct {
	Name  string
	Bytes int
	Host  unsafe.Pointer // set by NewLane: pinned memory of that size
}

// Lane runs one batch at a time. Its methods are called by one goroutine at a time.
type Lane struct {
	library *Library
	lane    *C.bei_trt_lane
	inputs  int
	dims    *C.bei_trt_dims // [inputs], in C memory
	bytes   *C.size_t       // [bindings], in C memory
	count   int
}

// NewLane makes a lane with memory for bindings, inputs first, and sets their Host. contextBytes bounds the context's memory; 0: as
// much as any run may need.
func (p *Program) NewLane(bindings []Binding, inputs int, contextBytes uint64) (*Lane, error) {
	n := len(bindings)
	raw := (*C.bei_trt_binding)(C.calloc(C.size_t(n), C.sizeof_bei_trt_binding))
	defer C.free(unsafe.Pointer(raw))
	list := unsafe.Slice(raw, n)
	for i, b := range bindings {
		list[i].name, list[i].bytes = C.CString(b.Name), C.size_t(b.Bytes)
		defer C.free(unsafe.Pointer(list[i].name))
	}
	l := &Lane{library: p.library, inputs: inputs, count: n}
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_new(p.library.api, p.program, raw, C.int32_t(n), C.uint64_t(contextBytes), &l.lane, e)
	}); err != nil {
		return nil, err
	}
	for i := range bindings {
		bindings[i].Host = list[i].host
	}
	l.dims = (*C.bei_trt_dims)(C.calloc(C.size_t(max(inputs, 1)), C.sizeof_bei_trt_dims))
	l.bytes = (*C.size_t)(C.calloc(C.size_t(n), C.sizeof_size_t))
	return l, nil
}

// set writes a run's sizes to C memory.
func (l *Lane) set(dims [][]int, bytes []int) error {
	for i, d := range dims {
		if err := setDims(&unsafe.Slice(l.dims, l.inputs)[i], d); err != nil {
			return err
		}
	}
	for i, n := range bytes {
		unsafe.Slice(l.bytes, l.count)[i] = C.size_t(n)
	}
	return nil
}

// NoGraph is the key of runs without a CUDA graph.
const NoGraph = -1

// Enqueue starts a run: copies bytes[i] of each input in, computes, copies bytes[i] of each output out. dims are those of the inputs.
// graph is the key of a CUDA graph of these very dims and bytes, which is captured at its first run (captured: that was now); or NoGraph.
func (l *Lane) Enqueue(dims [][]int, bytes []int, graph int64) (captured bool, err error) {
	if err := l.set(dims, bytes); err != nil {
		return false, err
	}
	var made C.int32_t
	err = call(status.Inference, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_enqueue(l.library.api, l.lane, l.dims, l.bytes, C.int64_t(graph), &made, e)
	})
	return made != 0, err
}

// Wait blocks until the enqueued run is done.
func (l *Lane) Wait() error {
	return call(status.Inference, func(e *C.bei_trt_error) C.int32_t { return C.call_lane_wait(l.library.api, l.lane, e) })
}

// Needs returns the bytes of context memory that a run of these inputs takes.
func (l *Lane) Needs(dims [][]int) (uint64, error) {
	if err := l.set(dims, nil); err != nil {
		return 0, err
	}
	var bytes C.uint64_t
	err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_needs(l.library.api, l.lane, l.dims, &bytes, e)
	})
	return uint64(bytes), err
}

// DropGraph frees the CUDA graph of that key.
func (l *Lane) DropGraph(key int64) error {
	return call(status.Inference, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_drop_graph(l.library.api, l.lane, C.int64_t(key), e)
	})
}

// Profile runs once and returns the time of each layer, as lines "name\tmilliseconds".
func (l *Lane) Profile(dims [][]int, bytes []int) (string, error) {
	if err := l.set(dims, bytes); err != nil {
		return "", err
	}
	var b *C.bei_trt_blob
	if err := call(status.Inference, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_profile(l.library.api, l.lane, l.dims, l.bytes, &b, e)
	}); err != nil {
		return "", err
	}
	return string(l.library.blob(b)), nil
}

// Free waits for what runs and frees the lane.
func (l *Lane) Free() {
	C.call_lane_free(l.library.api, l.lane)
	C.free(unsafe.Pointer(l.dims))
	C.free(unsafe.Pointer(l.bytes))
}
