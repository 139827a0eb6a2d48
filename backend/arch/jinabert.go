package arch

import (
	"math"
	"math/bits"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// jinaBert is jina-bert v2 (https://arxiv.org/abs/2310.19923): BERT with ALiBi in both directions and gated MLPs, behind model_type
// "bert" in code of the hub. There are two of it, which differ in the names of their weights: jina-bert-implementation, and
// jina-bert-v2-qk-post-norm with norms of query and key and one more round attention.
var jinaBert = family{
	trunk:  jinaBertTrunk,
	format: "jina-bert v2",
	architectures: map[string]architecture{
		"":                                  {kind: HeadEmbedding},
		"JinaBertModel":                     {kind: HeadEmbedding},
		"JinaBertForMaskedLM":               {kind: HeadSparse, chain: bertMaskedLM},
		"JinaBertForSequenceClassification": {kind: HeadClassifier, chain: bertClassifier},
		"JinaBertForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
	},
}

// bertHub tells jina-bert from BERT.
func bertHub(c *object, _ *tensors, architecture string) *family {
	if strings.HasPrefix(architecture, "JinaBert") || c.text("position_embedding_type", "") == "alibi" {
		return &jinaBert
	}
	return nil
}

func jinaBertTrunk(c *object, t *tensors, m *Model) {
	types := c.typeVocabSize(2, 1)
	k := bertKeys
	k.ownPositions = true
	e := c.encoder(m, k)
	table := c.oneOf("position_embedding_type", "absolute", "alibi") == "absolute"
	if !table {
		e.attention.AlibiSlopes = alibiSlopes(e.heads)
	}
	c.oneOf("emb_pooler", "mean")
	prefix := t.prefixed(bertPrefix)
	postNormed := t.has(prefix + "encoder.layer.0.layer_norm_1.weight")
	kind := c.text("feed_forward_type", jinaFeedForward(postNormed))
	act, gated := map[string]Activation{"geglu": GELU, "reglu": ReLU}[kind]
	if !gated && kind != "original" {
		c.fail(status.Unsupported, "feed_forward_type %s is not supported; supported: geglu, original, reglu", quote(kind))
	}
	if c.err != nil {
		return
	}
	if gated {
		e.act = act
	}
	names := bertNames
	var adjust func(l string, layer *Layer)
	switch {
	case postNormed:
		names.norm = "layer_norm_2"
		adjust = func(l string, layer *Layer) { jinaPostNorms(t, l, layer, &e) }
		e.mlp = func(l string) MLP {
			if gated {
				return e.fusedMLP(t, l+"mlp.up_gated_layer", l+"mlp.down_layer", true)
			}
			return e.plainMLP(t, l+"mlp.up_layer", l+"mlp.down_layer", false)
		}
	case gated:
		names.norm = "mlp.layernorm"
		e.mlp = func(l string) MLP { return e.fusedMLP(t, l+"mlp.gated_layers", l+"mlp.wo", false) }
	}
	m.Embeddings = e.embeddings(t, m, prefix, embeddingsNorm, table, types)
	e.addLayers(t, m, prefix+"encoder.layer.", names, adjust)
}

// jinaFeedForward is the default of each of the two.
func jinaFeedForward(postNormed bool) string {
	if postNormed {
		return "geglu"
	}
	return "original"
}

// jinaPostNorms adds the norms that jina-bert-v2-qk-post-norm has beside BERT's: of all query heads and of all key heads at once, and of
// the block's input plus what BERT's norm gives.
func jinaPostNorms(t *tensors, l string, layer *Layer, e *encoder) {
	layer.Attention.QKNorm = &QKNorm{
		Q:         *t.layerNorm(l+"attention.self.layer_norm_q", e.hidden, e.eps),
		K:         *t.layerNorm(l+"attention.self.layer_norm_k", e.hidden, e.eps),
		FullWidth: true,
	}
	layer.AttentionNorms.Inner = layer.AttentionNorms.Residual
	layer.AttentionNorms.Residual = t.layerNorm(l+"layer_norm_1", e.hidden, e.eps)
}

// alibiSlopes are ALiBi's (https://arxiv.org/abs/2108.12409): a geometric sequence that ends at 2^-8 for a power of two, and for other
// numbers of heads that of the power below, then every other one of the power above.
func alibiSlopes(heads int) []float32 {
	power := 1 << (bits.Len(uint(heads)) - 1)
	slopes := make([]float32, heads)
	for h := range slopes {
		start, n := math.Pow(2, -8/float64(power)), h+1
		if h >= power {
			start, n = math.Pow(2, -4/float64(power)), 2*(h-power)+1
		}
		slopes[h] = float32(math.Pow(start, float64(n)))
	}
	return slopes
}
