package backend

import (
	"cmp"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/vectors"
)

// itemRows are an item's outputs as callers get them. SparseIDs are the token ids of Sparse, ascending; nil: Sparse has the whole
// vocabulary.
type itemRows struct {
	pipeline.Rows
	SparseIDs []uint32
}

// tokenHead is the model's; nil: its engine's outputs are as callers get them.
func (b *Backend) tokenHead() *arch.TokenHead {
	if b.model == nil {
		return nil
	}
	return b.model.Head.Tokens
}

// outputs are those that callers can ask for. The engine gives weights in rows of tokens where the model has a head of tokens.
func (b *Backend) outputs() engine.Outputs {
	outputs := b.engine.Info().Outputs
	if b.tokenHead() != nil {
		outputs |= engine.Sparse
	}
	return outputs
}

// engineOutputs are those that the engine must compute for what a caller wants.
func (b *Backend) engineOutputs(want engine.Outputs) engine.Outputs {
	if b.tokenHead() != nil && want&engine.Sparse != 0 {
		return want&^engine.Sparse | engine.TokenVectors
	}
	return want
}

// tokenColumns is the width of a token vector.
func (b *Backend) tokenColumns() int {
	if h := b.tokenHead(); h != nil {
		return h.Vector.Out
	}
	return b.engine.Info().TokenWidth
}

// readSpecialTokens finds the ids of the tokens that have no weight.
func (b *Backend) readSpecialTokens() ([]uint32, error) {
	h := b.tokenHead()
	if h == nil {
		return nil, nil
	}
	ids := make([]uint32, 0, len(h.SpecialTokens))
	for _, token := range h.SpecialTokens {
		id, ok := b.tokenizer.ID(token)
		if !ok {
			return nil, status.Errorf(status.Start, "tokenizer.json has no token %q, which has no weight in sparse vectors", token)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// split makes what a caller wants of item i's rows. Those of a head of tokens are split in place: vectors without the first token's,
// normalised, and the largest weight above zero of each token id that is not special, as FlagEmbedding does it.
func (r *results) split(i int, rows pipeline.Rows, want engine.Outputs, ids []uint32) (itemRows, error) {
	b := r.backend
	if b.tokenHead() == nil || rows.TokenVectors == nil {
		return itemRows{Rows: rows}, nil
	}
	if !vectors.Finite(rows.TokenVectors) { // before what is below zero is left out
		return itemRows{}, nonFinite(i)
	}
	out := itemRows{Rows: pipeline.Rows{Pooled: rows.Pooled}}
	if want&engine.Sparse != 0 {
		out.SparseIDs, out.Sparse = b.tokenWeights(rows.TokenVectors, ids)
	}
	if want&engine.TokenVectors != 0 {
		var err error
		out.TokenVectors, err = b.tokenVectors(i, rows.TokenVectors, len(ids))
		return out, err
	}
	return out, nil
}

// tokenWeights gives the weights of token ids, ascending, of the last column of rows.
func (b *Backend) tokenWeights(rows []float32, ids []uint32) ([]uint32, []float32) {
	type entry struct {
		id     uint32
		weight float32
	}
	var entries []entry
	columns := b.tokenColumns()
	for k, id := range ids {
		if w := rows[k*(columns+1)+columns]; w > 0 && !slices.Contains(b.weightless, id) {
			entries = append(entries, entry{id, w})
		}
	}
	slices.SortFunc(entries, func(x, y entry) int { return cmp.Or(cmp.Compare(x.id, y.id), cmp.Compare(y.weight, x.weight)) })
	entries = slices.CompactFunc(entries, func(x, y entry) bool { return x.id == y.id })
	sparseIDs, weights := make([]uint32, len(entries)), make([]float32, len(entries))
	for k, e := range entries {
		sparseIDs[k], weights[k] = e.id, e.weight
	}
	return sparseIDs, weights
}

// tokenVectors moves the vectors of tokens 1 to n - 1 together, at the beginning of rows, normalised: late interaction compares directions,
// so that CallOptions.Normalize has no say.
func (b *Backend) tokenVectors(i int, rows []float32, n int) ([]float32, error) {
	columns := b.tokenColumns()
	for k := 1; k < n; k++ {
		to, from := rows[(k-1)*columns:k*columns], rows[k*(columns+1):][:columns]
		if zeros(from[:columns]) {
			return nil, status.Errorf(status.NonFinite, "item %d: the vector of token %d is zeros, which cannot be normalised", i, k)
		}
		vectors.Normalize(to, from)
	}
	return rows[:max(n-1, 0)*columns], nil
}
