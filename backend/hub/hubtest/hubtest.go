// Package hubtest is a stand-in for a Hugging Face hub, for tests: it serves folders as models, with the answers that the hub gives to
// the requests of package hub, and lets a test answer in its place.
package hubtest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Commit is the commit of every model.
const Commit = "0123456789abcdef0123456789abcdef01234567"

// Model is a model as the hub has it, by its id.
type Model struct {
	Files map[string][]byte
	Gated bool   // it takes Token, and an account that has accepted the terms
	Token string // "": public
}

// Hub serves models on URL, and their large files (*.safetensors) on the URL of its storage, as the hub's storage does.
type Hub struct {
	*httptest.Server
	Storage *httptest.Server

	mutex    sync.Mutex
	models   map[string]Model
	answer   func(w http.ResponseWriter, r *http.Request) bool
	requests []string
}

// New starts a hub, which ends with the test.
func New(t testing.TB) *Hub {
	h := &Hub{models: make(map[string]Model)}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	h.Storage = httptest.NewServer(http.HandlerFunc(h.store))
	t.Cleanup(func() { h.Storage.Close(); h.Server.Close() })
	return h
}

// Add serves a model.
func (h *Hub) Add(id string, m Model) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.models[id] = m
}

// AddFolder serves a folder as a model, with what hub repositories have besides.
func (h *Hub) AddFolder(t testing.TB, id, folder string) {
	t.Helper()
	h.Add(id, Model{Files: Folder(t, folder)})
}

// Folder reads the files of a folder, and adds those that belong to a repository but not to what a model is read from.
func Folder(t testing.TB, folder string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{".gitattributes": []byte("*.safetensors filter=lfs\n"), "README.md": []byte("# model\n"),
		"pytorch_model.bin": []byte("pickle"), "onnx/model.onnx": []byte("onnx"), "onnx/config.json": []byte("{}"), "vocab.txt": []byte("[PAD]\n")}
	root := os.DirFS(folder)
	require.NoError(t, fs.WalkDir(root, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(filepath.Base(path), "golden.") {
			return err
		}
		files[path], err = fs.ReadFile(root, path)
		return err
	}))
	return files
}

// Answer lets f answer requests to the hub and to its storage, where it returns true.
func (h *Hub) Answer(f func(w http.ResponseWriter, r *http.Request) bool) {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	h.answer = f
}

// Requests returns what was asked since the last call: METHOD and path.
func (h *Hub) Requests() []string {
	h.mutex.Lock()
	defer h.mutex.Unlock()
	r := h.requests
	h.requests = nil
	return r
}

func (h *Hub) answered(w http.ResponseWriter, r *http.Request) bool {
	h.mutex.Lock()
	h.requests = append(h.requests, r.Method+" "+r.URL.Path)
	answer := h.answer
	h.mutex.Unlock()
	return answer != nil && answer(w, r)
}

// Refuse answers with an error as the hub writes it.
func Refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("X-Error-Code", code)
	w.Header().Set("X-Error-Message", message)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"error":%q}`, message)
}

func (h *Hub) serve(w http.ResponseWriter, r *http.Request) {
	if h.answered(w, r) {
		return
	}
	if path, ok := strings.CutPrefix(r.URL.Path, "/api/models/"); ok {
		id, revision, _ := strings.Cut(path, "/revision/")
		if m, ok := h.allowed(w, r, id, revision); ok {
			h.list(w, id, m)
		}
		return
	}
	id, path, found := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/resolve/")
	revision, file, _ := strings.Cut(path, "/")
	if !found {
		http.NotFound(w, r)
		return
	}
	if m, ok := h.allowed(w, r, id, revision); ok {
		h.resolve(w, r, m, file)
	}
}

// allowed finds a model that the request may read, or refuses.
func (h *Hub) allowed(w http.ResponseWriter, r *http.Request, id, revision string) (Model, bool) {
	h.mutex.Lock()
	m, ok := h.models[id]
	h.mutex.Unlock()
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case ok && m.Gated && token == "":
		Refuse(w, http.StatusUnauthorized, "GatedRepo", "Access to model "+id+" is restricted. You must be authenticated.")
	case ok && m.Gated && token != m.Token:
		Refuse(w, http.StatusForbidden, "GatedRepo", "Access to model "+id+" is restricted and you are not in the authorized list.")
	case !ok || (m.Token != "" && token != m.Token):
		status := http.StatusUnauthorized // the hub hides from strangers what there is
		if token != "" {
			status = http.StatusNotFound
		}
		Refuse(w, status, "RepoNotFound", "Repository not found")
	case revision != "main" && revision != "refs/pr/1" && revision != Commit:
		Refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id: "+revision)
	default:
		return m, true
	}
	return m, false
}

func (h *Hub) list(w http.ResponseWriter, id string, m Model) {
	type sibling struct {
		Name string `json:"rfilename"`
	}
	var siblings []sibling
	for name := range m.Files {
		siblings = append(siblings, sibling{name})
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(map[string]any{"_id": "1", "id": id, "modelId": id, "sha": Commit, "private": false, "siblings": siblings})
}

// IsLarge tells whether the hub keeps a file in its storage.
func IsLarge(name string) bool { return strings.HasSuffix(name, ".safetensors") }

// ETag is the hash by which the hub and the cache name a content.
func ETag(name string, content []byte) string {
	if IsLarge(name) {
		return fmt.Sprintf("%x", sha256.Sum256(content))
	}
	return fmt.Sprintf("%x", sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(content), content)))
}

func (h *Hub) resolve(w http.ResponseWriter, r *http.Request, m Model, file string) {
	w.Header().Set("X-Repo-Commit", Commit)
	content, ok := m.Files[file]
	if !ok {
		Refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		return
	}
	etag := `"` + ETag(file, content) + `"`
	if IsLarge(file) {
		w.Header().Set("X-Linked-Size", fmt.Sprint(len(content)))
		w.Header().Set("X-Linked-Etag", etag)
		w.Header().Set("ETag", `"of the redirect"`)
		w.Header().Set("Location", h.Storage.URL+r.URL.Path+"?Signature=secret")
		w.WriteHeader(http.StatusFound)
		return
	}
	w.Header().Set("ETag", etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// store serves large files to whoever has the signature, and refuses tokens: they are for the hub alone.
func (h *Hub) store(w http.ResponseWriter, r *http.Request) {
	if h.answered(w, r) {
		return
	}
	if r.Header.Get("Authorization") != "" || r.URL.Query().Get("Signature") != "secret" {
		http.Error(w, "a token came, or no signature", http.StatusBadRequest)
		return
	}
	id, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/resolve/")
	_, file, _ := strings.Cut(path, "/")
	h.mutex.Lock()
	content := h.models[id].Files[file]
	h.mutex.Unlock()
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}
