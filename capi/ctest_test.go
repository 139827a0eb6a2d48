package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// compileCTests builds the C tests, with further flags.
func compileCTests(t *testing.T, dir, name string, flags ...string) string {
	program := filepath.Join(dir, name)
	sources := must(filepath.Glob("ctest/*.c"))
	require.NotEmpty(t, sources)
	args := append([]string{"-std=c11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-I" + filepath.Join(root, "include")}, sources...)
	args = append(append(args, flags...), "-L"+dist, "-lbei", "-lm", "-o", program)
	run(t, nil, "gcc", args...)
	return program
}

// TestC runs each C test in a process of its own: under the address and leak sanitizers, but for those that measure memory or
// compute on ONNX Runtime.
func TestC(t *testing.T) {
	dir := t.TempDir()
	plain := compileCTests(t, dir, "plain")
	checked := compileCTests(t, dir, "checked", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
	env := append(cTestEnvironment(t, dir), libraryPath())
	for _, name := range strings.Fields(run(t, env, plain, "list")) {
		program := checked
		if name == "growth" || slices.ContainsFunc([]string{"minilm", "golden", "outputs"}, func(p string) bool { return strings.HasPrefix(name, p) }) {
			program = plain
		}
		t.Run(name, func(t *testing.T) { run(t, env, program, name) })
	}
	t.Run("seeded leak", func(t *testing.T) {
		c := exec.Command(checked, "leak_check")
		c.Env = append(append(os.Environ(), env...), "LEAK=error")
		out, err := c.CombinedOutput()
		require.Error(t, err, "the leak checker does not see a bei_error that is not freed")
		require.Contains(t, string(out), "LeakSanitizer: detected memory leaks")
	})
}

// cTestEnvironment is what ctest/check.c's setting() reads.
func cTestEnvironment(t *testing.T, dir string) []string {
	golden := filepath.Join(root, "testdata", "minilm")
	var texts []struct{ Text string }
	require.NoError(t, json.Unmarshal(must(os.ReadFile(filepath.Join(golden, "texts.json"))), &texts))
	var packed bytes.Buffer
	for _, text := range texts {
		require.NoError(t, binary.Write(&packed, binary.NativeEndian, uint32(len(text.Text))))
		packed.WriteString(text.Text)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "texts"), packed.Bytes(), 0o600))
	return []string{
		"BEI_TEST_DIR=" + dir,
		"BEI_TEST_MODEL=" + model(t),
		"BEI_TEST_GOLDEN=" + filepath.Join(golden, "embeddings.f32"),
		"BEI_TEST_TEXTS=" + filepath.Join(dir, "texts"),
		"BEI_TEST_FOLDERS=" + modelFolders(t),
		"BEI_TRT_SHIM_DIR=" + dir, // which has none
		"BEI_TEST_PREDICTIONS=" + goldenPredictions(t, dir),
		"BEI_TEST_ENTITIES=" + goldenEntities(t, dir),
		"BEI_TEST_OUTPUTS=" + outputs(t),
	}
}

// modelFolders makes folders that are each wrong in one way, from a tiny model that is right.
func modelFolders(t *testing.T) string {
	dir := t.TempDir()
	good := filepath.Join(root, "testdata", "models", "bert-mean")
	folder := func(name string, change func(path func(string) string)) {
		to := filepath.Join(dir, name)
		require.NoError(t, os.CopyFS(to, os.DirFS(good)))
		change(func(file string) string { return filepath.Join(to, file) })
	}
	write := func(path, text string) { require.NoError(t, os.WriteFile(path, []byte(text), 0o600)) }
	replace := func(path, from, to string) {
		text := string(must(os.ReadFile(path)))
		require.Contains(t, text, from)
		write(path, strings.ReplaceAll(text, from, to))
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
	folder("no_config", func(path func(string) string) { require.NoError(t, os.Remove(path("config.json"))) })
	folder("no_weights", func(path func(string) string) { require.NoError(t, os.Remove(path("model.safetensors"))) })
	folder("cut_weights", func(path func(string) string) {
		info := must(os.Stat(path("model.safetensors")))
		require.NoError(t, os.Truncate(path("model.safetensors"), info.Size()/2))
	})
	folder("hostile_weights", func(path func(string) string) {
		write(path("model.safetensors"), "\xff\xff\xff\xff\xff\xff\xff\x7f{}")
	})
	folder("no_tensor", func(path func(string) string) {
		replace(path("model.safetensors"), "word_embeddings", "word_embeddinga")
	})
	folder("bad_config", func(path func(string) string) { write(path("config.json"), "{") })
	folder("other_family", func(path func(string) string) {
		replace(path("config.json"), `"model_type": "bert"`, `"model_type": "gpt2"`)
	})
	folder("bad_tokenizer", func(path func(string) string) { write(path("tokenizer.json"), "[1]") })
	folder("word_level", func(path func(string) string) {
		write(path("tokenizer.json"), `{"version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
			"pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
			"model": {"type": "WordLevel", "vocab": {"known": 0}, "unk_token": "[UNK]"}}`)
		write(path("tokenizer_config.json"), `{"tokenizer_class": "PreTrainedTokenizerFast"}`) // which names no tokens
	})
	return dir
}

// TestCTestsAreAll: each function of the header is called by the C tests.
func TestCTestsAreAll(t *testing.T) {
	var sources []byte
	for _, path := range must(filepath.Glob("ctest/*.c")) {
		sources = append(sources, must(os.ReadFile(path))...)
	}
	symbols := strings.Fields(run(t, nil, "nm", "-D", "--defined-only", "-j", library()))
	require.NotEmpty(t, symbols)
	require.Empty(t, slices.DeleteFunc(symbols, func(name string) bool { return bytes.Contains(sources, []byte(name+"(")) }))
}
