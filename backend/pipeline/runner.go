package pipeline

import (
	"context"
	"math/bits"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// pick is an item that was chosen for a run.
type pick struct {
	c *call
	i int32
}

// runner is the worker of one slot: it forms a run, runs it and hands the results out, again and again. That of a fallback engine runs
// what it is given.
type runner struct {
	p     *Pipeline
	index int
	slot  engine.Slot
	info  *engine.Info  // of the slot's engine
	cause *status.Error // why its one item is run again, on a fallback engine; nil: it is none
	use   sync.Mutex    // held by who uses slot: a run with its retries, or UseSlot
	wake  *sync.Cond    // on p.mu: ends the wait of take; by who has taken r out of Pipeline.idle, or at the end
	picks []pick
	sizes []int // of the runs that execute makes of picks, the next one's last
	// staged[k] tells whether pick k of the current run is in the slot's batch: callers who have left are not.
	staged []bool
	wait   *time.Timer // wakes take when the bounded wait is over
	// borrowed tells that a call executes the run itself: the run's items are all its own. Guarded by Pipeline.mu.
	borrowed bool
}

func newRunner(p *Pipeline, index int, slot engine.Slot) *runner {
	r := &runner{p: p, index: index, slot: slot, info: &p.info, wake: sync.NewCond(&p.mu), picks: make([]pick, 0, p.info.Limits.MaxSequences)}
	r.wait = time.AfterFunc(time.Hour, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if k := slices.Index(p.idle, r); k >= 0 {
			p.idle = slices.Delete(p.idle, k, k+1)
			r.wake.Signal()
		}
	})
	return r
}

func (r *runner) loop() {
	defer r.p.workers.Done()
	defer r.wait.Stop()
	for r.take() {
		r.use.Lock()
		r.execute()
		r.use.Unlock()
	}
}

// take waits for work and picks the items of the next run; false when the pipeline has stopped.
func (r *runner) take() bool {
	p := r.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for !p.stopped && (p.readyTokens == 0 || r.waitForMore()) {
		p.idle = append(p.idle, r)
		r.wake.Wait()
	}
	if p.stopped {
		return false
	}
	r.pick()
	return true
}

// pick picks the items of the next run, and calls another runner where it leaves something. The caller holds p.mu.
func (r *runner) pick() {
	p := r.p
	r.picks = p.pickRun(r.picks[:0])
	if p.readyTokens > 0 {
		p.wakeRunner()
	}
	p.updateQueueGauges()
}

// wakeRunner has an idle runner look for work, the one that has waited longest. The caller holds p.mu.
func (p *Pipeline) wakeRunner() {
	if len(p.idle) > 0 {
		r := p.idle[0]
		p.idle = slices.Delete(p.idle, 0, 1)
		r.wake.Signal()
	}
}

// borrow takes an idle runner, whose goroutine sleeps on meanwhile, for a call that executes its run itself; nil where there is none
// whose slot is free. executeBorrowed must follow. The caller holds p.mu.
func (p *Pipeline) borrow() *runner {
	for k, r := range p.idle {
		if r.use.TryLock() {
			p.idle = slices.Delete(p.idle, k, k+1)
			p.workers.Add(1)
			r.borrowed = true
			return r
		}
	}
	return nil
}

// executeBorrowed executes the run and gives the runner back.
func (r *runner) executeBorrowed() {
	defer r.giveBack()
	r.execute()
}

func (r *runner) giveBack() {
	p := r.p
	defer p.workers.Done()
	r.use.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	r.borrowed = false
	switch {
	case p.stopped: // its goroutine has ended, or is about to
	case p.readyTokens > 0:
		r.wake.Signal()
	default:
		p.idle = append(p.idle, r)
	}
}

// waitForMore reports that a fuller run is worth waiting for: items are being prepared, and the bounded wait is not over.
// The caller holds p.mu.
func (r *runner) waitForMore() bool {
	p := r.p
	if p.readyTokens >= p.info.Limits.BestTokens || (p.preparing == 0 && p.unprepared.empty()) {
		return false
	}
	if _, c := p.nextCall(nil); c.alone && int64(len(c.ready)-c.readyHead) == c.pending.Load() {
		return false // nothing that is being prepared can join it
	}
	left := p.config.MaxWait - time.Since(p.readySince)
	if left > 0 {
		r.wait.Reset(left)
	}
	return left > 0
}

// nextCall is the call whose first ready item is to be looked at, with its class; nil where there is none for a run that has picks.
func (p *Pipeline) nextCall(picks []pick) (*class, *call) {
	if len(picks) > 0 && picks[0].c.alone {
		c := picks[0].c
		if !c.inHeap {
			return nil, nil
		}
		return c.class, c
	}
	k := p.nextClass()
	if k == nil {
		return nil, nil
	}
	return k, k.ready[0]
}

// pickRun moves items from the ready queues into a run. Classes, and the calls of a class, are served by least finish tag; a
// call whose next item does not fit is passed over for a few others, so that a long item does not leave the run half empty. The
// caller holds p.mu.
func (p *Pipeline) pickRun(picks []pick) []pick {
	limits := p.info.Limits
	tokens, longest := 0, 0
	var passed []*call
	for len(picks) < limits.MaxSequences && len(passed) < maxPassed {
		k, c := p.nextCall(picks)
		if c == nil {
			break
		}
		n, isNext := c.headTokens(), c == k.ready[0]
		cost := tokens + n
		if limits.Padded {
			cost = max(longest, n) * (len(picks) + 1)
		}
		if len(picks) > 0 && (cost > limits.BestTokens || !picks[0].c.joins(c)) {
			k.ready.drop(c)
			passed = append(passed, c)
			continue
		}
		tokens, longest = tokens+n, max(longest, n)
		picks = append(picks, pick{c, c.ready[c.readyHead]})
		k.served, c.served = k.served+float64(n)/k.weight, c.finish
		if len(passed) == 0 && isNext {
			p.virtualNow, k.virtualNow = max(p.virtualNow, k.served), max(k.virtualNow, c.served)
		}
		c.readyHead++
		c.readyTokens -= n
		p.readyTokens -= n
		if c.readyHead == len(c.ready) {
			c.ready, c.readyHead = c.ready[:0], 0
			k.ready.drop(c)
		} else {
			c.tagHead()
			k.ready.fix(c)
		}
		p.requeueUnprepared(c)
	}
	for _, c := range passed {
		c.class.ready.add(c)
	}
	if p.readyTokens > 0 {
		p.readySince = time.Now()
	}
	return picks
}

// maxPassed bounds the calls that are looked at to fill up a run.
const maxPassed = 16

// execute runs the picks, halving a failed run again and again so that only the item that fails is told so. The caller holds use.
func (r *runner) execute() {
	// Each halving on the way to a culprit costs two runs. There is room for eight culprits: more would let a broken engine
	// multiply the load.
	retries := 8 * 2 * bits.Len(uint(len(r.picks)))
	r.sizes = append(r.sizes[:0], len(r.picks))
	for picks := r.picks; len(picks) > 0; {
		last := len(r.sizes) - 1
		n := r.sizes[last]
		r.sizes = r.sizes[:last]
		err, hung := r.run(picks[:n], picks[n:])
		if hung {
			break
		}
		if err != nil && r.halves(n, err) && retries >= 2 {
			retries -= 2
			r.p.metrics.isolationRuns.Add(2)
			r.p.log.Warn("run failed; halving it to find the item", zap.Int("slot", r.index), zap.Int("sequences", n), zap.Error(err))
			r.sizes = append(r.sizes, n-n/2, n/2)
			continue
		}
		if err != nil {
			r.failAll(picks[:n], err)
		}
		picks = picks[n:]
	}
	clear(r.picks)
}

// halves reports that smaller runs may tell who is to blame for a failed run of n picks.
func (r *runner) halves(n int, err *status.Error) bool {
	return n > 1 && err.Code != status.Unhealthy && err.Code != status.ShutDown && r.p.runContext.Err() == nil
}

// run stages picks, runs them and delivers. It returns the error of the run, with nobody told; items that ended otherwise
// are not part of it. hung tells that the run was given up before it came back: all of picks were told so, and what was behind
// them, waiting for their end, is no longer the runner's.
func (r *runner) run(picks, behind []pick) (err *status.Error, hung bool) {
	if r.stage(picks) == 0 {
		return nil, false
	}
	p := r.p
	start := time.Now()
	r.noteStart(picks, start)
	ctx, cancel := context.WithTimeout(p.runContext, p.config.RunTimeout)
	defer cancel()
	// Either the runner or the watchdog tells the items: the one that settles the run.
	var settled atomic.Bool
	watchdogDone := make(chan struct{})
	watchdog := time.AfterFunc(p.config.RunTimeout+watchdogGrace, func() {
		defer close(watchdogDone)
		if settled.CompareAndSwap(false, true) {
			r.giveUp(picks, behind, start)
		}
	})
	out, failed := r.callEngine(ctx)
	took := time.Since(start)
	watchdog.Stop()
	if !settled.CompareAndSwap(false, true) {
		<-watchdogDone
		r.comeBack(took)
		return nil, true
	}
	if failed != nil && ctx.Err() != nil && p.runContext.Err() == nil {
		failed = status.Errorf(status.Unhealthy, "the run was given up after %s: run_timeout_ms is %d",
			took.Round(time.Millisecond), p.config.RunTimeout.Milliseconds())
	}
	for k, pk := range picks {
		if r.staged[k] {
			pk.c.runNs.Add(int64(took))
		}
	}
	err = status.Of(failed, status.Inference)
	r.noteEnd(took, err)
	if err == nil {
		r.deliver(picks, out)
	}
	return err, false
}

// noteEnd counts a run. How a fallback engine does says nothing of the health of the main one.
func (r *runner) noteEnd(took time.Duration, failure *status.Error) {
	if r.cause != nil {
		return
	}
	r.p.mu.Lock()
	r.p.lastFailure = failure
	r.p.mu.Unlock()
	r.p.metrics.observeRun(r.slot.Batch(), r.p.info.Limits, took, failure)
}

// giveUp counts the slot as hung and fails the run's items. Those behind them go to other slots. It runs on the watchdog's goroutine.
func (r *runner) giveUp(picks, behind []pick, start time.Time) {
	p := r.p
	if r.cause != nil {
		p.reruns.giveUp(r, picks, time.Since(start))
		return
	}
	p.mu.Lock()
	p.hung++
	p.hungSince = time.Now()
	err, borrowed := p.hungError(), r.borrowed
	p.mu.Unlock()
	p.metrics.runs.WithLabelValues(err.Code.String()).Inc()
	p.log.Error("slot hung", zap.Int("slot", r.index), zap.Duration("after", time.Since(start)))
	r.failAll(picks, err)
	if borrowed { // what is behind is the caller's own, who waits for the slot
		r.failAll(behind, err)
		behind = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, pk := range behind {
		p.addReady(pk.c, []int32{pk.i})
	}
	p.wakeRunner()
	if borrowed && picks[0].c.pending.Load() == 0 {
		delete(p.calls, picks[0].c) // it cannot leave before its run comes back, for which Close does not wait here
		p.leftCond.Broadcast()
	}
	if p.hung == len(p.eng.Slots()) {
		// No slot is left to serve those who wait, and new calls are refused.
		for c := range p.calls {
			c.abort(err)
		}
	}
}

// comeBack ends what giveUp began.
func (r *runner) comeBack(after time.Duration) {
	r.p.log.Warn("hung slot came back", zap.Int("slot", r.index), zap.Duration("after", after))
	if r.cause != nil {
		return // reruns takes items in again
	}
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	r.p.hung--
}

// watchdogGrace is how much longer than RunTimeout an engine has to come back before its slot counts as hung.
const watchdogGrace = 100 * time.Millisecond

// callEngine calls the slot's Run and checks what it gives. A panic is an error.
func (r *runner) callEngine(ctx context.Context) (out engine.Output, err error) {
	if r.cause == nil {
		r.p.metrics.slotsBusy.Inc()
		defer r.p.metrics.slotsBusy.Dec()
	}
	defer func() {
		if v := recover(); v != nil {
			r.p.log.Error("panic in the engine", zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
			err = status.Errorf(status.Internal, "panic in the engine: %v", v)
		}
	}()
	if out, err = r.slot.Run(ctx); err != nil {
		return out, err
	}
	return out, r.checkOutput(out)
}

// checkOutput checks that the engine gave what the batch asked for: rows are cut out of it later.
func (r *runner) checkOutput(out engine.Output) error {
	b, info := r.slot.Batch(), r.info
	for _, o := range [...]struct {
		bit         engine.Outputs
		name        string
		rows, width int
		got         int
	}{
		{engine.Pooled, "pooled rows", b.Sequences(), info.PooledWidth, len(out.Pooled)},
		{engine.TokenVectors, "token vectors", b.Tokens(), info.TokenWidth, len(out.TokenVectors)},
		{engine.Sparse, "sparse rows", b.Sequences(), info.SparseWidth, len(out.Sparse)},
	} {
		if b.Outputs&o.bit != 0 && o.got != o.rows*o.width {
			return status.Errorf(status.Internal, "engine %q gave %d numbers for %d x %d %s", info.Name, o.got, o.rows, o.width, o.name)
		}
	}
	return nil
}

// stage packs the sequences of picks into the slot's batch and returns their number.
func (r *runner) stage(picks []pick) (count int) {
	b := r.slot.Batch()
	b.Reset()
	r.staged = r.staged[:0]
	for _, pk := range picks {
		in := false
		if pk.c.touch() {
			if it := &pk.c.items[pk.i]; !it.done {
				it.sequence.appendTo(b)
				in = true
				count++
			}
			pk.c.release()
		}
		r.staged = append(r.staged, in)
	}
	return count
}

// appendTo packs the sequence's rows behind b's.
func (s *Sequence) appendTo(b *engine.Batch) {
	n := len(s.IDs)
	first := len(b.InputIDs)
	b.InputIDs = b.InputIDs[:first+n]
	b.TypeIDs = b.TypeIDs[:first+n]
	b.PositionIDs = b.PositionIDs[:first+n]
	copyRows(b.InputIDs[first:], s.IDs)
	if s.TypeIDs != nil {
		copyRows(b.TypeIDs[first:], s.TypeIDs)
	} else {
		clear(b.TypeIDs[first:])
	}
	if s.PositionIDs != nil {
		copyRows(b.PositionIDs[first:], s.PositionIDs)
	} else {
		s.countPositions(b.PositionIDs[first:])
	}
	b.EndSequence(s.Outputs, int(s.PoolSkip))
}

func (s *Sequence) countPositions(dst []int32) {
	next := int32(s.FirstPosition)
	padding := next - 1 // -1: none
	for k, id := range s.IDs {
		if dst[k] = padding; int32(id) != padding {
			dst[k] = next
			next++
		}
	}
}

func copyRows(dst []int32, src []uint32) {
	for i, v := range src {
		dst[i] = int32(v)
	}
}

// noteStart counts the start of a run in the calls that are part of it.
func (r *runner) noteStart(picks []pick, start time.Time) {
	p := r.p
	p.mu.Lock()
	p.runs++
	for k, pk := range picks {
		if r.staged[k] && pk.c.lastRun != p.runs {
			pk.c.lastRun = p.runs
			pk.c.runs.Add(1)
		}
	}
	p.mu.Unlock()
	for k, pk := range picks {
		if !r.staged[k] {
			continue
		}
		if it := &pk.c.items[pk.i]; !it.started {
			it.started = true
			queued := start.Sub(it.readyAt)
			p.metrics.queueSeconds.Observe(queued.Seconds())
			pk.c.started.Add(1)
			pk.c.queueNs.Add(int64(queued))
		}
	}
}
