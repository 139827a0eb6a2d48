package hub

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/hub/hubtest"
)

const weightsName = "model.safetensors"

// isBody tells whether a request is for the bytes of the weights.
func isBody(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/"+weightsName) && r.URL.Query().Has("Signature")
}

// weightsOf returns the weights that the hub serves, and where the cache keeps them.
func weightsOf(t *testing.T, r Request) (content []byte, blob string) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(models, "bert-mean", weightsName))
	require.NoError(t, err)
	return content, filepath.Join(r.Cache, "models--org--bert-mean", "blobs", hubtest.ETag(weightsName, content))
}

func requireWeights(t *testing.T, r Request, s Snapshot) {
	t.Helper()
	content, _ := weightsOf(t, r)
	got, err := os.ReadFile(filepath.Join(s.Folder, weightsName))
	require.NoError(t, err)
	require.True(t, bytes.Equal(content, got))
}

// sendPart begins to send the weights from the byte that was asked for, and breaks the connection after n bytes.
func sendPart(w http.ResponseWriter, r *http.Request, content []byte, n int) {
	from := 0
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
	w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		w.WriteHeader(http.StatusPartialContent)
	}
	_, _ = w.Write(content[from:min(from+n, len(content))])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestBrokenConnectionsAreContinued(t *testing.T) {
	h, r := newHub(t)
	content, _ := weightsOf(t, r)
	var ranges []string
	h.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if !isBody(r) {
			return false
		}
		if ranges = append(ranges, r.Header.Get("Range")); len(ranges) < maxTries {
			sendPart(w, r, content, 1000)
		}
		return false
	})
	requireWeights(t, r, mustFetch(t, r))
	require.Equal(t, []string{"", "bytes=1000-", "bytes=2000-", "bytes=3000-", "bytes=4000-"}, ranges)
}

func TestInterruptedFetchIsContinuedByTheNext(t *testing.T) {
	for name, c := range map[string]struct {
		left  func(content []byte) []byte
		asked []string
	}{
		"a part":    {func(b []byte) []byte { return b[:5000] }, []string{"bytes=5000-"}},
		"all":       {func(b []byte) []byte { return b }, nil},
		"nothing":   {func([]byte) []byte { return nil }, []string{""}},
		"other":     {func([]byte) []byte { return bytes.Repeat([]byte("x"), 5000) }, []string{"bytes=5000-", ""}},
		"too much":  {func(b []byte) []byte { return append(bytes.Clone(b), 1) }, nil},
		"all other": {func(b []byte) []byte { return make([]byte, len(b)) }, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			h, r := newHub(t)
			content, blob := weightsOf(t, r)
			require.NoError(t, os.MkdirAll(filepath.Dir(blob), 0o755))
			require.NoError(t, os.WriteFile(blob+incomplete, c.left(content), 0o600))
			var asked []string
			h.Answer(func(_ http.ResponseWriter, r *http.Request) bool {
				if isBody(r) {
					asked = append(asked, r.Header.Get("Range"))
				}
				return false
			})
			requireWeights(t, r, mustFetch(t, r))
			require.Equal(t, c.asked, asked)
			require.NoFileExists(t, blob+incomplete)
		})
	}
}

// The hub answers small files from elsewhere on its host, and mirrors keep large ones on theirs.
func TestRedirectsOnTheSameHost(t *testing.T) {
	h, r := newHub(t)
	content, _ := weightsOf(t, r)
	h.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		switch name := filepath.Base(r.URL.Path); {
		case r.URL.Query().Has("elsewhere") && name == weightsName:
			w.Header().Set("ETag", `"of the storage"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		case r.URL.Query().Has("elsewhere") || !strings.Contains(r.URL.Path, "/resolve/"):
			return false
		default:
			if name == weightsName {
				w.Header().Set("X-Linked-Size", fmt.Sprint(len(content)))
				w.Header().Set("X-Linked-Etag", hubtest.ETag(weightsName, content))
			}
			http.Redirect(w, r, r.URL.Path+"?elsewhere", http.StatusTemporaryRedirect)
		}
		return true
	})
	requireWeights(t, r, mustFetch(t, r))
}

func TestPartThatCannotBeContinued(t *testing.T) {
	h, r := newHub(t)
	content, blob := weightsOf(t, r)
	require.NoError(t, os.MkdirAll(filepath.Dir(blob), 0o755))
	require.NoError(t, os.WriteFile(blob+incomplete, content[:5000], 0o600))
	h.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if isBody(r) && r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return true
		}
		return false
	})
	requireWeights(t, r, mustFetch(t, r))
}

func TestStorageWithoutRanges(t *testing.T) {
	h, r := newHub(t)
	content, blob := weightsOf(t, r)
	require.NoError(t, os.MkdirAll(filepath.Dir(blob), 0o755))
	require.NoError(t, os.WriteFile(blob+incomplete, content[:5000], 0o600))
	h.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if isBody(r) {
			_, _ = w.Write(content)
			return true
		}
		return false
	})
	requireWeights(t, r, mustFetch(t, r))
}

func TestDamagedBlobIsFetchedAnew(t *testing.T) {
	_, r := newHub(t)
	s := mustFetch(t, r)
	content, blob := weightsOf(t, r)
	require.NoError(t, os.WriteFile(blob, content[:100], 0o600))
	require.NoError(t, os.Remove(filepath.Join(s.Folder, weightsName)))
	requireWeights(t, r, mustFetch(t, r))
}

// Each of these ends with an error that names model, revision and file, and leaves no blob that a later fetch would take.
func TestFaultsOfTheHub(t *testing.T) {
	text := func(text string) func(w http.ResponseWriter, r *http.Request, content []byte) {
		return func(w http.ResponseWriter, _ *http.Request, _ []byte) { fmt.Fprint(w, text) }
	}
	isList := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/api/") }
	isHead := func(r *http.Request) bool {
		return r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "/"+weightsName)
	}
	header := func(pairs ...string) func(w http.ResponseWriter, r *http.Request, content []byte) {
		return func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			for i := 0; i < len(pairs); i += 2 {
				w.Header().Set(pairs[i], pairs[i+1])
			}
		}
	}
	sha := strings.Repeat("a", 64)
	for name, c := range map[string]struct {
		at     func(r *http.Request) bool
		answer func(w http.ResponseWriter, r *http.Request, content []byte)
		want   string
	}{
		"HTML in place of JSON": {isList, text("<html>log in</html>"), `begins "<html>log in</html>"; is HF_ENDPOINT a hub`},
		"nothing":               {isList, text(""), "where JSON belongs"},
		"broken JSON":           {isList, text(`{"sha": `), "no valid JSON"},
		"no commit":             {isList, text(`{"sha": "../../x", "siblings": []}`), `names no commit but "../../x"`},
		"no model":              {isList, text(`{"sha": "` + hubtest.Commit + `", "siblings": [{"rfilename": "data.csv"}]}`), "it has no config.json"},
		"no safetensors": {isList, text(`{"sha": "` + hubtest.Commit + `", "siblings": [{"rfilename": "config.json"}, {"rfilename": "pytorch_model.bin"}]}`),
			`neither model.safetensors nor model.safetensors.index.json (it has "pytorch_model.bin"): save it with save_pretrained`},
		"no revision": {isList, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			hubtest.Refuse(w, http.StatusNotFound, "RevisionNotFound", "Invalid rev id")
		}, "no such revision"},
		"bad token": {isList, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			http.Error(w, "Invalid credentials", http.StatusUnauthorized)
		}, "no such model, or it is private"},
		"busy": {isList, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			http.Error(w, "", http.StatusServiceUnavailable)
		}, `it answers "503 Service Unavailable"; try again later`},
		"asks for an hour": {isList, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		}, "asks to wait for 1h0m0s"},
		"redirects for ever": {isList, func(w http.ResponseWriter, r *http.Request, _ []byte) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}, "redirects more than 10 times"},
		"file is gone": {isHead, func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			hubtest.Refuse(w, http.StatusNotFound, "EntryNotFound", "Entry not found")
		}, "file model.safetensors: there is no such file"},
		"ETag is a path": {isHead, header("X-Linked-Etag", "../../../../x", "X-Linked-Size", "5"), `file model.safetensors: its ETag "../../../../x" is no hash`},
		"ETag is none":   {isHead, header(), "is no hash"},
		"no size":        {isHead, header("X-Linked-Etag", sha, "X-Linked-Size", "many"), "does not tell the size"},
		"negative size":  {isHead, header("X-Linked-Etag", sha, "X-Linked-Size", "-5"), "does not tell the size"},
		"too large":      {isHead, header("X-Linked-Etag", sha, "X-Linked-Size", "17592186044416"), "MB are needed; free space"},
		"absurd size":    {isHead, header("X-Linked-Etag", sha, "X-Linked-Size", "9223372036854775807"), "it tells a size of 9223372036854775807 bytes, the limit is 17592186044416"},
		"other hash":     {isHead, header("X-Linked-Etag", sha, "X-Linked-Size", "295648"), "its hash is not what the hub told"},
		"cut body":       {isBody, func(w http.ResponseWriter, r *http.Request, content []byte) { sendPart(w, r, content, 10) }, "the connection broke after 50 of 295648 bytes"},
		"short body":     {isBody, func(w http.ResponseWriter, _ *http.Request, content []byte) { _, _ = w.Write(content[:10]) }, "the connection broke after 10 of 295648 bytes"},
		"long body":      {isBody, func(w http.ResponseWriter, _ *http.Request, content []byte) { _, _ = w.Write(append(content, 1)) }, "more than the 295648 bytes"},
		"HTML body": {isBody, func(w http.ResponseWriter, _ *http.Request, content []byte) {
			_, _ = w.Write(bytes.Repeat([]byte("<p>"), len(content))[:len(content)])
		}, "its hash is not what the hub told"},
		"wrong range": {isBody, func(w http.ResponseWriter, r *http.Request, content []byte) {
			if r.Header.Get("Range") == "" {
				sendPart(w, r, content, 10)
			}
			w.Header().Set("Content-Range", "bytes 0-5/6")
			w.WriteHeader(http.StatusPartialContent)
		}, "the hub answers the range from byte 10 with \"bytes 0-5/6\""},
		"slow": {isBody, func(w http.ResponseWriter, r *http.Request, content []byte) {
			_, _ = w.Write(content[:10])
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "no byte came for 100ms; what came before is kept"},
		"silent": {isBody, func(_ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }, "timeout awaiting response headers"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("HF_HUB_DOWNLOAD_TIMEOUT", "0.1")
			h, r := newHub(t)
			content, blob := weightsOf(t, r)
			h.Answer(func(w http.ResponseWriter, r *http.Request) bool {
				if c.at(r) {
					c.answer(w, r, bytes.Clone(content))
				}
				return c.at(r)
			})
			_, err := Fetch(t.Context(), r)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, `model "org/bert-mean" at revision "main" of the hub `+h.URL)
			require.NotContains(t, err.Error(), "Signature")
			require.NoFileExists(t, blob)
			require.NoFileExists(t, filepath.Join(r.Cache, "models--org--bert-mean", "refs", "main"))
			h.Answer(nil)
			requireWeights(t, r, mustFetch(t, r)) // and what is left hinders nobody
		})
	}
}

func TestUnreachable(t *testing.T) {
	h, r := newHub(t)
	h.Close()
	_, err := Fetch(t.Context(), r)
	require.ErrorContains(t, err, "it cannot be reached")
	require.ErrorContains(t, err, "HF_HUB_OFFLINE=1")
}

func TestBusyHubIsAskedAgain(t *testing.T) {
	h, r := newHub(t)
	var asked sync.Map
	var n atomic.Int32
	h.Answer(func(w http.ResponseWriter, r *http.Request) bool {
		if _, again := asked.LoadOrStore(r.Method+r.URL.String(), true); again {
			return false
		}
		w.WriteHeader([]int{500, 502, 503, 504, 429, 408}[n.Add(1)%6])
		return true
	})
	requireWeights(t, r, mustFetch(t, r))
}

func TestFullDisk(t *testing.T) {
	_, r := newHub(t)
	_, blob := weightsOf(t, r)
	require.NoError(t, os.MkdirAll(filepath.Dir(blob), 0o755))
	require.NoError(t, os.Symlink("/dev/full", blob+incomplete))
	_, err := Fetch(t.Context(), r)
	require.ErrorContains(t, err, "file model.safetensors: the cache: ")
	require.ErrorContains(t, err, "no space left on device; free space or set permissions there, or name another folder (HF_HUB_CACHE)")
	require.NoFileExists(t, blob)
}

// A cache that is complete but for marks serves, though nothing can be written.
func TestMarksAreNotNeeded(t *testing.T) {
	_, r := newHub(t)
	marks := filepath.Join(r.Cache, "models--org--bert-mean", ".no_exist")
	require.NoError(t, os.MkdirAll(filepath.Dir(marks), 0o755))
	require.NoError(t, os.WriteFile(marks, nil, 0o600))
	requireWeights(t, r, mustFetch(t, r))
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	_, r := newHub(t)
	require.NoError(t, os.WriteFile(r.Cache, nil, 0o600))
	_, err := Fetch(t.Context(), r)
	require.ErrorContains(t, err, "not a directory; free space or set permissions")
}

// No name that a hub sends leaves the cache.
func TestHostileNames(t *testing.T) {
	index := func(file string) map[string][]byte {
		return map[string][]byte{"config.json": []byte("{}"), "model.safetensors.index.json": fmt.Appendf(nil, `{"weight_map": {"w": %q}}`, file), file: []byte("evil")}
	}
	module := func(path string) map[string][]byte {
		return map[string][]byte{"config.json": []byte("{}"), "modules.json": fmt.Appendf(nil, `[{"path": %q}]`, path),
			path + "/model.safetensors": []byte("evil"), path + "/config.json": []byte("evil")}
	}
	for name, files := range map[string]map[string][]byte{
		"index up": index("../../../../../evil"), "index absolute": index("/tmp/evil"), "index folder": index("a/b"), "index backslash": index(`..\evil`),
		"module up": module("../../../../.."), "module absolute": module("/tmp"), "module backslash": module(`..\..`), "module dot": module("./a"),
	} {
		t.Run(name, func(t *testing.T) {
			h, r := newHub(t)
			h.Add(id, hubtest.Model{Files: files})
			_, err := Fetch(t.Context(), r)
			require.ErrorContains(t, err, "plain")
			outside, err := os.ReadDir(filepath.Dir(r.Cache))
			require.NoError(t, err)
			require.Len(t, outside, 1)
			for path := range tree(t, r.Cache) {
				require.NotContains(t, path, "evil")
			}
		})
	}
	t.Run("listed only", func(t *testing.T) {
		h, r := newHub(t)
		files := hubtest.Folder(t, filepath.Join(models, "bert-mean"))
		files["../../../../evil"], files["/tmp/evil.json"] = []byte("evil"), []byte("evil")
		h.Add(id, hubtest.Model{Files: files})
		requireWeights(t, r, mustFetch(t, r)) // names that nothing needs are not looked at
		for _, asked := range h.Requests() {
			require.NotContains(t, asked, "evil")
		}
	})
}

func TestSeveralAtOnceFetchOnce(t *testing.T) {
	h, r := newHub(t)
	var bodies atomic.Int32
	h.Answer(func(_ http.ResponseWriter, r *http.Request) bool {
		if isBody(r) {
			bodies.Add(1)
			time.Sleep(100 * time.Millisecond)
		}
		return false
	})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			s, err := Fetch(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			requireWeights(t, r, s)
		})
	}
	all.Wait()
	require.EqualValues(t, 1, bodies.Load())
}

// Another program holds the lock of the blob as huggingface_hub does: by flock(2).
func TestWaitsForAnotherProcess(t *testing.T) {
	_, r := newHub(t)
	_, blob := weightsOf(t, r)
	lock := filepath.Join(r.Cache, ".locks", "models--org--bert-mean", filepath.Base(blob)+".lock")
	require.NoError(t, os.MkdirAll(filepath.Dir(lock), 0o755))
	holder := exec.Command("flock", lock, "sh", "-c", "echo held; sleep 0.5")
	out, err := holder.StdoutPipe()
	require.NoError(t, err)
	start := time.Now()
	require.NoError(t, holder.Start())
	_, err = out.Read(make([]byte, 4))
	require.NoError(t, err)
	requireWeights(t, r, mustFetch(t, r))
	require.Greater(t, time.Since(start), 400*time.Millisecond)
	require.NoError(t, holder.Wait())
}
