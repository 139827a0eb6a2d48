package arch

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// qwen3Config has every size different, so that no two can be confused.
func qwen3Config(more string) string {
	if more != "" {
		more = ", " + more
	}
	return `{"model_type": "qwen3", "hidden_size": 8, "vocab_size": 30, "max_position_embeddings": 20, "num_hidden_layers": 2,
		"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4, "intermediate_size": 12` + more + "}"
}

// qwen3Shapes are the weights of qwen3Config, biases included.
func qwen3Shapes(prefix string) shapes {
	s := shapes{prefix + "embed_tokens.weight": {30, 8}, prefix + "norm.weight": {8}}
	for i := range 2 {
		l := fmt.Sprintf("%slayers.%d.", prefix, i)
		s.linear(l+"self_attn.q_proj", 8, 24)
		s.linear(l+"self_attn.k_proj", 8, 8)
		s.linear(l+"self_attn.v_proj", 8, 8)
		s.linear(l+"self_attn.o_proj", 24, 8)
		s[l+"self_attn.q_norm.weight"], s[l+"self_attn.k_norm.weight"] = []int{4}, []int{4}
		s[l+"input_layernorm.weight"], s[l+"post_attention_layernorm.weight"] = []int{8}, []int{8}
		s[l+"mlp.up_proj.weight"], s[l+"mlp.gate_proj.weight"], s[l+"mlp.down_proj.weight"] = []int{12, 8}, []int{12, 8}, []int{8, 12}
	}
	return s
}

func readQwen3(more string) (*Model, error) {
	return read(files("config.json", qwen3Config(more)), qwen3Shapes(""), Options{})
}

func TestQwen3(t *testing.T) {
	const l = "model.layers.1."
	s := qwen3Shapes("model.")
	tensor := func(name string) Tensor { return Tensor{name, s[name]} }
	linear := func(name string, in, out int) Linear {
		return Linear{Weight: tensor(l + name + ".weight"), In: in, Out: out}
	}
	norm := func(name string) *Norm { return &Norm{Kind: RMSNorm, Weight: tensor(name + ".weight"), Eps: 0.5} }
	m, err := read(files("config.json", qwen3Config(`"architectures": ["Qwen3ForCausalLM"], "rms_norm_eps": 0.5, "rope_theta": 100, "unknown": 1`)), s, Options{})
	require.NoError(t, err)
	require.Equal(t, Embeddings{Word: tensor("model.embed_tokens.weight"), TypeVocabSize: 1, Scale: 1}, m.Embeddings)
	require.Equal(t, norm("model.norm"), m.FinalNorm)
	require.Equal(t, []int{8, 30, 20, 20}, []int{m.HiddenSize, m.VocabSize, m.MaxPositions, m.MaxLength})
	require.Equal(t, Head{Kind: HeadEmbedding, Pooling: Pooling{Modes: []PoolMode{PoolLastToken}}}, m.Head)
	require.Len(t, m.Layers, 2)
	require.Equal(t, Layer{
		Attention: Attention{
			Heads: 6, KVHeads: 2, HeadDim: 4, Scale: 0.5, Causal: true, WindowLeft: -1, WindowRight: -1,
			QKV:    []Linear{linear("self_attn.q_proj", 8, 24), linear("self_attn.k_proj", 8, 8), linear("self_attn.v_proj", 8, 8)},
			Out:    linear("self_attn.o_proj", 24, 8),
			QKNorm: &QKNorm{Q: *norm(l + "self_attn.q_norm"), K: *norm(l + "self_attn.k_norm")},
			Rope:   &Rope{Kind: RopeHalf, Dim: 4, InvFreq: []float32{1, 0.1}, Factor: 1},
		},
		AttentionNorms: BlockNorms{Before: norm(l + "input_layernorm")},
		MLP: MLP{Activation: SiLU, Up: linear("mlp.up_proj", 8, 12), Gate: linear("mlp.gate_proj", 8, 12),
			Down: linear("mlp.down_proj", 12, 8), Intermediate: 12},
		MLPNorms: BlockNorms{Before: norm(l + "post_attention_layernorm")},
	}, m.Layers[1])
}

// TestQwen3Shapes removes and bends every weight in turn: none may go unchecked.
func TestQwen3Shapes(t *testing.T) {
	fsys, used := files("config.json", qwen3Config(`"attention_bias": true`)), qwen3Shapes("")
	m, err := read(fsys, used, Options{})
	require.NoError(t, err)
	require.Equal(t, Tensor{"layers.1.self_attn.o_proj.bias", []int{8}}, m.Layers[1].Attention.Out.Bias)
	for name, shape := range used {
		_, err := read(fsys, used.with(shapes{name: nil}), Options{})
		requireCode(t, status.WeightsNotFound, err, `"`+name+`"`)
		_, err = read(fsys, used.with(shapes{name: append([]int{1}, shape...)}), Options{})
		requireCode(t, status.Start, err, `tensor "`+name+`" has shape [1 `)
	}
}

func TestQwen3Windows(t *testing.T) {
	all := span{left: -1, right: -1}
	for _, c := range []struct {
		config string
		causal bool
		want   [2]span
	}{
		{``, true, [2]span{all, all}},
		{`"sliding_window": 5, "max_window_layers": 0`, true, [2]span{all, all}},
		{`"use_sliding_window": true`, true, [2]span{all, all}}, // max_window_layers is 28
		{`"use_sliding_window": true, "max_window_layers": 1`, true, [2]span{all, {left: 4095, right: -1}}},
		{`"use_sliding_window": true, "max_window_layers": 1, "sliding_window": null`, true, [2]span{all, all}},
		{`"use_sliding_window": true, "max_window_layers": 0, "sliding_window": 1`, true, [2]span{{left: 0, right: -1}, {left: 0, right: -1}}},
		{`"use_sliding_window": true, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]`, true, [2]span{{left: 4, right: -1}, all}},
		{`"is_causal": false, "use_sliding_window": true, "sliding_window": 5, "max_window_layers": 1`, false, [2]span{all, {left: 5, right: 5}}},
		{`"is_causal": false, "use_bidirectional_attention": true`, false, [2]span{all, all}},
		{`"is_causal": false, "use_bidirectional_attention": false`, false, [2]span{all, all}},
		{`"use_bidirectional_attention": null`, true, [2]span{all, all}},
		{`"layer_types": null`, true, [2]span{all, all}},
	} {
		m, err := readQwen3(c.config)
		require.NoError(t, err, c.config)
		for i, l := range m.Layers {
			require.Equal(t, c.causal, l.Attention.Causal, c.config)
			require.Equal(t, c.want[i], span{left: l.Attention.WindowLeft, right: l.Attention.WindowRight}, c.config)
		}
	}
}

// TestQwen3Pooling has sentence-transformers' choices for a folder without its files.
func TestQwen3Pooling(t *testing.T) {
	for config, want := range map[string]PoolMode{
		``:                                      PoolMean,
		`"architectures": ["Qwen3Model"]`:       PoolMean,
		`"architectures": ["Qwen3ForCausalLM"]`: PoolLastToken,
		`"architectures": ["Qwen3ForCausalLM"], "is_causal": false`: PoolMean,
	} {
		m, err := readQwen3(config)
		require.NoError(t, err)
		require.Equal(t, []PoolMode{want}, m.Head.Pooling.Modes, config)
	}
	m, err := read(files("config.json", qwen3Config(`"architectures": ["Qwen3ForCausalLM"]`), "modules.json", pipeline("Transformer", "Pooling:p"),
		"p/config.json", `{"pooling_mode": "mean"}`), qwen3Shapes(""), Options{})
	require.NoError(t, err)
	require.Equal(t, []PoolMode{PoolMean}, m.Head.Pooling.Modes)
}

// TestRope has frequencies that transformers 5.23 computes; whole models of each variant are in testdata/models.
func TestRope(t *testing.T) {
	for _, c := range []struct {
		config string
		want   []float32
		factor float32
	}{
		{``, []float32{1, 0.01}, 1},
		{`"rope_theta": 1e6`, []float32{1, 0.001}, 1},
		{`"rope_scaling": null, "rope_parameters": null, "rope_theta": 1e6`, []float32{1, 0.001}, 1},
		{`"rope_parameters": {"rope_type": "default", "rope_theta": 100}`, []float32{1, 0.1}, 1},
		{`"rope_parameters": {"rope_type": "default"}, "rope_theta": 100`, []float32{1, 0.1}, 1},
		{`"rope_parameters": {"rope_theta": 100}, "rope_theta": 1e6`, []float32{1, 0.1}, 1},
		{`"rope_scaling": {}, "rope_parameters": {"rope_theta": 100}`, []float32{1, 0.1}, 1},
		{`"rope_scaling": {"type": "default"}, "rope_parameters": {"rope_theta": 100}`, []float32{1, 0.01}, 1},
		{`"rope_theta": 100, "partial_rotary_factor": 1.0, "rope_parameters": {"partial_rotary_factor": 1, "mscale": null}`, []float32{1, 0.1}, 1},
		{`"rope_theta": 100, "rope_scaling": {"rope_type": "linear", "type": "yarn", "factor": 4}`, []float32{0.25, 0.025}, 1},
		{`"rope_theta": 100, "rope_scaling": {"type": "yarn", "factor": 4, "attention_factor": 1.5, "truncate": false, "beta_fast": 0}`, []float32{1, 0.025}, 1.5},
		{`"rope_theta": 10, "rope_scaling": {"type": "yarn", "factor": 4, "attention_factor": 1.5, "truncate": false, "beta_fast": 2, "beta_slow": 0}`,
			[]float32{1, 0.081302464}, 1.5},
		{`"rope_theta": 10, "rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 2, "original_max_position_embeddings": 30}`,
			[]float32{1, 0.180610895}, 1},
		{`"rope_theta": 100, "rope_scaling": {"type": "yarn", "factor": 4, "mscale": 2, "mscale_all_dim": 1}`, []float32{1, 0.025}, 1.121751},
		{`"rope_theta": 100, "original_max_position_embeddings": 1000, "rope_scaling": {"type": "yarn", "factor": 4, "original_max_position_embeddings": 6}`,
			[]float32{1, 0.075}, 1.13863},
	} {
		m, err := readQwen3(c.config)
		require.NoError(t, err, c.config)
		r := m.Layers[0].Attention.Rope
		require.InDeltaSlice(t, c.want, r.InvFreq, 1e-5, c.config)
		require.InDelta(t, c.factor, r.Factor, 1e-5, c.config)
	}
}

func TestHostileQwen3(t *testing.T) {
	for _, c := range []struct {
		config, want string
		code         status.Code
	}{
		{`"architectures": ["Qwen3ForQuestionAnswering"]`, `architecture "Qwen3ForQuestionAnswering" of model_type qwen3 is not supported; supported: Qwen3ForCausalLM, ` +
			"Qwen3ForSequenceClassification, Qwen3ForTokenClassification, Qwen3Model", status.Unsupported},
		{`"head_dim": 3`, "head_dim is 3; rope needs an even one", status.Start},
		{`"head_dim": 0`, "head_dim is 0; it must be 1 to 65536", status.Start},
		{`"head_dim": 6`, `tensor "layers.0.self_attn.q_proj.weight" has shape [24 8]; by config.json it must have [36 8]`, status.Start},
		{`"num_key_value_heads": 4`, "num_attention_heads 6 is no multiple of num_key_value_heads 4", status.Start},
		{`"num_key_value_heads": null`, `tensor "layers.0.self_attn.k_proj.weight" has shape [8 8]; by config.json it must have [24 8]`, status.Start},
		{`"num_key_value_heads": 0`, "num_key_value_heads is 0", status.Start},
		{`"max_position_embeddings": 16777216, "head_dim": 65536`, "max_position_embeddings 16777216 times head_dim 65536 exceeds the limit of 268435456", status.Start},
		{`"rms_norm_eps": -1`, "rms_norm_eps is -1; it must be 0 to 1", status.Start},
		{`"hidden_act": "mish"`, `hidden_act "mish" is not supported`, status.Unsupported},
		{`"attention_bias": "yes"`, `attention_bias is "yes"; it must be true or false`, status.Start},
		{`"num_hidden_layers": 0`, "num_hidden_layers is 0", status.Start},
		{`"num_hidden_layers": 1024`, `no tensor "layers.2.self_attn.q_proj.weight"`, status.WeightsNotFound},
		{`"is_causal": null`, "is_causal is null; it must be true or false", status.Start},
		{`"is_causal": 0`, "is_causal is 0; it must be true or false", status.Start},
		{`"use_bidirectional_attention": true`, "use_bidirectional_attention true is not supported for qwen3 by itself", status.Unsupported},
		{`"use_bidirectional_attention": "all"`, `use_bidirectional_attention is "all"; it must be true or false`, status.Start},
		{`"per_layer_config": {"0": {}}`, "per_layer_config is not supported for qwen3", status.Unsupported},
		{`"use_sliding_window": true, "sliding_window": 0`, "sliding_window is 0; it must be 1 to 16777216", status.Start},
		{`"max_window_layers": -1`, "max_window_layers is -1", status.Start},
		{`"layer_types": ["full_attention"]`, "layer_types has 1 entries; num_hidden_layers is 2", status.Start},
		{`"layer_types": []`, "layer_types has 0 entries; num_hidden_layers is 2", status.Start},
		{`"layer_types": "full_attention"`, `layer_types is "full_attention"; it must be a list of strings`, status.Start},
		{`"layer_types": ["full_attention", "sliding_attention"]`, "layer 1 is of sliding attention (layer_types), but there is no window: sliding_window must be a number and use_sliding_window true", status.Start},
		{`"layer_types": ["full_attention", "linear_attention"]`, `layer_types[1] "linear_attention" is not supported; supported: full_attention, sliding_attention`, status.Unsupported},
		{`"rope_theta": 0`, "rope_theta is 0; it must be 1 to 1000000000000", status.Start},
		{`"rope_theta": "1e6"`, `rope_theta is "1e6"; it must be a number`, status.Start},
		{`"partial_rotary_factor": 0.5`, "config.json: partial_rotary_factor 0.5 is not supported; supported: 1", status.Unsupported},
		{`"rope_scaling": "yarn"`, `rope_scaling is "yarn"; it must be an object`, status.Start},
		{`"rope_scaling": {"type": "dynamic", "factor": 2}`, `config.json: rope_scaling: rope_type "dynamic" is not supported; supported: default, linear, llama3, yarn`, status.Unsupported},
		{`"rope_scaling": {"rope_type": 3}`, "config.json: rope_scaling: rope_type is 3; it must be a string", status.Start},
		{`"rope_scaling": {"type": "linear"}`, "config.json: rope_scaling: factor is missing", status.Start},
		{`"rope_scaling": {"type": "linear", "factor": 0.5}`, "rope_scaling: factor is 0.5; it must be 1 to 1000000", status.Start},
		{`"rope_scaling": {"type": "linear", "factor": 2, "mrope_section": [1]}`, `"mrope_section" [1] is not supported for rope_type "linear"`, status.Unsupported},
		{`"rope_parameters": {"factor": 2}`, `config.json: rope_parameters: "factor" 2 is not supported for rope_type "default"`, status.Unsupported},
		{`"rope_parameters": {"partial_rotary_factor": 0.25}`, "rope_parameters: partial_rotary_factor 0.25 is not supported", status.Unsupported},
		{`"rope_parameters": {"full_attention": {"rope_theta": 1}}`, `"full_attention" {"rope_theta": 1} is not supported`, status.Unsupported},
		{`"rope_parameters": {"rope_type": "llama3", "factor": 8}`, "rope_parameters: low_freq_factor is missing", status.Start},
		{`"rope_parameters": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4}`, "high_freq_factor 4 must be above low_freq_factor 4", status.Start},
		{`"rope_parameters": {"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 0}`, "original_max_position_embeddings is 0", status.Start},
		{`"rope_parameters": {"rope_type": "yarn", "factor": 8, "truncate": 1}`, "truncate is 1; it must be true or false", status.Start},
		{`"rope_parameters": {"rope_type": "yarn", "factor": 8, "rope_theta": 1, "truncate": false, "beta_slow": 3.1830988618379066}`, "not finite", status.Start},
	} {
		t.Run(c.want, func(t *testing.T) {
			_, err := readQwen3(c.config)
			requireCode(t, c.code, err, c.want)
			require.Less(t, len(err.Error()), 1000)
			require.True(t, strings.HasPrefix(err.Error(), "config.json: ") || c.code == status.WeightsNotFound || strings.HasPrefix(err.Error(), "tensor "), err)
		})
	}
}
