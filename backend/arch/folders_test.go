package arch

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// goldenFolder is a folder of testdata/models: its small files, and the shapes of its weights.
func goldenFolder(t testing.TB, name string) (fstest.MapFS, shapes) {
	t.Helper()
	root := os.DirFS(filepath.Join("..", "..", "testdata", "models", name))
	fsys, all := fstest.MapFS{}, shapes{}
	require.NoError(t, fs.WalkDir(root, ".", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := fs.ReadFile(root, file)
		if !strings.HasSuffix(file, ".safetensors") {
			fsys[file] = &fstest.MapFile{Data: raw}
			return err
		}
		var header map[string]struct{ Shape []int }
		require.NoError(t, json.Unmarshal(metadata.ReplaceAll(raw[8:8+binary.LittleEndian.Uint64(raw)], nil), &header))
		for name, tensor := range header {
			all[path.Join(path.Dir(file), name)] = tensor.Shape
		}
		return err
	}))
	return fsys, all
}

var metadata = regexp.MustCompile(`"__metadata__":\{[^}]*\},?`)

func goldenNames(t testing.TB) (names []string) {
	t.Helper()
	folders, err := filepath.Glob(filepath.Join("..", "..", "testdata", "models", "*", "golden.json"))
	require.NoError(t, err)
	for _, folder := range folders {
		names = append(names, filepath.Base(filepath.Dir(folder)))
	}
	return names
}

// edited is the folder with other values in its config.json; null removes a key.
func edited(t *testing.T, fsys fstest.MapFS, edits string) fstest.MapFS {
	t.Helper()
	var config, more map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(fsys["config.json"].Data, &config))
	require.NoError(t, json.Unmarshal([]byte("{"+edits+"}"), &more), edits)
	for key, value := range more {
		if config[key] = value; string(value) == "null" {
			delete(config, key)
		}
	}
	raw, err := json.Marshal(config)
	require.NoError(t, err)
	changed := fstest.MapFS{}
	for name, file := range fsys {
		changed[name] = file
	}
	changed["config.json"] = &fstest.MapFile{Data: raw}
	return changed
}

// tensorsOf collects the tensors that a value names.
func tensorsOf(v reflect.Value, into map[string][]int) {
	if tensor, ok := v.Interface().(Tensor); ok {
		if !tensor.Absent() {
			into[tensor.Name] = tensor.Shape
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			tensorsOf(v.Elem(), into)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			tensorsOf(v.Field(i), into)
		}
	case reflect.Slice:
		for i := range v.Len() {
			tensorsOf(v.Index(i), into)
		}
	}
}

// unread are the weights that no output needs: poolers that no head has, heads of masked language models that serve as embeddings,
// adapters, the norm of distances where there are none, and the positions that old files carry.
var unread = regexp.MustCompile(`pooler\.dense|^(cls|lm_head|lm_predictions|head|decoder|vocab_[a-z_]+)\.|\.lora_[AB]$|` +
	`^encoder\.LayerNorm|position_ids$`)

// TestEveryWeight reads every folder of testdata/models: nothing of its weights is left out, and none may be missing or of another shape.
func TestEveryWeight(t *testing.T) {
	for _, name := range goldenNames(t) {
		t.Run(name, func(t *testing.T) {
			fsys, stored := goldenFolder(t, name)
			m, err := read(fsys, stored, Options{})
			require.NoError(t, err)
			used := make(map[string][]int)
			tensorsOf(reflect.ValueOf(*m), used)
			for name, shape := range stored {
				if _, ok := used[name]; !ok {
					require.Regexp(t, unread, name)
					continue
				}
				require.Equal(t, shape, used[name])
				_, err := read(fsys, stored.with(shapes{name: nil}), Options{})
				requireCode(t, status.WeightsNotFound, err, "the weights have no tensor")
				_, err = read(fsys, stored.with(shapes{name: append([]int{1}, shape...)}), Options{})
				requireCode(t, status.Start, err, "has shape [1 ")
			}
		})
	}
}

// TestMaskedLM reads the masked language models as sparse ones: then no weight is left out.
func TestMaskedLM(t *testing.T) {
	for _, name := range goldenNames(t) {
		if !strings.HasSuffix(name, "masked-lm") {
			continue
		}
		fsys, stored := goldenFolder(t, name)
		m, err := read(fsys, stored, Options{Pooling: "splade"})
		require.NoError(t, err, name)
		require.Equal(t, HeadSparse, m.Head.Kind)
		used := make(map[string][]int)
		tensorsOf(reflect.ValueOf(*m), used)
		for weight := range stored {
			if _, ok := used[weight]; !ok {
				require.Regexp(t, `position_ids$`, weight, name)
			}
		}
		require.Equal(t, m.VocabSize, m.Head.Chain[1].Linear.Out)
	}
}
