package hub

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/basetenlabs/bei-runtime/backend/hub/hubtest"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

const id = "org/bert-mean"

var (
	models = filepath.Join("..", "..", "testdata", "models")
	small  = []string{"config.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json", "chat_template.jinja"}
)

// TestMain keeps the variables of whoever runs the tests away from them.
func TestMain(m *testing.M) {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(name, "HF_") || strings.HasPrefix(name, "HUGGING") || strings.HasPrefix(name, "XDG_") || name == "TRANSFORMERS_OFFLINE" {
			os.Unsetenv(name)
		}
	}
	firstRetryWait = time.Millisecond
	goleak.VerifyTestMain(m)
}

func newHub(t *testing.T) (*hubtest.Hub, Request) {
	t.Helper()
	h := hubtest.New(t)
	h.AddFolder(t, id, filepath.Join(models, "bert-mean"))
	return h, Request{ID: id, Endpoint: h.URL, Cache: filepath.Join(t.TempDir(), "cache"), Files: small, Progress: func(Progress) {}}
}

func mustFetch(t *testing.T, r Request) Snapshot {
	t.Helper()
	s, err := Fetch(t.Context(), r)
	require.NoError(t, err)
	return s
}

// tree lists a folder: files with their sizes, links with their targets.
func tree(t *testing.T, folder string) map[string]string {
	t.Helper()
	all := make(map[string]string)
	require.NoError(t, filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		name, err := filepath.Rel(folder, path)
		require.NoError(t, err)
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			all[name], err = os.Readlink(path)
		case d.Type().IsRegular():
			var info fs.FileInfo
			info, err = d.Info()
			all[name] = fmt.Sprint(info.Size())
		}
		return err
	}))
	return all
}

// The layout is that which huggingface_hub 2.4.0 makes of the same files: a file is a relative link to a blob of its hash's name, refs
// hold the commit without a line's end.
func TestLayoutIsThatOfHuggingfaceHub(t *testing.T) {
	h, r := newHub(t)
	s := mustFetch(t, r)
	require.Equal(t, Snapshot{Folder: filepath.Join(r.Cache, "models--org--bert-mean", "snapshots", hubtest.Commit), Commit: hubtest.Commit}, s)
	want := map[string]string{"models--org--bert-mean/refs/main": "40"}
	files := hubtest.Folder(t, filepath.Join(models, "bert-mean"))
	for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json", "modules.json", "1_Pooling/config.json", "model.safetensors"} {
		etag := hubtest.ETag(name, files[name])
		want["models--org--bert-mean/blobs/"+etag] = fmt.Sprint(len(files[name]))
		want["models--org--bert-mean/snapshots/"+hubtest.Commit+"/"+name] = strings.Repeat("../", 2+strings.Count(name, "/")) + "blobs/" + etag
		want[".locks/models--org--bert-mean/"+etag+".lock"] = "0"
	}
	for _, name := range []string{"chat_template.jinja", "model.safetensors.index.json"} {
		want["models--org--bert-mean/.no_exist/"+hubtest.Commit+"/"+name] = "0"
	}
	require.Equal(t, want, tree(t, r.Cache))
	for name := range files {
		if got, err := os.ReadFile(filepath.Join(s.Folder, name)); err == nil {
			require.Equal(t, files[name], got, name)
		}
	}
	for _, asked := range h.Requests() {
		for _, needless := range []string{"README.md", ".gitattributes", ".bin", "onnx", "vocab.txt"} {
			require.NotContains(t, asked, needless)
		}
	}
}

func TestWhatIsThereIsNotFetchedAgain(t *testing.T) {
	h, r := newHub(t)
	s := mustFetch(t, r)
	h.Requests()
	require.Equal(t, s, mustFetch(t, r))
	require.Equal(t, []string{"GET /api/models/org/bert-mean/revision/main"}, h.Requests())
	r.Revision = hubtest.Commit // cannot change
	require.Equal(t, s, mustFetch(t, r))
	require.Empty(t, h.Requests())
	r.Revision = "refs/pr/1" // the same commit by another name
	require.Equal(t, s, mustFetch(t, r))
	require.Len(t, h.Requests(), 1)
	r.Revision, r.Offline = "main", true
	require.Equal(t, s, mustFetch(t, r))
	r.Revision = "refs/pr/1"
	require.Equal(t, s, mustFetch(t, r))
	r.Offline = false
	t.Setenv("HF_HUB_OFFLINE", "1")
	require.Equal(t, s, mustFetch(t, r))
	require.Empty(t, h.Requests())
}

func TestWithoutTheHubTheCacheServes(t *testing.T) {
	h, r := newHub(t)
	s := mustFetch(t, r)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"busy": func(w http.ResponseWriter, _ *http.Request) bool {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return true
		},
		"cut": func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
	} {
		h.Answer(answer)
		core, logs := observer.New(zap.WarnLevel)
		r.Log = zap.New(core)
		require.Equal(t, s, mustFetch(t, r), name)
		require.Equal(t, 1, logs.FilterMessageSnippet("using what the cache has").Len())
	}
	h.Close()
	require.Equal(t, s, mustFetch(t, r))
}

// A cache that Python's libraries have filled has other marks.
func TestCacheOfPython(t *testing.T) {
	_, r := newHub(t)
	s := mustFetch(t, r)
	r.Offline = true
	require.NoError(t, os.RemoveAll(filepath.Join(r.Cache, "models--org--bert-mean", ".no_exist")))
	mustFetch(t, r) // it has modules.json
	require.NoError(t, os.Remove(filepath.Join(s.Folder, "modules.json")))
	_, err := Fetch(t.Context(), r) // as transformers leaves it, which never asks for modules.json
	require.ErrorContains(t, err, "does not tell whether the model has modules.json")
	require.NoError(t, os.WriteFile(filepath.Join(s.Folder, ".gitattributes"), nil, 0o600)) // as snapshot_download of all files
	mustFetch(t, r)
	require.NoError(t, os.Remove(filepath.Join(s.Folder, "model.safetensors")))
	_, err = Fetch(t.Context(), r)
	require.ErrorContains(t, err, "neither model.safetensors nor model.safetensors.index.json")
	r.Revision = "v2"
	_, err = Fetch(t.Context(), r)
	require.ErrorContains(t, err, "has no such revision; fetch it once without HF_HUB_OFFLINE")
	r.Cache = filepath.Join(r.Cache, "none")
	_, err = Fetch(t.Context(), r)
	require.ErrorContains(t, err, "does not exist")
}

func TestSymlinkedCache(t *testing.T) {
	_, r := newHub(t)
	real := t.TempDir()
	require.NoError(t, os.Symlink(real, r.Cache))
	s := mustFetch(t, r)
	require.FileExists(t, filepath.Join(s.Folder, "1_Pooling", "config.json"))
	require.FileExists(t, filepath.Join(real, "models--org--bert-mean", "refs", "main"))
}

func TestShards(t *testing.T) {
	h, r := newHub(t)
	r.ID = "sharded" // an id without an organisation
	h.AddFolder(t, r.ID, filepath.Join(models, "bert-max-sharded"))
	s := mustFetch(t, r)
	shards, err := filepath.Glob(filepath.Join(s.Folder, "model-*.safetensors"))
	require.NoError(t, err)
	require.NotEmpty(t, shards)
	r.Offline = true
	mustFetch(t, r)
	require.NoError(t, os.Remove(shards[0]))
	_, err = Fetch(t.Context(), r)
	require.ErrorContains(t, err, "lacks "+filepath.Base(shards[0]))
	r.Offline = false
	mustFetch(t, r)
	require.FileExists(t, shards[0])
}

func TestTokens(t *testing.T) {
	h, r := newHub(t)
	files := hubtest.Folder(t, filepath.Join(models, "bert-mean"))
	h.Add("org/gated", hubtest.Model{Files: files, Gated: true, Token: "right"})
	h.Add("org/private", hubtest.Model{Files: files, Token: "right"})
	for _, c := range []struct{ id, token, want string }{
		{"org/gated", "", `model "org/gated" at revision "main" of the hub ` + h.URL + `: the model is gated`},
		{"org/gated", "wrong", "the token's account has no access"},
		{"org/private", "", "there is no such model, or it is private"},
		{"org/private", "wrong", "there is no such model, or it is private"},
		{"org/private", "no\ntoken", "characters that no token has"},
		{"org/unknown", "right", "there is no such model, or it is private"},
		{"org/gated", "right", ""},
		{"org/private", "right", ""},
	} {
		r.ID, r.Token = c.id, c.token
		_, err := Fetch(t.Context(), r)
		if c.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, c.want)
		require.Contains(t, err.Error(), c.id)
		if c.token != "" {
			require.NotContains(t, err.Error(), c.token)
		}
	}
	r.ID, r.Token = id, "stale"
	h.Answer(func(w http.ResponseWriter, _ *http.Request) bool {
		http.Error(w, "Invalid credentials", http.StatusUnauthorized)
		return true
	})
	_, err := Fetch(t.Context(), r)
	require.ErrorContains(t, err, "the token is not valid")
	h.Answer(nil)
	r.ID, r.Token = "org/private", ""
	home := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, "token"), []byte("right\n"), 0o600))
	for _, variable := range [][2]string{{"HF_TOKEN", "right"}, {"HF_TOKEN_PATH", filepath.Join(home, "token")}, {"HF_HOME", home}} {
		t.Run(variable[0], func(t *testing.T) {
			r.Cache = t.TempDir()
			t.Setenv(variable[0], variable[1])
			mustFetch(t, r)
			t.Setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
			r.Cache = t.TempDir()
			_, err := Fetch(t.Context(), r)
			require.ErrorContains(t, err, "private")
		})
	}
}

func TestFoldersOfTheEnvironment(t *testing.T) {
	for _, c := range []struct {
		variables map[string]string
		want      string
	}{
		{map[string]string{"HOME": "/h"}, "/h/.cache/huggingface/hub"},
		{map[string]string{"HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"},
		{map[string]string{"HOME": "/h", "XDG_CACHE_HOME": "/x", "HF_HOME": "~/y"}, "/h/y/hub"},
		{map[string]string{"HF_HOME": "/y", "HUGGINGFACE_HUB_CACHE": "/z"}, "/z"},
		{map[string]string{"HUGGINGFACE_HUB_CACHE": "/z", "HF_HUB_CACHE": "/a"}, "/a"},
	} {
		t.Run(c.want, func(t *testing.T) {
			for name, value := range c.variables {
				t.Setenv(name, value)
			}
			require.Equal(t, c.want, readEnvironment().cache)
		})
	}
}

func TestRequestsThatCannotBe(t *testing.T) {
	h, r := newHub(t)
	for _, bad := range []string{"", "a/b/c", "../x", "a/..", "a--b/c", ".a/b", "a/b.", "a b", "a/b\x00", "/a/b", "a/" + strings.Repeat("b", 96)} {
		require.False(t, IsID(bad), bad)
		q := r
		q.ID = bad
		_, err := Fetch(t.Context(), q)
		require.Equal(t, status.InvalidArgument, status.CodeOf(err))
	}
	for _, good := range []string{"gpt2", "org/name", "BAAI/bge-m3", "a/b_c.d-1"} {
		require.True(t, IsID(good), good)
	}
	for _, bad := range []string{"../../x", "a/../b", "/a", "a/", ".hidden", "a b", "a\nb", strings.Repeat("a", 256)} {
		q := r
		q.Revision = bad
		_, err := Fetch(t.Context(), q)
		require.ErrorContains(t, err, "no name of a branch", bad)
	}
	for _, bad := range []string{"huggingface.co", "ftp://h", "https://", "https://user:secret@h", "://"} {
		q := r
		q.Endpoint = bad
		_, err := Fetch(t.Context(), q)
		require.ErrorContains(t, err, "HF_ENDPOINT", bad)
		require.NotContains(t, err.Error(), "secret")
	}
	require.Empty(t, h.Requests())
}

func TestProgressAddsUp(t *testing.T) {
	_, r := newHub(t)
	var all []Progress
	r.Progress = func(p Progress) { all = append(all, p) }
	mustFetch(t, r)
	require.True(t, slices.IsSortedFunc(all, func(a, b Progress) int { return int(a.Done - b.Done) }))
	last := all[len(all)-1]
	require.Equal(t, last.Total, last.Done)
	require.Greater(t, last.Done, int64(295648))
}

func TestEndsWithItsContext(t *testing.T) {
	h, r := newHub(t)
	ctx, cancel := context.WithCancel(t.Context())
	h.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, ".safetensors") && r.Method == http.MethodGet {
			cancel()
			<-r.Context().Done()
		}
		return false
	})
	_, err := Fetch(ctx, r)
	require.ErrorIs(t, err, context.Canceled)
}
