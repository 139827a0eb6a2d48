package arch

import (
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// jinaV3 is jina-embeddings-v3 (https://arxiv.org/abs/2409.10173): XLM-RoBERTa with rope, with names and defaults of transformers'
// JinaEmbeddingsV3Config and modeling_jina_embeddings_v3.py.
var jinaV3 = family{
	trunk: jinaV3Trunk,
	architectures: map[string]architecture{
		"":                            {kind: HeadEmbedding},
		"JinaEmbeddingsV3Model":       {kind: HeadEmbedding},
		"JinaEmbeddingsV3ForMaskedLM": {kind: HeadSparse, chain: xlmMaskedLM},
		"JinaEmbeddingsV3ForSequenceClassification": {kind: HeadClassifier, chain: xlmClassifier},
		"JinaEmbeddingsV3ForTokenClassification":    {kind: HeadTokenClassifier, chain: linearTokenClassifier},
	},
}

// xlmFlash is the hub's xlm-roberta-flash-implementation, behind model_type "xlm-roberta": jina-embeddings-v3 with rope and adapters, and
// jina-reranker-v2 with a table of positions. Adapters are applied to calls that name a task and only to them; without one that code uses
// the weights without adapters, and so do we.
var xlmFlash = family{
	trunk: xlmFlashTrunk,
	architectures: map[string]architecture{
		"":                                    {kind: HeadEmbedding, transformer: "custom_st.Transformer"},
		"XLMRobertaModel":                     {kind: HeadEmbedding, transformer: "custom_st.Transformer"},
		"XLMRobertaLoRA":                      {kind: HeadEmbedding, transformer: "custom_st.Transformer"},
		"XLMRobertaForMaskedLM":               {kind: HeadSparse, chain: xlmMaskedLM},
		"XLMRobertaForSequenceClassification": {kind: HeadClassifier, chain: xlmClassifier},
	},
}

var xlmFlashNames = postNormNames{
	embeddingNorm: "emb_ln", layers: "encoder.layers.", qkv: []string{"mixer.Wqkv"}, out: "mixer.out_proj", attentionNorm: "norm1", mlpNorm: "norm2",
}

// parametrised is the name of a weight under torch's parametrizations, without what they add.
const parametrised = ".parametrizations.weight.original"

// xlmHub tells the flash implementation from XLM-RoBERTa.
func xlmHub(_ *object, t *tensors, _ string) *family {
	if xlmFlashWeights(t) {
		return &xlmFlash
	}
	return nil
}

// xlmFlashWeights tells that the weights have the flash implementation's names. Its config.json alone does not tell.
func xlmFlashWeights(t *tensors) bool {
	const qkv = "encoder.layers.0.mixer.Wqkv"
	for _, prefix := range []string{"", "roberta."} {
		for _, name := range []string{"emb_ln.weight", qkv + ".weight", qkv + parametrised} {
			if t.has(prefix + name) {
				return true
			}
		}
	}
	return false
}

// jinaV3Defaults are of both formats.
var jinaV3Defaults = encoderDefaults{hidden: 1024, vocab: 250002, positions: 8194, types: 1, leastTypes: 1, layers: 24, heads: 16, wide: 4096, act: "gelu", eps: 1e-5}

func jinaV3Trunk(c *object, t *tensors, m *Model) {
	e := &postNorm{}
	wide, act := e.encoderSizes(c, m, jinaV3Defaults)
	e.attention.Rope = c.rope(e.headDim, m.MaxPositions, 20000)
	c.refuseOther("position_embedding_type", "rotary")
	xlmRead(e, c, t, m, wide, act)
}

func xlmFlashTrunk(c *object, t *tensors, m *Model) {
	e := &postNorm{}
	wide, act := e.encoderSizes(c, m, jinaV3Defaults)
	m.VocabSize = c.paddedVocabulary(250002)
	c.refuseOther("hidden_act", "gelu") // that code knows gelu and tanh's form only, and takes all other names for gelu
	c.refuseOther("position_embedding_type", "rotary", "absolute")
	if c.text("position_embedding_type", "rotary") == "absolute" {
		e.learnedPositions = true
		e.positionOffset = 1 + c.integer("pad_token_id", 1, 0, maxTable)
		if c.err == nil && e.positionOffset >= m.MaxPositions {
			c.fail(status.Start, "pad_token_id %d leaves no positions of max_position_embeddings %d", e.positionOffset-1, m.MaxPositions)
		}
	} else {
		c.checkRotations("max_position_embeddings", m.MaxPositions, e.headDim)
		if theta := c.number("rotary_emb_base", 10000, 1, maxRopeTheta); c.err == nil {
			e.attention.Rope = plainRope(e.headDim, theta)
		}
	}
	c.refuseOther("emb_pooler", "mean")
	for _, key := range []string{"truncate_dim", "default_task"} {
		if c.present(key) {
			c.fail(status.Unsupported, "%s %s is not supported; supported: null", key, quoteJSON(c.values[key]))
		}
	}
	xlmRead(e, c, t, m, wide, act)
}

func xlmRead(e *postNorm, c *object, t *tensors, m *Model, wide int, act Activation) {
	if c.err != nil {
		return
	}
	e.qkvBias, e.outBias, e.names = true, true, transformersNames
	if xlmFlashWeights(t) {
		e.names, t.parametrised = xlmFlashNames, true
	}
	e.names.prefix = t.prefixOf(e.names.embeddingNorm+".weight", "roberta.")
	e.mlp = func(l string) MLP { return t.plainMLP(l+"mlp.fc1", l+"mlp.fc2", m.HiddenSize, wide, act) }
	e.read(t, m)
}

func xlmMaskedLM(c *object, t *tensors, m *Model) []Dense {
	return maskedLM(c, t, m, "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder", GELU, "lm_head.bias", "lm_head.decoder.bias")
}

// xlmClassifier is RoBERTa's: dense and tanh on the first token, then the labels.
func xlmClassifier(c *object, t *tensors, m *Model) []Dense {
	m.Head.Labels = c.labels()
	return []Dense{
		{Linear: t.linear("classifier.dense", m.HiddenSize, m.HiddenSize), Activation: Tanh},
		{Linear: t.linear("classifier.out_proj", m.HiddenSize, len(m.Head.Labels))},
	}
}

// joined lists names for a message.
func joined(names []string) string { return strings.Join(names, ", ") }
