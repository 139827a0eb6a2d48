package trt

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// open returns a stored tensor of the shape that the model says.
func (l *lowering) open(t arch.Tensor) (weights.Tensor, error) {
	stored, err := l.weights.Tensor(t.Name)
	if err != nil {
		return stored, err
	}
	if !slices.Equal(stored.Shape, t.Shape) || stored.Len() == 0 {
		return stored, status.Errorf(status.Start, "tensor %q has shape %v; the model needs %v, without zeros", t.Name, stored.Shape, t.Shape)
	}
	return stored, nil
}

var storedTypes = map[weights.DType]nvinfer.DType{weights.F32: nvinfer.Float32, weights.F16: nvinfer.Float16, weights.BF16: nvinfer.BFloat16}

// stored adds a stored tensor in a dtype, with other dims of the same size where they are given. Where the file has that dtype it is
// read in place.
func (l *lowering) stored(t arch.Tensor, dtype nvinfer.DType, dims ...int) tensor {
	if dims == nil {
		dims = t.Shape
	}
	return l.g.constant(fmt.Sprintf("%s %s %v", t.Name, dtype, dims), dtype, dims, func() ([]byte, error) {
		s, err := l.open(t)
		if err != nil {
			return nil, err
		}
		if storedTypes[s.DType] == dtype {
			return s.Bytes(), nil
		}
		defer l.weights.Release(s)
		return encode(nil, s.AppendFloat32(nil), dtype, t.Name)
	})
}

// encode appends numbers in a dtype. One that float16 cannot hold is an error: it would become infinite.
func encode(dst []byte, numbers []float32, dtype nvinfer.DType, name string) ([]byte, error) {
	dst = slices.Grow(dst, dtype.Bytes()*len(numbers))
	switch dtype {
	case nvinfer.Float32:
		for _, x := range numbers {
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(x))
		}
	case nvinfer.Float16:
		for i, x := range numbers {
			h := float16Bits(x)
			if h&0x7fff == 0x7c00 && !math.IsInf(float64(x), 0) {
				return nil, status.Errorf(status.Unsupported, "number %d of tensor %q is %g, beyond float16's 65504; use dtype bfloat16 or float32", i, name, x)
			}
			dst = binary.LittleEndian.AppendUint16(dst, h)
		}
	case nvinfer.BFloat16:
		for _, x := range numbers {
			dst = binary.LittleEndian.AppendUint16(dst, bfloat16Bits(x))
		}
	default:
		return nil, status.Errorf(status.Internal, "tensor %q cannot be written as %s", name, dtype)
	}
	return dst, nil
}

// float16Bits rounds to the nearest IEEE 754 binary16, ties to even.
func float16Bits(x float32) uint16 {
	bits := math.Float32bits(x)
	sign, magnitude := uint16(bits>>16&0x8000), bits&0x7fffffff
	switch {
	case magnitude > 0x7f800000: // NaN
		return sign | 0x7e00
	case magnitude >= 0x477ff000: // rounds to 65536 or more
		return sign | 0x7c00
	case magnitude < 0x38800000: // subnormal: adding 2^-1 * ulp lets the float unit round
		f := math.Float32frombits(magnitude) + math.Float32frombits(0x3f000000)
		return sign | uint16(math.Float32bits(f)-0x3f000000)
	}
	return sign | uint16((magnitude+0xfff+(magnitude>>13&1)-(112<<23))>>13)
}

// bfloat16Bits rounds to the nearest bfloat16, ties to even.
func bfloat16Bits(x float32) uint16 {
	bits := math.Float32bits(x)
	if bits&0x7fffffff > 0x7f800000 {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + (bits >> 16 & 1)) >> 16)
}

// float8Most is the largest finite number of E4M3 (https://arxiv.org/abs/2209.05433).
const float8Most = 448

// float8Bits rounds to the nearest E4M3 number, ties to even, and saturates. x must not be NaN.
func float8Bits(x float32) byte {
	sign := byte(math.Float32bits(x) >> 24 & 0x80)
	a := math.Abs(float64(x))
	if a >= float8Most {
		return sign | 0x7e
	}
	exponent := -6 // of subnormals, too
	if a >= 1.0/64 {
		_, e := math.Frexp(a)
		exponent = e - 1
	}
	steps := int(math.RoundToEven(math.Ldexp(a, 3-exponent))) // of 2^(exponent - 3)
	if steps == 16 {
		steps, exponent = 8, exponent+1
	}
	if steps < 8 {
		return sign | byte(steps)
	}
	return sign | byte(exponent+7)<<3 | byte(steps-8)
}

// joined is the weights and biases of maps with one input, as one [out, in] and [out].
type joined struct {
	key     string
	maps    []arch.Linear
	in, out int
}

func join(maps ...arch.Linear) (joined, error) {
	j := joined{maps: maps, in: maps[0].In}
	var names []string
	for _, m := range maps {
		j.out += m.Out
		names = append(names, m.Key())
		if err := m.Check(); err != nil {
			return j, err
		}
		if m.In != j.in {
			return j, status.Errorf(status.Start, "weight %q takes %d columns; its neighbours take %d", m.Weight.Name, m.In, j.in)
		}
	}
	j.key = strings.Join(names, " ")
	return j, nil
}

// numbers returns the weights as float32 [out, in].
func (l *lowering) numbers(j joined) ([]float32, error) {
	all := make([]float32, 0, j.out*j.in)
	for _, m := range j.maps {
		s, err := l.open(m.Weight)
		if err != nil {
			return nil, err
		}
		all = arch.AppendMatrix(all, &m, s)
		l.weights.Release(s)
	}
	return all, nil
}

// matrix adds the weights [out, in] in a 16 or 32 bit dtype.
func (l *lowering) matrix(j joined, dtype nvinfer.DType) tensor {
	if len(j.maps) == 1 && j.maps[0].Stored() {
		return l.stored(j.maps[0].Weight, dtype)
	}
	return l.g.constant(fmt.Sprintf("%s %s", j.key, dtype), dtype, []int{j.out, j.in}, func() ([]byte, error) {
		numbers, err := l.numbers(j)
		if err != nil {
			return nil, err
		}
		return encode(nil, numbers, dtype, j.key)
	})
}

// bias adds the biases as [1, out]; false: there are none.
func (l *lowering) bias(j joined) (tensor, bool) {
	any := false
	for _, m := range j.maps {
		any = any || !m.Bias.Absent()
	}
	if !any {
		return 0, false
	}
	return l.g.constant("bias of "+j.key, nvinfer.Float32, []int{1, j.out}, func() ([]byte, error) {
		var all []float32
		for _, m := range j.maps {
			if m.Bias.Absent() {
				all = append(all, make([]float32, m.Out)...)
				continue
			}
			s, err := l.open(m.Bias)
			if err != nil {
				return nil, err
			}
			all = s.AppendFloat32(all)
		}
		if len(all) != j.out {
			return nil, status.Errorf(status.Start, "the biases of %s have %d numbers instead of %d", j.key, len(all), j.out)
		}
		return float32Bytes(all), nil
	}), true
}

// float8Matrix adds the weights [out, in] as E4M3 with one scale for each row (https://arxiv.org/abs/2209.05433), dequantised to dtype.
func (l *lowering) float8Matrix(j joined, dtype nvinfer.DType) tensor {
	var quantised, scales []byte
	make := func() error {
		if quantised != nil {
			return nil
		}
		numbers, err := l.numbers(j)
		if err != nil {
			return err
		}
		var rows []float32
		for o := range j.out {
			row, most := numbers[o*j.in:(o+1)*j.in], float32(0)
			for _, x := range row {
				if x != x {
					return status.Errorf(status.Start, "weight %s has a NaN", j.key)
				}
				most = max(most, float32(math.Abs(float64(x))))
			}
			scale := max(most/float8Most, math.SmallestNonzeroFloat32*(1<<23)) // rows of zeros, too
			rows = append(rows, scale)
			for _, x := range row {
				quantised = append(quantised, float8Bits(x/scale))
			}
		}
		scales, err = encode(nil, rows, nvinfer.Float32, j.key)
		return err
	}
	w := l.g.constant(j.key+" float8", nvinfer.Float8, []int{j.out, j.in}, func() ([]byte, error) { return quantised, make() })
	s := l.g.constant(j.key+" float8 scales", nvinfer.Float32, []int{j.out}, func() ([]byte, error) { return scales, make() })
	return l.g.add(nvinfer.Node{Kind: nvinfer.Dequantize, DType: dtype, Inputs: []tensor{w, s}, Ints: []int{0}})
}
