package weights

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFloat16 checks all 65,536 numbers against the definition in IEEE 754: (-1)^s * 2^(e-15) * 1.f, subnormal 2^-14 * 0.f.
func TestFloat16(t *testing.T) {
	for h := range 1 << 16 {
		got := float16(uint16(h))
		exponent, fraction := h>>10&31, h&1023
		var want float64
		switch exponent {
		case 31:
			if want = math.Inf(1); fraction != 0 {
				require.True(t, math.IsNaN(float64(got)), "%#x", h)
				require.Equal(t, h>>15 == 1, math.Signbit(float64(got)), "%#x", h)
				continue
			}
		case 0:
			want = math.Ldexp(float64(fraction), -24)
		default:
			want = math.Ldexp(float64(1024+fraction), exponent-25)
		}
		if h>>15 == 1 {
			want = -want
		}
		require.Equal(t, math.Float32bits(float32(want)), math.Float32bits(got), "%#x", h)
	}
}

func floats(values ...float32) (raw []byte) {
	for _, v := range values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return raw
}

func TestFloat32(t *testing.T) {
	values := []float32{1, -2.5, float32(math.Inf(1)), 1e-45}
	raw := append([]byte{0}, floats(values...)...)
	aligned := Tensor{DType: F32, Shape: []int{4}, data: append(make([]byte, 0, 64), raw[1:]...)}
	view, ok := aligned.Float32()
	require.True(t, ok)
	require.Equal(t, values, view)
	require.Equal(t, &aligned.Bytes()[0], &aligned.data[0], "in place")
	require.Equal(t, 4, aligned.Len())

	// The same bytes one further are not aligned: no view, the same numbers.
	shifted := append(make([]byte, 0, 64), raw...)
	odd := Tensor{DType: F32, Shape: []int{4}, data: shifted[1:]}
	_, ok = odd.Float32()
	require.False(t, ok)
	require.Equal(t, append([]float32{7}, values...), odd.AppendFloat32([]float32{7}))
	require.Equal(t, append([]float32{7}, values...), aligned.AppendFloat32([]float32{7}))

	none, ok := Tensor{DType: F32, Shape: []int{0}}.Float32()
	require.True(t, ok)
	require.Empty(t, none)
	_, ok = Tensor{DType: F16, data: make([]byte, 4)}.Float32()
	require.False(t, ok)
}

func TestRows(t *testing.T) {
	table := Tensor{Name: "t", DType: BF16, Shape: []int{3, 2}, data: []byte{0, 0, 0x80, 0x3f, 0, 0x40, 0x40, 0x40, 0x80, 0x40, 0xa0, 0x40}}
	rows := table.Rows(1, 3)
	require.Equal(t, Tensor{Name: "t", DType: BF16, Shape: []int{2, 2}, data: table.data[4:]}, rows)
	require.Equal(t, []float32{2, 3, 4, 5}, rows.AppendFloat32(nil))
	require.Equal(t, []float32{0, 1}, table.Rows(0, 1).AppendFloat32(nil))
	require.Equal(t, []int{3, 2}, table.Shape)
}

func TestConversions(t *testing.T) {
	half := Tensor{DType: F16, Shape: []int{3}, data: []byte{0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00}}
	require.Equal(t, []float32{1, -2, 0x1p-24}, half.AppendFloat32(nil))
	brain := Tensor{DType: BF16, Shape: []int{2}, data: []byte{0x80, 0x3f, 0x49, 0xc0}}
	require.Equal(t, []float32{1, -3.140625}, brain.AppendFloat32(nil))

	// Room that is there is used, and no more is asked for than is needed.
	dst := make([]float32, 1, 8)
	require.Equal(t, &dst[0], &half.AppendFloat32(dst)[0])
	require.Equal(t, 3, cap(half.AppendFloat32(nil)))
}
