package weights

import (
	"encoding/binary"
	"math"
	"unsafe"
)

// Tensor is a view of one stored tensor: row-major, little-endian, in the file's read-only mapping. It is valid until the
// Set's Close; a use after that is a fault that ends the process. Writing to it is such a fault too.
type Tensor struct {
	Name  string
	DType DType // F32, F16 or BF16
	Shape []int // empty for a scalar; not to be changed
	data  []byte
}

// Bytes returns the stored bytes, without a copy.
func (t Tensor) Bytes() []byte { return t.data }

// Len is the number of elements.
func (t Tensor) Len() int { return len(t.data) * 8 / t.DType.bits() }

// Rows returns rows [from, to) of the first dimension, which must be within it. The tensor must not be a scalar.
func (t Tensor) Rows(from, to int) Tensor {
	row := len(t.data) / max(t.Shape[0], 1)
	part := t
	part.data = t.data[from*row : to*row : to*row]
	part.Shape = append([]int{to - from}, t.Shape[1:]...)
	return part
}

// littleEndian is false on machines whose float32 is not laid out as the file's.
var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// Float32 returns the elements in place, without a copy. It is false where the dtype is not F32, the data is not 4-byte aligned
// (the format does not promise that) or the machine is big-endian: then AppendFloat32 is the way.
func (t Tensor) Float32() ([]float32, bool) {
	if t.DType != F32 || !littleEndian {
		return nil, false
	}
	if len(t.data) == 0 {
		return []float32{}, true
	}
	p := unsafe.Pointer(unsafe.SliceData(t.data))
	if uintptr(p)%unsafe.Alignof(float32(0)) != 0 {
		return nil, false
	}
	return unsafe.Slice((*float32)(p), len(t.data)/4), true
}

// AppendFloat32 appends the elements, converted exactly, to dst and returns it.
func (t Tensor) AppendFloat32(dst []float32) []float32 {
	if view, ok := t.Float32(); ok {
		return append(dst, view...)
	}
	at := len(dst)
	if need := at + t.Len(); cap(dst) < need {
		dst = append(make([]float32, 0, need), dst...)
	}
	dst = dst[:at+t.Len()]
	out := dst[at:]
	switch t.DType {
	case F32:
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.data[4*i:]))
		}
	case F16:
		for i := range out {
			out[i] = float16(binary.LittleEndian.Uint16(t.data[2*i:]))
		}
	case BF16: // the upper half of a float32
		for i := range out {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(t.data[2*i:])) << 16)
		}
	}
	return dst
}

// float16 converts IEEE 754 binary16. Shifting the 10 fraction bits under float32's 23 leaves an exponent that is 127 - 15
// too small; the product with 2^112 mends it and normalises subnormals, exactly.
func float16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	rest := uint32(h&0x7fff) << 13
	if rest >= 0x7c00<<13 { // infinity, or NaN with its payload
		return math.Float32frombits(sign | 0x7f800000 | rest)
	}
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(rest)*0x1p112))
}
