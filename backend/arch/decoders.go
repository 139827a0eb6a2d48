package arch

// The decoder families, by their transformers classes. A language model's map to the vocabulary is not read for vectors: they come of the
// last hidden state.
var (
	llama   = decoderFamily(llamaDecoder, "LlamaModel", "LlamaForCausalLM", "LlamaForSequenceClassification", "LlamaForTokenClassification")
	mistral = decoderFamily(mistralDecoder, "MistralModel", "MistralForCausalLM", "MistralForSequenceClassification", "MistralForTokenClassification")
	qwen2   = decoderFamily(qwen2Decoder, "Qwen2Model", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", "Qwen2ForTokenClassification")
	qwen3   = decoderFamily(qwen3Decoder, "Qwen3Model", "Qwen3ForCausalLM", "Qwen3ForSequenceClassification", "Qwen3ForTokenClassification")
	gemma   = decoderFamily(gemmaDecoder, "GemmaModel", "GemmaForCausalLM", "GemmaForSequenceClassification", "GemmaForTokenClassification")
	gemma2  = decoderFamily(gemma2Decoder, "Gemma2Model", "Gemma2ForCausalLM", "Gemma2ForSequenceClassification", "Gemma2ForTokenClassification")
	// transformers has no token classifier for it.
	gemma3 = decoderFamily(gemma3Decoder, "Gemma3TextModel", "Gemma3ForCausalLM", "Gemma3TextForSequenceClassification", "")
)

func decoderFamily(d *decoder, model, causalLM, sequences, tokens string) family {
	f := family{trunk: d.trunk, architectures: map[string]architecture{
		"":        {kind: HeadEmbedding},
		model:     {kind: HeadEmbedding},
		causalLM:  {kind: HeadEmbedding, causalLM: true, vocabulary: d.vocabulary},
		sequences: {kind: HeadClassifier, pooling: PoolLastToken, chain: d.classifier},
	}}
	if tokens != "" {
		f.architectures[tokens] = architecture{kind: HeadTokenClassifier, chain: decoderTokenClassifier}
	}
	return f
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
