package onnx

import (
	"fmt"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// linear is a bound linear map, or several joined: y = x weight, or x weight^T where transposed.
type linear struct {
	weight, bias string
	in, out      int
	transposed   bool // weight is [out, in]
}

// checked says what maps of one input, joined, yield.
func (b *binder) checked(maps []arch.Linear) (linear, error) {
	l := linear{in: maps[0].In, transposed: true}
	for _, m := range maps {
		l.out += m.Out
		if err := m.Check(); err != nil {
			return l, err
		}
		if m.In != l.in {
			return l, status.Errorf(status.Start, "weight %q takes %d columns; its neighbours take %d", m.Weight.Name, m.In, l.in)
		}
	}
	return l, nil
}

// linear binds linear maps of one input as one whose outputs are joined.
func (b *binder) linear(maps ...arch.Linear) (linear, error) {
	l, err := b.checked(maps)
	if err != nil {
		return l, err
	}
	if l.bias, err = b.bias(maps, l.out); err != nil {
		return l, err
	}
	if len(maps) > 1 || maps[0].Score != nil {
		l.weight, err = b.make("joined "+joinedKey(maps), b.g.dtype, []int{l.out, l.in}, func(dst []float32) ([]float32, error) {
			return b.appendMaps(dst, maps)
		})
		return l, err
	}
	l.transposed = !maps[0].Transposed
	l.weight, err = b.tensor(maps[0].Weight)
	return l, err
}

func joinedKey(maps []arch.Linear) string {
	names := make([]string, len(maps))
	for i, m := range maps {
		names[i] = m.Key()
	}
	return strings.Join(names, " ")
}

// appendMaps appends the weights [out, in] of several maps.
func (b *binder) appendMaps(dst []float32, maps []arch.Linear) ([]float32, error) {
	for _, m := range maps {
		stored, err := b.open(m.Weight)
		if err != nil {
			return nil, err
		}
		dst = arch.AppendMatrix(dst, &m, stored)
		b.set.Release(stored)
	}
	return dst, nil
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
	return b.make(key, b.g.dtype, []int{out}, func(dst []float32) ([]float32, error) {
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

// interleaved binds maps that yield [query heads | key heads | value heads] so that they yield [heads, 3, headDim].
// Their bias keeps its order.
func (b *binder) interleaved(maps []arch.Linear, headDim int) (linear, error) {
	l, err := b.checked(maps)
	if err != nil {
		return l, err
	}
	if l.bias, err = b.bias(maps, l.out); err != nil {
		return l, err
	}
	key := "interleaved " + joinedKey(maps)
	l.weight, err = b.make(key, b.g.dtype, []int{l.out, l.in}, func(dst []float32) ([]float32, error) {
		joined, err := b.appendMaps(make([]float32, 0, l.out*l.in), maps)
		if err != nil {
			return nil, err
		}
		block, heads := headDim*l.in, l.out/(3*headDim)
		for h := range heads {
			for part := range 3 {
				start := (part*heads + h) * block
				dst = append(dst, joined[start:start+block]...)
			}
		}
		return dst, nil
	})
	return l, err
}

// halves binds a map as two, of its first and of its last outputs.
func (b *binder) halves(m arch.Linear) (halves [2]linear, err error) {
	maps := []arch.Linear{m}
	whole, err := b.checked(maps)
	if err != nil {
		return halves, err
	}
	out := whole.out / 2
	for i := range halves {
		halves[i] = linear{in: whole.in, out: out, transposed: true}
		cut := func(kind string, shape []int, from, to int, fill func() ([]float32, error)) (string, error) {
			return b.make(fmt.Sprintf("half %d %s %s", i, kind, m.Weight.Name), b.g.dtype, shape, func(dst []float32) ([]float32, error) {
				all, err := fill()
				if err != nil {
					return nil, err
				}
				return append(dst, all[from:to]...), nil
			})
		}
		size := out * whole.in
		halves[i].weight, err = cut("weight", []int{out, whole.in}, i*size, (i+1)*size, func() ([]float32, error) {
			return b.appendMaps(make([]float32, 0, 2*size), maps)
		})
		if err == nil && !m.Bias.Absent() {
			halves[i].bias, err = cut("bias", []int{out}, i*out, (i+1)*out, func() ([]float32, error) {
				stored, err := b.open(m.Bias)
				if err != nil {
					return nil, err
				}
				return stored.AppendFloat32(nil), nil
			})
		}
		if err != nil {
			return halves, err
		}
	}
	return halves, nil
}
