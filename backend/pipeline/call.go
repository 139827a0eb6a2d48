package pipeline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Sequence is one item's tokens. Its slices may lie in the caller's memory.
type Sequence struct {
	IDs         []uint32
	TypeIDs     []uint32 // nil: zeros
	PositionIDs []uint32 // nil: counted from FirstPosition
	// FirstPosition is the position id of the first token where PositionIDs is nil. Where it is not 0, a token with the id below it is padding
	// (as in arch.Embeddings.PositionOffset): it has that position, and does not count.
	FirstPosition uint32
	// PoolSkip is the number of leading tokens that pooling leaves out.
	PoolSkip uint32
	Outputs  engine.Outputs
}

// Rows are one item's outputs, in memory of the slot: valid during Deliver only, which may overwrite them.
type Rows struct {
	Pooled       []float32
	TokenVectors []float32 // [tokens, TokenWidth]
	Sparse       []float32
}

// Work is what a call brings. Its methods are called for distinct items from several goroutines at once, for one item by
// one goroutine at a time, and never after Do has returned.
type Work interface {
	// Items is the number of items.
	Items() int
	// Prepare fills in item i's sequence, on a prepare worker. An error is the item's.
	Prepare(i int, s *Sequence) error
	// Deliver takes item i's outputs. An error (such as a non-finite number) becomes the item's failure.
	Deliver(i int, r Rows) error
	// Fail takes item i's failure. Exactly one of Deliver without error and Fail ends each item.
	Fail(i int, err *status.Error)
}

// Options of one call.
type Options struct {
	Priority int  // -1, 0, 1
	Prepared bool // Prepare is trivial (token batches): Do calls it for all items before anything else
	Alone    bool // no run holds items of this call and of another one
	// CallerRuns lets Do execute a run of prepared items itself where a slot is free and nothing else waits, which saves two switches of
	// threads. Do then returns with the run, also where that hangs. No effect with a context that can end.
	CallerRuns bool
}

// Stats says where the time of a call went.
type Stats struct {
	Total     time.Duration
	Prepare   time.Duration // longest of the items
	Queue     time.Duration // mean of the items that ran: ready until the run began
	Inference time.Duration // mean of the items that ran: the runs that they were part of
	Tokens    int
	Runs      int
}

type item struct {
	sequence Sequence
	readyAt  time.Time
	started  bool // was part of a run; used by the runner that has picked the item
	done     bool // guarded by use (held for reading by the one goroutine that ends the item)
}

// call is one Do under way.
type call struct {
	work  Work
	items []item

	use      sync.RWMutex // held for reading while the caller's memory is touched; for writing to leave
	gone     bool         // guarded by use: the caller's memory must not be touched any more
	pending  atomic.Int64 // items not done
	finished chan struct{}
	aborted  chan struct{} // closed by abort
	failure  *status.Error // why aborted; written before aborted is closed
	abortMu  sync.Once

	started   atomic.Int64 // items that were put into a run, each counted once
	queueNs   atomic.Int64
	runNs     atomic.Int64
	prepareNs atomic.Int64
	tokens    atomic.Int64
	runs      atomic.Int64

	// Scheduling, guarded by Pipeline.mu.
	ready          []int32 // ready items, in order, from readyHead
	readyHead      int
	readyTokens    int
	nextUnprepared int
	inHeap, inRing bool
	heapIndex      int
	class          *class
	alone          bool    // as Options.Alone
	served         float64 // finish tag, within the class, of the item served last, or where the call began
	finish         float64 // finish tag of the next ready item
	number         uint64  // in order of arrival
	lastRun        uint64  // that the call was counted in
	left           bool
}

// touch acquires the caller's memory for reading and writing an item's part of it; false when the caller has left, or is about
// to: a slot must not wait with it for an item that is being tokenized. After true, release must be called.
func (c *call) touch() bool {
	if !c.use.TryRLock() {
		return false
	}
	if c.gone {
		c.use.RUnlock()
		return false
	}
	return true
}

func (c *call) release() { c.use.RUnlock() }

// fail ends item i with a failure. The caller holds use.
func (c *call) fail(i int, err *status.Error) {
	c.work.Fail(i, err)
	c.end(i)
}

func (c *call) end(i int) {
	c.items[i].done = true
	if c.pending.Add(-1) == 0 {
		close(c.finished)
	}
}

func (c *call) abort(err *status.Error) {
	c.abortMu.Do(func() { c.failure = err; close(c.aborted) })
}

func (c *call) notePrepare(d time.Duration) {
	for {
		old := c.prepareNs.Load()
		if int64(d) <= old || c.prepareNs.CompareAndSwap(old, int64(d)) {
			return
		}
	}
}

// headTokens is the length of the first ready item. The caller holds Pipeline.mu.
func (c *call) headTokens() int { return len(c.items[c.ready[c.readyHead]].sequence.IDs) }

// tagHead works out the finish tag of the first ready item. The caller holds Pipeline.mu.
func (c *call) tagHead() { c.finish = c.served + float64(c.headTokens()) }

// Do runs all items of w and returns when each has ended or ctx has. An error concerns the call as a whole, and is
// returned when no item was done: items were then told nothing. Otherwise each item has been delivered or failed.
func (p *Pipeline) Do(ctx context.Context, w Work, o Options) (Stats, error) {
	start := time.Now()
	n := w.Items()
	if ctx.Err() != nil {
		return Stats{}, ContextError(ctx, 0)
	}
	if n > p.config.MaxItems {
		return Stats{}, status.Errorf(status.InvalidArgument, "%d items are more than one call may have: the limit is %d (queue.max_items)", n, p.config.MaxItems)
	}
	c := &call{work: w, items: make([]item, n), finished: make(chan struct{}), aborted: make(chan struct{}),
		class: &p.classes[1+min(max(o.Priority, -1), 1)], alone: o.Alone}
	c.pending.Store(int64(n))
	if n == 0 {
		close(c.finished)
	}
	o.CallerRuns = o.CallerRuns && o.Prepared && ctx.Done() == nil
	r, err := p.admit(c, o)
	if err != nil {
		return Stats{}, err
	}
	if r != nil {
		r.executeBorrowed()
	}

	var cause *status.Error
	select {
	case <-c.finished:
	case <-c.aborted:
		cause = c.failure
	case <-ctx.Done():
		cause = p.leaveReason(ctx, c, time.Since(start))
	}
	p.leave(c)
	return c.settle(cause, start)
}

// admit takes the call in, or says why not. With a runner the caller has to execute its run, and to give it back.
func (p *Pipeline) admit(c *call, o Options) (r *runner, failure *status.Error) {
	n := len(c.items)
	if err := p.register(c, n); err != nil {
		return nil, err
	}
	var ready []int32
	if o.Prepared {
		ready = make([]int32, 0, n)
		for i := range n {
			if p.prepareItem(c, i) {
				ready = append(ready, int32(i))
			}
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !o.Prepared {
		p.requeueUnprepared(c)
		return nil, nil
	}
	c.nextUnprepared = n
	if o.CallerRuns && p.readyTokens == 0 && len(ready) > 0 {
		r = p.borrow()
	}
	p.addReady(c, ready)
	if r != nil {
		r.pick()
	} else {
		p.wakeRunner()
	}
	return r, nil
}

// register counts the call in, unless a limit stands against it.
func (p *Pipeline) register(c *call, n int) *status.Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closing:
		return status.Errorf(status.ShutDown, "the backend is shut down")
	case p.hung == len(p.eng.Slots()):
		return p.hungError()
	case p.admitted+n > p.config.MaxItems:
		return status.Errorf(status.Overloaded, "the queue is full: %d items wait, %d more would exceed the limit of %d (queue.max_items)",
			p.admitted, n, p.config.MaxItems)
	}
	p.calls[c] = struct{}{}
	p.callCount++
	c.number = p.callCount
	p.admitted += n
	p.updateQueueGauges()
	return nil
}

// leaveReason turns the end of a context into the status of the items that were not done.
func (p *Pipeline) leaveReason(ctx context.Context, c *call, waited time.Duration) *status.Error {
	cause := ContextError(ctx, waited)
	if cause.Code != status.Timeout || c.started.Load() > 0 || int(c.pending.Load()) < len(c.items) {
		return cause
	}
	p.mu.Lock()
	ahead := p.readyTokens
	p.mu.Unlock()
	return status.Errorf(status.Overloaded, "no slot came free within the call's timeout: waited %s with %d tokens in the queue",
		waited.Round(time.Microsecond), ahead)
}

// ContextError is the status of what was not done when ctx ended, this long after the call began: the ctx's cause where it is a
// *status.Error, else status.Timeout or status.Cancelled.
func ContextError(ctx context.Context, after time.Duration) *status.Error {
	after = after.Round(time.Microsecond)
	var cause *status.Error
	switch {
	case errors.As(context.Cause(ctx), &cause):
		return cause
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return status.Errorf(status.Timeout, "not done when the call's timeout passed after %s", after)
	}
	return status.Errorf(status.Cancelled, "the call was cancelled after %s", after)
}

// leave takes the call out of all queues. When it returns, nothing touches the caller's memory any more.
func (p *Pipeline) leave(c *call) {
	c.use.Lock()
	c.gone = true
	c.use.Unlock()

	p.mu.Lock()
	defer p.mu.Unlock()
	c.left = true
	if c.inHeap {
		c.class.ready.drop(c)
	}
	if c.inRing {
		p.unprepared.drop(c)
		p.wakeRunner() // a slot may be waiting for items of this call
	}
	p.readyTokens -= c.readyTokens
	c.readyTokens = 0
	p.admitted -= len(c.items)
	delete(p.calls, c)
	p.updateQueueGauges()
	p.leftCond.Broadcast()
}

// settle ends the items that are not done with cause and sums up the call. The call has left.
func (c *call) settle(cause *status.Error, start time.Time) (Stats, error) {
	s := Stats{
		Total:   time.Since(start),
		Prepare: time.Duration(c.prepareNs.Load()),
		Tokens:  int(c.tokens.Load()),
		Runs:    int(c.runs.Load()),
	}
	if ran := c.started.Load(); ran > 0 {
		s.Queue = time.Duration(c.queueNs.Load() / ran)
		s.Inference = time.Duration(c.runNs.Load() / ran)
	}
	if cause != nil && c.pending.Load() == int64(len(c.items)) {
		return s, cause
	}
	for i := range c.items {
		if !c.items[i].done {
			c.work.Fail(i, cause)
		}
	}
	return s, nil
}
