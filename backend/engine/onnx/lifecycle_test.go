package onnx_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// tiny is one of the models of testdata.
func tiny(t testing.TB, name string, o arch.Options) suite.Case {
	return suite.Folder(t, filepath.Join(suite.Root(t), "testdata", "models", name), o)
}

func TestOpenRefuses(t *testing.T) {
	sparse := tiny(t, "bert-masked-lm", arch.Options{Pooling: "splade"})
	sparse.Model.Head.Chain[1].Activation = arch.GELU
	_, err := onnx.Open(t.Context(), sparse.Model, sparse.Weights, options(t))
	require.Equal(t, status.Unsupported, status.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "a masked-LM head that does not end with a linear map alone")

	c := tiny(t, "bert-mean", arch.Options{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = onnx.Open(ended, c.Model, c.Weights, options(t))
	require.Equal(t, status.Cancelled, status.CodeOf(err), "%v", err)

	o := options(t)
	o.Slots = -1
	_, err = onnx.Open(t.Context(), c.Model, c.Weights, o)
	require.Equal(t, status.InvalidArgument, status.CodeOf(err), "%v", err)

	for name, bad := range map[string]struct {
		change func(m *arch.Model)
		want   string
	}{
		"missing weight": {func(m *arch.Model) { m.Layers[1].MLP.Up.Weight.Name = "nothing" }, "layer 1: weights in"},
		"weight's shape": {func(m *arch.Model) { m.Layers[0].Attention.Out.Weight.Shape = []int{1, 2} }, "layer 0: weight"},
		"table's shape":  {func(m *arch.Model) { m.Embeddings.Word.Shape = []int{3} }, "not [rows, width]"},
		"another table":  {func(m *arch.Model) { m.Embeddings.Word.Shape = []int{3, 4} }, "the model needs [3 4]"},
		"narrow table":   {func(m *arch.Model) { m.Embeddings.Type = m.Layers[0].MLP.Down.Weight }, "columns; the word table has"},
		"heads":          {func(m *arch.Model) { m.Layers[0].Attention.HeadDim++ }, "columns of query, key and value do not fit"},
		"rope":           {func(m *arch.Model) { m.Layers[0].Attention.Rope = &arch.Rope{Dim: 4} }, "rope of 4 numbers has 0 frequencies"},
		"rope's kind": {func(m *arch.Model) {
			m.Layers[0].Attention.Rope = &arch.Rope{Kind: 9, Dim: 4, InvFreq: []float32{1, 1}}
		}, "rope kind 9"},
		"norms that differ": {func(m *arch.Model) { m.Layers[0].Attention.QKNorm = &arch.QKNorm{K: arch.Norm{Eps: 1}} }, "norms of query and key"},
		"relative bias":     {func(m *arch.Model) { m.Layers[0].Attention.RelativeBias = &arch.RelativeBias{Buckets: 3} }, "relative bias of 3 buckets"},
		"places":            {func(m *arch.Model) { m.Layers[0].Attention.Disentangled = &arch.Disentangled{Span: 3} }, "disentangled attention of span 3"},
		"activation":        {func(m *arch.Model) { m.Layers[0].MLP.Activation = 99 }, "activation 99"},
		"gate and up": {func(m *arch.Model) { // of different widths, whose mean is the right one
			mlp := &m.Layers[0].MLP
			mlp.Gate, mlp.Up.Out = mlp.Up, mlp.Up.Out-1
			mlp.Gate.Out++
		}, "columns; up yields"},
		"norm's kind":          {func(m *arch.Model) { m.Embeddings.Norm.Kind = 99 }, "norm kind 99"},
		"pooling":              {func(m *arch.Model) { m.Head.Pooling.Modes = []arch.PoolMode{99} }, "pooling 99"},
		"no pooling":           {func(m *arch.Model) { m.Head.Pooling.Modes = nil }, "no pooling mode"},
		"scale":                {func(m *arch.Model) { m.Embeddings.Scale = 0 }, "scale is 0"},
		"maps that do not fit": {func(m *arch.Model) { m.Layers[0].MLP.Down = m.Layers[0].Attention.Out }, "columns; it is given"},
		"block's width":        {func(m *arch.Model) { m.Layers[0].MLP.Down = m.Layers[0].MLP.Up }, "columns; it is given"},
	} {
		t.Run(name, func(t *testing.T) {
			c := tiny(t, "bert-mean", arch.Options{})
			bad.change(c.Model)
			_, err := onnx.Open(t.Context(), c.Model, c.Weights, options(t))
			require.ErrorContains(t, err, bad.want)
			require.NotEqual(t, status.Internal, status.CodeOf(err), "%v", err)
		})
	}
}

func TestRunRefuses(t *testing.T) {
	c := tiny(t, "bert-mean", arch.Options{})
	e := open(t, c.Model, c.Weights, engine.Limits{MaxTokens: 20, MaxSequences: 3})
	s := e.Slots()[0]
	good := func(b *engine.Batch) {
		b.InputIDs, b.TypeIDs, b.PositionIDs = append(b.InputIDs, 2, 3), append(b.TypeIDs, 0, 0), append(b.PositionIDs, 0, 1)
		b.EndSequence(engine.Pooled, 0)
	}
	for name, bad := range map[string]struct {
		change func(b *engine.Batch)
		code   status.Code
		want   string
	}{
		"token":      {func(b *engine.Batch) { b.InputIDs[1] = 1 << 30 }, status.Inference, "out of data bounds"},
		"type":       {func(b *engine.Batch) { b.TypeIDs[0] = 2 }, status.Inference, "out of data bounds"},
		"position":   {func(b *engine.Batch) { b.PositionIDs[0] = 40 }, status.Inference, "out of data bounds"},
		"falling":    {func(b *engine.Batch) { b.CuSeqLens[1] = -1 }, status.Inference, "cu_seqlens[1] is -1"},
		"beyond":     {func(b *engine.Batch) { b.CuSeqLens[1] = 3 }, status.Inference, "cu_seqlens[1] is 3"},
		"no types":   {func(b *engine.Batch) { b.TypeIDs = nil }, status.InvalidArgument, "0 type ids"},
		"no lengths": {func(b *engine.Batch) { b.CuSeqLens = nil }, status.InvalidArgument, "0 cumulative lengths"},
		"sparse":     {func(b *engine.Batch) { b.Outputs = engine.Sparse }, status.Unsupported, "outputs 0x4"},
		"many":       {func(b *engine.Batch) { good(b); good(b); good(b) }, status.InvalidArgument, "in 4 sequences exceeds the limits 20 and 3"},
		"many tokens": {func(b *engine.Batch) {
			b.InputIDs, b.TypeIDs, b.PositionIDs = make([]int32, 21), make([]int32, 21), make([]int32, 21)
		}, status.InvalidArgument, "batch of 21 tokens"},
	} {
		t.Run(name, func(t *testing.T) {
			ort.SetLogger(nil) // it reports what a test wants to happen
			b := s.Batch()
			*b = *engine.NewBatch(e.Info().Limits)
			good(b)
			bad.change(b)
			_, err := s.Run(t.Context())
			require.Equal(t, bad.code, status.CodeOf(err), "%v", err)
			require.ErrorContains(t, err, bad.want)

			*b = *engine.NewBatch(e.Info().Limits)
			good(b)
			out, err := s.Run(t.Context())
			require.NoError(t, err)
			require.Len(t, out.Pooled, e.Info().PooledWidth)
		})
	}
	require.NoError(t, e.Health())
	require.NoError(t, e.Close())
	_, err := s.Run(t.Context())
	require.Equal(t, status.ShutDown, status.CodeOf(err))
	require.Equal(t, status.ShutDown, status.CodeOf(e.Health()))
}

// processorTime is what this process has used: unlike the time of day it stands while the machine does something else.
func processorTime(t *testing.T) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Cancelling ends a long run between two of its nodes.
func TestCancelDuringRun(t *testing.T) {
	c := suite.MiniLM(t)
	e := open(t, c.Model, c.Weights, engine.Limits{})
	sequences := workload()[:24]
	start := processorTime(t)
	pass(t, e.Slots()[0], sequences, e.Info().Limits.MaxTokens)
	whole := processorTime(t) - start
	ctx, cancel := context.WithCancel(t.Context())
	start = processorTime(t)
	go func() {
		for processorTime(t)-start < whole/10 {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	_, err := suite.Compute(ctx, e.Slots()[0], e.Info(), sequences, engine.Pooled)
	require.Equal(t, status.Cancelled, status.CodeOf(err), "%v", err)
	require.Less(t, processorTime(t)-start, whole)
	require.NoError(t, e.Close())
}

func TestCloseReleasesEverything(t *testing.T) {
	c := suite.MiniLM(t)
	sequences := workload()[:2]
	threads := func() int {
		list, err := os.ReadDir("/proc/self/task")
		require.NoError(t, err)
		return len(list)
	}
	cycle := func() {
		e, err := onnx.Open(t.Context(), c.Model, c.Weights, options(t))
		require.NoError(t, err)
		pass(t, e.Slots()[0], sequences, 512)
		require.NoError(t, e.Close())
	}
	for range 3 {
		cycle()
	}
	memory, tasks := residentBytes(t), threads()
	for range 6 {
		cycle()
	}
	// Ended threads are listed for a moment.
	for end := time.Now().Add(10 * time.Second); threads() > tasks+2 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	require.LessOrEqual(t, threads(), tasks+2, "threads of pools (Go may start some of its own)")
	require.Less(t, residentBytes(t), memory+40_000_000, "a leak would be 40 MB a cycle")
}

func TestIdleEngineUsesNoCPU(t *testing.T) {
	c := tiny(t, "bert-mean", arch.Options{})
	e := open(t, c.Model, c.Weights, engine.Limits{})
	time.Sleep(20 * time.Millisecond)
	start := processorTime(t)
	time.Sleep(300 * time.Millisecond)
	require.Less(t, processorTime(t)-start, 60*time.Millisecond)
	require.NoError(t, e.Close())
}

// Limits that no run reaches cost no memory for outputs.
func TestOutputsTakeWhatRunsNeed(t *testing.T) {
	c := suite.MiniLM(t)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	e := open(t, c.Model, c.Weights, engine.Limits{MaxTokens: 1 << 20, MaxSequences: 1 << 16})
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<20))
	require.NoError(t, e.Close())
}

// A process that has opened the model and run it holds the weights once, and what runs need. It is a process of its
// own, so that memory of other tests is not counted as free for use.
func TestResidentMemory(t *testing.T) {
	const child = "BEI_TEST_RESIDENT_MEMORY"
	if os.Getenv(child) == "" {
		command := exec.Command(os.Args[0], "-test.run=^TestResidentMemory$", "-test.v")
		command.Env = append(os.Environ(), child+"=1")
		out, err := command.CombinedOutput()
		t.Logf("%s", out)
		require.NoError(t, err)
		return
	}
	c := suite.MiniLM(t)
	sequences := workload()
	before := residentBytes(t)
	e := open(t, c.Model, c.Weights, engine.Limits{})
	pass(t, e.Slots()[0], sequences[:16], 1024)
	grown := residentBytes(t) - before
	t.Logf("%d bytes, %.2f of the weights", grown, float64(grown)/float64(c.Weights.TotalBytes()))
	require.Less(t, float64(grown), 1.4*float64(c.Weights.TotalBytes()))
	// The largest run needs more, and gives it back.
	pass(t, e.Slots()[0], sequences[:40], e.Info().Limits.MaxTokens)
	after := residentBytes(t) - before
	t.Logf("%d bytes after the largest run", after)
	require.Less(t, after, grown+40_000_000, "rows of the table that were not touched before are in it, too")
	require.NoError(t, e.Close())
}
