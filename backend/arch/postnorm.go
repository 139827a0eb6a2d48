package arch

import (
	"math"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// postNorm is an encoder built as BERT is: a norm after the sum of each block with its input. Its families differ in positions,
// attention, MLP and the names of their weights.
type postNorm struct {
	names                         postNormNames
	types, layers, heads, headDim int // types: rows of the token type table; 0: there is none
	eps                           float32
	learnedPositions              bool // a table of positions
	positionOffset                int  // of the table: Embeddings.PositionOffset
	qkvBias, outBias              bool
	attention                     Attention // what all layers' attention has beside sizes and weights
	kind                          NormKind  // of the layers' norms
	mlp                           func(layer string) MLP
	finish                        func(layer string, l *Layer) // what a family adds to a layer; nil: nothing
}

// postNormNames are the names of a format's weights, without ".weight". Those of a layer follow its name.
type postNormNames struct {
	prefix                 string // before all names
	embeddingNorm          string
	layers                 string // before a layer's number
	qkv                    []string
	out                    string
	attentionNorm, mlpNorm string
}

// transformersNames are those of transformers' nomic_bert, gte and jina_embeddings_v3, which share their layers.
var transformersNames = postNormNames{
	embeddingNorm: "embeddings.LayerNorm", layers: "layers.",
	qkv: []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, out: "self_attn.o_proj",
	attentionNorm: "post_attention_layernorm", mlpNorm: "post_mlp_layernorm",
}

// encoderSizes reads what the configs of encoders share into m and e, and the columns of the MLP and its activation. defaults are those of
// the family's config class.
func (e *postNorm) encoderSizes(c *object, m *Model, defaults encoderDefaults) (wide int, act Activation) {
	m.HiddenSize = c.integer("hidden_size", defaults.hidden, 1, maxHidden)
	m.VocabSize = c.integer("vocab_size", defaults.vocab, 1, maxTable)
	m.MaxPositions = c.integer("max_position_embeddings", defaults.positions, 1, maxTable)
	e.types = c.integer("type_vocab_size", defaults.types, defaults.leastTypes, maxTypeTable)
	e.layers = c.integer("num_hidden_layers", defaults.layers, 1, maxLayers)
	e.heads = c.integer("num_attention_heads", defaults.heads, 1, maxHeads)
	e.eps = float32(c.number("layer_norm_eps", defaults.eps, 0, 1))
	wide = c.integer("intermediate_size", defaults.wide, 1, maxWide)
	act = c.activation("hidden_act", defaults.act)
	for _, key := range []string{"is_decoder", "add_cross_attention"} {
		c.refuseTrue(key, "it must be an encoder")
	}
	e.headDim = c.headDim("hidden_size", m.HiddenSize, "num_attention_heads", e.heads)
	return wide, act
}

// encoderDefaults are what a config class takes for absent keys. leastTypes: 0 where a model may have no token type table.
type encoderDefaults struct {
	hidden, vocab, positions, types, leastTypes, layers, heads, wide int
	act                                                              string
	eps                                                              float64
}

// headDim is hidden / heads, which are the values of those keys.
func (o *object) headDim(hiddenKey string, hidden int, headsKey string, heads int) int {
	if o.err == nil && hidden%heads != 0 {
		o.fail(status.Start, "%s %d is no multiple of %s %d", hiddenKey, hidden, headsKey, heads)
	}
	return hidden / heads
}

// read builds the model. What m has of HiddenSize, VocabSize and MaxPositions must be there.
func (e *postNorm) read(t *tensors, m *Model) {
	hidden, prefix := m.HiddenSize, e.names.prefix
	m.Embeddings = Embeddings{
		Word:          t.need(t.weight(prefix+"embeddings.word_embeddings"), m.VocabSize, hidden),
		TypeVocabSize: max(e.types, 1),
		Scale:         1,
		Norm:          t.layerNorm(prefix+e.names.embeddingNorm, hidden, e.eps),
	}
	if e.types > 0 {
		m.Embeddings.Type = t.need(t.weight(prefix+"embeddings.token_type_embeddings"), e.types, hidden)
	}
	if e.learnedPositions {
		m.Embeddings.PositionOffset = e.positionOffset
		m.Embeddings.Position = t.need(t.weight(prefix+"embeddings.position_embeddings"), m.MaxPositions, hidden)
	}
	for i := range e.layers {
		if t.err != nil { // a claim of many layers costs nothing without their weights
			return
		}
		l := prefix + e.names.layers + strconv.Itoa(i) + "."
		layer := Layer{
			Attention:      e.layerAttention(t, l, hidden),
			AttentionNorms: BlockNorms{Residual: t.norm(e.kind, l+e.names.attentionNorm, hidden, e.eps)},
			MLP:            e.mlp(l),
			MLPNorms:       BlockNorms{Residual: t.norm(e.kind, l+e.names.mlpNorm, hidden, e.eps)},
		}
		if e.finish != nil {
			e.finish(l, &layer)
		}
		m.Layers = append(m.Layers, layer)
	}
}

func (e *postNorm) layerAttention(t *tensors, layer string, hidden int) Attention {
	a, rows := e.attention, e.heads*e.headDim
	a.Heads, a.KVHeads, a.HeadDim = e.heads, e.heads, e.headDim
	a.Scale = float32(1 / math.Sqrt(float64(e.headDim)))
	a.WindowLeft, a.WindowRight = -1, -1
	for _, name := range e.names.qkv {
		a.QKV = append(a.QKV, t.linearBias(layer+name, hidden, 3*rows/len(e.names.qkv), e.qkvBias))
	}
	a.Out = t.linearBias(layer+e.names.out, rows, hidden, e.outBias)
	return a
}

// plainMLP is down(act(up)), with biases.
func (t *tensors) plainMLP(up, down string, hidden, wide int, act Activation) MLP {
	return MLP{Activation: act, Up: t.linear(up, hidden, wide), Down: t.linear(down, wide, hidden), Intermediate: wide}
}

// gatedMLP is down(act(gate) * up); bias: the first two have one.
func (t *tensors) gatedMLP(gate, up, down string, hidden, wide int, act Activation, bias, downBias bool) MLP {
	return MLP{
		Activation: act, Gate: t.linearBias(gate, hidden, wide, bias), Up: t.linearBias(up, hidden, wide, bias),
		Down: t.linearBias(down, wide, hidden, downBias), Intermediate: wide,
	}
}

// fusedMLP is gatedMLP with gate and up in one map.
func (t *tensors) fusedMLP(gateUp, down string, hidden, wide int, act Activation, upFirst, bias, downBias bool) MLP {
	return MLP{
		Activation: act, GateUp: t.linearBias(gateUp, hidden, 2*wide, bias), UpFirst: upFirst,
		Down: t.linearBias(down, wide, hidden, downBias), Intermediate: wide,
	}
}

// pooledClassifier is BERT's: dense and tanh on the first token, then the labels.
func pooledClassifier(c *object, t *tensors, m *Model, pooler string) []Dense {
	m.Head.Labels = c.labels()
	return []Dense{{Linear: t.linear(pooler, m.HiddenSize, m.HiddenSize), Activation: Tanh}, t.labelled(m)}
}

// labelled is the map from the hidden state to the labels.
func (t *tensors) labelled(m *Model) Dense {
	return Dense{Linear: t.linear("classifier", m.HiddenSize, len(m.Head.Labels))}
}

func linearTokenClassifier(c *object, t *tensors, m *Model) []Dense {
	m.Head.Labels = c.labels()
	return []Dense{t.labelled(m)}
}

// maskedLM is the head of a masked language model: dense, activation, norm, and the map to the vocabulary, which is the word table
// itself where tied, as is the default. bias: the first of these names that there is.
func maskedLM(c *object, t *tensors, m *Model, dense, norm, decoder string, act Activation, bias ...string) []Dense {
	weight := m.Embeddings.Word
	if !c.boolean("tie_word_embeddings", true) {
		weight = t.need(decoder+".weight", m.VocabSize, m.HiddenSize)
	}
	name := bias[0]
	for _, other := range bias[1:] {
		if !t.has(name) {
			name = other
		}
	}
	return []Dense{
		{
			Linear:     t.linear(dense, m.HiddenSize, m.HiddenSize),
			Activation: act,
			Norm:       t.layerNorm(norm, m.HiddenSize, m.Embeddings.Norm.Eps),
		},
		{Linear: Linear{Weight: weight, Bias: t.need(name, m.VocabSize), In: m.HiddenSize, Out: m.VocabSize}},
	}
}
