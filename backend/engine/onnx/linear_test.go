package onnx

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

// Maps that are cut otherwise than they are stored.
func TestCut(t *testing.T) {
	loadLibrary(t)
	for _, c := range suite.Synthetic(t) {
		a := &c.Model.Layers[0].Attention
		t.Run(c.Name, func(t *testing.T) {
			builder, err := ort.NewBuilder(1)
			require.NoError(t, err)
			defer builder.Free()
			b := &binder{g: newGraph(ort.Float32), set: c.Weights, session: builder, bound: make(map[string]string)}
			defer b.release()
			width := (a.Heads + 2*a.KVHeads) * a.HeadDim
			parts, err := b.cut(a.QKV, 1, width-3, 2)
			require.NoError(t, err)
			joined, err := b.appendMaps(nil, a.QKV)
			require.NoError(t, err)
			biases, err := b.appendBiases(nil, a.QKV)
			require.NoError(t, err)
			biased := slices.ContainsFunc(biases, func(x float32) bool { return x != 0 })
			var weights, offsets []float32
			at := 0
			for i, out := range []int{1, width - 3, 2} {
				require.Equal(t, linear{weight: parts[i].weight, bias: parts[i].bias, in: c.Model.HiddenSize, out: out, transposed: true}, parts[i])
				weights, at = append(weights, view[float32](b.made[at])...), at+1
				if require.Equal(t, biased, parts[i].bias != ""); biased {
					offsets, at = append(offsets, view[float32](b.made[at])...), at+1
				}
			}
			require.Equal(t, joined, weights)
			if biased {
				require.Equal(t, biases, offsets)
			}
			_, err = b.cut(a.QKV, 1, width)
			require.ErrorContains(t, err, "columns; [1 ")
		})
	}
	b := &binder{g: newGraph(ort.Float32)}
	_, err := b.cut([]arch.Linear{{Weight: arch.Tensor{Name: "w", Shape: []int{3, 2}}, In: 2, Out: 4}}, 2, 2)
	require.ErrorContains(t, err, `weight "w" of a linear map 2 -> 4 has shape [3 2]`)
}
