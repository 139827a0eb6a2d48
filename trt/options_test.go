package trt

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

func TestDefaults(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/caches")
	m := &arch.Model{MaxLength: 512}
	o, err := Options{}.withDefaults(m, weights.F32)
	require.NoError(t, err)
	o.Logger(nvinfer.Error, "to nobody")
	o.Logger = nil
	require.Equal(t, Options{
		Devices: []int{0}, Precision: "float16", Slots: 2, Limits: engine.Limits{MaxTokens: 16384, MaxSequences: 256, MaxLength: 512},
		Cache: "/caches/bei/plans", CacheBytes: 20 << 30, MemoryShare: 0.9,
	}, o)

	o, err = Options{Cache: "off"}.withDefaults(&arch.Model{MaxLength: 32768}, weights.BF16)
	require.NoError(t, err)
	require.Equal(t, "bfloat16", o.Precision)
	require.Empty(t, o.Cache)
	require.Equal(t, engine.Limits{MaxTokens: 32768, MaxSequences: 256, MaxLength: 32768}, o.Limits)

	o, err = Options{Cache: "off", Limits: engine.Limits{MaxTokens: 100, BestTokens: 300, MaxLength: 1000}}.withDefaults(m, weights.F32)
	require.NoError(t, err)
	require.Equal(t, engine.Limits{MaxTokens: 100, MaxSequences: 256, MaxLength: 100, BestTokens: 100}, o.Limits)
}

func TestNoCacheFolder(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	_, err := Options{}.withDefaults(&arch.Model{MaxLength: 512}, weights.F32)
	require.Equal(t, status.Start, status.CodeOf(err))
	require.ErrorContains(t, err, `set tensorrt.cache, or "off" to keep none`)
}

func TestBadOptions(t *testing.T) {
	for text, o := range map[string]Options{
		`dtype "int8": engine tensorrt computes in bfloat16, float16, float32, float8`: {Precision: "int8"},
		`dtype "float8" needs the scales of activations`:                               {Precision: "float8"},
		"slots is 17; it must be 1 to 16":                                              {Slots: 17},
		"slots is -1; it must be 1 to 16":                                              {Slots: -1},
		"max_tokens is 262145; it must be 1 to 262144":                                 {Limits: engine.Limits{MaxTokens: 1<<18 + 1}},
		"max_sequences is 4097; it must be 1 to 4096":                                  {Limits: engine.Limits{MaxSequences: 4097}},
		"max_length is -1; it must be 1 to 262144":                                     {Limits: engine.Limits{MaxLength: -1}},
		"best_tokens is -5; it must be 0 to 262144":                                    {Limits: engine.Limits{BestTokens: -5}},
		"device 3 is named twice":                                                      {Devices: []int{3, 1, 3}},
	} {
		o.Cache = "off"
		_, err := o.withDefaults(&arch.Model{MaxLength: 512}, weights.F32)
		require.ErrorContains(t, err, text)
	}
}

// TestOpenWithoutLibrary: on a machine without TensorRT, and before a library is looked for.
func TestOpenWithoutLibrary(t *testing.T) {
	search(t, t.TempDir(), "", "")
	c := suite.Folder(t, filepath.Join(suite.Root(t), "testdata/models/bert-mean"), arch.Options{})
	_, err := Open(t.Context(), c.Model, c.Weights, Options{Cache: "off"})
	require.Equal(t, status.NoBackend, status.CodeOf(err))
	_, err = Open(t.Context(), c.Model, c.Weights, Options{Cache: "off", Slots: 99})
	require.Equal(t, status.InvalidArgument, status.CodeOf(err))
	odd := *c.Model
	odd.Head.Kind = 77
	_, err = Open(t.Context(), &odd, c.Weights, Options{Cache: "off"})
	require.Equal(t, status.Unsupported, status.CodeOf(err))

	require.Equal(t, weights.F32, storedType(c.Model, c.Weights))
	c.Model.Embeddings.Word.Name = "no such table"
	require.Equal(t, weights.F32, storedType(c.Model, c.Weights))
}

// TestPlansOfFloat8: other scales are another plan.
func TestPlansOfFloat8(t *testing.T) {
	f := newFake(t, 1)
	o := f.cached(t.TempDir())
	o.Precision = "float8"
	keys := calibration.Keys(f.model)
	amax := make(map[string]float32)
	for builds := range 3 {
		for _, key := range keys {
			amax[key] = float32(1 + builds)
		}
		var err error
		o.Scales, err = calibration.New(f.set.Fingerprint(), 1, 10, keys, amax)
		require.NoError(t, err)
		require.Contains(t, f.start(o), "built in ")
		require.Equal(t, "from "+o.Cache, f.start(o))
		require.Equal(t, builds+1, f.count("build", 0))
	}
}
