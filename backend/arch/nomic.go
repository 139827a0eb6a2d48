package arch

import (
	"math"

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
		"NomicBertForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
	},
}

var nomicKeys = encoderKeys{
	hidden: "hidden_size", layers: "num_hidden_layers", heads: "num_attention_heads", wide: "intermediate_size", act: "hidden_act", silu: true,
	vocabSize: 30528, hiddenSize: 768, layerCount: 12, headCount: 12, wideSize: 3072, positions: 2048, eps: 1e-12, ownPositions: true,
}

var nomicHubNames = layerNames{qkv: []string{"attn.Wqkv"}, out: "attn.out_proj", attentionNorm: "norm1", norm: "norm2"}

func nomicTrunk(c *object, t *tensors, m *Model) {
	var (
		e     encoder
		types int
		table bool // of positions
	)
	mlp := nomicMLP{gated: true}
	if c.present("n_embd") {
		e, mlp = nomicHubConfig(c, m)
		types = c.typeVocabSize(2, 0)
		table = e.attention.Rope == nil
	} else {
		e = c.encoder(m, nomicKeys)
		e.qkvBias, e.outBias = false, false
		types = c.typeVocabSize(2, 1)
		e.headDim = c.integer("head_dim", e.headDim, 1, maxHidden)
		e.attention.Rope = c.rope(e.headDim, m.MaxPositions, 1000)
	}
	if c.err != nil {
		return
	}
	prefix := nomicPrefix(t)
	names, norm, layers := transformersNames, embeddingsNorm, prefix+"layers."
	mlp.up, mlp.gate, mlp.down = "mlp.up_proj", "mlp.gate_proj", "mlp.down_proj"
	if t.has(prefix + "emb_ln.weight") {
		names, norm, layers = nomicHubNames, "emb_ln", prefix+"encoder.layers."
		mlp.up, mlp.gate, mlp.down = "mlp.fc11", "mlp.fc12", "mlp.fc2"
		if !mlp.gated {
			mlp.up = "mlp.fc1"
		}
	}
	m.Embeddings = e.embeddings(t, m, prefix, norm, table, types)
	e.mlp = func(l string) MLP { return mlp.read(t, l, &e) }
	e.addLayers(t, m, layers, names, nil)
}

func nomicPrefix(t *tensors) string { return t.prefixed("nomic_bert.", "bert.") }

// nomicMLP is what config and weights say about the MLP.
type nomicMLP struct {
	gated            bool
	upBias, downBias bool
	up, gate, down   string
}

func (n *nomicMLP) read(t *tensors, l string, e *encoder) MLP {
	mlp := MLP{
		Activation: e.act, Intermediate: e.wide,
		Up: t.linearBias(l+n.up, e.hidden, e.wide, n.upBias), Down: t.linearBias(l+n.down, e.wide, e.hidden, n.downBias),
	}
	if n.gated {
		mlp.Gate = t.linearBias(l+n.gate, e.hidden, e.wide, n.upBias)
	}
	return mlp
}

// nomicHubActivations by activation_function. Those that the hub's code takes beside them it computes in another way than their name says
// (glu is a sigmoid, gelu_new is gelu).
var nomicHubActivations = map[string]Activation{"geglu": GELU, "gelu": GELU, "swiglu": SiLU}

// nomicHubConfig reads the hub's keys, which are GPT-2's with more.
func nomicHubConfig(c *object, m *Model) (encoder, nomicMLP) {
	m.HiddenSize = c.integer("n_embd", 768, 1, maxHidden)
	m.VocabSize = c.paddedVocabulary(50257)
	m.MaxPositions = c.integer("n_positions", 1024, 1, maxTable)
	e := encoder{
		hidden: m.HiddenSize,
		layers: c.integer("n_layer", 12, 1, maxLayers),
		heads:  c.integer("n_head", 12, 1, maxHeads),
		eps:    float32(c.number("layer_norm_epsilon", 1e-5, 0, 1)),
	}
	e.headDim = c.headDim("n_embd", e.hidden, "n_head", e.heads)
	e.qkvBias = c.boolean("qkv_proj_bias", true)
	e.outBias = e.qkvBias
	name := c.text("activation_function", "gelu_new")
	act, ok := nomicHubActivations[name]
	if !ok {
		c.fail(status.Unsupported, "activation_function %s is not supported; supported: geglu, gelu, swiglu", quote(name))
	}
	mlp := nomicMLP{gated: name != "gelu", upBias: c.boolean("mlp_fc1_bias", true), downBias: c.boolean("mlp_fc2_bias", true)}
	e.act, e.wide = act, nomicWidth(c, e.hidden, mlp.gated)
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
	e.attention.Rope = nomicHubRope(c, m, e.headDim)
	return e, mlp
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

// nomicHubRope reads the rotation of a part of each head; nil: there is none but a table of positions.
func nomicHubRope(c *object, m *Model, headDim int) *Rope {
	c.refusePresent("rotary_emb_scale_base")
	dim := float64(headDim) * c.number("rotary_emb_fraction", 0, 0, 1)
	if dim == 0 {
		return nil
	}
	if !c.present("rotary_emb_base") { // versions of the code have different defaults
		c.fail(status.Start, "rotary_emb_base is missing")
	}
	theta := c.number("rotary_emb_base", 1000, 1, maxRopeTheta)
	if c.err == nil && (dim != math.Trunc(dim) || int(dim)%2 != 0) {
		c.fail(status.Start, "rotary_emb_fraction %s of heads of %d is %g numbers; they must be even in number",
			quoteJSON(c.values["rotary_emb_fraction"]), headDim, dim)
	}
	// With a scaling factor the frequencies of sequences beyond max_trained_positions depend on the length of the longest in the batch:
	// none so long are taken.
	if factor := c.number("rotary_scaling_factor", 0, 0, maxRopeFactor); factor > 0 {
		m.MaxPositions = min(m.MaxPositions, c.integer("max_trained_positions", 2048, 1, maxTable))
	}
	interleaved := c.boolean("rotary_emb_interleaved", false)
	c.checkRotations("n_positions", m.MaxPositions, int(dim))
	if c.err != nil {
		return nil
	}
	r := plainRope(int(dim), theta)
	if interleaved {
		r.Kind = RopeInterleaved
	}
	return r
}

// nomicMaskedLM is BERT's head; the hub's has a bias where mlp_fc1_bias is set, and its map to the vocabulary is always tied.
func nomicMaskedLM(c *object, t *tensors, m *Model) []Dense {
	const p = "cls.predictions."
	if !c.present("n_embd") {
		head := maskedLM{dense: p + "transform.dense", norm: p + "transform.layer_norm", decoder: p + "decoder", bias: p + "bias"}
		head.act = c.activation("hidden_act", "silu")
		return head.read(c, t, m)
	}
	bias := c.boolean("mlp_fc1_bias", true)
	decoder := Linear{Weight: m.Embeddings.Word, In: m.HiddenSize, Out: m.VocabSize}
	if bias {
		decoder.Bias = t.need(p+"decoder.bias", m.VocabSize)
	}
	return []Dense{
		{
			Linear:     t.linearBias(p+"transform.dense", m.HiddenSize, m.HiddenSize, bias),
			Activation: m.Layers[0].MLP.Activation, // gelu where the MLP's gate has it
			Norm:       t.layerNorm(p+"transform.layer_norm", m.HiddenSize, m.Embeddings.Norm.Eps),
		},
		{Linear: decoder},
	}
}

func nomicClassifier(c *object, t *tensors, m *Model) []Dense {
	return labelled(c, t, m, nomicPrefix(t)+"pooler.dense", Tanh, "classifier")
}
