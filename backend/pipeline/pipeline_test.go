package pipeline

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// adder is an engine that adds up ids, so that every item's right result is known: pooled rows are the sums of ids and of
// positions, a token's vector is its id, a sparse row the sum of type ids.
type adder struct {
	info  engine.Info
	slots []engine.Slot
	// hook runs in each run, numbered from 1, after the recording; its error is the run's. May be nil.
	hook   func(ctx context.Context, run int, b *engine.Batch) error
	count  atomic.Int64
	cut    atomic.Bool // outputs are one number short
	health atomic.Pointer[status.Error]

	mu   sync.Mutex
	runs [][]seen // guarded by mu
}

// seen is a sequence as the engine got it: its first id, by which tests name calls, and its length.
type seen struct{ id, length int }

type adderSlot struct {
	e *adder
	b *engine.Batch
}

func newAdder(slots int, l engine.Limits, hook func(ctx context.Context, run int, b *engine.Batch) error) *adder {
	if l.MaxTokens == 0 {
		l.MaxTokens = 1 << 14
	}
	if l.MaxSequences == 0 {
		l.MaxSequences = 512
	}
	if l.MaxLength == 0 {
		l.MaxLength = 1 << 12
	}
	if l.BestTokens == 0 {
		l.BestTokens = 1024
	}
	e := &adder{hook: hook, info: engine.Info{Name: "adder", Limits: l, PooledWidth: 2, TokenWidth: 1, SparseWidth: 1,
		Outputs: engine.Pooled | engine.TokenVectors | engine.Sparse}}
	for range slots {
		e.slots = append(e.slots, &adderSlot{e, engine.NewBatch(l)})
	}
	return e
}

func (e *adder) Info() engine.Info    { return e.info }
func (e *adder) Slots() []engine.Slot { return e.slots }
func (e *adder) Close() error         { return nil }
func (e *adder) Health() error {
	if err := e.health.Load(); err != nil {
		return err
	}
	return nil
}

// recorded returns the runs so far.
func (e *adder) recorded() [][]seen {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.runs)
}

func (s *adderSlot) Batch() *engine.Batch { return s.b }

func (s *adderSlot) Run(ctx context.Context) (engine.Output, error) {
	e, b := s.e, s.b
	number := int(e.count.Add(1))
	var run []seen
	for i := range b.Sequences() {
		run = append(run, seen{int(b.InputIDs[b.CuSeqLens[i]]), int(b.CuSeqLens[i+1] - b.CuSeqLens[i])})
	}
	e.mu.Lock()
	e.runs = append(e.runs, run)
	e.mu.Unlock()
	if e.hook != nil {
		if err := e.hook(ctx, number, b); err != nil {
			return engine.Output{}, err
		}
	}
	var out engine.Output
	for i := range b.Sequences() {
		var ids, positions, types float32
		for t := b.CuSeqLens[i]; t < b.CuSeqLens[i+1]; t++ {
			ids, positions, types = ids+float32(b.InputIDs[t]), positions+float32(b.PositionIDs[t]), types+float32(b.TypeIDs[t])
			if b.Outputs&engine.TokenVectors != 0 {
				out.TokenVectors = append(out.TokenVectors, float32(b.InputIDs[t]))
			}
		}
		if b.Outputs&engine.Pooled != 0 {
			out.Pooled = append(out.Pooled, ids, positions)
		}
		if b.Outputs&engine.Sparse != 0 {
			out.Sparse = append(out.Sparse, types)
		}
	}
	if e.cut.Load() {
		out.Pooled = out.Pooled[1:]
	}
	return out, nil
}

// takes makes runs take d, whatever is in them, and end early with ctx.
func takes(d time.Duration) func(context.Context, int, *engine.Batch) error {
	return func(ctx context.Context, _ int, _ *engine.Batch) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// work is a Work that checks what it is promised: one end for each item, the right rows, nothing after Do.
type work struct {
	t         testing.TB
	sequences []Sequence
	prepare   func(i int) error // may be nil
	deliver   func(i int) error // may be nil
	prepared  atomic.Int64
	returned  atomic.Bool
	ends      []atomic.Int32
	fails     []*status.Error
	doneAt    []time.Time
	want      []Rows
}

// tagged makes a call of sequences whose first id is tag.
func tagged(t testing.TB, tag int, lengths ...int) *work {
	w := &work{t: t}
	for _, n := range lengths {
		s := Sequence{IDs: make([]uint32, n), Outputs: engine.Pooled}
		for k := range s.IDs {
			s.IDs[k] = uint32(tag + 1000*k)
		}
		w.add(s)
	}
	return w
}

// add appends a sequence, and works out its rows.
func (w *work) add(s Sequence) {
	var rows Rows
	if s.Outputs&engine.Pooled != 0 {
		rows.Pooled = make([]float32, 2)
	}
	if s.Outputs&engine.Sparse != 0 {
		rows.Sparse = make([]float32, 1)
	}
	uncounted := uint32(0)
	for k, id := range s.IDs {
		position, typeID := s.FirstPosition+uint32(k)-uncounted, uint32(0)
		if s.FirstPosition > 0 && id == s.FirstPosition-1 { // padding
			position = id
			uncounted++
		}
		if s.PositionIDs != nil {
			position = s.PositionIDs[k]
		}
		if s.TypeIDs != nil {
			typeID = s.TypeIDs[k]
		}
		if rows.Pooled != nil {
			rows.Pooled[0] += float32(id)
			rows.Pooled[1] += float32(position)
		}
		if rows.Sparse != nil {
			rows.Sparse[0] += float32(typeID)
		}
		if s.Outputs&engine.TokenVectors != 0 {
			rows.TokenVectors = append(rows.TokenVectors, float32(id))
		}
	}
	if len(s.IDs) == 0 {
		rows = Rows{}
	}
	w.sequences, w.want = append(w.sequences, s), append(w.want, rows)
}

func (w *work) Items() int {
	w.ends = make([]atomic.Int32, len(w.sequences))
	w.fails = make([]*status.Error, len(w.sequences))
	w.doneAt = make([]time.Time, len(w.sequences))
	return len(w.sequences)
}

func (w *work) check() {
	if w.returned.Load() {
		w.t.Error("the work was touched after Do")
	}
}

func (w *work) Prepare(i int, s *Sequence) error {
	w.check()
	w.prepared.Add(1)
	if w.prepare != nil {
		if err := w.prepare(i); err != nil {
			return err
		}
	}
	*s = w.sequences[i]
	w.check()
	return nil
}

func (w *work) Deliver(i int, r Rows) error {
	w.check()
	if !slices.Equal(r.Pooled, w.want[i].Pooled) || !slices.Equal(r.TokenVectors, w.want[i].TokenVectors) || !slices.Equal(r.Sparse, w.want[i].Sparse) {
		w.t.Errorf("item %d got %v, not %v", i, r, w.want[i])
	}
	if w.deliver != nil {
		if err := w.deliver(i); err != nil {
			return err
		}
	}
	w.ends[i].Add(1)
	w.doneAt[i] = time.Now()
	w.check()
	return nil
}

func (w *work) Fail(i int, err *status.Error) {
	w.check()
	w.ends[i].Add(1)
	w.fails[i] = err
	w.doneAt[i] = time.Now()
	w.check()
}

// codes are the items' codes.
func (w *work) codes() []status.Code {
	codes := make([]status.Code, len(w.fails))
	for i, f := range w.fails {
		if f != nil {
			codes[i] = f.Code
		}
	}
	return codes
}

// count is the number of items with code.
func (w *work) count(code status.Code) (n int) {
	for _, c := range w.codes() {
		if c == code {
			n++
		}
	}
	return n
}

// harness is a pipeline under test.
type harness struct {
	*Pipeline
	t        testing.TB
	registry *prometheus.Registry
}

func newHarness(t testing.TB, e engine.Engine, change func(*Config)) *harness {
	c := Config{PrepareWorkers: 2, MaxItems: 1 << 16, MaxWait: 2 * time.Millisecond, RunTimeout: time.Minute}
	if change != nil {
		change(&c)
	}
	h := &harness{t: t, registry: prometheus.NewRegistry()}
	h.Pipeline = New(e, c, NewMetrics(h.registry), zap.NewNop())
	t.Cleanup(func() {
		// After a failure, so that its message is not buried under leaked goroutines; Close is harmless after close.
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = h.Close(ended)
	})
	return h
}

// do runs w and checks the promises of Do. Afterwards it writes over all of the caller's memory, so that the race detector sees
// whoever still uses it.
func (h *harness) do(ctx context.Context, w *work, o Options) (Stats, error) {
	h.t.Helper()
	stats, err := h.Do(ctx, w, o)
	w.returned.Store(true)
	for i := range w.ends {
		n := w.ends[i].Load()
		if want := int32(1); err == nil && n != want || err != nil && n != 0 {
			h.t.Errorf("item %d ended %d times, error %v", i, n, err)
		}
		for _, rows := range [][]uint32{w.sequences[i].IDs, w.sequences[i].TypeIDs, w.sequences[i].PositionIDs} {
			for k := range rows {
				rows[k] = 0xdeadbeef
			}
		}
		w.want[i] = Rows{}
	}
	return stats, err
}

// ok runs w as texts, and requires that all of it succeeds.
func (h *harness) ok(w *work) Stats {
	h.t.Helper()
	stats, err := h.do(context.Background(), w, Options{})
	require.NoError(h.t, err)
	require.Equal(h.t, len(w.fails), w.count(status.OK), "%v", w.fails)
	return stats
}

func (h *harness) close() {
	h.t.Helper()
	require.NoError(h.t, h.Close(context.Background()))
	h.idle()
}

// idle requires that nothing is left in the queues.
func (h *harness) idle() {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	require.Zero(h.t, h.admitted)
	require.Zero(h.t, h.Pipeline.readyTokens)
	require.Empty(h.t, h.calls)
	require.Nil(h.t, h.nextClass())
	require.True(h.t, h.unprepared.empty())
	require.Zero(h.t, h.preparing)
}

// metric returns a metric's family.
func (h *harness) metric(name string) *dto.MetricFamily {
	h.t.Helper()
	families, err := h.registry.Gather()
	require.NoError(h.t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f
		}
	}
	require.Failf(h.t, "no metric", "%s", name)
	return nil
}

func repeat(n, length int) []int { return slices.Repeat([]int{length}, n) }

// TestUseSlotExcludesRuns has a slot used by hand while a call waits for it.
func TestUseSlotExcludesRuns(t *testing.T) {
	e := newAdder(1, engine.Limits{}, nil)
	h := newHarness(t, e, nil)
	var calls sync.WaitGroup
	require.NoError(t, h.UseSlot(0, func(s engine.Slot) error {
		require.Same(t, e.slots[0], s)
		calls.Go(func() { h.ok(tagged(t, 1, 2)) })
		time.Sleep(20 * time.Millisecond)
		require.Zero(t, e.count.Load(), "a run while the slot is used")
		return nil
	}))
	calls.Wait()
	require.EqualValues(t, 1, e.count.Load())
	failure := status.Errorf(status.Inference, "mine")
	require.Equal(t, error(failure), h.UseSlot(0, func(engine.Slot) error { return failure }))
	require.ErrorContains(t, h.UseSlot(1, nil), "slot 1: the engine has slots 0 to 0")
	h.close()
	require.Equal(t, status.ShutDown, status.CodeOf(h.UseSlot(0, nil)))
}
