package ort

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/cuda"
	"github.com/basetenlabs/bei-runtime/backend/install"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// DataType is an ONNX tensor element type (TensorProto.DataType).
type DataType int32

// The element types of initializers, inputs and outputs.
const (
	Float32  DataType = 1
	Int32    DataType = 6
	Int64    DataType = 7
	Float16  DataType = 10
	BFloat16 DataType = 16
)

// Builder collects what a session is made of. One goroutine uses it.
type Builder struct{ c *C.bei_ort_builder }

// NewBuilder starts a session with that many threads for the work inside a run, the calling one included. Load must
// have succeeded.
func NewBuilder(threads int) (*Builder, error) {
	b := new(Builder)
	return b, check(status.Start, "session options", C.bei_ort_builder_new(C.int32_t(threads), &b.c))
}

// CUDA makes the session run on a CUDA device, with more options of ONNX Runtime's CUDA provider. It loads the provider
// and, with it, CUDA: NoBackend says what is missing.
func (b *Builder) CUDA(device int, options map[string]string) error {
	var keys, values []*C.char
	add := func(key, value string) {
		keys, values = append(keys, C.CString(key)), append(values, C.CString(value))
	}
	add("device_id", strconv.Itoa(device))
	for k, v := range options {
		add(k, v)
	}
	defer func() {
		for i := range keys {
			C.free(unsafe.Pointer(keys[i]))
			C.free(unsafe.Pointer(values[i]))
		}
	}()
	err := check(status.NoBackend, "CUDA provider", C.bei_ort_builder_cuda(b.c, C.int32_t(device),
		unsafe.SliceData(keys), unsafe.SliceData(values), C.size_t(len(keys))))
	if status.CodeOf(err) == status.NoBackend {
		return status.Errorf(status.NoBackend, "%w. The provider's libraries lie beside %q; it needs a driver for CUDA 13 and, where the loader finds "+
			"them (LD_LIBRARY_PATH, or ldconfig), CUDA 13 and cuDNN 9: PyPI has them as nvidia-cublas, nvidia-cuda-runtime, nvidia-curand "+
			"and nvidia-cudnn-cu13", err, Path())
	}
	return err
}

// CUDAOperators declares our operators on CUDA (the domains bei.float32, bei.float16 and bei.bfloat16) to the session. Once, before
// Session.
func (b *Builder) CUDAOperators(device int) error {
	return check(status.Start, "operators on CUDA", C.bei_ort_builder_cuda_operators(b.c, C.int32_t(device)))
}

// KernelsFile is the PTX of our CUDA kernels, which lies beside the build of ONNX Runtime that has CUDA.
const KernelsFile = "bei_cuda.ptx"

const fixKernels = "Fix: make install_gpu; on other machines than x86-64 copy " + KernelsFile + " from an x86-64 one, it is for every GPU"

// LoadCUDAKernels loads the kernels of the operators on CUDA, once for the process: from where an installation has ONNX Runtime with CUDA,
// or from beside the one that is loaded. NoBackend says what is missing or of another version.
func LoadCUDAKernels() error {
	var candidates []string
	if folder := install.Folder(); folder != "" {
		candidates = append(candidates, filepath.Join(folder, folderOfGPU, KernelsFile))
	}
	if path := Path(); filepath.Base(path) != path { // else the loader found it, nobody knows where
		candidates = append(candidates, filepath.Join(filepath.Dir(path), KernelsFile))
	}
	for _, path := range candidates {
		ptx, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return status.Errorf(status.NoBackend, "our CUDA kernels: %w", err)
		}
		if !cuda.IsCurrent(ptx) {
			return status.Errorf(status.NoBackend, "our CUDA kernels in %s are of another version than this library. %s", path, fixKernels)
		}
		text := C.CString(string(ptx)) // read while it is loaded only
		defer C.free(unsafe.Pointer(text))
		return check(status.NoBackend, path, C.bei_ort_cuda_kernels(text))
	}
	return status.Errorf(status.NoBackend, "our CUDA kernels are missing; looked for %s. %s", strings.Join(candidates, ", "), fixKernels)
}

// CUDAUUID returns the UUID of a CUDA device as NVML has it, but for the prefix, which is a GPU's for MIG devices, too. A session must
// have been created on the device.
func CUDAUUID(device int) (string, error) {
	var u [16]byte
	err := check(status.Start, fmt.Sprintf("UUID of CUDA device %d", device), C.bei_ort_cuda_uuid(C.int32_t(device), (*C.uchar)(&u[0])))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:]), nil
}

// Free releases the builder and what it still owns.
func (b *Builder) Free() {
	C.bei_ort_builder_free(b.c)
	b.c = nil
}

// Add gives an external initializer of the model its numbers. data must lie outside the Go heap. It is not read any
// more when the session has been created, which copies or packs it.
func (b *Builder) Add(name string, dtype DataType, dims []int64, data []byte) error {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	return check(status.Start, "weight "+name, C.bei_ort_builder_add(b.c, cname, C.int32_t(dtype), (*C.int64_t)(unsafe.SliceData(dims)),
		C.size_t(len(dims)), unsafe.Pointer(unsafe.SliceData(data)), C.size_t(len(data))))
}

// Bind binds an input of the model to data, which every run reads in place. data must lie outside the Go heap and stay
// readable until the session is closed.
func (b *Builder) Bind(name string, dtype DataType, dims []int64, data []byte) error {
	cname := C.CString(name)
	defer C.free(unsafe.Pointer(cname))
	return check(status.Start, "table "+name, C.bei_ort_builder_bind(b.c, cname, C.int32_t(dtype), (*C.int64_t)(unsafe.SliceData(dims)),
		C.size_t(len(dims)), unsafe.Pointer(unsafe.SliceData(data)), C.size_t(len(data))))
}

// Weights are constants on a device that several sessions read.
type Weights struct{ c *C.bei_ort_weights }

// Weights copies what Add was given to the builder's device: CUDA's, or the CPU. The data are not read any more afterwards.
func (b *Builder) Weights() (*Weights, error) {
	w := new(Weights)
	return w, check(status.Start, "weights on the device", C.bei_ort_weights_new(b.c, &w.c))
}

// Close frees the weights, after the sessions that share them. Calling it twice is harmless; nil is allowed.
func (w *Weights) Close() {
	if w != nil {
		C.bei_ort_weights_free(w.c)
		w.c = nil
	}
}

// Share gives the session weights instead of Add. folder holds a file of the name that the model gives as the place of external numbers,
// until Session returns; it may be empty.
func (b *Builder) Share(w *Weights, folder string) error {
	path := C.CString(folder)
	defer C.free(unsafe.Pointer(path))
	return check(status.Start, "sharing weights", C.bei_ort_builder_share(b.c, w.c, path))
}

// Session is a loaded model. Runs may go on at once; on CUDA they take turns on its one stream.
type Session struct{ c *C.bei_ort_session }

// Session creates the session from a serialised ModelProto. Only Free may follow on the builder.
func (b *Builder) Session(model []byte) (*Session, error) {
	s := new(Session)
	return s, check(status.Start, "loading the graph", C.bei_ort_session_new(b.c,
		unsafe.Pointer(unsafe.SliceData(model)), C.size_t(len(model)), &s.c))
}

// Close frees the session. No run may be in progress. Calling it twice is harmless.
func (s *Session) Close() {
	C.bei_ort_session_free(s.c)
	s.c = nil
}

// HostMemory allocates memory for Tensors of the session's runs: page-locked where they go to a device. It must be given
// to FreeHostMemory before the session is closed.
func (s *Session) HostMemory(bytes int) ([]byte, error) {
	var data unsafe.Pointer
	if err := check(status.Inference, fmt.Sprintf("%d bytes of host memory", bytes), C.bei_ort_host_new(s.c, C.size_t(bytes), &data)); err != nil {
		return nil, err
	}
	return unsafe.Slice((*byte)(data), bytes), nil
}

// FreeHostMemory frees what HostMemory returned; nil is allowed.
func (s *Session) FreeHostMemory(memory []byte) {
	C.bei_ort_host_free(s.c, unsafe.Pointer(unsafe.SliceData(memory)))
}

// Runner runs sessions, one run at a time.
type Runner struct{ c *C.bei_ort_run }

// NewRunner makes a Runner.
func NewRunner() (*Runner, error) {
	r := new(Runner)
	return r, check(status.Start, "run options", C.bei_ort_run_new(&r.c))
}

// Close frees the runner. Calling it twice is harmless.
func (r *Runner) Close() {
	C.bei_ort_run_free(r.c)
	r.c = nil
}

// Packed is the input of a run and the memory for its outputs.
type Packed struct {
	InputIDs, TypeIDs, PositionIDs []int32   // [T], T >= 1
	CuSeqLens                      []int32   // [n+1]
	PoolSkip                       []int32   // [n]
	Pooled                         []float32 // [n, PooledWidth]; nil: not fetched
	PooledWidth                    int
	TokenVectors                   []float32 // [T, TokenWidth]; nil: not fetched
	TokenWidth                     int
	Sparse                         []float32 // [n, SparseWidth]; nil: not fetched
	SparseWidth                    int
	Maxima                         []float32 // [1, len]; nil: not fetched
	Shrink                         bool      // give memory that only this run needed back to the system
}

// Run computes p's outputs. At least one must be wanted. When ctx ends, the run ends between two nodes of the graph and
// Run returns Cancelled or Timeout. Errors of the library are Inference.
func (r *Runner) Run(ctx context.Context, s *Session, p *Packed) error {
	var shrink C.int32_t
	if p.Shrink {
		shrink = 1
	}
	return r.watched(ctx, func() *C.char {
		return C.bei_ort_run_packed(s.c, r.c,
			ids(p.InputIDs), ids(p.TypeIDs), ids(p.PositionIDs), ids(p.CuSeqLens), ids(p.PoolSkip),
			C.int64_t(len(p.InputIDs)), C.int64_t(len(p.CuSeqLens)-1),
			(*C.float)(unsafe.SliceData(p.Pooled)), C.int64_t(p.PooledWidth),
			(*C.float)(unsafe.SliceData(p.TokenVectors)), C.int64_t(p.TokenWidth),
			(*C.float)(unsafe.SliceData(p.Sparse)), C.int64_t(p.SparseWidth),
			(*C.float)(unsafe.SliceData(p.Maxima)), C.int64_t(len(p.Maxima)), shrink)
	})
}

// watched runs and ends the run when ctx ends.
func (r *Runner) watched(ctx context.Context, run func() *C.char) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	if ctx.Done() != nil {
		off := onEnd(ctx, func() { C.bei_ort_run_terminate(r.c) })
		defer func() {
			if off() {
				C.bei_ort_run_reset(r.c)
			}
		}()
	}
	err := check(status.Inference, "run", run())
	if err != nil && ctx.Err() != nil {
		return ended(ctx)
	}
	return err
}

// onEnd calls f on a goroutine of its own when ctx ends. off calls that off and reports whether f was called, and then f has
// returned. (What context.AfterFunc returns does not wait: f could come later, and end the run of another call.)
func onEnd(ctx context.Context, f func()) (off func() bool) {
	returned := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(returned)
		f()
	})
	return func() bool {
		if stop() {
			return false
		}
		<-returned
		return true
	}
}

func ids(s []int32) *C.int32_t { return (*C.int32_t)(unsafe.SliceData(s)) }

func ended(ctx context.Context) error {
	code := status.Cancelled
	if ctx.Err() == context.DeadlineExceeded {
		code = status.Timeout
	}
	return status.Errorf(code, "run: %w", ctx.Err())
}
