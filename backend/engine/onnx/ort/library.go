// Package ort is a thin layer over ONNX Runtime's C API: it opens the shared library at run time, makes sessions from
// models whose weights stay in the caller's memory, and runs them. The operators of domain "bei" (attention and what
// else ONNX Runtime does badly) belong to it; kernels has their arithmetic.
//
// The shared library and its environment are one for each process and are never unloaded: its threads and statics do
// not survive that.
package ort

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra -I${SRCDIR}/../../../../.deps/include
// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "../../../exiting/exiting.h"
// #include "shim.h"
import "C"

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	_ "github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels" // the C functions that the operators call
	_ "github.com/basetenlabs/bei-runtime/backend/exiting"             // and those that run before the process exits
	"github.com/basetenlabs/bei-runtime/backend/install"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// LibraryVariable names the environment variable with the path of the ONNX Runtime library.
const LibraryVariable = "BEI_ONNXRUNTIME_LIB"

const soname = "libonnxruntime.so.1"

// folderOfGPU is the folder beside libbei.so for a build of ONNX Runtime with its CUDA provider, which is too large to
// come along by default.
const folderOfGPU = "onnxruntime-gpu"

var library struct {
	sync.Mutex           // guards the fields and the call of bei_ort_load
	path, version string // empty: not loaded
}

// Load opens the ONNX Runtime library, once for the process, and returns its version. Where path is set it is that
// file; else the file that BEI_ONNXRUNTIME_LIB names; else libonnxruntime.so.1 in the folder of libbei.so (or of the
// executable that holds this code), then wherever the loader finds it. With cuda, onnxruntime-gpu/libonnxruntime.so.1 in
// that folder comes before these, and a library without the CUDA provider is an error. A failed call can be repeated.
// Errors: NoBackend, which lists what was tried; InvalidArgument where another library than path is loaded already.
func Load(path string, cuda bool) (version string, err error) {
	if version, err = open(path, cuda); err != nil || !cuda {
		return version, err
	}
	return version, requireCUDA()
}

const forCUDA = "device cuda needs a build of ONNX Runtime with the CUDA provider (PyPI: onnxruntime-gpu; `make setup_gpu` fetches it to " +
	".deps/gpu/onnxruntime/): put it into " + folderOfGPU + "/ beside libbei.so, or name it with the option onnxruntime.library or the " +
	"environment variable " + LibraryVariable + "; our kernels, bei_cuda.ptx, lie beside it"

// requireCUDA reports a library without the CUDA provider.
func requireCUDA() error {
	name := C.CString("CUDAExecutionProvider")
	defer C.free(unsafe.Pointer(name))
	var has C.int32_t
	if err := check(status.NoBackend, "list of providers", C.bei_ort_has_provider(name, &has)); err != nil {
		return err
	}
	if has == 0 {
		return status.Errorf(status.NoBackend, "ONNX Runtime library %q has no CUDA provider, and a process can load only one library; %s", Path(), forCUDA)
	}
	return nil
}

// Path returns the file of the loaded library; "" before that.
func Path() string {
	library.Lock()
	defer library.Unlock()
	return library.path
}

func open(path string, cuda bool) (version string, err error) {
	library.Lock()
	defer library.Unlock()
	if library.version != "" {
		if path != "" && path != library.path {
			return "", status.Errorf(status.InvalidArgument, "ONNX Runtime library %q: this process has loaded %q already, and it can load only one",
				path, library.path)
		}
		return library.version, nil
	}
	var tried []string
	for _, candidate := range candidates(path, cuda) {
		version, err := load(candidate)
		if err == "" {
			library.path, library.version = candidate, version
			return version, nil
		}
		tried = append(tried, err)
	}
	fix := "Put the library beside libbei.so, or name it with the option library or the environment variable " + LibraryVariable
	if cuda {
		fix = forCUDA
	}
	return "", status.Errorf(status.NoBackend, "no usable ONNX Runtime library (%s, version 1.%d or later). Tried: %s. %s",
		soname, int(C.bei_ort_min_minor()), strings.Join(tried, "; "), fix)
}

// candidates lists the files to try. A library that was named must be that one: falling back would hide a mistake.
func candidates(path string, cuda bool) []string {
	if path == "" {
		path = os.Getenv(LibraryVariable)
	}
	if path != "" {
		return []string{path}
	}
	var list []string
	if folder := install.Folder(); folder != "" {
		if cuda {
			list = append(list, filepath.Join(folder, folderOfGPU, soname))
		}
		list = append(list, filepath.Join(folder, soname))
	}
	return append(list, soname)
}

// load returns the library's version, or why it could not be loaded.
func load(path string) (version, failure string) {
	name := C.CString(path)
	defer C.free(unsafe.Pointer(name))
	var found *C.char
	if failure := take(C.bei_ort_load(name, &found)); failure != "" {
		return "", failure
	}
	return C.GoString(found), ""
}

// take frees a C error text and returns it; "" for NULL.
func take(text *C.char) string {
	if text == nil {
		return ""
	}
	defer C.free(unsafe.Pointer(text))
	return strings.TrimSpace(C.GoString(text))
}

// check makes an error with the code of a C error text: the one place that does.
func check(code status.Code, doing string, text *C.char) error {
	switch s := take(text); s {
	case "":
	case C.BEI_EXITING:
		return status.Errorf(status.ShutDown, "ONNX Runtime: %s: %s", doing, s)
	default:
		return status.Errorf(code, "ONNX Runtime: %s: %s", doing, s)
	}
	return nil
}

// Severity of a message: the numbers of OrtLoggingLevel.
type Severity int32

// The severities that are reported.
const (
	Warning Severity = 2
	Error   Severity = 3
	Fatal   Severity = 4
)

var logger atomic.Pointer[func(Severity, string)]

// SetLogger makes fn receive ONNX Runtime's messages, of all sessions; nil drops them, as before the first call. fn
// runs on the library's threads and may be running when SetLogger returns.
func SetLogger(fn func(Severity, string)) {
	if fn == nil {
		logger.Store(nil)
		return
	}
	logger.Store(&fn)
}

//export beiOrtLog
func beiOrtLog(severity C.int32_t, category, message *C.char) {
	defer func() { _ = recover() }() // a panic of the logger must not unwind into C++
	if fn := logger.Load(); fn != nil {
		(*fn)(Severity(severity), C.GoString(category)+": "+C.GoString(message))
	}
}
