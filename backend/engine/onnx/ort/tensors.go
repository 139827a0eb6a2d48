package ort

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"context"
	"sync"
	"unsafe"
)

// Tensor is an input or output of a run, over memory of Session.HostMemory.
type Tensor struct {
	Name string
	Type DataType
	Dims []int // at most 4
	Data []byte
}

var names struct {
	sync.Mutex
	c map[string]*C.char // the few names of inputs and outputs, kept for good
}

func cName(name string) *C.char {
	names.Lock()
	defer names.Unlock()
	if names.c == nil {
		names.c = make(map[string]*C.char)
	}
	if names.c[name] == nil {
		names.c[name] = C.CString(name)
	}
	return names.c[name]
}

// RunTensors computes outputs from inputs, for sessions without bound inputs. When ctx ends, the run ends between two
// nodes of the graph and RunTensors returns Cancelled or Timeout. Errors of the library are Inference.
func (r *Runner) RunTensors(ctx context.Context, s *Session, inputs, outputs []Tensor) error {
	list := make([]C.bei_ort_tensor, 0, len(inputs)+len(outputs)) // it points to C memory only
	for _, tensors := range [][]Tensor{inputs, outputs} {
		for _, t := range tensors {
			c := C.bei_ort_tensor{
				name: cName(t.Name), data: unsafe.Pointer(unsafe.SliceData(t.Data)), bytes: C.size_t(len(t.Data)),
				rank: C.size_t(len(t.Dims)), _type: C.int32_t(t.Type),
			}
			for i, d := range t.Dims {
				c.dims[i] = C.int64_t(d)
			}
			list = append(list, c)
		}
	}
	return r.watched(ctx, func() *C.char {
		first := unsafe.SliceData(list)
		return C.bei_ort_run_tensors(s.c, r.c, first, C.size_t(len(inputs)), (*C.bei_ort_tensor)(unsafe.Add(unsafe.Pointer(first), len(inputs)*C.sizeof_bei_ort_tensor)), C.size_t(len(outputs)))
	})
}
