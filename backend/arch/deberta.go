package arch

import (
	"encoding/json"
	"math"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// debertaV2 is DeBERTa v2 (https://arxiv.org/abs/2006.03654) and v3 (https://arxiv.org/abs/2111.09543): BERT with disentangled
// attention, with names and defaults of transformers' DebertaV2Config and modeling_deberta_v2.py.
var debertaV2 = family{
	trunk: debertaTrunk,
	architectures: map[string]architecture{
		"":                                   {kind: HeadEmbedding},
		"DebertaV2Model":                     {kind: HeadEmbedding},
		"DebertaV2ForMaskedLM":               {kind: HeadSparse, chain: debertaMaskedLM},
		"DebertaV2ForSequenceClassification": {kind: HeadClassifier, chain: debertaClassifier},
		"DebertaV2ForTokenClassification":    {kind: HeadTokenClassifier, chain: tokenLabels},
	},
}

var debertaKeys = encoderKeys{
	hidden: "hidden_size", layers: "num_hidden_layers", heads: "num_attention_heads", wide: "intermediate_size", act: "hidden_act",
	vocabSize: 128100, hiddenSize: 1536, layerCount: 24, headCount: 24, wideSize: 6144, positions: 512, eps: 1e-7,
}

var debertaNames = layerNames{
	qkv: []string{"attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj"}, out: "attention.output.dense",
	attentionNorm: "attention.output.LayerNorm", up: "intermediate.dense", down: "output.dense", norm: "output.LayerNorm",
}

func debertaTrunk(c *object, t *tensors, m *Model) {
	types := c.typeVocabSize(0, 0)
	e := c.encoder(m, debertaKeys)
	positions := c.boolean("position_biased_input", true)
	if n := c.integer("conv_kernel_size", 0, 0, maxTable); n > 0 {
		c.fail(status.Unsupported, "conv_kernel_size %d is not supported for deberta-v2: its first layer must have no convolution", n)
	}
	if n := c.integer("attention_head_size", e.hidden/e.heads, 1, maxHidden); c.err == nil && n*e.heads != e.hidden {
		c.fail(status.Unsupported, "attention_head_size %d is not supported: times num_attention_heads %d it must be hidden_size %d",
			n, e.heads, e.hidden)
	}
	terms := c.debertaTerms()
	shared := c.boolean("share_att_key", false)
	distances := c.debertaDistances(m)
	normed := c.debertaNorm()
	if c.err != nil {
		return
	}

	prefix := t.prefixed("deberta.")
	m.Embeddings = e.embeddings(t, m, prefix, embeddingsNorm, positions, types)
	if distances != nil && len(terms) > 0 {
		distances.Embeddings = t.need(prefix+"encoder.rel_embeddings.weight", 2*distances.Span, e.hidden)
		if normed {
			distances.Norm = t.layerNorm(prefix+"encoder.LayerNorm", e.hidden, e.eps)
		}
	}
	e.addLayers(t, m, prefix+"encoder.layer.", debertaNames, func(l string, layer *Layer) {
		a := &layer.Attention
		a.Scale = float32(1 / math.Sqrt(float64(a.HeadDim*(1+len(terms)))))
		if distances == nil || len(terms) == 0 {
			return
		}
		d := *distances
		term := func(kind string, of Linear, own string) *Linear {
			switch {
			case !slices.Contains(terms, kind):
				return nil
			case !shared:
				of = t.linear(l+own, e.hidden, e.hidden)
			}
			return &of
		}
		d.Key = term("c2p", a.QKV[1], "attention.self.pos_key_proj")
		d.Query = term("p2c", a.QKV[0], "attention.self.pos_query_proj")
		a.Disentangled = &d
	})
}

// debertaTerms reads pos_att_type: a list, or a string of names with | between. Each name counts for the scale, relative_attention or not.
func (o *object) debertaTerms() []string {
	const key = "pos_att_type"
	var names []string
	var joined string
	if o.present(key) && json.Unmarshal(o.values[key], &joined) == nil {
		names = strings.Split(strings.ToLower(joined), "|")
	} else {
		names = o.texts(key)
	}
	var terms []string
	for _, name := range names {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		if name != "c2p" && name != "p2c" {
			o.fail(status.Unsupported, "%s %s is not supported; supported: c2p, p2c", key, quote(name))
			return nil
		}
		if !slices.Contains(terms, name) {
			terms = append(terms, name)
		}
	}
	return terms
}

// debertaDistances reads what rows distances have; nil: there is no relative attention.
func (o *object) debertaDistances(m *Model) *Disentangled {
	relative := o.boolean("relative_attention", false)
	d := &Disentangled{
		MaxDistance: o.integer("max_relative_positions", -1, -1, maxRelativeDistance),
		Buckets:     max(o.integer("position_buckets", -1, -1, maxRelativeDistance), 0),
	}
	if d.MaxDistance < 1 {
		d.MaxDistance = m.MaxPositions
	}
	if d.Span = d.MaxDistance; d.Buckets > 0 {
		d.Span = d.Buckets
	}
	if !relative || o.err != nil {
		return nil
	}
	if m.MaxPositions > maxRelativeDistance {
		o.fail(status.Start, "max_position_embeddings is %d; with relative_attention the limit is %d", m.MaxPositions, maxRelativeDistance)
	}
	if d.Buckets == 1 || (d.Buckets > 0 && d.MaxDistance-1 <= d.Buckets/2) {
		o.fail(status.Start, "position_buckets %d does not fit relative positions up to %d: it must be at least 2, and half of it below %d",
			d.Buckets, d.MaxDistance, d.MaxDistance-1)
	}
	return d
}

// debertaNorm tells whether the embeddings of distances are normalised.
func (o *object) debertaNorm() bool {
	normed := false
	for _, name := range strings.Split(strings.ToLower(o.text("norm_rel_ebd", "none")), "|") {
		switch name = strings.TrimSpace(name); name {
		case "layer_norm":
			normed = true
		case "none", "":
		default:
			o.fail(status.Unsupported, "norm_rel_ebd %s is not supported; supported: none, layer_norm", quote(name))
		}
	}
	return normed
}

// debertaClassifier is ContextPooler on the first token, then a linear layer.
func debertaClassifier(c *object, t *tensors, m *Model) []Dense {
	if n := c.integer("pooler_hidden_size", m.HiddenSize, 1, maxHidden); c.err == nil && n != m.HiddenSize {
		c.fail(status.Unsupported, "pooler_hidden_size %d is not supported; supported: that of hidden_size, %d", n, m.HiddenSize)
	}
	return labelled(c, t, m, "pooler.dense", c.activation("pooler_hidden_act", "gelu"), "classifier")
}

// debertaMaskedLM is BERT's head; legacy false is that of the authors' own code, which is always tied.
func debertaMaskedLM(c *object, t *tensors, m *Model) []Dense {
	if c.boolean("legacy", true) {
		return bertMaskedLM(c, t, m)
	}
	const p = "lm_predictions.lm_head."
	return maskedLM{dense: p + "dense", norm: p + "LayerNorm", bias: p + "bias", act: m.Layers[0].MLP.Activation}.read(c, t, m)
}
