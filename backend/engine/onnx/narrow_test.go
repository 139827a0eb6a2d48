package onnx

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// widened is what a float16 means.
func widened(h uint16) float64 {
	sign, exponent, fraction := 1-2*float64(h>>15), int(h>>10&31), float64(h&0x3ff)
	if exponent == 0 {
		return sign * math.Ldexp(fraction, -24)
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

// Every float16 is itself, and what lies between two is the nearer one; the even one in the middle.
func TestFloat16(t *testing.T) {
	for h := uint16(0); h < 0x7c00; h++ {
		x := float32(widened(h))
		require.Equal(t, h, float16(x))
		require.Equal(t, h|0x8000, float16(-x))
		if h+1 == 0x7c00 {
			continue
		}
		middle := float32((widened(h) + widened(h+1)) / 2)
		require.Equal(t, (h+1)&^1, float16(middle), "%#x", h)
		require.Equal(t, h, float16(math.Nextafter32(middle, 0)), "%#x", h)
		require.Equal(t, h+1, float16(math.Nextafter32(middle, 1e9)), "%#x", h)
	}
	require.Equal(t, uint16(0x7bff), float16(math.Nextafter32(65520, 0)))
	require.Equal(t, uint16(0x7c00), float16(65520))
	require.Equal(t, uint16(0xfc00), float16(float32(math.Inf(-1))))
	require.Equal(t, uint16(0x7e00), float16(float32(math.NaN()))&0x7e00)
	require.Equal(t, uint16(0), float16(math.SmallestNonzeroFloat32))
}

func TestBFloat16(t *testing.T) {
	for bits, want := range map[uint32]uint16{
		0x3f800000: 0x3f80, 0x3f808000: 0x3f80, 0x3f808001: 0x3f81, 0x3f818000: 0x3f82, 0xbf818000: 0xbf82, 0x7f7fffff: 0x7f80, 0x7f800000: 0x7f80,
		0x7f800001: 0x7fc0, 0: 0, 0x80000000: 0x8000,
	} {
		require.Equal(t, want, bfloat16(math.Float32frombits(bits)), "%#x", bits)
	}
}

func TestNarrowRefusesWhatIsTooLarge(t *testing.T) {
	dst := make([]uint16, 2)
	err := narrow(dst, []float32{1, 7e4}, ort.Float16)
	require.Equal(t, status.Unsupported, status.CodeOf(err))
	require.ErrorContains(t, err, "number 1 is 70000, more than float16 can hold")
	require.NoError(t, narrow(dst, []float32{1, 7e4}, ort.BFloat16))
	require.NoError(t, narrow(dst, []float32{1, float32(math.Inf(1))}, ort.Float16))
	require.Equal(t, []uint16{0x3c00, 0x7c00}, dst)
}
