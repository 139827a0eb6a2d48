package arch

import (
	"math"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// qwen3 is Qwen3 (https://arxiv.org/abs/2505.09388) as an embedding model, with names and defaults of transformers' Qwen3Config and
// modeling_qwen3.py. A language model's map to the vocabulary is not read: the vectors come of the last hidden state.
var qwen3 = family{
	trunk: qwen3Trunk,
	architectures: map[string]architecture{
		"":                 {kind: HeadEmbedding},
		"Qwen3Model":       {kind: HeadEmbedding},
		"Qwen3ForCausalLM": {kind: HeadEmbedding, causalLM: true},
	},
}

func qwen3Trunk(c *object, t *tensors, m *Model) {
	m.HiddenSize = c.integer("hidden_size", 4096, 1, maxHidden)
	m.VocabSize = c.integer("vocab_size", 151936, 1, maxTable)
	m.MaxPositions = c.integer("max_position_embeddings", 32768, 1, maxTable)
	layers := c.integer("num_hidden_layers", 32, 1, maxLayers)
	heads := c.integer("num_attention_heads", 32, 1, maxHeads)
	kvHeads := heads
	if !c.null("num_key_value_heads") {
		kvHeads = c.integer("num_key_value_heads", 32, 1, maxHeads)
	}
	headDim := c.integer("head_dim", 128, 1, maxHidden)
	wide := c.integer("intermediate_size", 22016, 1, maxWide)
	act := c.activation("hidden_act", "silu")
	eps := float32(c.number("rms_norm_eps", 1e-6, 0, 1))
	bias := c.boolean("attention_bias", false)
	causal := qwen3Causal(c)
	if c.present("per_layer_config") {
		c.fail(status.Unsupported, "per_layer_config is not supported for qwen3: its layers must be alike")
	}
	windows := c.layerWindows(layers, causal)
	if c.err == nil && heads%kvHeads != 0 {
		c.fail(status.Start, "num_attention_heads %d is no multiple of num_key_value_heads %d", heads, kvHeads)
	}
	rope := c.rope(headDim, m.MaxPositions, 10000)
	if c.err != nil {
		return
	}

	prefix := ""
	if t.has("model.embed_tokens.weight") { // saved with the language model's head
		prefix = "model."
	}
	hidden, queries, keys := m.HiddenSize, heads*headDim, kvHeads*headDim
	attentionLinear := t.linearWithoutBias
	if bias {
		attentionLinear = t.linear
	}
	m.Embeddings = Embeddings{Word: t.need(prefix+"embed_tokens.weight", m.VocabSize, hidden), TypeVocabSize: 1, Scale: 1}
	for i := range layers {
		if t.err != nil { // a claim of many layers costs nothing without their weights
			return
		}
		l := prefix + "layers." + strconv.Itoa(i)
		m.Layers = append(m.Layers, Layer{
			Attention: Attention{
				Heads: heads, KVHeads: kvHeads, HeadDim: headDim,
				Scale: float32(1 / math.Sqrt(float64(headDim))),
				QKV: []Linear{
					attentionLinear(l+".self_attn.q_proj", hidden, queries),
					attentionLinear(l+".self_attn.k_proj", hidden, keys),
					attentionLinear(l+".self_attn.v_proj", hidden, keys),
				},
				Out: attentionLinear(l+".self_attn.o_proj", queries, hidden),
				QKNorm: &QKNorm{
					Q: *t.rmsNorm(l+".self_attn.q_norm", headDim, eps),
					K: *t.rmsNorm(l+".self_attn.k_norm", headDim, eps),
				},
				Rope:       rope,
				Causal:     causal,
				WindowLeft: windows[i].left, WindowRight: windows[i].right,
			},
			AttentionNorms: BlockNorms{Before: t.rmsNorm(l+".input_layernorm", hidden, eps)},
			MLP: MLP{
				Activation:   act,
				Up:           t.linearWithoutBias(l+".mlp.up_proj", hidden, wide),
				Gate:         t.linearWithoutBias(l+".mlp.gate_proj", hidden, wide),
				Down:         t.linearWithoutBias(l+".mlp.down_proj", wide, hidden),
				Intermediate: wide,
			},
			MLPNorms: BlockNorms{Before: t.rmsNorm(l+".post_attention_layernorm", hidden, eps)},
		})
	}
	m.FinalNorm = t.rmsNorm(prefix+"norm", hidden, eps)
}

// qwen3Causal tells whether a token sees only those before it: is_causal, as in transformers. Its Qwen3 does not know
// use_bidirectional_attention (gemma's key): a file that asks for it, and not by is_causal, contradicts what transformers computes.
func qwen3Causal(c *object) bool {
	if c.null("is_causal") {
		c.fail(status.Start, "is_causal is null; it must be true or false")
	}
	causal := c.boolean("is_causal", true)
	if bidirectional := c.boolean("use_bidirectional_attention", !causal); bidirectional && causal {
		c.fail(status.Unsupported, "use_bidirectional_attention true is not supported for qwen3 by itself: transformers ignores it there; "+
			"supported: is_causal false")
	}
	return causal
}

// window is how many keys a query sees on either side of its own; negative: all.
type window struct{ left, right int }

// layerWindows reads use_sliding_window, sliding_window, max_window_layers and layer_types. A causal window of n holds the query's own
// key and n-1 before it; one that looks both ways has n on either side, as in transformers' masking_utils.py.
func (o *object) layerWindows(layers int, causal bool) []window {
	full := window{-1, -1}
	sliding := full
	size := 0
	if !o.null("sliding_window") {
		size = o.integer("sliding_window", 4096, 1, maxTable)
	}
	if !o.boolean("use_sliding_window", false) {
		size = 0
	}
	switch {
	case size > 0 && causal:
		sliding.left = size - 1
	case size > 0:
		sliding = window{size, size}
	}
	first := o.integer("max_window_layers", 28, 0, maxTable)
	kinds := o.texts("layer_types")
	if o.err != nil {
		return nil
	}
	windows := make([]window, layers)
	if !o.present("layer_types") {
		for i := range windows {
			if windows[i] = full; i >= first {
				windows[i] = sliding
			}
		}
		return windows
	}
	if len(kinds) != layers {
		o.fail(status.Start, "layer_types has %d entries; num_hidden_layers is %d", len(kinds), layers)
		return nil
	}
	for i, kind := range kinds {
		switch kind {
		case "full_attention":
			windows[i] = full
		case "sliding_attention":
			if windows[i] = sliding; size == 0 {
				o.fail(status.Start, "layer_types[%d] is \"sliding_attention\", but there is no window: use_sliding_window must be true and sliding_window a number", i)
			}
		default:
			o.fail(status.Unsupported, "layer_types[%d] %s is not supported; supported: full_attention, sliding_attention", i, quote(kind))
		}
	}
	return windows
}
