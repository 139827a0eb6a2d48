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

// encoder is what BERT's descendants have in common: a norm after the sum of each block with its input, and as many key heads as query
// heads. Families differ in positions, attention, MLP and the names of their weights.
type encoder struct {
	hidden, layers, heads, headDim, wide int
	act                                  Activation
	eps                                  float32
	norms                                NormKind  // of the layers; that of the embeddings is LayerNorm
	qkvBias, outBias                     bool      // of attention's maps
	attention                            Attention // what all layers' attention has beside sizes and weights
	mlp                                  func(l string) MLP
}

// encoderKeys are the names of an encoder's sizes in config.json, and its family's defaults.
type encoderKeys struct {
	hidden, layers, heads, wide, act                                  string
	vocabSize, hiddenSize, layerCount, headCount, wideSize, positions int
	eps                                                               float64 // default of layer_norm_eps
	epsFixed                                                          bool    // layer_norm_eps is no key: it is always eps
	silu                                                              bool    // act's default is silu, not gelu
	ownPositions                                                      bool    // the family reads position_embedding_type
}

var bertKeys = encoderKeys{
	hidden: "hidden_size", layers: "num_hidden_layers", heads: "num_attention_heads", wide: "intermediate_size", act: "hidden_act",
	vocabSize: 30522, hiddenSize: 768, layerCount: 12, headCount: 12, wideSize: 3072, positions: 512, eps: 1e-12,
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
	m.MaxPositions = o.integer("max_position_embeddings", k.positions, 1, maxTable)
	act := "gelu"
	if k.silu {
		act = "silu"
	}
	e := encoder{
		hidden:  m.HiddenSize,
		layers:  o.integer(k.layers, k.layerCount, 1, maxLayers),
		heads:   o.integer(k.heads, k.headCount, 1, maxHeads),
		wide:    o.integer(k.wide, k.wideSize, 1, maxWide),
		act:     o.activation(k.act, act),
		eps:     float32(k.eps),
		qkvBias: true, outBias: true,
	}
	if !k.epsFixed {
		e.eps = float32(o.number("layer_norm_eps", k.eps, 0, 1))
	}
	if kind := o.text("position_embedding_type", "absolute"); kind != "absolute" && !k.ownPositions {
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
	e.headDim = o.headDim(k.hidden, m.HiddenSize, k.heads, e.heads)
	return e
}

// headDim is hidden / heads, which are the values of those keys.
func (o *object) headDim(hiddenKey string, hidden int, headsKey string, heads int) int {
	if o.err == nil && hidden%heads != 0 {
		o.fail(status.Start, "%s %d is no multiple of %s %d", hiddenKey, hidden, headsKey, heads)
	}
	return hidden / heads
}

// typeVocabSize reads type_vocab_size, whose table a family has.
func (o *object) typeVocabSize(fallback, lo int) int {
	return o.integer("type_vocab_size", fallback, lo, maxTypeTable)
}

// embeddings are the tables under base: words, positions where the family has learned ones, types rows of token types (0: none). norm
// is the name of what follows them.
func (e encoder) embeddings(t *tensors, m *Model, base, norm string, positions bool, types int) Embeddings {
	all := Embeddings{
		Word:          t.need(t.weight(base+"embeddings.word_embeddings"), m.VocabSize, e.hidden),
		TypeVocabSize: max(types, 1),
		Scale:         1,
		Norm:          t.layerNorm(base+norm, e.hidden, e.eps),
	}
	if positions {
		all.Position = t.need(t.weight(base+"embeddings.position_embeddings"), m.MaxPositions, e.hidden)
	}
	if types > 0 {
		all.Type = t.need(t.weight(base+"embeddings.token_type_embeddings"), types, e.hidden)
	}
	return all
}

const embeddingsNorm = "embeddings.LayerNorm"

// layerNames are the names of a layer's weights, after the layer's own. qkv: one map, or three.
type layerNames struct {
	qkv                                []string
	out, attentionNorm, up, down, norm string
}

var bertNames = layerNames{
	qkv: []string{"attention.self.query", "attention.self.key", "attention.self.value"}, out: "attention.output.dense",
	attentionNorm: "attention.output.LayerNorm", up: "intermediate.dense", down: "output.dense", norm: "output.LayerNorm",
}

// addLayers adds the layers named prefix0, prefix1, ... adjust changes each; nil: it stays.
func (e encoder) addLayers(t *tensors, m *Model, prefix string, n layerNames, adjust func(l string, layer *Layer)) {
	if e.mlp == nil {
		e.mlp = func(l string) MLP { return e.plainMLP(t, l+n.up, l+n.down, true) }
	}
	for i := range e.layers {
		if t.err != nil { // a claim of many layers costs nothing without their weights
			return
		}
		l := prefix + strconv.Itoa(i) + "."
		layer := Layer{
			Attention:      e.layerAttention(t, l, n),
			AttentionNorms: BlockNorms{Residual: t.norm(e.norms, l+n.attentionNorm, e.hidden, e.eps)},
			MLP:            e.mlp(l),
			MLPNorms:       BlockNorms{Residual: t.norm(e.norms, l+n.norm, e.hidden, e.eps)},
		}
		if adjust != nil {
			adjust(l, &layer)
		}
		m.Layers = append(m.Layers, layer)
	}
}

func (e encoder) layerAttention(t *tensors, l string, n layerNames) Attention {
	a, rows := e.attention, e.heads*e.headDim
	a.Heads, a.KVHeads, a.HeadDim = e.heads, e.heads, e.headDim
	a.Scale = float32(1 / math.Sqrt(float64(e.headDim)))
	a.WindowLeft, a.WindowRight = -1, -1
	for _, name := range n.qkv {
		a.QKV = append(a.QKV, t.linearBias(l+name, e.hidden, 3*rows/len(n.qkv), e.qkvBias))
	}
	a.Out = t.linearBias(l+n.out, rows, e.hidden, e.outBias)
	return a
}

// plainMLP is down(act(up)). upBias: up has a bias; down has one.
func (e encoder) plainMLP(t *tensors, up, down string, upBias bool) MLP {
	return MLP{
		Activation: e.act, Up: t.linearBias(up, e.hidden, e.wide, upBias), Down: t.linear(down, e.wide, e.hidden), Intermediate: e.wide,
	}
}

// gatedMLP is down(act(gate) * up), where only down may have a bias.
func (e encoder) gatedMLP(t *tensors, gate, up, down string, downBias bool) MLP {
	return MLP{
		Activation: e.act, Gate: t.linearWithoutBias(gate, e.hidden, e.wide), Up: t.linearWithoutBias(up, e.hidden, e.wide),
		Down: t.linearBias(down, e.wide, e.hidden, downBias), Intermediate: e.wide,
	}
}

// fusedMLP is gatedMLP with gate and up in one map, and a bias in down.
func (e encoder) fusedMLP(t *tensors, gateUp, down string, upFirst bool) MLP {
	return MLP{
		Activation: e.act, GateUp: t.linearWithoutBias(gateUp, e.hidden, 2*e.wide), UpFirst: upFirst,
		Down: t.linear(down, e.wide, e.hidden), Intermediate: e.wide,
	}
}

// prefixed is what stands before the trunk's names: models saved with a head have the trunk's own name there.
func (t *tensors) prefixed(names ...string) string {
	return t.prefixOf(t.weight("embeddings.word_embeddings"), names...)
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
