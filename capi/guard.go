package main

// #include "capi.h"
import "C"

import (
	"runtime/debug"
	"strings"
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// guard runs one call from C: its error goes out as a bei_error, and a panic ends here, as Internal.
func guard(call func() error) (failure *C.bei_error) {
	defer func() {
		if p := recover(); p != nil {
			backend.LogPanic(p, debug.Stack())
			failure = newError(status.Errorf(status.Internal, "panic: %v (its stack is in the log; please report it)", p))
		}
	}()
	return newError(call())
}

// guardAccessor runs an accessor of results, which has no error to return. After a panic its outputs are what they were.
func guardAccessor(read func()) {
	defer func() {
		if p := recover(); p != nil {
			backend.LogPanic(p, debug.Stack())
		}
	}()
	read()
}

// newError makes the C form of an error: the only place that does. nil gives NULL.
func newError(err error) *C.bei_error {
	if err == nil {
		return nil
	}
	e := status.Of(err, status.Internal)
	text := cText(e.Msg)
	return C.capi_error_new(C.int32_t(e.Code), (*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text)))
}

// cText makes a message fit for a C string: UTF-8 without NUL. Messages may quote what the caller sent.
func cText(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", `\0`)
}
