package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend"
)

const (
	model = "../../testdata/models/bert-mean"
	mock  = `{"engine": "mock", "mock": {"dimensions": 8}}`
)

// bei runs the command on the mock engine.
func bei(ctx context.Context, in io.Reader, args ...string) (string, error) {
	c := newCommand()
	var out, errs bytes.Buffer
	c.SetIn(in)
	c.SetOut(&out)
	c.SetErr(&errs)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	return out.String(), err
}

func embed(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	return bei(t.Context(), strings.NewReader(in), append([]string{"embed", model, "--options", mock}, args...)...)
}

func TestEmbedWritesALineForEachLine(t *testing.T) {
	for in, want := range map[string]int{"": 0, "a": 1, "a\nb\r\n": 2, strings.Repeat("a b\n", 2*linesPerCall+1): 2*linesPerCall + 1} {
		out, err := embed(t, in)
		require.NoError(t, err)
		lines := strings.SplitAfter(out, "\n")
		require.Len(t, lines, want+1)
		for _, line := range lines[:want] {
			var vector []float32
			require.NoError(t, json.Unmarshal([]byte(line), &vector))
			require.Len(t, vector, 8)
		}
	}
}

func TestEmbedWritesNumpysFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vectors.npy")
	for in, want := range map[string]string{"": "(0, 3)", "a\nb\n": "(2, 3)"} {
		_, err := embed(t, in, "--format", "npy", "--output", path, "--dimensions", "3")
		require.NoError(t, err)
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, "\x93NUMPY\x01\x00", string(data[:8]))
		require.Equal(t, npyHeaderSize-10, int(binary.LittleEndian.Uint16(data[8:])))
		require.Contains(t, string(data[:npyHeaderSize]), "{'descr': '<f4', 'fortran_order': False, 'shape': "+want+", }")
		require.Len(t, data, npyHeaderSize+4*3*strings.Count(in, "\n"))
	}
}

func TestEmbedNamesWhatIsWrong(t *testing.T) {
	for _, c := range []struct {
		in   string
		args []string
		want string
	}{
		{"a\n\nb\n", nil, "line 2: the text is empty"},
		{strings.Repeat("a\n", linesPerCall) + "a\xff\n", nil, "line 1025: "},
		{"a\x00b", nil, "line 1: text has a NUL byte at offset 1"},
		{"a\n" + strings.Repeat("a", maxLineBytes+1), nil, "line 2 is longer than 16777216 bytes"},
		{"a", []string{"--dimensions", "9"}, "--dimensions is 9; it can be 1 to 8"},
		{"a", []string{"--dimensions", "-1"}, "--dimensions is -1"},
		{"a", []string{"--dimensions", "2000000000"}, "--dimensions is 2000000000"},
		{"a", []string{"--format", "csv"}, `--format "csv": it is json or npy`},
		{"a", []string{"--format", "npy"}, "--format npy needs a file"},
		{"a", []string{"--prompt-name", "nobody"}, `"nobody"`},
		{"a", []string{"--threads", "-1"}, "threads"},
		{"a", []string{"--options", `{"colour": 1}`}, "colour"},
		{"a", []string{"--output", "no/such/folder"}, "no/such/folder"},
		{"a", []string{"second"}, "takes one argument, the model's folder or its id on a hub, and got 2; see 'bei embed --help'"},
	} {
		_, err := embed(t, c.in, c.args...)
		require.ErrorContains(t, err, c.want)
	}
	_, err := bei(t.Context(), nil, "info", "./no-such-folder")
	require.ErrorContains(t, err, `model "./no-such-folder" does not exist`)
	_, err = bei(t.Context(), nil, "info")
	require.ErrorContains(t, err, "got 0; see 'bei info --help'")
}

// TestAFailedRunLeavesNoMatrix covers files that numpy would load as if they were whole.
func TestAFailedRunLeavesNoMatrix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vectors.npy")
	_, err := embed(t, strings.Repeat("a\n", linesPerCall)+"\n", "--format", "npy", "--output", path)
	require.Error(t, err)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(data), "NUMPY")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	_, err = bei(t.Context(), nil, "embed", "no-such-folder", "--output", path)
	require.Error(t, err)
	data, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(data))
}

// TestEmbedEndsWhenInterrupted has an input that never comes, as a terminal's.
func TestEmbedEndsWhenInterrupted(t *testing.T) {
	in, out := io.Pipe()
	t.Cleanup(func() { require.NoError(t, out.Close()) })
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = out.Write([]byte("a\n")) // returns when the command reads
		cancel()
	}()
	_, err := bei(ctx, in, "embed", model, "--options", mock)
	require.ErrorContains(t, err, "interrupted")
}

func TestInfoIsJSON(t *testing.T) {
	out, err := bei(t.Context(), nil, "info", model, "--options", mock)
	require.NoError(t, err)
	var info map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &info))
	require.EqualValues(t, 8, info["dimensions"])
	out, err = bei(t.Context(), nil, "info", "--schema")
	require.NoError(t, err)
	require.True(t, json.Valid([]byte(out)))
}

// TestInfoExplains: the decisions as a table, and of a folder that cannot be served what is missing.
func TestInfoExplains(t *testing.T) {
	folder := filepath.Join("..", "..", "testdata", "models", "bert-mean")
	out, err := bei(t.Context(), nil, "info", "--text", folder, "--engine", "mock")
	require.NoError(t, err)
	require.Regexp(t, `(?m)^tokenizer class +BertTokenizer +tokenizer_config.json: tokenizer_class$`, out)

	broken := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(broken, "config.json"), []byte(`{"model_type": "t5"}`), 0o600))
	out, err = bei(t.Context(), nil, "info", "--text", broken)
	require.ErrorContains(t, err, "tokenizer.json is missing")
	require.Regexp(t, `(?m)^family +t5 +config.json: model_type$`, out)
	require.Contains(t, out, `cannot be served: model folder`)
	out, err = bei(t.Context(), nil, "info", broken)
	require.Error(t, err)
	var e backend.Explanation
	require.NoError(t, json.Unmarshal([]byte(out), &e))
	require.Len(t, e.Problems, 3)
}
