package arch

import (
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
	f.Fuzz(func(t *testing.T, config, mods, pooling, dense, settings []byte, override string) {
		m, err := read(fstest.MapFS{
			"config.json": {Data: config}, "modules.json": {Data: mods}, "1_Pooling/config.json": {Data: pooling}, "2_Dense/config.json": {Data: dense},
			"sentence_bert_config.json": {Data: settings}, "tokenizer_config.json": {Data: settings}, "config_sentence_transformers.json": {Data: settings},
		}, tiny, Options{Pooling: override})
		if err != nil {
			require.Nil(t, m)
			require.Less(t, len(err.Error()), 4000)
			return
		}
		require.Equal(t, []int{m.VocabSize, m.HiddenSize}, tiny[m.Embeddings.Word.Name])
		require.True(t, m.MaxLength >= 1 && m.MaxLength <= m.MaxPositions)
		for _, l := range m.Layers {
			require.Equal(t, m.HiddenSize, l.Attention.Heads*l.Attention.HeadDim)
			require.True(t, slices.Equal(l.MLP.Up.Weight.Shape, tiny[l.MLP.Up.Weight.Name]))
		}
		width := m.HiddenSize * max(1, len(m.Head.Pooling.Modes))
		for _, d := range m.Head.Chain {
			require.Equal(t, width, d.Linear.In)
			require.Equal(t, tiny[d.Linear.Weight.Name], d.Linear.Weight.Shape)
			width = d.Linear.Out
		}
		if m.Text.DefaultPrompt != "" {
			require.Contains(t, m.Text.Prompts, m.Text.DefaultPrompt)
		}
	})
}
