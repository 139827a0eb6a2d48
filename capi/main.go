// Command capi is built as libbei.so (-buildmode=c-shared): C types in, Go values out. trampolines.c defines the functions
// of include/bei.h, and each forwards to the Go function of its name here.
//
// A pointer of the caller's is a number here (address) until memory.go has checked it: a wild value in a Go pointer
// variable can stop the garbage collector, or be taken for an object of its own.
package main

// #cgo CFLAGS: -I${SRCDIR}/../include -std=c11 -Wall -Wextra
// #cgo LDFLAGS: -L${SRCDIR}/../.deps/lib -lnvml_forward
// #include "capi.h"
import "C"

import "github.com/basetenlabs/bei-runtime/backend"

func main() {}

// The texts stay for the process's lifetime.
func init() { C.capi_set_texts(C.CString(backend.Version), C.CString(backend.Schema())) }

// goWaitForStart returns when init has run: every function that C calls waits for that.
//
//export goWaitForStart
func goWaitForStart() {}
