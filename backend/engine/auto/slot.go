package auto

import (
	"context"
	"errors"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// slot implements engine.Slot. It has a batch of its own, and of each engine one slot that is nobody else's.
type slot struct {
	pair  *Pair
	batch *engine.Batch
	slots [2]engine.Slot
}

// Batch implements engine.Slot.
func (s *slot) Batch() *engine.Batch { return s.batch }

// Run implements engine.Slot.
func (s *slot) Run(ctx context.Context) (engine.Output, error) {
	p, b := s.pair, s.batch
	first := p.order(b)
	var lost error
	for _, i := range [...]int{first, 1 - first} {
		m := p.members[i]
		if !m.takes(b) {
			continue
		}
		if err := m.lost.Load(); err != nil {
			lost = errors.Join(lost, *err)
			continue
		}
		stage(s.slots[i].Batch(), b)
		out, err := s.slots[i].Run(ctx)
		if err == nil {
			return out, nil
		}
		if status.CodeOf(err) != status.Unhealthy {
			return engine.Output{}, err
		}
		p.lose(i, err)
		if ctx.Err() != nil {
			return engine.Output{}, err
		}
		lost = errors.Join(lost, err)
	}
	return engine.Output{}, s.refused(lost)
}

// refused is the error of a run that no engine took. Where the engine that is left would take fewer sequences it says so by its code:
// callers then try halves.
func (s *slot) refused(lost error) error {
	b, l := s.batch, s.pair.info.Limits
	if lost == nil {
		return status.Errorf(status.InvalidArgument, "batch of %d tokens, %d sequences, longest %d exceeds limits %d, %d, %d",
			b.Tokens(), b.Sequences(), b.MaxLength, l.MaxTokens, l.MaxSequences, l.MaxLength)
	}
	for _, m := range s.pair.members {
		if m.lost.Load() == nil && b.Sequences() > 1 {
			return status.Errorf(status.Inference, "batch of %d tokens, %d sequences, longest %d exceeds limits %d, %d, %d of %s, the engine that is left: %v",
				b.Tokens(), b.Sequences(), b.MaxLength, m.limits.MaxTokens, m.limits.MaxSequences, m.limits.MaxLength, m.Name, lost)
		}
	}
	return status.Errorf(status.Unhealthy, "%w", lost)
}

// stage copies a batch into another one's memory.
func stage(to, from *engine.Batch) {
	to.InputIDs = append(to.InputIDs[:0], from.InputIDs...)
	to.TypeIDs = append(to.TypeIDs[:0], from.TypeIDs...)
	to.PositionIDs = append(to.PositionIDs[:0], from.PositionIDs...)
	to.CuSeqLens = append(to.CuSeqLens[:0], from.CuSeqLens...)
	to.PoolSkip = append(to.PoolSkip[:0], from.PoolSkip...)
	to.MaxLength, to.Outputs = from.MaxLength, from.Outputs
}
