package onnx

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestDeviceErrors(t *testing.T) {
	e := &Engine{info: engine.Info{Device: "cuda:3"}}
	for _, text := range []string{
		"BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1",
		"CUDA failure 2: out of memory ; GPU=0", "CUDNN failure 2: x", "Non-zero status code",
	} {
		err := e.deviceError(status.Errorf(status.Inference, "ONNX Runtime: run: %s", text))
		require.Equal(t, status.Inference, status.CodeOf(err), text)
	}
	require.Equal(t, status.Timeout, status.CodeOf(e.deviceError(status.Errorf(status.Timeout, "illegal memory access"))))
	require.NoError(t, e.Health())

	ours := &Engine{info: engine.Info{Device: "cuda:3"}}
	require.Equal(t, status.Unhealthy, status.CodeOf(ours.deviceError(status.Errorf(status.Inference,
		"ONNX Runtime: run: CUDA failure 700: at the launch of bei.ResidualNorm"))))

	err := e.deviceError(status.Errorf(status.Inference,
		"ONNX Runtime: run: CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=x ; file=y"))
	require.Equal(t, status.Unhealthy, status.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "cuda:3 is lost")
	require.ErrorContains(t, err, "CUDA failure 700")
	require.Equal(t, err, e.Health())
	_ = e.deviceError(status.Errorf(status.Inference, "device-side assert"))
	require.Equal(t, err, e.Health(), "the first cause stays")
}

func TestCUDALimits(t *testing.T) {
	for name, c := range map[string]struct {
		model       *arch.Model
		given, want engine.Limits
	}{
		"MiniLM": {sized(384, 1536, 256), engine.Limits{}, engine.Limits{MaxTokens: 32768, MaxSequences: 1024, MaxLength: 256, BestTokens: 16384}},
		"wide":   {sized(8192, 1<<17, 512), engine.Limits{}, engine.Limits{MaxTokens: 6898, MaxSequences: 1024, MaxLength: 512, BestTokens: 6898}},
		"long":   {sized(1024, 1024, 40960), engine.Limits{}, engine.Limits{MaxTokens: 40960, MaxSequences: 1024, MaxLength: 40960, BestTokens: 16384}},
		"lower":  {sized(384, 1536, 256), engine.Limits{MaxTokens: 100, MaxSequences: 3}, engine.Limits{MaxTokens: 100, MaxSequences: 3, MaxLength: 100, BestTokens: 100}},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := Options{Device: CUDA, Precision: Float16, Limits: c.given}.withDefaults(c.model)
			require.NoError(t, err)
			require.Equal(t, c.want, o.Limits)
			require.Equal(t, 1, o.Threads)
			require.Equal(t, 2, o.Slots)
			require.Equal(t, "cuda:0", o.device())
		})
	}
	m := sized(1024, 1024, 4096)
	o, err := Options{Device: CUDA, Precision: Float16}.withDefaults(m)
	require.NoError(t, err)
	l := paddedLimits(o.Limits, o, 16)
	require.Equal(t, engine.Limits{MaxTokens: 4681, MaxSequences: 1024, MaxLength: 4096, BestTokens: 4681, Padded: true}, l)
	o.defaultTokens = false
	require.Equal(t, o.Limits.MaxTokens, paddedLimits(o.Limits, o, 16).MaxTokens)
}
