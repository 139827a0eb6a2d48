package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// calibrate runs the command on lines, with ONNX Runtime of .deps unless the environment names another.
func calibrate(t *testing.T, folder, lines string, args ...string) (string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "texts")
	require.NoError(t, os.WriteFile(file, []byte(lines), 0o600))
	options := map[string]any{}
	if os.Getenv(ort.LibraryVariable) == "" {
		options["onnxruntime"] = map[string]any{"library": suite.Dependency(t, "onnxruntime/libonnxruntime.so.1")}
	}
	text, err := json.Marshal(options)
	require.NoError(t, err)
	return bei(t.Context(), nil, append([]string{"calibrate", folder, "--texts", file, "--threads", "1", "--options", string(text)}, args...)...)
}

// modelCopy returns a folder of testdata/models that may be written to.
func modelCopy(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.CopyFS(dir, os.DirFS(filepath.Join("../../testdata/models", name))))
	return dir
}

// scales reads the file that calibrate left, as engines do.
func scales(t *testing.T, folder string) *calibration.Scales {
	t.Helper()
	w, err := weights.Open(folder)
	require.NoError(t, err)
	defer w.Close()
	m, err := arch.Read(folder, w, arch.Options{})
	require.NoError(t, err)
	s, err := calibration.Read(folder, m, w.Fingerprint())
	require.NoError(t, err)
	return s
}

// TestCalibrate: over a file each maximum is the largest of those over its lines, for each kind of model that can be run.
func TestCalibrate(t *testing.T) {
	lines := []string{"the quick brown fox", "Where is the station? It is near the river.", "a"}
	for name, keys := range map[string]int{"qwen3-lasttoken": 8, "bert-cls-dense": 9, "bert-reranker": 10, "bert-token-classifier": 9} {
		t.Run(name, func(t *testing.T) {
			folder := modelCopy(t, name)
			want, tokens := make(map[string]float32), int64(0)
			for _, line := range lines {
				_, err := calibrate(t, folder, line+"\n")
				require.NoError(t, err)
				s := scales(t, folder)
				require.Equal(t, 1, s.Texts)
				tokens += s.Tokens
				for _, key := range s.Keys() {
					v, err := s.Amax(key)
					require.NoError(t, err)
					want[key] = max(want[key], v)
				}
			}
			out, err := calibrate(t, folder, strings.Join(lines, "\n"))
			require.NoError(t, err)
			require.Contains(t, out, calibration.FileName)
			s := scales(t, folder)
			require.Equal(t, 3, s.Texts)
			require.Equal(t, tokens, s.Tokens)
			require.Len(t, s.Keys(), keys)
			for _, key := range s.Keys() {
				v, err := s.Amax(key)
				require.NoError(t, err)
				require.InEpsilon(t, want[key], v, 1e-5, key)
			}
		})
	}
}

func TestCalibrateTakesTheFirstTexts(t *testing.T) {
	folder := modelCopy(t, "qwen3-lasttoken")
	many := strings.Repeat("a fox\n", 2*linesPerRound+3)
	for n, want := range map[string]int{"1": 1, "128": linesPerRound, "200": 200, "0": 2*linesPerRound + 3, "1000": 2*linesPerRound + 3} {
		out, err := calibrate(t, folder, many, "--max-texts", n)
		require.NoError(t, err)
		require.Equal(t, want, scales(t, folder).Texts)
		require.Contains(t, out, "8 maxima over ")
	}
	one := scales(t, folder)

	// A prompt has tokens, too; another file leaves the model's alone.
	elsewhere := filepath.Join(t.TempDir(), "other.json")
	_, err := calibrate(t, folder, "a fox\n\n", "--max-texts", "1", "--prompt-name", "query", "--output", elsewhere)
	require.NoError(t, err)
	require.Equal(t, one, scales(t, folder))
	require.NoError(t, os.Rename(elsewhere, filepath.Join(folder, calibration.FileName)))
	require.Greater(t, scales(t, folder).Tokens, one.Tokens/int64(one.Texts))
}

func TestCalibrateNamesWhatIsWrong(t *testing.T) {
	folder := modelCopy(t, "qwen3-lasttoken")
	old := filepath.Join(folder, calibration.FileName)
	require.NoError(t, os.WriteFile(old, []byte("old"), 0o600))
	for _, c := range []struct {
		lines string
		args  []string
		want  string
	}{
		{"a\n\nb", nil, "line 2: the text is empty"},
		{strings.Repeat("a\n", 2*linesPerRound) + "a\xff\n", nil, "line 257: text is not UTF-8"},
		{"a\n" + strings.Repeat("a", maxLineBytes+1), nil, "line 2 is longer than 16777216 bytes"},
		{"", nil, "there are no texts to calibrate with"},
		{"a", []string{"--max-texts", "-1"}, "--max-texts is -1; it must not be negative"},
		{"a", []string{"--texts", ""}, "--texts is missing"},
		{"a", []string{"--texts", "no-such-file"}, "no-such-file"},
		{"a", []string{"--prompt-name", "nobody"}, `"nobody"`},
		{"a", []string{"--options", mock}, `engine "mock" cannot calibrate; leave it out or use "onnxruntime"`},
		{"a", []string{"--options", `{"device": "cuda"}`}, `device "cuda" cannot calibrate`},
		{"a", []string{"--output", "no/such/folder/file"}, "no/such/folder"},
		{"a", []string{"second"}, "takes one argument, the model's folder or its id on a hub, and got 2; see 'bei calibrate --help'"},
	} {
		_, err := calibrate(t, folder, c.lines, c.args...)
		require.ErrorContains(t, err, c.want)
	}
	_, err := calibrate(t, "./no-such-folder", "a")
	require.ErrorContains(t, err, `model "./no-such-folder" does not exist`)
	left, err := os.ReadFile(old)
	require.NoError(t, err)
	require.Equal(t, "old", string(left))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = bei(ctx, nil, "calibrate", folder, "--texts", old)
	require.Error(t, err)
}
