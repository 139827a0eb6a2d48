package trt

import (
	"cmp"
	"context"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// slot implements engine.Slot. It owns a batch, and borrows a worker for each run.
type slot struct {
	engine *Engine
	batch  *engine.Batch

	// Memory of the outputs, as much as runs have needed so far.
	pooled, tokenVectors []float32
	// Scratch memory of a run.
	order   []int32 // sequences with tokens, by length
	lengths []int32 // of order
	groups  []group
	costs   []float64
	cuts    []group
}

func newSlot(e *Engine) *slot {
	n := e.info.Limits.MaxSequences
	return &slot{
		engine: e, batch: engine.NewBatch(e.info.Limits), order: make([]int32, 0, n), lengths: make([]int32, 0, n),
		groups: make([]group, 0, n), costs: make([]float64, n+1), cuts: make([]group, n+1),
	}
}

// Batch implements engine.Slot.
func (s *slot) Batch() *engine.Batch { return s.batch }

// Run implements engine.Slot. A run on a device that is lost meanwhile is repeated once, on another one where there is one: a batch that
// breaks devices must not go through all of them.
func (s *slot) Run(ctx context.Context) (engine.Output, error) {
	e := s.engine
	if err := e.begin(); err != nil {
		return engine.Output{}, err
	}
	defer e.runs.Done()
	if err := s.fits(); err != nil {
		return engine.Output{}, err
	}
	for repeated := false; ; repeated = true {
		w, err := e.acquire(ctx)
		if err != nil {
			return engine.Output{}, err
		}
		out, err := s.run(ctx, w)
		e.release(w, err)
		if status.CodeOf(err) != status.Unhealthy {
			return out, err
		}
		if repeated {
			return out, cmp.Or(e.Health(), err) // Health names the devices
		}
	}
}

// fits checks what would otherwise be a fault: that the batch's slices belong together, fit the limits and the tables.
func (s *slot) fits() error {
	b, l := s.batch, s.engine.info.Limits
	if unknown := b.Outputs &^ s.engine.info.Outputs; unknown != 0 {
		return status.Errorf(status.Unsupported, "outputs %#x are wanted; this model has %#x", uint32(b.Outputs), uint32(s.engine.info.Outputs))
	}
	if len(b.CuSeqLens) == 0 || len(b.PoolSkip) != b.Sequences() || len(b.TypeIDs) != b.Tokens() || len(b.PositionIDs) != b.Tokens() ||
		b.CuSeqLens[0] != 0 || int(b.CuSeqLens[b.Sequences()]) != b.Tokens() || !slices.IsSorted(b.CuSeqLens) {
		return status.Errorf(status.InvalidArgument,
			"batch has %d ids, %d type ids, %d position ids, %d cumulative lengths, %d lengths to skip: they do not fit together",
			b.Tokens(), len(b.TypeIDs), len(b.PositionIDs), len(b.CuSeqLens), len(b.PoolSkip))
	}
	if b.Tokens() > l.MaxTokens || b.Sequences() > l.MaxSequences {
		return status.Errorf(status.InvalidArgument, "batch of %d tokens in %d sequences exceeds the limits %d and %d",
			b.Tokens(), b.Sequences(), l.MaxTokens, l.MaxSequences)
	}
	for i := range b.Sequences() {
		if n := int(b.CuSeqLens[i+1] - b.CuSeqLens[i]); n > l.MaxLength {
			return status.Errorf(status.InvalidArgument, "sequence %d has %d tokens; the limit is %d", i, n, l.MaxLength)
		}
	}
	return s.inTables()
}

// inTables refuses ids that the device would read beyond a table's end.
func (s *slot) inTables() error {
	m, b := s.engine.model, s.batch
	types, positions := int32(max(m.Embeddings.TypeVocabSize, 1)), int32(s.engine.positions)
	for t, id := range b.InputIDs {
		if uint32(id) >= uint32(m.VocabSize) || (s.engine.layout.planes.types >= 0 && uint32(b.TypeIDs[t]) >= uint32(types)) ||
			(s.engine.layout.planes.positions >= 0 && uint32(b.PositionIDs[t]) >= uint32(positions)) {
			return status.Errorf(status.TokenOutOfRange, "row %d (id %d, type %d, position %d) is outside the tables (%d, %d, %d)",
				t, id, b.TypeIDs[t], b.PositionIDs[t], m.VocabSize, types, positions)
		}
	}
	return nil
}

// grow returns the first n numbers of buffer, which grows where it is shorter. They may hold an earlier run's. Never nil.
func grow(buffer *[]float32, n int) []float32 {
	*buffer = slices.Grow((*buffer)[:0], max(n, 1))
	return (*buffer)[:n:n]
}

// run computes the batch on a worker.
func (s *slot) run(ctx context.Context, w *worker) (engine.Output, error) {
	b := s.batch
	var out engine.Output
	if b.Outputs&byRow != 0 {
		rows := grow(&s.pooled, b.Sequences()*w.layout.pooled)
		if out.Pooled = rows; b.Outputs&engine.Sparse != 0 {
			out.Pooled, out.Sparse = nil, rows
		}
	}
	if b.Outputs&engine.TokenVectors != 0 {
		out.TokenVectors = grow(&s.tokenVectors, b.Tokens()*w.layout.token)
	}
	s.sort()
	s.clearEmpty(rowsOf(out), w.layout.pooled)
	if len(s.order) == 0 || b.Outputs == 0 {
		return out, nil
	}
	s.engine.stats.runs.Add(1)
	s.groups = w.shapes.partition(s.lengths, s.groups[:0], s.costs, s.cuts)
	for first := 0; first < len(s.groups); {
		if ctx.Err() != nil {
			return engine.Output{}, status.Errorf(status.Cancelled, "run: %w", context.Cause(ctx))
		}
		n, err := s.launch(w, s.groups[first:], out.TokenVectors != nil)
		if err != nil {
			return engine.Output{}, err
		}
		s.collect(w, s.groups[first:first+n], out)
		first += n
	}
	return out, nil
}

// sort lists the sequences with tokens by length.
func (s *slot) sort() {
	cu := s.batch.CuSeqLens
	s.order = s.order[:0]
	for i := range s.batch.Sequences() {
		if cu[i+1] > cu[i] {
			s.order = append(s.order, int32(i))
		}
	}
	slices.SortStableFunc(s.order, func(a, b int32) int { return int((cu[a+1] - cu[a]) - (cu[b+1] - cu[b])) })
	s.lengths = s.lengths[:0]
	for _, i := range s.order {
		s.lengths = append(s.lengths, cu[i+1]-cu[i])
	}
}

// launch stages and enqueues as many of the groups as staging has room for, waits for them, and returns their number.
func (s *slot) launch(w *worker, groups []group, vectors bool) (int, error) {
	cell, sequence, n := 0, 0, 0
	if vectors {
		if err := s.stageVectors(w, groups); err != nil {
			return 0, err
		}
	}
	for _, g := range groups {
		x := w.shapes.all[g.shape]
		if n > 0 && (cell+x.cells() > w.cells || sequence+x.n > w.count || (vectors && 4*w.layout.token*(cell+x.cells()) > w.vectors.bytes)) {
			break
		}
		s.stage(w, g, cell, sequence)
		at := -1
		if vectors {
			at = cell
		}
		kind, err := w.enqueue(g.shape, cell, sequence, at)
		if err != nil {
			return 0, s.drained(w, err)
		}
		s.count(w, g, kind)
		cell, sequence, n = cell+x.cells(), sequence+x.n, n+1
	}
	return n, w.lane.Wait()
}

func (s *slot) count(w *worker, g group, kind nvinfer.LaunchKind) {
	tokens := 0
	for _, length := range s.lengths[g.from:g.to] {
		tokens += int(length)
	}
	s.engine.stats.launched(w.shapes.all[g.shape], tokens, kind)
}

// drained waits for launches before one that failed: their memory is about to be used again.
func (s *slot) drained(w *worker, err error) error {
	if lost := w.lane.Wait(); status.CodeOf(lost) == status.Unhealthy {
		return lost
	}
	return err
}

// mostVectorBytes bounds the pinned memory for token vectors of a worker; what is more takes turns in it.
const mostVectorBytes = 64 << 20

// stageVectors makes room for the token vectors of the groups.
func (s *slot) stageVectors(w *worker, groups []group) error {
	total, largest := 0, 0
	for _, g := range groups {
		bytes := 4 * w.layout.token * w.shapes.all[g.shape].cells()
		total, largest = total+bytes, max(largest, bytes)
	}
	need := max(largest, min(total, mostVectorBytes))
	if need <= w.vectors.bytes {
		return nil
	}
	m, err := w.lane.Stage(bindTokenVectors, need)
	if err != nil {
		w.vectors = memory{}
		return err
	}
	w.vectors = m
	return nil
}

// stage writes a group's inputs. Cells beyond a sequence's end are zeros: within the tables, and unseen.
func (s *slot) stage(w *worker, g group, cell, sequence int) {
	b, p, x := s.batch, w.layout.planes, w.shapes.all[g.shape]
	tokens := w.tokens.ints()[p.tokens*cell:][:p.tokens*x.cells()]
	sequences := w.sequences.ints()[p.sequences*sequence:][:p.sequences*x.n]
	clear(sequences)
	clear(tokens) // planes may lie where others did in an earlier launch: ids are no positions
	for k := range g.to - g.from {
		i := s.order[g.from+k]
		from, to := b.CuSeqLens[i], b.CuSeqLens[i+1]
		row := tokens[k*x.l:]
		copy(row, b.InputIDs[from:to])
		if p.types >= 0 {
			copy(row[p.types*x.cells():], b.TypeIDs[from:to])
		}
		if p.positions >= 0 {
			copy(row[p.positions*x.cells():], b.PositionIDs[from:to])
		}
		sequences[k] = to - from
		if p.skip >= 0 {
			sequences[p.skip*x.n+k] = b.PoolSkip[i]
		}
	}
}

// collect copies the results of launched groups to where the batch has their sequences.
func (s *slot) collect(w *worker, groups []group, out engine.Output) {
	b, cell, sequence, rows := s.batch, 0, 0, rowsOf(out)
	for _, g := range groups {
		x := w.shapes.all[g.shape]
		for k := range g.to - g.from {
			i := s.order[g.from+k]
			from, to := int(b.CuSeqLens[i]), int(b.CuSeqLens[i+1])
			if width := w.layout.pooled; rows != nil {
				copy(rows[int(i)*width:][:width], w.pooled.floats()[(sequence+k)*width:])
			}
			if width := w.layout.token; out.TokenVectors != nil {
				copy(out.TokenVectors[from*width:to*width], w.vectors.floats()[(cell+k*x.l)*width:])
			}
		}
		cell, sequence = cell+x.cells(), sequence+x.n
	}
}

// rowsOf are those that out has for its sequences; nil: none.
func rowsOf(out engine.Output) []float32 {
	if out.Sparse != nil {
		return out.Sparse
	}
	return out.Pooled
}

// clearEmpty makes the rows of sequences without tokens zeros. rows may be nil.
func (s *slot) clearEmpty(rows []float32, width int) {
	if rows == nil {
		return
	}
	cu := s.batch.CuSeqLens
	for i := range s.batch.Sequences() {
		if cu[i] == cu[i+1] {
			clear(rows[i*width : (i+1)*width])
		}
	}
}
