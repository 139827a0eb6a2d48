package arch

import (
	"math"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Limits of what a config may claim: far above every known model, and small enough that no product of two overflows.
const (
	maxHidden    = 1 << 16
	maxWide      = 1 << 20 // intermediate columns
	maxLayers    = 1 << 10
	maxHeads     = 1 << 12
	maxTable     = 1 << 24 // rows of an embedding table
	maxTypeTable = 1 << 16
)

// encoder is what BERT's descendants have in common: LayerNorm after each block, as many key heads as query heads,
// a bias in every map.
type encoder struct {
	hidden, layers, heads, wide int
	act                         Activation
	eps                         float32
}

// encoderKeys are the names of an encoder's sizes in config.json, and its family's defaults.
type encoderKeys struct {
	hidden, layers, heads, wide, act                       string
	vocabSize, hiddenSize, layerCount, headCount, wideSize int
	eps                                                    float64 // default of layer_norm_eps
	epsFixed                                               bool    // layer_norm_eps is no key: it is always eps
}

var bertKeys = encoderKeys{
	hidden: "hidden_size", layers: "num_hidden_layers", heads: "num_attention_heads", wide: "intermediate_size", act: "hidden_act",
	vocabSize: 30522, hiddenSize: 768, layerCount: 12, headCount: 12, wideSize: 3072, eps: 1e-12,
}

// withVocab is a family that differs in the default of vocab_size alone.
func (k encoderKeys) withVocab(size int) encoderKeys {
	k.vocabSize = size
	return k
}

// encoder reads the sizes into m and refuses what no encoder here does. Faults are c's.
func (o *object) encoder(m *Model, k encoderKeys) encoder {
	m.HiddenSize = o.integer(k.hidden, k.hiddenSize, 1, maxHidden)
	m.VocabSize = o.integer("vocab_size", k.vocabSize, 1, maxTable)
	m.MaxPositions = o.integer("max_position_embeddings", 512, 1, maxTable)
	e := encoder{
		hidden: m.HiddenSize,
		layers: o.integer(k.layers, k.layerCount, 1, maxLayers),
		heads:  o.integer(k.heads, k.headCount, 1, maxHeads),
		wide:   o.integer(k.wide, k.wideSize, 1, maxWide),
		act:    o.activation(k.act, "gelu"),
		eps:    float32(k.eps),
	}
	if !k.epsFixed {
		e.eps = float32(o.number("layer_norm_eps", k.eps, 0, 1))
	}
	if kind := o.text("position_embedding_type", "absolute"); kind != "absolute" {
		o.fail(status.Unsupported, "position_embedding_type %s is not supported for %s; supported: absolute", quote(kind), m.Family)
	}
	for _, key := range []string{"is_decoder", "add_cross_attention"} {
		if o.boolean(key, false) {
			o.fail(status.Unsupported, "%s true is not supported for %s: it must be an encoder", key, m.Family)
		}
	}
	if pruned := o.object("pruned_heads"); pruned != nil && len(pruned.values) > 0 {
		o.fail(status.Unsupported, "pruned_heads is not supported: every layer must have its %d heads", e.heads)
	}
	if n := o.integer("embedding_size", m.HiddenSize, 1, maxHidden); o.err == nil && n != m.HiddenSize {
		o.fail(status.Unsupported, "embedding_size %d is not supported for %s; supported: that of %s, %d", n, m.Family, k.hidden, m.HiddenSize)
	}
	if o.err == nil && m.HiddenSize%e.heads != 0 {
		o.fail(status.Start, "%s %d is no multiple of %s %d", k.hidden, m.HiddenSize, k.heads, e.heads)
	}
	return e
}

// typeVocabSize reads type_vocab_size, whose table a family has.
func (o *object) typeVocabSize(fallback, lo int) int {
	return o.integer("type_vocab_size", fallback, lo, maxTypeTable)
}

// embeddings are the tables under base: words, positions where the family has learned ones, types rows of token types (0: none).
func (e encoder) embeddings(t *tensors, m *Model, base string, positions bool, types int) Embeddings {
	base += "embeddings."
	all := Embeddings{
		Word:          t.need(base+"word_embeddings.weight", m.VocabSize, e.hidden),
		TypeVocabSize: max(types, 1),
		Scale:         1,
		Norm:          t.layerNorm(base+"LayerNorm", e.hidden, e.eps),
	}
	if positions {
		all.Position = t.need(base+"position_embeddings.weight", m.MaxPositions, e.hidden)
	}
	if types > 0 {
		all.Type = t.need(base+"token_type_embeddings.weight", types, e.hidden)
	}
	return all
}

// layerNames are the names of a layer's weights, after the layer's own.
type layerNames struct{ query, key, value, out, attentionNorm, up, down, norm string }

var bertNames = layerNames{
	query: "attention.self.query", key: "attention.self.key", value: "attention.self.value", out: "attention.output.dense",
	attentionNorm: "attention.output.LayerNorm", up: "intermediate.dense", down: "output.dense", norm: "output.LayerNorm",
}

// addLayers adds the layers named prefix0, prefix1, ... adjust changes the attention of each; nil: it stays.
func (e encoder) addLayers(t *tensors, m *Model, prefix string, n layerNames, adjust func(l string, a *Attention)) {
	hidden := e.hidden
	for i := range e.layers {
		if t.err != nil { // a claim of many layers costs nothing without their weights
			return
		}
		l := prefix + strconv.Itoa(i) + "."
		a := Attention{
			Heads: e.heads, KVHeads: e.heads, HeadDim: hidden / e.heads,
			Scale: float32(1 / math.Sqrt(float64(hidden/e.heads))),
			QKV: []Linear{
				t.linear(l+n.query, hidden, hidden),
				t.linear(l+n.key, hidden, hidden),
				t.linear(l+n.value, hidden, hidden),
			},
			Out:        t.linear(l+n.out, hidden, hidden),
			WindowLeft: -1, WindowRight: -1,
		}
		if adjust != nil {
			adjust(l, &a)
		}
		m.Layers = append(m.Layers, Layer{
			Attention:      a,
			AttentionNorms: BlockNorms{Residual: t.layerNorm(l+n.attentionNorm, hidden, e.eps)},
			MLP: MLP{
				Activation:   e.act,
				Up:           t.linear(l+n.up, hidden, e.wide),
				Down:         t.linear(l+n.down, e.wide, hidden),
				Intermediate: e.wide,
			},
			MLPNorms: BlockNorms{Residual: t.layerNorm(l+n.norm, hidden, e.eps)},
		})
	}
}

// prefixed is what stands before the trunk's names: models saved with a head have the trunk's own name there.
func (t *tensors) prefixed(name string) string {
	if t.has(name + "embeddings.word_embeddings.weight") {
		return name
	}
	return ""
}

// tokenLabels is a token classifier that is one linear map.
func tokenLabels(c *object, t *tensors, m *Model) []Dense {
	m.Head.Labels = c.labels()
	return []Dense{{Linear: t.linear("classifier", m.HiddenSize, len(m.Head.Labels))}}
}

// labelled is a classifier of two layers on the first token.
func labelled(c *object, t *tensors, m *Model, dense string, act Activation, out string) []Dense {
	m.Head.Labels = c.labels()
	return []Dense{
		{Linear: t.linear(dense, m.HiddenSize, m.HiddenSize), Activation: act},
		{Linear: t.linear(out, m.HiddenSize, len(m.Head.Labels))},
	}
}

// maskedLM names a masked-LM head: dense, activation, norm, then a map to the vocabulary.
type maskedLM struct {
	dense, norm string
	decoder     string // the last map where it is not tied to the word table, which may have the bias's name either way; "": it is tied
	bias        string // of the last map
	act         Activation
}

// read returns the head's layers. The word table itself is the last map where they are tied, as is the default.
func (h maskedLM) read(c *object, t *tensors, m *Model) []Dense {
	weight, bias, other := m.Embeddings.Word, h.bias, h.decoder+".bias"
	if h.decoder != "" && !c.boolean("tie_word_embeddings", true) {
		weight = t.need(h.decoder+".weight", m.VocabSize, m.HiddenSize)
		bias, other = other, bias // the bias is tied with the weight
	}
	if !t.has(bias) && t.has(other) {
		bias = other
	}
	return []Dense{
		{
			Linear:     t.linear(h.dense, m.HiddenSize, m.HiddenSize),
			Activation: h.act,
			Norm:       t.layerNorm(h.norm, m.HiddenSize, m.Embeddings.Norm.Eps),
		},
		{Linear: Linear{Weight: weight, Bias: t.need(bias, m.VocabSize), In: m.HiddenSize, Out: m.VocabSize}},
	}
}
