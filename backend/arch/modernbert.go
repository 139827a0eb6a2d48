package arch

import (
	"math"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// modernBert is ModernBERT (https://arxiv.org/abs/2412.13663), with names and defaults of transformers' ModernBertConfig and
// modeling_modernbert.py, and the keys that its older files have.
var modernBert = family{
	trunk: modernTrunk,
	architectures: map[string]architecture{
		"":                                    {kind: HeadEmbedding},
		"ModernBertModel":                     {kind: HeadEmbedding},
		"ModernBertForMaskedLM":               {kind: HeadSparse, chain: modernMaskedLM},
		"ModernBertForSequenceClassification": {kind: HeadClassifier, chain: modernClassifier},
		"ModernBertForTokenClassification":    {kind: HeadTokenClassifier, chain: modernTokenClassifier},
	},
}

// modernKind is a kind of layer: whom its queries see, and its rope.
type modernKind struct {
	span span
	rope *Rope
}

// The keys of the bases of rope in older files.
const globalTheta, localTheta = "global_rope_theta", "local_rope_theta"

func modernTrunk(c *object, t *tensors, m *Model) {
	m.HiddenSize = c.integer("hidden_size", 768, 1, maxHidden)
	m.VocabSize = c.integer("vocab_size", 50368, 1, maxTable)
	m.MaxPositions = c.integer("max_position_embeddings", 8192, 1, maxTable)
	layers := c.integer("num_hidden_layers", 22, 1, maxLayers)
	heads := c.integer("num_attention_heads", 12, 1, maxHeads)
	headDim := c.headDim("hidden_size", m.HiddenSize, "num_attention_heads", heads)
	wide := c.integer("intermediate_size", 1152, 1, maxWide)
	act := c.activation("hidden_activation", "gelu")
	attentionBias, mlpBias := c.boolean("attention_bias", false), c.boolean("mlp_bias", false)
	kinds := modernKinds(c, layers, headDim, m.MaxPositions)
	norm := modernNorm(c, t)
	if c.err != nil {
		return
	}

	prefix, hidden := t.prefixOf("embeddings.tok_embeddings.weight", "model."), m.HiddenSize
	m.Embeddings = Embeddings{
		Word:          t.need(prefix+"embeddings.tok_embeddings.weight", m.VocabSize, hidden),
		TypeVocabSize: 1, Scale: 1, Norm: norm(prefix+"embeddings.norm", hidden),
	}
	for i := range layers {
		if t.err != nil { // a claim of many layers costs nothing without their weights
			return
		}
		l := prefix + "layers." + strconv.Itoa(i) + "."
		layer := Layer{
			Attention: Attention{
				Heads: heads, KVHeads: heads, HeadDim: headDim,
				Scale:      float32(1 / math.Sqrt(float64(headDim))),
				QKV:        []Linear{t.linearBias(l+"attn.Wqkv", hidden, 3*hidden, attentionBias)},
				Out:        t.linearBias(l+"attn.Wo", hidden, hidden, attentionBias),
				Rope:       kinds[i].rope,
				WindowLeft: kinds[i].span.left, WindowRight: kinds[i].span.right,
			},
			MLP: MLP{
				Activation: act, Intermediate: wide,
				GateUp: t.linearBias(l+"mlp.Wi", hidden, 2*wide, mlpBias), Down: t.linearBias(l+"mlp.Wo", wide, hidden, mlpBias),
			},
			MLPNorms: BlockNorms{Before: norm(l+"mlp_norm", hidden)},
		}
		if i > 0 { // the first follows the embeddings' norm
			layer.AttentionNorms.Before = norm(l+"attn_norm", hidden)
		}
		m.Layers = append(m.Layers, layer)
	}
	m.FinalNorm = norm(prefix+"final_norm", hidden)
}

// modernNorm reads what all norms share.
func modernNorm(c *object, t *tensors) func(name string, width int) *Norm {
	eps, bias := float32(c.number("norm_eps", 1e-5, 0, 1)), c.boolean("norm_bias", false)
	return func(name string, width int) *Norm {
		if bias {
			return t.layerNorm(name, width, eps)
		}
		return &Norm{Kind: LayerNorm, Weight: t.need(name+".weight", width), Eps: eps}
	}
}

// modernKinds is the kind of each layer: of layer_types or, in older files, global attention in every layer whose number is a multiple of
// global_attn_every_n_layers. A window holds half of local_attention on either side.
func modernKinds(c *object, layers, headDim, positions int) []modernKind {
	half := c.integer("local_attention", 128, 1, maxTable) / 2
	half = c.integer("sliding_window", half, 0, maxTable)
	every := c.integer("global_attn_every_n_layers", 3, 1, maxLayers)
	names := c.texts("layer_types")
	if c.err == nil && c.present("layer_types") && len(names) != layers {
		c.fail(status.Start, "layer_types has %d entries; num_hidden_layers is %d", len(names), layers)
	}
	for _, key := range []string{globalTheta, localTheta} {
		if c.null(key) { // what that meant has changed
			c.fail(status.Unsupported, "%s null is not supported; it must be a number", key)
		}
	}
	full, sliding := c.layerRopes(headDim, positions, layerBase{globalTheta, 160000, true}, layerBase{localTheta, 10000, true})
	kinds := map[string]modernKind{
		"full_attention": {span{left: -1, right: -1}, full}, "sliding_attention": {span{left: half, right: half}, sliding},
	}
	if c.err != nil {
		return nil
	}
	list := make([]modernKind, layers)
	for i := range list {
		name := "sliding_attention"
		if names != nil {
			name = names[i]
		} else if i%every == 0 {
			name = "full_attention"
		}
		kind, ok := kinds[name]
		if !ok {
			c.fail(status.Unsupported, "layer_types[%d] %s is not supported; supported: full_attention, sliding_attention", i, quote(name))
			return nil
		}
		list[i] = kind
	}
	return list
}

// modernHead is ModernBERT's prediction head, which all its heads begin with.
func modernHead(c *object, t *tensors, m *Model) Dense {
	return Dense{
		Linear:     t.linearBias("head.dense", m.HiddenSize, m.HiddenSize, c.boolean("classifier_bias", false)),
		Activation: c.activation("classifier_activation", "gelu"),
		Norm:       modernNorm(c, t)("head.norm", m.HiddenSize),
	}
}

func modernClassifier(c *object, t *tensors, m *Model) []Dense {
	if c.oneOf("classifier_pooling", "cls", "mean") == "mean" {
		m.Head.Pooling.Modes = []PoolMode{PoolMean}
	}
	return modernTokenClassifier(c, t, m)
}

func modernTokenClassifier(c *object, t *tensors, m *Model) []Dense {
	return append([]Dense{modernHead(c, t, m)}, tokenLabels(c, t, m)...)
}

func modernMaskedLM(c *object, t *tensors, m *Model) []Dense {
	decoder := Linear{Weight: m.Embeddings.Word, In: m.HiddenSize, Out: m.VocabSize}
	if !c.boolean("tie_word_embeddings", true) {
		decoder.Weight = t.need("decoder.weight", m.VocabSize, m.HiddenSize)
	}
	if c.boolean("decoder_bias", true) {
		decoder.Bias = t.need("decoder.bias", m.VocabSize)
	}
	return []Dense{modernHead(c, t, m), {Linear: decoder}}
}
