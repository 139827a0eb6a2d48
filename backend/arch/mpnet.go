package arch

import "github.com/basetenlabs/bei-runtime/backend/status"

// mpnet is MPNet (https://arxiv.org/abs/2004.09297): BERT without token types and with a bias by relative position that all layers share,
// with names and defaults of transformers' MPNetConfig and modeling_mpnet.py.
var mpnet = family{
	trunk: mpnetTrunk,
	architectures: map[string]architecture{
		"":                               {kind: HeadEmbedding},
		"MPNetModel":                     {kind: HeadEmbedding},
		"MPNetForMaskedLM":               {kind: HeadSparse, chain: robertaMaskedLM},
		"MPNetForSequenceClassification": {kind: HeadClassifier, chain: robertaClassifier},
		"MPNetForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
	},
}

var mpnetNames = layerNames{
	qkv: []string{"attention.attn.q", "attention.attn.k", "attention.attn.v"}, out: "attention.attn.o",
	attentionNorm: "attention.LayerNorm", up: "intermediate.dense", down: "output.dense", norm: "output.LayerNorm",
}

// What MPNet's code has as numbers: positions count from 2 whatever the padding token is, and whatever the config says of
// relative_attention_num_buckets, distances fall into 32.
const mpnetOffset, mpnetBuckets, mpnetDistance = 2, 32, 128

func mpnetTrunk(c *object, t *tensors, m *Model) {
	e := c.encoder(m, bertKeys.withVocab(30527))
	if n := c.integer("relative_attention_num_buckets", mpnetBuckets, 1, maxTable); n != mpnetBuckets {
		c.fail(status.Unsupported, "relative_attention_num_buckets %d is not supported: transformers uses %d, whatever it is", n, mpnetBuckets)
	}
	c.positionsAfter(mpnetOffset, m)
	if c.err != nil {
		return
	}
	prefix := t.prefixed("mpnet.")
	m.Embeddings = e.embeddings(t, m, prefix, embeddingsNorm, true, 0)
	m.Embeddings.PositionOffset = mpnetOffset
	bias := &RelativeBias{
		Weight:  t.need(prefix+"encoder.relative_attention_bias.weight", mpnetBuckets, e.heads),
		Buckets: mpnetBuckets, MaxDistance: mpnetDistance, Bidirectional: true,
	}
	e.attention.RelativeBias = bias
	e.addLayers(t, m, prefix+"encoder.layer.", mpnetNames, nil)
}
