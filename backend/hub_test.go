package backend

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/hub"
	"github.com/basetenlabs/bei-runtime/backend/hub/hubtest"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/tokenize"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// hubConfig runs a tiny model that a stand-in hub serves.
func hubConfig(t *testing.T, name string) (*hubtest.Hub, Config) {
	h := hubtest.New(t)
	h.AddFolder(t, "org/"+name, modelFolder(name))
	c := onnxConfig(name)
	c.Model, c.Hub = "org/"+name, HubConfig{Endpoint: h.URL, Cache: t.TempDir()}
	return h, c
}

func TestModelOfAHub(t *testing.T) {
	// One with a dense module, one with shards, one whose prompts lie in newer files.
	for _, name := range []string{"bert-mean", "bert-cls-dense", "bert-max-sharded", "bert-prompts-new-files"} {
		h, c := hubConfig(t, name)
		var last hub.Progress
		c.Hub.Progress = func(p hub.Progress) { last = p }
		want, fetched := open(t, onnxConfig(name)), open(t, c)
		require.Positive(t, last.Done)
		require.Equal(t, last.Total, last.Done)
		h.Close()
		c.Hub.Offline, c.Revision = true, "main"
		for _, b := range []*Backend{fetched, open(t, c)} {
			batch := packed([]uint32{1, 2, 3})
			rows := [2][]float32{rowsFor(want, 1), rowsFor(b, 1)}
			require.NoError(t, want.Embed(background, batch, CallOptions{}, Output{Rows: rows[0]}))
			require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Rows: rows[1]}))
			require.Equal(t, rows[0], rows[1])
			text, err := b.InfoJSON()
			require.NoError(t, err)
			var info struct{ Model, Folder, Commit string }
			require.NoError(t, json.Unmarshal(text, &info))
			require.Equal(t, "org/"+name, info.Model)
			require.Equal(t, hubtest.Commit, info.Commit)
			require.Equal(t, filepath.Join(c.Hub.Cache, "models--org--"+name, "snapshots", hubtest.Commit), info.Folder)
		}
	}
}

// TestWordsOfAModelOfAHub: which token is unknown, and so continues no word, is read from what was fetched.
func TestWordsOfAModelOfAHub(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "model")
	require.NoError(t, os.CopyFS(folder, os.DirFS(modelFolder("bert-token-classifier"))))
	path := filepath.Join(folder, "tokenizer_config.json")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, bytes.Replace(text, []byte(`"[UNK]"`), []byte(`"##n"`), 1), 0o600))
	h := hubtest.New(t)
	h.AddFolder(t, "org/words", folder)
	c := onnxConfig("bert-token-classifier")
	var inside [3][]bool
	for i, model := range []string{c.Model, folder, "org/words"} {
		c.Model, c.Hub = model, HubConfig{Endpoint: h.URL, Cache: t.TempDir()}
		b := open(t, c)
		const text = "nnn"
		var enc tokenize.Encoding
		require.NoError(t, b.tokenizer.Encode(tokenize.Input{Text: text}, tokenize.Options{Offsets: true}, &enc))
		inside[i] = b.tagger.words.Inside(text, &enc, nil)
	}
	require.Equal(t, []bool{false, true, true}, inside[0])
	require.Equal(t, []bool{false, false, false}, inside[1])
	require.Equal(t, inside[1], inside[2])
}

// TestFilesOfAHubAreEnough: every model of the tests is read from what is fetched as from its whole folder.
func TestFilesOfAHubAreEnough(t *testing.T) {
	h := hubtest.New(t)
	folders, err := filepath.Glob(modelFolder("*/config.json"))
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	cache := t.TempDir()
	for _, file := range folders {
		folder := filepath.Dir(file)
		id := "org/" + filepath.Base(folder)
		h.AddFolder(t, id, folder)
		s, err := hub.Fetch(background, hub.Request{ID: id, Endpoint: h.URL, Cache: cache, Files: modelFiles()})
		require.NoError(t, err)
		read := func(dir string) (m *arch.Model, text arch.Text) {
			w, err := weights.Open(dir)
			require.NoError(t, err)
			defer w.Close()
			text, err = arch.ReadText(dir)
			require.NoError(t, err)
			m, err = arch.Read(dir, w, arch.Options{})
			require.NoError(t, err, id)
			return m, text
		}
		want, wantText := read(folder)
		got, gotText := read(s.Folder)
		require.Equal(t, want, got, id)
		require.Equal(t, wantText, gotText, id)
		require.FileExists(t, filepath.Join(s.Folder, "tokenizer.json"))
	}
}

func TestModelOfAHubThatCannotBe(t *testing.T) {
	_, c := hubConfig(t, "bert-mean")
	for _, w := range []struct {
		change func(c *Config)
		code   status.Code
		text   string
	}{
		{func(c *Config) { c.Model = "org/other" }, status.Start, `there is no such folder here, and model "org/other" at revision "main" of the hub`},
		{func(c *Config) { c.Revision = "v3" }, status.Start, `at revision "v3"`},
		{func(c *Config) { c.Revision = "../v3" }, status.InvalidArgument, "no name of a branch"},
		{func(c *Config) { c.Hub.Endpoint = "hub" }, status.InvalidArgument, "must be a URL"},
		{func(c *Config) { c.Hub.Offline = true }, status.Start, "the cache"},
		{func(c *Config) { c.Model, c.Revision = modelFolder("bert-mean"), "main" }, status.InvalidArgument, "is for models of a hub, and model"},
	} {
		bad := c
		w.change(&bad)
		_, err := Open(background, bad)
		requireCode(t, w.code, err, w.text)
	}
}

// No request leaves for a folder, whatever the environment says.
func TestFoldersAskNoHub(t *testing.T) {
	h := hubtest.New(t)
	t.Setenv("HF_ENDPOINT", h.URL)
	t.Setenv("HF_TOKEN", "token")
	open(t, onnxConfig("bert-mean"))
	require.Empty(t, h.Requests())
}
