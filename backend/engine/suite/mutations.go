package suite

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// mutation is a mistake that an engine or a reader could make. bad applies it to a copy of the model and its layers.
type mutation struct {
	name, model string // model: the start of a name in models
	bad         func(m *arch.Model)
}

var mutations = []mutation{
	{"wrong gelu", "bert", func(m *arch.Model) { m.Layers[0].MLP.Activation = arch.GELUTanh }},
	{"wrong eps", "bert", func(m *arch.Model) { m.Layers[1].MLPNorms.Residual = withEps(m.Layers[1].MLPNorms.Residual, 0.0201) }},
	{"wrong eps of the embeddings", "bert", func(m *arch.Model) { m.Embeddings.Norm = withEps(m.Embeddings.Norm, 1e-12) }},
	{"wrong pooling", "bert", func(m *arch.Model) { m.Head.Pooling.Modes = []arch.PoolMode{arch.PoolMeanSqrtLen} }},
	{"types ignored", "bert", func(m *arch.Model) { m.Embeddings.Type = arch.Tensor{} }},
	{"bias forgotten", "bert", func(m *arch.Model) { m.Layers[1].Attention.Out.Bias = arch.Tensor{} }},
	{"wrong scale", "bert", func(m *arch.Model) { m.Layers[0].Attention.Scale *= 1.01 }},
	{"causal", "bert", func(m *arch.Model) { m.Layers[0].Attention.Causal = true }},
	{"not causal", "qwen3", func(m *arch.Model) { m.Layers[1].Attention.Causal = false }},
	{"wrong rope base", "qwen3", func(m *arch.Model) { m.Layers[0].Attention.Rope = (&maker{}).rope(arch.RopeHalf, 10, 1001, 1) }},
	{"wrong rope kind", "qwen3", func(m *arch.Model) {
		m.Layers[0].Attention.Rope = (&maker{}).rope(arch.RopeInterleaved, 10, 1000, 1)
	}},
	{"query norm forgotten", "qwen3", func(m *arch.Model) { m.Layers[0].Attention.QKNorm = nil }},
	{"final norm forgotten", "qwen3", func(m *arch.Model) { m.FinalNorm = nil }},
	{"window wider by one to the left", "gemma", func(m *arch.Model) { m.Layers[0].Attention.WindowLeft++ }},
	{"window wider by one to the right", "gemma", func(m *arch.Model) { m.Layers[2].Attention.WindowRight++ }},
	{"softcap forgotten", "gemma", func(m *arch.Model) { m.Layers[1].Attention.Softcap = 0 }},
	{"weight without its one", "gemma", func(m *arch.Model) {
		n := *m.FinalNorm
		n.OnePlusWeight = false
		m.FinalNorm = &n
	}},
	{"embeddings not scaled", "gemma", func(m *arch.Model) { m.Embeddings.Scale = 1 }},
	{"norm after a block forgotten", "gemma", func(m *arch.Model) { m.Layers[1].MLPNorms.After = nil }},
	{"slopes of alibi in another order", "jina", func(m *arch.Model) {
		m.Layers[0].Attention.AlibiSlopes = []float32{0.0625, 0.25, 0.015625, 0.5}
	}},
	{"gate and up exchanged", "jina", func(m *arch.Model) { m.Layers[0].MLP.UpFirst = false }},
	{"norm inside the sum forgotten", "qk-post", func(m *arch.Model) { m.Layers[1].AttentionNorms.Inner = nil }},
	{"wrong slope of alibi", "qk-post", func(m *arch.Model) {
		m.Layers[0].Attention.AlibiSlopes = []float32{0.0625, 0.0045, 0.25}
	}},
	{"wrong eps of the norms of queries and keys", "qk-post", func(m *arch.Model) {
		a := &m.Layers[0].Attention
		n := *a.QKNorm
		n.Q, n.K = *withEps(&n.Q, 0.03), *withEps(&n.K, 0.03)
		a.QKNorm = &n
	}},
	{"window narrower by one", "modernbert", func(m *arch.Model) { m.Layers[1].Attention.WindowLeft-- }},
	{"rope base of another kind of layer", "modernbert", func(m *arch.Model) { m.Layers[2].Attention.Rope = m.Layers[0].Attention.Rope }},
	{"norm of the first layer", "modernbert", func(m *arch.Model) { m.Layers[0].AttentionNorms.Before = m.Layers[1].AttentionNorms.Before }},
	{"another border between buckets", "mpnet", func(m *arch.Model) {
		b := *m.Layers[0].Attention.RelativeBias
		b.MaxDistance = 25
		m.Layers[0].Attention.RelativeBias = &b
	}},
	{"another way to bucket distances", "deberta", withPlaces(0, func(d *arch.Disentangled) { d.MaxDistance = 24 })},
	{"norm of places forgotten", "deberta", withPlaces(0, func(d *arch.Disentangled) { d.Norm = nil })},
	{"places by query and key exchanged", "deberta", withPlaces(0, func(d *arch.Disentangled) { d.Key, d.Query = d.Query, d.Key })},
	{"places by key forgotten", "deberta", withPlaces(0, func(d *arch.Disentangled) { d.Query = nil })},
	{"places in steps", "deberta", withPlaces(1, func(d *arch.Disentangled) { d.Buckets, d.MaxDistance = 9, 40 })},
	{"factor of rope forgotten", "gptj", func(m *arch.Model) {
		m.Layers[0].Attention.Rope = (&maker{}).rope(arch.RopeInterleaved, 6, 500, 1)
	}},
	{"bias of the vocabulary forgotten", "sparse", func(m *arch.Model) {
		m.Head.Chain = append([]arch.Dense(nil), m.Head.Chain...)
		m.Head.Chain[1].Linear.Bias = arch.Tensor{}
	}},
	{"prompt pooled", "projected", func(m *arch.Model) { m.Head.Pooling.ExcludePrompt = false }},
	{"poolings in another order", "projected", func(m *arch.Model) {
		p := m.Head.Pooling.Modes
		m.Head.Pooling.Modes = append([]arch.PoolMode{p[1], p[0]}, p[2:]...)
	}},
}

func withEps(n *arch.Norm, eps float32) *arch.Norm {
	changed := *n
	changed.Eps = eps
	return &changed
}

// withPlaces changes a layer's disentangled attention.
func withPlaces(layer int, change func(d *arch.Disentangled)) func(m *arch.Model) {
	return func(m *arch.Model) {
		d := *m.Layers[layer].Attention.Disentangled
		change(&d)
		m.Layers[layer].Attention.Disentangled = &d
	}
}

// Mutations proves that the suite sees mistakes: a right model passes, each wrong one fails, and so do positions that
// are off by one.
func Mutations(t *testing.T, open Opener) {
	cases := make(map[string]*Case)
	for _, c := range Synthetic(t) {
		cases[c.Name[:4]] = &c
	}
	for _, bad := range mutations {
		t.Run(bad.name, func(t *testing.T) {
			c := cases[bad.model[:4]]
			require.NotNil(t, c)
			wrong := *c.Model
			wrong.Layers = append([]arch.Layer(nil), c.Model.Layers...)
			bad.bad(&wrong)
			e := open(t, &wrong, c.Weights, engine.Limits{})
			require.Error(t, Verify(e, c, Exact))
			require.NoError(t, e.Close())
		})
	}
	t.Run("positions off by one", func(t *testing.T) {
		c := *cases["bert"]
		c.Sequences = append([]Sequence(nil), c.Sequences...)
		for i := range c.Sequences {
			shifted := make([]int32, len(c.Sequences[i].Positions))
			for p, position := range c.Sequences[i].Positions {
				shifted[p] = position - 1
			}
			c.Sequences[i].Positions = shifted
		}
		e := open(t, c.Model, c.Weights, engine.Limits{})
		require.Error(t, Verify(e, &c, Exact))
		require.NoError(t, e.Close())
	})
}
