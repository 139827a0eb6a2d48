package arch

import (
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// nomicBert is Nomic's BERT (https://arxiv.org/abs/2402.01613) as transformers' NomicBertConfig and modeling_nomic_bert.py have it.
// A folder whose config.json has n_embd is in the format of the hub's own code (configuration_hf_nomic_bert.py). Either may come
// with either format's weights, as transformers converts them.
var nomicBert = family{
	trunk: nomicTrunk,
	architectures: map[string]architecture{
		"":                                   {kind: HeadEmbedding},
		"NomicBertModel":                     {kind: HeadEmbedding},
		"NomicBertForMaskedLM":               {kind: HeadSparse, chain: nomicMaskedLM},
		"NomicBertForPreTraining":            {kind: HeadSparse, chain: nomicMaskedLM},
		"NomicBertForSequenceClassification": {kind: HeadClassifier, chain: nomicClassifier},
		"NomicBertForTokenClassification":    {kind: HeadTokenClassifier, chain: linearTokenClassifier},
	},
}

var nomicHubNames = postNormNames{
	embeddingNorm: "emb_ln", layers: "encoder.layers.", qkv: []string{"attn.Wqkv"}, out: "attn.out_proj", attentionNorm: "norm1", mlpNorm: "norm2",
}

func nomicTrunk(c *object, t *tensors, m *Model) {
	e, act := &postNorm{}, nomicActivation{}
	if c.present("n_embd") {
		act = nomicHubConfig(e, c, m)
	} else {
		act.wide, act.function = e.encoderSizes(c, m, encoderDefaults{hidden: 768, vocab: 30528, positions: 2048, types: 2, leastTypes: 1, layers: 12, heads: 12, wide: 3072, act: "silu", eps: 1e-12})
		act.gated = true
		e.headDim = c.integer("head_dim", e.headDim, 1, maxHidden)
		e.attention.Rope = c.rope(e.headDim, m.MaxPositions, 1000)
	}
	if c.err != nil {
		return
	}
	up, gate, down, single := "mlp.up_proj", "mlp.gate_proj", "mlp.down_proj", ""
	e.names = transformersNames
	e.names.prefix = nomicPrefix(t)
	if t.has(e.names.prefix + "encoder.layers.0.attn.Wqkv.weight") {
		prefix := e.names.prefix
		e.names, up, gate, down, single = nomicHubNames, "mlp.fc11", "mlp.fc12", "mlp.fc2", "mlp.fc1"
		e.names.prefix = prefix
	}
	e.mlp = func(l string) MLP {
		if act.gated {
			return t.gatedMLP(l+gate, l+up, l+down, m.HiddenSize, act.wide, act.function, act.upBias, act.downBias)
		}
		return MLP{
			Activation: act.function, Intermediate: act.wide,
			Up: t.linearBias(l+single, m.HiddenSize, act.wide, act.upBias), Down: t.linearBias(l+down, act.wide, m.HiddenSize, act.downBias),
		}
	}
	e.read(t, m)
}

func nomicPrefix(t *tensors) string {
	return t.prefixOf("embeddings.word_embeddings.weight", "nomic_bert.", "bert.")
}

// nomicActivation is what a config says about the MLP.
type nomicActivation struct {
	function         Activation
	gated            bool
	wide             int
	upBias, downBias bool
}

// nomicHubActivations by activation_function. Those that the hub's code takes beside them it computes in another way than their name says
// (glu is a sigmoid, gelu_new is gelu).
var nomicHubActivations = map[string]nomicActivation{
	"swiglu": {function: SiLU, gated: true}, "geglu": {function: GELU, gated: true}, "gelu": {function: GELU},
}

// nomicHubConfig reads the hub's keys, which are GPT-2's with more.
func nomicHubConfig(e *postNorm, c *object, m *Model) nomicActivation {
	m.HiddenSize = c.integer("n_embd", 768, 1, maxHidden)
	m.VocabSize = c.paddedVocabulary(50257)
	m.MaxPositions = c.integer("n_positions", 1024, 1, maxTable)
	e.types = c.integer("type_vocab_size", 2, 0, maxTypeTable)
	e.layers = c.integer("n_layer", 12, 1, maxLayers)
	e.heads = c.integer("n_head", 12, 1, maxHeads)
	e.headDim = c.headDim("n_embd", m.HiddenSize, "n_head", e.heads)
	e.eps = float32(c.number("layer_norm_epsilon", 1e-5, 0, 1))
	e.qkvBias = c.boolean("qkv_proj_bias", true)
	e.outBias = e.qkvBias
	name := c.text("activation_function", "gelu_new")
	act, ok := nomicHubActivations[name]
	if !ok {
		c.fail(status.Unsupported, "activation_function %s is not supported; supported: geglu, gelu, swiglu", quote(name))
	}
	act.upBias, act.downBias = c.boolean("mlp_fc1_bias", true), c.boolean("mlp_fc2_bias", true)
	act.wide = nomicWidth(c, m.HiddenSize, act.gated)
	for _, key := range []string{"prenorm", "parallel_block", "parallel_block_tied_norm", "use_rms_norm", "causal", "rotary_head_dim"} {
		c.refuseTrue(key, "it changes the model")
	}
	for _, key := range []string{"num_experts", "moe_every_n_layers"} {
		if n := c.integer(key, 0, 0, maxWide); n > 0 && c.err == nil {
			c.fail(status.Unsupported, "%s %d is not supported: a mixture of experts", key, n)
		}
	}
	if n := c.integer("num_heads_kv", e.heads, 1, maxHeads); n != e.heads && c.err == nil {
		c.fail(status.Unsupported, "num_heads_kv %d is not supported; supported: n_head (%d)", n, e.heads)
	}
	nomicHubPositions(e, c, m)
	return act
}

// nomicWidth is n_inner, or what the hub's code makes of its absence. Gated MLPs round it up to a multiple of 256.
func nomicWidth(c *object, hidden int, gated bool) int {
	fallback := 4 * hidden
	if gated {
		fallback = 8 * hidden / 3
	}
	wide := c.integer("n_inner", fallback, 1, maxWide)
	if gated {
		wide = roundUp(wide, 256)
	}
	return wide
}

// nomicHubPositions reads the rotation of a part of each head or, where there is none, a table of positions.
func nomicHubPositions(e *postNorm, c *object, m *Model) {
	if c.present("rotary_emb_scale_base") {
		c.fail(status.Unsupported, "rotary_emb_scale_base %s is not supported; supported: null", quoteJSON(c.values["rotary_emb_scale_base"]))
	}
	dim := float64(e.headDim) * c.number("rotary_emb_fraction", 0, 0, 1)
	if dim == 0 {
		e.learnedPositions = true
		return
	}
	if !c.present("rotary_emb_base") { // versions of the code have different defaults
		c.fail(status.Start, "rotary_emb_base is missing")
	}
	theta := c.number("rotary_emb_base", 1000, 1, maxRopeTheta)
	if c.err == nil && (dim != math.Trunc(dim) || int(dim)%2 != 0) {
		c.fail(status.Start, "rotary_emb_fraction %s of heads of %d is %g numbers; they must be even in number",
			quoteJSON(c.values["rotary_emb_fraction"]), e.headDim, dim)
	}
	// With a scaling factor the frequencies of sequences beyond max_trained_positions depend on the length of the longest in the batch:
	// none so long are taken.
	if factor := c.number("rotary_scaling_factor", 0, 0, maxRopeFactor); factor > 0 {
		m.MaxPositions = min(m.MaxPositions, c.integer("max_trained_positions", 2048, 1, maxTable))
	}
	interleaved := c.boolean("rotary_emb_interleaved", false)
	c.checkRotations("n_positions", m.MaxPositions, int(dim))
	if c.err != nil {
		return
	}
	e.attention.Rope = plainRope(int(dim), theta)
	if interleaved {
		e.attention.Rope.Kind = RopeInterleaved
	}
}

// nomicMaskedLM is BERT's head; the hub's has a bias where mlp_fc1_bias is set, and its map to the vocabulary is always tied.
func nomicMaskedLM(c *object, t *tensors, m *Model) []Dense {
	const p = "cls.predictions."
	if !c.present("n_embd") {
		return maskedLM(c, t, m, p+"transform.dense", p+"transform.layer_norm", p+"decoder", c.activation("hidden_act", "silu"), p+"bias", p+"decoder.bias")
	}
	act := GELU
	if c.text("activation_function", "") == "swiglu" {
		act = SiLU
	}
	bias := c.boolean("mlp_fc1_bias", true)
	decoder := Linear{Weight: m.Embeddings.Word, In: m.HiddenSize, Out: m.VocabSize}
	if bias {
		decoder.Bias = t.need(p+"decoder.bias", m.VocabSize)
	}
	return []Dense{
		{
			Linear:     t.linearBias(p+"transform.dense", m.HiddenSize, m.HiddenSize, bias),
			Activation: act,
			Norm:       t.layerNorm(p+"transform.layer_norm", m.HiddenSize, m.Embeddings.Norm.Eps),
		},
		{Linear: decoder},
	}
}

func nomicClassifier(c *object, t *tensors, m *Model) []Dense {
	return pooledClassifier(c, t, m, nomicPrefix(t)+"pooler.dense")
}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }

// paddedVocabulary is vocab_size, rounded up to pad_vocab_size_multiple.
func (o *object) paddedVocabulary(fallback int) int {
	return roundUp(o.integer("vocab_size", fallback, 1, maxTable), o.integer("pad_vocab_size_multiple", 1, 1, 1<<16))
}

// refuseTrue refuses a key that is true, and says why.
func (o *object) refuseTrue(key, why string) {
	if o.boolean(key, false) {
		o.fail(status.Unsupported, "%s true is not supported: %s", key, why)
	}
}

// refuseOther refuses a text that is none of supported, of which the first is what its absence means.
func (o *object) refuseOther(key string, supported ...string) {
	if s := o.text(key, supported[0]); !slices.Contains(supported, s) {
		o.fail(status.Unsupported, "%s %s is not supported; supported: %s", key, quote(s), joined(supported))
	}
}
