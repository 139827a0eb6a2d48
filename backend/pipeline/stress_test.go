package pipeline

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// TestEverythingAtOnce runs 64 callers of all kinds over two slots that fail, hang and panic now and then. Each item must end once
// or not at all, with the right rows, and nothing may touch a caller's memory after Do; the race detector sees to the latter.
func TestEverythingAtOnce(t *testing.T) {
	const callers, poison = 64, 77_777
	e := newAdder(2, engine.Limits{BestTokens: 256, MaxSequences: 32}, nil)
	e.hook = func(ctx context.Context, run int, b *engine.Batch) error {
		time.Sleep(time.Duration(rand.IntN(300)) * time.Microsecond)
		for _, id := range b.InputIDs {
			if id == poison {
				return fmt.Errorf("poisoned")
			}
		}
		switch {
		case run%211 == 0:
			panic("now and then")
		case run%401 == 0:
			<-ctx.Done() // until the run timeout
			return ctx.Err()
		case run%997 == 0:
			time.Sleep(20*time.Millisecond + watchdogGrace + 20*time.Millisecond) // stuck
		}
		return nil
	}
	h := newHarness(t, e, func(c *Config) { c.RunTimeout, c.MaxItems, c.PrepareWorkers = 20*time.Millisecond, 4000, 3 })
	begun := time.Now()
	var outcomes [64]atomic.Int64
	var calls sync.WaitGroup
	for caller := range callers {
		calls.Go(func() {
			random := rand.New(rand.NewPCG(uint64(caller), 1))
			for time.Since(begun) < time.Second {
				w := &work{t: t}
				for range 1 + random.IntN(1<<random.IntN(7)) {
					s := Sequence{IDs: make([]uint32, random.IntN(1<<random.IntN(10))), Outputs: engine.Outputs(1 + random.IntN(7))}
					for k := range s.IDs {
						s.IDs[k] = uint32(random.IntN(100))
					}
					if len(s.IDs) > 0 && random.IntN(500) == 0 {
						s.IDs[0] = poison
					}
					w.add(s)
				}
				unfit := random.IntN(300)
				w.prepare = func(i int) error {
					switch {
					case i == unfit:
						return status.Errorf(status.TooLong, "unfit")
					case i == unfit+1:
						panic("in Prepare")
					}
					return nil
				}
				ctx, cancel := context.WithCancel(context.Background())
				switch random.IntN(4) {
				case 0:
					ctx, cancel = context.WithTimeout(ctx, time.Duration(random.IntN(20_000))*time.Microsecond)
				case 1:
					time.AfterFunc(time.Duration(random.IntN(5000))*time.Microsecond, cancel)
				case 2:
					ctx = context.Background() // CallerRuns has its effect
				}
				_, err := h.do(ctx, w, Options{Priority: random.IntN(3) - 1, Prepared: random.IntN(2) == 0, Alone: random.IntN(2) == 0,
					CallerRuns: random.IntN(2) == 0})
				cancel()
				outcomes[status.CodeOf(err)].Add(1)
				if err == nil {
					for _, code := range w.codes() {
						outcomes[code].Add(1)
					}
				}
			}
		})
	}
	calls.Wait()
	for code := range outcomes {
		if n := outcomes[code].Load(); n > 0 {
			t.Logf("%s: %d", status.Code(code), n)
		}
	}
	t.Logf("%d runs", len(e.recorded()))
	require.Positive(t, outcomes[status.OK].Load())
	h.close()
}

// TestCloseWhileBusy closes under load again and again: every call ends, and Close leaves nothing.
func TestCloseWhileBusy(t *testing.T) {
	for round := range 30 {
		h := newHarness(t, newAdder(2, engine.Limits{BestTokens: 64}, takes(100*time.Microsecond)), nil)
		var calls sync.WaitGroup
		for caller := range 16 {
			calls.Go(func() {
				for {
					w := tagged(t, caller, repeat(1+caller*4, 5)...)
					_, err := h.do(context.Background(), w, Options{Prepared: caller%2 == 0, CallerRuns: caller%4 == 0})
					if err != nil {
						require.Equal(t, status.ShutDown, status.CodeOf(err))
						return
					}
					require.Equal(t, len(w.fails), w.count(status.OK)+w.count(status.ShutDown))
				}
			})
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(round)*time.Millisecond/5)
		if err := h.Close(ctx); err != nil {
			require.Equal(t, status.Timeout, status.CodeOf(err))
		}
		cancel()
		calls.Wait()
		h.idle()
	}
}

func TestMetrics(t *testing.T) {
	e := newAdder(1, engine.Limits{BestTokens: 10}, nil)
	h := newHarness(t, e, nil)
	h.ok(tagged(t, 1, 4))
	_, err := h.do(context.Background(), tagged(t, 1, 3, 5), Options{Prepared: true})
	require.NoError(t, err)
	e.hook = fails(1)
	w := tagged(t, 1, 2)
	_, err = h.do(context.Background(), w, Options{})
	require.NoError(t, err)
	require.Equal(t, 1, w.count(status.Inference))
	h.close()

	counter := func(name string) float64 { return h.metric(name).Metric[0].Counter.GetValue() }
	histogram := func(name string) (uint64, float64) {
		m := h.metric(name).Metric[0].Histogram
		return m.GetSampleCount(), m.GetSampleSum()
	}
	require.Equal(t, 12.0, counter("bei_tokens_total"))
	for name, want := range map[string]struct {
		count uint64
		sum   float64
	}{"bei_run_tokens": {2, 12}, "bei_run_sequences": {2, 3}, "bei_run_fill_ratio": {2, 1.2}} {
		count, sum := histogram(name)
		require.Equal(t, want.count, count, name)
		require.InDelta(t, want.sum, sum, 1e-9, name)
	}
	for name, want := range map[string]uint64{"bei_queue_seconds": 4, "bei_run_seconds": 2, "bei_tokenization_seconds": 2} {
		count, _ := histogram(name)
		require.Equal(t, want, count, name)
	}
	runs := map[string]float64{}
	for _, m := range h.metric("bei_runs_total").Metric {
		runs[m.Label[0].GetValue()] = m.Counter.GetValue()
	}
	require.Equal(t, map[string]float64{"OK": 2, "INFERENCE": 1}, runs)
	require.Zero(t, h.metric("bei_queue_tokens").Metric[0].Gauge.GetValue())
}

// idleWork costs nothing.
type idleWork struct{ sequences []Sequence }

func (w *idleWork) Items() int                       { return len(w.sequences) }
func (w *idleWork) Prepare(i int, s *Sequence) error { *s = w.sequences[i]; return nil }
func (w *idleWork) Deliver(int, Rows) error          { return nil }
func (w *idleWork) Fail(_ int, err *status.Error)    { panic(err) }

// BenchmarkDo is what the pipeline itself costs: the mock engine has one column and no delay.
func BenchmarkDo(b *testing.B) {
	for _, items := range []int{1, 32, 1024} {
		for _, prepared := range []bool{true, false} {
			b.Run(fmt.Sprintf("items=%d/prepared=%t", items, prepared), func(b *testing.B) {
				e := mock.Open(mock.Config{Dimensions: 1}, 1, engine.Limits{})
				p := New(e, Config{PrepareWorkers: 2, MaxItems: 1 << 16, MaxWait: time.Millisecond, RunTimeout: time.Minute},
					NewMetrics(prometheus.NewRegistry()), zap.NewNop())
				w := &idleWork{}
				for range items {
					w.sequences = append(w.sequences, Sequence{IDs: make([]uint32, 16), Outputs: engine.Pooled})
				}
				b.ReportAllocs()
				for b.Loop() {
					if _, err := p.Do(context.Background(), w, Options{Prepared: prepared}); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*items), "ns/item")
				require.NoError(b, p.Close(context.Background()))
			})
		}
	}
}
