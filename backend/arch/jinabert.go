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
	trunk: jinaBertTrunk,
	architectures: map[string]architecture{
		"":                                  {kind: HeadEmbedding},
		"JinaBertModel":                     {kind: HeadEmbedding},
		"JinaBertForMaskedLM":               {kind: HeadSparse, chain: bertMaskedLM},
		"JinaBertForSequenceClassification": {kind: HeadClassifier, chain: bertClassifier},
		"JinaBertForTokenClassification":    {kind: HeadTokenClassifier, chain: linearTokenClassifier},
	},
}

// bertHub tells jina-bert from BERT.
func bertHub(c *object, _ *tensors, architecture string) *family {
	if strings.HasPrefix(architecture, "JinaBert") || c.text("position_embedding_type", "") == "alibi" {
		return &jinaBert
	}
	return nil
}

var jinaBertNames = postNormNames{
	embeddingNorm: "embeddings.LayerNorm", layers: "encoder.layer.",
	qkv: []string{"attention.self.query", "attention.self.key", "attention.self.value"}, out: "attention.output.dense",
	attentionNorm: "attention.output.LayerNorm",
}

func jinaBertTrunk(c *object, t *tensors, m *Model) {
	e := &postNorm{names: jinaBertNames, qkvBias: true, outBias: true}
	wide, act := e.encoderSizes(c, m, encoderDefaults{hidden: 768, vocab: 30522, positions: 512, types: 2, leastTypes: 1, layers: 12, heads: 12, wide: 3072, act: "gelu", eps: 1e-12})
	c.refuseOther("position_embedding_type", "absolute", "alibi")
	if c.text("position_embedding_type", "absolute") == "alibi" {
		e.attention.AlibiSlopes = alibiSlopes(e.heads)
	} else {
		e.learnedPositions = true
	}
	c.refuseOther("emb_pooler", "mean")
	e.names.prefix = bertPrefix(t)
	postNormed := t.has(e.names.prefix + "encoder.layer.0.layer_norm_1.weight")
	kind := c.text("feed_forward_type", jinaFeedForward(postNormed))
	glu, gated := map[string]Activation{"geglu": GELU, "reglu": ReLU}[kind]
	if !gated && kind != "original" {
		c.fail(status.Unsupported, "feed_forward_type %s is not supported; supported: geglu, original, reglu", quote(kind))
	}
	if c.err != nil {
		return
	}
	if gated {
		act = glu
	}
	hidden := m.HiddenSize
	switch {
	case postNormed:
		e.names.mlpNorm = "layer_norm_2"
		e.finish = func(l string, layer *Layer) { jinaPostNorms(t, l, layer, hidden, e.eps) }
		e.mlp = func(l string) MLP {
			if gated {
				return t.fusedMLP(l+"mlp.up_gated_layer", l+"mlp.down_layer", hidden, wide, act, true, false, true)
			}
			return MLP{Activation: act, Up: t.linearBias(l+"mlp.up_layer", hidden, wide, false), Down: t.linear(l+"mlp.down_layer", wide, hidden), Intermediate: wide}
		}
	case gated:
		e.names.mlpNorm = "mlp.layernorm"
		e.mlp = func(l string) MLP {
			return t.fusedMLP(l+"mlp.gated_layers", l+"mlp.wo", hidden, wide, act, false, false, true)
		}
	default:
		e.names.mlpNorm = "output.LayerNorm"
		e.mlp = func(l string) MLP { return t.plainMLP(l+"intermediate.dense", l+"output.dense", hidden, wide, act) }
	}
	e.read(t, m)
}

// jinaFeedForward is the default of each of the two.
func jinaFeedForward(postNormed bool) string {
	if postNormed {
		return "geglu"
	}
	return "original"
}

// jinaPostNorms adds the norms that jina-bert-v2-qk-post-norm has beside BERT's: of all query heads and of all key heads at once, and of the
// block's input plus what BERT's norm gives.
func jinaPostNorms(t *tensors, l string, layer *Layer, hidden int, eps float32) {
	layer.Attention.QKNorm = &QKNorm{
		Q:         *t.layerNorm(l+"attention.self.layer_norm_q", hidden, eps),
		K:         *t.layerNorm(l+"attention.self.layer_norm_k", hidden, eps),
		FullWidth: true,
	}
	layer.AttentionNorms.Inner = layer.AttentionNorms.Residual
	layer.AttentionNorms.Residual = t.layerNorm(l+"layer_norm_1", hidden, eps)
}

// alibiSlopes are ALiBi's (https://arxiv.org/abs/2108.12409): a geometric sequence that ends at 2^-8 for a power of two, and for other numbers
// of heads that of the power below, then every other one of the power above.
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
