package onnx

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

// The order of rows that PackedMultiHeadAttention reads, which has no kernel for the CPU.
func TestInterleaved(t *testing.T) {
	loadLibrary(t)
	for _, c := range suite.Synthetic(t) {
		a := &c.Model.Layers[0].Attention
		if a.KVHeads != a.Heads {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			builder, err := ort.NewBuilder(1)
			require.NoError(t, err)
			defer builder.Free()
			b := &binder{g: newGraph(ort.Float32), set: c.Weights, session: builder, bound: make(map[string]string)}
			defer b.release()
			w, err := b.interleaved(a.QKV, a.HeadDim)
			require.NoError(t, err)
			require.Equal(t, linear{weight: w.weight, bias: w.bias, in: c.Model.HiddenSize, out: 3 * a.Heads * a.HeadDim, transposed: true}, w)
			got := view[float32](b.made[len(b.made)-1])
			joined, err := b.appendMaps(nil, a.QKV)
			require.NoError(t, err)
			rowOf := func(numbers []float32, i int) []float32 { return numbers[i*w.in : (i+1)*w.in] }
			for head := range a.Heads {
				for part := range 3 {
					for d := range a.HeadDim {
						require.Equal(t, rowOf(joined, (part*a.Heads+head)*a.HeadDim+d), rowOf(got, (head*3+part)*a.HeadDim+d))
					}
				}
			}
		})
	}
	b := &binder{g: newGraph(ort.Float32)}
	_, err := b.halves(arch.Linear{Weight: arch.Tensor{Name: "w", Shape: []int{3, 2}}, In: 2, Out: 4})
	require.ErrorContains(t, err, `weight "w" of a linear map 2 -> 4 has shape [3 2]`)
}
