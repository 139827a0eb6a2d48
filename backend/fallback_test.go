package backend

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// half is an engine whose outputs overflow as in float16.
type half struct{ engine.Engine }

type halfSlot struct{ engine.Slot }

func (h half) Info() engine.Info {
	i := h.Engine.Info()
	i.Precision = "float16"
	return i
}

func (h half) Slots() []engine.Slot { return []engine.Slot{halfSlot{h.Engine.Slots()[0]}} }

func (s halfSlot) Run(ctx context.Context) (engine.Output, error) {
	const largest = 65504
	out, err := s.Slot.Run(ctx)
	for _, rows := range [][]float32{out.Pooled, out.TokenVectors, out.Sparse} {
		for k, x := range rows {
			if x > largest || x < -largest {
				rows[k] = float32(math.Inf(int(x)))
			}
		}
	}
	return out, err
}

// overflowing is bert-mean with its last norm scaled, so that its outputs are: they may then be more than float16 holds, and its normalised
// vectors are what they were.
func overflowing(t *testing.T, scale float32) string {
	const norm = "encoder.layer.1.output.LayerNorm."
	return suite.Patched(t, modelFolder("bert-mean"), []string{norm + "weight", norm + "bias"}, func(_ int, x float32) float32 { return scale * x })
}

// openHalf opens a backend over half of the engine that c opens.
func openHalf(t *testing.T, c Config) *Backend {
	whole := open(t, c)
	b := &Backend{config: whole.config, queue: whole.config.pipeline(), log: zap.NewNop(), model: whole.model, weights: whole.weights,
		tokenizer: whole.tokenizer, engine: half{whole.engine}, monitor: whole.monitor, info: whole.info, metrics: newMetrics()}
	b.queue.Fallback = b.fallback()
	b.pipe = pipeline.New(b.engine, b.queue, pipeline.NewMetrics(b.metrics.registry), b.log)
	t.Cleanup(func() { require.NoError(t, b.pipe.Close(background)) })
	return b
}

// reruns counts items that were run again, by their status then.
func reruns(t *testing.T, b *Backend) map[string]float64 {
	counts := map[string]float64{}
	family := families(t, b)["bei_reruns_total"]
	if family == nil {
		return counts
	}
	for _, m := range family.Metric {
		counts[m.Label[0].GetValue()] = m.Counter.GetValue()
	}
	return counts
}

// TestOverflowRunsAgain: items that overflow in 16 bits have their float32 vectors, which are sentence-transformers'.
func TestOverflowRunsAgain(t *testing.T) {
	var golden struct {
		Items  []goldenText
		Pooled [][]float32
	}
	readJSON(t, filepath.Join(modelFolder("bert-mean"), "golden.json"), &golden)
	c := onnxConfig("")
	c.Model = overflowing(t, 2e4)
	b := openHalf(t, c)
	texts := textsOf(golden.Items)
	rows, codes, result := rowsFor(b, len(texts)), make([]status.Code, len(texts)), Result{}
	require.NoError(t, b.EmbedTexts(background, texts, CallOptions{}, Output{Rows: rows, Status: codes, Result: &result}))
	for i, item := range golden.Items {
		require.Equal(t, status.OK, codes[i])
		require.Equal(t, item.InputIDs, result.Items[i].Tokens.IDs)
		for k, want := range golden.Pooled[i] {
			require.InDelta(t, want, rows[i*len(golden.Pooled[i])+k], 2e-5, "item %d, column %d", i, k)
		}
	}
	again := reruns(t, b)
	require.Len(t, again, 1)
	require.Positive(t, again["OK"])
	require.Less(t, again["OK"], float64(len(texts)), "some fit")
}

// textsOf are golden items, whose tokens are wanted, too.
func textsOf(items []goldenText) (texts []Text) {
	for _, item := range items {
		text := Text{Text: item.Text, Outputs: engine.Pooled | TokensOutput}
		if item.Pair != nil {
			text.Pair, text.HasPair = *item.Pair, true
		}
		texts = append(texts, text)
	}
	return texts
}

// TestOverflowOnGPU: the same in TensorRT's float16.
func TestOverflowOnGPU(t *testing.T) {
	if suite.GPUs() == 0 {
		t.Skip("needs a CUDA device and TensorRT's library: set BEI_GPU_TESTS=1, BEI_TENSORRT_LIB and BEI_TRT_SHIM_DIR")
	}
	var golden struct {
		Items  []goldenText
		Pooled [][]float32
	}
	readJSON(t, filepath.Join(modelFolder("bert-mean"), "golden.json"), &golden)
	c := onnxConfig("")
	c.Model, c.Engine, c.DType, c.TensorRT.Cache = overflowing(t, 2e4), "tensorrt", "float16", t.TempDir()
	c.MaxTokens, c.MaxSequences = 1024, 32
	b := open(t, c)
	rows := rowsFor(b, len(golden.Items))
	require.NoError(t, b.EmbedTexts(background, textsOf(golden.Items), CallOptions{}, Output{Rows: rows, Result: &Result{}}))
	width := len(golden.Pooled[0])
	for i := range golden.Items { // token items come after them
		require.GreaterOrEqual(t, cosine(rows[i*width:(i+1)*width], golden.Pooled[i]), 0.999, "item %d", i)
	}
	t.Log("run again:", reruns(t, b))
	require.Positive(t, reruns(t, b)["OK"])
}

// TestOverflowWithoutRerun: where the config does not allow the memory, such items fail alone.
func TestOverflowWithoutRerun(t *testing.T) {
	c := onnxConfig("")
	c.Model = overflowing(t, 1e6)
	for _, limit := range []int64{0, 1000} {
		c.RerunMaxBytes = &limit
		b := openHalf(t, c)
		codes := make([]status.Code, 1)
		require.NoError(t, b.Embed(background, packed([]uint32{5, 6}), CallOptions{}, Output{Rows: rowsFor(b, 1), Status: codes}))
		require.Equal(t, []status.Code{status.NonFinite}, codes)
		require.Empty(t, reruns(t, b))
	}
	limit := int64(1 << 20)
	c.RerunMaxBytes = &limit
	b := openHalf(t, c)
	require.Greater(t, b.float32Bytes(), int64(1000))
	require.NoError(t, b.Embed(background, packed([]uint32{5, 6}), CallOptions{}, Output{Rows: rowsFor(b, 1)}))
}

// TestNaNInFloat32: what is not finite there either fails, and says so.
func TestNaNInFloat32(t *testing.T) {
	const spoilt = 7 // token id
	c := onnxConfig("")
	width := int(open(t, onnxConfig("bert-mean")).Info().Dimensions)
	c.Model = suite.Patched(t, modelFolder("bert-mean"), []string{"embeddings.word_embeddings.weight"}, func(i int, x float32) float32 {
		if i/width == spoilt {
			return float32(math.NaN())
		}
		return x
	})
	b := openHalf(t, c)
	codes, result := make([]status.Code, 3), Result{}
	require.NoError(t, b.Embed(background, packed([]uint32{5, 6}, []uint32{5, spoilt}, []uint32{6}), CallOptions{}, Output{Rows: rowsFor(b, 3), Status: codes, Result: &result}))
	require.Equal(t, []status.Code{status.OK, status.NonFinite, status.OK}, codes)
	require.Equal(t, "item 1: the model's output holds NaN or infinity; run again on another engine: item 1: the model's output holds NaN or infinity",
		result.Items[1].Message)
	require.Equal(t, map[string]float64{"NON_FINITE": 1}, reruns(t, b))

	require.Nil(t, open(t, c).queue.Fallback, "float32 already")
	require.Nil(t, openMock(t, nil).queue.Fallback, "the mock has no model")
}
