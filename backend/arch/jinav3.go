package arch

import "github.com/basetenlabs/bei-runtime/backend/status"

// jinaV3 is jina-embeddings-v3 (https://arxiv.org/abs/2409.10173): XLM-RoBERTa with rope, with names and defaults of transformers'
// JinaEmbeddingsV3Config and modeling_jina_embeddings_v3.py.
var jinaV3 = family{
	trunk: jinaV3Trunk,
	architectures: map[string]architecture{
		"":                            {kind: HeadEmbedding},
		"JinaEmbeddingsV3Model":       {kind: HeadEmbedding},
		"JinaEmbeddingsV3ForMaskedLM": {kind: HeadSparse, chain: robertaMaskedLM},
		"JinaEmbeddingsV3ForSequenceClassification": {kind: HeadClassifier, chain: robertaClassifier},
		"JinaEmbeddingsV3ForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
	},
}

// xlmFlash is the hub's xlm-roberta-flash-implementation, behind model_type "xlm-roberta": jina-embeddings-v3 with rope and adapters, and
// jina-reranker-v2 with a table of positions. Adapters are applied to calls that name a task and only to them; without one that code uses
// the weights without adapters, and so do we.
var xlmFlash = family{
	trunk:  xlmFlashTrunk,
	format: "jina-embeddings v3 and jina-reranker v2",
	architectures: map[string]architecture{
		"":                                    {kind: HeadEmbedding, transformer: "custom_st.Transformer"},
		"XLMRobertaModel":                     {kind: HeadEmbedding, transformer: "custom_st.Transformer"},
		"XLMRobertaLoRA":                      {kind: HeadEmbedding, transformer: "custom_st.Transformer"},
		"XLMRobertaForMaskedLM":               {kind: HeadSparse, chain: robertaMaskedLM},
		"XLMRobertaForSequenceClassification": {kind: HeadClassifier, chain: robertaClassifier},
	},
}

var xlmFlashNames = layerNames{
	qkv: []string{"mixer.Wqkv"}, out: "mixer.out_proj", attentionNorm: "norm1", up: "mlp.fc1", down: "mlp.fc2", norm: "norm2",
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

// jinaV3Keys are of both formats.
var jinaV3Keys = encoderKeys{
	hidden: "hidden_size", layers: "num_hidden_layers", heads: "num_attention_heads", wide: "intermediate_size", act: "hidden_act",
	vocabSize: 250002, hiddenSize: 1024, layerCount: 24, headCount: 16, wideSize: 4096, positions: 8194, eps: 1e-5, ownPositions: true,
}

func jinaV3Trunk(c *object, t *tensors, m *Model) {
	types := c.typeVocabSize(1, 1)
	e := c.encoder(m, jinaV3Keys)
	c.oneOf("position_embedding_type", "rotary")
	e.attention.Rope = c.rope(e.headDim, m.MaxPositions, 20000)
	if c.err != nil {
		return
	}
	if xlmFlashWeights(t) {
		xlmFlashRead(e, t, m, false, types)
		return
	}
	names := transformersNames
	names.up, names.down = "mlp.fc1", "mlp.fc2"
	prefix := t.prefixed("roberta.")
	m.Embeddings = e.embeddings(t, m, prefix, embeddingsNorm, false, types)
	e.addLayers(t, m, prefix+"layers.", names, nil)
}

func xlmFlashTrunk(c *object, t *tensors, m *Model) {
	types := c.typeVocabSize(1, 0)
	e := c.encoder(m, jinaV3Keys)
	m.VocabSize = c.paddedVocabulary(jinaV3Keys.vocabSize)
	c.oneOf("hidden_act", "gelu") // that code knows gelu and tanh's form only, and takes all other names for gelu
	c.oneOf("emb_pooler", "mean")
	c.refusePresent("truncate_dim")
	c.refusePresent("default_task")
	if !c.present("position_embedding_type") { // versions of the code have different defaults
		c.fail(status.Start, "position_embedding_type is missing")
	}
	offset := 0
	table := c.oneOf("position_embedding_type", "rotary", "absolute") == "absolute"
	if table {
		offset = c.robertaOffset(m)
	} else {
		theta := c.number("rotary_emb_base", 10000, 1, maxRopeTheta)
		if c.checkRotations("max_position_embeddings", m.MaxPositions, e.headDim); c.err == nil {
			e.attention.Rope = plainRope(e.headDim, theta)
		}
	}
	if c.err != nil {
		return
	}
	xlmFlashRead(e, t, m, table, types)
	m.Embeddings.PositionOffset = offset
}

func xlmFlashRead(e encoder, t *tensors, m *Model, table bool, types int) {
	t.parametrised = true
	prefix := t.prefixOf("emb_ln.weight", "roberta.")
	m.Embeddings = e.embeddings(t, m, prefix, "emb_ln", table, types)
	e.addLayers(t, m, prefix+"encoder.layers.", xlmFlashNames, nil)
}
