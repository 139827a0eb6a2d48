package trt

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// needGPU skips where the tests are not told that there are so many devices.
func needGPU(t *testing.T, devices int) {
	if suite.GPUs() < devices {
		t.Skipf("needs %d CUDA devices and TensorRT's library: set BEI_GPU_TESTS=%d, BEI_TENSORRT_LIB and BEI_TRT_SHIM_DIR", devices, devices)
	}
}

// plansVariable names the environment variable with a folder of plans for the tests on a GPU. TestPrebuild fills it, without one.
const plansVariable = "BEI_TEST_PLANS"

// gpuOptions are for small models: few shapes, so that warming up takes little.
func gpuOptions(t *testing.T, precision string, limits engine.Limits) Options {
	if limits.MaxTokens == 0 {
		limits.MaxTokens = 1280 // the largest batch of a golden case has 1188
	}
	if limits.MaxSequences == 0 {
		limits.MaxSequences = 20
	}
	plans := os.Getenv(plansVariable)
	if plans == "" {
		plans = t.TempDir()
	}
	return Options{Precision: precision, Slots: 1, Limits: limits, Cache: plans, Logger: func(s nvinfer.Severity, m string) {
		if s <= nvinfer.Warning {
			t.Log(s, m)
		}
	}}
}

// calibrated measures the scales of a case's own sequences on the CPU.
func calibrated(t *testing.T, m *arch.Model, w *weights.Set, sequences []suite.Sequence) *calibration.Scales {
	e, err := onnx.Open(t.Context(), m, w, onnx.Options{Calibrate: true, Library: os.Getenv("BEI_ONNXRUNTIME_CPU_LIB")})
	require.NoError(t, err)
	for _, q := range sequences {
		_, err := suite.Compute(t.Context(), e.Slots()[0], e.Info(), []suite.Sequence{q}, e.Info().Outputs)
		require.NoError(t, err)
	}
	amax, tokens, err := onnx.Maxima(e)
	require.NoError(t, err)
	require.NoError(t, e.Close())
	scales, err := calibration.New(w.Fingerprint(), len(sequences), tokens, calibration.Keys(m), amax)
	require.NoError(t, err)
	return scales
}

// TestPrebuild builds the plans of TestGPU and TestGPUFloat8, but for the real MiniLM's, which are as large as its weights.
func TestPrebuild(t *testing.T) {
	if os.Getenv(plansVariable) == "" || suite.GPUs() > 0 {
		t.Skip("fills the folder " + plansVariable + ", where that is set, for a machine with a GPU")
	}
	lib, err := openLibrary(LibraryOptions{})
	require.NoError(t, err)
	for _, c := range suite.Every(t) {
		for _, precision := range []string{"float32", "float16", "bfloat16", "float8"} {
			o := gpuOptions(t, precision, engine.Limits{})
			if precision == "float8" {
				o.Scales = calibrated(t, c.Model, c.Weights, c.Sequences)
			}
			o, err := o.withDefaults(c.Model, storedType(c.Model, c.Weights))
			require.NoError(t, err)
			b := newBuilder(library{lib}, lib, c.Model, c.Weights, o)
			require.NoError(t, b.identify(t.Context(), nvinfer.Device{})) // TensorRT-RTX's plans are for every GPU
			p, err := b.plan(t.Context())
			require.NoError(t, err)
			require.True(t, p.kept)
		}
	}
}

// TestGPU holds every case to the truth in every precision.
func TestGPU(t *testing.T) {
	needGPU(t, 1)
	for _, precision := range []string{"float32", "float16", "bfloat16"} {
		t.Run(precision, func(t *testing.T) {
			suite.Run(t, func(t *testing.T, m *arch.Model, w *weights.Set, limits engine.Limits) engine.Engine {
				e, err := Open(t.Context(), m, w, gpuOptions(t, precision, limits))
				require.NoError(t, err)
				return e
			}, suite.Every(t, suite.MiniLM(t)), suite.Precisions[precision])
		})
	}
}

// TestGPUFloat8 prints how near every model comes to the truth: the real MiniLM by 0.99, tiny ones of random weights by 0.9.
func TestGPUFloat8(t *testing.T) {
	needGPU(t, 1)
	minilm := suite.MiniLM(t)
	for _, c := range suite.Every(t, minilm) {
		t.Run(c.Name, func(t *testing.T) {
			least := 0.9
			if c.Name == minilm.Name {
				least = 0.99
			}
			o := gpuOptions(t, "float8", engine.Limits{})
			o.Scales = calibrated(t, c.Model, c.Weights, c.Sequences)
			e, err := Open(t.Context(), c.Model, c.Weights, o)
			require.NoError(t, err)
			text, err := suite.VerifyCosine(e, &c, least)
			t.Log(text)
			assert.NoError(t, err)
			require.NoError(t, e.Close())
		})
	}
}

// TestGPUAloneEqualsBatched compares texts of the real MiniLM alone and in one batch, in float16.
func TestGPUAloneEqualsBatched(t *testing.T) {
	needGPU(t, 1)
	c := suite.MiniLM(t)
	e, err := Open(t.Context(), c.Model, c.Weights, gpuOptions(t, "float16", engine.Limits{MaxTokens: 8192, MaxSequences: 64}))
	require.NoError(t, err)
	defer func() { require.NoError(t, e.Close()) }()
	least, line, err := suite.AloneAgainstBatched(t.Context(), e, c.Sequences)
	require.NoError(t, err)
	t.Log(line)
	require.GreaterOrEqual(t, least, 0.99999)
}

// TestGPUEveryShape compares sequences of random lengths in each shape of each worker, beside different ones and empty places, with the same
// alone, in float16 with the real MiniLM: runs use some of the shapes only, which ones is decided by measured times.
func TestGPUEveryShape(t *testing.T) {
	needGPU(t, 1)
	c := suite.MiniLM(t)
	o := gpuOptions(t, "float16", engine.Limits{MaxTokens: 16384, MaxSequences: 64})
	o.Slots = 2
	opened, err := Open(t.Context(), c.Model, c.Weights, o)
	require.NoError(t, err)
	e := opened.(*Engine)
	defer func() { require.NoError(t, e.Close()) }()
	random := rand.New(rand.NewPCG(7, 8))
	for number, w := range e.replicas[0].workers {
		p := newProbe(w.layout, w.shapes, nil)
		launch := func(i int, in func(int) sequence) {
			kind, _, err := p.launch(w, i, in)
			require.NoError(t, err)
			require.Equal(t, nvinfer.Replayed, kind, "%v", w.shapes.all[i])
		}
		alone := func(q sequence) []float32 {
			i := w.shapes.index[0][w.shapes.step[q.length]]
			launch(i, func(int) sequence { return q })
			return slices.Clone(p.row(w, w.shapes.all[i], 0, q.length))
		}
		for i, x := range w.shapes.all {
			if w.shapes.refused(i) {
				t.Errorf("%d x %d is refused", x.n, x.l)
				continue
			}
			for round := range 3 {
				// Of the lengths that the shape is for; of all; half of the places empty.
				least := 0
				if step := w.shapes.stepOf(x.l); step > 0 && round != 1 {
					least = w.shapes.steps[step-1]
				}
				texts := make([]sequence, x.n)
				for k := range texts {
					if round < 2 || 2*k < x.n || k == 0 {
						texts[k] = sequence{least + 1 + random.IntN(x.l-least), random.IntN(1000)}
					}
				}
				launch(i, func(place int) sequence { return texts[place] })
				rows := slices.Clone(w.pooled.floats()[:x.n*w.layout.pooled])
				for k, q := range texts {
					if q.length == 0 {
						continue
					}
					if c := p.agreement(rows[k*w.layout.pooled:][:w.layout.pooled], alone(q)); c < 0.9999 {
						t.Errorf("worker %d, %d x %d, place %d, %d tokens: cosine to the same alone %.6f", number, x.n, x.l, k, q.length, c)
					}
				}
			}
		}
	}
}

// TestGPUSteadyState runs random mixed batches after warm-up: nothing is compiled, captured or allocated, and a shape's time is steady.
func TestGPUSteadyState(t *testing.T) {
	needGPU(t, 1)
	c := suite.MiniLM(t)
	o := gpuOptions(t, "float16", engine.Limits{MaxTokens: 4096, MaxSequences: 32})
	o.Slots = 2
	opened, err := Open(t.Context(), c.Model, c.Weights, o)
	require.NoError(t, err)
	e := opened.(*Engine)
	defer func() { require.NoError(t, e.Close()) }()
	free := func() uint64 {
		lib, err := openLibrary(LibraryOptions{})
		require.NoError(t, err)
		device, err := lib.Device(0)
		require.NoError(t, err)
		return device.MemoryFree
	}
	before := free()
	random := rand.New(rand.NewPCG(5, 6))
	times := make(map[string][]float64)
	for range 1000 {
		var batch []suite.Sequence
		n := 1 << random.IntN(5)
		longest := 0
		for range n {
			q := c.Sequences[random.IntN(len(c.Sequences))]
			batch = append(batch, q)
			longest = max(longest, len(q.IDs))
		}
		begin := time.Now()
		_, err := suite.Compute(t.Context(), e.slots[random.IntN(len(e.slots))], e.info, batch, engine.Pooled)
		require.NoError(t, err)
		took := float64(time.Since(begin).Microseconds())
		if n == 1 {
			w := e.replicas[0].workers[0]
			bucket := fmt.Sprintf("1 x %d", w.shapes.steps[w.shapes.step[longest]])
			times[bucket] = append(times[bucket], took)
		}
	}
	stats := e.Stats()[0]
	t.Logf("%+v, %+v", stats, *stats.Graphs)
	require.Zero(t, stats.Graphs.Captures)
	require.GreaterOrEqual(t, float64(stats.Graphs.Replays)/float64(stats.Launches), 0.9)
	require.Equal(t, before, free(), "device memory")
	for bucket, list := range times {
		if len(list) < 20 {
			continue
		}
		slices.Sort(list)
		p50, p99 := list[len(list)/2], list[len(list)*99/100]
		t.Logf("bucket %s: %d runs, p50 %.0f us, p99 %.0f us, ratio %.2f", bucket, len(list), p50, p99, p99/p50)
		require.LessOrEqual(t, p99/p50, 1.5, bucket)
	}
}

// TestGPUReplicas runs on two devices at once.
func TestGPUReplicas(t *testing.T) {
	needGPU(t, 2)
	c := suite.MiniLM(t)
	o := gpuOptions(t, "float16", engine.Limits{MaxTokens: 1024, MaxSequences: 16})
	o.Devices, o.Slots = []int{0, 1}, 2
	opened, err := Open(t.Context(), c.Model, c.Weights, o)
	require.NoError(t, err)
	defer func() { require.NoError(t, opened.Close()) }()
	require.Len(t, opened.Slots(), 4)
	require.Len(t, opened.Info().DeviceUUIDs, 2)
	require.True(t, strings.Contains(opened.Info().Device, "cuda:1"))
	done := make(chan error)
	for _, s := range opened.Slots() {
		go func() {
			for i := range 50 {
				q := c.Sequences[i%len(c.Sequences)]
				r, err := suite.Compute(t.Context(), s, opened.Info(), []suite.Sequence{q}, engine.Pooled)
				if err == nil {
					err = suite.Precisions["float16"].Compare(r[0].Pooled, q.Pooled)
				}
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range opened.Slots() {
		require.NoError(t, <-done)
	}
}
