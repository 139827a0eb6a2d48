package trt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Engine implements engine.Engine: replicas of one plan behind one pool of workers. A slot borrows a worker for each run, so that work
// goes to whichever device is free, and none to one that is lost.
type Engine struct {
	info      engine.Info
	model     *arch.Model
	layout    layout
	positions int // position ids are below it
	slots     []engine.Slot
	log       func(message string)

	pool chan *worker // idle ones; room for all
	open func(ctx context.Context, index int) (*replica, error)

	mu       sync.Mutex // guards what follows
	replicas []*replica // a lost one stays in its place until it is rebuilt
	serving  int        // replicas that are not lost
	closed   bool       // no run and no rebuild begins any more

	broken chan struct{}   // closed when all replicas are lost for good
	life   context.Context // ends when Close begins
	end    context.CancelFunc
	// Runs, and those who free lost replicas and rebuild them: each is added under mu while closed is false, or by a run.
	runs, rebuilds sync.WaitGroup
	closing        sync.Once
	closeErr       error

	stats counters
}

var _ engine.Engine = (*Engine)(nil)

// setUp is what newEngine needs to know.
type setUp struct {
	info      engine.Info // but for limits that the replicas decide
	model     *arch.Model
	layout    layout
	positions int
	devices   int
	workers   int // of each replica
	open      func(ctx context.Context, index int) (*replica, error)
	log       func(message string)
}

// newEngine opens a replica on each device.
func newEngine(ctx context.Context, u setUp) (*Engine, error) {
	e := &Engine{info: u.info, model: u.model, layout: u.layout, positions: u.positions, open: u.open, log: u.log, broken: make(chan struct{})}
	e.life, e.end = context.WithCancel(context.Background())
	e.pool = make(chan *worker, u.devices*u.workers)
	for i := range u.devices {
		r, err := u.open(ctx, i)
		if err != nil {
			e.free()
			return nil, err
		}
		e.replicas = append(e.replicas, r)
	}
	e.serving = len(e.replicas)
	first := e.replicas[0]
	l := &e.info.Limits
	if l.BestTokens == 0 {
		l.BestTokens = first.shapes.bestTokens(l.MaxTokens)
	}
	l.BestTokens = min(l.BestTokens, l.MaxTokens)
	var names []string
	for _, r := range e.replicas {
		names = append(names, r.deviceName())
		e.info.DeviceUUIDs = append(e.info.DeviceUUIDs, r.device.UUID)
	}
	e.info.Device = strings.Join(names, ",")
	e.info.Outputs, e.info.TokenWidth = u.layout.outputs, u.layout.token
	if e.info.PooledWidth = u.layout.pooled; e.info.Outputs&engine.Sparse != 0 {
		e.info.PooledWidth, e.info.SparseWidth = 0, u.layout.pooled
	}
	maps.Copy(e.info.Details, map[string]string{
		"gpu": first.device.Name, "replicas": strconv.Itoa(len(e.replicas)), "runs_in_flight": strconv.Itoa(u.workers),
		"shapes":           strconv.Itoa(len(first.shapes.all)),
		"device_megabytes": fmt.Sprintf("%d weights, %d for each run in flight", first.weightsBytes>>20, first.runBytes(u.layout)>>20),
	})
	// Workers of different devices take turns.
	for k := range u.workers {
		for _, r := range e.replicas {
			e.pool <- r.workers[k]
		}
	}
	for range cap(e.pool) {
		e.slots = append(e.slots, newSlot(e))
	}
	return e, nil
}

// Info implements engine.Engine.
func (e *Engine) Info() engine.Info { return e.info }

// Slots implements engine.Engine.
func (e *Engine) Slots() []engine.Slot { return e.slots }

var errClosed = status.Errorf(status.ShutDown, "engine tensorrt is closed")

// begin counts a run, for which Close waits. The caller calls e.runs.Done.
func (e *Engine) begin() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	e.runs.Add(1)
	return nil
}

// acquire waits for an idle worker.
func (e *Engine) acquire(ctx context.Context) (*worker, error) {
	select {
	case w := <-e.pool:
		return w, nil
	default:
	}
	select {
	case w := <-e.pool:
		return w, nil
	case <-e.broken:
		return nil, e.Health()
	case <-e.life.Done(): // nobody is rebuilt any more
		return nil, errClosed
	case <-ctx.Done():
		return nil, status.Errorf(status.Cancelled, "waiting for a device: %w", context.Cause(ctx))
	}
}

// release gives a worker back after a run that ended with err. A lost device's go no more: once all of them are back it is rebuilt.
func (e *Engine) release(w *worker, err error) {
	r := w.replica
	if status.CodeOf(err) == status.Unhealthy && e.lose(r, err) {
		e.log(fmt.Sprintf("%s is lost: %v", r.name(), err))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.lost == nil {
		e.pool <- w
		return
	}
	r.idle++
	if r.idle == len(r.workers) {
		e.rebuilds.Go(func() { e.rebuild(r) })
	}
}

// lose takes a replica out of service. It returns whether that is news.
func (e *Engine) lose(r *replica, err error) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.lost != nil {
		return false
	}
	r.lost = err
	r.idle = e.drain(r)
	e.serving--
	e.giveUp()
	return true
}

// drain takes the idle workers of r out of the pool and returns their number. The caller holds mu.
func (e *Engine) drain(r *replica) int {
	n := 0
	for range len(e.pool) {
		select {
		case w := <-e.pool:
			if w.replica == r {
				n++
			} else {
				e.pool <- w
			}
		default:
		}
	}
	return n
}

// rebuild frees a lost replica, all of whose workers are idle, and opens it again, once.
func (e *Engine) rebuild(r *replica) {
	r.free()
	e.mu.Lock()
	index, final := slices.Index(e.replicas, r), r.rebuilt || e.closed
	e.mu.Unlock()
	if final {
		return
	}
	fresh, err := e.open(e.life, index)
	switch {
	case err == nil && e.serve(fresh, index):
		e.log(fresh.name() + " was rebuilt and serves again")
	case err == nil: // closed meanwhile
		fresh.free()
	case e.life.Err() == nil:
		e.mu.Lock()
		r.lost, r.rebuilt = errors.Join(r.lost, fmt.Errorf("rebuilding it failed: %w", err)), true
		e.giveUp()
		e.mu.Unlock()
		e.log(fmt.Sprintf("%s could not be rebuilt: %v", r.name(), err))
	}
}

// serve puts a rebuilt replica into its place; false: the engine is closed.
func (e *Engine) serve(fresh *replica, index int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	fresh.rebuilt = true
	e.replicas[index] = fresh
	e.serving++
	for _, w := range fresh.workers {
		e.pool <- w
	}
	return true
}

// giveUp tells waiting runs when no device will come back. The caller holds mu.
func (e *Engine) giveUp() {
	for _, r := range e.replicas {
		if r.lost == nil || !r.rebuilt {
			return
		}
	}
	select {
	case <-e.broken:
	default:
		close(e.broken)
	}
}

// Health implements engine.Engine. A lost replica is an error even while others serve: the device needs somebody's attention.
func (e *Engine) Health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	var troubles []error
	for _, r := range e.replicas {
		if r.lost != nil {
			state := "is being rebuilt"
			if r.rebuilt {
				state = "is lost"
			}
			troubles = append(troubles, fmt.Errorf("%s %s: %w", r.name(), state, r.lost))
		}
	}
	if troubles == nil {
		return nil
	}
	return status.Errorf(status.Unhealthy, "%d of %d replicas serve: %w", e.serving, len(e.replicas), errors.Join(troubles...))
}

// closeWait is how long Close waits for a rebuild to notice that it must end.
const closeWait = 30 * time.Second

// Close implements engine.Engine. It waits for runs in progress; those that wait for a device and later ones fail with ShutDown.
func (e *Engine) Close() error {
	e.closing.Do(func() { e.closeErr = e.shut() })
	return e.closeErr
}

func (e *Engine) shut() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.end()
	e.runs.Wait()
	done := make(chan struct{})
	go func() {
		e.rebuilds.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-time.After(closeWait):
		err = status.Errorf(status.Timeout, "the rebuild of a device has not ended in %s; its memory stays until it does", closeWait)
	}
	e.free()
	return err
}

// free frees the replicas that are not lost: who rebuilds the others has freed them.
func (e *Engine) free() {
	for _, r := range e.replicas {
		if r.lost == nil {
			r.free()
		}
	}
}
