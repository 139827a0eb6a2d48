package backend

import (
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// maxBatchTokens bounds the tokens of one batch call: offsets are 32 bits.
const maxBatchTokens = math.MaxInt32

// batchWork runs a token batch. The batch was checked as a whole; its items are checked one by one in Prepare.
type batchWork struct {
	*results
	batch Batch
	wants []engine.Outputs // [n]
}

// newBatchWork checks what concerns the batch as a whole: lengths, cumulative lengths, index lists.
func newBatchWork(batch Batch, r *results) (*batchWork, error) {
	cu := batch.CumulativeSeqLengths
	if len(cu) == 0 {
		return nil, status.Errorf(status.InvalidArgument, "cumulative_seq_lengths is empty: it needs num_sequences + 1 values, the first 0")
	}
	total := len(batch.InputIDs)
	if total > maxBatchTokens {
		return nil, status.Errorf(status.InvalidArgument, "total_tokens %d is above the limit of %d", total, maxBatchTokens)
	}
	for _, f := range []struct {
		name string
		rows []uint32
	}{{"token_type_ids", batch.TokenTypeIDs}, {"position_ids", batch.PositionIDs}} {
		if f.rows != nil && len(f.rows) != total {
			return nil, status.Errorf(status.InvalidArgument, "%s has %d values, input_ids has %d", f.name, len(f.rows), total)
		}
	}
	n := len(cu) - 1
	if err := r.backend.CheckItems(n); err != nil {
		return nil, err
	}
	if cu[0] != 0 {
		return nil, status.Errorf(status.InvalidArgument, "cumulative_seq_lengths[0] is %d, not 0", cu[0])
	}
	longest := uint32(0)
	for i := range n {
		if cu[i+1] < cu[i] {
			return nil, status.Errorf(status.InvalidArgument, "cumulative_seq_lengths[%d] is %d, below the value before it, %d", i+1, cu[i+1], cu[i])
		}
		longest = max(longest, cu[i+1]-cu[i])
	}
	if int(cu[n]) != total {
		return nil, status.Errorf(status.InvalidArgument, "cumulative_seq_lengths[%d] is %d, but total_tokens is %d", n, cu[n], total)
	}
	if batch.MaxLength != 0 && batch.MaxLength != longest {
		return nil, status.Errorf(status.InvalidArgument, "max_length is %d, but the longest item has %d tokens", batch.MaxLength, longest)
	}
	w := &batchWork{results: r, batch: batch, wants: make([]engine.Outputs, n)}
	for _, list := range []struct {
		name  string
		items []uint32
		want  engine.Outputs
	}{{"pooled_indices", batch.PooledIndices, engine.Pooled}, {"raw_indices", batch.RawIndices, engine.TokenVectors}, {"sparse_indices", batch.SparseIndices, engine.Sparse}} {
		for k, i := range list.items {
			if int(i) >= n {
				return nil, status.Errorf(status.InvalidArgument, "%s[%d] is %d, but the batch has %d items", list.name, k, i, n)
			}
			if k > 0 && i <= list.items[k-1] {
				return nil, status.Errorf(status.InvalidArgument, "%s[%d] is %d, not above the value before it, %d", list.name, k, i, list.items[k-1])
			}
			w.wants[i] |= list.want
		}
	}
	return w, w.checkOutputs(n, w.wants)
}

func (w *batchWork) Items() int { return len(w.wants) }

func (w *batchWork) Prepare(i int, s *pipeline.Sequence) error {
	first, last := w.batch.CumulativeSeqLengths[i], w.batch.CumulativeSeqLengths[i+1]
	if w.wants[i] == 0 {
		return status.Errorf(status.InvalidArgument, "item %d is in none of pooled_indices, raw_indices, sparse_indices", i)
	}
	if first == last && w.wants[i] != engine.TokenVectors {
		return status.Errorf(status.Empty, "item %d has no tokens, so there is nothing to pool", i)
	}
	info := &w.backend.info
	if last-first > info.MaxLength {
		return status.Errorf(status.TooLong, "item %d has %d tokens, the limit is %d (max_length)", i, last-first, info.MaxLength)
	}
	s.IDs = w.batch.InputIDs[first:last]
	s.FirstPosition, s.Outputs = info.PositionOffset, w.backend.engineOutputs(w.wants[i])
	if err := below(i, "input_ids", s.IDs, first, info.VocabSize, "vocab_size"); err != nil {
		return err
	}
	if w.batch.TokenTypeIDs != nil && !info.ignoresTypes {
		s.TypeIDs = w.batch.TokenTypeIDs[first:last]
		if err := below(i, "token_type_ids", s.TypeIDs, first, info.TypeVocabSize, "type_vocab_size"); err != nil {
			return err
		}
	}
	if w.batch.PositionIDs != nil {
		s.PositionIDs = w.batch.PositionIDs[first:last]
		limit := info.maxPositions
		if limit == 0 {
			limit = math.MaxInt32
		}
		if err := below(i, "position_ids", s.PositionIDs, first, limit, "max_position_embeddings"); err != nil {
			return err
		}
	}
	return w.backend.cutPadding(i, s)
}

func (w *batchWork) Deliver(i int, rows pipeline.Rows) error {
	split, err := w.split(i, rows, w.wants[i], w.batch.InputIDs[w.batch.CumulativeSeqLengths[i]:w.batch.CumulativeSeqLengths[i+1]])
	if err != nil {
		return err
	}
	return w.deliver(i, split)
}

// padToken is the token that a classifier does not take for an item's last one; nil: there is none.
func (b *Backend) padToken() *int {
	if b.model == nil {
		return nil
	}
	return b.model.Head.Pooling.PadToken
}

// cutPadding takes the padding off the end of a classifier's item: its logits are those of the last token before. No token sees
// a later one, so that they stay what they are; where attention looks both ways, padding would be seen.
func (b *Backend) cutPadding(i int, s *pipeline.Sequence) error {
	if b.padToken() == nil {
		return nil
	}
	n := arch.Pooled(b.model.Head.Pooling, s.IDs)
	if n == len(s.IDs) {
		return nil
	}
	if !b.model.Layers[0].Attention.Causal {
		return status.Errorf(status.Unsupported,
			"item %d ends with token %d, the model's pad_token_id: with attention both ways that is not supported", i, *b.padToken())
	}
	s.IDs = s.IDs[:n]
	if s.TypeIDs != nil {
		s.TypeIDs = s.TypeIDs[:n]
	}
	if s.PositionIDs != nil {
		s.PositionIDs = s.PositionIDs[:n]
	}
	return nil
}

// below checks one field of item i, whose rows begin at first: its values must be below limit.
func below(i int, field string, rows []uint32, first, limit uint32, limitName string) error {
	if len(rows) == 0 || slices.Max(rows) < limit {
		return nil
	}
	k := slices.IndexFunc(rows, func(v uint32) bool { return v >= limit })
	return status.Errorf(status.TokenOutOfRange, "item %d: %s[%d] is %d, the limit is %d (%s)", i, field, int(first)+k, rows[k], limit-1, limitName)
}
