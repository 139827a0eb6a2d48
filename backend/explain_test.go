package backend

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
)

// TestExplainEveryFolder: each golden folder can be served, and files that decide are there.
func TestExplainEveryFolder(t *testing.T) {
	folders, err := filepath.Glob(modelFolder("*") + "/golden.json")
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	for _, golden := range folders {
		folder := filepath.Dir(golden)
		e := Explain(background, Config{Model: folder})
		require.Empty(t, e.Problems, folder)
		said := make(map[string]bool)
		for _, d := range e.Decisions {
			said[d.What] = true
			require.NotEmpty(t, d.Key, "%s: %v", folder, d)
			if d.File != "" {
				for _, file := range strings.Split(d.File, ", ") {
					require.FileExists(t, filepath.Join(folder, file))
				}
			}
		}
		for _, what := range []string{"family", "serves", "tokenizer class", "max length", "causal", "windows", "stored dtype"} {
			require.True(t, said[what], "%s says nothing of %s", folder, what)
		}
	}
}

func TestExplain(t *testing.T) {
	const config, pooling, settings, modules = "config.json", "1_Pooling/config.json", "sentence_bert_config.json", "modules.json"
	for folder, want := range map[string][]arch.Decision{
		"bert-mean": {
			{What: "serves", Value: "embedding", File: modules, Key: "type"},
			{What: "pooling", Value: "mean", File: pooling, Key: "pooling_mode_mean_tokens"},
			{What: "normalize", Value: "true", File: modules, Key: "type of module 2"},
			{What: "max length", Value: "24", File: settings, Key: "max_seq_length"},
			{What: "tokenizer class", Value: "BertTokenizer", File: "tokenizer_config.json", Key: "tokenizer_class"},
			{What: "stored dtype", Value: "F32", File: "model.safetensors", Key: "dtype"},
		},
		"gemma3-embedding": {
			{What: "causal", Value: "false", File: config, Key: "use_bidirectional_attention"},
			{What: "windows", Value: "2 layers, 3 keys before a token and 3 after it", File: config, Key: "sliding_window"},
			{What: "pooling", Value: "mean", File: pooling, Key: "pooling_mode"},
			{What: "dense", Value: "24 -> 40, identity", File: "2_Dense/config.json", Key: "in_features"},
			{What: "prompts", Value: "document, query", File: "config_sentence_transformers.json", Key: "prompts"},
			{What: "max length", Value: "24", File: "tokenizer_config.json", Key: "model_max_length"},
		},
		"qwen3-reranker": {
			{What: "serves", Value: "reranker", File: modules, Key: "type"},
			{What: "pairs", Value: "by a template", File: "chat_template.jinja", Key: "chat_template"},
			{What: "pooling", Value: "lasttoken", Key: "of the architecture, as there is no Pooling module"},
			{What: "causal", Value: "true", Key: "default: config.json has no is_causal"},
		},
		"qwen3-plain-folder":    {{What: "normalize", Value: "false", Key: "default: there is no Normalize module"}},
		"distilbert-splade":     {{What: "serves", Value: "sparse", File: modules, Key: "type"}},
		"roberta-classifier":    {{What: "serves", Value: "classifier", File: config, Key: "architectures"}},
		"bert-token-classifier": {{What: "serves", Value: "token_classifier", File: config, Key: "architectures"}},
	} {
		e := Explain(background, Config{Model: modelFolder(folder)})
		require.Subset(t, e.Decisions, want, folder)
	}
	require.Contains(t, Explain(background, Config{Model: modelFolder("bert-mean"), Pooling: "cls"}).Decisions, arch.Decision{What: "pooling", Value: "cls", Key: "option pooling"})
}

// TestExplainOpen: an open backend tells the same, with its engine, in info's JSON too.
func TestExplainOpen(t *testing.T) {
	b := open(t, onnxConfig("bert-mean"))
	text, err := b.InfoJSON()
	require.NoError(t, err)
	var info struct{ Decisions []arch.Decision }
	require.NoError(t, json.Unmarshal(text, &info))
	require.Equal(t, b.Explanation().Decisions, info.Decisions)
	require.Subset(t, info.Decisions, Explain(background, Config{Model: modelFolder("bert-mean")}).Decisions)
	require.Contains(t, info.Decisions, arch.Decision{What: "computed in", Value: "float32", Key: "default: the engine's choice"})
	require.Regexp(t, `(?m)^pooling +mean +1_Pooling/config.json: pooling_mode_mean_tokens$`, b.Explanation().Text())
}

// TestExplainProblems: everything that is missing is said, not the first alone.
func TestExplainProblems(t *testing.T) {
	dir := t.TempDir()
	require.Contains(t, Explain(background, Config{Model: dir + "/none"}).Problems[0], "does not exist")
	e := Explain(background, Config{Model: dir})
	require.Len(t, e.Problems, 3, e.Problems)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"model_type": "t5", "architectures": ["T5Model"]}`), 0o600))
	e = Explain(background, Config{Model: dir})
	text := e.Text()
	for _, want := range []string{
		"family", "t5", "config.json: model_type", "cannot be served: ", "tokenizer.json is missing", "neither model.safetensors nor",
		`model_type "t5" is not supported; supported: bert, `,
	} {
		require.Contains(t, text, want)
	}
	require.Len(t, e.Problems, 3)

	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.CopyFS(dir, os.DirFS(modelFolder("bert-mean"))))
	require.NoError(t, os.Remove(filepath.Join(dir, "model.safetensors")))
	e = Explain(background, Config{Model: dir})
	require.Len(t, e.Problems, 1)
	require.Contains(t, e.Problems[0], "neither model.safetensors nor")

	e = Explain(background, Config{Model: modelFolder("bert-mean"), Reranker: "qwen3"})
	require.Len(t, e.Problems, 1, e.Problems)
}
