package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// What is measured: a batch through the whole runtime, or the engine's part of it alone.
const (
	kindRuntime = "runtime" // Backend.Embed: checks, queue, forming of runs, engine, normalisation, rows copied out
	kindEngine  = "engine"  // Slot.Run of the runs that the pipeline would form
)

// warmUps is the number of unmeasured calls before measured ones: caches and clocks may have belonged to others.
const warmUps = 2

// Limits of a request.
const (
	maxIterations = 1_000_000
	maxInFlight   = 64
)

// bencher measures batches of one model.
type bencher struct {
	backend *backend.Backend
	batches map[string]backend.Batch
}

func newBencher(b *backend.Backend) (*bencher, error) {
	if t := b.Info().ModelType; t != backend.ModelEmbedding {
		return nil, fmt.Errorf("bench needs an embedding model; this one is a %s", t)
	}
	return &bencher{backend: b, batches: map[string]backend.Batch{}}, nil
}

// batch returns the batch of that name, made once.
func (m *bencher) batch(name string) (backend.Batch, error) {
	if b, ok := m.batches[name]; ok {
		return b, nil
	}
	b, err := tokenBatch(name, m.backend.Info())
	if err == nil {
		m.batches[name] = b
	}
	return b, err
}

// measure returns times in seconds, after a warm-up: of each of iterations calls, one after another; or, with several in flight, one
// number: the wall time of all calls over their number, while that many callers each make iterations of them.
func (m *bencher) measure(ctx context.Context, kind, name string, iterations, inFlight int) ([]float64, error) {
	switch {
	case iterations < 1 || iterations > maxIterations:
		return nil, fmt.Errorf("iterations is %d; it can be 1 to %d", iterations, maxIterations)
	case inFlight < 1 || inFlight > maxInFlight:
		return nil, fmt.Errorf("in_flight is %d; it can be 1 to %d", inFlight, maxInFlight)
	}
	b, err := m.batch(name)
	if err != nil {
		return nil, err
	}
	var callers []caller
	switch kind {
	case kindRuntime:
		for range inFlight {
			callers = append(callers, m.runtimeCaller(b))
		}
	case kindEngine: // no more at once than it has slots
		for k := range min(inFlight, int(m.backend.Info().Slots)) {
			callers = append(callers, m.engineCaller(b, k))
		}
	default:
		return nil, fmt.Errorf("kind is %q; it is %s or %s", kind, kindRuntime, kindEngine)
	}
	if inFlight == 1 {
		return callers[0](ctx, iterations, func() {})
	}
	return together(ctx, callers, iterations)
}

// caller makes warmUps and then iterations calls, and returns the seconds of each of the latter. It calls warm between the two.
type caller func(ctx context.Context, iterations int, warm func()) ([]float64, error)

// together lets callers run at once and returns the wall time of a call.
func together(ctx context.Context, callers []caller, iterations int) ([]float64, error) {
	var warm, done sync.WaitGroup
	errs := make([]error, len(callers))
	starts, ends := make([]time.Time, len(callers)), make([]time.Time, len(callers))
	warm.Add(len(callers))
	for k, call := range callers {
		done.Go(func() {
			once := sync.OnceFunc(warm.Done)
			defer once() // a caller that fails must not hold up the others
			_, errs[k] = call(ctx, iterations, func() {
				once()
				warm.Wait()
				starts[k] = time.Now()
			})
			ends[k] = time.Now()
		})
	}
	done.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	wall := slices.MaxFunc(ends, time.Time.Compare).Sub(slices.MinFunc(starts, time.Time.Compare))
	return []float64{wall.Seconds() / float64(iterations*len(callers))}, nil
}

// timed makes the calls of a caller.
func timed(ctx context.Context, iterations int, warm func(), call func() error) ([]float64, error) {
	seconds := make([]float64, 0, iterations)
	for i := range warmUps + iterations {
		if i == warmUps {
			warm()
		}
		if ctx.Err() != nil {
			return nil, errInterrupted
		}
		start := time.Now()
		if err := call(); err != nil {
			return nil, err
		}
		if i >= warmUps {
			seconds = append(seconds, time.Since(start).Seconds())
		}
	}
	return seconds, nil
}

// runtimeCaller calls Embed.
func (m *bencher) runtimeCaller(b backend.Batch) caller {
	return func(ctx context.Context, iterations int, warm func()) ([]float64, error) {
		rows := make([]float32, len(b.PooledIndices)*int(m.backend.Info().Dimensions))
		return timed(ctx, iterations, warm, func() error {
			return m.backend.Embed(ctx, b, backend.CallOptions{}, backend.Output{Rows: rows})
		})
	}
}

// engineCaller calls the engine's slot. A batch that is one run is staged beforehand; between several runs, staging the next one
// is part of the time, as there is no way without it.
func (m *bencher) engineCaller(b backend.Batch, slot int) caller {
	runs := m.runs(b)
	return func(ctx context.Context, iterations int, warm func()) (seconds []float64, err error) {
		err = m.backend.UseSlot(slot, func(s engine.Slot) error {
			m.stage(s.Batch(), b, runs[0])
			seconds, err = timed(ctx, iterations, warm, func() error {
				for _, r := range runs {
					if len(runs) > 1 {
						m.stage(s.Batch(), b, r)
					}
					if _, err := s.Run(ctx); err != nil {
						return err
					}
				}
				return nil
			})
			return err
		})
		return seconds, err
	}
}

// run is the items [first, last) of a batch.
type run struct{ first, last int }

// runs splits a batch as the pipeline does where no other call is waiting: in order, up to the best tokens.
func (m *bencher) runs(b backend.Batch) []run {
	info := m.backend.Info()
	cu := b.CumulativeSeqLengths
	var runs []run
	longest := uint32(0)
	for i := range len(cu) - 1 {
		n := cu[i+1] - cu[i]
		if len(runs) > 0 {
			r := &runs[len(runs)-1]
			cost := cu[i+1] - cu[r.first]
			if info.Padded {
				cost = max(longest, n) * uint32(i-r.first+1)
			}
			if cost <= info.BestTokens && i-r.first < int(info.MaxSequences) {
				r.last, longest = i+1, max(longest, n)
				continue
			}
		}
		runs = append(runs, run{i, i + 1})
		longest = n
	}
	return runs
}

// stage packs items of b into an engine's batch.
func (m *bencher) stage(to *engine.Batch, b backend.Batch, r run) {
	to.Reset()
	for i := r.first; i < r.last; i++ {
		ids := b.InputIDs[b.CumulativeSeqLengths[i]:b.CumulativeSeqLengths[i+1]]
		for k, id := range ids {
			to.InputIDs = append(to.InputIDs, int32(id))
			to.TypeIDs = append(to.TypeIDs, 0)
			to.PositionIDs = append(to.PositionIDs, int32(m.backend.Info().PositionOffset)+int32(k))
		}
		to.EndSequence(engine.Pooled, 0)
	}
}

// median of at least one number.
func median(seconds []float64) float64 {
	sorted := slices.Sorted(slices.Values(seconds))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}
