// Package pipeline carries sequences from callers to an engine's slots:
//
//	callers -> prepare workers (tokenizing) -> ready queue -> runs under a token budget -> slots -> callers
//
// A run is formed only when a slot is free, so that it takes the latest arrivals. Priorities share the engine, and the calls of
// one priority their share, by self-clocked fair queueing over tokens (Golestani 1994): a short call overtakes a long one's
// backlog, and nobody starves, not even below an endless stream of new short calls.
//
// # Caveats
//
// The memory of a call (its texts, token rows and output buffers) belongs to the caller, who may leave at any time. Whatever touches
// it holds the call's read lock and has seen that the call is not left; leaving takes the write lock.
package pipeline

import (
	"context"
	"runtime/debug"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Config sizes a pipeline. All fields must be set but Fallback.
type Config struct {
	PrepareWorkers int           // goroutines that prepare sequences
	MaxItems       int           // items admitted and not yet done, over all calls
	MaxWait        time.Duration // longest wait of a ready item for others that are being prepared, while a slot is free
	RunTimeout     time.Duration // a run that takes longer is given up, and its slot counts as hung until it returns
	Fallback       Fallback      // nil: items whose outputs are not finite fail
}

// Pipeline schedules calls onto the slots of one engine. Its methods may be called from any goroutine.
type Pipeline struct {
	eng     engine.Engine
	info    engine.Info
	config  Config
	metrics *Metrics
	log     *zap.Logger
	// closeGrace is how long Close waits for a run that was told to stop.
	closeGrace time.Duration

	runContext context.Context // ends when runs must stop: the last stage of Close
	stopRuns   context.CancelFunc
	workers    sync.WaitGroup
	rerunning  sync.WaitGroup // of reruns
	runners    []*runner      // of the slots, in their order
	reruns     *reruns        // nil without Config.Fallback

	mu          sync.Mutex // guards what follows, and the scheduling fields of calls
	idle        []*runner  // those that wait for work; each is taken out by who wakes it, or runs a call in its place
	prepareCond *sync.Cond // a call has items to prepare, or closing
	leftCond    *sync.Cond // a call left
	classes     [3]class   // low, normal, high
	unprepared  callRing   // calls with items to prepare, in turn
	readyTokens int        // of all ready items
	readySince  time.Time  // since when items are ready, or since the last run was formed
	preparing   int        // prepare workers at work
	admitted    int        // items of calls that have not left
	calls       map[*call]struct{}
	virtualNow  float64 // finish tag among classes of the item served last; newly ready classes begin here
	callCount   uint64  // calls taken in so far
	hung        int     // slots whose run timed out and has not returned
	hungSince   time.Time
	lastFailure *status.Error // of the last run; nil after a success
	closing     bool          // no new calls
	stopped     bool          // workers end
	runs        uint64        // number of runs started
}

// New starts the workers of a pipeline over eng's slots. Close ends them; the engine stays the caller's.
func New(eng engine.Engine, config Config, metrics *Metrics, log *zap.Logger) *Pipeline {
	p := &Pipeline{eng: eng, info: eng.Info(), config: config, metrics: metrics, log: log,
		closeGrace: defaultCloseGrace, calls: map[*call]struct{}{}, classes: [3]class{{weight: 1}, {weight: 4}, {weight: 16}}}
	p.runContext, p.stopRuns = context.WithCancel(context.Background())
	p.prepareCond, p.leftCond = sync.NewCond(&p.mu), sync.NewCond(&p.mu)
	slots := eng.Slots()
	p.workers.Add(len(slots) + config.PrepareWorkers)
	for i, slot := range slots {
		r := newRunner(p, i, slot)
		p.runners = append(p.runners, r)
		go r.loop()
	}
	for range config.PrepareWorkers {
		go p.prepareLoop()
	}
	if config.Fallback != nil {
		p.reruns = newReruns(p, config.Fallback)
		p.rerunning.Go(p.reruns.loop)
	}
	return p
}

// Health reports hung slots, and an engine that is lost or whose last run failed as unhealthy. It is cheap.
func (p *Pipeline) Health() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing {
		return status.Errorf(status.ShutDown, "the backend is shut down")
	}
	if p.hung > 0 {
		return p.hungError()
	}
	if p.lastFailure != nil && p.lastFailure.Code == status.Unhealthy {
		return p.lastFailure
	}
	return p.eng.Health()
}

func (p *Pipeline) hungError() *status.Error {
	return status.Errorf(status.Unhealthy, "%d of %d slots hung: a run has not returned after %s (run_timeout_ms is %d)",
		p.hung, len(p.eng.Slots()), (p.config.RunTimeout + time.Since(p.hungSince)).Round(time.Millisecond), p.config.RunTimeout.Milliseconds())
}

// Close refuses new calls, lets calls under way finish until ctx ends, and fails the rest with status.ShutDown. It reports
// whether all calls had finished (nil), some were cut off (status.Timeout), or a slot never came back from its run
// (status.Unhealthy): only then goroutines are left behind, and the engine must not be closed.
func (p *Pipeline) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closing = true
	stopWaiting := context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.leftCond.Broadcast()
	})
	for len(p.calls) > 0 && ctx.Err() == nil {
		p.leftCond.Wait()
	}
	stopWaiting()
	cut := len(p.calls)
	for c := range p.calls {
		c.abort(status.Errorf(status.ShutDown, "the backend was shut down while the call waited"))
	}
	p.stopped = true
	p.idle = nil // nobody runs a call in their place any more
	for _, r := range p.runners {
		r.wake.Signal()
	}
	p.prepareCond.Broadcast()
	grace := p.closeGrace // of reruns
	if p.reruns != nil {
		p.reruns.cond.Broadcast()
		if p.reruns.opening { // which ends by itself: weights are read and converted in one go
			grace = openingGrace
		}
	}
	p.mu.Unlock()

	p.stopRuns()
	if !returned(&p.workers, p.closeGrace) || !returned(&p.rerunning, grace) {
		return status.Errorf(status.Unhealthy, "a run has not returned %s after it was told to stop; its slot is abandoned", p.closeGrace)
	}
	if cut > 0 {
		return status.Errorf(status.Timeout, "%d calls were cut off by the shutdown", cut)
	}
	return nil
}

// returned reports that the group's goroutines have ended within a time.
func returned(group *sync.WaitGroup, within time.Duration) bool {
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(within):
		return false
	}
}

const (
	defaultCloseGrace = 5 * time.Second
	openingGrace      = 2 * time.Minute
)

// UseSlot gives f the engine's slot i for itself: it waits for the run under way there, and later runs wait for f. Close waits for f as
// for a run. It is for measuring the bare engine.
func (p *Pipeline) UseSlot(i int, f func(engine.Slot) error) error {
	if i < 0 || i >= len(p.runners) {
		return status.Errorf(status.InvalidArgument, "slot %d: the engine has slots 0 to %d", i, len(p.runners)-1)
	}
	p.mu.Lock()
	if p.closing {
		p.mu.Unlock()
		return status.Errorf(status.ShutDown, "the backend is shut down")
	}
	p.workers.Add(1)
	p.mu.Unlock()
	defer p.workers.Done()
	r := p.runners[i]
	r.use.Lock()
	defer r.use.Unlock()
	return f(r.slot)
}

// prepareLoop is a prepare worker: it takes calls in turn, a few items each, so that a huge call does not hold back others.
func (p *Pipeline) prepareLoop() {
	defer p.workers.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for p.unprepared.empty() && !p.stopped {
			p.prepareCond.Wait()
		}
		if p.stopped {
			return
		}
		c := p.unprepared.pop()
		first := c.nextUnprepared
		last := min(first+prepareChunk, len(c.items))
		c.nextUnprepared = last
		p.requeueUnprepared(c)
		p.preparing++
		p.mu.Unlock()
		prepared := p.prepareItems(c, first, last)
		p.mu.Lock()
		p.preparing--
		p.addReady(c, prepared)
		// Also when none is ready: a slot may be waiting for these. One slot: it calls the next, where it leaves something.
		p.wakeRunner()
	}
}

// prepareChunk items of a call are prepared together: enough to make a run of short texts, few enough to take turns.
const prepareChunk = 8

// prepareItems prepares items [first, last) of c and returns the indices of those that are ready to run.
func (p *Pipeline) prepareItems(c *call, first, last int) []int32 {
	ready := make([]int32, 0, prepareChunk)
	for i := first; i < last; i++ {
		if !c.touch() {
			return nil
		}
		start := time.Now()
		if p.prepareItem(c, i) {
			ready = append(ready, int32(i))
		}
		c.release()
		took := time.Since(start)
		c.notePrepare(took)
		p.metrics.prepareSeconds.Observe(took.Seconds())
	}
	return ready
}

// prepareItem prepares item i of c and reports that it must be run: it has not failed, and has tokens. The caller holds the
// call's use.
func (p *Pipeline) prepareItem(c *call, i int) bool {
	it := &c.items[i]
	if err := p.callPrepare(c, i, &it.sequence); err != nil {
		c.fail(i, err)
		return false
	}
	if n, limit := len(it.sequence.IDs), p.info.Limits.MaxLength; n > limit {
		c.fail(i, status.Errorf(status.TooLong, "the item has %d tokens, the limit is %d (max_length)", n, limit))
		return false
	}
	if len(it.sequence.IDs) == 0 {
		if err := p.handOut(c, i, Rows{}); err != nil {
			c.fail(i, err)
		}
		return false
	}
	return true
}

func (p *Pipeline) callPrepare(c *call, i int, s *Sequence) (failure *status.Error) {
	defer func() {
		if r := recover(); r != nil {
			p.log.Error("panic while preparing an item", zap.Any("panic", r), zap.ByteString("stack", debug.Stack()))
			failure = status.Errorf(status.Internal, "panic while preparing the item: %v", r)
		}
	}()
	return status.Of(c.work.Prepare(i, s), status.Tokenization)
}

// addReady queues prepared items of c for runs. The caller holds p.mu.
func (p *Pipeline) addReady(c *call, items []int32) {
	if c.left || len(items) == 0 {
		return
	}
	now := time.Now()
	if p.readyTokens == 0 {
		p.readySince = now
	}
	for _, i := range items {
		it := &c.items[i]
		it.readyAt = now
		c.readyTokens += len(it.sequence.IDs)
		p.readyTokens += len(it.sequence.IDs)
	}
	c.ready = append(c.ready, items...)
	if !c.inHeap {
		c.class.add(c, p.virtualNow)
	}
	p.updateQueueGauges()
}

// aheadTokens is how far a call is prepared ahead of the slots: enough to keep them fed, little enough that a call of any
// size needs bounded memory.
func (p *Pipeline) aheadTokens() int { return 4 * p.info.Limits.BestTokens * len(p.eng.Slots()) }

// requeueUnprepared puts c back in turn when it has more items to prepare and is not far ahead. The caller holds p.mu.
func (p *Pipeline) requeueUnprepared(c *call) {
	if !c.left && !c.inRing && c.nextUnprepared < len(c.items) && c.readyTokens < p.aheadTokens() {
		p.unprepared.push(c)
		p.prepareCond.Signal()
	}
}

func (p *Pipeline) updateQueueGauges() {
	p.metrics.queueTokens.Set(float64(p.readyTokens))
	p.metrics.admittedItems.Set(float64(p.admitted))
}
