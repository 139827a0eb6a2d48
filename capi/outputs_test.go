package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// outputs writes what ctest/outputs.c compares with: a file for each model, with its folder and numbers.
func outputs(t *testing.T) string {
	dir := t.TempDir()
	for model, write := range map[string]func(to *bytes.Buffer, g golden){
		"bge-m3": func(to *bytes.Buffer, g golden) {
			fmt.Fprintln(to, len(g.Pooled[0]), g.Pooled[0])
			fmt.Fprintln(to, len(g.Sparse[0]))
			for _, id := range slices.Sorted(maps.Keys(g.Sparse[0])) {
				fmt.Fprintln(to, id, g.Sparse[0][id])
			}
			fmt.Fprintln(to, len(g.Colbert[0]), len(g.Colbert[0][0]), g.Colbert[0])
		},
		"distilbert-splade": func(to *bytes.Buffer, g golden) {
			entries, n := new(bytes.Buffer), 0
			for id, weight := range g.Pooled[0] {
				if weight > 0 {
					fmt.Fprintln(entries, id, weight)
					n++
				}
			}
			fmt.Fprintln(to, n, entries)
		},
		"roberta-mean": func(to *bytes.Buffer, g golden) {
			fmt.Fprintln(to, len(g.Pooled[0]), len(g.Spans[0]))
			for _, span := range g.Spans[0] {
				fmt.Fprintln(to, string(span[0]), string(span[1]), strings.ReplaceAll(string(span[2]), ",", " "))
			}
		},
	} {
		var g golden
		folder := filepath.Join(root, "testdata", "models", model)
		require.NoError(t, json.Unmarshal(must(os.ReadFile(filepath.Join(folder, "golden.json"))), &g))
		var text bytes.Buffer
		fmt.Fprintln(&text, folder)
		write(&text, g)
		numbers := strings.NewReplacer("[", " ", "]", " ").Replace(text.String())
		require.NoError(t, os.WriteFile(filepath.Join(dir, model), []byte(numbers), 0o600))
	}
	return dir
}

// golden is what of golden.json outputs writes.
type golden struct {
	Pooled  [][]float64
	Sparse  []map[int]float64
	Colbert [][][]float64
	Spans   [][][3]json.RawMessage
}
