package arch

// distilbert is DistilBERT (https://arxiv.org/abs/1910.01108): BERT without token types, under other names, with names and defaults of
// transformers' DistilBertConfig and modeling_distilbert.py. Its table of positions is stored even where it is sinusoidal.
var distilbert = family{
	trunk: distilbertTrunk,
	architectures: map[string]architecture{
		"":                                    {kind: HeadEmbedding},
		"DistilBertModel":                     {kind: HeadEmbedding},
		"DistilBertForMaskedLM":               {kind: HeadSparse, chain: distilbertMaskedLM},
		"DistilBertForSequenceClassification": {kind: HeadClassifier, chain: distilbertClassifier},
		"DistilBertForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
	},
}

var distilbertNames = layerNames{
	qkv: []string{"attention.q_lin", "attention.k_lin", "attention.v_lin"}, out: "attention.out_lin",
	attentionNorm: "sa_layer_norm", up: "ffn.lin1", down: "ffn.lin2", norm: "output_layer_norm",
}

func distilbertTrunk(c *object, t *tensors, m *Model) {
	e := c.encoder(m, encoderKeys{
		// transformers takes the names of other configs, too, but for hidden_dim.
		hidden: c.either("dim", "hidden_size"), layers: c.either("n_layers", "num_hidden_layers"),
		heads: c.either("n_heads", "num_attention_heads"),
		wide:  "hidden_dim", act: "activation",
		vocabSize: 30522, hiddenSize: 768, layerCount: 6, headCount: 12, wideSize: 3072, positions: 512, eps: 1e-12, epsFixed: true,
	})
	if c.err != nil {
		return
	}
	prefix := t.prefixed("distilbert.")
	m.Embeddings = e.embeddings(t, m, prefix, embeddingsNorm, true, 0)
	e.addLayers(t, m, prefix+"transformer.layer.", distilbertNames, nil)
}

func distilbertClassifier(c *object, t *tensors, m *Model) []Dense {
	return labelled(c, t, m, "pre_classifier", ReLU, "classifier")
}

func distilbertMaskedLM(c *object, t *tensors, m *Model) []Dense {
	const decoder = "vocab_projector"
	return maskedLM{
		dense: "vocab_transform", norm: "vocab_layer_norm", decoder: decoder, bias: decoder + ".bias", act: m.Layers[0].MLP.Activation,
	}.read(c, t, m)
}
