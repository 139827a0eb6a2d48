package arch

import (
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// decoder says how a family differs from the one decoder that they share: norm, attention with rope and at most as many key as query
// heads, norm, gated MLP. Names, defaults and rules are those of its configuration and modeling files in transformers 5.23.
type decoder struct {
	sizes         decoderSizes
	activationKey string
	activation    string // the key's default
	windows       windowRule
	// fixed are keys that transformers does not read here, each with the JSON value that says what it computes all the same.
	fixed map[string]string

	attentionBias bool // attention_bias is read
	mlpBias       bool // mlp_bias is read
	qkvBias       bool // query, key and value have biases, the output has none
	qkNorm        bool
	gemma         bool // embeddings times sqrt(hidden_size), norms times one plus their weight
	sandwich      bool // norms before and after each block; query_pre_attn_scalar sets the attention's scale
	softcap       bool // attn_logit_softcapping is read
	layerRopes    bool // a rotation for full, and one for sliding attention
	twoWay        bool // use_bidirectional_attention is read
	tied          bool // tie_word_embeddings' default
	padToken      int  // pad_token_id's default; noToken: none
}

// decoderSizes are what a config that leaves them out means. keyHeads 0: as many as heads; headDim 0: hidden / heads.
type decoderSizes struct{ hidden, wide, layers, heads, keyHeads, headDim, vocab, positions int }

// noToken stands for "no such token".
const noToken = -1

// decoderShape is what all layers have alike.
type decoderShape struct {
	hidden, wide, heads, keyHeads, headDim int
	activation                             Activation
	scale, softcap                         float32
	attentionBias, mlpBias                 bool
	eps                                    float32
}

func (d *decoder) trunk(c *object, t *tensors, m *Model) {
	m.VocabSize = c.integer("vocab_size", d.sizes.vocab, 1, maxTable)
	m.MaxPositions = c.integer("max_position_embeddings", d.sizes.positions, 1, maxTable)
	s := d.shape(c)
	m.HiddenSize = s.hidden
	layers := c.integer("num_hidden_layers", d.sizes.layers, 1, maxLayers)
	spans := d.spans(c, m.Family, layers)
	for _, key := range slices.Sorted(maps.Keys(d.fixed)) {
		if c.present(key) && string(c.values[key]) != d.fixed[key] {
			c.fail(status.Unsupported, "%s %s is not supported for %s: transformers does not read it there and computes as with %s",
				key, quoteJSON(c.values[key]), m.Family, d.fixed[key])
		}
	}
	full, sliding := d.ropes(c, s.headDim, m.MaxPositions)
	if c.err != nil {
		return
	}

	prefix := decoderPrefix(t)
	m.Embeddings = Embeddings{Word: t.need(prefix+"embed_tokens.weight", m.VocabSize, s.hidden), TypeVocabSize: 1, Scale: 1}
	if d.gemma {
		m.Embeddings.Scale = float32(math.Sqrt(float64(s.hidden)))
	}
	for i := range layers {
		if t.err != nil { // a claim of many layers costs nothing without their weights
			return
		}
		l := d.layer(t, &s, prefix+"layers."+strconv.Itoa(i))
		l.Attention.Rope = full
		if spans[i].slides {
			l.Attention.Rope = sliding
		}
		l.Attention.Causal, l.Attention.WindowLeft, l.Attention.WindowRight = spans[i].causal, spans[i].left, spans[i].right
		m.Layers = append(m.Layers, l)
	}
	m.FinalNorm = d.norm(t, prefix+"norm", s.hidden, s.eps)
}

// decoderPrefix is what stands before the trunk's names: models saved with a head have "model.".
func decoderPrefix(t *tensors) string { return t.prefixOf("embed_tokens.weight", "model.") }

func (d *decoder) shape(c *object) decoderShape {
	s := decoderShape{
		hidden:        c.integer("hidden_size", d.sizes.hidden, 1, maxHidden),
		wide:          c.integer("intermediate_size", d.sizes.wide, 1, maxWide),
		heads:         c.integer("num_attention_heads", d.sizes.heads, 1, maxHeads),
		activation:    d.readActivation(c),
		eps:           float32(c.number("rms_norm_eps", 1e-6, 0, 1)),
		attentionBias: d.attentionBias && c.boolean("attention_bias", false),
		mlpBias:       d.mlpBias && c.boolean("mlp_bias", false),
	}
	s.keyHeads = s.heads
	if d.sizes.keyHeads > 0 && !c.null("num_key_value_heads") || c.present("num_key_value_heads") {
		s.keyHeads = c.integer("num_key_value_heads", d.sizes.keyHeads, 1, maxHeads)
	}
	s.headDim = s.hidden / s.heads
	if d.sizes.headDim > 0 || c.present("head_dim") {
		s.headDim = c.integer("head_dim", d.sizes.headDim, 1, maxHidden)
	}
	if c.err == nil && s.heads%s.keyHeads != 0 {
		c.fail(status.Start, "num_attention_heads %d is no multiple of num_key_value_heads %d", s.heads, s.keyHeads)
	}
	scalar := float64(s.headDim)
	if d.sandwich {
		scalar = c.number("query_pre_attn_scalar", 256, 1e-3, 1e6)
	}
	s.scale = float32(1 / math.Sqrt(scalar))
	if d.softcap && !c.null("attn_logit_softcapping") {
		s.softcap = float32(c.number("attn_logit_softcapping", 50, 1e-3, 1e6))
	}
	return s
}

// readActivation reads the family's key. Gemma's first release wrote "gelu" and meant its tanh form, as transformers mends it. Where the
// other family's key stands there too, transformers does not read it: it must say the same.
func (d *decoder) readActivation(c *object) Activation {
	read := func(key string) Activation {
		a := c.activation(key, d.activation)
		if key == "hidden_act" && d.gemma && a == GELU {
			return GELUTanh
		}
		return a
	}
	a := read(d.activationKey)
	for _, key := range []string{"hidden_act", "hidden_activation"} {
		if c.present(key) && read(key) != a {
			c.fail(status.Unsupported, "%s %s contradicts %s, which alone is read here", key, quoteJSON(c.values[key]), d.activationKey)
		}
	}
	return a
}

// ropes reads the rotations of full and of sliding attention.
func (d *decoder) ropes(c *object, headDim, positions int) (full, sliding *Rope) {
	if d.layerRopes {
		return c.layerRopes(headDim, positions, layerBase{"rope_theta", 1e6, true}, layerBase{"rope_local_base_freq", 1e4, false})
	}
	full = c.rope(headDim, positions, defaultRopeTheta)
	return full, full
}

// layer names the weights of the layer whose names begin with l.
func (d *decoder) layer(t *tensors, s *decoderShape, l string) Layer {
	linear := func(bias bool) func(name string, in, out int) Linear {
		if bias {
			return t.linear
		}
		return t.linearWithoutBias
	}
	norm := func(name string, width int) *Norm { return d.norm(t, l+name, width, s.eps) }
	queries, keys := s.heads*s.headDim, s.keyHeads*s.headDim
	project, out, mlp := linear(s.attentionBias || d.qkvBias), linear(s.attentionBias), linear(s.mlpBias)
	layer := Layer{
		Attention: Attention{
			Heads: s.heads, KVHeads: s.keyHeads, HeadDim: s.headDim,
			Scale: s.scale, Softcap: s.softcap,
			QKV: []Linear{
				project(l+".self_attn.q_proj", s.hidden, queries),
				project(l+".self_attn.k_proj", s.hidden, keys),
				project(l+".self_attn.v_proj", s.hidden, keys),
			},
			Out: out(l+".self_attn.o_proj", queries, s.hidden),
		},
		MLP: MLP{
			Activation:   s.activation,
			Up:           mlp(l+".mlp.up_proj", s.hidden, s.wide),
			Gate:         mlp(l+".mlp.gate_proj", s.hidden, s.wide),
			Down:         mlp(l+".mlp.down_proj", s.wide, s.hidden),
			Intermediate: s.wide,
		},
	}
	if d.qkNorm {
		layer.Attention.QKNorm = &QKNorm{Q: *norm(".self_attn.q_norm", s.headDim), K: *norm(".self_attn.k_norm", s.headDim)}
	}
	layer.AttentionNorms.Before = norm(".input_layernorm", s.hidden)
	if d.sandwich {
		layer.AttentionNorms.After = norm(".post_attention_layernorm", s.hidden)
		layer.MLPNorms = BlockNorms{Before: norm(".pre_feedforward_layernorm", s.hidden), After: norm(".post_feedforward_layernorm", s.hidden)}
	} else {
		layer.MLPNorms.Before = norm(".post_attention_layernorm", s.hidden)
	}
	return layer
}

func (d *decoder) norm(t *tensors, name string, width int, eps float32) *Norm {
	n := t.rmsNorm(name, width, eps)
	n.OnePlusWeight = d.gemma
	return n
}
