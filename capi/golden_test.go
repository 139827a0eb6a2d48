package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// goldenWriter writes what ctest/golden.c reads: 32-bit numbers, and texts behind their sizes.
type goldenWriter struct{ bytes.Buffer }

func (w *goldenWriter) number(v any) {
	if err := binary.Write(w, binary.NativeEndian, v); err != nil {
		panic(err) // v is not of a fixed size
	}
}

func (w *goldenWriter) text(s string) {
	w.number(uint32(len(s)))
	w.WriteString(s)
}

func readGolden(t *testing.T, folder, file string, to any) {
	require.NoError(t, json.Unmarshal(must(os.ReadFile(filepath.Join(folder, file))), to))
}

// goldenPredictions writes the logits of classifiers and rerankers, encoders and decoders, to a file.
func goldenPredictions(t *testing.T, dir string) string {
	models := []string{"roberta-classifier", "deberta-reranker", "modernbert-reranker-mean", "llama-classifier", "gemma2-classifier", "qwen3-reranker"}
	var w goldenWriter
	w.number(uint32(len(models)))
	for _, name := range models {
		folder := filepath.Join(root, "testdata", "models", name)
		var golden struct {
			Items []struct {
				Text, Pair string
				PromptName string `json:"prompt_name"`
			}
			Labels []string
			Pooled [][]float32
		}
		readGolden(t, folder, "golden.json", &golden)
		if len(golden.Labels) == 0 { // a language model
			golden.Labels = []string{"LABEL_0"}
		}
		w.text(folder)
		w.text(`"labels":` + string(must(json.Marshal(golden.Labels))))
		w.number([]uint32{uint32(len(golden.Labels)), uint32(len(golden.Items))})
		for i, item := range golden.Items {
			w.text(item.Text)
			w.text(item.Pair)
			w.text(item.PromptName)
			w.number(golden.Pooled[i])
		}
	}
	path := filepath.Join(dir, "predictions")
	require.NoError(t, os.WriteFile(path, w.Bytes(), 0o600))
	return path
}

// goldenEntities writes the entities of token classifiers to a file.
func goldenEntities(t *testing.T, dir string) string {
	folders := must(filepath.Glob(filepath.Join(root, "testdata", "models", "*-entities")))
	require.NotEmpty(t, folders)
	var w goldenWriter
	w.number(uint32(len(folders)))
	for _, folder := range folders {
		var golden struct{ Items []map[string]json.RawMessage }
		readGolden(t, folder, "entities.json", &golden)
		w.text(folder)
		w.number(uint32(len(golden.Items)))
		for _, item := range golden.Items {
			var text, side string
			require.NoError(t, json.Unmarshal(item["text"], &text))
			require.NoError(t, json.Unmarshal(item["side"], &side))
			w.text(text)
			w.number(uint32(1 + slices.Index([]string{"right", "left"}, side)))
			for _, aggregation := range []string{"none", "simple", "first", "average", "max"} {
				var entities [][]any
				require.NoError(t, json.Unmarshal(item[aggregation], &entities))
				w.number(uint32(len(entities)))
				for _, e := range entities {
					w.text(e[0].(string))
					w.number(float32(e[1].(float64)))
					w.number([]uint32{uint32(e[2].(float64)), uint32(e[3].(float64))})
				}
			}
		}
	}
	path := filepath.Join(dir, "entities")
	require.NoError(t, os.WriteFile(path, w.Bytes(), 0o600))
	return path
}
