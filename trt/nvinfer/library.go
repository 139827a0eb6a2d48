// Package nvinfer is the Go side of trt/shim.h: TensorRT through the libraries libbei_trt_<flavour>.so, which are opened at run
// time. It has no policy. Errors are *status.Error: NoBackend where a library is missing or of another version, Unsupported,
// Unhealthy for a lost device, ShutDown while the process exits, and otherwise the code that the caller of each function says.
package nvinfer

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra
// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "call.h"
import "C"

import (
	"sync"
	"sync/atomic"
	"unsafe"

	_ "github.com/basetenlabs/bei-runtime/backend/exiting" // the C functions that calls go through
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Features of a flavour, as bits: those of trt/shim.h.
type Features uint32

// The features.
const (
	HasAttention    Features = C.BEI_TRT_HAS_ATTENTION
	HasRuntimeCache Features = C.BEI_TRT_HAS_RUNTIME_CACHE
	HasLengths      Features = C.BEI_TRT_HAS_LENGTHS
)

// Library is an opened flavour of TensorRT. It is never closed. All methods may be called from any goroutine.
type Library struct {
	api     *C.bei_trt_api // in C memory, like all that C functions keep
	library *C.bei_trt_library

	Flavour  string // "rtx1", "11", "10"
	Version  string // of TensorRT, such as "1.6.1.120"
	Path     string // of TensorRT's library
	Features Features
}

// Severity of a message: nvinfer1::ILogger's.
type Severity int32

// The severities.
const (
	InternalError Severity = iota
	Error
	Warning
	Info
	Verbose
)

var logger atomic.Pointer[func(Severity, string)]

// SetLogger says where TensorRT's messages go, for the whole process. f is called on TensorRT's threads.
func SetLogger(f func(severity Severity, message string)) { logger.Store(&f) }

//export beiTRTLog
func beiTRTLog(_ unsafe.Pointer, severity C.int32_t, text *C.char) {
	defer func() { _ = recover() }() // a panic must not unwind into C++
	if f := logger.Load(); f != nil {
		(*f)(Severity(severity), C.GoString(text))
	}
}

var opened struct {
	sync.Mutex
	libraries map[[2]string]*Library // by shim and path
}

// Open opens the shim's library and through it TensorRT's library at path. Opening the same two again gives the same Library.
func Open(shim, path string) (*Library, error) {
	opened.Lock()
	defer opened.Unlock()
	if l := opened.libraries[[2]string{shim, path}]; l != nil {
		return l, nil
	}
	l := &Library{api: (*C.bei_trt_api)(C.calloc(1, C.sizeof_bei_trt_api))}
	cShim, cPath := C.CString(shim), C.CString(path)
	defer C.free(unsafe.Pointer(cShim))
	defer C.free(unsafe.Pointer(cPath))
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.bei_trt_load(cShim, cPath, 0, &l.library, l.api, e)
	}); err != nil {
		C.free(unsafe.Pointer(l.api))
		return nil, err
	}
	l.Flavour, l.Version, l.Path = C.GoString(l.api.flavour), C.GoString(l.api.version), C.GoString(l.api.path)
	l.Features = Features(l.api.features)
	if opened.libraries == nil {
		opened.libraries = make(map[[2]string]*Library)
	}
	opened.libraries[[2]string{shim, path}] = l
	return l, nil
}

// errorPool keeps room for errors, which are 4 KiB each.
var errorPool = sync.Pool{New: func() any { return new(C.bei_trt_error) }}

// call runs f with room for an error and makes a *status.Error of what it reports. failed is the code of failures that say nothing
// about the device or the library.
func call(failed status.Code, f func(*C.bei_trt_error) C.int32_t) error {
	e := errorPool.Get().(*C.bei_trt_error)
	defer errorPool.Put(e)
	if code := f(e); code != 0 {
		return failure(code, e, failed)
	}
	return nil
}

func failure(code C.int32_t, e *C.bei_trt_error, failed status.Code) error {
	text := C.GoString(&e.text[0])
	switch code {
	case C.CALL_EXITING:
		return status.Errorf(status.ShutDown, "%s", text)
	case C.BEI_TRT_UNSUPPORTED:
		return status.Errorf(status.Unsupported, "%s", text)
	case C.BEI_TRT_NO_LIBRARY:
		return status.Errorf(status.NoBackend, "%s", text)
	case C.BEI_TRT_LOST:
		return status.Errorf(status.Unhealthy, "%s", text)
	case C.BEI_TRT_BAD_PLAN:
		return status.Errorf(failed, "%w: %s", ErrBadPlan, text)
	case C.BEI_TRT_NO_MEMORY:
		return status.Errorf(failed, "%w: %s", ErrNoMemory, text)
	}
	return status.Errorf(failed, "%s", text)
}

// Device is a CUDA device.
type Device struct {
	Index        int // CUDA's
	Name, UUID   string
	ComputeMajor int
	ComputeMinor int
	Driver       int // CUDA version that the driver serves, such as 13000
	MemoryTotal  uint64
	MemoryFree   uint64
}

// DeviceCount is the number of CUDA devices that this process sees. It makes no context.
func (l *Library) DeviceCount() (int, error) {
	var count C.int32_t
	err := call(status.Start, func(e *C.bei_trt_error) C.int32_t { return C.call_device_count(l.api, l.library, &count, e) })
	return int(count), err
}

// Device describes the CUDA device of that index, in CUDA's order. It makes the device's primary context, which takes a moment and
// memory, and fails where another process has the device for itself: so it is for devices that will be used.
func (l *Library) Device(index int) (Device, error) {
	var d C.bei_trt_device
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t {
		return C.call_device_get(l.api, l.library, C.int32_t(index), &d, e)
	}); err != nil {
		return Device{}, err
	}
	return Device{
		Index: index, Name: C.GoString(&d.name[0]), UUID: C.GoString(&d.uuid[0]),
		ComputeMajor: int(d.compute_major), ComputeMinor: int(d.compute_minor),
		Driver: int(d.driver), MemoryTotal: uint64(d.memory_total), MemoryFree: uint64(d.memory_free),
	}, nil
}

// blob copies what C owns into Go memory and frees it.
func (l *Library) blob(b *C.bei_trt_blob) []byte {
	defer C.call_blob_free(l.api, b)
	var size C.size_t
	data := C.call_blob_data(l.api, b, &size)
	return append([]byte(nil), unsafe.Slice((*byte)(data), int(size))...)
}
