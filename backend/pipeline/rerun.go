package pipeline

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Fallback opens the engine that runs items again whose outputs were not finite. It is called at the first such item; the pipeline closes
// the engine.
type Fallback func(ctx context.Context) (engine.Engine, error)

// rerun is an item to be run again.
type rerun struct {
	pick
	cause *status.Error // what Deliver said of its first outputs
}

// reruns runs items again on a fallback engine, one at a time, on a goroutine of its own: slots do not wait for it.
type reruns struct {
	p       *Pipeline
	open    Fallback
	engine  engine.Engine // nil until the first item; used by loop alone
	runner  *runner       // over its first slot
	failure *status.Error // why there is no engine

	// Guarded by Pipeline.mu.
	cond    *sync.Cond // there is an item, or the pipeline has stopped
	queue   []rerun
	hung    bool // the run under way was given up and has not returned: nothing is taken in
	opening bool // the engine is being opened
}

func newReruns(p *Pipeline, open Fallback) *reruns {
	return &reruns{p: p, open: open, cond: sync.NewCond(&p.mu)}
}

// add takes an item in; false: it has to fail. The caller holds the call's use.
func (q *reruns) add(pk pick, cause *status.Error) bool {
	q.p.mu.Lock()
	defer q.p.mu.Unlock()
	if q.p.stopped || q.hung {
		return false
	}
	q.queue = append(q.queue, rerun{pk, cause})
	q.cond.Signal()
	return true
}

func (q *reruns) loop() {
	defer q.close()
	for {
		item, ok := q.take()
		if !ok {
			return
		}
		q.run(item)
	}
}

// take waits for an item; false when the pipeline has stopped.
func (q *reruns) take() (rerun, bool) {
	q.p.mu.Lock()
	defer q.p.mu.Unlock()
	for len(q.queue) == 0 && !q.p.stopped {
		q.cond.Wait()
	}
	if q.p.stopped {
		return rerun{}, false
	}
	item := q.queue[0]
	q.queue[0] = rerun{}
	q.queue = q.queue[1:]
	q.opening = q.runner == nil && q.failure == nil
	return item, true
}

func (q *reruns) run(item rerun) {
	if q.runner == nil && q.failure == nil {
		q.failure = q.start()
	}
	picks := []pick{item.pick}
	failing := runner{p: q.p, cause: item.cause}
	if q.failure != nil {
		failing.failAll(picks, q.failure)
		return
	}
	n, limit := len(item.c.items[item.i].sequence.IDs), q.engine.Info().Limits.MaxLength
	if n > limit {
		failing.failAll(picks, status.Errorf(status.TooLong, "%d tokens are more than it takes, %d", n, limit))
		return
	}
	q.runner.cause = item.cause
	if err, _ := q.runner.run(picks, nil); err != nil {
		q.runner.failAll(picks, err)
	}
	q.p.mu.Lock()
	q.hung = false
	q.p.mu.Unlock()
}

// start opens the engine, once.
func (q *reruns) start() *status.Error {
	begun := time.Now()
	e, err := q.open(q.p.runContext)
	q.p.mu.Lock()
	q.opening = false
	q.p.mu.Unlock()
	if err != nil {
		q.p.log.Error("no engine to run items again whose outputs are not finite: they fail", zap.Error(err))
		return status.Of(err, status.Start)
	}
	i := e.Info()
	q.p.log.Warn("an output was not finite: such items are run again on another engine from now on", zap.String("engine", i.Name),
		zap.String("device", i.Device), zap.String("precision", i.Precision), zap.Duration("opened_in", time.Since(begun)))
	q.engine, q.runner = e, &runner{p: q.p, index: -1, slot: e.Slots()[0], info: &i}
	return nil
}

// giveUp fails the run under way and what waits behind it. It runs on the watchdog's goroutine.
func (q *reruns) giveUp(r *runner, picks []pick, after time.Duration) {
	err := status.Errorf(status.Unhealthy, "the run has not returned after %s (run_timeout_ms is %d)",
		after.Round(time.Millisecond), q.p.config.RunTimeout.Milliseconds())
	q.p.mu.Lock()
	q.hung = true
	waiting := q.queue
	q.queue = nil
	q.p.mu.Unlock()
	q.p.log.Error("a run again hung", zap.Duration("after", after))
	r.failAll(picks, err)
	for _, item := range waiting {
		(&runner{p: q.p, cause: item.cause}).failAll([]pick{item.pick}, err)
	}
}

func (q *reruns) close() {
	if q.engine == nil {
		return
	}
	if err := q.engine.Close(); err != nil {
		q.p.log.Error("closing the engine of items run again", zap.Error(err))
	}
}
