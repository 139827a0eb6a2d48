package arch

import (
	"math"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// FuzzRead gives foreign bytes to every file that Read reads. What it accepts must hold together.
func FuzzRead(f *testing.F) {
	dense := `{"in_features": 8, "out_features": 5, "bias": true, "activation_function": "torch.nn.modules.activation.Tanh"}`
	f.Add([]byte(config("")), []byte(pipeline("Transformer", "Pooling:1_Pooling", "Dense:2_Dense", "Normalize:3_Normalize")), []byte(`{"pooling_mode": ["cls", "max"]}`), []byte(dense), []byte(`{"max_seq_length": 9}`), "")
	f.Add([]byte(config(`"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b", "2": "c"}`)), []byte(pipeline("Transformer")), []byte(`{}`), []byte(`{}`), []byte(`{"model_max_length": 1e30}`), "")
	f.Add([]byte(config(`"architectures": ["BertForMaskedLM"]`)), []byte(pipeline("Transformer", "SpladePooling:1_Pooling")), []byte(`{"pooling_strategy": "max"}`), []byte(`{}`), []byte(`{"prompts": {"a": "b"}, "default_prompt_name": "a"}`), "splade")
	f.Add([]byte(qwen3Config(`"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention"], "rope_scaling": {"type": "yarn", "factor": 4}`)),
		[]byte(pipeline("Transformer", "Pooling:1_Pooling")), []byte(`{"pooling_mode": "lasttoken"}`), []byte(`{}`), []byte(`{}`), "")
	f.Add([]byte(qwen3Config(`"is_causal": false, "attention_bias": true, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}`)),
		[]byte(pipeline("Transformer", "Pooling:1_Pooling")), []byte(`{}`), []byte(`{}`), []byte(`{}`), "mean")
	for _, e := range encoders {
		for _, seed := range []struct{ more, head, modules, pooling string }{
			{"", "Model", pipeline("Transformer", "Pooling:1_Pooling"), ""},
			{`"tie_word_embeddings": false, "pad_token_id": 3, "share_att_key": true, "position_buckets": 4, "legacy": false`, "ForMaskedLM",
				pipeline("Transformer"), "splade"},
			{`"num_labels": 3, "norm_rel_ebd": "layer_norm", "pos_att_type": ["c2p"], "max_relative_positions": 6`, "ForSequenceClassification",
				pipeline("Transformer"), ""},
		} {
			f.Add([]byte(e.config(seed.more, e.class+seed.head)), []byte(seed.modules), []byte(`{}`), []byte(`{}`), []byte(`{}`), seed.pooling)
		}
	}
	both := tiny.with(qwen3Shapes(""))
	for _, e := range encoders {
		both = both.with(e.shapes(e.prefix))
	}
	f.Fuzz(func(t *testing.T, config, mods, pooling, dense, settings []byte, override string) {
		m, err := read(fstest.MapFS{
			"config.json": {Data: config}, "modules.json": {Data: mods}, "1_Pooling/config.json": {Data: pooling}, "2_Dense/config.json": {Data: dense},
			"sentence_bert_config.json": {Data: settings}, "tokenizer_config.json": {Data: settings}, "config_sentence_transformers.json": {Data: settings},
		}, both, Options{Pooling: override})
		if err != nil {
			require.Nil(t, m)
			require.Less(t, len(err.Error()), 4000)
			return
		}
		require.Equal(t, []int{m.VocabSize, m.HiddenSize}, both[m.Embeddings.Word.Name])
		require.True(t, m.MaxLength >= 1 && m.MaxLength <= m.MaxPositions)
		for _, l := range m.Layers {
			a := l.Attention
			require.Equal(t, a.Heads*a.HeadDim, a.Out.In)
			require.Zero(t, a.Heads%a.KVHeads)
			if a.Rope != nil {
				require.Equal(t, a.HeadDim, 2*len(a.Rope.InvFreq))
				for _, f := range append(a.Rope.InvFreq, a.Rope.Factor) {
					require.False(t, math.IsNaN(float64(f)) || math.IsInf(float64(f), 0))
				}
			}
			if d := a.Disentangled; d != nil {
				require.NoError(t, d.Check(a.Heads, a.KVHeads, a.HeadDim))
				require.Equal(t, 1, len(d.Rows(m.MaxPositions))%2)
				require.Equal(t, []int{2 * d.Span, m.HiddenSize}, both[d.Embeddings.Name])
			}
			if r := a.RelativeBias; r != nil {
				require.NoError(t, r.Check())
			}
			require.True(t, slices.Equal(l.MLP.Up.Weight.Shape, both[l.MLP.Up.Weight.Name]))
		}
		require.Less(t, m.Embeddings.PositionOffset, m.MaxPositions)
		width := m.HiddenSize * max(1, len(m.Head.Pooling.Modes))
		for _, d := range m.Head.Chain {
			require.Equal(t, width, d.Linear.In)
			require.Equal(t, both[d.Linear.Weight.Name], d.Linear.Weight.Shape)
			width = d.Linear.Out
		}
		if m.Text.DefaultPrompt != "" {
			require.Contains(t, m.Text.Prompts, m.Text.DefaultPrompt)
		}
	})
}
