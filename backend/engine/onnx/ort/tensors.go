package ort

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"context"
	"sync"
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/status"
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

// tensors are in C's form; they point to C memory only.
func tensors(lists ...[]Tensor) []C.bei_ort_tensor {
	count := 0
	for _, tensors := range lists {
		count += len(tensors)
	}
	list := make([]C.bei_ort_tensor, 0, count)
	for _, tensors := range lists {
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
	return list
}

// RunTensors computes outputs from inputs, for sessions without bound inputs. When ctx ends, the run ends between two
// nodes of the graph and RunTensors returns Cancelled or Timeout. Errors of the library are Inference.
func (r *Runner) RunTensors(ctx context.Context, s *Session, inputs, outputs []Tensor) error {
	list := tensors(inputs, outputs)
	return r.watched(ctx, func() *C.char {
		first := unsafe.SliceData(list)
		return C.bei_ort_run_tensors(s.c, r.c, first, C.size_t(len(inputs)), (*C.bei_ort_tensor)(unsafe.Add(unsafe.Pointer(first), len(inputs)*C.sizeof_bei_ort_tensor)), C.size_t(len(outputs)))
	})
}

// Graph is a CUDA graph of a run of certain tensors, whose memory it reads and writes at each launch. The thread that captures it has run the
// session before; launches may come from any, while nothing else runs in the session.
type Graph struct{ c *C.bei_ort_graph }

// Capture makes a graph of a run. Inputs should lie side by side in memory, and outputs, too: all between the first and the last of
// them is copied. Close comes before the session's, and before that of the memory.
func (r *Runner) Capture(ctx context.Context, s *Session, inputs, outputs []Tensor) (*Graph, error) {
	g := new(Graph)
	in, out := tensors(inputs), tensors(outputs)
	return g, r.watched(ctx, func() *C.char {
		return C.bei_ort_graph_new(s.c, r.c, unsafe.SliceData(in), C.size_t(len(in)), unsafe.SliceData(out), C.size_t(len(out)), &g.c)
	})
}

// Launch runs the graph and waits for it. It is not begun once ctx has ended: then Launch returns Cancelled or Timeout.
func (g *Graph) Launch(ctx context.Context) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return check(status.Inference, "run", C.bei_ort_graph_launch(g.c))
}

// TrimGraphs gives the memory of graphs that were closed back to the device.
func (s *Session) TrimGraphs() { C.bei_ort_session_trim(s.c) }

// Close frees the graph. Calling it twice is harmless.
func (g *Graph) Close() {
	C.bei_ort_graph_free(g.c)
	g.c = nil
}
