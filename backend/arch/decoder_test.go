package arch

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// decoderConfig is qwen3Config's shape for another family, with 3 layers.
func decoderConfig(family, more string) string {
	if more != "" {
		more = ", " + more
	}
	return `{"model_type": "` + family + `", "hidden_size": 12, "vocab_size": 30, "max_position_embeddings": 20, "num_hidden_layers": 3,
		"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 14` + more + "}"
}

// decoderShapes are the weights of decoderConfig with every head and bias that a family could read.
func decoderShapes(prefix string) shapes {
	s := shapes{prefix + "embed_tokens.weight": {30, 12}, prefix + "norm.weight": {12}, "lm_head.weight": {30, 12}}
	s.linear("score", 12, 2)
	for i := range 3 {
		l := fmt.Sprintf("%slayers.%d.", prefix, i)
		s.linear(l+"self_attn.q_proj", 12, 24)
		s.linear(l+"self_attn.k_proj", 12, 8)
		s.linear(l+"self_attn.v_proj", 12, 8)
		s.linear(l+"self_attn.o_proj", 24, 12)
		s.linear(l+"mlp.up_proj", 12, 14)
		s.linear(l+"mlp.gate_proj", 12, 14)
		s.linear(l+"mlp.down_proj", 14, 12)
		s[l+"self_attn.q_norm.weight"], s[l+"self_attn.k_norm.weight"] = []int{4}, []int{4}
		for _, norm := range []string{"input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"} {
			s[l+norm+".weight"] = []int{12}
		}
	}
	return s
}

func readDecoder(family, more string) (*Model, error) {
	return read(files("config.json", decoderConfig(family, more)), decoderShapes(""), Options{})
}

// used are the names of the weights of a Model.
func (m *Model) used() map[string]bool {
	names := map[string]bool{m.Embeddings.Word.Name: true, m.FinalNorm.Weight.Name: true}
	linears := []Linear{}
	norm := func(n *Norm) {
		if n != nil {
			names[n.Weight.Name] = true
		}
	}
	for _, l := range m.Layers {
		linears = append(linears, append(l.Attention.QKV, l.Attention.Out, l.MLP.Up, l.MLP.Gate, l.MLP.Down)...)
		for _, b := range []BlockNorms{l.AttentionNorms, l.MLPNorms} {
			norm(b.Before)
			norm(b.After)
		}
		if l.Attention.QKNorm != nil {
			norm(&l.Attention.QKNorm.Q)
			norm(&l.Attention.QKNorm.K)
		}
	}
	for _, d := range m.Head.Chain {
		linears = append(linears, d.Linear)
	}
	for _, l := range linears {
		names[l.Weight.Name] = true
		if !l.Bias.Absent() {
			names[l.Bias.Name] = true
		}
	}
	return names
}

// TestDecoderWeights: what a family reads, by the number of its weights, and none goes unchecked.
func TestDecoderWeights(t *testing.T) {
	const all = 2 + 3*9 // embeddings and final norm; 7 maps and 2 norms a layer
	for _, c := range []struct {
		family, more string
		want         int
	}{
		{"llama", ``, all},
		{"llama", `"attention_bias": true`, all + 3*4},
		{"llama", `"attention_bias": true, "mlp_bias": true`, all + 3*7},
		{"llama", `"architectures": ["LlamaForSequenceClassification"]`, all + 1},
		{"llama", `"architectures": ["LlamaForTokenClassification"]`, all + 2},
		{"mistral", `"attention_bias": false`, all},
		{"mistral", `"architectures": ["MistralForTokenClassification"], "token_classification_bias": false`, all + 1},
		{"qwen2", ``, all + 3*3},
		{"qwen3", ``, all + 3*2},
		{"gemma", `"attention_bias": true`, all + 3*4},
		{"gemma2", ``, all + 3*2},
		{"gemma3_text", ``, all + 3*4},
		{"gemma3_text", `"architectures": ["Gemma3TextForSequenceClassification"], "attention_bias": true`, all + 1 + 3*8},
	} {
		t.Run(c.family+c.more, func(t *testing.T) {
			for _, prefix := range []string{"", "model."} {
				fsys, s := files("config.json", decoderConfig(c.family, c.more)), decoderShapes(prefix)
				m, err := read(fsys, s, Options{})
				require.NoError(t, err)
				names := m.used()
				require.Len(t, names, c.want)
				for name := range names {
					_, err := read(fsys, s.with(shapes{name: nil}), Options{})
					if name != "model.embed_tokens.weight" { // without it the names have no prefix
						requireCode(t, status.WeightsNotFound, err, `"`+name+`"`)
					}
					_, err = read(fsys, s.with(shapes{name: append([]int{1}, s[name]...)}), Options{})
					requireCode(t, status.Start, err, `tensor "`+name+`" has shape [1 `)
				}
			}
		})
	}
}

// TestDecoderDefaults has the sizes of configs that leave them out, as transformers 5.23 has them: they show in the first weight missed.
func TestDecoderDefaults(t *testing.T) {
	for family, want := range map[string]string{
		"llama": "[32000 4096]", "mistral": "[32000 4096]", "qwen2": "[151936 4096]", "qwen3": "[151936 4096]",
		"gemma": "[256000 3072]", "gemma2": "[256000 2304]", "gemma3_text": "[262208 2304]",
	} {
		_, err := read(files("config.json", `{"model_type": "`+family+`"}`), shapes{}, Options{})
		requireCode(t, status.WeightsNotFound, err, `"embed_tokens.weight" of shape `+want)
	}
	// The rest of a default config, by the shapes of one layer: queries, keys, intermediate.
	for _, c := range []struct {
		family               string
		queries, keys, wide  int
		hidden, vocab, least int
	}{
		{"llama", 4096, 4096, 11008, 4096, 32000, 32},
		{"mistral", 4096, 1024, 14336, 4096, 32000, 32},
		{"qwen2", 4096, 4096, 22016, 4096, 151936, 32},
		{"qwen3", 4096, 4096, 22016, 4096, 151936, 32},
		{"gemma", 4096, 4096, 24576, 3072, 256000, 28},
		{"gemma2", 2048, 1024, 9216, 2304, 256000, 26},
		{"gemma3_text", 2048, 1024, 9216, 2304, 262208, 26},
	} {
		s := anyShapes{"embed_tokens.weight": {c.vocab, c.hidden}, "q_proj.weight": {c.queries, c.hidden}, "k_proj.weight": {c.keys, c.hidden},
			"v_proj.weight": {c.keys, c.hidden}, "o_proj.weight": {c.hidden, c.queries}, "up_proj.weight": {c.wide, c.hidden}, "gate_proj.weight": {c.wide, c.hidden},
			"down_proj.weight": {c.hidden, c.wide}, "q_proj.bias": {c.queries}, "k_proj.bias": {c.keys}, "v_proj.bias": {c.keys},
			"q_norm.weight": {c.queries / heads[c.family]}, "k_norm.weight": {c.queries / heads[c.family]}, "norm.weight": {c.hidden}}
		m, err := read(files("config.json", `{"model_type": "`+c.family+`"}`), s, Options{})
		require.NoError(t, err, c.family)
		require.Len(t, m.Layers, c.least, c.family)
	}
}

var heads = map[string]int{"llama": 32, "mistral": 32, "qwen2": 32, "qwen3": 32, "gemma": 16, "gemma2": 8, "gemma3_text": 8}

// anyShapes is an Index by the last two parts of a name.
type anyShapes shapes

func (s anyShapes) Shape(name string) ([]int, bool) {
	parts := strings.Split(name, ".")
	key := strings.Join(parts[max(0, len(parts)-2):], ".")
	if strings.HasSuffix(key, "layernorm.weight") {
		key = "norm.weight"
	}
	shape, ok := s[key]
	return shape, ok && !strings.HasPrefix(name, "model.")
}

func TestDecoderChoices(t *testing.T) {
	m, err := readDecoder("gemma2", `"query_pre_attn_scalar": 16, "attn_logit_softcapping": 20, "rms_norm_eps": 0.5, "final_logit_softcapping": 30`)
	require.NoError(t, err)
	l := m.Layers[1]
	require.Equal(t, []float32{float32(math.Sqrt(12)), 0.25, 20}, []float32{m.Embeddings.Scale, l.Attention.Scale, l.Attention.Softcap})
	norm := func(name string) *Norm {
		return &Norm{Kind: RMSNorm, Weight: Tensor{name + ".weight", []int{12}}, Eps: 0.5, OnePlusWeight: true}
	}
	require.Equal(t, BlockNorms{Before: norm("layers.1.input_layernorm"), After: norm("layers.1.post_attention_layernorm")}, l.AttentionNorms)
	require.Equal(t, BlockNorms{Before: norm("layers.1.pre_feedforward_layernorm"), After: norm("layers.1.post_feedforward_layernorm")}, l.MLPNorms)
	require.Equal(t, norm("norm"), m.FinalNorm)
	require.Nil(t, l.Attention.QKNorm)
	require.Equal(t, GELUTanh, l.MLP.Activation)

	m, err = readDecoder("gemma2", `"attn_logit_softcapping": null`)
	require.NoError(t, err)
	require.Equal(t, []float32{1.0 / 16, 0}, []float32{m.Layers[0].Attention.Scale, m.Layers[0].Attention.Softcap})
	m, err = readDecoder("gemma2", ``)
	require.NoError(t, err)
	require.EqualValues(t, 50, m.Layers[0].Attention.Softcap)

	m, err = readDecoder("gemma", `"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"`)
	require.NoError(t, err)
	require.Equal(t, GELUTanh, m.Layers[0].MLP.Activation)
	require.EqualValues(t, 0.5, m.Layers[0].Attention.Scale)
	require.Zero(t, m.Layers[0].Attention.Softcap)
	m, err = readDecoder("gemma3_text", `"hidden_activation": "gelu"`)
	require.NoError(t, err)
	require.Equal(t, GELU, m.Layers[0].MLP.Activation)
	require.True(t, m.Layers[0].Attention.QKNorm.Q.OnePlusWeight)

	m, err = read(files("config.json", strings.Replace(decoderConfig("llama", ""), `"head_dim": 4`, `"head_dim": null`, 1)), decoderShapes(""), Options{})
	requireCode(t, status.Start, err, `q_proj.weight" has shape [24 12]; by config.json it must have [12 12]`)
	require.Nil(t, m)
}

func TestDecoderWindows(t *testing.T) {
	full, open := span{left: -1, right: -1, causal: true}, span{left: -1, right: -1}
	past := func(n int) span { return span{left: n, right: -1, causal: true} }
	both := func(n int) span { return span{left: n, right: n} }
	for _, c := range []struct {
		family, config string
		want           [3]span
	}{
		{"llama", ``, [3]span{full, full, full}},
		{"llama", `"is_causal": false, "use_bidirectional_attention": true`, [3]span{open, open, open}},
		{"llama", `"layer_types": ["full_attention", "full_attention", "full_attention"]`, [3]span{full, full, full}},
		{"mistral", ``, [3]span{past(4095), past(4095), past(4095)}},
		{"mistral", `"sliding_window": 3`, [3]span{past(2), past(2), past(2)}},
		{"mistral", `"sliding_window": null`, [3]span{full, full, full}},
		{"mistral", `"sliding_window": 3, "is_causal": false`, [3]span{both(3), both(3), both(3)}},
		{"qwen2", `"use_sliding_window": true, "sliding_window": 3, "max_window_layers": 2`, [3]span{full, full, past(2)}},
		{"gemma", ``, [3]span{full, full, full}},
		{"gemma2", `"sliding_window": 3`, [3]span{past(2), full, past(2)}},
		{"gemma2", `"sliding_window": 3, "is_causal": false`, [3]span{both(3), open, both(3)}},
		{"gemma2", `"sliding_window": 3, "layer_types": ["full_attention", "full_attention", "sliding_attention"]`, [3]span{full, full, past(2)}},
		{"gemma2", `"sliding_window": null, "layer_types": ["full_attention", "full_attention", "full_attention"]`, [3]span{full, full, full}},
		{"gemma3_text", ``, [3]span{past(4095), past(4095), past(4095)}},
		{"gemma3_text", `"sliding_window": 4, "sliding_window_pattern": 3`, [3]span{past(3), past(3), full}},
		{"gemma3_text", `"sliding_window": 4, "sliding_window_pattern": 1`, [3]span{full, full, full}},
		// A window of 4 or 5 is 3 exclusive of its end: 2 on either side.
		{"gemma3_text", `"sliding_window": 4, "sliding_window_pattern": 2, "use_bidirectional_attention": true`, [3]span{both(2), open, both(2)}},
		{"gemma3_text", `"sliding_window": 5, "sliding_window_pattern": 2, "use_bidirectional_attention": true`, [3]span{both(2), open, both(2)}},
		{"gemma3_text", `"sliding_window": 4, "sliding_window_pattern": 2, "use_bidirectional_attention": true, "is_causal": false`, [3]span{both(3), open, both(3)}},
		{"gemma3_text", `"sliding_window": 4, "sliding_window_pattern": 2, "is_causal": false`, [3]span{both(4), open, both(4)}},
	} {
		m, err := readDecoder(c.family, c.config)
		require.NoError(t, err, c.config)
		for i, l := range m.Layers {
			a := l.Attention
			require.Equal(t, c.want[i], span{left: a.WindowLeft, right: a.WindowRight, causal: a.Causal}, "%s: %s: layer %d", c.family, c.config, i)
		}
	}
}

// TestLayerRopes: each layer's second frequency, of two.
func TestLayerRopes(t *testing.T) {
	for _, c := range []struct {
		config        string
		full, sliding float32
	}{
		{``, 1e-3, 1e-2},
		{`"rope_theta": 100, "rope_local_base_freq": 400, `, 0.1, 0.05},
		{`"rope_theta": 100, "rope_scaling": {"rope_type": "linear", "factor": 4}, `, 0.025, 1e-2},
		{`"rope_scaling": {"rope_theta": 400, "rope_type": "linear", "factor": 2}, `, 0.025, 1e-2},
		{`"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2, "rope_theta": 100}, "sliding_attention": {"rope_theta": 25}}, `, 0.05, 0.2},
		{`"rope_parameters": {"sliding_attention": null, "full_attention": {"rope_type": "default"}}, "rope_theta": 100, `, 0.1, 1e-2},
		{`"rope_parameters": {"full_attention": {"rope_theta": 100}}, "rope_scaling": {"rope_type": "linear", "factor": 2}, `, 0.05, 1e-2},
	} {
		m, err := readDecoder("gemma3_text", c.config+`"sliding_window_pattern": 2`)
		require.NoError(t, err, c.config)
		for i, want := range []float32{c.sliding, c.full, c.sliding} {
			require.InEpsilon(t, want, m.Layers[i].Attention.Rope.InvFreq[1], 1e-5, "%s: layer %d", c.config, i)
		}
	}
}

func TestHostileDecoders(t *testing.T) {
	for _, c := range []struct {
		family, config, want string
		code                 status.Code
	}{
		{"llama", `"sliding_window": 5`, "config.json: sliding_window 5 is not supported for llama: transformers does not read it there and computes as with null", status.Unsupported},
		{"llama", `"use_bidirectional_attention": true`, "use_bidirectional_attention true is not supported for llama by itself", status.Unsupported},
		{"llama", `"layer_types": ["full_attention", "sliding_attention", "full_attention"]`, "layer_types[1] is not supported here", status.Unsupported},
		{"llama", `"mlp_bias": 1`, "mlp_bias is 1; it must be true or false", status.Start},
		{"llama", `"num_attention_heads": 5`, "num_attention_heads 5 is no multiple of num_key_value_heads 2", status.Start},
		{"llama", `"per_layer_config": {}`, "per_layer_config is not supported for llama", status.Unsupported},
		{"llama", `"hidden_activation": "gelu"`, `hidden_activation "gelu" contradicts hidden_act, which alone is read here`, status.Unsupported},
		{"llama", `"rope_scaling": {"rope_type": "longrope"}`, `rope_type "longrope" is not supported`, status.Unsupported},
		{"llama", `"architectures": ["LlamaForQuestionAnswering"]`, "supported: LlamaForCausalLM, LlamaForSequenceClassification, LlamaForTokenClassification, LlamaModel", status.Unsupported},
		{"llama", `"architectures": ["LlamaForSequenceClassification"], "pad_token_id": -2`, "pad_token_id is -2; it must be -1 to 16777216", status.Start},
		{"llama", `"architectures": ["LlamaForSequenceClassification"], "num_labels": 3`, `tensor "score.weight" has shape [2 12]; by config.json it must have [3 12]`, status.Start},
		{"llama", `"architectures": ["LlamaForTokenClassification"], "token_classification_bias": 0`, "token_classification_bias is 0", status.Start},
		{"mistral", `"attention_bias": true`, "attention_bias true is not supported for mistral", status.Unsupported},
		{"mistral", `"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]`, "layer_types[1] is not supported here", status.Unsupported},
		{"mistral", `"sliding_window": 0`, "sliding_window is 0; it must be 1 to 16777216", status.Start},
		{"qwen2", `"layer_types": ["sliding_attention"]`, "layer_types has 1 entries; num_hidden_layers is 3", status.Start},
		{"gemma", `"use_bidirectional_attention": true`, "use_bidirectional_attention true is not supported for gemma by itself", status.Unsupported},
		{"gemma", `"hidden_act": "relu", "hidden_activation": "gelu_pytorch_tanh"`, `hidden_activation "gelu_pytorch_tanh" contradicts hidden_act`, status.Unsupported},
		{"gemma", `"attn_logit_softcapping": 50`, "attn_logit_softcapping 50 is not supported for gemma", status.Unsupported},
		{"gemma2", `"query_pre_attn_scalar": 0`, "query_pre_attn_scalar is 0; it must be 0.001 to 1000000", status.Start},
		{"gemma2", `"attn_logit_softcapping": -1`, "attn_logit_softcapping is -1; it must be 0.001 to 1000000", status.Start},
		{"gemma2", `"sliding_window_pattern": 6`, "sliding_window_pattern 6 is not supported for gemma2", status.Unsupported},
		{"gemma2", `"sliding_window": null`, "layer 0 is of sliding attention (layer_types), but there is no window: sliding_window must be a number", status.Start},
		{"gemma2", `"rope_parameters": {"full_attention": {"rope_theta": 5}}`, `"full_attention" {"rope_theta": 5} is not supported`, status.Unsupported},
		{"gemma3_text", `"attn_logit_softcapping": 50.0`, "attn_logit_softcapping 50.0 is not supported for gemma3_text", status.Unsupported},
		{"gemma3_text", `"sliding_window_pattern": 0`, "sliding_window_pattern is 0; it must be 1 to", status.Start},
		{"gemma3_text", `"rope_parameters": {"rope_theta": 5}`, `rope_parameters: "rope_theta" is not supported here; supported: full_attention, sliding_attention`, status.Unsupported},
		{"gemma3_text", `"rope_scaling": {"type": "linear", "factor": 2}`, `rope_scaling: type "linear" is not supported here: transformers does not read it; supported: rope_type`, status.Unsupported},
		{"gemma3_text", `"rope_scaling": {"rope_type": "linear"}`, "rope_scaling: factor is missing", status.Start},
		{"gemma3_text", `"rope_parameters": {"sliding_attention": {"factor": 2}}`, `rope_parameters: sliding_attention: "factor" 2 is not supported`, status.Unsupported},
		{"gemma3_text", `"rope_local_base_freq": 0`, "rope_local_base_freq is 0; it must be 1 to", status.Start},
		{"gemma3_text", `"architectures": ["Gemma3ForTokenClassification"]`, "supported: Gemma3ForCausalLM, Gemma3TextForSequenceClassification, Gemma3TextModel", status.Unsupported},
	} {
		t.Run(c.family+": "+c.want, func(t *testing.T) {
			_, err := readDecoder(c.family, c.config)
			requireCode(t, c.code, err, c.want)
			require.Less(t, len(err.Error()), 1000)
		})
	}
}

// TestLastToken: the logits of a classifier are those of the last token that is no padding.
func TestLastToken(t *testing.T) {
	number := func(n int) *int { return &n }
	for _, c := range []struct {
		family, class, config string
		want                  *int
	}{
		{"llama", "Llama", ``, nil},
		{"llama", "Llama", `, "pad_token_id": 7`, number(7)},
		{"llama", "Llama", `, "pad_token_id": -1`, nil},
		{"gemma", "Gemma", ``, number(0)},
		{"gemma2", "Gemma2", `, "pad_token_id": null`, nil},
		{"gemma3_text", "Gemma3Text", `, "pad_token_id": 3`, number(3)},
	} {
		m, err := readDecoder(c.family, `"architectures": ["`+c.class+`ForSequenceClassification"]`+c.config)
		require.NoError(t, err)
		require.Equal(t, Pooling{Modes: []PoolMode{PoolLastToken}, PadToken: c.want}, m.Head.Pooling, c)
		require.Equal(t, []string{"LABEL_0", "LABEL_1"}, m.Head.Labels)
		require.Equal(t, HeadClassifier, m.Head.Kind)
	}
	p := Pooling{PadToken: number(2)}
	for want, ids := range map[int][]uint32{0: {}, 1: {2, 2, 2}, 2: {2, 5, 2}, 3: {1, 2, 3}} {
		require.Equal(t, want, Pooled(p, ids))
	}
	require.Equal(t, 2, Pooled(Pooling{}, []int32{2, 2}))
}
