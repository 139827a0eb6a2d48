package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/hub/hubtest"
)

// TestModelsOfAHub: each subcommand takes an id, first from the hub, then from the cache alone.
func TestModelsOfAHub(t *testing.T) {
	h := hubtest.New(t)
	h.Add("org/model", hubtest.Model{Files: hubtest.Folder(t, model), Token: "right"})
	cache := t.TempDir()
	t.Setenv("HF_ENDPOINT", h.URL)
	t.Setenv("HF_HUB_CACHE", cache)
	t.Setenv("HF_TOKEN", "")
	engine := []string{"--threads", "1"}
	if os.Getenv(ort.LibraryVariable) == "" {
		engine = append(engine, "--options", fmt.Sprintf(`{"onnxruntime": {"library": %q}}`, suite.Dependency(t, "onnxruntime/libonnxruntime.so.1")))
	}
	run := func(in string, args ...string) (string, error) {
		return bei(t.Context(), strings.NewReader(in), append(args, engine...)...)
	}
	_, err := run("", "info", "org/model")
	require.ErrorContains(t, err, `there is no such folder here, and model "org/model" at revision "main" of the hub `+h.URL+`: there is no such model, or it is private`)
	_, err = run("", "info", "org/model", "--hf-token", "right", "--revision", "v3")
	require.ErrorContains(t, err, `at revision "v3"`)

	out, err := run("", "info", "org/model", "--hf-token", "right", "--revision", "main")
	require.NoError(t, err)
	require.NotContains(t, out, "right")
	var info struct{ Model, Commit, Folder string }
	require.NoError(t, json.Unmarshal([]byte(out), &info))
	require.Equal(t, "org/model", info.Model)
	require.Equal(t, hubtest.Commit, info.Commit)

	h.Close()
	t.Setenv("HF_HUB_OFFLINE", "1")
	want, err := run("one\ntwo\n", "embed", model)
	require.NoError(t, err)
	got, err := run("one\ntwo\n", "embed", "org/model")
	require.NoError(t, err)
	require.Equal(t, want, got)
	_, err = run("", "bench", "org/model", "--batches", "1x4", "--rounds", "1", "--iterations", "1")
	require.NoError(t, err)
	texts := filepath.Join(t.TempDir(), "texts")
	require.NoError(t, os.WriteFile(texts, []byte("one\ntwo\n"), 0o600))
	_, err = run("", "calibrate", "org/model", "--texts", texts)
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(info.Folder, calibration.FileName))
	_, err = run("", "info", "org/other")
	require.ErrorContains(t, err, "fetch it once without HF_HUB_OFFLINE")
}
