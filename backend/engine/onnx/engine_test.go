package onnx_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// options returns those of an engine on the library of .deps, unless the environment names another.
func options(t testing.TB) onnx.Options {
	o := onnx.Options{Threads: 2, Slots: 2}
	if os.Getenv(ort.LibraryVariable) == "" {
		o.Library = libraryOfTests(t)
	}
	return o
}

func open(t *testing.T, m *arch.Model, w *weights.Set, limits engine.Limits) engine.Engine {
	o := options(t)
	o.Limits = limits
	o.Logger = func(_ ort.Severity, message string) { t.Errorf("ONNX Runtime says: %s", message) }
	t.Cleanup(func() { ort.SetLogger(nil) })
	e, err := onnx.Open(t.Context(), m, w, o)
	require.NoError(t, err)
	if level := os.Getenv(kernels.LevelVariable); level != "" {
		require.Equal(t, level, e.Info().Details["kernels"])
	}
	return e
}

func TestGolden(t *testing.T) {
	suite.Run(t, open, suite.Golden(t, arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier, arch.HeadSparse), suite.Exact)
}

func TestMiniLM(t *testing.T) {
	c := suite.MiniLM(t)
	e := open(t, c.Model, c.Weights, engine.Limits{})
	require.NoError(t, suite.Verify(e, &c, suite.Exact))
	require.NoError(t, e.Close())
}

func TestSynthetic(t *testing.T) {
	suite.Run(t, open, suite.Synthetic(t), suite.Exact)
}

func TestMutations(t *testing.T) {
	suite.Mutations(t, open)
}
