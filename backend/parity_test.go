package backend

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/manifest"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// copiedModel is a tiny model in a folder that may be written to.
func copiedModel(t *testing.T, name string) Config {
	t.Helper()
	c := onnxConfig(name)
	dir := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.CopyFS(dir, os.DirFS(c.Model)))
	c.Model = dir
	return c
}

// withManifest writes a manifest of items beside a tiny model, and returns both.
func withManifest(t *testing.T, name string, items ...manifest.Item) (Config, *manifest.Manifest) {
	t.Helper()
	c := copiedModel(t, name)
	b, err := Open(background, c)
	require.NoError(t, err)
	m, err := b.Manifest(background, items)
	require.NoError(t, err)
	require.NoError(t, b.Close(background))
	require.NoError(t, m.Write(filepath.Join(c.Model, manifest.FileName)))
	return c, m
}

func item(text string, pair ...string) manifest.Item {
	it := manifest.Item{Text: &text}
	if len(pair) > 0 {
		it.Pair = &pair[0]
	}
	return it
}

// parityOf is what the info tells.
func parityOf(t *testing.T, b *Backend) (p parity) {
	t.Helper()
	text, err := b.InfoJSON()
	require.NoError(t, err)
	var info struct{ Parity parity }
	require.NoError(t, json.Unmarshal(text, &info))
	return info.Parity
}

// TestParity: a model of each kind is held to its manifest at every start, and what is not the same model does not start.
func TestParity(t *testing.T) {
	ids := manifest.Item{InputIDs: []uint32{1, 5, 6, 7}}
	typed := manifest.Item{InputIDs: []uint32{1, 5, 6}, TokenTypeIDs: []uint32{0, 0, 1}}
	for name, c := range map[string]struct {
		items  []manifest.Item
		output manifest.Output
		ranks  int
	}{
		"bert-mean":             {[]manifest.Item{item("the fox"), item("a lazy dog"), item("Where is it?"), ids, typed}, manifest.Pooled, 1},
		"qwen3-lasttoken":       {[]manifest.Item{item("the fox"), {Text: item("the fox").Text, PromptName: "query"}, ids}, manifest.Pooled, 1},
		"distilbert-splade":     {[]manifest.Item{item("the fox"), item("a lazy dog"), item("fox")}, manifest.Sparse, 1},
		"bert-classifier":       {[]manifest.Item{item("the fox"), item("a", "b"), ids}, manifest.Logits, 0},
		"bert-reranker":         {[]manifest.Item{item("the fox", "a dog"), item("the fox", "a fox"), item("q", "a")}, manifest.Logits, 1},
		"qwen3-reranker":        {[]manifest.Item{item("the fox", "a dog"), item("the fox", "a fox"), ids}, manifest.Logits, 1},
		"bert-token-classifier": {[]manifest.Item{item("the fox"), item("a lazy dog"), ids}, manifest.TokenLogits, 0},
	} {
		t.Run(name, func(t *testing.T) {
			config, m := withManifest(t, name, c.items...)
			require.Equal(t, c.output, m.Model.Output)
			require.Len(t, m.Rankings, c.ranks)
			require.NotEmpty(t, m.Files)
			for _, verify := range []string{"", "full"} {
				config.Verify = verify
				b := open(t, config)
				p := parityOf(t, b)
				require.Equal(t, parityPassed, p.State)
				require.Equal(t, len(c.items), p.Items)
				require.Zero(t, p.Skipped)
				require.Less(t, p.WorstError, 1e-4)
				if c.output == manifest.Pooled || c.output == manifest.Sparse {
					require.Greater(t, *p.WorstCosine, 0.99999)
				}
				text, err := b.Metrics()
				require.NoError(t, err)
				require.Contains(t, string(text), "bei_parity_items ")
			}
			config.Verify = ""

			// An output that is not the model's.
			at := len(c.items) - 1
			m.Rankings = nil
			for k := range m.Items[at].Values {
				m.Items[at].Values[k] += float32(1 + k%3)
			}
			require.NoError(t, m.Write(filepath.Join(config.Model, manifest.FileName)))
			_, err := Open(background, config)
			requireCode(t, status.Start, err, manifest.FileName+": parity failed in 2 places")
			require.ErrorContains(t, err, "items."+string(rune('0'+at)))

			config.Verify = "off"
			off := open(t, config)
			require.Equal(t, parityOff, parityOf(t, off).State)
			report, err := off.Verify(background, true)
			require.NoError(t, err)
			require.Len(t, report.Failures, 2, "alone and in a batch")
		})
	}
}

// TestParityNamesWhatChanged: weights, files and options that are not the manifest's.
func TestParityNamesWhatChanged(t *testing.T) {
	config, m := withManifest(t, "bert-mean", item("the fox"), item("a dog"), item("b"))
	path := filepath.Join(config.Model, manifest.FileName)
	for want, change := range map[string]func(t *testing.T, c *Config){
		"weights_fingerprint is": func(t *testing.T, c *Config) {
			m := *m
			m.WeightsFingerprint = strings.Repeat("0", 64)
			require.NoError(t, m.Write(path))
		},
		"model.pooling is [mean], but the model was opened with [cls]; leave out the options that change it": func(_ *testing.T, c *Config) { c.Pooling = "cls" },
		"model.width is 61, but the model was opened with 60": func(t *testing.T, c *Config) {
			other := *m
			other.Model.Width, other.Rankings, other.Items = 61, nil, []manifest.Item{{Text: m.Items[0].Text, Values: make(manifest.Floats, 61)}}
			require.NoError(t, other.Write(path))
		},
		"items.0": func(t *testing.T, c *Config) {
			other := *m
			other.Rankings, other.Items = nil, []manifest.Item{{InputIDs: []uint32{1 << 30}, Values: make(manifest.Floats, 60)}}
			require.NoError(t, other.Write(path))
		},
		"tokenizer.json has": func(t *testing.T, c *Config) {
			file := filepath.Join(c.Model, "tokenizer.json")
			raw, err := os.ReadFile(file)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, os.WriteFile(file, raw, 0o600)) })
			require.NoError(t, os.WriteFile(file, append(raw, '\n'), 0o600))
		},
		"unexpected end of JSON input": func(t *testing.T, c *Config) { require.NoError(t, os.WriteFile(path, []byte("{"), 0o600)) },
	} {
		t.Run(want, func(t *testing.T) {
			c := config
			change(t, &c)
			_, err := Open(background, c)
			requireCode(t, status.Start, err, want)
			require.ErrorContains(t, err, manifest.FileName)
			require.NoError(t, m.Write(path))
		})
	}
	// The same bytes in number, but others: only every byte's hash tells.
	weights := filepath.Join(config.Model, "model.safetensors")
	raw, err := os.ReadFile(weights)
	require.NoError(t, err)
	raw[len(raw)-1] ^= 1
	require.NoError(t, os.WriteFile(weights, raw, 0o600))
	config.Verify = "full"
	_, err = Open(background, config)
	require.Error(t, err)
	require.Equal(t, status.Start, status.CodeOf(err))
}

// TestParityOfOtherOptions: a default prompt or a lower max_length of the options is no other model.
func TestParityOfOtherOptions(t *testing.T) {
	long := strings.Repeat("the fox ", 6)
	config, _ := withManifest(t, "bert-mean", item("the fox"), item(long), item("b"))
	config.DefaultPrompt, config.MaxLength = "a prompt: ", 8
	p := parityOf(t, open(t, config))
	require.Equal(t, parityPassed, p.State)
	require.Equal(t, 1, p.Skipped)
}

func TestParityWithoutAManifest(t *testing.T) {
	b := open(t, onnxConfig("bert-mean"))
	require.Equal(t, parityNone, parityOf(t, b).State)
	_, err := b.Verify(background, false)
	requireCode(t, status.Start, err, "bei verify --write")
	require.Equal(t, parity{State: parityNone, Reason: "there is no model folder"}, parityOf(t, openMock(t, nil)))
	_, err = openMock(t, nil).Manifest(background, nil)
	requireCode(t, status.InvalidArgument, err, "a manifest is of a model's folder")
}

// TestParityOfTheMock: it computes no model, unless the references are its own; then faults of an engine can be tried.
func TestParityOfTheMock(t *testing.T) {
	config, _ := withManifest(t, "bert-mean", item("the fox"), item("a dog"), item("b"))
	c := mockConfig()
	c.Model, c.Mock.VocabSize, c.Mock.MaxLength = config.Model, 0, 64
	require.Equal(t, parityNone, parityOf(t, open(t, c)).State)
	own, err := open(t, c).Manifest(background, []manifest.Item{item("the fox"), item("a dog"), {InputIDs: []uint32{3, 4}}})
	require.NoError(t, err)
	require.NoError(t, own.Write(filepath.Join(c.Model, manifest.FileName)))
	require.Equal(t, parityPassed, parityOf(t, open(t, c)).State)

	c.Mock.Faults = []mock.Fault{{Kind: "nan", From: 4, Count: 1}}
	_, err = Open(background, c)
	requireCode(t, status.Start, err, "items.1")
	require.ErrorContains(t, err, "NaN")
}

// TestVerifyOffIsLogged: whoever serves unverified outputs is told.
func TestVerifyOffIsLogged(t *testing.T) {
	var lines bytes.Buffer
	done := make(chan struct{}, 100)
	SetLogSink(func(_ int32, line []byte) { lines.Write(append(line, '\n')); done <- struct{}{} })
	defer SetLogSink(nil)
	config, _ := withManifest(t, "bert-mean", item("the fox"))
	config.Verify, config.Log.Level = "off", "warn"
	require.NoError(t, open(t, config).Close(background))
	<-done
	require.Contains(t, lines.String(), "the outputs are not verified")
}
