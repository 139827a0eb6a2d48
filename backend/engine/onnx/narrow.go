package onnx

import (
	"math"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// narrow converts numbers to a dtype of 16 bits, to the nearest, ties to even. A finite number that float16 cannot hold
// is an error: an infinite weight would make every result useless.
func narrow(dst []uint16, src []float32, dtype ort.DataType) error {
	if dtype == ort.BFloat16 {
		for i, x := range src {
			dst[i] = bfloat16(x)
		}
		return nil
	}
	for i, x := range src {
		dst[i] = float16(x)
		if dst[i]&0x7fff == 0x7c00 && !math.IsInf(float64(x), 0) {
			return status.Errorf(status.Unsupported, "number %d is %g, more than float16 can hold (65504): choose dtype bfloat16 or float32", i, x)
		}
	}
	return nil
}

func bfloat16(x float32) uint16 {
	bits := math.Float32bits(x)
	if x != x {
		return uint16(bits>>16) | 0x40 // still a NaN
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

func float16(x float32) uint16 {
	bits := math.Float32bits(x)
	sign, bits := uint16(bits>>16&0x8000), bits&0x7fffffff
	switch {
	case bits > 0x7f800000: // NaN
		return sign | 0x7e00
	case bits >= 0x477ff000: // from 65520 on the nearest is infinite
		return sign | 0x7c00
	case bits < 0x38800000: // subnormal: a multiple of 2^-24
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(bits))*(1<<24)))
	}
	return sign | uint16((bits-0x38000000+0xfff+bits>>13&1)>>13)
}
