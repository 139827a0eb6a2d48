package onnx_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

// TestStats: the run that tries the graph does not count, nor one without tokens; a graph that pads says how much.
func TestStats(t *testing.T) {
	emulated := func(form string) suite.Opener {
		return opener(func(o onnx.Options) onnx.Options { return onnx.WithAttention(onnx.Emulated(o, onnx.Float32), form) })
	}
	for name, c := range map[string]struct {
		open          suite.Opener
		model, device string
		padding       uint64 // of two sequences of 3 and 1 tokens
	}{
		"cpu":           {open, "bert-mean", "cpu", 0},
		"pads":          {emulated(onnx.FormProducts), "bert-mean", "cuda:0", 2*3 - 4},
		"pads to eight": {emulated(onnx.FormMulti), "qwen3-multiples-of-16", "cuda:0", 2*8 - 4},
	} {
		t.Run(name, func(t *testing.T) {
			model := tiny(t, c.model, arch.Options{})
			e := c.open(t, model.Model, model.Weights, engine.Limits{})
			stats := func() engine.Stats {
				list := e.(engine.Reporter).Stats()
				require.Len(t, list, 1)
				return list[0]
			}
			want := engine.Stats{Engine: "onnxruntime", Replicas: []engine.Replica{{Device: c.device, Serving: true}}}
			require.Equal(t, want, stats())
			run := func(sequences ...suite.Sequence) {
				_, err := suite.Compute(t.Context(), e.Slots()[0], e.Info(), sequences, engine.Pooled)
				require.NoError(t, err)
			}
			sequence := func(n int) suite.Sequence {
				q := suite.Sequence{IDs: make([]int32, n), Types: make([]int32, n)}
				for i := range n {
					q.Positions = append(q.Positions, int32(i))
				}
				return q
			}
			run(sequence(0))
			run(sequence(3), sequence(0), sequence(1))
			want.Runs, want.Launches, want.Tokens, want.PaddingTokens = 1, 1, 4, c.padding
			require.Equal(t, want, stats())
			require.NoError(t, e.Close())
			want.Replicas[0].Serving = false
			require.Equal(t, want, stats())
		})
	}
}
