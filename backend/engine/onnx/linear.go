package onnx

import (
	"fmt"
	"slices"
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
	return b.make(key, b.g.dtype, []int{out}, func(dst []float32) ([]float32, error) { return b.appendBiases(dst, maps) })
}

// appendBiases appends the biases [out] of several maps: zeros for those that have none.
func (b *binder) appendBiases(dst []float32, maps []arch.Linear) ([]float32, error) {
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
}

// cut binds maps of one input, joined, as maps of those widths, one after the other.
func (b *binder) cut(maps []arch.Linear, widths ...int) ([]linear, error) {
	whole, err := b.checked(maps)
	if err != nil {
		return nil, err
	}
	if slices.EqualFunc(maps, widths, func(m arch.Linear, width int) bool { return m.Out == width }) {
		return b.each(maps)
	}
	wanted := 0
	for _, width := range widths {
		wanted += width
	}
	if wanted != whole.out {
		return nil, status.Errorf(status.Start, "weight %q and those joined to it yield %d columns; %v are wanted", maps[0].Weight.Name, whole.out, widths)
	}
	biased := slices.ContainsFunc(maps, func(m arch.Linear) bool { return !m.Bias.Absent() })
	parts, from := make([]linear, len(widths)), 0
	for i, width := range widths {
		to := from + width
		rows := func(kind string, shape []int, all func() ([]float32, error)) (string, error) {
			key := fmt.Sprintf("rows %d to %d of %s %s", from, to, kind, joinedKey(maps))
			return b.make(key, b.g.dtype, shape, func(dst []float32) ([]float32, error) {
				numbers, err := all()
				if err != nil {
					return nil, err
				}
				size := len(numbers) / whole.out
				return append(dst, numbers[from*size:to*size]...), nil
			})
		}
		part := &parts[i]
		*part = linear{in: whole.in, out: width, transposed: true}
		part.weight, err = rows("weight", []int{width, whole.in}, func() ([]float32, error) {
			return b.appendMaps(make([]float32, 0, whole.out*whole.in), maps)
		})
		if err == nil && biased {
			part.bias, err = rows("bias", []int{width}, func() ([]float32, error) { return b.appendBiases(nil, maps) })
		}
		if err != nil {
			return nil, err
		}
		from = to
	}
	return parts, nil
}

// each binds maps by themselves.
func (b *binder) each(maps []arch.Linear) ([]linear, error) {
	all := make([]linear, len(maps))
	for i, m := range maps {
		var err error
		if all[i], err = b.linear(m); err != nil {
			return nil, err
		}
	}
	return all, nil
}
