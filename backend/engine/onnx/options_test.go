package onnx

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// sized is a model of which only the sizes matter.
func sized(hidden, inner, length int) *arch.Model {
	return &arch.Model{HiddenSize: hidden, MaxLength: length, Layers: []arch.Layer{{
		Attention: arch.Attention{Heads: 1, KVHeads: 1, HeadDim: hidden}, MLP: arch.MLP{Intermediate: inner}}}}
}

func TestDefaultLimits(t *testing.T) {
	for name, c := range map[string]struct {
		model       *arch.Model
		given, want engine.Limits
	}{
		"MiniLM":              {sized(384, 1536, 256), engine.Limits{}, engine.Limits{MaxTokens: 6144, MaxSequences: 1024, MaxLength: 256, BestTokens: 512}},
		"tiny":                {sized(8, 8, 20), engine.Limits{}, engine.Limits{MaxTokens: 16384, MaxSequences: 1024, MaxLength: 20, BestTokens: 512}},
		"large":               {sized(4096, 16384, 512), engine.Limits{}, engine.Limits{MaxTokens: 1024, MaxSequences: 1024, MaxLength: 512, BestTokens: 512}},
		"long":                {sized(4096, 16384, 32768), engine.Limits{}, engine.Limits{MaxTokens: 32768, MaxSequences: 1024, MaxLength: 32768, BestTokens: 512}},
		"lower":               {sized(384, 1536, 256), engine.Limits{MaxTokens: 100, MaxSequences: 3}, engine.Limits{MaxTokens: 100, MaxSequences: 3, MaxLength: 100, BestTokens: 100}},
		"best above the rest": {sized(384, 1536, 256), engine.Limits{BestTokens: 8000, MaxLength: 9000}, engine.Limits{MaxTokens: 8000, MaxSequences: 1024, MaxLength: 256, BestTokens: 8000}},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := Options{Limits: c.given}.withDefaults(c.model)
			require.NoError(t, err)
			require.Equal(t, c.want, o.Limits)
			require.Positive(t, o.Threads)
			require.Equal(t, 1, o.Slots)
		})
	}
}

// A small file can name very many labels.
func TestDefaultLimitsOfWideHeads(t *testing.T) {
	const labels = 1 << 20
	m := sized(8, 8, 20)
	m.Head = arch.Head{Kind: arch.HeadTokenClassifier, Chain: []arch.Dense{{Linear: arch.Linear{In: 8, Out: labels}}}}
	o, err := Options{}.withDefaults(m)
	require.NoError(t, err)
	require.Equal(t, engine.Limits{MaxTokens: 255, MaxSequences: 256, MaxLength: 20, BestTokens: 255}, o.Limits)
	m.Head.Kind, m.Head.Pooling.Modes = arch.HeadClassifier, []arch.PoolMode{arch.PoolCLS}
	o, err = Options{}.withDefaults(m)
	require.NoError(t, err)
	require.Equal(t, engine.Limits{MaxTokens: 16384, MaxSequences: 256, MaxLength: 20, BestTokens: 512}, o.Limits)
}

func TestOptionsOutOfRange(t *testing.T) {
	for name, o := range map[string]Options{
		"threads":              {Threads: -1},
		"slots":                {Slots: 65},
		"limits.max_tokens":    {Limits: engine.Limits{MaxTokens: 1<<22 + 1}},
		"limits.max_sequences": {Limits: engine.Limits{MaxSequences: -3}},
		"limits.max_length":    {Limits: engine.Limits{MaxLength: -1}},
		"limits.best_tokens":   {Limits: engine.Limits{BestTokens: -1}},
		"limits.padded":        {Limits: engine.Limits{Padded: true}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := o.withDefaults(sized(384, 1536, 256))
			require.Equal(t, status.InvalidArgument, status.CodeOf(err))
			require.ErrorContains(t, err, name)
		})
	}
}
