// Package vectors holds what every row that a run gives goes through on its way to the caller, on one core while the slot waits. It is C,
// whose compiler makes vector instructions of it (vectors.h says what it computes). Safe from any goroutine.
package vectors

// #cgo CFLAGS: -std=gnu11 -O3 -Wall -Wextra
// #cgo LDFLAGS: -lm
// #cgo noescape bei_vectors_squares
// #cgo nocallback bei_vectors_squares
// #cgo noescape bei_vectors_normalize
// #cgo nocallback bei_vectors_normalize
// #include "vectors.h"
import "C"

import "unsafe"

var avx2 = C.bei_vectors_avx2()

// Finite reports that v holds neither NaN nor infinity.
func Finite(v []float32) bool {
	squares := C.bei_vectors_squares((*C.float)(unsafe.SliceData(v)), C.size_t(len(v)), avx2)
	return squares-squares == 0
}

// Normalize writes the first len(dst) numbers of src, which are not all zero, scaled to length 1 as sentence-transformers does it, but
// with the sum of squares in float64. dst and src must not overlap.
func Normalize(dst, src []float32) {
	src = src[:len(dst)]
	C.bei_vectors_normalize((*C.float)(unsafe.SliceData(dst)), (*C.float)(unsafe.SliceData(src)), C.size_t(len(dst)), avx2)
}
