package arch

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// encoderCase is a family with tinyConfig's sizes.
type encoderCase struct {
	family, class, prefix string
	layers                string // before a layer's number
	names                 layerNames
	more                  string // of the config, always
	classifier            []string
	maskedLM              maskedLM
	types, offset         int
}

var encoders = []encoderCase{
	{
		family: "roberta", class: "Roberta", prefix: "roberta.", layers: "encoder.layer.", names: bertNames, types: 3, offset: 2,
		classifier: []string{"classifier.dense", "classifier.out_proj"}, maskedLM: maskedLM{dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", bias: "lm_head.bias"},
	},
	{
		family: "xlm-roberta", class: "XLMRoberta", prefix: "roberta.", layers: "encoder.layer.", names: bertNames, types: 3, offset: 2,
		classifier: []string{"classifier.dense", "classifier.out_proj"}, maskedLM: maskedLM{dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", bias: "lm_head.bias"},
	},
	{
		family: "camembert", class: "Camembert", prefix: "roberta.", layers: "encoder.layer.", names: bertNames, types: 3, offset: 2,
		classifier: []string{"classifier.dense", "classifier.out_proj"}, maskedLM: maskedLM{dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", bias: "lm_head.bias"},
	},
	{
		family: "distilbert", class: "DistilBert", prefix: "distilbert.", layers: "transformer.layer.", names: distilbertNames,
		more:       `, "dim": 8, "n_layers": 2, "n_heads": 4, "hidden_dim": 12`,
		classifier: []string{"pre_classifier", "classifier"}, maskedLM: maskedLM{dense: "vocab_transform", norm: "vocab_layer_norm", decoder: "vocab_projector", bias: "vocab_projector.bias"},
	},
	{
		family: "mpnet", class: "MPNet", prefix: "mpnet.", layers: "encoder.layer.", names: mpnetNames, offset: 2,
		classifier: []string{"classifier.dense", "classifier.out_proj"}, maskedLM: maskedLM{dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", bias: "lm_head.bias"},
	},
	{
		family: "deberta-v2", class: "DebertaV2", prefix: "deberta.", layers: "encoder.layer.", names: debertaNames, types: 3,
		more:       `, "relative_attention": true, "pos_att_type": "p2c|c2p", "max_relative_positions": 6`,
		classifier: []string{"pooler.dense", "classifier"}, maskedLM: maskedLM{
			dense: "cls.predictions.transform.dense", norm: "cls.predictions.transform.LayerNorm", decoder: "cls.predictions.decoder", bias: "cls.predictions.bias"},
	},
}

// config is tinyConfig of the family, with more keys before those of the case.
func (e encoderCase) config(more, architecture string) string {
	sizes := strings.Replace(tinyConfig, `"bert"`, `"`+e.family+`"`, 1)
	if e.family == "distilbert" {
		sizes = `{"model_type": "distilbert", "vocab_size": 30, "max_position_embeddings": 20`
	}
	if more != "" {
		more = ", " + more
	}
	return sizes + e.more + more + `, "architectures": ["` + architecture + `"]}`
}

// shapes are the weights, with all heads.
func (e encoderCase) shapes(prefix string) shapes {
	s := shapes{
		prefix + "embeddings.word_embeddings.weight": {30, 8}, prefix + "embeddings.position_embeddings.weight": {20, 8},
		prefix + "embeddings.token_type_embeddings.weight": {3, 8}, e.maskedLM.decoder + ".weight": {30, 8}, e.maskedLM.decoder + ".bias": {30}, e.maskedLM.bias: {30},
		prefix + "encoder.relative_attention_bias.weight": {32, 4}, prefix + "encoder.rel_embeddings.weight": {12, 8}, "lm_predictions.lm_head.bias": {30},
	}
	for _, name := range []string{prefix + "embeddings.LayerNorm", prefix + "encoder.LayerNorm", e.maskedLM.norm, "lm_predictions.lm_head.LayerNorm"} {
		s.norm(name, "weight", "bias")
	}
	for i := range 2 {
		l := fmt.Sprintf("%s%s%d.", prefix, e.layers, i)
		for _, name := range append([]string{e.names.out, "attention.self.pos_key_proj", "attention.self.pos_query_proj"}, e.names.qkv...) {
			s.linear(l+name, 8, 8)
		}
		s.linear(l+e.names.up, 8, 12)
		s.linear(l+e.names.down, 12, 8)
		s.norm(l+e.names.attentionNorm, "gamma", "beta")
		s.norm(l+e.names.norm, "weight", "bias")
	}
	for _, name := range []string{e.classifier[0], e.maskedLM.dense, "lm_predictions.lm_head.dense"} {
		s.linear(name, 8, 8)
	}
	s.linear("classifier", 8, 3)
	s.linear(e.classifier[1], 8, 3)
	return s
}

func (e encoderCase) read(more, head string) (*Model, error) {
	return read(files("config.json", e.config(more, e.class+head)), e.shapes(e.prefix), Options{})
}

func TestEncoders(t *testing.T) {
	for _, e := range encoders {
		t.Run(e.family, func(t *testing.T) {
			for _, prefix := range []string{"", e.prefix} {
				m, err := read(files("config.json", e.config(`"layer_norm_eps": 0.5`, e.class+"Model")), e.shapes(prefix), Options{})
				require.NoError(t, err)
				require.Equal(t, []int{30, 8, 20, 2}, []int{m.VocabSize, m.HiddenSize, m.MaxPositions, len(m.Layers)})
				require.Equal(t, e.offset, m.Embeddings.PositionOffset)
				require.Equal(t, 20-e.offset, m.MaxLength)
				require.Equal(t, max(e.types, 1), m.Embeddings.TypeVocabSize)
				require.Equal(t, e.types == 0, m.Embeddings.Type.Absent())
				require.Equal(t, prefix+"embeddings.position_embeddings.weight", m.Embeddings.Position.Name)
				layer := m.Layers[1]
				l := prefix + e.layers + "1."
				require.Equal(t, []string{l + e.names.qkv[0] + ".weight", l + e.names.qkv[1] + ".weight", l + e.names.qkv[2] + ".weight"},
					[]string{layer.Attention.QKV[0].Weight.Name, layer.Attention.QKV[1].Weight.Name, layer.Attention.QKV[2].Weight.Name})
				require.Equal(t, l+e.names.attentionNorm+".gamma", layer.AttentionNorms.Residual.Weight.Name)
				require.Equal(t, e.family == "distilbert", layer.MLPNorms.Residual.Eps == 1e-12, "DistilBERT's eps is no choice")
			}
			m, err := e.read("", "ForTokenClassification")
			require.ErrorContains(t, err, "must have [2 8]")
			require.Nil(t, m)
			m, err = e.read(`"num_labels": 3`, "ForTokenClassification")
			require.NoError(t, err)
			require.Equal(t, HeadTokenClassifier, m.Head.Kind)
			m, err = e.read(`"num_labels": 3`, "ForSequenceClassification")
			require.NoError(t, err)
			require.Equal(t, []PoolMode{PoolCLS}, m.Head.Pooling.Modes)
			require.Equal(t, e.classifier[1]+".bias", m.Head.Chain[1].Linear.Bias.Name)

			// Tied maps are the word table, others are not; the bias goes with the map.
			for tied, bias := range map[bool]string{true: e.maskedLM.bias, false: e.maskedLM.decoder + ".bias"} {
				m, err = read(files("config.json", e.config(fmt.Sprintf(`"tie_word_embeddings": %t`, tied), e.class+"ForMaskedLM")), e.shapes(e.prefix), Options{Pooling: "splade"})
				require.NoError(t, err)
				last := m.Head.Chain[1].Linear
				require.Equal(t, tied, last.Weight.Name == m.Embeddings.Word.Name)
				require.Equal(t, bias, last.Bias.Name)
			}
			one := e.shapes(e.prefix).with(shapes{e.maskedLM.bias: nil, e.maskedLM.decoder + ".bias": {30}})
			m, err = read(files("config.json", e.config("", e.class+"ForMaskedLM")), one, Options{Pooling: "splade"})
			require.NoError(t, err)
			require.Equal(t, e.maskedLM.decoder+".bias", m.Head.Chain[1].Linear.Bias.Name)
		})
	}
}

func TestRelativeFamilies(t *testing.T) {
	m, err := encoders[4].read("", "Model")
	require.NoError(t, err)
	require.Equal(t, &RelativeBias{Weight: Tensor{"mpnet.encoder.relative_attention_bias.weight", []int{32, 4}}, Buckets: 32, MaxDistance: 128, Bidirectional: true},
		m.Layers[1].Attention.RelativeBias)

	deberta := encoders[5]
	m, err = deberta.read(`"norm_rel_ebd": "Layer_Norm|none"`, "Model")
	require.NoError(t, err)
	a := m.Layers[1].Attention
	require.Equal(t, float32(1/math.Sqrt(6)), a.Scale)
	require.Equal(t, "deberta.encoder.layer.1.attention.self.pos_key_proj.weight", a.Disentangled.Key.Weight.Name)
	require.Equal(t, "deberta.encoder.LayerNorm.weight", a.Disentangled.Norm.Weight.Name)
	require.Equal(t, []int{6, 0, 6}, []int{a.Disentangled.Span, a.Disentangled.Buckets, a.Disentangled.MaxDistance})

	m, err = deberta.read(`"share_att_key": true, "position_buckets": 6, "max_relative_positions": -1, "pos_att_type": ["c2p"]`, "Model")
	require.NoError(t, err)
	a = m.Layers[1].Attention
	require.Equal(t, float32(1/math.Sqrt(4)), a.Scale)
	require.Equal(t, a.QKV[1], *a.Disentangled.Key)
	require.Nil(t, a.Disentangled.Query)
	require.Nil(t, a.Disentangled.Norm)
	require.Equal(t, []int{6, 6, 20}, []int{a.Disentangled.Span, a.Disentangled.Buckets, a.Disentangled.MaxDistance})

	m, err = deberta.read(`"relative_attention": false, "position_biased_input": false, "type_vocab_size": 0`, "Model")
	require.NoError(t, err)
	require.Nil(t, m.Layers[0].Attention.Disentangled)
	require.Equal(t, float32(1/math.Sqrt(6)), m.Layers[0].Attention.Scale, "the scale counts the terms, used or not")
	require.True(t, m.Embeddings.Position.Absent() && m.Embeddings.Type.Absent())
	require.Equal(t, 20, m.MaxLength)

	m, err = read(files("config.json", deberta.config(`"legacy": false, "tie_word_embeddings": false`, "DebertaV2ForMaskedLM")), deberta.shapes(""), Options{Pooling: "splade"})
	require.NoError(t, err)
	require.Equal(t, "lm_predictions.lm_head.bias", m.Head.Chain[1].Linear.Bias.Name)
	require.Equal(t, m.Embeddings.Word, m.Head.Chain[1].Linear.Weight)
}

func TestEncodersRefuse(t *testing.T) {
	for i, c := range []struct {
		encoder          int
		more, head, want string
		code             status.Code
	}{
		{0, `"pad_token_id": null`, "Model", "config.json: pad_token_id is null", status.Start},
		{0, `"pad_token_id": 19`, "Model", "max_position_embeddings is 20; it must exceed 20, the position of the first token", status.Start},
		{0, `"pad_token_id": -1`, "Model", "pad_token_id is -1; it must be 0 to 16777216", status.Start},
		{0, `"pruned_heads": {"1": [0]}`, "Model", "pruned_heads is not supported", status.Unsupported},
		{0, `"pruned_heads": 1`, "Model", "pruned_heads is 1; it must be an object", status.Start},
		{1, `"position_embedding_type": "relative_key_query"`, "Model", `position_embedding_type "relative_key_query" is not supported for xlm-roberta`, status.Unsupported},
		{1, `"is_decoder": true`, "Model", "is_decoder true is not supported for xlm-roberta", status.Unsupported},
		{2, `"embedding_size": 4`, "Model", "embedding_size 4 is not supported for camembert; supported: that of hidden_size, 8", status.Unsupported},
		{2, "", "ForCausalLM", `architecture "CamembertForCausalLM" of model_type camembert is not supported`, status.Unsupported},
		{3, `"hidden_size": 16`, "Model", "dim is 8, but hidden_size is 16", status.Start},
		{3, `"activation": "mish"`, "Model", `activation "mish" is not supported`, status.Unsupported},
		{3, `"n_heads": 3`, "Model", "dim 8 is no multiple of n_heads 3", status.Start},
		{4, `"relative_attention_num_buckets": 16`, "Model", "relative_attention_num_buckets 16 is not supported: transformers uses 32", status.Unsupported},
		{4, `"max_position_embeddings": 2`, "Model", "max_position_embeddings is 2; it must exceed 2", status.Start},
		{5, `"conv_kernel_size": 3`, "Model", "conv_kernel_size 3 is not supported for deberta-v2", status.Unsupported},
		{5, `"attention_head_size": 3`, "Model", "attention_head_size 3 is not supported: times num_attention_heads 4 it must be hidden_size 8", status.Unsupported},
		{5, `"pos_att_type": "c2p|p2p"`, "Model", `pos_att_type "p2p" is not supported; supported: c2p, p2c`, status.Unsupported},
		{5, `"pos_att_type": 1`, "Model", "pos_att_type is 1; it must be a list of strings", status.Start},
		{5, `"norm_rel_ebd": "rms"`, "Model", `norm_rel_ebd "rms" is not supported; supported: none, layer_norm`, status.Unsupported},
		{5, `"position_buckets": 1`, "Model", "position_buckets 1 does not fit relative positions up to 6", status.Start},
		{5, `"position_buckets": 10`, "Model", "position_buckets 10 does not fit relative positions up to 6", status.Start},
		{5, `"max_relative_positions": 1e9`, "Model", "max_relative_positions is 1e9; it must be -1 to 1048576", status.Start},
		{5, `"max_position_embeddings": 1048577`, "Model", "max_position_embeddings is 1048577; with relative_attention the limit is 1048576", status.Start},
		{5, `"max_relative_positions": 7`, "Model", `tensor "deberta.encoder.rel_embeddings.weight" has shape [12 8]; by config.json it must have [14 8]`, status.Start},
		{5, `"num_labels": 3, "pooler_hidden_size": 4`, "ForSequenceClassification", "pooler_hidden_size 4 is not supported; supported: that of hidden_size, 8", status.Unsupported},
		{5, `"num_labels": 3, "pooler_hidden_act": "mish"`, "ForSequenceClassification", `pooler_hidden_act "mish" is not supported`, status.Unsupported},
	} {
		t.Run(fmt.Sprint(i, " ", c.want), func(t *testing.T) {
			_, err := encoders[c.encoder].read(c.more, c.head)
			requireCode(t, c.code, err, c.want)
		})
	}
}
