package suite

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// RootVariable names the environment variable with the folder that stands in for the repository where a test binary runs
// without one: it has testdata/ and .deps/.
const RootVariable = "BEI_ROOT"

// Root returns the repository's folder.
func Root(t testing.TB) string {
	if dir := os.Getenv(RootVariable); dir != "" {
		return dir
	}
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		require.NotEqual(t, filepath.Dir(dir), dir, "no go.mod above the working folder")
		dir = filepath.Dir(dir)
	}
}

// Dependency returns the path of what `make setup` puts into .deps/.
func Dependency(t testing.TB, path string) string {
	path = filepath.Join(Root(t), ".deps", path)
	_, err := os.Stat(path)
	require.NoError(t, err, "run `make setup` first")
	return path
}

// GPUVariable is the number of CUDA devices that tests may use.
const GPUVariable = "BEI_GPU_TESTS"

// GPUs is what GPUVariable says; 0 without it. It panics where that is no number, so that no test is skipped by mistake.
func GPUs() int {
	text := os.Getenv(GPUVariable)
	if text == "" {
		return 0
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		panic(fmt.Sprintf("%s is %q; write the number of GPUs", GPUVariable, text))
	}
	return n
}

// Folder opens a model folder as a case without sequences. The weights are closed when the test ends.
func Folder(t testing.TB, dir string, options arch.Options) Case {
	w, err := weights.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, w.Close()) })
	m, err := arch.Read(dir, w, options)
	require.NoError(t, err)
	return Case{Name: filepath.Base(dir), Model: m, Weights: w}
}

// golden is golden.json of testdata/models; testdata/models/generate.py says what is in it.
type golden struct {
	Normalize  bool                   `json:"normalize"`
	Items      []goldenItem           `json:"items"`
	TokenItems []goldenItem           `json:"token_items"`
	Pooled     [][]float64            `json:"pooled"`
	Vectors    map[string][][]float64 `json:"token_vectors"`
	BFloat16   float64                `json:"bfloat16_cosine"`
}

// maskedLM are the architectures of masked language models.
var maskedLM = regexp.MustCompile("For(MaskedLM|PreTraining)$")

type goldenItem struct {
	IDs       []int32 `json:"input_ids"`
	Types     []int32 `json:"token_type_ids"`
	Positions []int32 `json:"position_ids"`
}

// Golden returns the tiny models of testdata/models of the kinds that the engine runs, with the results of transformers
// and sentence-transformers.
func Golden(t testing.TB, kinds ...arch.HeadKind) []Case {
	folders, err := filepath.Glob(filepath.Join(Root(t), "testdata", "models", "*", "golden.json"))
	require.NoError(t, err)
	require.NotEmpty(t, folders)
	var cases []Case
	for _, file := range folders {
		c := open(t, file)
		for _, kind := range kinds {
			if c.Model.Head.Kind == kind {
				c.load(t, file)
				cases = append(cases, c)
			}
		}
	}
	return cases
}

// Named is the tiny model of that name.
func Named(t testing.TB, name string) Case {
	file := filepath.Join(Root(t), "testdata", "models", name, "golden.json")
	c := open(t, file)
	c.load(t, file)
	return c
}

// open opens the model beside a golden.json.
func open(t testing.TB, file string) Case {
	c := Folder(t, filepath.Dir(file), arch.Options{})
	if c.Model.Head.Kind == arch.HeadEmbedding && maskedLM.MatchString(c.Model.Architecture) {
		c = Folder(t, filepath.Dir(file), arch.Options{Pooling: "splade"}) // its golden rows are sparse
	}
	return c
}

func (c *Case) load(t testing.TB, file string) {
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	var g golden
	require.NoError(t, json.Unmarshal(raw, &g))
	require.Positive(t, g.BFloat16, "%s: bfloat16_cosine", file)
	c.Normalize, c.BFloat16Cosine = g.Normalize, g.BFloat16
	for i, item := range append(g.Items, g.TokenItems...) {
		q := Sequence{IDs: item.IDs, Types: item.Types, Positions: item.Positions}
		if c.Model.Head.Kind == arch.HeadSparse { // its token vectors are logits, which engines do not give
			q.Sparse = g.Pooled[i]
			c.Sequences = append(c.Sequences, q)
			continue
		}
		if g.Pooled != nil {
			q.Pooled = g.Pooled[i]
		}
		rows := g.Vectors[strconv.Itoa(i)]
		if n := arch.Pooled(c.Model.Head.Pooling, q.IDs); n < len(q.IDs) { // padding that callers cut off
			q.IDs, q.Types, q.Positions = q.IDs[:n], q.Types[:n], q.Positions[:n]
			rows = rows[:min(n, len(rows))]
		}
		for _, row := range rows {
			q.TokenVectors = append(q.TokenVectors, row...)
		}
		c.Sequences = append(c.Sequences, q)
	}
}

// Every returns models of every family and head, models of every choice of arch.Model, and more: this process's part of them.
func Every(t testing.TB, more ...Case) []Case {
	golden := Golden(t, arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier, arch.HeadSparse)
	return Part(t, slices.Concat(golden, Synthetic(t), more))
}

// PartVariable names the environment variable "K/N" by which a process runs part K of N of the cases.
const PartVariable = "BEI_TEST_PART"

// Part returns this process's part of the cases: all of them without PartVariable.
func Part(t testing.TB, cases []Case) []Case {
	text := os.Getenv(PartVariable)
	if text == "" {
		return cases
	}
	var part, parts int
	_, err := fmt.Sscanf(text, "%d/%d", &part, &parts)
	require.NoError(t, err, "%s is %q; write it as 0/4", PartVariable, text)
	require.True(t, 0 <= part && part < parts, "%s is %q", PartVariable, text)
	var mine []Case
	for i := part; i < len(cases); i += parts {
		mine = append(mine, cases[i])
	}
	return mine
}

// MiniLM returns the real all-MiniLM-L6-v2 with sentence-transformers' rows of testdata/minilm.
func MiniLM(t testing.TB) Case {
	c := Folder(t, Dependency(t, "models/all-MiniLM-L6-v2"), arch.Options{})
	dir := filepath.Join(Root(t), "testdata", "minilm")
	raw, err := os.ReadFile(filepath.Join(dir, "golden.json"))
	require.NoError(t, err)
	var g struct {
		Dim      int       `json:"dim"`
		InputIDs [][]int32 `json:"input_ids"`
		BFloat16 float64   `json:"bfloat16_cosine"`
		Vectors  struct {
			Items []struct {
				Text  int `json:"text"`
				First int `json:"first_row"`
				Rows  int `json:"rows"`
			} `json:"items"`
		} `json:"token_embeddings"`
	}
	require.NoError(t, json.Unmarshal(raw, &g))
	require.Positive(t, g.BFloat16, "bfloat16_cosine")
	c.BFloat16Cosine = g.BFloat16
	pooled, vectors := readFloats(t, filepath.Join(dir, "pooled.f32")), readFloats(t, filepath.Join(dir, "token_embeddings.f32"))
	for i, ids := range g.InputIDs {
		q := Sequence{IDs: ids, Types: make([]int32, len(ids)), Positions: make([]int32, len(ids)), Pooled: pooled[i*g.Dim : (i+1)*g.Dim]}
		for p := range q.Positions {
			q.Positions[p] = int32(p)
		}
		c.Sequences = append(c.Sequences, q)
	}
	for _, item := range g.Vectors.Items {
		c.Sequences[item.Text].TokenVectors = vectors[item.First*g.Dim : (item.First+item.Rows)*g.Dim]
	}
	return c
}

func readFloats(t testing.TB, file string) []float64 {
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	rows := make([]float64, len(raw)/4)
	for i := range rows {
		rows[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:])))
	}
	return rows
}
