package arch

import "github.com/basetenlabs/bei-runtime/backend/status"

// roberta is RoBERTa (https://arxiv.org/abs/1907.11692): BERT but for positions, which count from pad_token_id + 1, and heads. XLM-RoBERTa
// (https://arxiv.org/abs/1911.02116) and CamemBERT (https://arxiv.org/abs/1911.03894) are the same under other names. Names and defaults
// are those of transformers' RobertaConfig, XLMRobertaConfig, CamembertConfig and modeling_roberta.py.
var (
	roberta    = robertaFamily("Roberta", 50265)
	xlmRoberta = robertaFamily("XLMRoberta", 30522).or(&xlmFlash, xlmHub)
	camembert  = robertaFamily("Camembert", 30522)
)

func robertaFamily(class string, vocab int) family {
	return family{
		trunk: func(c *object, t *tensors, m *Model) { robertaTrunk(c, t, m, bertKeys.withVocab(vocab)) },
		architectures: map[string]architecture{
			"":                                  {kind: HeadEmbedding},
			class + "Model":                     {kind: HeadEmbedding},
			class + "ForMaskedLM":               {kind: HeadSparse, chain: robertaMaskedLM},
			class + "ForSequenceClassification": {kind: HeadClassifier, chain: robertaClassifier},
			class + "ForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
		},
	}
}

func robertaTrunk(c *object, t *tensors, m *Model, k encoderKeys) {
	types := c.typeVocabSize(2, 1)
	e := c.encoder(m, k)
	offset := c.robertaOffset(m)
	if c.err != nil {
		return
	}
	prefix := t.prefixed("roberta.")
	m.Embeddings = e.embeddings(t, m, prefix, embeddingsNorm, true, types)
	m.Embeddings.PositionOffset = offset
	e.addLayers(t, m, prefix+"encoder.layer.", bertNames, nil)
}

// robertaOffset is the position of a sequence's first token.
func (o *object) robertaOffset(m *Model) int {
	if o.null("pad_token_id") {
		o.fail(status.Start, "pad_token_id is null; positions count from the number after it")
	}
	offset := o.integer("pad_token_id", 1, 0, maxTable) + 1
	o.positionsAfter(offset, m)
	return offset
}

// positionsAfter refuses a table of positions that ends before a sequence's first.
func (o *object) positionsAfter(offset int, m *Model) {
	if o.err == nil && offset >= m.MaxPositions {
		o.fail(status.Start, "max_position_embeddings is %d; it must exceed %d, the position of the first token", m.MaxPositions, offset)
	}
}

// robertaClassifier is RobertaClassificationHead, on <s>.
func robertaClassifier(c *object, t *tensors, m *Model) []Dense {
	return labelled(c, t, m, "classifier.dense", Tanh, "classifier.out_proj")
}

// robertaMaskedLM is RobertaLMHead, whose gelu is no choice.
func robertaMaskedLM(c *object, t *tensors, m *Model) []Dense {
	return maskedLM{dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", bias: "lm_head.bias", act: GELU}.read(c, t, m)
}
