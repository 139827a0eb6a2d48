package main

import (
	"errors"
	"math"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// A struct of version 1, and what a later version of the library would know of it.
type (
	versionOne struct {
		structSize uintptr
		a          uint64
	}
	versionTwo struct {
		versionOne
		b, c uint64
	}
)

const firstSize = unsafe.Sizeof(versionOne{})

// at is the address of value, as C would pass it. The value escapes to the heap: a variable on a stack moves when the stack grows.
func at[T any](value *T) address {
	heap = value
	return address(unsafe.Pointer(value))
}

var heap any

// TestOlderCaller: fields that a caller's struct lacks read as zero, and are not written.
func TestOlderCaller(t *testing.T) {
	memory := versionTwo{versionOne{firstSize, 5}, 6, 7}
	read, err := readStruct[versionTwo]("s", at(&memory), firstSize)
	require.NoError(t, err)
	require.Equal(t, versionTwo{versionOne{firstSize, 5}, 0, 0}, read)
	require.NoError(t, writeStruct("s", at(&memory), firstSize, versionTwo{versionOne{0, 1}, 2, 3}))
	require.Equal(t, versionTwo{versionOne{firstSize, 1}, 6, 7}, memory)

	memory.structSize = firstSize + 8
	read, err = readStruct[versionTwo]("s", at(&memory), firstSize)
	require.NoError(t, err)
	require.Equal(t, versionTwo{versionOne{firstSize + 8, 1}, 6, 0}, read)
}

// TestNewerCaller: what this library does not know must be zero.
func TestNewerCaller(t *testing.T) {
	memory := versionTwo{versionOne{unsafe.Sizeof(versionTwo{}), 5}, 0, 0}
	read, err := readStruct[versionOne]("s", at(&memory), firstSize)
	require.NoError(t, err)
	require.Equal(t, memory.versionOne, read)
	require.NoError(t, writeStruct("s", at(&memory), firstSize, versionOne{0, 9}))
	require.Equal(t, versionTwo{versionOne{32, 9}, 0, 0}, memory)
	memory.c = 1 << 56
	_, err = readStruct[versionOne]("s", at(&memory), firstSize)
	require.EqualError(t, err, "s.struct_size is 32, this library knows 16 bytes, and byte 15 after them is not zero: a field of a newer version is used")
	require.Equal(t, status.InvalidArgument, status.CodeOf(err))
	require.Error(t, writeStruct("s", at(&memory), firstSize, versionOne{}))
}

func TestSliceAt(t *testing.T) {
	values := []uint32{1, 2, 3}
	p := at(&values[0])
	for _, c := range []struct {
		p    address
		n    uintptr
		want []uint32
		text string
	}{
		{p, 3, values, ""},
		{p, 0, []uint32{}, ""},
		{1, 0, []uint32{}, ""},
		{0, 0, nil, ""},
		{0, 2, nil, "rows is NULL, but n is 2"},
		{p + 2, 1, nil, "is not aligned to 4 bytes"},
		{8, 1, nil, "rows is 0x8, which is no address of 4 bytes"},
		{math.MaxUint64 - 7, 4, nil, "is no address of 16 bytes"},
		{p, 1<<31 + 1, nil, "n is 2147483649, the limit is 2147483648"},
		{p, math.MaxUint64, nil, "n is 18446744073709551615, the limit is 2147483648"},
	} {
		got, err := sliceAt[uint32]("rows", c.p, "n", c.n)
		if c.text == "" {
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			continue
		}
		require.ErrorContains(t, err, c.text)
		require.Equal(t, status.InvalidArgument, status.CodeOf(err))
	}
	got := must(sliceAt[uint32]("rows", p, "n", 3))
	require.Same(t, &values[0], &got[0], "no copy")
}

func TestLongestDurations(t *testing.T) {
	require.Equal(t, 5*time.Microsecond, microseconds(5))
	require.Equal(t, time.Duration(math.MaxInt64), microseconds(math.MaxUint64))
	require.Equal(t, time.Duration(math.MaxInt64), microseconds(math.MaxInt64/1000+1))
	require.Equal(t, 5*time.Millisecond, milliseconds(5))
	require.Equal(t, time.Duration(math.MaxInt64), milliseconds(math.MaxUint64))
}

// TestGuard: errors and panics become what C gets.
func TestGuard(t *testing.T) {
	lines := make(chan string, 10)
	backend.SetLogSink(func(_ int32, line []byte) { lines <- string(line) })
	defer backend.SetLogSink(nil)
	require.Nil(t, guard(func() error { return nil }))
	for _, c := range []struct {
		call func() error
		code status.Code
		text string
	}{
		{func() error { return status.Errorf(status.TooLong, "too \xff\x00 long") }, status.TooLong, "too \uFFFD\\0 long"},
		{func() error { return errors.New("plain") }, status.Internal, "plain"},
		{func() error { panic("seeded") }, status.Internal, "panic: seeded (its stack is in the log; please report it)"},
		{func() error { var none *status.Error; return errors.New(none.Msg) }, status.Internal, "nil pointer"},
	} {
		// As trampolines.c has it; tests cannot import C.
		e := (*struct {
			code, isStatic int32
			message        *byte
		})(unsafe.Pointer(guard(c.call)))
		require.Equal(t, int32(c.code), e.code)
		require.Contains(t, cString(e.message), c.text)
	}
	require.Contains(t, <-lines, "TestGuard")
	guardAccessor(func() { panic("in an accessor") })
	<-lines
	require.Contains(t, <-lines, "in an accessor")
}

func cString(p *byte) string {
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return unsafe.String(p, n)
}

// TestPinned: a result's memory can be read as C does, until it is freed; then its table is as before.
func TestPinned(t *testing.T) {
	before := results.size()
	handle := results.add(newTextResult("some text"))
	var size uintptr
	p := goResultText(handle, 0, at(&size))
	require.Equal(t, "some text\x00", unsafe.String(pointerTo[byte](p), 10))
	require.Equal(t, uintptr(9), size)
	require.Equal(t, p, goResultText(handle, 0, 0))
	goResultFree(handle)
	goResultFree(handle)
	require.Zero(t, goResultText(handle, 0, at(&size)))
	require.Equal(t, before, results.size())
}
