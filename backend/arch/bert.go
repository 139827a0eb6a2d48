package arch

// bert is BERT (https://arxiv.org/abs/1810.04805), with names and defaults of transformers' BertConfig and modeling_bert.py.
var bert = family{
	trunk: bertTrunk,
	hub:   bertHub, formats: []*family{&jinaBert},
	architectures: map[string]architecture{
		"":                              {kind: HeadEmbedding},
		"BertModel":                     {kind: HeadEmbedding},
		"BertForMaskedLM":               {kind: HeadSparse, chain: bertMaskedLM},
		"BertForPreTraining":            {kind: HeadSparse, chain: bertMaskedLM},
		"BertForSequenceClassification": {kind: HeadClassifier, chain: bertClassifier},
		"BertForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
	},
}

const bertPrefix = "bert."

func bertTrunk(c *object, t *tensors, m *Model) {
	types := c.typeVocabSize(2, 1)
	e := c.encoder(m, bertKeys)
	if c.err != nil {
		return
	}
	prefix := t.prefixed(bertPrefix)
	m.Embeddings = e.embeddings(t, m, prefix, embeddingsNorm, true, types)
	e.addLayers(t, m, prefix+"encoder.layer.", bertNames, nil)
}

func bertClassifier(c *object, t *tensors, m *Model) []Dense {
	return labelled(c, t, m, t.prefixed(bertPrefix)+"pooler.dense", Tanh, "classifier")
}

func bertMaskedLM(c *object, t *tensors, m *Model) []Dense {
	const p = "cls.predictions."
	head := maskedLM{dense: p + "transform.dense", norm: p + "transform.LayerNorm", decoder: p + "decoder", bias: p + "bias"}
	head.act = c.activation("hidden_act", "gelu") // an MLP with gates may have another
	return head.read(c, t, m)
}
