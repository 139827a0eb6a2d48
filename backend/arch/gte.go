package arch

import (
	"maps"
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// gte is GTE (https://arxiv.org/abs/2407.19669), with names and defaults of transformers' GteConfig and modeling_gte.py. Weights in the
// format of the hub's own code are read as well, as transformers converts them.
var gte = family{
	trunk: func(c *object, t *tensors, m *Model) {
		gteTrunk(c, t, m, encoderDefaults{hidden: 768, vocab: 250048, positions: 8192, types: 1, layers: 12, heads: 12, wide: 3072, act: "gelu", eps: 1e-12}, 160000)
	},
	architectures: gteArchitectures("Gte"),
}

// gteNew is the same model in the hub's format, model_type "new", with the defaults of Alibaba-NLP/new-impl's configuration.py.
var gteNew = family{
	trunk: func(c *object, t *tensors, m *Model) {
		gteTrunk(c, t, m, encoderDefaults{hidden: 768, vocab: 30528, positions: 2048, types: 1, layers: 12, heads: 12, wide: 3072, act: "gelu", eps: 1e-12}, 10000)
	},
	architectures: gteArchitectures("New"),
}

func gteArchitectures(name string) map[string]architecture {
	return map[string]architecture{
		"":                                 {kind: HeadEmbedding},
		name + "Model":                     {kind: HeadEmbedding},
		name + "ForMaskedLM":               {kind: HeadSparse, chain: gteMaskedLM},
		name + "ForSequenceClassification": {kind: HeadClassifier, chain: gteClassifier},
		name + "ForTokenClassification":    {kind: HeadTokenClassifier, chain: linearTokenClassifier},
	}
}

var gteHubNames = postNormNames{
	embeddingNorm: "embeddings.LayerNorm", layers: "encoder.layer.", qkv: []string{"attention.qkv_proj"}, out: "attention.o_proj",
	attentionNorm: "attn_ln", mlpNorm: "mlp_ln",
}

func gteTrunk(c *object, t *tensors, m *Model, defaults encoderDefaults, theta float64) {
	e := &postNorm{qkvBias: true, outBias: true}
	wide, act := e.encoderSizes(c, m, defaults)
	c.refuseTrue("logn_attention_scale", "the scale of attention would depend on the length of the sequence")
	c.refuseOther("layer_norm_type", "layer_norm", "rms_norm")
	if c.text("layer_norm_type", "") == "rms_norm" {
		e.kind = RMSNorm
	}
	c.refuseOther("position_embedding_type", "rope", "absolute")
	if c.text("position_embedding_type", "") == "absolute" {
		e.learnedPositions = true
	} else {
		e.attention.Rope = gteRope(c, e.headDim, m.MaxPositions, theta)
	}
	packed := c.boolean("pack_qkv", true)
	if c.err != nil {
		return
	}
	prefix := gtePrefix(t)
	hidden := m.HiddenSize
	switch first := prefix + "encoder.layer.0."; {
	case t.has(first + "attention.o_proj.weight"):
		e.names = gteHubNames
		if !packed {
			e.names.qkv = []string{"attention.q_proj", "attention.k_proj", "attention.v_proj"}
		}
		e.mlp = func(l string) MLP {
			return t.fusedMLP(l+"mlp.up_gate_proj", l+"mlp.down_proj", hidden, wide, act, true, false, true)
		}
	default:
		e.names = transformersNames
		e.mlp = func(l string) MLP {
			return t.gatedMLP(l+"mlp.gate_proj", l+"mlp.up_proj", l+"mlp.down_proj", hidden, wide, act, false, true)
		}
	}
	e.names.prefix = prefix
	e.read(t, m)
}

func gtePrefix(t *tensors) string {
	return t.prefixOf("embeddings.word_embeddings.weight", "new.", "gte.")
}

// gteRope reads rope, and the hub's kind of scaling beside transformers': "ntk" (https://kexue.fm/archives/9706), whose numbers do not
// depend on the length.
func gteRope(c *object, dim, positions int, theta float64) *Rope {
	p := c.object("rope_scaling")
	if p == nil || p.text("type", "") != "ntk" {
		return c.rope(dim, positions, theta)
	}
	for _, key := range slices.Sorted(maps.Keys(p.values)) {
		if key != "type" && key != "rope_type" && key != "factor" && key != "mixed_b" && p.present(key) {
			p.fail(status.Unsupported, "%s %s is not supported for type \"ntk\"", quote(key), quoteJSON(p.values[key]))
		}
	}
	theta = c.number("rope_theta", theta, 1, maxRopeTheta)
	factor, b := float64(p.factor()), p.number("mixed_b", 0, 0, 16)
	c.checkRotations("max_position_embeddings", positions, dim)
	if c.err = firstOf(c.err, p.err); c.err != nil {
		return nil
	}
	mixed := p.present("mixed_b")
	if factor > 1 && !mixed {
		theta *= factor
	}
	r := plainRope(dim, theta)
	for i := range r.InvFreq {
		switch {
		case factor == 1:
		case mixed:
			a := float32(math.Log(factor)) / float32(math.Pow(float64(dim)/2, b))
			r.InvFreq[i] /= float32(math.Exp(float64(a * float32(math.Pow(float64(i+1), b)))))
		default:
			r.InvFreq[i] /= float32(math.Pow(factor, 2/float64(dim)))
		}
	}
	return r
}

// gteMaskedLM: transformers' head has gelu, the hub's the config's activation.
func gteMaskedLM(c *object, t *tensors, m *Model) []Dense {
	norm, act := "lm_head.layer_norm", GELU
	if m.Family == "new" {
		norm, act = "lm_head.norm", c.activation("hidden_act", "gelu")
	}
	return maskedLM(c, t, m, "lm_head.dense", norm, "lm_head.decoder", act, "lm_head.decoder.bias")
}

func gteClassifier(c *object, t *tensors, m *Model) []Dense {
	return pooledClassifier(c, t, m, gtePrefix(t)+"pooler.dense")
}
