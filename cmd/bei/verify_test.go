package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/manifest"
)

// verify runs the command with ONNX Runtime of .deps unless the environment names another.
func verify(t *testing.T, folder string, args ...string) (string, error) {
	t.Helper()
	options := map[string]any{}
	if os.Getenv(ort.LibraryVariable) == "" {
		options["onnxruntime"] = map[string]any{"library": suite.Dependency(t, "onnxruntime/libonnxruntime.so.1")}
	}
	text, err := json.Marshal(options)
	require.NoError(t, err)
	return bei(t.Context(), nil, append([]string{"verify", folder, "--engine", "", "--threads", "1", "--options", string(text)}, args...)...)
}

// TestVerify: what --write makes of any kind of model, with its own texts, is what verify then finds.
func TestVerify(t *testing.T) {
	for name, pairs := range map[string]bool{"bert-mean": false, "distilbert-splade": false, "bert-classifier": false, "qwen3-reranker": true, "bert-token-classifier": false} {
		t.Run(name, func(t *testing.T) {
			folder := modelCopy(t, name)
			_, err := verify(t, folder)
			require.ErrorContains(t, err, "make it with 'bei verify --write FOLDER'")
			out, err := verify(t, folder, "--write")
			require.NoError(t, err)
			require.Contains(t, out, filepath.Join(folder, manifest.FileName)+": ")
			out, err = verify(t, folder)
			require.NoError(t, err)
			require.Contains(t, out, "0 failures")
			m, err := manifest.Read(folder)
			require.NoError(t, err)
			require.GreaterOrEqual(t, len(m.Items), 2, "the tiny models have short limits")
			require.Equal(t, pairs, m.Items[0].Pair != nil)
		})
	}
}

func TestVerifyTextsOfAFile(t *testing.T) {
	folder, file := modelCopy(t, "bert-mean"), filepath.Join(t.TempDir(), "texts")
	lines := "the fox\na dog\tand a fox\n{\"input_ids\": [1, 5, 6], \"token_type_ids\": [0, 0, 1]}\n{\"text\": \"a\"}\n"
	require.NoError(t, os.WriteFile(file, []byte(lines), 0o600))
	_, err := verify(t, folder, "--write", "--texts", file)
	require.NoError(t, err)
	out, err := verify(t, folder)
	require.NoError(t, err)
	require.Contains(t, out, "3 token ids")
	require.Contains(t, out, "float32: 4 items, 1 rankings, min_cosine ")

	// Another model's outputs.
	m, err := manifest.Read(folder)
	require.NoError(t, err)
	m.Rankings, m.Items[1].Values[0] = nil, 2
	require.NoError(t, m.Write(filepath.Join(folder, manifest.FileName)))
	out, err = verify(t, folder)
	require.ErrorContains(t, err, "parity failed in 2 places, the first: items.1")
	require.Contains(t, out, "FAILED")
	elsewhere := filepath.Join(t.TempDir(), "m.json")
	_, err = verify(t, folder, "--write", "--output", elsewhere)
	require.NoError(t, err, "a manifest that fails does not hinder the making of another")
	require.FileExists(t, elsewhere)
}

func TestVerifyNamesWhatIsWrong(t *testing.T) {
	folder, file := modelCopy(t, "bert-mean"), filepath.Join(t.TempDir(), "texts")
	for _, c := range []struct {
		lines string
		args  []string
		want  string
	}{
		{"a\n{\"texts\": 1}\n", nil, `line 2: json: unknown field "texts"`},
		{"a\n{\n", nil, "line 2: "},
		{"", nil, "has no lines"},
		{strings.Repeat("a\n", maxItems+1), nil, "line 1025: a manifest has at most 1024 items"},
		{"a\n" + strings.Repeat("fox ", 300), nil, "items.1"},
		{"a", []string{"--dtype", "float16"}, "--dtype cannot be given with --write"},
		{"a", []string{"--output", "no/such/folder/file"}, "no/such/folder"},
		{"a\xff", nil, "items.0"},
	} {
		require.NoError(t, os.WriteFile(file, []byte(c.lines), 0o600))
		_, err := verify(t, folder, append([]string{"--write", "--texts", file}, c.args...)...)
		require.ErrorContains(t, err, c.want)
	}
	_, err := verify(t, folder, "--texts", file)
	require.ErrorContains(t, err, "--texts and --output are for --write")
	out, err := bei(t.Context(), nil, "verify", "--schema")
	require.NoError(t, err)
	require.Contains(t, out, `"title": "bei-manifest.json"`)
}
