package backend

import (
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/vectors"
)

// results writes the outcome of items into a call's Output: the part of a pipeline.Work that texts and batches share.
type results struct {
	backend   *Backend
	out       Output
	allowed   engine.Outputs // what this call may ask for
	width     int            // columns of out.Rows
	normalize bool
	status    []status.Code // out.Status, or our own
	// firstFailure is the failed item with the least index so far; for calls without out.Status.
	firstFailure atomic.Pointer[itemFailure]
	failures     atomic.Int64
	resultBytes  atomic.Int64 // of out.Result
}

type itemFailure struct {
	item int
	err  *status.Error
}

// CheckItems refuses more items than one call may have. Who makes Texts or lengths from foreign memory asks it before reading that;
// calls ask it themselves, before memory is taken.
func (b *Backend) CheckItems(n int) error {
	if limit := b.queue.MaxItems; n > limit {
		return status.Errorf(status.InvalidArgument, "%d items are more than one call may have: the limit is %d (queue.max_items)", n, limit)
	}
	return nil
}

// newResults resolves a call's options against the model.
func (b *Backend) newResults(out Output, o CallOptions, allowed engine.Outputs) (*results, error) {
	r := &results{backend: b, out: out, allowed: allowed, width: b.engine.Info().PooledWidth}
	if b.info.ModelType == ModelEmbedding {
		if o.Dimensions < 0 || o.Dimensions > r.width {
			return nil, status.Errorf(status.InvalidArgument, "dimensions is %d, the limit is %d", o.Dimensions, r.width)
		}
		if o.Dimensions > 0 {
			r.width = o.Dimensions
		}
		r.normalize = o.Normalize == On || (o.Normalize == Default && b.info.Normalizes)
	} else if o.Dimensions != 0 || o.Normalize == On {
		return nil, status.Errorf(status.InvalidArgument, "dimensions and normalize are for embedding models; this one is a %s", b.info.ModelType)
	}
	return r, nil
}

// checkOutputs checks that wants can be computed and that the Output has room for n items.
func (r *results) checkOutputs(n int, wants []engine.Outputs) error {
	var all engine.Outputs
	for _, w := range wants {
		all |= w
	}
	names := [...]struct {
		bit  engine.Outputs
		name string
	}{{engine.Pooled, "pooled"}, {engine.TokenVectors, "token vectors"}, {engine.Sparse, "sparse"}, {TokensOutput, "tokens"}}
	known := engine.Outputs(0)
	can := r.backend.outputs() | TokensOutput
	for _, o := range names {
		known |= o.bit
		if all&o.bit == 0 {
			continue
		}
		if r.allowed&o.bit == 0 {
			return status.Errorf(status.InvalidArgument, "output \"%s\" cannot be asked for in this call", o.name)
		}
		if can&o.bit == 0 {
			return status.Errorf(status.Unsupported, "output \"%s\": this %s model on engine %q does not compute it", o.name, r.backend.info.ModelType, r.backend.engine.Info().Name)
		}
	}
	if all&^known != 0 {
		return status.Errorf(status.InvalidArgument, "outputs has unknown bits: 0x%x", uint32(all&^known))
	}
	if all&engine.Pooled != 0 && len(r.out.Rows)/r.width < n {
		return status.Errorf(status.BufferTooSmall, "the output buffer has %d floats, %d items x %d need %d", len(r.out.Rows), n, r.width, n*r.width)
	}
	if all&^engine.Pooled != 0 && r.out.Result == nil {
		return status.Errorf(status.InvalidArgument, "a result is needed: items want outputs of unknown size")
	}
	return r.prepareStatus(n)
}

// prepareStatus makes room for n items' codes and results.
func (r *results) prepareStatus(n int) error {
	r.status = r.out.Status
	if r.status == nil {
		r.status = make([]status.Code, n)
	} else if len(r.status) < n {
		return status.Errorf(status.BufferTooSmall, "item_status has room for %d items, the call has %d", len(r.status), n)
	}
	r.status = r.status[:n]
	if r.out.Result != nil {
		r.out.Result.Items = make([]Item, n)
	}
	return nil
}

// deliver copies rows of item i out, cut and normalised, unless one is not finite.
func (r *results) deliver(i int, rows itemRows) error {
	switch {
	case !vectors.Finite(rows.Pooled) || !vectors.Finite(rows.TokenVectors) || !vectors.Finite(rows.Sparse):
		return nonFinite(i)
	case r.normalize && rows.Pooled != nil && zeros(rows.Pooled[:r.width]):
		return status.Errorf(status.NonFinite, "item %d: a vector of zeros cannot be normalised", i)
	}
	if r.out.Result != nil {
		sparseIDs, sparse := rows.SparseIDs, rows.Sparse
		if sparseIDs == nil {
			sparseIDs, sparse = sparseOf(rows.Sparse)
		}
		if err := r.take(i, 4*len(rows.TokenVectors)+8*len(sparse)); err != nil {
			return err
		}
		it := &r.out.Result.Items[i]
		it.Columns = r.backend.tokenColumns()
		if rows.TokenVectors != nil {
			it.TokenVectors = append([]float32(nil), rows.TokenVectors...)
		}
		it.SparseIDs, it.Sparse = sparseIDs, sparse
	}
	if rows.Pooled != nil {
		dst := r.out.Rows[i*r.width : (i+1)*r.width]
		if !r.normalize {
			copy(dst, rows.Pooled)
		} else {
			vectors.Normalize(dst, rows.Pooled)
		}
	}
	r.status[i] = status.OK
	return nil
}

func nonFinite(i int) error {
	return status.Errorf(status.NonFinite, "item %d: the model's output holds NaN or infinity", i)
}

// take counts n bytes of item i's outputs in, or refuses them: one call must not fill the memory of all.
func (r *results) take(i, n int) error {
	limit := r.backend.config.maxResultBytes()
	if total := r.resultBytes.Add(int64(n)); total > limit {
		r.resultBytes.Add(int64(-n))
		return status.Errorf(status.Overloaded, "item %d: its %d bytes would make the call's result %d bytes, the limit is %d (queue.max_result_bytes): "+
			"ask for fewer items a call", i, n, total, limit)
	}
	return nil
}

// Fail is pipeline.Work's.
func (r *results) Fail(i int, err *status.Error) {
	r.status[i] = err.Code
	r.failures.Add(1)
	if r.out.Result != nil {
		r.out.Result.Items[i] = Item{Message: err.Msg}
	}
	r.backend.metrics.items.WithLabelValues(err.Code.String()).Inc()
	failure := &itemFailure{i, err}
	for {
		first := r.firstFailure.Load()
		if first != nil && first.item <= i || r.firstFailure.CompareAndSwap(first, failure) {
			return
		}
	}
}

// finish ends a call: without item statuses, the first failed item is the call's error.
func (r *results) finish(stats pipeline.Stats) error {
	if r.out.Result != nil {
		r.out.Result.Stats = stats
	}
	r.backend.metrics.items.WithLabelValues(status.OK.String()).Add(float64(len(r.status)) - float64(r.failures.Load()))
	if f := r.firstFailure.Load(); f != nil && r.out.Status == nil {
		return status.Errorf(f.err.Code, "%s", itemMessage(f.item, f.err.Msg))
	}
	return nil
}

// itemMessage puts the item in front of a message that does not name it.
func itemMessage(i int, msg string) string {
	name := fmt.Sprintf("item %d", i)
	if len(msg) >= len(name) && msg[:len(name)] == name {
		return msg
	}
	return name + ": " + msg
}

func zeros(v []float32) bool { return !slices.ContainsFunc(v, func(x float32) bool { return x != 0 }) }

// sparseOf returns the non-zero columns of a row.
func sparseOf(row []float32) (ids []uint32, values []float32) {
	n := 0
	for _, v := range row {
		if v != 0 {
			n++
		}
	}
	if n == 0 {
		return nil, nil
	}
	ids, values = make([]uint32, 0, n), make([]float32, 0, n)
	for i, v := range row {
		if v != 0 {
			ids, values = append(ids, uint32(i)), append(values, v)
		}
	}
	return ids, values
}
