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
	trunk:         func(c *object, t *tensors, m *Model) { gteTrunk(c, t, m, gteKeys(250048, 8192), 160000) },
	architectures: gteArchitectures("Gte"),
}

// gteNew is the same model in the hub's format, model_type "new", with the defaults of Alibaba-NLP/new-impl's configuration.py.
var gteNew = family{
	trunk:         func(c *object, t *tensors, m *Model) { gteTrunk(c, t, m, gteKeys(30528, 2048), 10000) },
	architectures: gteArchitectures("New"),
}

func gteKeys(vocab, positions int) encoderKeys {
	k := bertKeys.withVocab(vocab)
	k.positions, k.ownPositions = positions, true
	return k
}

func gteArchitectures(name string) map[string]architecture {
	return map[string]architecture{
		"":                                 {kind: HeadEmbedding},
		name + "Model":                     {kind: HeadEmbedding},
		name + "ForMaskedLM":               {kind: HeadSparse, chain: gteMaskedLM},
		name + "ForSequenceClassification": {kind: HeadClassifier, chain: gteClassifier},
		name + "ForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
	}
}

var gteHubNames = layerNames{qkv: []string{"attention.qkv_proj"}, out: "attention.o_proj", attentionNorm: "attn_ln", norm: "mlp_ln"}

func gteTrunk(c *object, t *tensors, m *Model, k encoderKeys, theta float64) {
	types := c.typeVocabSize(1, 0)
	e := c.encoder(m, k)
	c.refuseTrue("logn_attention_scale", "the scale of attention would depend on the length of the sequence")
	if c.oneOf("layer_norm_type", "layer_norm", "rms_norm") == "rms_norm" {
		e.norms = RMSNorm
	}
	table := c.oneOf("position_embedding_type", "rope", "absolute") == "absolute"
	if !table {
		e.attention.Rope = gteRope(c, e.headDim, m.MaxPositions, theta)
	}
	packed := c.boolean("pack_qkv", true)
	if c.err != nil {
		return
	}
	prefix := gtePrefix(t)
	m.Embeddings = e.embeddings(t, m, prefix, embeddingsNorm, table, types)
	if !t.has(prefix + "encoder.layer.0.attention.o_proj.weight") {
		e.mlp = func(l string) MLP { return e.gatedMLP(t, l+"mlp.gate_proj", l+"mlp.up_proj", l+"mlp.down_proj", true) }
		e.addLayers(t, m, prefix+"layers.", transformersNames, nil)
		return
	}
	names := gteHubNames
	if !packed {
		names.qkv = []string{"attention.q_proj", "attention.k_proj", "attention.v_proj"}
	}
	e.mlp = func(l string) MLP { return e.fusedMLP(t, l+"mlp.up_gate_proj", l+"mlp.down_proj", true) }
	e.addLayers(t, m, prefix+"encoder.layer.", names, nil)
}

func gtePrefix(t *tensors) string { return t.prefixed("new.", "gte.") }

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
	return maskedLM{dense: "lm_head.dense", norm: norm, decoder: "lm_head.decoder", bias: "lm_head.decoder.bias", act: act}.read(c, t, m)
}

func gteClassifier(c *object, t *tensors, m *Model) []Dense {
	return labelled(c, t, m, gtePrefix(t)+"pooler.dense", Tanh, "classifier")
}
