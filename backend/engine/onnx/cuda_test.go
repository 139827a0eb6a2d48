package onnx_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// attentionVariable is the form of attention that tests on a GPU take; default: the engine's choice.
const attentionVariable = "BEI_TEST_ORT_ATTENTION"

// onGPU reports that this process tests a GPU: then it loads the library for it, and can load no other.
func onGPU() bool { return suite.GPUs() > 0 }

func requireGPU(t testing.TB) {
	if !onGPU() {
		t.Skipf("set %s=1 on a machine with an NVIDIA GPU, CUDA 13 and cuDNN 9, and %s to onnxruntime-gpu's library (or run `make setup_gpu`)",
			suite.GPUVariable, ort.LibraryVariable)
	}
}

// opener opens engines with options that change makes of the tests' own.
func opener(change func(onnx.Options) onnx.Options) suite.Opener {
	return func(t *testing.T, m *arch.Model, w *weights.Set, limits engine.Limits) engine.Engine {
		o := change(options(t))
		o.Limits = limits
		o.Logger = func(s ort.Severity, message string) {
			if s >= ort.Error || !onGPU() {
				t.Errorf("ONNX Runtime says: %s", message)
			}
		}
		t.Cleanup(func() { ort.SetLogger(nil) })
		e, err := onnx.Open(t.Context(), m, w, o)
		require.NoError(t, err)
		return e
	}
}

func onCUDA(precision string) suite.Opener {
	return opener(func(o onnx.Options) onnx.Options {
		o.Device, o.Precision, o.Threads = onnx.CUDA, precision, 0
		return onnx.WithAttention(o, os.Getenv(attentionVariable))
	})
}

func TestCUDA(t *testing.T) {
	requireGPU(t)
	for _, precision := range []string{onnx.Float32, onnx.Float16, onnx.BFloat16} {
		t.Run(precision, func(t *testing.T) {
			suite.Run(t, onCUDA(precision), suite.Every(t, suite.MiniLM(t)), suite.Precisions[precision])
		})
	}
}

// What an engine says of the GPU that it lies on.
func TestCUDADeviceUUIDs(t *testing.T) {
	requireGPU(t)
	c := suite.MiniLM(t)
	e := onCUDA(onnx.Float16)(t, c.Model, c.Weights, engine.Limits{})
	t.Logf("%+v", e.Info())
	require.Len(t, e.Info().DeviceUUIDs, 1)
	require.Regexp(t, `^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, e.Info().DeviceUUIDs[0])
	require.NoError(t, e.Close())
}

// One text of the real MiniLM alone, and the same in a batch.
func TestCUDAAloneEqualsBatched(t *testing.T) {
	requireGPU(t)
	c := suite.MiniLM(t)
	e := onCUDA(onnx.Float16)(t, c.Model, c.Weights, engine.Limits{})
	least, line, err := suite.AloneAgainstBatched(t.Context(), e, c.Sequences)
	require.NoError(t, err)
	t.Log(line)
	require.GreaterOrEqual(t, least, 0.99999)
	require.NoError(t, e.Close())
}

// So many rows that several heads of one share what Heads reads (head_groups in ort/ops_cuda.c).
func TestCUDAManyRows(t *testing.T) {
	requireGPU(t)
	c := suite.Named(t, "qwen3-multiples-of-16")
	e := onCUDA(onnx.Float16)(t, c.Model, c.Weights, engine.Limits{MaxTokens: 32768, MaxSequences: 8192})
	var batch []suite.Sequence
	for i, rows := 0, 0; rows < 24000; i++ {
		batch = append(batch, c.Sequences[i%len(c.Sequences)])
		rows += len(c.Sequences[i%len(c.Sequences)].IDs)
	}
	results, err := suite.Compute(t.Context(), e.Slots()[0], e.Info(), batch, engine.Pooled)
	require.NoError(t, err)
	for i, r := range results {
		require.NoError(t, suite.Bounds{MinCosine: 0.9999, MaxError: 1e9}.Compare(r.Pooled, batch[i].Pooled), "sequence %d", i)
	}
	require.NoError(t, e.Close())
}

// Forms that the engine does not choose by itself, or not for these models.
func TestCUDAForms(t *testing.T) {
	requireGPU(t)
	for _, form := range []string{onnx.FormPacked, onnx.FormPaged, onnx.FormGrouped, onnx.FormMulti, onnx.FormProducts} {
		t.Run(form, func(t *testing.T) {
			open := opener(func(o onnx.Options) onnx.Options {
				o.Device, o.Precision, o.Threads = onnx.CUDA, onnx.Float16, 0
				return onnx.WithAttention(o, form)
			})
			for _, c := range suite.Every(t) {
				t.Run(c.Name, func(t *testing.T) {
					e := open(t, c.Model, c.Weights, engine.Limits{})
					require.NoError(t, suite.Verify(e, &c, suite.Precisions[onnx.Float16]), "attention: %s", e.Info().Details["attention"])
					require.NoError(t, e.Close())
				})
			}
		})
	}
}

// usedMegabytes is the memory that is taken of each device.
func usedMegabytes(t *testing.T) []int {
	out, err := exec.CommandContext(t.Context(), "nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits").Output()
	require.NoError(t, err)
	var used []int
	for _, line := range strings.Fields(string(out)) {
		n, err := strconv.Atoi(line)
		require.NoError(t, err)
		used = append(used, n)
	}
	return used
}

// An engine lies on the device that it is asked for. Nothing else may use the devices meanwhile.
func TestCUDASecondDeviceAllocations(t *testing.T) {
	requireGPU(t)
	before := usedMegabytes(t)
	if len(before) < 2 || os.Getenv("CUDA_VISIBLE_DEVICES") != "" {
		t.Skip("needs two CUDA devices, and CUDA_VISIBLE_DEVICES unset: nvidia-smi lists all of them")
	}
	c := suite.MiniLM(t)
	o := options(t)
	o.Device, o.DeviceID, o.Threads = onnx.CUDA, 1, 0
	e, err := onnx.Open(t.Context(), c.Model, c.Weights, o)
	require.NoError(t, err)
	after := usedMegabytes(t)
	t.Log(before, after)
	require.Greater(t, after[1]-before[1], 100)
	require.Less(t, after[0]-before[0], 100)
	require.NoError(t, suite.Verify(e, &c, suite.Precisions[onnx.Float16]))
	require.NoError(t, e.Close())
}

func TestCUDADeviceThatIsNotThere(t *testing.T) {
	requireGPU(t)
	c := tiny(t, "bert-mean", arch.Options{})
	o := options(t)
	o.Device, o.DeviceID, o.Threads = onnx.CUDA, 4000, 0
	_, err := onnx.Open(t.Context(), c.Model, c.Weights, o)
	require.Error(t, err)
	t.Log(err)
}

// CUDA's graph on the CPU provider: the arithmetic of everything but the fused kernels.
func TestEmulatedCUDA(t *testing.T) {
	for _, form := range []string{onnx.FormProducts, onnx.FormGrouped, onnx.FormMulti} {
		open := opener(func(o onnx.Options) onnx.Options { return onnx.WithAttention(onnx.Emulated(o, onnx.Float32), form) })
		t.Run(form, func(t *testing.T) { suite.Run(t, open, suite.Every(t), suite.Exact) })
	}
	open := opener(func(o onnx.Options) onnx.Options { return onnx.Emulated(o, onnx.Float32) })
	t.Run("MiniLM", func(t *testing.T) {
		c := suite.MiniLM(t)
		e := open(t, c.Model, c.Weights, engine.Limits{})
		require.NoError(t, suite.Verify(e, &c, suite.Exact))
		require.NoError(t, e.Close())
	})
}

// Every graph, in every precision and form, is one that ONNX Runtime understands: all that the CPU provider lacks is
// kernels, which it may say of a cast that it puts in for want of one.
func TestCUDAGraphsAreValid(t *testing.T) {
	for _, precision := range []string{onnx.Float16, onnx.BFloat16} {
		for _, form := range []string{"", onnx.FormPacked, onnx.FormPaged, onnx.FormGrouped, onnx.FormMulti, onnx.FormProducts} {
			t.Run(precision+" "+form, func(t *testing.T) {
				for _, c := range suite.Every(t) {
					o := onnx.WithAttention(onnx.Emulated(options(t), precision), form)
					e, err := onnx.Open(t.Context(), c.Model, c.Weights, o)
					if err == nil {
						require.NoError(t, e.Close())
						continue
					}
					require.Regexp(t, "Could not find an implementation for|Kernel not found|InsertedPrecisionFreeCast", err.Error(), c.Name)
				}
			})
		}
	}
}

func TestCUDARefuses(t *testing.T) {
	for name, bad := range map[string]struct {
		change func(m *arch.Model, o *onnx.Options)
		code   status.Code
		want   string
	}{
		"dtype":      {func(_ *arch.Model, o *onnx.Options) { o.Precision = "float8" }, status.Unsupported, `dtype "float8" on device "cuda"`},
		"device id":  {func(_ *arch.Model, o *onnx.Options) { o.DeviceID = -1 }, status.InvalidArgument, "device id -1"},
		"calibrate":  {func(_ *arch.Model, o *onnx.Options) { o.Calibrate = true }, status.Unsupported, `calibrate on device "cuda"`},
		"max tokens": {func(_ *arch.Model, o *onnx.Options) { o.Limits.MaxTokens = 1 << 16 }, status.InvalidArgument, "limits.max_tokens is 65536; it must be 1 to 65535"},
		"activation": {func(m *arch.Model, _ *onnx.Options) { m.Layers[0].MLP.Activation = 99 }, status.Unsupported, "activation 99"},
		"norm":       {func(m *arch.Model, _ *onnx.Options) { m.Embeddings.Norm.Kind = 99 }, status.Unsupported, "norm kind 99"},
		"pooling":    {func(m *arch.Model, _ *onnx.Options) { m.Head.Pooling.Modes = []arch.PoolMode{99} }, status.Unsupported, "pooling 99"},
		"rope": {func(m *arch.Model, _ *onnx.Options) {
			m.Layers[0].Attention.Rope = &arch.Rope{Kind: 9, Dim: 4, InvFreq: []float32{1, 1}}
		}, status.Unsupported, "rope kind 9"},
		"heads":  {func(m *arch.Model, _ *onnx.Options) { m.Layers[0].Attention.HeadDim++ }, status.Start, "do not fit"},
		"weight": {func(m *arch.Model, _ *onnx.Options) { m.Layers[1].MLP.Up.Weight.Name = "nothing" }, status.WeightsNotFound, "nothing"},
	} {
		t.Run(name, func(t *testing.T) {
			c := tiny(t, "bert-mean", arch.Options{})
			o := onnx.Emulated(options(t), onnx.Float32)
			bad.change(c.Model, &o)
			_, err := onnx.Open(t.Context(), c.Model, c.Weights, o)
			require.Equal(t, bad.code, status.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, bad.want)
		})
	}
	c := tiny(t, "bert-mean", arch.Options{})
	o := options(t)
	o.Device = "tpu"
	_, err := onnx.Open(t.Context(), c.Model, c.Weights, o)
	require.ErrorContains(t, err, `device "tpu"`)
	if !onGPU() {
		o.Device = onnx.CUDA
		_, err = onnx.Open(t.Context(), c.Model, c.Weights, o)
		require.Equal(t, status.NoBackend, status.CodeOf(err), "%v", err)
	}
}

// libraryOfTests is the file that options loads.
func libraryOfTests(t testing.TB) string {
	if onGPU() {
		return suite.Dependency(t, filepath.Join("gpu", "onnxruntime", "libonnxruntime.so.1"))
	}
	return suite.Dependency(t, "onnxruntime/libonnxruntime.so.1")
}
