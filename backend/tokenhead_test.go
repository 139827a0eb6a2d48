package backend

import (
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/vectors"
)

// m3Golden is golden.json of bge-m3: what FlagEmbedding makes of the model's three heads.
type m3Golden struct {
	Dim        int
	Items      []m3Item
	TokenItems []m3Item `json:"token_items"`
	Pooled     [][]float32
	Sparse     []map[string]float32
	Colbert    [][][]float32
}

type m3Item struct {
	Text      string
	Pair      *string
	IDs       []uint32 `json:"input_ids"`
	Positions []uint32 `json:"position_ids"`
}

func m3(t *testing.T) (b *Backend, g m3Golden) {
	t.Helper()
	readJSON(t, filepath.Join(modelFolder("bge-m3"), "golden.json"), &g)
	return open(t, onnxConfig("bge-m3")), g
}

// requireSparse compares entries with weights by token id.
func requireSparse(t *testing.T, want map[string]float32, item Item) {
	t.Helper()
	require.True(t, slices.IsSorted(item.SparseIDs))
	got := make(map[string]float32)
	for k, id := range item.SparseIDs {
		got[strconv.Itoa(int(id))] = item.Sparse[k]
	}
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(got)))
	for id, weight := range want {
		require.InDelta(t, weight, got[id], 1e-4, "token %s", id)
	}
}

func (g *m3Golden) require(t *testing.T, i int, want engine.Outputs, row []float32, item Item) {
	t.Helper()
	if want&engine.Pooled != 0 {
		require.InDeltaSlice(t, g.Pooled[i], row, 2e-5)
	}
	if want&engine.Sparse != 0 {
		requireSparse(t, g.Sparse[i], item)
	} else {
		require.Nil(t, item.SparseIDs)
	}
	if want&engine.TokenVectors == 0 {
		require.Nil(t, item.TokenVectors)
		return
	}
	require.Len(t, item.TokenVectors, len(g.Colbert[i])*item.Columns, "vectors of all tokens but the first")
	for k, vector := range g.Colbert[i] {
		require.InDeltaSlice(t, vector, item.TokenVectors[k*item.Columns:][:item.Columns], 2e-5, "token %d", k+1)
	}
}

// TestBGEM3FromTexts: dense, sparse and token vectors of one text, from one run, are FlagEmbedding's; and so is each by itself.
func TestBGEM3FromTexts(t *testing.T) {
	b, golden := m3(t)
	for i, item := range golden.Items {
		text := Text{Text: item.Text}
		if item.Pair != nil {
			text.Pair, text.HasPair = *item.Pair, true
		}
		const all = engine.Pooled | engine.TokenVectors | engine.Sparse
		for _, want := range []engine.Outputs{all, engine.Pooled, engine.TokenVectors, engine.Sparse, engine.Sparse | engine.Pooled} {
			text.Outputs = want
			row, result := make([]float32, golden.Dim), new(Result)
			require.NoError(t, b.EmbedTexts(background, []Text{text}, CallOptions{}, Output{Rows: row, Result: result}))
			golden.require(t, i, want, row, result.Items[0])
			require.Equal(t, 1, result.Stats.Runs, "one forward pass serves all")
		}
	}
}

// TestBGEM3FromTokens: one batch, each item with other outputs.
func TestBGEM3FromTokens(t *testing.T) {
	b, golden := m3(t)
	items := append(golden.Items, golden.TokenItems...)
	batch := Batch{CumulativeSeqLengths: []uint32{0}}
	wants := make([]engine.Outputs, len(items))
	for i, item := range items {
		batch.InputIDs, batch.PositionIDs = append(batch.InputIDs, item.IDs...), append(batch.PositionIDs, item.Positions...)
		batch.CumulativeSeqLengths = append(batch.CumulativeSeqLengths, uint32(len(batch.InputIDs)))
		wants[i] = engine.Outputs(i%7 + 1)
		for bit, list := range map[engine.Outputs]*[]uint32{
			engine.Pooled: &batch.PooledIndices, engine.TokenVectors: &batch.RawIndices, engine.Sparse: &batch.SparseIndices} {
			if wants[i]&bit != 0 {
				*list = append(*list, uint32(i))
			}
		}
	}
	rows, result := make([]float32, len(items)*golden.Dim), new(Result)
	require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Rows: rows, Result: result}))
	for i := range items {
		golden.require(t, i, wants[i], rows[i*golden.Dim:][:golden.Dim], result.Items[i])
	}
}

// TestBGEM3WithoutNormalising: the call's choice is the pooled vector's.
func TestBGEM3WithoutNormalising(t *testing.T) {
	b, golden := m3(t)
	row, unit, result := make([]float32, golden.Dim), make([]float32, golden.Dim), new(Result)
	texts := []Text{{Text: golden.Items[0].Text, Outputs: engine.Pooled | engine.TokenVectors}}
	require.NoError(t, b.EmbedTexts(background, texts, CallOptions{Normalize: Off}, Output{Rows: row, Result: result}))
	golden.require(t, 0, engine.TokenVectors, nil, result.Items[0])
	vectors.Normalize(unit, row)
	require.InDeltaSlice(t, golden.Pooled[0], unit, 2e-5)
	require.Greater(t, math.Abs(float64(row[0]-unit[0])), 1e-3)
}

func TestBGEM3Info(t *testing.T) {
	b, _ := m3(t)
	require.Equal(t, PoolingCLS, b.Info().Pooling)
	require.EqualValues(t, 26, b.Info().Dimensions)
	require.EqualValues(t, 14, b.Info().TokenDimensions)
	text, err := b.InfoJSON()
	require.NoError(t, err)
	require.Contains(t, string(text), `"outputs":["pooled","token_vectors","sparse"]`)
}

// TestSparseResultsAreBounded: only entries count, and a call that asks for too many is refused item by item.
func TestSparseResultsAreBounded(t *testing.T) {
	for _, folder := range []string{"bge-m3", "distilbert-splade"} {
		c := onnxConfig(folder)
		c.Queue.MaxResultBytes = 65536
		b := open(t, c)
		var texts []Text
		for range 3000 {
			texts = append(texts, Text{Text: "the quick brown fox", Outputs: engine.Sparse})
		}
		result, codes := new(Result), make([]status.Code, len(texts))
		require.NoError(t, b.EmbedTexts(background, texts, CallOptions{}, Output{Result: result, Status: codes}))
		bytes := 0
		for i, item := range result.Items {
			bytes += 4*len(item.SparseIDs) + 4*len(item.Sparse)
			if codes[i] != status.OK {
				require.Equal(t, status.Overloaded, codes[i])
				require.Contains(t, item.Message, "the limit is 65536 (queue.max_result_bytes)")
			}
		}
		require.LessOrEqual(t, bytes, 65536, folder)
		require.Contains(t, codes, status.OK, folder)
		require.Contains(t, codes, status.Overloaded, folder)
	}
}

// TestBGEM3NeedsBothHeads, and a tokenizer that has the special tokens.
func TestBGEM3NeedsBothHeads(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(modelFolder("bge-m3"))))
	refused := func(code status.Code, want string) {
		t.Helper()
		c := onnxConfig("bge-m3")
		c.Model = dir
		_, err := Open(background, c)
		requireCode(t, code, err, want)
	}
	config := filepath.Join(dir, "tokenizer_config.json")
	require.NoError(t, os.WriteFile(config, []byte(`{"eos_token": {"content": "</none>"}}`), 0o600))
	refused(status.Start, `tokenizer_config.json: eos_token names the token "</none>", which is not in it`)
	require.NoError(t, os.WriteFile(config, []byte(`{"eos_token": 3}`), 0o600))
	refused(status.Start, "tokenizer_config.json: eos_token is neither a string nor an object with content")
	require.NoError(t, os.Remove(config)) // the names are XLM-RoBERTa's by themselves
	c := onnxConfig("bge-m3")
	c.Model = dir
	require.Equal(t, []uint32{0, 2, 1, 3}, open(t, c).weightless)
	require.NoError(t, os.Remove(filepath.Join(dir, "sparse_linear.pt")))
	refused(status.WeightsNotFound, `no tensor "sparse_linear.weight"`)
}

// TestMatryoshka holds vectors of fewer dimensions to sentence-transformers' truncate_dim, behind dense and LayerNorm modules.
func TestMatryoshka(t *testing.T) {
	var golden struct {
		Items      []m3Item
		Matryoshka struct {
			Dimensions int
			Rows       [][]float32
		}
	}
	readJSON(t, filepath.Join(modelFolder("xlm-roberta-layernorm"), "golden.json"), &golden)
	b := open(t, onnxConfig("xlm-roberta-layernorm"))
	for i, want := range golden.Matryoshka.Rows { // the single texts come first
		row := make([]float32, golden.Matryoshka.Dimensions)
		require.NoError(t, b.EmbedTexts(background, []Text{{Text: golden.Items[i].Text}}, CallOptions{Dimensions: len(row)}, Output{Rows: row}))
		require.InDeltaSlice(t, want, row, 2e-5, golden.Items[i].Text)
	}
}
