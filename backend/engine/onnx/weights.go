package onnx

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// binder makes the weights of a graph, in its dtype. On the CPU, tables stay where the file has them: they are inputs of
// every run, so that only the pages of rows that texts use are ever in memory. All others are constants, which ONNX
// Runtime copies, or packs for its matrix products, when the session is created. It reads them in the file if dtype and
// layout allow it, else in memory that is made for them; neither stays resident afterwards.
type binder struct {
	g       *graph
	device  bool // tables are constants, too: on the device
	set     *weights.Set
	session *ort.Builder
	bound   map[string]string // name in the graph by what it was made of
	read    []weights.Tensor  // in place
	made    [][]byte          // mappings
}

// release lets everything go that only the making of the session needed.
func (b *binder) release() {
	for _, t := range b.read {
		b.set.Release(t)
	}
	for _, m := range b.made {
		_ = unix.Munmap(m) // it is a mapping of ours
	}
	b.read, b.made = nil, nil
}

// open returns a stored tensor of the shape that the model says.
func (b *binder) open(t arch.Tensor) (weights.Tensor, error) {
	stored, err := b.set.Tensor(t.Name)
	if err != nil {
		return stored, err
	}
	if !slices.Equal(stored.Shape, t.Shape) || stored.Len() == 0 {
		return stored, status.Errorf(status.Start, "tensor %q has shape %v; the model needs %v, without zeros", t.Name, stored.Shape, t.Shape)
	}
	return stored, nil
}

// declare adds an external initializer.
func (b *binder) declare(name string, dtype ort.DataType, shape []int) []int64 {
	dims := make([]int64, len(shape))
	for i, d := range shape {
		dims[i] = int64(d)
	}
	b.g.initializers = append(b.g.initializers, initializer{name: name, dtype: dtype, dims: dims})
	return dims
}

// make binds a new tensor of numbers that fill appends to an empty slice of just that capacity.
func (b *binder) make(key string, dtype ort.DataType, shape []int, fill func(dst []float32) ([]float32, error)) (string, error) {
	key = fmt.Sprintf("%d %s", dtype, key)
	if name, ok := b.bound[key]; ok {
		return name, nil
	}
	size := 1
	for _, d := range shape {
		if d < 1 || size > math.MaxInt/4/d {
			return "", status.Errorf(status.Start, "weight %s: shape %v is empty or too large", key, shape)
		}
		size *= d
	}
	memory, err := b.memory(key, 4*size)
	if err != nil {
		return "", err
	}
	filled, err := fill(unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(memory))), size)[:0])
	if err != nil {
		return "", err
	}
	if len(filled) != size {
		return "", status.Errorf(status.Start, "weight %s has %d numbers; the model needs %v", key, len(filled), shape)
	}
	if dtype != ort.Float32 {
		wide := memory
		if memory, err = b.memory(key, 2*size); err != nil {
			return "", err
		}
		if err := narrow(unsafe.Slice((*uint16)(unsafe.Pointer(unsafe.SliceData(memory))), size), filled, dtype); err != nil {
			return "", status.Errorf(status.CodeOf(err), "weight %s: %w", key, err)
		}
		b.made = slices.DeleteFunc(b.made, func(m []byte) bool { return unsafe.SliceData(m) == unsafe.SliceData(wide) })
		_ = unix.Munmap(wide) // it is a mapping of ours
	}
	name := fmt.Sprintf("w%d", len(b.g.initializers))
	if err := b.session.Add(name, dtype, b.declare(name, dtype, shape), memory); err != nil {
		return "", err
	}
	b.bound[key] = name
	return name, nil
}

// memory maps zeros, which release unmaps.
func (b *binder) memory(key string, size int) ([]byte, error) {
	memory, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, status.Errorf(status.Start, "weight %s: no memory for %d bytes: %w", key, size, err)
	}
	b.made = append(b.made, memory)
	return memory, nil
}

// constant binds numbers of ours.
func (b *binder) constant(key string, dtype ort.DataType, shape []int, numbers []float32) (string, error) {
	return b.make(key, dtype, shape, func(dst []float32) ([]float32, error) { return append(dst, numbers...), nil })
}

// scalar binds one number of the graph's dtype, inside the graph.
func (b *binder) scalar(x float32) string { return b.typedScalar(b.g.dtype, x) }

func (b *binder) typedScalar(dtype ort.DataType, x float32) string {
	name := fmt.Sprintf("w%d", len(b.g.initializers))
	raw := binary.LittleEndian.AppendUint32(nil, math.Float32bits(x))
	switch dtype {
	case ort.Float16:
		raw = binary.LittleEndian.AppendUint16(nil, float16(x))
	case ort.BFloat16:
		raw = binary.LittleEndian.AppendUint16(nil, bfloat16(x))
	}
	b.g.initializers = append(b.g.initializers, initializer{name: name, dtype: dtype, raw: raw})
	return name
}

// sizes binds a list of int64, inside the graph.
func (b *binder) sizes(numbers ...int) string {
	return list(b, ort.Int64, numbers, func(raw []byte, n int) []byte { return binary.LittleEndian.AppendUint64(raw, uint64(n)) })
}

// indices binds a list of int32, inside the graph.
func (b *binder) indices(numbers []int32) string {
	return list(b, ort.Int32, numbers, func(raw []byte, n int32) []byte { return binary.LittleEndian.AppendUint32(raw, uint32(n)) })
}

func list[T any](b *binder, dtype ort.DataType, numbers []T, encode func(raw []byte, n T) []byte) string {
	name := fmt.Sprintf("w%d", len(b.g.initializers))
	var raw []byte
	for _, n := range numbers {
		raw = encode(raw, n)
	}
	b.g.initializers = append(b.g.initializers, initializer{name: name, dtype: dtype, dims: []int64{int64(len(numbers))}, raw: raw})
	return name
}

// tensor binds a stored tensor in the graph's dtype; "" where it is absent.
func (b *binder) tensor(t arch.Tensor) (string, error) {
	if t.Absent() {
		return "", nil
	}
	stored, err := b.open(t)
	if err != nil {
		return "", err
	}
	if dtypes[stored.DType] != b.g.dtype || !aligned(stored) {
		return b.make("converted "+t.Name, b.g.dtype, t.Shape, b.appendTensor(stored))
	}
	name := "file " + t.Name // no other name has a space
	if _, ok := b.bound[name]; !ok {
		if err := b.session.Add(name, b.g.dtype, b.declare(name, b.g.dtype, t.Shape), stored.Bytes()); err != nil {
			return "", err
		}
		b.bound[name] = name
		b.read = append(b.read, stored)
	}
	return name, nil
}

// part binds rows [from, to) of a stored matrix in the graph's dtype.
func (b *binder) part(t arch.Tensor, from, to int) (string, error) {
	stored, err := b.open(t)
	if err != nil {
		return "", err
	}
	stored = stored.Rows(from, to)
	shape := []int{to - from, t.Shape[1]}
	name := fmt.Sprintf("rows %d to %d of %s", from, to, t.Name)
	if dtypes[stored.DType] != b.g.dtype || !aligned(stored) {
		return b.make(name, b.g.dtype, shape, b.appendTensor(stored))
	}
	if _, ok := b.bound[name]; !ok {
		if err := b.session.Add(name, b.g.dtype, b.declare(name, b.g.dtype, shape), stored.Bytes()); err != nil {
			return "", err
		}
		b.bound[name] = name
		b.read = append(b.read, stored)
	}
	return name, nil
}

// wide binds a stored tensor as float32.
func (b *binder) wide(t arch.Tensor) (string, error) {
	stored, err := b.open(t)
	if err != nil {
		return "", err
	}
	return b.make("wide "+t.Name, ort.Float32, t.Shape, b.appendTensor(stored))
}

var dtypes = map[weights.DType]ort.DataType{weights.F32: ort.Float32, weights.F16: ort.Float16, weights.BF16: ort.BFloat16}

func aligned(t weights.Tensor) bool {
	size := len(t.Bytes()) / t.Len()
	return uintptr(unsafe.Pointer(unsafe.SliceData(t.Bytes())))%uintptr(size) == 0
}

// table binds a stored tensor as an input, in the dtype that it has: rows are converted after the look-up.
func (b *binder) table(t arch.Tensor) (name string, dtype ort.DataType, err error) {
	if b.device {
		name, err = b.tensor(t)
		return name, b.g.dtype, err
	}
	stored, err := b.open(t)
	if err != nil {
		return "", 0, err
	}
	dtype = dtypes[stored.DType]
	if !aligned(stored) {
		name, err = b.make("aligned "+t.Name, ort.Float32, t.Shape, b.appendTensor(stored))
		return name, ort.Float32, err
	}
	name = "table " + t.Name
	if _, ok := b.bound[name]; ok {
		return name, dtype, nil
	}
	dims, shape := make([]int64, len(t.Shape)), make([]dim, len(t.Shape))
	for i, n := range t.Shape {
		dims[i], shape[i] = int64(n), dim{size: n}
	}
	b.g.inputs = append(b.g.inputs, value{name: name, dtype: dtype, dims: shape})
	b.bound[name] = name
	return name, dtype, b.session.Bind(name, dtype, dims, stored.Bytes())
}

// appendTensor copies a stored tensor as float32 and lets the source go.
func (b *binder) appendTensor(t weights.Tensor) func([]float32) ([]float32, error) {
	return func(dst []float32) ([]float32, error) {
		dst = t.AppendFloat32(dst)
		b.set.Release(t)
		return dst, nil
	}
}
