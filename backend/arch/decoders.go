package arch

// The decoder families, by their transformers classes. A language model's map to the vocabulary is not read for vectors: they come of the
// last hidden state.
var (
	llama   = llamaDecoder.family("Llama")
	mistral = mistralDecoder.family("Mistral")
	qwen2   = qwen2Decoder.family("Qwen2")
	qwen3   = qwen3Decoder.family("Qwen3")
	gemma   = gemmaDecoder.family("Gemma")
	gemma2  = gemma2Decoder.family("Gemma2")
	// Its classes without a map to the vocabulary have a name of their own, and transformers has no token classifier.
	gemma3 = family{trunk: gemma3Decoder.trunk, architectures: map[string]architecture{
		"":                                    {kind: HeadEmbedding},
		"Gemma3TextModel":                     {kind: HeadEmbedding},
		"Gemma3ForCausalLM":                   gemma3Decoder.causalLM(),
		"Gemma3TextForSequenceClassification": gemma3Decoder.sequenceClassifier(),
	}}
)

// family is a decoder whose classes begin with name.
func (d *decoder) family(name string) family {
	return family{trunk: d.trunk, architectures: map[string]architecture{
		"":                                 {kind: HeadEmbedding},
		name + "Model":                     {kind: HeadEmbedding},
		name + "ForCausalLM":               d.causalLM(),
		name + "ForSequenceClassification": d.sequenceClassifier(),
		name + "ForTokenClassification":    {kind: HeadTokenClassifier, chain: decoderTokenClassifier},
	}}
}

func (d *decoder) causalLM() architecture {
	return architecture{kind: HeadEmbedding, causalLM: true, vocabulary: d.vocabulary}
}

func (d *decoder) sequenceClassifier() architecture {
	return architecture{kind: HeadClassifier, pooling: PoolLastToken, chain: d.classifier}
}

// llamaDecoder is Llama (https://arxiv.org/abs/2302.13971).
var llamaDecoder = &decoder{
	sizes:         decoderSizes{hidden: 4096, wide: 11008, layers: 32, heads: 32, vocab: 32000, positions: 2048},
	activationKey: "hidden_act", activation: "silu",
	fixed:         map[string]string{"sliding_window": "null", "use_sliding_window": "false"},
	attentionBias: true, mlpBias: true, padToken: noToken,
}

// mistralDecoder is Mistral (https://arxiv.org/abs/2310.06825).
var mistralDecoder = &decoder{
	sizes:         decoderSizes{hidden: 4096, wide: 14336, layers: 32, heads: 32, keyHeads: 8, vocab: 32000, positions: 131072},
	activationKey: "hidden_act", activation: "silu",
	fixed:   map[string]string{"attention_bias": "false", "mlp_bias": "false", "use_sliding_window": "true"},
	windows: windowAll, padToken: noToken,
}

// qwen2Decoder is Qwen2 (https://arxiv.org/abs/2407.10671).
var qwen2Decoder = &decoder{
	sizes:         decoderSizes{hidden: 4096, wide: 22016, layers: 32, heads: 32, keyHeads: 32, vocab: 151936, positions: 32768},
	activationKey: "hidden_act", activation: "silu",
	fixed:   map[string]string{"mlp_bias": "false"},
	windows: windowFromLayer, qkvBias: true, padToken: noToken,
}

// qwen3Decoder is Qwen3 (https://arxiv.org/abs/2505.09388).
var qwen3Decoder = &decoder{
	sizes:         decoderSizes{hidden: 4096, wide: 22016, layers: 32, heads: 32, keyHeads: 32, headDim: 128, vocab: 151936, positions: 32768},
	activationKey: "hidden_act", activation: "silu",
	fixed:   map[string]string{"mlp_bias": "false"},
	windows: windowFromLayer, attentionBias: true, qkNorm: true, padToken: noToken,
}

// gemmaDecoder is Gemma (https://arxiv.org/abs/2403.08295).
var gemmaDecoder = &decoder{
	sizes:         decoderSizes{hidden: 3072, wide: 24576, layers: 28, heads: 16, keyHeads: 16, headDim: 256, vocab: 256000, positions: 8192},
	activationKey: "hidden_act", activation: "gelu_pytorch_tanh",
	fixed: map[string]string{"mlp_bias": "false", "sliding_window": "null", "use_sliding_window": "false", "query_pre_attn_scalar": "null",
		"attn_logit_softcapping": "null"},
	attentionBias: true, gemma: true, tied: true,
}

// gemma2Decoder is Gemma 2 (https://arxiv.org/abs/2408.00118).
var gemma2Decoder = &decoder{
	sizes:         decoderSizes{hidden: 2304, wide: 9216, layers: 26, heads: 8, keyHeads: 4, headDim: 256, vocab: 256000, positions: 8192},
	activationKey: "hidden_activation", activation: "gelu_pytorch_tanh",
	fixed:   map[string]string{"mlp_bias": "false", "use_sliding_window": "true", "sliding_window_pattern": "2"},
	windows: windowPattern2, attentionBias: true, gemma: true, sandwich: true, softcap: true, tied: true,
}

// gemma3Decoder is the text model of Gemma 3 (https://arxiv.org/abs/2503.19786), and EmbeddingGemma (https://arxiv.org/abs/2509.20354).
var gemma3Decoder = &decoder{
	sizes:         decoderSizes{hidden: 2304, wide: 9216, layers: 26, heads: 8, keyHeads: 4, headDim: 256, vocab: 262208, positions: 131072},
	activationKey: "hidden_activation", activation: "gelu_pytorch_tanh",
	fixed:   map[string]string{"mlp_bias": "false", "use_sliding_window": "true", "attn_logit_softcapping": "null"},
	windows: windowPattern, attentionBias: true, qkNorm: true, gemma: true, sandwich: true, layerRopes: true, twoWay: true, tied: true,
}
