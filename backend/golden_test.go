package backend

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// miniLM is the real all-MiniLM-L6-v2, its texts, and sentence-transformers' vectors of them.
func miniLM(t *testing.T) (b *Backend, texts []Text, golden [][]float32) {
	t.Helper()
	c := onnxConfig("")
	c.Model = filepath.Join("..", ".deps", "models", "all-MiniLM-L6-v2")
	require.DirExists(t, c.Model, "run `make setup`")
	dir := filepath.Join("..", "testdata", "minilm")
	var named []struct{ Text string }
	readJSON(t, filepath.Join(dir, "texts.json"), &named)
	for _, n := range named {
		texts = append(texts, Text{Text: n.Text})
	}
	raw, err := os.ReadFile(filepath.Join(dir, "embeddings.f32"))
	require.NoError(t, err)
	require.Len(t, raw, len(texts)*384*4)
	for i := range texts {
		row := make([]float32, 384)
		for k := range row {
			row[k] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*(384*i+k):]))
		}
		golden = append(golden, row)
	}
	return open(t, c), texts, golden
}

func readJSON(t *testing.T, file string, to any) {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, to))
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	return ab / math.Sqrt(aa*bb)
}

// pickAndCompare embeds the chosen texts and compares; an error is returned, since goroutines call it.
func pickAndCompare(b *Backend, texts []Text, golden [][]float32, chosen []int) error {
	picked := make([]Text, len(chosen))
	for k, i := range chosen {
		picked[k] = texts[i]
	}
	rows := make([]float32, len(chosen)*384)
	if err := b.EmbedTexts(background, picked, CallOptions{}, Output{Rows: rows}); err != nil {
		return err
	}
	for k, i := range chosen {
		if c := cosine(rows[384*k:384*(k+1)], golden[i]); !(c >= 0.999999) {
			return fmt.Errorf("text %d: cosine %.9f", i, c)
		}
	}
	return nil
}

func TestMiniLMIsSentenceTransformers(t *testing.T) {
	b, texts, golden := miniLM(t)
	all := rand.New(rand.NewPCG(1, 2)).Perm(len(texts))
	for _, i := range all {
		require.NoError(t, pickAndCompare(b, texts, golden, []int{i}), "alone")
	}
	require.NoError(t, pickAndCompare(b, texts, golden, all), "shuffled")

	// As one token batch, pooled and raw mixed.
	var result Result
	require.NoError(t, b.Tokenize(background, texts, CallOptions{Truncate: On}, Output{Result: &result}))
	batch := Batch{CumulativeSeqLengths: []uint32{0}}
	for i, item := range result.Items {
		batch.InputIDs = append(batch.InputIDs, item.Tokens.IDs...)
		batch.CumulativeSeqLengths = append(batch.CumulativeSeqLengths, uint32(len(batch.InputIDs)))
		batch.PooledIndices = append(batch.PooledIndices, uint32(i))
		if i%3 == 0 {
			batch.RawIndices = append(batch.RawIndices, uint32(i))
		}
	}
	rows := make([]float32, len(texts)*384)
	require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Rows: rows, Result: &result}))
	for i := range texts {
		require.GreaterOrEqual(t, cosine(rows[384*i:384*(i+1)], golden[i]), 0.999999, "text %d as tokens", i)
		vectors := result.Items[i].TokenVectors
		if i%3 != 0 {
			require.Nil(t, vectors)
			continue
		}
		require.Len(t, vectors, 384*int(batch.CumulativeSeqLengths[i+1]-batch.CumulativeSeqLengths[i]))
		mean := make([]float32, 384)
		for k, v := range vectors {
			mean[k%384] += v
		}
		require.GreaterOrEqual(t, cosine(mean, golden[i]), 0.999999, "mean of the token vectors of text %d", i)
	}
}

func TestMiniLMFrom64Goroutines(t *testing.T) {
	b, texts, golden := miniLM(t)
	var calls sync.WaitGroup
	failures := make(chan error, 64)
	for g := range 64 {
		calls.Go(func() {
			order := rand.New(rand.NewPCG(3, uint64(g))).Perm(len(texts))
			failures <- pickAndCompare(b, texts, golden, order[:1+g%8])
		})
	}
	calls.Wait()
	close(failures)
	for err := range failures {
		require.NoError(t, err)
	}
}

// maskedLM are the architectures of masked language models.
var maskedLM = regexp.MustCompile("For(MaskedLM|PreTraining)$")

// goldenText is an item of golden.json.
type goldenText struct {
	Text       string
	Pair       *string
	PromptName *string  `json:"prompt_name"`
	InputIDs   []uint32 `json:"input_ids"`
}

// requireLabels: info's JSON has the labels of config.json.
func requireLabels(t *testing.T, b *Backend, want []string) {
	t.Helper()
	text, err := b.InfoJSON()
	require.NoError(t, err)
	var info infoDocument
	require.NoError(t, json.Unmarshal(text, &info))
	if len(want) > 0 { // rerankers that are language models have none
		require.Equal(t, want, info.Labels)
		require.EqualValues(t, len(want), b.Info().Labels)
	}
}

// requireTokenLogits holds a token classifier's logits of a text to transformers'.
func requireTokenLogits(t *testing.T, b *Backend, item goldenText, want [][]float32) {
	t.Helper()
	var result Result
	require.NoError(t, b.PredictTokensTexts(background, []Text{{Text: item.Text}}, CallOptions{}, Output{Result: &result}))
	require.Equal(t, item.InputIDs, result.Items[0].Tokens.IDs)
	got := result.Items[0].TokenVectors
	require.Len(t, got, len(want)*int(b.Info().Labels))
	for k, x := range slices.Concat(want...) {
		require.InDelta(t, x, got[k], 1e-4, "%q: number %d", item.Text, k)
	}
}

// TestTinyModelsFromText holds each tiny model to its own library, from text to vector or logits: prompts, pairs, truncation,
// poolings, modules and heads.
func TestTinyModelsFromText(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "models", "*", "golden.json"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 23)
	for _, file := range files {
		var golden struct {
			Name, Task string
			Dim        int
			Normalize  bool
			Labels     []string
			Items      []goldenText
			Pooled     [][]float32
			Vectors    map[string][][]float32 `json:"token_vectors"`
		}
		readJSON(t, file, &golden)
		t.Run(golden.Name, func(t *testing.T) {
			config := onnxConfig(golden.Name)
			sparse := maskedLM.MatchString(golden.Task)
			if sparse {
				config.Pooling = "splade"
			}
			b := open(t, config)
			requireLabels(t, b, golden.Labels)
			if b.Info().ModelType == ModelTokenClassifier {
				for i, item := range golden.Items {
					if item.Pair == nil {
						requireTokenLogits(t, b, item, golden.Vectors[strconv.Itoa(i)])
					}
				}
				err := b.PredictTexts(background, []Text{{Text: "a"}}, CallOptions{}, Output{Rows: make([]float32, golden.Dim)})
				require.ErrorContains(t, err, "predict_texts needs a model of type classifier")
				return
			}
			for i, item := range golden.Items {
				text, options := Text{Text: item.Text}, CallOptions{}
				if item.Pair != nil {
					text.Pair, text.HasPair = *item.Pair, true
				}
				if item.PromptName != nil {
					options.PromptName = *item.PromptName
				}
				row := make([]float32, golden.Dim)
				call, output := b.EmbedTexts, Output{Rows: row}
				if b.Info().ModelType == ModelClassifier {
					call = b.PredictTexts
				}
				if sparse {
					text.Outputs, output = engine.Sparse, Output{Result: new(Result)}
				}
				require.NoError(t, call(background, []Text{text}, options, output), "item %d: %q", i, item.Text)
				if sparse {
					it := output.Result.Items[0]
					for k, id := range it.SparseIDs {
						row[id] = it.Sparse[k]
					}
				}
				for k, want := range golden.Pooled[i] {
					require.InDelta(t, want, row[k], 2e-5*max(1, math.Abs(float64(want))), "item %d: %q, column %d", i, item.Text, k)
				}
			}
		})
	}
}

// TestAModelWithoutTypesIgnoresThem: a pair's type ids, as bei_tokenize gives them, come back in a batch.
func TestAModelWithoutTypesIgnoresThem(t *testing.T) {
	b := open(t, onnxConfig("qwen3-bidirectional"))
	require.EqualValues(t, 1, b.Info().TypeVocabSize)
	batch := packed([]uint32{5, 6, 7})
	var rows [2][]float32
	for i, types := range [][]uint32{nil, {0, 1, 1}} {
		rows[i], batch.TokenTypeIDs = rowsFor(b, 1), types
		require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Rows: rows[i]}))
	}
	require.Equal(t, rows[0], rows[1])
}
