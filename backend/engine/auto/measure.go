// Package auto joins two engines that run the same model into one: it measures both, and gives each run to the one that is faster
// for its size. Where one is faster throughout, that one is used alone.
package auto

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Shape is a batch of Sequences sequences of Length tokens each.
type Shape struct{ Sequences, Length int }

// Tokens of the batch.
func (s Shape) Tokens() int { return s.Sequences * s.Length }

// String is such as "8x128".
func (s Shape) String() string { return fmt.Sprintf("%dx%d", s.Sequences, s.Length) }

// Tables says which numbers a batch of the model may hold.
type Tables struct {
	Vocab         int // token ids are below it
	Types         int // type ids are below it
	FirstPosition int // position id of a sequence's first token; those of the longest sequence are in the table
}

// usual are the sizes that are measured: one query, a few texts, and full runs, each of short and of long sequences.
var usual = []Shape{{1, 32}, {1, 128}, {1, 512}, {8, 64}, {8, 128}, {8, 512}, {32, 128}, {32, 512}}

// shapes are the usual ones as far as the limits allow them, by tokens. There is at least one.
func shapes(l engine.Limits) []Shape {
	var fitting []Shape
	for _, s := range usual {
		s.Length = min(s.Length, l.MaxLength)
		if s.Sequences <= l.MaxSequences && s.Tokens() <= l.MaxTokens && !slices.Contains(fitting, s) {
			fitting = append(fitting, s)
		}
	}
	slices.SortStableFunc(fitting, func(a, b Shape) int { return a.Tokens() - b.Tokens() })
	return fitting
}

// A measurement is the median of up to mostRounds runs after the warm-up, of fewer where they take more than enough together.
const (
	warmUpRounds = 2
	mostRounds   = 7
	enough       = 400 * time.Millisecond
)

// Measure runs batches of seeded tokens on the first slot of e, which nobody else may use meanwhile, and returns how long a run of
// each shape takes: pooled rows where the model has them, else token vectors. The shapes must be within the engine's limits. Errors
// are the engine's.
func Measure(ctx context.Context, e engine.Engine, shapes []Shape, t Tables) ([]time.Duration, error) {
	slot, want := e.Slots()[0], e.Info().Outputs
	if want&engine.Pooled != 0 {
		want = engine.Pooled
	}
	defer slot.Batch().Reset()
	times := make([]time.Duration, 0, len(shapes))
	for _, s := range shapes {
		fill(slot.Batch(), s, t, want)
		took, err := measure(ctx, slot)
		if err != nil {
			return nil, fmt.Errorf("measuring a run of %s: %w", s, err)
		}
		times = append(times, took)
	}
	return times, nil
}

// fill makes b a batch of the shape.
func fill(b *engine.Batch, s Shape, t Tables, want engine.Outputs) {
	fillLengths(b, slices.Repeat([]int{s.Length}, s.Sequences), t, want)
}

// fillLengths makes b a batch of seeded sequences of these lengths.
func fillLengths(b *engine.Batch, lengths []int, t Tables, want engine.Outputs) {
	random := rand.New(rand.NewPCG(uint64(len(lengths)), uint64(lengths[0])))
	b.Reset()
	for _, length := range lengths {
		for k := range length {
			b.InputIDs = append(b.InputIDs, random.Int32N(int32(max(t.Vocab, 1))))
			b.TypeIDs = append(b.TypeIDs, random.Int32N(int32(max(t.Types, 1))))
			b.PositionIDs = append(b.PositionIDs, int32(t.FirstPosition+k))
		}
		b.EndSequence(want, 0)
	}
}

func measure(ctx context.Context, slot engine.Slot) (time.Duration, error) {
	var times []time.Duration
	var spent time.Duration
	for round := range warmUpRounds + mostRounds {
		if ctx.Err() != nil {
			return 0, status.Errorf(status.Cancelled, "%w", context.Cause(ctx))
		}
		start := time.Now()
		if _, err := slot.Run(ctx); err != nil {
			return 0, err
		}
		if round < warmUpRounds {
			continue
		}
		took := time.Since(start)
		times, spent = append(times, took), spent+took
		if spent >= enough {
			break
		}
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}
