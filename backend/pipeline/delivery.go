package pipeline

import (
	"runtime/debug"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// deliver hands each staged item its rows.
func (r *runner) deliver(picks []pick, out engine.Output) {
	b := r.slot.Batch()
	row := 0
	for k, pk := range picks {
		if !r.staged[k] {
			continue
		}
		if pk.c.touch() {
			r.deliverItem(pk, row, int(b.CuSeqLens[row]), int(b.CuSeqLens[row+1]), out)
			pk.c.release()
		}
		row++
	}
}

// deliverItem hands pk the outputs of sequence row, tokens [first, last). The caller holds the call's use.
func (r *runner) deliverItem(pk pick, row, first, last int, out engine.Output) {
	info, want := r.info, pk.c.items[pk.i].sequence.Outputs
	var rows Rows
	if want&engine.Pooled != 0 {
		rows.Pooled = out.Pooled[row*info.PooledWidth : (row+1)*info.PooledWidth]
	}
	if want&engine.TokenVectors != 0 {
		rows.TokenVectors = out.TokenVectors[first*info.TokenWidth : last*info.TokenWidth]
	}
	if want&engine.Sparse != 0 {
		rows.Sparse = out.Sparse[row*info.SparseWidth : (row+1)*info.SparseWidth]
	}
	pk.c.tokens.Add(int64(last - first))
	if err := r.p.handOut(pk.c, int(pk.i), rows); err != nil {
		r.refused(pk, err)
	} else if r.cause != nil {
		r.p.metrics.reruns.WithLabelValues(status.OK.String()).Inc()
	}
}

// refused ends an item whose outputs its call does not take, or has it run again. The caller holds the call's use.
func (r *runner) refused(pk pick, err *status.Error) {
	switch {
	case err.Code != status.NonFinite:
		pk.c.fail(int(pk.i), err)
	case r.cause != nil || r.p.reruns == nil || !r.p.reruns.add(pk, err):
		r.fail(pk, err)
	}
}

// fail ends an item of a run. What was run again in vain has the failure that it was run again for. The caller holds the call's use.
func (r *runner) fail(pk pick, err *status.Error) {
	if r.cause != nil {
		err = status.Errorf(status.NonFinite, "%s; run again on another engine: %s", r.cause.Msg, err.Msg)
		r.p.metrics.reruns.WithLabelValues(err.Code.String()).Inc()
		r.p.log.Warn("an item that was run again failed", zap.Error(err))
	}
	pk.c.fail(int(pk.i), err)
}

// handOut delivers rows to item i of c, and ends it unless that fails. The caller holds the call's use.
func (p *Pipeline) handOut(c *call, i int, rows Rows) *status.Error {
	err := func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				p.log.Error("panic while delivering an item", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
				err = status.Errorf(status.Internal, "panic while delivering the item: %v", v)
			}
		}()
		return c.work.Deliver(i, rows)
	}()
	if err != nil {
		return status.Of(err, status.Inference)
	}
	c.end(i)
	return nil
}

// failAll tells every item of picks that has not ended.
func (r *runner) failAll(picks []pick, err *status.Error) {
	if r.p.runContext.Err() != nil && err.Code != status.Unhealthy {
		return // Close has aborted every call: each tells its own items, or fails as a whole when none was done
	}
	for _, pk := range picks {
		if !pk.c.touch() {
			continue
		}
		if !pk.c.items[pk.i].done {
			r.fail(pk, err)
		}
		pk.c.release()
	}
}
