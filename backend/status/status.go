// Package status has the status codes of the library and the error type that carries them. The numbers are those of the
// BEI_* constants in include/bei.h; capi asserts at compile time that they agree.
package status

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an error or a failed item is.
type Code int32

// Codes of calls, then (from 32) codes that only items have. include/bei.h tells their meanings.
const (
	OK              Code = 0
	InvalidArgument Code = 1
	InvalidHandle   Code = 2
	Unsupported     Code = 3
	NoBackend       Code = 4
	Start           Code = 5
	WeightsNotFound Code = 6
	Inference       Code = 7
	Unhealthy       Code = 8
	Overloaded      Code = 9
	Timeout         Code = 10
	Cancelled       Code = 11
	ShutDown        Code = 12
	Forked          Code = 13
	Internal        Code = 14
	BufferTooSmall  Code = 15

	Empty           Code = 32
	TooLong         Code = 33
	InvalidUTF8     Code = 34
	TokenOutOfRange Code = 35
	NonFinite       Code = 36
	Tokenization    Code = 37
	NulByte         Code = 38
)

var names = map[Code]string{
	OK: "OK", InvalidArgument: "INVALID_ARGUMENT", InvalidHandle: "INVALID_HANDLE", Unsupported: "UNSUPPORTED",
	NoBackend: "NO_BACKEND", Start: "START", WeightsNotFound: "WEIGHTS_NOT_FOUND", Inference: "INFERENCE",
	Unhealthy: "UNHEALTHY", Overloaded: "OVERLOADED", Timeout: "TIMEOUT", Cancelled: "CANCELLED",
	ShutDown: "SHUT_DOWN", Forked: "FORKED", Internal: "INTERNAL", BufferTooSmall: "BUFFER_TOO_SMALL",
	Empty: "EMPTY", TooLong: "TOO_LONG", InvalidUTF8: "INVALID_UTF8", TokenOutOfRange: "TOKEN_OUT_OF_RANGE",
	NonFinite: "NON_FINITE", Tokenization: "TOKENIZATION", NulByte: "NUL_BYTE",
}

// String returns the name in the header without its prefix, such as "TOO_LONG"; "UNKNOWN" for other numbers.
func (c Code) String() string {
	if s, ok := names[c]; ok {
		return s
	}
	return "UNKNOWN"
}

// Error is a failure with a code. Its message names the thing, the value and, where there is one, the fix.
type Error struct {
	Code  Code
	Msg   string
	cause error
}

// Errorf makes an *Error. As with fmt.Errorf, %w keeps the wrapped error for errors.Is and errors.As.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Msg: err.Error(), cause: errors.Unwrap(err)}
}

func (e *Error) Error() string { return e.Msg }

func (e *Error) Unwrap() error { return e.cause }

// Is makes errors.Is(err, &Error{Code: c}) compare codes.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Msg == "" || t.Msg == e.Msg)
}

// Of returns err as an *Error: itself when one is in its chain (with err's whole text), else code fallback. nil stays nil.
func Of(err error, fallback Code) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if !errors.As(err, &e) {
		return &Error{Code: fallback, Msg: err.Error(), cause: err}
	}
	if e.Msg == err.Error() {
		return e
	}
	return &Error{Code: e.Code, Msg: err.Error(), cause: err}
}

// CodeOf returns the code of err: OK for nil, Internal where the chain has no *Error.
func CodeOf(err error) Code {
	if err == nil {
		return OK
	}
	return Of(err, Internal).Code
}
