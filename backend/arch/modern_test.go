package arch

import (
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// TestHostileModern has what the modern encoders' folders may say and we don't do, or what has no meaning.
func TestHostileModern(t *testing.T) {
	nested := func(kind, parameters string) string {
		return `"rope_scaling": null, "rope_parameters": {"` + kind + `": ` + parameters + `}`
	}
	for _, c := range []struct {
		folder, edits, want string
		code                status.Code
	}{
		{"modernbert-mean", `"num_attention_heads": 5`, "hidden_size 24 is no multiple of num_attention_heads 5", status.Start},
		{"modernbert-mean", `"num_attention_heads": 8`, "head_dim is 3; rope needs an even one", status.Start},
		{"modernbert-mean", `"hidden_activation": "mish"`, `hidden_activation "mish" is not supported`, status.Unsupported},
		{"modernbert-mean", `"norm_eps": -1`, "norm_eps is -1; it must be 0 to 1", status.Start},
		{"modernbert-mean", `"norm_bias": true`, `no tensor "embeddings.norm.bias" of shape [24]`, status.WeightsNotFound},
		{"modernbert-mean", `"attention_bias": true`, `no tensor "layers.0.attn.Wqkv.bias" of shape [72]`, status.WeightsNotFound},
		{"modernbert-mean", `"mlp_bias": true`, `no tensor "layers.0.mlp.Wi.bias" of shape [58]`, status.WeightsNotFound},
		{"modernbert-mean", `"local_attention": 0`, "local_attention is 0; it must be 1 to 16777216", status.Start},
		{"modernbert-mean", `"sliding_window": -1`, "sliding_window is -1; it must be 0 to 16777216", status.Start},
		{"modernbert-mean", `"global_attn_every_n_layers": 0`, "global_attn_every_n_layers is 0; it must be 1 to 1024", status.Start},
		{"modernbert-mean", `"global_rope_theta": 0.5`, "global_rope_theta is 0.5; it must be 1 to 1000000000000", status.Start},
		{"modernbert-mean", `"layer_types": ["full_attention"]`, "layer_types has 1 entries; num_hidden_layers is 3", status.Start},
		{"modernbert-mean", `"layer_types": ["full_attention", "mamba", "full_attention"]`, `layer_types[1] "mamba" is not supported; supported: full_attention, sliding_attention`, status.Unsupported},
		{"modernbert-mean", nested("chunked_attention", `{}`), `rope_parameters: "chunked_attention" is not supported here; supported: full_attention, sliding_attention`, status.Unsupported},
		{"modernbert-mean", nested("full_attention", `{"rope_type": "dynamic", "factor": 2}`), `rope_parameters: full_attention: rope_type "dynamic" is not supported`, status.Unsupported},
		{"modernbert-mean", nested("sliding_attention", `{"rope_theta": "x"}`), `rope_parameters: sliding_attention: rope_theta is "x"; it must be a number`, status.Start},
		{"modernbert-mean", nested("sliding_attention", `5`), `rope_parameters: sliding_attention is 5; it must be an object`, status.Start},
		{"modernbert-mean", `"max_position_embeddings": 16777216, "hidden_size": 4096`, "max_position_embeddings 16777216 times head_dim 2048 exceeds the limit of 268435456", status.Start},
		{"modernbert-classifier", `"classifier_pooling": "max"`, `classifier_pooling "max" is not supported; supported: cls, mean`, status.Unsupported},
		{"modernbert-classifier", `"classifier_activation": "mish"`, `classifier_activation "mish" is not supported`, status.Unsupported},
		{"modernbert-classifier", `"classifier_bias": true`, `no tensor "head.dense.bias" of shape [20]`, status.WeightsNotFound},
		{"modernbert-mean", `"architectures": ["ModernBertForQuestionAnswering"]`, `architecture "ModernBertForQuestionAnswering" of model_type modernbert is not supported`, status.Unsupported},

		{"nomic-mean", `"head_dim": 7`, "head_dim is 7; rope needs an even one", status.Start},
		{"nomic-mean", `"type_vocab_size": 0`, "type_vocab_size is 0; it must be 1 to 65536", status.Start},
		{"nomic-hub", `"n_head": 5`, "n_embd 12 is no multiple of n_head 5", status.Start},
		{"nomic-hub", `"n_layer": 2000`, "n_layer is 2000; it must be 1 to 1024", status.Start},
		{"nomic-hub", `"n_inner": -5`, "n_inner is -5; it must be 1 to 1048576", status.Start},
		{"nomic-hub", `"activation_function": "glu"`, `activation_function "glu" is not supported; supported: geglu, gelu, swiglu`, status.Unsupported},
		{"nomic-hub", `"activation_function": null`, `activation_function "gelu_new" is not supported`, status.Unsupported},
		{"nomic-hub", `"prenorm": true`, "prenorm true is not supported", status.Unsupported},
		{"nomic-hub", `"parallel_block": true`, "parallel_block true is not supported", status.Unsupported},
		{"nomic-hub", `"use_rms_norm": true`, "use_rms_norm true is not supported", status.Unsupported},
		{"nomic-hub", `"causal": true`, "causal true is not supported", status.Unsupported},
		{"nomic-hub", `"num_experts": 8`, "num_experts 8 is not supported: a mixture of experts", status.Unsupported},
		{"nomic-hub", `"moe_every_n_layers": 2`, "moe_every_n_layers 2 is not supported: a mixture of experts", status.Unsupported},
		{"nomic-hub", `"num_heads_kv": 1`, "num_heads_kv 1 is not supported; supported: n_head (2)", status.Unsupported},
		{"nomic-hub", `"rotary_emb_scale_base": 512`, "rotary_emb_scale_base 512 is not supported; supported: null", status.Unsupported},
		{"nomic-hub", `"rotary_emb_base": null`, "rotary_emb_base is missing", status.Start},
		{"nomic-hub", `"rotary_emb_fraction": 0.4`, "rotary_emb_fraction 0.4 of heads of 6 is 2.4", status.Start},
		{"nomic-hub", `"rotary_emb_fraction": 0.5`, "rotary_emb_fraction 0.5 of heads of 6 is 3 numbers", status.Start},
		{"nomic-hub", `"rotary_emb_fraction": 2`, "rotary_emb_fraction is 2; it must be 0 to 1", status.Start},
		{"nomic-hub", `"rotary_emb_fraction": 0`, `no tensor "embeddings.position_embeddings.weight" of shape [40 12]`, status.WeightsNotFound},
		{"nomic-hub", `"pad_vocab_size_multiple": 1`, `"embeddings.word_embeddings.weight" has shape [320 12]; by config.json it must have [317 12]`, status.Start},

		{"gte-mean", `"logn_attention_scale": true`, "logn_attention_scale true is not supported", status.Unsupported},
		{"new-ntk", `"logn_attention_scale": true`, "logn_attention_scale true is not supported", status.Unsupported},
		{"new-ntk", `"layer_norm_type": "group"`, `layer_norm_type "group" is not supported; supported: layer_norm, rms_norm`, status.Unsupported},
		{"new-ntk", `"position_embedding_type": "alibi"`, `position_embedding_type "alibi" is not supported; supported: rope, absolute`, status.Unsupported},
		{"new-ntk", `"rope_scaling": {"type": "ntk"}`, "rope_scaling: factor is missing", status.Start},
		{"new-ntk", `"rope_scaling": {"type": "ntk", "factor": 0.5}`, "rope_scaling: factor is 0.5; it must be 1 to 1000000", status.Start},
		{"new-ntk", `"rope_scaling": {"type": "ntk", "factor": 2, "mixed_b": -1}`, "rope_scaling: mixed_b is -1; it must be 0 to 16", status.Start},
		{"new-ntk", `"rope_scaling": {"type": "ntk", "factor": 2, "beta": 1}`, `rope_scaling: "beta" 1 is not supported for type "ntk"`, status.Unsupported},
		{"new-ntk", `"rope_scaling": {"type": "dynamic", "factor": 2}`, `rope_scaling: rope_type "dynamic" is not supported`, status.Unsupported},
		{"new-ntk", `"pack_qkv": false`, `no tensor "encoder.layer.0.attention.q_proj.weight"`, status.WeightsNotFound},
		{"new-ntk", `"architectures": ["GteModel"]`, `architecture "GteModel" of model_type new is not supported`, status.Unsupported},

		{"jina-v2-mean", `"feed_forward_type": "swiglu"`, `feed_forward_type "swiglu" is not supported; supported: geglu, original, reglu`, status.Unsupported},
		{"jina-v2-mean", `"feed_forward_type": null`, `no tensor "encoder.layer.0.intermediate.dense.weight"`, status.WeightsNotFound},
		{"jina-v2-mean", `"position_embedding_type": "relative_key"`, `position_embedding_type "relative_key" is not supported; supported: absolute, alibi`, status.Unsupported},
		{"jina-v2-mean", `"emb_pooler": "cls"`, `emb_pooler "cls" is not supported; supported: mean`, status.Unsupported},
		{"jina-v2-mean", `"is_decoder": true`, "is_decoder true is not supported for bert: it must be an encoder", status.Unsupported},
		{"jina-v2-mean", `"architectures": ["BertModel"]`, `architecture "BertModel" of model_type bert is not supported; supported: JinaBert`, status.Unsupported},
		{"jina-v2-mean", `"num_attention_heads": 5000`, "num_attention_heads is 5000; it must be 1 to 4096", status.Start},

		{"jina-v3-mean", `"position_embedding_type": "absolute"`, `position_embedding_type "absolute" is not supported; supported: rotary`, status.Unsupported},
		{"jina-v3-hub", `"position_embedding_type": "alibi"`, `position_embedding_type "alibi" is not supported; supported: rotary, absolute`, status.Unsupported},
		{"jina-v3-hub", `"position_embedding_type": null`, "position_embedding_type is missing", status.Start},
		{"jina-v3-hub", `"hidden_act": "gelu_new"`, `hidden_act "gelu_new" is not supported; supported: gelu`, status.Unsupported},
		{"jina-v3-hub", `"truncate_dim": 8`, "truncate_dim 8 is not supported; supported: null", status.Unsupported},
		{"jina-v3-hub", `"default_task": "text-matching"`, `default_task "text-matching" is not supported; supported: null`, status.Unsupported},
		{"jina-v3-hub", `"emb_pooler": "cls"`, `emb_pooler "cls" is not supported; supported: mean`, status.Unsupported},
		{"jina-v3-hub", `"rotary_emb_base": 0`, "rotary_emb_base is 0; it must be 1 to", status.Start},
		{"jina-v3-hub", `"architectures": ["HF_ColBERT"]`, `architecture "HF_ColBERT" of model_type xlm-roberta is not supported`, status.Unsupported},
		{"jina-reranker-v2", `"pad_token_id": 39`, "max_position_embeddings is 40; it must exceed 40, the position of the first token", status.Start},
		{"jina-reranker-v2", `"pad_token_id": -1`, "pad_token_id is -1; it must be 0 to", status.Start},
	} {
		t.Run(c.folder+" "+c.want, func(t *testing.T) {
			fsys, stored := goldenFolder(t, c.folder)
			_, err := read(edited(t, fsys, c.edits), stored, Options{})
			requireCode(t, c.code, err, c.want)
		})
	}
}

// TestNullTheta: what a null base meant has changed between versions of transformers.
func TestNullTheta(t *testing.T) {
	fsys, stored := goldenFolder(t, "modernbert-mean")
	fsys["config.json"].Data = []byte(strings.Replace(string(fsys["config.json"].Data), `"local_rope_theta": 60.5`, `"local_rope_theta": null`, 1))
	_, err := read(fsys, stored, Options{})
	requireCode(t, status.Unsupported, err, "local_rope_theta null is not supported; it must be a number")
}

func TestModernLayers(t *testing.T) {
	all, local := [2]int{-1, -1}, [2]int{3, 3}
	for _, c := range []struct {
		edits  string
		want   [][2]int
		thetas []float64 // by layer
	}{
		{``, [][2]int{all, local, all}, []float64{500, 60.5, 500}},
		{`"global_attn_every_n_layers": null`, [][2]int{all, local, local}, []float64{500, 60.5, 60.5}},
		{`"local_attention": null, "local_rope_theta": null`, [][2]int{all, {64, 64}, all}, []float64{500, 10000, 500}},
		{`"sliding_window": 9`, [][2]int{all, {9, 9}, all}, []float64{500, 60.5, 500}},
		{`"layer_types": ["sliding_attention", "sliding_attention", "full_attention"]`, [][2]int{local, local, all}, []float64{60.5, 60.5, 500}},
		{`"rope_parameters": {"full_attention": {"rope_theta": 77}, "sliding_attention": null}`, [][2]int{all, local, all}, []float64{77, 60.5, 77}},
		{`"rope_parameters": {"sliding_attention": {"rope_type": "default"}}`, [][2]int{all, local, all}, []float64{500, 60.5, 500}},
	} {
		fsys, stored := goldenFolder(t, "modernbert-mean")
		m, err := read(edited(t, fsys, c.edits), stored, Options{})
		require.NoError(t, err, c.edits)
		require.Nil(t, m.Layers[0].AttentionNorms.Before)
		for i, l := range m.Layers {
			require.Equal(t, c.want[i], [2]int{l.Attention.WindowLeft, l.Attention.WindowRight}, c.edits)
			require.Equal(t, plainRope(12, c.thetas[i]), l.Attention.Rope, c.edits)
		}
	}
}

// TestAlibiSlopes has the numbers of the authors' code (https://github.com/ofirpress/attention_with_linear_biases).
func TestAlibiSlopes(t *testing.T) {
	require.Equal(t, []float32{1. / 256}, alibiSlopes(1))
	require.Equal(t, []float32{0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625}, alibiSlopes(8))
	require.Equal(t, []float32{0.0625, 0.00390625, 0.25}, alibiSlopes(3))
	twelve := alibiSlopes(12)
	require.Equal(t, alibiSlopes(8), twelve[:8])
	for i, power := range []float64{0.5, 1.5, 2.5, 3.5} {
		require.InEpsilon(t, math.Pow(2, -power), twelve[8+i], 1e-6)
	}
}

// TestNomicLength: what a scaling factor would change is not taken.
func TestNomicLength(t *testing.T) {
	for edits, want := range map[string]int{
		``:                            40,
		`"max_trained_positions": 30`: 40,
		`"rotary_scaling_factor": 2`:  40, // 2048 are trained
		`"rotary_scaling_factor": 2, "max_trained_positions": 30`: 30,
	} {
		fsys, stored := goldenFolder(t, "nomic-hub")
		m, err := read(edited(t, fsys, edits), stored, Options{})
		require.NoError(t, err)
		require.Equal(t, want, m.MaxPositions, edits)
	}
}

// TestNomicWidth: without n_inner the hub's code makes its own.
func TestNomicWidth(t *testing.T) {
	c := &object{}
	require.Equal(t, 2048, nomicWidth(c, 768, true))
	require.Equal(t, 3072, nomicWidth(c, 768, false))
	require.Equal(t, 256, nomicWidth(c, 12, true))
}

// TestConvertedWeights: a config in transformers' format with weights in the hub's, which transformers converts as it reads them.
func TestConvertedWeights(t *testing.T) {
	for _, c := range []struct{ config, edits, weights, qkv string }{
		{"nomic-mean", `"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 256, "head_dim": null`, "nomic-hub", "encoder.layers.0.attn.Wqkv.weight"},
		{"jina-v3-mean", `"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 20, "num_hidden_layers": 1`, "jina-v3-hub-masked-lm",
			"roberta.encoder.layers.0.mixer.Wqkv.weight"},
	} {
		fsys, _ := goldenFolder(t, c.config)
		_, stored := goldenFolder(t, c.weights)
		delete(fsys, "modules.json")
		m, err := read(edited(t, fsys, c.edits), stored, Options{})
		require.NoError(t, err, c.config)
		require.Equal(t, c.qkv, m.Layers[0].Attention.QKV[0].Weight.Name)
	}
}

// TestAdapters: a call without a task has none, so the weights are those without adapters; a transformer of the model's own code is taken of
// this family alone.
func TestAdapters(t *testing.T) {
	fsys, stored := goldenFolder(t, "jina-v3-hub")
	m, err := read(fsys, stored, Options{})
	require.NoError(t, err)
	require.Equal(t, "roberta.encoder.layers.1.mixer.Wqkv.parametrizations.weight.original", m.Layers[1].Attention.QKV[0].Weight.Name)
	require.Equal(t, "roberta.embeddings.word_embeddings.parametrizations.weight.original", m.Embeddings.Word.Name)
	bert := files("modules.json", string(fsys["modules.json"].Data), "1_Pooling/config.json", `{}`)
	_, err = read(bert, tiny, Options{})
	requireCode(t, status.Unsupported, err, `type "custom_st.Transformer" of module 0 is not supported`)
}

// TestParametrised: only the family that has adapters takes torch's parametrizations for weights.
func TestParametrised(t *testing.T) {
	const name = "encoder.layer.0.attention.self.query"
	_, err := read(files(), tiny.with(shapes{name + ".weight": nil, name + parametrised: {8, 8}}), Options{})
	requireCode(t, status.WeightsNotFound, err, name+".weight")
}
