package backend

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
)

// aFolderOfEach is a golden folder of each family, and of heads that have files of their own.
func aFolderOfEach(t *testing.T) map[string]string {
	folders := map[string]string{"splade": "distilbert-splade", "reranker": "qwen3-reranker", "dense": "bert-cls-dense", "shards": "bert-max-sharded"}
	configs, err := filepath.Glob(modelFolder("*") + "/config.json")
	require.NoError(t, err)
	for _, config := range configs {
		var c struct {
			Family string `json:"model_type"`
		}
		readJSON(t, config, &c)
		if _, ok := folders[c.Family]; !ok {
			folders[c.Family] = filepath.Base(filepath.Dir(config))
		}
	}
	for _, family := range arch.Families() {
		require.Contains(t, folders, family)
	}
	return folders
}

// allocated is what f allocates in Go's heap, all in all.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// damaged is a copy of a folder, which edits may change and which is whole again after undo.
type damaged struct {
	t        *testing.T
	from, at string
	limit    uint64 // bytes that reading it may allocate
}

func newDamaged(t *testing.T, name string) *damaged {
	d := &damaged{t: t, from: modelFolder(name), at: t.TempDir()}
	require.NoError(t, os.CopyFS(d.at, os.DirFS(d.from)))
	Explain(background, Config{Model: d.at}) // what is made once is made
	whole := allocated(func() { require.Empty(t, Explain(background, Config{Model: d.at}).Problems) })
	d.limit = 2*whole + 1<<20
	return d
}

func (d *damaged) path(name string) string { return filepath.Join(d.at, name) }

func (d *damaged) read(name string) []byte {
	data, err := os.ReadFile(filepath.Join(d.from, name))
	require.NoError(d.t, err)
	return data
}

// check reads the folder with name made by edit: it must have a problem that says one of what, unless what is empty, and allocate no more
// than the whole folder and the file's bytes ask for.
func (d *damaged) check(name string, edit func(path string) error, what ...string) {
	d.t.Helper()
	path := d.path(name)
	require.NoError(d.t, os.RemoveAll(path))
	if edit != nil {
		require.NoError(d.t, edit(path))
	}
	var problems []string
	limit := d.limit
	if info, err := os.Stat(path); err == nil && info.Size() < 1<<30 {
		limit += 8 * uint64(info.Size()) // it is read by several readers
	}
	bytes := allocated(func() { problems = Explain(background, Config{Model: d.at}).Problems })
	all := strings.Join(problems, "; ")
	require.LessOrEqual(d.t, bytes, limit, "%s: %d bytes allocated; %s", name, bytes, all)
	require.Less(d.t, len(all), 8000)
	if len(what) > 0 {
		require.NotEmpty(d.t, problems, name)
		require.True(d.t, slices.ContainsFunc(what, func(w string) bool { return strings.Contains(all, w) }), "%s: %q says none of %q", name, all, what)
	}
	require.NoError(d.t, os.RemoveAll(path))
	require.NoError(d.t, os.WriteFile(path, d.read(name), 0o600))
}

func holding(data []byte) func(path string) error {
	return func(path string) error { return os.WriteFile(path, data, 0o600) }
}

// TestDamagedWeights: files cut short, and headers that claim what is not there.
func TestDamagedWeights(t *testing.T) {
	for family, name := range aFolderOfEach(t) {
		t.Run(family, func(t *testing.T) {
			d := newDamaged(t, name)
			files, err := filepath.Glob(d.path("*.safetensors"))
			require.NoError(t, err)
			file := filepath.Base(files[len(files)-1])
			data := d.read(file)
			end := 8 + int(binary.LittleEndian.Uint64(data))
			for _, n := range []int{0, 4, 8, 9, end / 2, end - 1, end, (end + len(data)) / 2, len(data) - 1} {
				d.check(file, holding(data[:n]), "too short", "truncated", "header", "beyond", "bytes")
			}
			d.check(file, holding(append(slices.Clone(data), 0)), file)
			for _, length := range []uint64{0, 1, uint64(len(data)), 1 << 40, 1<<64 - 1} {
				d.check(file, holding(append(binary.LittleEndian.AppendUint64(nil, length), data[8:]...)), "header")
			}
			var header map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(data[8:end], &header))
			delete(header, "__metadata__")
			for i, tensor := range slices.Sorted(maps.Keys(header)) {
				if i%11 != 0 && !strings.HasSuffix(tensor, "word_embeddings.weight") { // enough of them
					continue
				}
				var entry struct {
					DType   string   `json:"dtype"`
					Shape   []int64  `json:"shape"`
					Offsets [2]int64 `json:"data_offsets"`
				}
				require.NoError(t, json.Unmarshal(header[tensor], &entry))
				rewritten := func(dtype string, shape []int64, as string) []byte {
					changed := maps.Clone(header)
					delete(changed, tensor)
					e := entry
					e.DType, e.Shape = dtype, shape
					changed[as], _ = json.Marshal(e)
					text, err := json.Marshal(changed)
					require.NoError(t, err)
					return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), data[end:]...)
				}
				d.check(file, holding(rewritten("F64", entry.Shape, tensor)), tensor)
				if other := map[string]string{"F32": "I32", "F16": "I16", "BF16": "U16"}[entry.DType]; strings.HasSuffix(tensor, "word_embeddings.weight") {
					d.check(file, holding(rewritten(other, entry.Shape, tensor)), "has dtype \""+other+"\"; supported: F32, F16, BF16")
				}
				d.check(file, holding(rewritten("", entry.Shape, tensor)))
				d.check(file, holding(rewritten(entry.DType, []int64{1 << 39, 1 << 39}, tensor)), tensor)
				d.check(file, holding(rewritten(entry.DType, []int64{-1}, tensor)), tensor)
				d.check(file, holding(rewritten(entry.DType, append([]int64{1}, entry.Shape...), tensor)))
				d.check(file, holding(rewritten(entry.DType, entry.Shape, "an extra one")))
			}
		})
	}
}

// TestDamagedConfigs: each key of each JSON file of each family with values of no sense.
func TestDamagedConfigs(t *testing.T) {
	values := []string{`null`, `0`, `-1`, `1e9`, `16777216`, `9223372036854775808`, `1e400`, `1.5`, `""`, `"x"`, `true`, `[]`, `{}`, `[[[[1]]]]`,
		strings.Repeat(`{"a":`, 2000) + `1` + strings.Repeat(`}`, 2000), `"` + strings.Repeat("y", 100000) + `"`, `"a\u0000b"`}
	for family, name := range aFolderOfEach(t) {
		t.Run(family, func(t *testing.T) {
			d, turn := newDamaged(t, name), 0
			for _, file := range []string{"config.json", "tokenizer_config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
				"1_Pooling/config.json", "2_Dense/config.json"} {
				if _, err := os.Stat(d.path(file)); err != nil {
					continue
				}
				var object map[string]json.RawMessage
				require.NoError(t, json.Unmarshal(d.read(file), &object))
				for _, key := range slices.Sorted(maps.Keys(object)) {
					for range 3 { // each family has others of the values for a key
						turn++
						value := values[(turn+len(family))%len(values)]
						changed := maps.Clone(object)
						changed[key] = json.RawMessage(value)
						text, err := json.Marshal(changed)
						require.NoError(t, err)
						d.check(file, holding(text))
					}
				}
			}
		})
	}
}

// TestDamagedFiles: files that are missing, no files, loops, pipes, or larger than any memory.
func TestDamagedFiles(t *testing.T) {
	for family, name := range aFolderOfEach(t) {
		t.Run(family, func(t *testing.T) {
			d := newDamaged(t, name)
			files := []string{"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "model.safetensors.index.json", "modules.json",
				"model-00001-of-00003.safetensors", "1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors", "sentence_bert_config.json"}
			needed := []string{"config.json", "tokenizer.json", "model.safetensors", "model-00001-of-00003.safetensors", "2_Dense/config.json", "2_Dense/model.safetensors"}
			for _, file := range files {
				if _, err := os.Stat(d.path(file)); err != nil {
					continue
				}
				what := filepath.Base(file)
				if slices.Contains(needed, file) {
					d.check(file, nil, what, "linear.weight")
				}
				d.check(file, func(path string) error { return os.Mkdir(path, 0o700) }, what, "linear.weight")
				d.check(file, func(path string) error { return os.Symlink(filepath.Base(path), path) }, what, "too many levels")
				d.check(file, func(path string) error { return syscall.Mkfifo(path, 0o600) }, what)
				d.check(file, holding(nil), what)
				d.check(file, holding([]byte("\x00\xff{]")), what)
				d.check(file, holding([]byte(strings.Repeat("[", 1<<20))), what)
				d.checkHuge(file, what)
			}
		})
	}
}

// checkHuge makes the file a hole of a terabyte, which takes no room: it may cost no more than one that is whole.
func (d *damaged) checkHuge(name string, what string) {
	d.t.Helper()
	d.check(name, func(path string) error {
		if err := os.WriteFile(path, []byte(`{"a": `), 0o600); err != nil {
			return err
		}
		return os.Truncate(path, 1<<40)
	}, what)
}

// TestGiantPositions: a model of rope may claim any number of positions; tables have what sequences need.
func TestGiantPositions(t *testing.T) {
	c := onnxConfig("qwen3-lasttoken")
	from := c.Model
	c.Model = t.TempDir()
	require.NoError(t, os.CopyFS(c.Model, os.DirFS(from)))
	var config map[string]any
	readJSON(t, filepath.Join(c.Model, "config.json"), &config)
	config["max_position_embeddings"] = 1 << 24
	text, err := json.Marshal(config)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(c.Model, "config.json"), text, 0o600))
	var b *Backend
	bytes := allocated(func() { b = open(t, c) })
	require.Less(t, bytes, uint64(100<<20))
	require.EqualValues(t, 1<<17, b.Info().maxPositions)
	row := make([]float32, b.Info().Dimensions)
	batch := Batch{InputIDs: []uint32{1, 2}, PositionIDs: []uint32{1<<17 - 2, 1<<17 - 1}, CumulativeSeqLengths: []uint32{0, 2}, PooledIndices: []uint32{0}}
	require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Rows: row}))
}

// TestDamagedModules: modules that name themselves, each other's folders, and folders outside.
func TestDamagedModules(t *testing.T) {
	d := newDamaged(t, "bert-cls-dense")
	module := func(class, path string) string {
		return fmt.Sprintf(`{"type": "sentence_transformers.models.%s", "path": %q}`, class, path)
	}
	for _, paths := range [][]string{{""}, {"."}, {"1_Pooling", "."}, {"1_Pooling", "1_Pooling"}, {"1_Pooling", "../../etc"}, {"/etc"}, {"loop"}, {"1_Pooling", "1_Pooling/loop"}} {
		require.NoError(t, os.RemoveAll(d.path("loop")))
		require.NoError(t, os.Symlink("loop", d.path("loop")))
		list := []string{module("Transformer", "")}
		for i, path := range paths {
			list = append(list, module([]string{"Pooling", "Dense"}[i], path))
		}
		d.check("modules.json", holding([]byte("["+strings.Join(list, ",")+"]")), "config.json", "modules.json", "module", "loop")
	}
}
