package pipeline

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

var errNaN = status.Errorf(status.NonFinite, "NaN")

// refusing makes w refuse the outputs of items for which bad says so, the first time only or always.
func refusing(w *work, always bool, bad func(i int) bool) *work {
	var seen sync.Map
	w.deliver = func(i int) error {
		if _, again := seen.LoadOrStore(i, true); bad(i) && (always || !again) {
			return errNaN
		}
		return nil
	}
	return w
}

func odd(i int) bool   { return i%2 == 1 }
func every(i int) bool { return true }

// spare is a fallback engine that is opened once, and must be closed.
type spare struct {
	*adder
	opened, closed atomic.Int32
	err            error
}

func newSpare(hook func(context.Context, int, *engine.Batch) error) *spare {
	return &spare{adder: newAdder(1, engine.Limits{MaxLength: 8, MaxTokens: 8, MaxSequences: 1}, hook)}
}

func (s *spare) Close() error { s.closed.Add(1); return nil }

func (s *spare) open(context.Context) (engine.Engine, error) {
	s.opened.Add(1)
	return s, s.err
}

func (s *spare) set(c *Config) { c.Fallback, c.RunTimeout = s.open, time.Second }

func (h *harness) rerunsWith(code status.Code) (n float64) {
	for _, family := range must(h.registry.Gather()) {
		for _, m := range family.Metric {
			if family.GetName() == "bei_reruns_total" && m.Label[0].GetValue() == code.String() {
				n += m.Counter.GetValue()
			}
		}
	}
	return n
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestNonFiniteItemsRunAgain(t *testing.T) {
	s, main := newSpare(nil), newAdder(2, engine.Limits{BestTokens: 10}, nil)
	h := newHarness(t, main, s.set)
	h.ok(tagged(t, 1, repeat(50, 3)...))
	require.Zero(t, s.opened.Load(), "nothing is opened before it is needed")
	var calls sync.WaitGroup
	for c := range 8 {
		calls.Go(func() { h.ok(refusing(tagged(t, 10+c, repeat(20, 3)...), false, odd)) })
	}
	calls.Wait()
	require.EqualValues(t, 1, s.opened.Load())
	require.Len(t, s.recorded(), 80)
	for _, run := range s.recorded() {
		require.Len(t, run, 1, "one item a run")
	}
	require.Equal(t, 80.0, h.rerunsWith(status.OK))
	require.Zero(t, h.rerunsWith(status.NonFinite))
	h.close()
	require.EqualValues(t, 1, s.closed.Load())
}

func TestRerunsThatFail(t *testing.T) {
	for name, c := range map[string]struct {
		open    error
		hook    func(context.Context, int, *engine.Batch) error
		length  int
		message string
	}{
		"not finite again": {length: 3, message: "NaN; run again on another engine: NaN"},
		"no engine":        {length: 3, open: errors.New("no library"), message: "NaN; run again on another engine: no library"},
		"run fails":        {length: 3, hook: inRun(1, func(context.Context) error { return errors.New("broken") }), message: "another engine: broken"},
		"panic":            {length: 3, hook: inRun(1, func(context.Context) error { panic("at the disco") }), message: "at the disco"},
		"too long":         {length: 9, message: "9 tokens are more than it takes, 8"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpare(c.hook)
			s.err = c.open
			h := newHarness(t, newAdder(1, engine.Limits{}, nil), s.set)
			w := refusing(tagged(t, 1, repeat(5, c.length)...), true, func(i int) bool { return i == 2 })
			_, err := h.do(context.Background(), w, Options{})
			require.NoError(t, err)
			require.Equal(t, []status.Code{0, 0, status.NonFinite, 0, 0}, w.codes())
			require.True(t, strings.Contains(w.fails[2].Msg, c.message), w.fails[2].Msg)
			require.Equal(t, 1.0, h.rerunsWith(status.NonFinite))
			require.NoError(t, h.Health(), "the engine is well")
			if c.open != nil {
				_, err := h.do(context.Background(), refusing(tagged(t, 2, 1), true, every), Options{})
				require.NoError(t, err)
				require.EqualValues(t, 1, s.opened.Load(), "asked once")
			}
			h.close()
		})
	}
}

// TestRefusedRerun: what an item fails with for another reason than its numbers is said as it is.
func TestRefusedRerun(t *testing.T) {
	s := newSpare(nil)
	h := newHarness(t, newAdder(1, engine.Limits{}, nil), s.set)
	w := tagged(t, 1, 1)
	var deliveries atomic.Int32
	w.deliver = func(int) error {
		if deliveries.Add(1) == 1 {
			return errNaN
		}
		return status.Errorf(status.Overloaded, "too much")
	}
	_, err := h.do(context.Background(), w, Options{})
	require.NoError(t, err)
	require.Equal(t, []status.Code{status.Overloaded}, w.codes())
	h.close()
}

func TestSlowRerunHoldsNobodyBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpare(takes(500 * time.Millisecond))
		h := newHarness(t, newAdder(1, engine.Limits{}, nil), s.set)
		var calls sync.WaitGroup
		calls.Go(func() { h.ok(refusing(tagged(t, 1, 1), false, every)) })
		synctest.Wait()
		begun := time.Now()
		h.ok(tagged(t, 2, 1, 2, 3))
		require.Zero(t, time.Since(begun))

		// A caller leaves while its item is run again, or waits for that.
		for range 2 {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			_, err := h.do(ctx, refusing(tagged(t, 3, 1), false, every), Options{})
			require.Equal(t, status.Timeout, status.CodeOf(err))
			cancel()
		}
		calls.Wait()
		h.ok(refusing(tagged(t, 4, 1), false, every))
		h.close()
	})
}

func TestStuckRerun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpare(inRun(1, stuckFor(10*time.Second)))
		h := newHarness(t, newAdder(1, engine.Limits{}, nil), s.set)
		w := refusing(tagged(t, 1, 1, 1, 1), false, every) // one runs, two wait
		stats, err := h.do(context.Background(), w, Options{})
		require.NoError(t, err)
		require.Equal(t, 3, w.count(status.NonFinite))
		require.ErrorContains(t, w.fails[0], "the run has not returned after 1.1s (run_timeout_ms is 1000)")
		require.Equal(t, time.Second+watchdogGrace, stats.Total)
		require.NoError(t, h.Health())
		h.ok(tagged(t, 2, 1))
		w = refusing(tagged(t, 3, 1), false, every)
		_, err = h.do(context.Background(), w, Options{})
		require.NoError(t, err)
		require.Equal(t, 1, w.count(status.NonFinite), "at once")
		time.Sleep(10 * time.Second)
		h.ok(refusing(tagged(t, 4, 1), false, every))
		h.close()
	})
}

func TestCloseEndsReruns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpare(takes(time.Hour))
		h := newHarness(t, newAdder(1, engine.Limits{}, nil), func(c *Config) { s.set(c); c.RunTimeout = 2 * time.Hour })
		var calls sync.WaitGroup
		for c := range 2 {
			calls.Go(func() {
				_, err := h.do(context.Background(), refusing(tagged(t, 1+c, 1), false, every), Options{})
				require.Equal(t, status.ShutDown, status.CodeOf(err))
			})
		}
		synctest.Wait()
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		require.Equal(t, status.Timeout, status.CodeOf(h.Close(ended)))
		calls.Wait()
		require.EqualValues(t, 1, s.closed.Load())
	})
}

// TestCloseWhileTheFallbackOpens: that takes long for large weights and looks at no context, and is no run that hangs.
func TestCloseWhileTheFallbackOpens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSpare(nil)
		h := newHarness(t, newAdder(1, engine.Limits{}, nil), func(c *Config) {
			s.set(c)
			c.Fallback = func(ctx context.Context) (engine.Engine, error) {
				time.Sleep(openingGrace - time.Second)
				return s.open(ctx)
			}
		})
		var call sync.WaitGroup
		call.Go(func() {
			_, err := h.do(context.Background(), refusing(tagged(t, 1, 1), false, every), Options{})
			require.Equal(t, status.ShutDown, status.CodeOf(err))
		})
		synctest.Wait()
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		require.Equal(t, status.Timeout, status.CodeOf(h.Close(ended)), "one call was cut off, and nothing hangs")
		call.Wait()
		require.EqualValues(t, 1, s.closed.Load())
	})
}

// TestMockRunsAgain: an item that the mock poisons comes from another mock, as it is there.
func TestMockRunsAgain(t *testing.T) {
	poison := int32(7)
	config := mock.Config{Dimensions: 4, VocabSize: 100, MaxLength: 16}
	healthy := mock.Open(config, 1, engine.Limits{})
	config.Faults = []mock.Fault{{Kind: mock.NaN, TokenID: &poison}}
	main := mock.Open(config, 1, engine.Limits{})
	h := newHarness(t, main, func(c *Config) {
		c.Fallback = func(context.Context) (engine.Engine, error) { return healthy, nil }
	})
	w := &rowsWork{sequences: [][]uint32{{1, 2}, {3, 7}, {7}}, rows: make([][]float32, 3)}
	_, err := h.Do(context.Background(), w, Options{})
	require.NoError(t, err)
	require.Empty(t, w.failures)
	for i, ids := range w.sequences {
		b := healthy.Slots()[0].Batch()
		b.Reset()
		(&Sequence{IDs: ids, Outputs: engine.Pooled}).appendTo(b)
		out, err := healthy.Slots()[0].Run(context.Background())
		require.NoError(t, err)
		require.Equal(t, out.Pooled, w.rows[i])
	}
	require.Equal(t, 2.0, h.rerunsWith(status.OK))
	h.close()
}

// rowsWork keeps pooled rows, and refuses those that are not finite.
type rowsWork struct {
	sequences [][]uint32
	mu        sync.Mutex
	rows      [][]float32
	failures  []*status.Error
}

func (w *rowsWork) Items() int { return len(w.sequences) }

func (w *rowsWork) Prepare(i int, s *Sequence) error {
	*s = Sequence{IDs: w.sequences[i], Outputs: engine.Pooled}
	return nil
}

func (w *rowsWork) Deliver(i int, r Rows) error {
	for _, x := range r.Pooled {
		if x-x != 0 {
			return errNaN
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rows[i] = append([]float32(nil), r.Pooled...)
	return nil
}

func (w *rowsWork) Fail(_ int, err *status.Error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failures = append(w.failures, err)
}
