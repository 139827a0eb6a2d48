package backend

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// rerankItem is an item of a reranker's golden.json.
type rerankItem struct {
	Text, Pair string
	PromptName string   `json:"prompt_name"`
	InputIDs   []uint32 `json:"input_ids"`
}

func rerankGolden(t *testing.T, name string) (items []rerankItem, scores [][]float32) {
	var golden struct {
		Items  []rerankItem
		Pooled [][]float32
	}
	readJSON(t, filepath.Join("..", "testdata", "models", name, "golden.json"), &golden)
	require.NotEmpty(t, golden.Items)
	return golden.Items, golden.Pooled
}

// plainFolder copies a model folder without the files of sentence-transformers.
func plainFolder(t *testing.T, name string, change func(file string, content []byte) []byte) string {
	dir := t.TempDir()
	for _, file := range []string{"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} {
		content, err := os.ReadFile(filepath.Join("..", "testdata", "models", name, file))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), change(file, content), 0o600))
	}
	return dir
}

func unchanged(_ string, content []byte) []byte { return content }

// TestRerankerByOption: a language model whose folder says nothing of it, as Qwen3-Reranker's first folders, is asked and answers as one
// with LogitScore, whose rows are transformers' and the model card's.
func TestRerankerByOption(t *testing.T) {
	items, scores := rerankGolden(t, "qwen3-reranker")
	c := onnxConfig("")
	c.Model, c.Reranker = plainFolder(t, "qwen3-reranker", unchanged), "qwen3"
	b := open(t, c)
	require.Equal(t, ModelClassifier, b.Info().ModelType)
	require.EqualValues(t, 1, b.Info().Labels)
	for i, item := range items {
		if item.PromptName != "" {
			continue // the folder has no prompts
		}
		row, pair := make([]float32, 1), Text{Text: item.Text, Pair: item.Pair, HasPair: true}
		require.NoError(t, b.PredictTexts(background, []Text{pair}, CallOptions{}, Output{Rows: row}))
		require.InDelta(t, scores[i][0], row[0], 1e-4, "item %d", i)
	}

	// An instruction of the caller's own is the default prompt.
	c.DefaultPrompt = "Find what answers the question"
	b = open(t, c)
	row := make([]float32, 1)
	require.NoError(t, b.PredictTexts(background, []Text{{Text: items[0].Text, Pair: items[0].Pair, HasPair: true}}, CallOptions{}, Output{Rows: row}))
	require.Equal(t, "web", items[3].PromptName)
	require.InDelta(t, scores[3][0], row[0], 1e-4)
}

func TestRerankerRefuses(t *testing.T) {
	c := onnxConfig("qwen3-reranker")
	b := open(t, c)
	row := make([]float32, 1)
	err := b.PredictTexts(background, []Text{{Text: "alone"}}, CallOptions{}, Output{Rows: row})
	require.ErrorContains(t, err, "item 0 is a text alone: this reranker needs pairs of query and document")
	require.Equal(t, status.InvalidArgument, status.CodeOf(err))
	pair := []Text{{Text: "a", Pair: "b", HasPair: true}}
	err = b.PredictTexts(background, pair, CallOptions{PromptName: "unknown"}, Output{Rows: row})
	require.ErrorContains(t, err, `prompt_name "unknown" is none of the model's prompts: it has none, web`)
	err = b.PredictTexts(background, []Text{{HasPair: true}}, CallOptions{}, Output{Rows: row})
	require.Equal(t, status.Empty, status.CodeOf(err), err)
	err = b.PredictTexts(background, []Text{{Text: "a", Pair: "\xff", HasPair: true}}, CallOptions{}, Output{Rows: row})
	require.ErrorContains(t, err, "pair is not UTF-8")
	err = b.EmbedTexts(background, pair, CallOptions{}, Output{Rows: row})
	require.Equal(t, status.Unsupported, status.CodeOf(err), err)

	// This template has no place for an instruction.
	items, _ := rerankGolden(t, "llama-reranker")
	require.NotEmpty(t, items)
	other := open(t, onnxConfig("llama-reranker"))
	require.False(t, other.template.HasInstruction())

	c.Model, c.Reranker = plainFolder(t, "llama-reranker", unchanged), "qwen3"
	_, err = Open(background, c)
	require.ErrorContains(t, err, `reranker "qwen3" needs the token "yes", which tokenizer.json does not have`)
	c = onnxConfig("qwen3-classifier")
	c.Reranker = "qwen3"
	_, err = Open(background, c)
	require.Error(t, err)
}

// TestTokensOfRerankers: bei_tokenize gives what a run has, so that a router can send tokens; a text alone it leaves as it is.
func TestTokensOfRerankers(t *testing.T) {
	for _, name := range []string{"qwen3-reranker", "llama-reranker", "gemma-reranker"} {
		b := open(t, onnxConfig(name))
		items, scores := rerankGolden(t, name)
		for i, item := range items {
			var result Result
			text := []Text{{Text: item.Text, Pair: item.Pair, HasPair: true}}
			require.NoError(t, b.Tokenize(background, text, CallOptions{Truncate: On, PromptName: item.PromptName}, Output{Result: &result}))
			tokens := result.Items[0].Tokens
			require.Equal(t, item.InputIDs, tokens.IDs, "%s: item %d", name, i)
			row, batch := make([]float32, 1), packed(tokens.IDs)
			require.NoError(t, b.Predict(background, batch, CallOptions{}, Output{Rows: row}))
			require.InDelta(t, scores[i][0], row[0], 1e-4)
		}
		var result Result
		require.NoError(t, b.Tokenize(background, []Text{{Text: "the dog"}}, CallOptions{}, Output{Result: &result}))
		require.Less(t, len(result.Items[0].Tokens.IDs), 8)
	}
}

// TestPaddingAtTheEnd: where attention looks both ways, padding that a classifier does not count would still be seen.
func TestPaddingAtTheEnd(t *testing.T) {
	b := open(t, onnxConfig("llama-classifier"))
	rows := make([]float32, 6)
	batch := packed([]uint32{5, 6, 7}, []uint32{5, 6, 7, 0, 0})
	batch.PositionIDs = []uint32{0, 1, 2, 0, 1, 2, 3, 4}
	require.NoError(t, b.Predict(background, batch, CallOptions{}, Output{Rows: rows}))
	require.Equal(t, rows[:3], rows[3:])

	c := onnxConfig("")
	c.Model = plainFolder(t, "llama-classifier", func(file string, content []byte) []byte {
		if file != "config.json" {
			return content
		}
		var config map[string]any
		require.NoError(t, json.Unmarshal(content, &config))
		config["is_causal"] = false
		content, err := json.Marshal(config)
		require.NoError(t, err)
		return content
	})
	b = open(t, c)
	codes := make([]status.Code, 2)
	require.NoError(t, b.Predict(background, batch, CallOptions{}, Output{Rows: rows, Status: codes}))
	require.Equal(t, []status.Code{status.OK, status.Unsupported}, codes)
}
