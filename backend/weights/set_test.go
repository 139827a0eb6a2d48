package weights

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

const miniLM = "../../.deps/models/all-MiniLM-L6-v2"

// folder writes files (name, content pairs; names may have folders) to a new folder.
func folder(t *testing.T, pairs ...any) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		path := filepath.Join(dir, pairs[i].(string))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		content, ok := pairs[i+1].([]byte)
		if !ok {
			content = []byte(pairs[i+1].(string))
		}
		require.NoError(t, os.WriteFile(path, content, 0o600))
	}
	return dir
}

func open(t *testing.T, dir string) *Set {
	t.Helper()
	s, err := Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func read(t *testing.T, s *Set, name string) []float32 {
	t.Helper()
	tensor, err := s.Tensor(name)
	require.NoError(t, err)
	return tensor.AppendFloat32(nil)
}

// one is a file with the single F32 tensor name = [value].
func one(name string, value float32) []byte {
	return encode(0, stored{name, F32, []int{1}, floats(value)})
}

func TestSingleFile(t *testing.T) {
	s := open(t, folder(t, SingleFile, encode(0,
		stored{"w", F32, []int{2, 1}, floats(3, 4)}, stored{"h", F16, []int{1}, []byte{0, 0x3c}}, stored{"ids", "I64", []int{1, 1}, make([]byte, 8)})))
	require.Equal(t, []string{"h", "ids", "w"}, s.Names())
	require.EqualValues(t, 18, s.TotalBytes())
	shape, ok := s.Shape("w")
	require.True(t, ok)
	require.Equal(t, []int{2, 1}, shape)
	shape[0] = 9 // a copy
	w, err := s.Tensor("w")
	require.NoError(t, err)
	require.Equal(t, "w", w.Name)
	require.Equal(t, []int{2, 1}, w.Shape)
	require.Equal(t, []float32{3, 4}, w.AppendFloat32(nil))
	require.Equal(t, 8, cap(w.Bytes()), "a view cannot grow into its neighbour")
	require.Equal(t, []float32{1}, read(t, s, "h"))

	shape, ok = s.Shape("ids")
	require.True(t, ok)
	require.Equal(t, []int{1, 1}, shape)
	_, err = s.Tensor("ids")
	require.Equal(t, status.Unsupported, status.CodeOf(err))
	require.ErrorContains(t, err, `tensor "ids"`)
	require.ErrorContains(t, err, `has dtype "I64"; supported: F32, F16, BF16`)

	_, ok = s.Shape("x")
	require.False(t, ok)
}

// TestAlignment: a header of any length may put F32 data at any address.
func TestAlignment(t *testing.T) {
	for pad := range 4 {
		s := open(t, folder(t, SingleFile, encode(pad, stored{"w", F32, []int{2}, floats(3, 4)})))
		w, err := s.Tensor("w")
		require.NoError(t, err)
		view, ok := w.Float32()
		require.Equal(t, len(s.files[0].header)%4 == 0, ok)
		if ok {
			require.Equal(t, []float32{3, 4}, view)
		}
		require.Equal(t, []float32{3, 4}, w.AppendFloat32(nil))
	}
}

func TestNearNames(t *testing.T) {
	dir := folder(t, SingleFile, encode(0,
		stored{"bert.encoder.layer.0.attention.self.query.weight", F32, []int{1}, floats(1)},
		stored{"bert.encoder.layer.0.attention.self.query.bias", F32, []int{1}, floats(1)},
		stored{"bert.encoder.layer.0.attention.self.key.weight", F32, []int{1}, floats(1)},
		stored{"bert.pooler.dense.weight", F32, []int{1}, floats(1)},
		stored{strings.Repeat("n", 300), F32, []int{1}, floats(1)}))
	s := open(t, dir)
	_, err := s.Tensor("encoder.layer.0.attention.self.query.weight")
	require.Equal(t, status.WeightsNotFound, status.CodeOf(err))
	require.EqualError(t, err, fmt.Sprintf(`weights in %q have no tensor "encoder.layer.0.attention.self.query.weight"; near: `+
		`"bert.encoder.layer.0.attention.self.query.weight", "bert.encoder.layer.0.attention.self.key.weight", "bert.encoder.layer.0.attention.self.query.bias"`, dir))
	require.Empty(t, s.Near("nothing like it, at all"))
	require.Empty(t, s.Near(strings.Repeat("n", 300)))
	_, err = s.Tensor("nothing like it, at all")
	require.NotContains(t, err.Error(), "near")
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"abc", "", 3}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"abc", "abc", 0}, {"ab", "ba", 2}} {
		require.Equal(t, c.want, editDistance(c.a, c.b), c)
	}
}

func TestShards(t *testing.T) {
	index := `{"metadata": {"total_size": 8}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}`
	first := encode(0, stored{"a", F32, []int{1}, floats(1)}, stored{"c", F32, []int{1}, floats(3)}, stored{"b", F32, []int{1}, floats(-1)})
	dir := folder(t, IndexFile, index, "model-1.safetensors", first, "model-2.safetensors", one("b", 2))
	s := open(t, dir)
	require.Equal(t, []string{"a", "b", "c"}, s.Names())
	require.Equal(t, []float32{2}, read(t, s, "b"), "the index says which of two files counts")
	require.Equal(t, []float32{3}, read(t, s, "c"))
	require.EqualValues(t, 12, s.TotalBytes())

	// As for transformers, a single file comes before an index.
	require.NoError(t, os.WriteFile(filepath.Join(dir, SingleFile), one("a", 5), 0o600))
	require.Equal(t, []float32{5}, read(t, open(t, dir), "a"))
}

func TestModuleFolders(t *testing.T) {
	modules := `[{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling"}, {"path": "2_Dense"}, {"path": "2_Dense"}]`
	s := open(t, folder(t, "modules.json", modules, SingleFile, one("a", 1), "1_Pooling/config.json", "{}", "2_Dense/"+SingleFile, one("linear.weight", 2),
		"3_Other/"+SingleFile, "not looked at"))
	require.Equal(t, []string{"2_Dense/linear.weight", "a"}, s.Names())
	require.Equal(t, []float32{2}, read(t, s, "2_Dense/linear.weight"))

	_, err := Open(folder(t, "modules.json", modules, SingleFile, one("2_Dense/linear.weight", 1), "2_Dense/"+SingleFile, one("linear.weight", 2)))
	require.ErrorContains(t, err, `tensor "2_Dense/linear.weight" is in both model.safetensors and 2_Dense/model.safetensors`)
}

func TestOpenFaults(t *testing.T) {
	index := func(m string) string { return `{"weight_map": {` + m + `}}` }
	var shards, folders []string
	for i := range maxShards + 1 {
		shards = append(shards, fmt.Sprintf(`"t%d": "s%d"`, i, i))
		folders = append(folders, fmt.Sprintf(`{"path": "f%d"}`, i))
	}
	for _, c := range []struct {
		name  string
		files []any
		want  string
		code  status.Code
	}{
		{"empty folder", nil, "neither model.safetensors nor model.safetensors.index.json", status.WeightsNotFound},
		{"another format", []any{"pytorch_model.bin", "x"}, "(there is pytorch_model.bin: save the model as safetensors)", status.WeightsNotFound},
		{"empty file", []any{SingleFile, ""}, "model.safetensors: file of 0 bytes is too short", status.Start},
		{"not safetensors", []any{SingleFile, "PK\x03\x04 and so on"}, "model.safetensors: header length", status.Start},
		{"truncated", []any{SingleFile, one("a", 1)[:60]}, "model.safetensors: ", status.Start},
		{"data truncated", []any{SingleFile, one("a", 1)[:len(one("a", 1))-1]}, `tensor "a": data_offsets [0, 4] exceed the 3 bytes of data: the file is truncated`, status.Start},
		{"index is no JSON", []any{IndexFile, "{"}, "model.safetensors.index.json: unexpected end", status.Start},
		{"index of another shape", []any{IndexFile, `{"weight_map": {"a": 1}}`}, "model.safetensors.index.json: json: cannot unmarshal", status.Start},
		{"index without map", []any{IndexFile, "{}"}, "weight_map is missing or empty", status.Start},
		{"shard in a parent", []any{IndexFile, index(`"a": "../model.safetensors"`)}, `tensor "a" lies in "../model.safetensors", which is not a plain file name`, status.Start},
		{"shard is the parent", []any{IndexFile, index(`"a": ".."`)}, `lies in "..", which`, status.Start},
		{"shard at an absolute path", []any{IndexFile, index(`"a": "/etc/passwd"`)}, `lies in "/etc/passwd", which`, status.Start},
		{"shard with a backslash", []any{IndexFile, index(`"a": "b\\c"`)}, "which is not a plain file name", status.Start},
		{"shard with NUL", []any{IndexFile, index(`"a": "b\u0000"`)}, "which is not a plain file name", status.Start},
		{"shard without name", []any{IndexFile, index(`"a": ""`)}, `lies in "", which`, status.Start},
		{"shard missing", []any{IndexFile, index(`"a": "s1", "b": "s2", "c": "s2"`), "s1", one("a", 1)}, `shard "s2" is missing; model.safetensors.index.json names it for 2 tensors`, status.WeightsNotFound},
		{"shard damaged", []any{IndexFile, index(`"a": "s1"`), "s1", "x"}, "s1: file of 1 bytes is too short", status.Start},
		{"tensor not in its shard", []any{IndexFile, index(`"a": "s1", "b": "s1"`), "s1", one("a", 1)}, `tensor "b" is not in s1, where model.safetensors.index.json places it`, status.WeightsNotFound},
		{"too many shards", []any{IndexFile, index(strings.Join(shards, ","))}, "names 1025 files; the limit is 1024", status.Start},
		{"modules are no JSON", []any{"modules.json", "x", SingleFile, one("a", 1)}, "modules.json: invalid character", status.Start},
		{"no modules", []any{"modules.json", "[]", SingleFile, one("a", 1)}, "modules.json lists no modules", status.Start},
		{"module in a parent", []any{"modules.json", `[{"path": ""}, {"path": "../x"}]`, SingleFile, one("a", 1)}, `path "../x" of module 1 leaves the folder`, status.Start},
		{"too many modules", []any{"modules.json", "[" + strings.Join(folders, ",") + "]"}, "modules.json has 1025 folders; the limit is 1024", status.Start},
		{"the transformer has none", []any{"modules.json", `[{"path": "0_Transformer"}]`, SingleFile, one("a", 1)}, "neither 0_Transformer/model.safetensors nor", status.WeightsNotFound},
		{"a module's are damaged", []any{"modules.json", `[{"path": ""}, {"path": "d"}]`, SingleFile, one("a", 1), "d/" + SingleFile, "x"}, "file of 1 bytes", status.Start},
		{"a folder for a file", []any{SingleFile + "/x", "x"}, "model.safetensors is no regular file", status.Start},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := folder(t, c.files...)
			files := openFiles(t)
			_, err := Open(dir)
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, strconv.Quote(dir))
			require.Equal(t, c.code, status.CodeOf(err))
			require.Less(t, len(err.Error()), 1000)
			require.Equal(t, files, openFiles(t), "files left open")
		})
	}
	_, err := Open(filepath.Join(t.TempDir(), "absent"))
	require.Equal(t, status.WeightsNotFound, status.CodeOf(err))
	_, err = Open(filepath.Join(folder(t, "f", ""), "f"))
	require.ErrorContains(t, err, "not a folder")

	// Opening a pipe would block for ever.
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, SingleFile), 0o600))
	_, err = Open(dir)
	require.ErrorContains(t, err, "is no regular file")
}

// openFiles counts this process' open files.
func openFiles(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

func TestTruncatedWhileOpen(t *testing.T) {
	dir := folder(t, SingleFile, encode(0, stored{"a", F32, []int{5000}, make([]byte, 20000)}))
	s := open(t, dir)
	require.Len(t, read(t, s, "a"), 5000)
	require.NoError(t, os.Truncate(filepath.Join(dir, SingleFile), 100))
	_, err := s.Tensor("a")
	require.Equal(t, status.Start, status.CodeOf(err))
	require.ErrorContains(t, err, "model.safetensors in")
	require.ErrorContains(t, err, "to 100 bytes while open")
}

func TestClose(t *testing.T) {
	files := openFiles(t)
	s, err := Open(folder(t, SingleFile, one("a", 1)))
	require.NoError(t, err)
	a, err := s.Tensor("a")
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.Equal(t, files, openFiles(t))
	s.Release(a) // harmless
	_, err = s.Tensor("a")
	require.Equal(t, status.ShutDown, status.CodeOf(err))
	_, ok := s.Shape("a")
	require.True(t, ok)
	require.NotEmpty(t, s.Fingerprint())
}

// resident returns how much of the process' memory is file mappings, in bytes.
func resident(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "RssFile:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(t, err)
			return kib << 10
		}
	}
	t.Fatal("no RssFile in /proc/self/status")
	return 0
}

func TestRelease(t *testing.T) {
	const size = 32 << 20
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	s := open(t, folder(t, SingleFile, encode(1,
		stored{"first", F32, []int{1}, floats(5)}, stored{"large", F32, []int{size / 4}, data}, stored{"last", F32, []int{1}, floats(6)})))
	large, err := s.Tensor("large")
	require.NoError(t, err)
	before := resident(t)
	want := sha256.Sum256(large.Bytes()) // reads all of it
	require.Greater(t, resident(t), before+size/2)
	s.Release(large)
	require.Less(t, resident(t), before+size/4)
	require.Equal(t, want, sha256.Sum256(large.Bytes()), "the view stays valid")
	require.Equal(t, []float32{5}, read(t, s, "first"))
	require.Equal(t, []float32{6}, read(t, s, "last"))

	first, err := s.Tensor("first")
	require.NoError(t, err)
	s.Release(first) // no whole page
	s.Release(Tensor{})
}

func TestFingerprint(t *testing.T) {
	base := []any{"modules.json", `[{"path": ""}, {"path": "d"}]`, SingleFile, one("a", 1), "d/" + SingleFile, one("b", 2)}
	print := func(pairs ...any) string { return open(t, folder(t, pairs...)).Fingerprint() }
	want := print(base...)
	require.Len(t, want, 64)
	require.Equal(t, want, print(base...), "neither place nor time counts")
	require.NotEqual(t, want, print(append(base, SingleFile, one("a", 3))...), "a value")
	require.NotEqual(t, want, print(append(base, SingleFile, one("c", 1))...), "a name")
	require.NotEqual(t, want, print(append(base, "d/"+SingleFile, one("b", 9))...), "another file")
	require.NotEqual(t, want, print(append(base, SingleFile, encode(1, stored{"a", F32, []int{1}, floats(1)}))...), "the layout")
}

// TestDigest: unlike the fingerprint it tells apart what differs at the end of a tensor only, such as an embedding of a token that was
// trained alone.
func TestDigest(t *testing.T) {
	numbers := make([]float32, 1<<19) // more than a buffer
	digest := func() (fingerprint, digest string) {
		s := open(t, folder(t, SingleFile, encode(0, stored{"a", F32, []int{len(numbers)}, floats(numbers...)}, stored{"b", F32, []int{1}, floats(1)})))
		d, err := s.Digest(t.Context())
		require.NoError(t, err)
		require.Len(t, d, 64)
		return s.Fingerprint(), d
	}
	fingerprint, before := digest()
	_, again := digest()
	require.Equal(t, before, again)
	numbers[len(numbers)-1] = 1
	sampled, after := digest()
	require.Equal(t, fingerprint, sampled)
	require.NotEqual(t, before, after)

	s := open(t, folder(t, SingleFile, one("a", 1)))
	ended, end := context.WithCancel(t.Context())
	end()
	_, err := s.Digest(ended)
	require.Equal(t, status.Cancelled, status.CodeOf(err))
	require.NoError(t, os.Truncate(s.files[0].f.Name(), 8))
	_, err = s.Digest(t.Context())
	require.Equal(t, status.Start, status.CodeOf(err))
	require.ErrorContains(t, err, SingleFile)
}

func TestConcurrentUse(t *testing.T) {
	s, err := Open(folder(t, SingleFile, one("a", 1)))
	require.NoError(t, err)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 100 {
				s.Shape("a")
				a, err := s.Tensor("a")
				if err == nil {
					s.Release(a)
				}
			}
		})
	}
	require.NoError(t, s.Close())
	wait.Wait()
}

func TestMiniLM(t *testing.T) {
	require.DirExists(t, miniLM, "run `make setup` first")
	s := open(t, miniLM)
	require.Len(t, s.Names(), 104)
	require.EqualValues(t, 90868376-8-11408, s.TotalBytes())
	w, err := s.Tensor("embeddings.LayerNorm.weight")
	require.NoError(t, err)
	view, ok := w.Float32()
	require.True(t, ok, "its header is aligned, so that nothing needs a copy")
	require.Len(t, view, 384)
}

// FuzzFolder gives foreign bytes to the files that say where weights lie: what opens has tensors of the shapes and bytes that it says.
func FuzzFolder(f *testing.F) {
	f.Add([]byte(`{"weight_map": {"a": "x.safetensors", "b": "y.safetensors"}}`), []byte(`[{"path": ""}, {"path": "1_Pooling"}]`), one("a", 1), one("b", 2))
	f.Add([]byte(`{"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}`), []byte(`[{"path": ""}, {"path": "2"}]`), one("a", 1), one("a", 2))
	f.Add([]byte(`{"weight_map": {"a": "../x.safetensors"}}`), []byte(`[{"path": ".."}]`), []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, index, modules, x, y []byte) {
		dir := folder(t, IndexFile, index, ModulesFile, modules, "x.safetensors", x, "y.safetensors", y, "2/"+SingleFile, y)
		s, err := Open(dir)
		if err != nil {
			require.Less(t, len(err.Error()), 4000)
			return
		}
		for _, name := range s.Names() {
			tensor, err := s.Tensor(name)
			if err != nil {
				require.Error(t, s.Usable(name))
				continue
			}
			numbers := 1
			for _, n := range tensor.Shape {
				numbers *= n
			}
			require.Len(t, tensor.AppendFloat32(nil), numbers)
		}
		require.NoError(t, s.Close())
	})
}
