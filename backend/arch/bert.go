package arch

import (
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// bert is BERT (https://arxiv.org/abs/1810.04805), with names and defaults of transformers' BertConfig and modeling_bert.py.
var bert = family{
	trunk: bertTrunk,
	hub:   bertHub,
	architectures: map[string]architecture{
		"":                              {kind: HeadEmbedding},
		"BertModel":                     {kind: HeadEmbedding},
		"BertForMaskedLM":               {kind: HeadSparse, chain: bertMaskedLM},
		"BertForPreTraining":            {kind: HeadSparse, chain: bertMaskedLM},
		"BertForSequenceClassification": {kind: HeadClassifier, chain: bertClassifier},
		"BertForTokenClassification":    {kind: HeadTokenClassifier, chain: linearTokenClassifier},
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

var bertNames = postNormNames{
	embeddingNorm: "embeddings.LayerNorm", layers: "encoder.layer.",
	qkv: []string{"attention.self.query", "attention.self.key", "attention.self.value"}, out: "attention.output.dense",
	attentionNorm: "attention.output.LayerNorm", mlpNorm: "output.LayerNorm",
}

func bertTrunk(c *object, t *tensors, m *Model) {
	e := &postNorm{names: bertNames, learnedPositions: true, qkvBias: true, outBias: true}
	wide, act := e.encoderSizes(c, m, encoderDefaults{hidden: 768, vocab: 30522, positions: 512, types: 2, leastTypes: 1, layers: 12, heads: 12, wide: 3072, act: "gelu", eps: 1e-12})
	if kind := c.text("position_embedding_type", "absolute"); kind != "absolute" {
		c.fail(status.Unsupported, "position_embedding_type %s is not supported for bert; supported: absolute", quote(kind))
	}
	if c.err != nil {
		return
	}
	e.names.prefix = bertPrefix(t)
	e.mlp = func(l string) MLP {
		return t.plainMLP(l+"intermediate.dense", l+"output.dense", m.HiddenSize, wide, act)
	}
	e.read(t, m)
}

// bertPrefix is what stands before the trunk's names: models saved with a head have "bert.".
func bertPrefix(t *tensors) string { return t.prefixOf("embeddings.word_embeddings.weight", "bert.") }

func bertClassifier(c *object, t *tensors, m *Model) []Dense {
	return pooledClassifier(c, t, m, bertPrefix(t)+"pooler.dense")
}

func bertMaskedLM(c *object, t *tensors, m *Model) []Dense {
	const p = "cls.predictions."
	return maskedLM(c, t, m, p+"transform.dense", p+"transform.LayerNorm", p+"decoder", c.activation("hidden_act", "gelu"), p+"bias", p+"decoder.bias")
}
