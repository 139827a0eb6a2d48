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

// binder makes the weights of a graph. Tables stay where the file has them: they are inputs of every run, so that only
// the pages of rows that texts use are ever in memory. All others are constants, which ONNX Runtime copies, or packs
// for its matrix products, when the session is created. It reads them in the file if dtype and layout allow it, else in
// memory that is made for them; neither stays resident afterwards.
type binder struct {
	g       *graph
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

// make binds a new float32 tensor that fill appends to an empty slice of just that capacity.
func (b *binder) make(key string, shape []int, fill func(dst []float32) ([]float32, error)) (string, error) {
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
	memory, err := unix.Mmap(-1, 0, 4*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return "", status.Errorf(status.Start, "weight %s: no memory for shape %v: %w", key, shape, err)
	}
	b.made = append(b.made, memory)
	filled, err := fill(unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(memory))), size)[:0])
	if err != nil {
		return "", err
	}
	if len(filled) != size {
		return "", status.Errorf(status.Start, "weight %s has %d numbers; the model needs %v", key, len(filled), shape)
	}
	name := fmt.Sprintf("w%d", len(b.g.initializers))
	if err := b.session.Add(name, ort.Float32, b.declare(name, ort.Float32, shape), memory); err != nil {
		return "", err
	}
	b.bound[key] = name
	return name, nil
}

// constant binds numbers of ours.
func (b *binder) constant(key string, shape []int, numbers []float32) (string, error) {
	return b.make(key, shape, func(dst []float32) ([]float32, error) { return append(dst, numbers...), nil })
}

// scalar binds one number, inside the graph.
func (b *binder) scalar(x float32) string {
	name := fmt.Sprintf("w%d", len(b.g.initializers))
	raw := binary.LittleEndian.AppendUint32(nil, math.Float32bits(x))
	b.g.initializers = append(b.g.initializers, initializer{name: name, dtype: ort.Float32, raw: raw})
	return name
}

// sizes binds a list of int64, inside the graph.
func (b *binder) sizes(numbers ...int) string {
	name := fmt.Sprintf("w%d", len(b.g.initializers))
	var raw []byte
	for _, n := range numbers {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(n))
	}
	b.g.initializers = append(b.g.initializers, initializer{name: name, dtype: ort.Int64, dims: []int64{int64(len(numbers))}, raw: raw})
	return name
}

// tensor binds a stored tensor as float32; "" where it is absent.
func (b *binder) tensor(t arch.Tensor) (string, error) {
	if t.Absent() {
		return "", nil
	}
	stored, err := b.open(t)
	if err != nil {
		return "", err
	}
	if _, ok := stored.Float32(); !ok {
		return b.make("converted "+t.Name, t.Shape, b.appendTensor(stored))
	}
	name := "file " + t.Name // no other name has a space
	if _, ok := b.bound[name]; !ok {
		if err := b.session.Add(name, ort.Float32, b.declare(name, ort.Float32, t.Shape), stored.Bytes()); err != nil {
			return "", err
		}
		b.bound[name] = name
		b.read = append(b.read, stored)
	}
	return name, nil
}

var dtypes = map[weights.DType]ort.DataType{weights.F32: ort.Float32, weights.F16: ort.Float16, weights.BF16: ort.BFloat16}

// table binds a stored tensor as an input, in the dtype that it has: rows are converted after the look-up.
func (b *binder) table(t arch.Tensor) (name string, dtype ort.DataType, err error) {
	stored, err := b.open(t)
	if err != nil {
		return "", 0, err
	}
	dtype = dtypes[stored.DType]
	size := len(stored.Bytes()) / stored.Len()
	if uintptr(unsafe.Pointer(unsafe.SliceData(stored.Bytes())))%uintptr(size) != 0 {
		name, err = b.make("aligned "+t.Name, t.Shape, b.appendTensor(stored))
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
	b.g.inputs = append(b.g.inputs, value{name, dtype, shape})
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

// linear is a bound linear map, or several joined: y = x weight, or x weight^T where transposed.
type linear struct {
	weight, bias string
	in, out      int
	transposed   bool // weight is [out, in]
}

// linear binds linear maps of one input as one whose outputs are joined.
func (b *binder) linear(maps ...arch.Linear) (linear, error) {
	l := linear{in: maps[0].In, transposed: true}
	for _, m := range maps {
		l.out += m.Out
		shape := []int{m.Out, m.In}
		if m.Transposed {
			shape = []int{m.In, m.Out}
		}
		if m.In != l.in || !slices.Equal(m.Weight.Shape, shape) {
			return l, status.Errorf(status.Start,
				"weight %q of a linear map %d -> %d has shape %v, or another input than its neighbours (%d)", m.Weight.Name, m.In, m.Out, m.Weight.Shape, l.in)
		}
	}
	var err error
	if l.bias, err = b.bias(maps, l.out); err != nil {
		return l, err
	}
	if len(maps) > 1 {
		l.weight, err = b.joined(maps, l)
		return l, err
	}
	l.transposed = !maps[0].Transposed
	l.weight, err = b.tensor(maps[0].Weight)
	return l, err
}

// joined binds [out, in] of several maps.
func (b *binder) joined(maps []arch.Linear, l linear) (string, error) {
	key := "joined"
	for _, m := range maps {
		key += " " + m.Weight.Name
	}
	return b.make(key, []int{l.out, l.in}, func(dst []float32) ([]float32, error) {
		for _, m := range maps {
			stored, err := b.open(m.Weight)
			if err != nil {
				return nil, err
			}
			if !m.Transposed {
				dst = stored.AppendFloat32(dst)
			} else {
				source := stored.AppendFloat32(nil)
				for o := range m.Out {
					for i := range m.In {
						dst = append(dst, source[i*m.Out+o])
					}
				}
			}
			b.set.Release(stored)
		}
		return dst, nil
	})
}

// bias binds the joined biases [out] of maps; "" where none has one.
func (b *binder) bias(maps []arch.Linear, out int) (string, error) {
	if len(maps) == 1 {
		return b.tensor(maps[0].Bias)
	}
	key, any := "joined", false
	for _, m := range maps {
		key += fmt.Sprintf(" %q %d", m.Bias.Name, m.Out)
		any = any || !m.Bias.Absent()
	}
	if !any {
		return "", nil
	}
	return b.make(key, []int{out}, func(dst []float32) ([]float32, error) {
		for _, m := range maps {
			if m.Bias.Absent() {
				dst = append(dst, make([]float32, m.Out)...)
				continue
			}
			stored, err := b.open(m.Bias)
			if err != nil {
				return nil, err
			}
			dst = stored.AppendFloat32(dst)
		}
		return dst, nil
	})
}
