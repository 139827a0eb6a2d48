package arch

import (
	"math"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// bert is BERT (https://arxiv.org/abs/1810.04805), with names and defaults of transformers' BertConfig and modeling_bert.py.
var bert = family{
	trunk: bertTrunk,
	architectures: map[string]architecture{
		"":                              {kind: HeadEmbedding},
		"BertModel":                     {kind: HeadEmbedding},
		"BertForMaskedLM":               {kind: HeadSparse, chain: bertMaskedLM},
		"BertForPreTraining":            {kind: HeadSparse, chain: bertMaskedLM},
		"BertForSequenceClassification": {kind: HeadClassifier, chain: bertClassifier},
		"BertForTokenClassification":    {kind: HeadTokenClassifier, chain: bertTokenClassifier},
	},
}

// Limits of what a config may claim: far above every known model, and small enough that no product of two overflows.
const (
	maxHidden    = 1 << 16
	maxWide      = 1 << 20 // intermediate columns
	maxLayers    = 1 << 10
	maxHeads     = 1 << 12
	maxTable     = 1 << 24 // rows of an embedding table
	maxTypeTable = 1 << 16
)

func bertTrunk(c *object, t *tensors, m *Model) {
	m.HiddenSize = c.integer("hidden_size", 768, 1, maxHidden)
	m.VocabSize = c.integer("vocab_size", 30522, 1, maxTable)
	m.MaxPositions = c.integer("max_position_embeddings", 512, 1, maxTable)
	types := c.integer("type_vocab_size", 2, 1, maxTypeTable)
	layers := c.integer("num_hidden_layers", 12, 1, maxLayers)
	heads := c.integer("num_attention_heads", 12, 1, maxHeads)
	wide := c.integer("intermediate_size", 3072, 1, maxWide)
	act := c.activation("hidden_act", "gelu")
	eps := float32(c.number("layer_norm_eps", 1e-12, 0, 1))
	if kind := c.text("position_embedding_type", "absolute"); kind != "absolute" {
		c.fail(status.Unsupported, "position_embedding_type %s is not supported for bert; supported: absolute", quote(kind))
	}
	if c.boolean("is_decoder", false) {
		c.fail(status.Unsupported, "is_decoder true is not supported for bert: it must be an encoder")
	}
	if c.boolean("add_cross_attention", false) {
		c.fail(status.Unsupported, "add_cross_attention true is not supported for bert: it must be an encoder")
	}
	if c.err == nil && m.HiddenSize%heads != 0 {
		c.fail(status.Start, "hidden_size %d is no multiple of num_attention_heads %d", m.HiddenSize, heads)
	}
	if c.err != nil {
		return
	}

	prefix := bertPrefix(t)
	hidden, e := m.HiddenSize, prefix+"embeddings."
	m.Embeddings = Embeddings{
		Word:          t.need(e+"word_embeddings.weight", m.VocabSize, hidden),
		Position:      t.need(e+"position_embeddings.weight", m.MaxPositions, hidden),
		Type:          t.need(e+"token_type_embeddings.weight", types, hidden),
		TypeVocabSize: types,
		Scale:         1,
		Norm:          t.layerNorm(e+"LayerNorm", hidden, eps),
	}
	for i := range layers {
		if t.err != nil { // a claim of many layers costs nothing without their weights
			return
		}
		l := prefix + "encoder.layer." + strconv.Itoa(i)
		m.Layers = append(m.Layers, Layer{
			Attention: Attention{
				Heads: heads, KVHeads: heads, HeadDim: hidden / heads,
				Scale: float32(1 / math.Sqrt(float64(hidden/heads))),
				QKV: []Linear{
					t.linear(l+".attention.self.query", hidden, hidden),
					t.linear(l+".attention.self.key", hidden, hidden),
					t.linear(l+".attention.self.value", hidden, hidden),
				},
				Out:        t.linear(l+".attention.output.dense", hidden, hidden),
				WindowLeft: -1, WindowRight: -1,
			},
			AttentionNorms: BlockNorms{Residual: t.layerNorm(l+".attention.output.LayerNorm", hidden, eps)},
			MLP: MLP{
				Activation:   act,
				Up:           t.linear(l+".intermediate.dense", hidden, wide),
				Down:         t.linear(l+".output.dense", wide, hidden),
				Intermediate: wide,
			},
			MLPNorms: BlockNorms{Residual: t.layerNorm(l+".output.LayerNorm", hidden, eps)},
		})
	}
}

// bertPrefix is what stands before the trunk's names: models saved with a head have "bert.".
func bertPrefix(t *tensors) string {
	if t.has("bert.embeddings.word_embeddings.weight") {
		return "bert."
	}
	return ""
}

// bertClassifier is the pooler on the first token, then a linear layer.
func bertClassifier(c *object, t *tensors, m *Model) []Dense {
	m.Head.Labels = c.labels()
	return []Dense{
		{Linear: t.linear(bertPrefix(t)+"pooler.dense", m.HiddenSize, m.HiddenSize), Activation: Tanh},
		{Linear: t.linear("classifier", m.HiddenSize, len(m.Head.Labels))},
	}
}

func bertTokenClassifier(c *object, t *tensors, m *Model) []Dense {
	m.Head.Labels = c.labels()
	return []Dense{{Linear: t.linear("classifier", m.HiddenSize, len(m.Head.Labels))}}
}

// bertMaskedLM is dense, activation, norm, then a map to the vocabulary: the word table itself where tied, as is the default.
func bertMaskedLM(c *object, t *tensors, m *Model) []Dense {
	const p = "cls.predictions."
	eps := m.Embeddings.Norm.Eps
	decoder := m.Embeddings.Word
	if !c.boolean("tie_word_embeddings", true) {
		decoder = t.need(p+"decoder.weight", m.VocabSize, m.HiddenSize)
	}
	bias := p + "bias"
	if !t.has(bias) {
		bias = p + "decoder.bias"
	}
	return []Dense{
		{
			Linear:     t.linear(p+"transform.dense", m.HiddenSize, m.HiddenSize),
			Activation: m.Layers[0].MLP.Activation,
			Norm:       t.layerNorm(p+"transform.LayerNorm", m.HiddenSize, eps),
		},
		{Linear: Linear{Weight: decoder, Bias: t.need(bias, m.VocabSize), In: m.HiddenSize, Out: m.VocabSize}},
	}
}
