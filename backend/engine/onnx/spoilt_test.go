package onnx_test

import (
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

// spoiltToken is the id whose word embedding is NaN in spoiltModel.
const spoiltToken = 7

// spoiltModel is a copy of bert-mean with that embedding, and with every pooling.
func spoiltModel(t *testing.T) suite.Case {
	from := filepath.Join(suite.Root(t), "testdata", "models", "bert-mean")
	m := suite.Folder(t, from, arch.Options{}).Model
	to := suite.Patched(t, from, []string{m.Embeddings.Word.Name}, func(i int, x float32) float32 {
		if i/m.HiddenSize == spoiltToken {
			return float32(math.NaN())
		}
		return x
	})
	c := suite.Folder(t, to, arch.Options{})
	c.Model.Head.Pooling = arch.Pooling{ExcludePrompt: true, Modes: []arch.PoolMode{
		arch.PoolCLS, arch.PoolMean, arch.PoolMax, arch.PoolMeanSqrtLen, arch.PoolWeightedMean, arch.PoolLastToken}}
	c.Model.Head.Chain = nil
	return c
}

// One sequence that is not finite leaves those beside it as they are; and prompts that are all of a text pool to zeros.
func TestSpoiltSequences(t *testing.T) {
	openers := map[string]suite.Opener{"cpu": open, "emulated cuda": opener(func(o onnx.Options) onnx.Options { return onnx.Emulated(o, onnx.Float32) })}
	if onGPU() {
		openers["float32"], openers["float16"], openers["bfloat16"] = onCUDA(onnx.Float32), onCUDA(onnx.Float16), onCUDA(onnx.BFloat16)
	}
	for name, open := range openers {
		t.Run(name, func(t *testing.T) {
			c := spoiltModel(t)
			e := open(t, c.Model, c.Weights, engine.Limits{})
			sequence := func(skip int, ids ...int32) suite.Sequence {
				q := suite.Sequence{IDs: ids, Types: make([]int32, len(ids)), Skip: skip}
				for i := range ids {
					q.Positions = append(q.Positions, int32(c.Model.Embeddings.PositionOffset+i))
				}
				return q
			}
			good, spoilt := []suite.Sequence{sequence(0, 2, 3, 4, 5), sequence(1, 9, 8), sequence(3, 5, 6, 9)}, sequence(0, 2, spoiltToken, 3)
			alone, err := suite.Compute(t.Context(), e.Slots()[0], e.Info(), good, e.Info().Outputs)
			require.NoError(t, err)
			together, err := suite.Compute(t.Context(), e.Slots()[0], e.Info(),
				[]suite.Sequence{spoilt, good[0], spoilt, good[1], good[2], spoilt}, e.Info().Outputs)
			require.NoError(t, err)
			bounds := suite.Precisions[e.Info().Precision]
			for i, at := range []int{1, 3, 4} {
				for _, pair := range [][2][]float32{{together[at].Pooled, alone[i].Pooled}, {together[at].TokenVectors, alone[i].TokenVectors}} {
					want := make([]float64, len(pair[1]))
					for j, x := range pair[1] {
						want[j] = float64(x)
					}
					require.NoError(t, bounds.Compare(pair[0], want), "sequence %d", i)
				}
			}
			width := e.Info().TokenWidth
			require.Equal(t, make([]float32, width), alone[2].Pooled[width:2*width], "mean of nothing")
			require.Equal(t, make([]float32, width), alone[2].Pooled[2*width:3*width], "max of nothing")
			for _, at := range []int{0, 2, 5} {
				for mode := range 6 {
					require.True(t, math.IsNaN(float64(together[at].Pooled[mode*width])), "sequence %d, pooling %d", at, mode)
				}
			}
			require.NoError(t, e.Close())
		})
	}
}
