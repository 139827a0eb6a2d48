package onnx_test

import (
	"os"
	"os/exec"
	"sync"
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
	suite.Run(t, open, suite.Golden(t, arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier), suite.Exact)
}

func TestGoldenSparse(t *testing.T) {
	suite.Run(t, open, suite.Golden(t, arch.HeadSparse), suite.Exact)
}

func TestMiniLM(t *testing.T) {
	c := suite.MiniLM(t)
	e := open(t, c.Model, c.Weights, engine.Limits{})
	require.NoError(t, suite.Verify(e, &c, suite.Exact))
	require.NoError(t, e.Close())
}

// TestFirstEnginesAtOnce opens the first engines of a process from several threads.
func TestFirstEnginesAtOnce(t *testing.T) {
	const child = "BEI_TEST_FIRST_ENGINES"
	if os.Getenv(child) == "" {
		for range 40 { // one in 80 failed before it was seen to
			c := exec.Command(os.Args[0], "-test.run=^TestFirstEnginesAtOnce$")
			c.Env = append(os.Environ(), child+"=1")
			out, err := c.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		return
	}
	c := tiny(t, "bert-max-sharded", arch.Options{})
	o := options(t)
	errs := make([]error, 8)
	var begin, done sync.WaitGroup
	begin.Add(1)
	for i := range errs {
		done.Go(func() {
			begin.Wait()
			e, err := onnx.Open(t.Context(), c.Model, c.Weights, o)
			if errs[i] = err; err == nil {
				errs[i] = e.Close()
			}
		})
	}
	begin.Done()
	done.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
}

// inBFloat16 says that it computes in bfloat16.
type inBFloat16 struct{ engine.Engine }

func (e inBFloat16) Info() engine.Info {
	i := e.Engine.Info()
	i.Precision = "bfloat16"
	return i
}

// TestVerifyCosine: what is held to the truth, to a bound, and to transformers in bfloat16, which float32 beats on every case.
func TestVerifyCosine(t *testing.T) {
	for _, c := range suite.Golden(t, arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier, arch.HeadSparse) {
		e := open(t, c.Model, c.Weights, engine.Limits{})
		text, err := suite.VerifyCosine(e, &c, suite.Exact.MinCosine)
		require.NoError(t, err)
		require.NotContains(t, text, "transformers")
		narrow := inBFloat16{e}
		text, err = suite.VerifyCosine(narrow, &c, suite.Precisions["bfloat16"].MinCosine)
		require.NoError(t, err)
		require.Regexp(t, `^cosine `+c.Name+` bfloat16 (1|0\.999999)\S*, transformers' own 0\.99\d+$`, text)
		c.BFloat16Cosine = 1.5
		_, err = suite.VerifyCosine(narrow, &c, 0.998)
		require.ErrorContains(t, err, "transformers' own 1.5000000: it must be 2.0000000 or more")
		for i := range c.Sequences { // the first number is off in each; of token vectors where the rows are all that there is
			for _, rows := range [][]float64{c.Sequences[i].Pooled, c.Sequences[i].TokenVectors, c.Sequences[i].Sparse} {
				if len(rows) > 1 {
					rows[0] += 1
				}
			}
		}
		_, err = suite.VerifyCosine(e, &c, 0.99999)
		require.ErrorContains(t, err, ": it must be 0.9999900 or more", c.Name)
		c.Sequences[0].TokenVectors = append(c.Sequences[0].TokenVectors, 1, 1)
		_, err = suite.VerifyCosine(e, &c, 0)
		require.ErrorContains(t, err, "sequence 0: ")
		require.NoError(t, e.Close())
	}
}

func TestSynthetic(t *testing.T) {
	suite.Run(t, open, suite.Synthetic(t), suite.Exact)
}

func TestMutations(t *testing.T) {
	suite.Mutations(t, open)
}
