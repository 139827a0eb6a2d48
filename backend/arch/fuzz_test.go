package arch

import (
	"encoding/json"
	"math"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// FuzzRead gives foreign bytes to every file that Read reads. What it accepts must hold together.
func FuzzRead(f *testing.F) {
	dense := `{"in_features": 8, "out_features": 5, "bias": true, "activation_function": "torch.nn.modules.activation.Tanh"}`
	f.Add([]byte(config("")), []byte(pipeline("Transformer", "Pooling:1_Pooling", "Dense:2_Dense", "Normalize:3_Normalize")), []byte(`{"pooling_mode": ["cls", "max"]}`), []byte(dense), []byte(`{"max_seq_length": 9}`), "", byte(0))
	f.Add([]byte(config(`"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}`)), []byte(pipeline("Transformer")), []byte(`{}`), []byte(`{}`), []byte(`{"model_max_length": 1e30}`), "", byte(0))
	f.Add([]byte(config(`"architectures": ["BertForMaskedLM"]`)), []byte(pipeline("Transformer", "SpladePooling:1_Pooling")), []byte(`{"pooling_strategy": "max"}`), []byte(`{}`), []byte(`{"prompts": {"a": "b"}, "default_prompt_name": "a"}`), "splade", byte(0))
	f.Add([]byte(qwen3Config(`"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention"], "rope_scaling": {"type": "yarn", "factor": 4}`)),
		[]byte(pipeline("Transformer", "Pooling:1_Pooling")), []byte(`{"pooling_mode": "lasttoken"}`), []byte(`{}`), []byte(`{}`), "", byte(0))
	f.Add([]byte(qwen3Config(`"is_causal": false, "attention_bias": true, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}`)),
		[]byte(pipeline("Transformer", "Pooling:1_Pooling")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "mean", byte(0))
	f.Add([]byte(decoderConfig("llama", `"architectures": ["LlamaForCausalLM"], "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true`)),
		[]byte(pipeline("Transformer", "LogitScore:1_Pooling")), []byte(`{"true_token_id": 3, "false_token_id": 4}`), []byte(`{}`), []byte(`{"transformer_task": "text-generation"}`), "", byte(0))
	f.Add([]byte(decoderConfig("mistral", `"architectures": ["MistralForTokenClassification"], "sliding_window": 3, "num_labels": 2`)),
		[]byte(pipeline("Transformer")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "", byte(0))
	f.Add([]byte(decoderConfig("qwen2", `"architectures": ["Qwen2ForSequenceClassification"], "pad_token_id": 1, "use_sliding_window": true, "max_window_layers": 1`)),
		[]byte(pipeline("Transformer")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "", byte(0))
	f.Add([]byte(decoderConfig("gemma2", `"query_pre_attn_scalar": 5, "attn_logit_softcapping": 7.5, "is_causal": false`)),
		[]byte(pipeline("Transformer", "Pooling:1_Pooling")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "", byte(0))
	f.Add([]byte(decoderConfig("gemma3_text", `"use_bidirectional_attention": true, "sliding_window": 4, "rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4}}`)),
		[]byte(pipeline("Transformer", "Pooling:1_Pooling")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "", byte(0))
	for _, e := range encoders {
		f.Add([]byte(e.config("", e.class+"Model")), []byte(pipeline("Transformer", "Pooling:1_Pooling")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "", byte(0))
		f.Add([]byte(e.config(`"tie_word_embeddings": false, "pad_token_id": 3, "share_att_key": true, "position_buckets": 4, "legacy": false`, e.class+"ForMaskedLM")),
			[]byte(pipeline("Transformer")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "splade", byte(0))
		f.Add([]byte(e.config(`"num_labels": 3, "norm_rel_ebd": "layer_norm", "pos_att_type": ["c2p"], "max_relative_positions": 6`, e.class+"ForSequenceClassification")),
			[]byte(pipeline("Transformer")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "", byte(0))
	}
	folders := map[string]shapes{"bert": tiny, "qwen3": qwen3Shapes("")}
	for _, e := range encoders {
		folders[e.family] = e.shapes(e.prefix)
	}
	for _, family := range Families() {
		if folders[family] == nil {
			folders[family] = decoderShapes("")
		}
	}
	// Each input says which weights the folder has: those of its family above, or those of a golden folder.
	golden := []shapes{nil}
	for _, name := range goldenNames(f) {
		fsys, stored := goldenFolder(f, name)
		data := func(file string) []byte {
			if entry := fsys[file]; entry != nil {
				return entry.Data
			}
			return []byte(`{}`)
		}
		mods := data("modules.json")
		if fsys["modules.json"] == nil {
			mods = []byte(pipeline("Transformer", "Pooling:1_Pooling"))
		}
		f.Add(data("config.json"), mods, data("1_Pooling/config.json"), data("2_Dense/config.json"), data("sentence_bert_config.json"), "", byte(len(golden)))
		golden = append(golden, stored)
	}
	f.Fuzz(func(t *testing.T, config, mods, pooling, dense, settings []byte, override string, which byte) {
		var named struct {
			Family string `json:"model_type"`
		}
		_ = json.Unmarshal(config, &named) // what is no object gets no weights either
		stored := golden[int(which)%len(golden)]
		if stored == nil {
			stored = folders[named.Family]
		}
		m, err := read(fstest.MapFS{
			"config.json": {Data: config}, "modules.json": {Data: mods}, "1_Pooling/config.json": {Data: pooling}, "2_Dense/config.json": {Data: dense},
			"sentence_bert_config.json": {Data: settings}, "tokenizer_config.json": {Data: settings}, "config_sentence_transformers.json": {Data: settings},
		}, stored, Options{Pooling: override})
		if err != nil {
			require.Nil(t, m)
			require.Less(t, len(err.Error()), 4000)
			return
		}
		require.Equal(t, []int{m.VocabSize, m.HiddenSize}, stored[m.Embeddings.Word.Name])
		require.True(t, m.MaxLength >= 1 && m.MaxLength <= m.MaxPositions-m.Embeddings.PositionOffset)
		for _, l := range m.Layers {
			a := l.Attention
			require.Equal(t, a.Heads*a.HeadDim, a.Out.In)
			require.Zero(t, a.Heads%a.KVHeads)
			require.True(t, a.Scale > 0 && a.Softcap >= 0 && a.WindowLeft >= -1 && (a.WindowRight == -1 || !a.Causal))
			if a.Rope != nil {
				require.True(t, a.Rope.Dim == 2*len(a.Rope.InvFreq) && a.Rope.Dim <= a.HeadDim)
				for _, f := range append(a.Rope.InvFreq, a.Rope.Factor) {
					require.False(t, math.IsNaN(float64(f)) || math.IsInf(float64(f), 0))
				}
			}
			require.True(t, a.AlibiSlopes == nil || len(a.AlibiSlopes) == a.Heads)
			if d := a.Disentangled; d != nil {
				require.NoError(t, d.Check(a.Heads, a.KVHeads, a.HeadDim))
				require.Equal(t, 1, len(d.Rows(m.MaxPositions))%2)
				require.Equal(t, []int{2 * d.Span, m.HiddenSize}, stored[d.Embeddings.Name])
			}
			if r := a.RelativeBias; r != nil {
				require.NoError(t, r.Check())
			}
			up := l.MLP.Up
			if l.MLP.GateUp.Out > 0 {
				up = l.MLP.GateUp
			}
			require.True(t, slices.Equal(up.Weight.Shape, stored[up.Weight.Name]))
		}
		require.Less(t, m.Embeddings.PositionOffset, m.MaxPositions)
		width := m.HiddenSize * max(1, len(m.Head.Pooling.Modes))
		for _, d := range m.Head.Chain {
			require.Equal(t, width, d.Linear.In)
			require.Equal(t, stored[d.Linear.Weight.Name], d.Linear.Weight.Shape)
			width = d.Linear.Out
		}
		if m.Text.DefaultPrompt != "" {
			require.Contains(t, m.Text.Prompts, m.Text.DefaultPrompt)
		}
	})
}
