package onnx

import (
	"context"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// slot implements engine.Slot.
type slot struct {
	engine  *Engine
	batch   *engine.Batch
	session *ort.Session
	runner  *ort.Runner
	device  *deviceRun // nil on the CPU
	// Memory of the outputs, as much as runs have needed so far.
	pooled, tokenVectors, sparse, maxima []float32
}

// Batch implements engine.Slot.
func (s *slot) Batch() *engine.Batch { return s.batch }

// Run implements engine.Slot.
func (s *slot) Run(ctx context.Context) (engine.Output, error) {
	e, b := s.engine, s.batch
	e.running.RLock()
	defer e.running.RUnlock()
	if e.closed {
		return engine.Output{}, status.Errorf(status.ShutDown, "engine onnxruntime is closed")
	}
	if err := s.fits(); err != nil {
		return engine.Output{}, err
	}
	if s.device != nil {
		return s.runDevice(ctx)
	}
	var out engine.Output
	if b.Outputs&engine.Pooled != 0 {
		out.Pooled = grow(&s.pooled, b.Sequences()*e.info.PooledWidth)
	}
	if b.Outputs&engine.TokenVectors != 0 {
		out.TokenVectors = grow(&s.tokenVectors, b.Tokens()*e.info.TokenWidth)
	}
	if b.Outputs&engine.Sparse != 0 {
		out.Sparse = grow(&s.sparse, b.Sequences()*e.info.SparseWidth)
	}
	if b.Tokens() > 0 && b.Outputs != 0 {
		var seen []float32
		if e.maxima != nil {
			seen = grow(&s.maxima, len(e.maxima.keys))
		}
		e.stats.launched(b.Tokens(), 0)
		err := s.runner.Run(ctx, s.session, &ort.Packed{
			InputIDs: b.InputIDs, TypeIDs: b.TypeIDs, PositionIDs: b.PositionIDs, CuSeqLens: b.CuSeqLens, PoolSkip: b.PoolSkip,
			Pooled: out.Pooled, PooledWidth: e.info.PooledWidth, TokenVectors: out.TokenVectors, TokenWidth: e.info.TokenWidth,
			Sparse: out.Sparse, SparseWidth: e.info.SparseWidth,
			Maxima: seen, Shrink: b.Tokens() > 2*e.info.Limits.BestTokens,
		})
		if err != nil {
			return engine.Output{}, err
		}
		if e.maxima != nil {
			e.maxima.add(seen, b.Tokens())
		}
	}
	s.clearEmpty(out)
	return out, nil
}

// fits checks what would otherwise be a fault: that the batch's slices belong together and fit the limits. What they
// say is checked by the operators that read it.
func (s *slot) fits() error {
	b, l := s.batch, s.engine.info.Limits
	if unknown := b.Outputs &^ s.engine.info.Outputs; unknown != 0 {
		return status.Errorf(status.Unsupported, "outputs %#x are wanted; this model has %#x",
			uint32(b.Outputs), uint32(s.engine.info.Outputs))
	}
	if len(b.CuSeqLens) == 0 || len(b.PoolSkip) != b.Sequences() ||
		len(b.TypeIDs) != b.Tokens() || len(b.PositionIDs) != b.Tokens() {
		return status.Errorf(status.InvalidArgument,
			"batch has %d ids, %d type ids, %d position ids, %d cumulative lengths, %d lengths to skip: they do not fit together",
			b.Tokens(), len(b.TypeIDs), len(b.PositionIDs), len(b.CuSeqLens), len(b.PoolSkip))
	}
	if b.Tokens() > l.MaxTokens || b.Sequences() > l.MaxSequences {
		return status.Errorf(status.InvalidArgument, "batch of %d tokens in %d sequences exceeds the limits %d and %d",
			b.Tokens(), b.Sequences(), l.MaxTokens, l.MaxSequences)
	}
	return nil
}

// grow returns the first n numbers of buffer, which grows where it is shorter. Never nil.
func grow(buffer *[]float32, n int) []float32 {
	*buffer = slices.Grow((*buffer)[:0], max(n, 1))
	return (*buffer)[:n:n]
}

// clearEmpty makes the rows of sequences without tokens zeros: dense layers after the pooling may have added biases.
func (s *slot) clearEmpty(out engine.Output) {
	pooled, sparse, cu := s.engine.info.PooledWidth, s.engine.info.SparseWidth, s.batch.CuSeqLens
	for i := range s.batch.Sequences() {
		if cu[i] != cu[i+1] {
			continue
		}
		if out.Pooled != nil {
			clear(out.Pooled[i*pooled : (i+1)*pooled])
		}
		if out.Sparse != nil {
			clear(out.Sparse[i*sparse : (i+1)*sparse])
		}
	}
}

// check runs one token.
func (s *slot) check(ctx context.Context) error {
	b := s.batch
	b.InputIDs, b.TypeIDs, b.PositionIDs = append(b.InputIDs, 0), append(b.TypeIDs, 0), append(b.PositionIDs, 0)
	b.EndSequence(s.engine.info.Outputs, 0)
	defer b.Reset()
	if s.device != nil {
		engine.Making.Lock()
		defer engine.Making.Unlock()
	}
	if _, err := s.Run(ctx); err != nil {
		code := status.CodeOf(err)
		if code == status.Inference {
			code = status.Start
		}
		return status.Errorf(code, "trying the graph with one token: %w", err)
	}
	return nil
}
