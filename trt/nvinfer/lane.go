package nvinfer

// #include <stdlib.h>
// #include "call.h"
import "C"

import (
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Binding is an input or output of a lane.
type Binding struct {
	Name        string
	DeviceBytes int            // most that a launch needs
	HostBytes   int            // of staging, for all launches between two waits; 0: none until Lane.Stage
	Host        unsafe.Pointer // set by NewLane: pinned memory of HostBytes
}

// Lane has a stream and memory for launches. Its methods are called by one goroutine at a time.
type Lane struct {
	library *Library
	lane    *C.bei_trt_lane
	inputs  int
	// All in C memory: what C is given must hold no Go pointers, and launches allocate nothing.
	launch  *C.bei_trt_launch
	dims    []C.bei_trt_dims // [inputs]
	offsets []C.size_t       // [bindings]
	bytes   []C.size_t       // [bindings]
	kind    *C.int32_t
	failure *C.bei_trt_error
}

// NewLane makes a lane with memory for bindings, inputs first, and sets their Host. Reserve comes before its first launch.
func (p *Program) NewLane(bindings []Binding, inputs int) (*Lane, error) {
	n := len(bindings)
	raw := (*C.bei_trt_binding)(C.calloc(C.size_t(n), C.sizeof_bei_trt_binding))
	defer C.free(unsafe.Pointer(raw))
	list := unsafe.Slice(raw, n)
	for i, b := range bindings {
		list[i].name, list[i].device_bytes, list[i].host_bytes = C.CString(b.Name), C.size_t(b.DeviceBytes), C.size_t(b.HostBytes)
		defer C.free(unsafe.Pointer(list[i].name))
	}
	l := &Lane{library: p.library, inputs: inputs}
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_new(p.library.api, p.program, raw, C.int32_t(n), &l.lane, e)
	}); err != nil {
		return nil, err
	}
	for i := range bindings {
		bindings[i].Host = list[i].host
	}
	l.dims = unsafe.Slice((*C.bei_trt_dims)(C.calloc(C.size_t(max(inputs, 1)), C.sizeof_bei_trt_dims)), max(inputs, 1))
	l.offsets = unsafe.Slice((*C.size_t)(C.calloc(C.size_t(n), C.sizeof_size_t)), n)
	l.bytes = unsafe.Slice((*C.size_t)(C.calloc(C.size_t(n), C.sizeof_size_t)), n)
	l.kind = (*C.int32_t)(C.calloc(1, C.sizeof_int32_t))
	l.failure = (*C.bei_trt_error)(C.calloc(1, C.sizeof_bei_trt_error))
	l.launch = (*C.bei_trt_launch)(C.calloc(1, C.sizeof_bei_trt_launch))
	l.launch.dims, l.launch.host_offsets, l.launch.bytes = unsafe.SliceData(l.dims), unsafe.SliceData(l.offsets), unsafe.SliceData(l.bytes)
	return l, nil
}

// NoGraph is the key of launches without a CUDA graph.
const NoGraph = -1

// Launch is one use of the program. Slices are in the order of the lane's bindings.
type Launch struct {
	Dims    [][]int // of each input
	Offsets []int   // of each binding: bytes into its staging memory
	Bytes   []int   // of each binding: what is copied; 0: nothing
	Graph   int64   // key of a CUDA graph of these very Dims, captured at its first launch; or NoGraph
}

func (l *Lane) set(launch *Launch) error {
	for i, d := range launch.Dims {
		if err := setDims(&l.dims[i], d); err != nil {
			return err
		}
	}
	for i, n := range launch.Bytes {
		l.offsets[i], l.bytes[i] = C.size_t(launch.Offsets[i]), C.size_t(n)
	}
	l.launch.graph = C.int64_t(launch.Graph)
	return nil
}

// LaunchKind is what became of a launch.
type LaunchKind int32

// A launch is Plain also where its graph could not be used.
const (
	Plain    LaunchKind = C.BEI_TRT_PLAIN
	Captured LaunchKind = C.BEI_TRT_CAPTURED // its CUDA graph was made
	Replayed LaunchKind = C.BEI_TRT_REPLAYED
)

// Enqueue puts a launch on the stream, after earlier ones: copy in, compute, copy out.
func (l *Lane) Enqueue(launch *Launch) (LaunchKind, error) {
	if err := l.set(launch); err != nil {
		return Plain, err
	}
	if code := C.call_lane_enqueue(l.library.api, l.lane, l.launch, l.kind, l.failure); code != 0 {
		return Plain, failure(code, l.failure, status.Inference)
	}
	return LaunchKind(*l.kind), nil
}

// Wait blocks until all that is enqueued is done.
func (l *Lane) Wait() error {
	if code := C.call_lane_wait(l.library.api, l.lane, l.failure); code != 0 {
		return failure(code, l.failure, status.Inference)
	}
	return nil
}

// Needs returns the bytes of context memory that a launch of these inputs takes.
func (l *Lane) Needs(dims [][]int) (uint64, error) {
	if err := l.set(&Launch{Dims: dims}); err != nil {
		return 0, err
	}
	var bytes C.uint64_t
	err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_needs(l.library.api, l.lane, l.launch.dims, &bytes, e)
	})
	return uint64(bytes), err
}

// Reserve gives the context memory for launches of these inputs, and all that need no more: once.
func (l *Lane) Reserve(dims [][]int) error {
	if err := l.set(&Launch{Dims: dims}); err != nil {
		return err
	}
	return call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_reserve(l.library.api, l.lane, l.launch.dims, e)
	})
}

// Stage makes the staging memory of a binding that large and returns it. Nothing may be enqueued.
func (l *Lane) Stage(binding, bytes int) (unsafe.Pointer, error) {
	var host unsafe.Pointer
	err := call(status.Inference, func(e *C.bei_trt_error) C.int32_t {
		return C.call_lane_host(l.library.api, l.lane, C.int32_t(binding), C.size_t(bytes), &host, e)
	})
	return host, err
}

// Free waits for what runs and frees the lane.
func (l *Lane) Free() {
	C.call_lane_free(l.library.api, l.lane)
	C.free(unsafe.Pointer(unsafe.SliceData(l.dims)))
	C.free(unsafe.Pointer(unsafe.SliceData(l.offsets)))
	C.free(unsafe.Pointer(unsafe.SliceData(l.bytes)))
	C.free(unsafe.Pointer(l.kind))
	C.free(unsafe.Pointer(l.failure))
	C.free(unsafe.Pointer(l.launch))
}
