package main

import (
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// address is a pointer of the caller's, as a number. (cgo wants it spelled uintptr in exported functions.)
type address = uintptr

const (
	// maxCount bounds every count and size that a caller gives.
	maxCount = 1 << 31
	// maxStructSize bounds struct_size: how far a struct is believed to reach.
	maxStructSize = 4096
	// firstAddress is the lowest address that can be mapped (Linux: vm.mmap_min_addr's usual floor).
	firstAddress = 4096
)

// pointerTo makes a pointer of an address that was checked. The memory is the caller's, so Go's collector has no say.
func pointerTo[T any](p address) *T { return *(**T)(unsafe.Pointer(&p)) }

// checkAddress refuses what cannot be the address of size bytes.
func checkAddress(name string, p address, size, align uintptr) error {
	switch {
	case p == 0:
		return status.Errorf(status.InvalidArgument, "%s is NULL", name)
	case p < firstAddress || p > ^uintptr(0)-size:
		return status.Errorf(status.InvalidArgument, "%s is %#x, which is no address of %d bytes", name, p, size)
	case p%align != 0:
		return status.Errorf(status.InvalidArgument, "%s is %#x, which is not aligned to %d bytes", name, p, align)
	}
	return nil
}

// sliceAt is the caller's array of n values, without a copy: nil for NULL, which needs n = 0. sizeName is the field or
// argument that gave n.
func sliceAt[T any](name string, p address, sizeName string, n uintptr) ([]T, error) {
	if n == 0 {
		if p == 0 {
			return nil, nil
		}
		return []T{}, nil
	}
	if n > maxCount {
		return nil, status.Errorf(status.InvalidArgument, "%s is %d, the limit is %d", sizeName, n, uint64(maxCount))
	}
	if p == 0 {
		return nil, status.Errorf(status.InvalidArgument, "%s is NULL, but %s is %d", name, sizeName, n)
	}
	var zero T
	if err := checkAddress(name, p, n*unsafe.Sizeof(zero), unsafe.Alignof(zero)); err != nil {
		return nil, err
	}
	return unsafe.Slice(pointerTo[T](p), n), nil
}

// stringAt is the caller's text, without a copy.
func stringAt(name string, p address, sizeName string, n uintptr) (string, error) {
	b, err := sliceAt[byte](name, p, sizeName, n)
	return unsafe.String(unsafe.SliceData(b), len(b)), err
}

// target is where a call writes one value.
func target[T any](name string, p address) (*T, error) {
	var zero T
	if err := checkAddress(name, p, unsafe.Sizeof(zero), unsafe.Alignof(zero)); err != nil {
		return nil, err
	}
	return pointerTo[T](p), nil
}

// structSize checks a struct that begins with struct_size, and returns how many bytes of it the caller and a library that
// knows known bytes share. first is its size in version 1: no caller has a smaller one. A larger one is a newer caller's, and is
// refused when it asks for what is not known here.
func structSize(name string, p address, known, first uintptr) (uintptr, error) {
	if err := checkAddress(name, p, first, unsafe.Alignof(p)); err != nil {
		return 0, err
	}
	size := *pointerTo[uintptr](p)
	if size < first || size > maxStructSize {
		return 0, status.Errorf(status.InvalidArgument, "%s.struct_size is %d, not %d: set it to sizeof the struct", name, size, known)
	}
	if size <= known {
		return size, nil
	}
	for i, b := range unsafe.Slice(pointerTo[byte](p), size)[known:] {
		if b != 0 {
			return 0, status.Errorf(status.InvalidArgument, "%s.struct_size is %d, this library knows %d bytes, and byte %d after them is not zero: "+
				"a field of a newer version is used", name, size, known, i)
		}
	}
	return known, nil
}

// readStruct copies a caller's struct; fields that an older caller's lacks are zero.
func readStruct[T any](name string, p address, first uintptr) (value T, err error) {
	size, err := structSize(name, p, unsafe.Sizeof(value), first)
	if err != nil {
		return value, err
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&value)), size), unsafe.Slice(pointerTo[byte](p), size))
	return value, nil
}

// writeStruct fills in a caller's struct, as far as it reaches, and leaves its struct_size.
func writeStruct[T any](name string, p address, first uintptr, value T) error {
	size, err := structSize(name, p, unsafe.Sizeof(value), first)
	if err != nil {
		return err
	}
	skip := unsafe.Sizeof(size)
	copy(unsafe.Slice(pointerTo[byte](p), size)[skip:], unsafe.Slice((*byte)(unsafe.Pointer(&value)), size)[skip:])
	return nil
}
