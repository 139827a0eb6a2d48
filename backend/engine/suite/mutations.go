package suite

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// mutation is a mistake that an engine or a reader could make. bad applies it to a copy of the model and its layers.
type mutation struct {
	name, model string // model: the start of a name in models, or a folder of testdata/models
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
	{"bias of the vocabulary forgotten", "sparse", withHead(1, func(d *arch.Dense) { d.Linear.Bias = arch.Tensor{} })},
	{"head of tokens forgotten", "heads", func(m *arch.Model) { m.Head.Tokens = nil }},
	{"bias of the weights of tokens forgotten", "heads", withTokenHead(func(h *arch.TokenHead) { h.Weight.Bias = arch.Tensor{} })},
	{"norm before the dense layers forgotten", "heads", func(m *arch.Model) { m.Head.Chain = m.Head.Chain[1:] }},
	{"wrong eps of a norm between dense layers", "heads", withHead(2, func(d *arch.Dense) { d.Norm = withEps(d.Norm, 0.1) })},
	{"prompt pooled", "projected", func(m *arch.Model) { m.Head.Pooling.ExcludePrompt = false }},
	{"poolings in another order", "projected", func(m *arch.Model) {
		p := m.Head.Pooling.Modes
		m.Head.Pooling.Modes = append([]arch.PoolMode{p[1], p[0]}, p[2:]...)
	}},
}

// familyMutations are what a family's reader could read wrong, on its golden cases.
var familyMutations = []mutation{
	{"wrong gelu", "roberta-mean", withActivation(arch.GELUTanh)},
	{"wrong eps", "roberta-mean", withEpsOfAll(2e-3)},
	{"head without its tanh", "roberta-classifier", withHead(0, func(d *arch.Dense) { d.Activation = arch.Identity })},
	{"head with the model's activation", "roberta-masked-lm", withHead(0, func(d *arch.Dense) { d.Activation = arch.GELUTanh })},
	{"bias of another name", "roberta-masked-lm-untied", withHead(1, func(d *arch.Dense) { d.Linear.Bias.Name = "lm_head.bias" })},
	{"tied", "roberta-masked-lm-untied", func(m *arch.Model) {
		withHead(1, func(d *arch.Dense) { d.Linear.Weight = m.Embeddings.Word })(m)
	}},
	{"wrong gelu", "xlm-roberta-cls", withActivation(arch.GELUTanh)},
	{"wrong eps", "xlm-roberta-classifier", withEpsOfAll(1e-5)},
	{"wrong pooling", "xlm-roberta-cls", func(m *arch.Model) { m.Head.Pooling.Modes = []arch.PoolMode{arch.PoolMean} }},
	{"wrong activation", "camembert-max", withActivation(arch.GELU)},
	{"wrong eps", "camembert-classifier", withEpsOfAll(1e-12)},
	{"wrong gelu", "distilbert-mean", withActivation(arch.GELUTanh)},
	{"head without its relu", "distilbert-classifier", withHead(0, func(d *arch.Dense) { d.Activation = arch.Tanh })},
	{"wrong eps", "distilbert-mean", withEpsOfAll(1e-4)},
	{"wrong gelu", "mpnet-mean", withActivation(arch.GELUTanh)},
	{"wrong eps", "mpnet-mean", withEpsOfAll(2e-3)},
	{"bias by position forgotten", "mpnet-mean", func(m *arch.Model) {
		for i := range m.Layers {
			m.Layers[i].Attention.RelativeBias = nil
		}
	}},
	{"distances in one direction", "mpnet-mean", func(m *arch.Model) {
		b := *m.Layers[0].Attention.RelativeBias
		b.Bidirectional = false
		m.Layers[0].Attention.RelativeBias = &b
	}},
	{"another border between buckets", "mpnet-mean", func(m *arch.Model) {
		b := *m.Layers[0].Attention.RelativeBias
		b.MaxDistance = 100
		m.Layers[0].Attention.RelativeBias = &b
	}},
	{"wrong gelu", "deberta-mean", withActivation(arch.GELUTanh)},
	{"wrong eps", "deberta-mean", withEpsOfAll(2e-3)},
	{"scale of plain attention", "deberta-absolute", func(m *arch.Model) { m.Layers[0].Attention.Scale *= float32(math.Sqrt(3)) }},
	{"norm of places forgotten", "deberta-mean", withPlaces(1, func(d *arch.Disentangled) { d.Norm = nil })},
	{"places by query and key exchanged", "deberta-mean", withPlaces(1, func(d *arch.Disentangled) { d.Key, d.Query = d.Query, d.Key })},
	{"another border between buckets", "deberta-mean", withPlaces(0, func(d *arch.Disentangled) { d.MaxDistance = 22 })},
	{"places in steps", "deberta-c2p-positions", withPlaces(0, func(d *arch.Disentangled) { d.Buckets, d.MaxDistance = 9, 12 })},
	{"places forgotten", "deberta-p2c-own", func(m *arch.Model) { m.Layers[2].Attention.Disentangled = nil }},
	{"head with another activation", "deberta-classifier", withHead(0, func(d *arch.Dense) { d.Activation = arch.Tanh })},
	{"wrong gelu", "modernbert-mean", withActivation(arch.GELUTanh)},
	{"a norm before the first layer", "modernbert-mean", func(m *arch.Model) { m.Layers[0].AttentionNorms.Before = m.Embeddings.Norm }},
	{"wrong pooling of the classifier", "modernbert-reranker-mean", func(m *arch.Model) { m.Head.Pooling.Modes = []arch.PoolMode{arch.PoolCLS} }},
	{"head without its norm", "modernbert-classifier", withHead(0, func(d *arch.Dense) { d.Norm = nil })},
	{"head with the model's activation", "modernbert-classifier", withHead(0, func(d *arch.Dense) { d.Activation = arch.GELU })},
	{"rope of the whole head", "nomic-hub-partial", func(m *arch.Model) {
		m.Layers[0].Attention.Rope = (&maker{}).rope(arch.RopeInterleaved, 8, 120, 1)
	}},
	{"types ignored", "nomic-hub", func(m *arch.Model) { m.Embeddings.Type = arch.Tensor{} }},
	{"scaling of rope forgotten", "new-ntk", func(m *arch.Model) { m.Layers[0].Attention.Rope = (&maker{}).rope(arch.RopeHalf, 10, 150, 1) }},
	{"scaling of rope forgotten", "new-mixed-ntk", func(m *arch.Model) {
		m.Layers[0].Attention.Rope = (&maker{}).rope(arch.RopeHalf, 12, 150, 1)
	}},
	{"wrong norm", "new-mixed-ntk", func(m *arch.Model) {
		n := *m.Layers[0].MLPNorms.Residual
		n.Kind = arch.LayerNorm
		m.Layers[0].MLPNorms.Residual = &n
	}},
	{"head with the model's activation", "gte-masked-lm", withHead(0, func(d *arch.Dense) { d.Activation = arch.SiLU })},
	{"head with gelu", "new-masked-lm", withHead(0, func(d *arch.Dense) { d.Activation = arch.GELU })},
	{"gate with another activation", "jina-v2-reglu", withActivation(arch.GELU)},
	{"norms of each head", "jina-v2-post-norm", func(m *arch.Model) {
		m.Layers[0].Attention.QKNorm = &arch.QKNorm{Q: arch.Norm{Eps: 1e-3}, K: arch.Norm{Eps: 1e-3}}
	}},
	{"wrong gelu", "jina-v3-mean", withActivation(arch.GELU)},
	{"heads of tokens exchanged", "bge-m3", withTokenHead(func(h *arch.TokenHead) { h.Vector, h.Weight = h.Weight, h.Vector })},
	{"bias of the vectors of tokens forgotten", "bge-m3", withTokenHead(func(h *arch.TokenHead) { h.Vector.Bias = arch.Tensor{} })},
	{"norm between dense layers forgotten", "xlm-roberta-layernorm", withHead(2, func(d *arch.Dense) { d.Norm = nil })},
	{"norms with the model's eps", "xlm-roberta-layernorm", withHead(0, func(d *arch.Dense) { d.Norm = withEps(d.Norm, 1e-2) })},
	{"head without its tanh", "jina-reranker-v2", withHead(0, func(d *arch.Dense) { d.Activation = arch.Identity })},
}

func withActivation(act arch.Activation) func(m *arch.Model) {
	return func(m *arch.Model) { m.Layers[0].MLP.Activation = act }
}

// withEpsOfAll changes the eps of every norm of the layers.
func withEpsOfAll(eps float32) func(m *arch.Model) {
	return func(m *arch.Model) {
		for i := range m.Layers {
			for _, n := range []*arch.BlockNorms{&m.Layers[i].AttentionNorms, &m.Layers[i].MLPNorms} {
				n.Residual = withEps(n.Residual, eps)
			}
		}
	}
}

// withHead changes a layer of the head.
func withHead(layer int, change func(d *arch.Dense)) func(m *arch.Model) {
	return func(m *arch.Model) {
		m.Head.Chain = append([]arch.Dense(nil), m.Head.Chain...)
		change(&m.Head.Chain[layer])
	}
}

// withTokenHead changes the head of tokens.
func withTokenHead(change func(h *arch.TokenHead)) func(m *arch.Model) {
	return func(m *arch.Model) {
		h := *m.Head.Tokens
		change(&h)
		m.Head.Tokens = &h
	}
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
	synthetic, golden := make(map[string]*Case), make(map[string]*Case)
	for _, c := range Synthetic(t) {
		synthetic[c.Name[:4]] = &c
	}
	for _, c := range Golden(t, arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier, arch.HeadSparse) {
		golden[c.Name] = &c
	}
	for _, bad := range mutations {
		t.Run(bad.name, func(t *testing.T) { bad.fails(t, open, synthetic[bad.model[:4]]) })
	}
	for _, c := range golden {
		for _, bad := range mutationsOf(c) {
			t.Run(c.Name+": "+bad.name, func(t *testing.T) { bad.fails(t, open, c) })
		}
	}
	for _, bad := range familyMutations {
		t.Run(bad.model+": "+bad.name, func(t *testing.T) { bad.fails(t, open, golden[bad.model]) })
	}
	for _, c := range []*Case{
		synthetic["bert"], golden["roberta-mean"], golden["xlm-roberta-cls"], golden["camembert-max"], golden["distilbert-mean"],
		golden["mpnet-mean"], golden["nomic-hub-positions"], golden["new-positions"], golden["jina-v2-original"], golden["jina-reranker-v2"],
		golden["deberta-c2p-positions"],
	} {
		t.Run("positions off by one: "+c.Name, func(t *testing.T) { shifted(t, open, *c) })
	}
}

// fails opens the wrong model, whose results must not be the case's.
func (bad mutation) fails(t *testing.T, open Opener, c *Case) {
	require.NotNil(t, c)
	wrong := copied(c.Model)
	bad.bad(wrong)
	e := open(t, wrong, c.Weights, engine.Limits{})
	require.ErrorContains(t, Verify(e, c, Exact), "sequence ", "a result that differs, not a failure")
	require.NoError(t, e.Close())
}

// copied returns a model whose layers can be changed.
func copied(m *arch.Model) *arch.Model {
	c := *m
	c.Layers = append([]arch.Layer(nil), m.Layers...)
	return &c
}

// shifted runs the case with the positions after its own.
func shifted(t *testing.T, open Opener, c Case) {
	c.Sequences = append([]Sequence(nil), c.Sequences...)
	for i := range c.Sequences {
		positions := make([]int32, len(c.Sequences[i].Positions))
		for p, position := range c.Sequences[i].Positions {
			positions[p] = (position + 1) % int32(c.Model.MaxPositions)
		}
		c.Sequences[i].Positions = positions
	}
	e := open(t, c.Model, c.Weights, engine.Limits{})
	require.ErrorContains(t, Verify(e, &c, Exact), "sequence ", "a result that differs, not a failure")
	require.NoError(t, e.Close())
}
