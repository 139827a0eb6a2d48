package nvinfer

// #include <stdlib.h>
// #include "call.h"
import "C"

import (
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// ProgramOptions of NewProgram.
type ProgramOptions struct {
	Device int
	Cache  []byte // of an earlier program's Cache; nil: none
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
	options.device = C.int32_t(o.Device)
	if len(o.Cache) > 0 {
		options.cache = C.CBytes(o.Cache)
		defer C.free(options.cache)
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

// Tensors lists the inputs and outputs.
func (p *Program) Tensors() ([]TensorInfo, error) {
	return tensors(func(infos *C.bei_trt_tensor_info, room C.int32_t, count *C.int32_t, e *C.bei_trt_error) C.int32_t {
		return C.call_program_tensors(p.library.api, p.program, infos, room, count, e)
	})
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
