package trt

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// kinds are the layouts that models have.
var kinds = map[string]func(*fake){
	"vectors and pooled": func(*fake) {},
	"token logits":       func(f *fake) { f.layout.outputs, f.layout.pooled = engine.TokenVectors, 0 },
	"sparse":             func(f *fake) { f.layout.outputs = engine.Sparse | engine.TokenVectors },
	"prompts left out": func(f *fake) {
		f.model.Head.Pooling.ExcludePrompt = true
		f.layout.planes = planesOf(f.model)
	},
}

func TestFakeContract(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, 2)
			kind(f)
			suite.Contract(t, func(_ *testing.T, l engine.Limits) engine.Engine {
				o := f.options()
				o.Limits = l
				return f.engine(o)
			}, f.sequences(newRandom(1), 1, 5, 17, 40, 33), suite.Exact)
		})
	}
}

func TestRandomBatches(t *testing.T) {
	for name, kind := range kinds {
		t.Run(name, func(t *testing.T) {
			f := newFake(t, 1)
			kind(f)
			e := f.engine(f.options())
			random := newRandom(3)
			for range 200 {
				require.NoError(t, f.check(e, e.slots[0], f.batch(random, e.info.Limits)))
			}
			require.Zero(t, e.Stats()[0].Graphs.Captures)
			require.Equal(t, e.Stats()[0].Launches, e.Stats()[0].Graphs.Replays)
		})
	}
}

// TestWithoutGraphs: where TensorRT's graphs cannot be used, launches are right without, and none counts as a replay.
func TestWithoutGraphs(t *testing.T) {
	f := newFake(t, 1)
	f.graphless = true
	e := f.engine(f.options())
	require.NoError(t, f.check(e, e.slots[0], f.sequences(newRandom(5), 8, 24)))
	require.Positive(t, e.Stats()[0].Launches)
	require.Equal(t, engine.Graphs{}, *e.Stats()[0].Graphs)
}

// TestSteadyStateAllocatesNothing counts Go's allocations and the lanes' of staging memory.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	f := newFake(t, 1)
	o := f.options()
	o.Slots = 1
	e := f.engine(o)
	random := newRandom(5)
	s := e.slots[0]
	require.NoError(t, f.check(e, s, f.sequences(random, 40, 24)))
	require.NoError(t, f.check(e, s, f.sequences(random, 8, 0, 20, 3, 9, 1)))
	staged := f.count("stage", 0)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := s.Run(context.Background()); err != nil {
			panic(err)
		}
	}))
	require.Equal(t, staged, f.count("stage", 0))
}

// TestVectorsTakeTurns: token vectors that are more than staging may have take turns in it.
func TestVectorsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		f.layout.token = 1 << 15
		f.cost = func(x shape) time.Duration { return time.Duration(x.n*x.n) * time.Millisecond } // best one at a time
		o := f.options()
		o.Slots, o.Limits = 1, engine.Limits{MaxTokens: 640, MaxSequences: 16}
		e := f.engine(o)
		s := e.slots[0].(*slot)
		b := s.batch
		fill(b, f.lengths(16, 40), engine.Pooled|engine.TokenVectors)
		waits := f.count("wait", 0)
		out, err := s.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, 1, f.count("stage", 0))
		require.LessOrEqual(t, e.replicas[0].workers[0].vectors.bytes, mostVectorBytes)
		require.Equal(t, uint64(16), e.Stats()[0].Launches)
		require.Equal(t, waits+2, f.count("wait", 0), "640 rows of 128 KiB are 80 MiB")
		for row := range 640 {
			for c := row % 61; c < f.layout.token; c += 61 {
				got, want := out.TokenVectors[row*f.layout.token+c], f.value(b.InputIDs[row], b.TypeIDs[row], b.PositionIDs[row], c)
				if got != want {
					t.Fatalf("row %d, column %d: %g, not %g", row, c, got, want)
				}
			}
		}
	})
}

// lengths are n sequences of one length, without their truth.
func (f *fake) lengths(n, length int) []suite.Sequence {
	list := make([]suite.Sequence, n)
	for i := range list {
		for t := range length {
			list[i].IDs = append(list[i].IDs, int32(10+(i*length+t)%(f.model.VocabSize-10)))
			list[i].Types = append(list[i].Types, int32(t%2))
			list[i].Positions = append(list[i].Positions, int32(t))
		}
	}
	return list
}

// fill appends sequences to a batch.
func fill(b *engine.Batch, sequences []suite.Sequence, want engine.Outputs) {
	for _, q := range sequences {
		b.InputIDs, b.TypeIDs = append(b.InputIDs, q.IDs...), append(b.TypeIDs, q.Types...)
		b.PositionIDs = append(b.PositionIDs, q.Positions...)
		b.EndSequence(want, q.Skip)
	}
}

// TestStagingThatFails: a run without room for its vectors fails, and the next one is tried anew.
func TestStagingThatFails(t *testing.T) {
	f := newFake(t, 1)
	o := f.options()
	o.Slots = 1
	f.script = func(c call) error {
		if c.op == "stage" && c.number == 1 {
			return status.Errorf(status.Inference, "no pinned memory")
		}
		return nil
	}
	e := f.engine(o)
	batch := f.sequences(newRandom(7), 40, 24)
	err := f.check(e, e.slots[0], batch)
	require.Equal(t, status.Inference, status.CodeOf(err))
	require.ErrorContains(t, err, "no pinned memory")
	require.NoError(t, f.check(e, e.slots[0], batch))
}

// TestEnqueueThatFails: launches before it are waited for, since their staging is used again, and later runs are right.
func TestEnqueueThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		f.cost = func(x shape) time.Duration { return time.Duration(x.n*x.n) * time.Millisecond }
		var failing, waits int
		f.script = func(c call) error {
			if failing > 0 && c.op == "enqueue" {
				failing--
				if failing == 0 {
					return status.Errorf(status.Inference, "TensorRT does not run the engine")
				}
			}
			if c.op == "wait" {
				waits++
			}
			return nil
		}
		o := f.options()
		o.Slots = 1
		e := f.engine(o)
		random := newRandom(7)
		for n := 1; n <= 4; n++ {
			failing, waits = n, 0
			err := f.check(e, e.slots[0], f.sequences(random, 12, 12, 12, 12))
			require.Equal(t, status.Inference, status.CodeOf(err))
			require.Equal(t, 1, waits)
			require.NoError(t, f.check(e, e.slots[0], f.batch(random, e.info.Limits)))
		}
		require.NoError(t, e.Health())
	})
}

// TestBadBatches: what does not fit together, the limits or the tables is refused before a device sees it.
func TestBadBatches(t *testing.T) {
	f := newFake(t, 1)
	f.layout.outputs, f.layout.pooled = engine.TokenVectors, 0
	e := f.engine(f.options())
	s := e.slots[0].(*slot)
	before := f.count("enqueue", 0)
	for name, c := range map[string]struct {
		spoil func(b *engine.Batch)
		code  status.Code
		text  string
	}{
		"output":   {func(b *engine.Batch) { b.Outputs |= engine.Sparse }, status.Unsupported, "outputs 0x6 are wanted; this model has 0x2"},
		"types":    {func(b *engine.Batch) { b.TypeIDs = b.TypeIDs[1:] }, status.InvalidArgument, "do not fit together"},
		"lengths":  {func(b *engine.Batch) { b.CuSeqLens[1], b.CuSeqLens[2] = 5, 2 }, status.InvalidArgument, "do not fit together"},
		"id":       {func(b *engine.Batch) { b.InputIDs[1] = int32(f.model.VocabSize) }, status.TokenOutOfRange, "row 1 (id 320"},
		"type":     {func(b *engine.Batch) { b.TypeIDs[0] = -1 }, status.TokenOutOfRange, "row 0 "},
		"position": {func(b *engine.Batch) { b.PositionIDs[2] = 4000 }, status.TokenOutOfRange, "position 4000"},
		"length": {func(b *engine.Batch) {
			b.Reset()
			fill(b, f.lengths(1, 41), engine.TokenVectors)
		}, status.InvalidArgument, "sequence 0 has 41 tokens; the limit is 40"},
		"sequences": {func(b *engine.Batch) {
			for range 9 {
				b.EndSequence(engine.TokenVectors, 0)
			}
		}, status.InvalidArgument, "exceeds the limits 64 and 8"},
	} {
		t.Run(name, func(t *testing.T) {
			s.batch.Reset()
			fill(s.batch, f.lengths(3, 2), engine.TokenVectors)
			c.spoil(s.batch)
			_, err := s.Run(t.Context())
			require.Equal(t, c.code, status.CodeOf(err), err)
			require.ErrorContains(t, err, c.text)
		})
	}
	require.Equal(t, before, f.count("enqueue", 0))
	require.NoError(t, f.check(e, s, f.lengths(0, 0)))
}

// TestCancelledBetweenLaunches: a run ends when its context does, with later launches left out.
func TestCancelledBetweenLaunches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		f.cost = func(x shape) time.Duration { return time.Duration(x.n*x.n) * time.Millisecond } // best one at a time
		o := f.options()
		o.Slots, o.Limits = 1, engine.Limits{MaxTokens: 64, MaxSequences: 64}
		e, err := f.open(o)
		require.NoError(t, err)
		ctx, cancel := context.WithCancelCause(t.Context())
		f.script = func(c call) error {
			if c.op == "wait" {
				cancel(fmt.Errorf("the caller left"))
			}
			return nil
		}
		before := f.count("enqueue", 0)
		_, err = suite.Compute(ctx, e.slots[0], e.info, f.lengths(64, 1), engine.Pooled)
		require.Equal(t, status.Cancelled, status.CodeOf(err))
		require.ErrorContains(t, err, "the caller left")
		require.Equal(t, before+8, f.count("enqueue", 0), "64 launches of 16 cells take turns in staging memory of 128 cells")
		require.NoError(t, f.check(e, e.slots[0], f.sequences(newRandom(1), slices.Repeat([]int{1}, 64)...)))
		require.NoError(t, e.Close())
	})
}

// items is a pipeline's work over a fake's sequences. It checks each answer.
type items struct {
	f         *fake
	sequences []suite.Sequence
	mu        sync.Mutex // guards failed
	failed    map[int]error
}

func (w *items) Items() int { return len(w.sequences) }

func (w *items) Prepare(i int, s *pipeline.Sequence) error {
	s.Outputs = engine.Pooled | engine.TokenVectors
	for t, id := range w.sequences[i].IDs {
		s.IDs, s.TypeIDs = append(s.IDs, uint32(id)), append(s.TypeIDs, uint32(w.sequences[i].Types[t]))
	}
	return nil
}

func (w *items) Deliver(i int, r pipeline.Rows) error {
	for _, x := range r.Pooled {
		if math.IsNaN(float64(x)) {
			return status.Errorf(status.NonFinite, "item %d", i)
		}
	}
	return differ([]suite.Result{{Pooled: r.Pooled, TokenVectors: r.TokenVectors}}, w.sequences[i:i+1], engine.Pooled)
}

func (w *items) Fail(i int, err *status.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed[i] = err
}

// TestBadItems: an item whose launch fails, or whose numbers are none, costs nobody else, through the pipeline that callers use.
func TestBadItems(t *testing.T) {
	f := newFake(t, 2)
	e := f.engine(f.options()) // which warms up with any ids
	f.poison, f.nan = 3, 4
	config := pipeline.Config{PrepareWorkers: 2, MaxItems: 1 << 12, RunTimeout: time.Minute}
	p := pipeline.New(e, config, pipeline.NewMetrics(prometheus.NewRegistry()), zap.NewNop())
	var callers sync.WaitGroup
	for n := range 16 {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(9, uint64(n)))
			w := &items{f: f, failed: make(map[int]error), sequences: f.sequences(random, 1, 9, 30, 4, 4, 12, 2, 40)}
			w.sequences[2].IDs[7], w.sequences[6].IDs[1] = f.poison, f.nan
			if _, err := p.Do(t.Context(), w, pipeline.Options{}); err != nil {
				t.Error(err)
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.failed) != 2 || status.CodeOf(w.failed[2]) != status.Inference || status.CodeOf(w.failed[6]) != status.NonFinite {
				t.Errorf("caller %d: %v", n, w.failed)
			}
		})
	}
	callers.Wait()
	require.NoError(t, e.Health())
	require.NoError(t, p.Close(t.Context()))
}
