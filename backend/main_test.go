package backend

import (
	"context"
	"math"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var background = context.Background()

// mockConfig is a small quiet mock.
func mockConfig() Config {
	return Config{Engine: "mock", Log: LogConfig{Level: "off"},
		Mock: mock.Config{Dimensions: 8, VocabSize: 100, TypeVocab: 2, MaxLength: 16, Labels: 3}}
}

// open opens a backend and closes it after the test.
func open(t testing.TB, c Config) *Backend {
	t.Helper()
	b, err := Open(background, c)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close(background)) })
	return b
}

// openMock opens the small mock, changed.
func openMock(t testing.TB, change func(*Config)) *Backend {
	t.Helper()
	c := mockConfig()
	if change != nil {
		change(&c)
	}
	return open(t, c)
}

// withFaults scripts faults; runs 1 and 2 are the warm-up's.
func withFaults(faults ...mock.Fault) func(*Config) {
	return func(c *Config) { c.Mock.Faults = faults }
}

// modelFolder is the folder of a tiny model.
func modelFolder(name string) string { return filepath.Join("..", "testdata", "models", name) }

// onnxConfig runs a tiny model for real.
func onnxConfig(name string) Config {
	return Config{Model: modelFolder(name), Engine: "onnxruntime", Threads: 1, Log: LogConfig{Level: "off"},
		ONNXRuntime: ONNXRuntimeConfig{Library: filepath.Join("..", ".deps", "onnxruntime", "libonnxruntime.so.1")}}
}

// packed makes a batch of sequences, which all want their pooled rows.
func packed(sequences ...[]uint32) Batch {
	b := Batch{CumulativeSeqLengths: []uint32{0}}
	for i, s := range sequences {
		b.InputIDs = append(b.InputIDs, s...)
		b.CumulativeSeqLengths = append(b.CumulativeSeqLengths, uint32(len(b.InputIDs)))
		b.PooledIndices = append(b.PooledIndices, uint32(i))
	}
	return b
}

// rowsFor makes room for n pooled rows, filled with a number that no model gives.
func rowsFor(b *Backend, n int) []float32 {
	width := int(b.Info().Dimensions + b.Info().Labels)
	rows := make([]float32, n*width)
	for i := range rows {
		rows[i] = -99
	}
	return rows
}

// reference gives the mock's rows of one sequence straight from an engine.
func reference(t testing.TB, b *Backend, ids []uint32) engine.Output {
	t.Helper()
	e := mock.Open(b.engine.(*mock.Engine).Config(), 1, engine.Limits{})
	batch := e.Slots()[0].Batch()
	for k, id := range ids {
		batch.InputIDs, batch.TypeIDs, batch.PositionIDs = append(batch.InputIDs, int32(id)), append(batch.TypeIDs, 0), append(batch.PositionIDs, int32(k))
	}
	batch.EndSequence(e.Info().Outputs, 0)
	out, err := e.Slots()[0].Run(background)
	require.NoError(t, err)
	return out
}

// normalized cuts v to n columns and scales it to length 1, in float64.
func normalized(v []float32, n int) []float64 {
	var sum float64
	for _, x := range v[:n] {
		sum += float64(x) * float64(x)
	}
	unit := make([]float64, n)
	for i, x := range v[:n] {
		unit[i] = float64(x) / math.Sqrt(sum)
	}
	return unit
}

func requireClose(t testing.TB, want []float64, got []float32, tolerance float64) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		require.InDelta(t, want[i], got[i], tolerance, "column %d", i)
	}
}

func requireCode(t testing.TB, want status.Code, err error, text string) {
	t.Helper()
	require.Equal(t, want, status.CodeOf(err), "%v", err)
	if text != "" {
		require.ErrorContains(t, err, text)
	}
	var typed *status.Error
	if err != nil {
		require.ErrorAs(t, err, &typed)
	}
}
