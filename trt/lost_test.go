package trt

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// until runs batches on a slot until some launch fails on the device: workers take turns.
func (f *fake) until(t *testing.T, e *Engine, device int) {
	random := newRandom(11)
	for lost := func() bool { return len(f.logged(e.deviceName(device)+" is lost")) > 0 }; !lost(); {
		require.NoError(t, f.check(e, e.slots[0], f.batch(random, e.info.Limits)))
	}
}

func (e *Engine) deviceName(i int) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.replicas[i].name()
}

func requireUnhealthy(t *testing.T, e *Engine, texts ...string) {
	t.Helper()
	err := e.Health()
	require.Equal(t, status.Unhealthy, status.CodeOf(err), err)
	for _, text := range texts {
		require.ErrorContains(t, err, text)
	}
}

// holdRebuilds makes each rebuild wait for what it meets: nil, or an error.
func (f *fake) holdRebuilds() chan error {
	outcome := make(chan error)
	f.script = func(c call) error {
		if c.op == "load" && c.number > 1 {
			return <-outcome
		}
		return nil
	}
	return outcome
}

// TestLostDevice: a device that is lost at any call of a run costs no answer; it is rebuilt once, and a second loss is final.
func TestLostDevice(t *testing.T) {
	for _, op := range []string{"enqueue", "wait", "stage"} {
		t.Run(op, func(t *testing.T) {
			f := newFake(t, 2)
			var armed atomic.Bool
			rebuild := make(chan error)
			f.script = func(c call) error {
				if c.device == 1 && c.op == "load" && c.number > 1 {
					return <-rebuild
				}
				if c.device == 1 && c.op == op && armed.Swap(false) {
					f.kill(1)
					return errLost
				}
				return nil
			}
			e := f.engine(f.options())
			require.NoError(t, e.Health())
			armed.Store(true)
			f.until(t, e, 1)
			requireUnhealthy(t, e, "1 of 2 replicas serve: cuda:1 (Fake B) is being rebuilt: running the engine: an illegal memory access")
			batch := f.sequences(newRandom(13), 3, 40)
			require.NoError(t, f.check(e, e.slots[0], batch))

			rebuild <- nil
			require.Eventually(t, func() bool { return e.Health() == nil }, 10*time.Second, time.Millisecond)
			require.Len(t, f.logged("cuda:1 (Fake B) was rebuilt and serves again"), 1)
			launches := f.count("enqueue", 1)
			for range e.slots {
				require.NoError(t, f.check(e, e.slots[0], batch))
			}
			require.Greater(t, f.count("enqueue", 1), launches, "a rebuilt device serves")

			f.kill(1)
			for range 2 * len(e.slots) {
				require.NoError(t, f.check(e, e.slots[0], batch))
			}
			requireUnhealthy(t, e, "1 of 2 replicas serve: cuda:1 (Fake B) is lost: running the engine")
			require.Equal(t, 2, f.count("load", 1), "the first load and one rebuild")
			require.Len(t, f.logged("cuda:1 (Fake B) is lost"), 2)
			require.Eventually(t, func() bool { return f.memory(1) == 0 }, 10*time.Second, time.Millisecond, "a device that is given up is freed")
		})
	}
}

// TestRunsOfALostDevice: all runs that are on a device when it is lost are repeated on the other one, and it is told once. The logger may
// ask for the health.
func TestRunsOfALostDevice(t *testing.T) {
	f := newFake(t, 2)
	var armed atomic.Bool
	var there sync.WaitGroup
	f.script = func(c call) error {
		if c.op == "wait" && c.device == 0 && armed.Load() {
			there.Done()
			there.Wait()
			return errLost
		}
		if c.op == "load" && c.number > 1 {
			armed.Store(false)
		}
		return nil
	}
	var e *Engine
	o := f.options()
	logger := o.Logger
	o.Logger = func(s nvinfer.Severity, message string) {
		logger(s, message)
		if e != nil {
			_ = e.Health() // what matters is that it returns
		}
	}
	e = f.engine(o)
	there.Add(2)
	armed.Store(true)
	var runs sync.WaitGroup
	for k, s := range e.slots {
		runs.Go(func() {
			if err := f.check(e, s, f.sequences(newRandom(k), 5, 9)); err != nil {
				t.Error(err)
			}
		})
	}
	runs.Wait()
	require.Eventually(t, func() bool { return e.Health() == nil }, 10*time.Second, time.Millisecond)
	require.Len(t, f.logged("cuda:0 (Fake A) is lost"), 1)
	require.Equal(t, 2, f.count("load", 0))
}

// memory returns the bytes that are taken on a device.
func (f *fake) memory(device int) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used[device]
}

// TestRebuildThatFails: the last device's loss ends waiting runs with an error that names all devices. Runs that lost two wait no longer.
func TestRebuildThatFails(t *testing.T) {
	f := newFake(t, 2)
	rebuild := f.holdRebuilds()
	e := f.engine(f.options())
	f.kill(0)
	f.kill(1)
	errs := make(chan error)
	for _, s := range e.slots {
		go func() { errs <- f.check(e, s, f.sequences(newRandom(1), 7)) }()
	}
	for range 2 {
		rebuild <- status.Errorf(status.Start, "the GPU has fallen off the bus")
	}
	for range e.slots {
		err := <-errs
		require.Equal(t, status.Unhealthy, status.CodeOf(err), err)
		require.ErrorContains(t, err, "replicas serve: cuda:0 (Fake A) is ") // being rebuilt, for one that had two devices; else lost
	}
	require.Eventually(t, func() bool { return len(f.logged("could not be rebuilt")) == 2 }, 10*time.Second, time.Millisecond)
	require.ErrorContains(t, e.Health(), "0 of 2 replicas serve: cuda:0 (Fake A) is lost: running the engine")
	require.ErrorContains(t, e.Health(), "rebuilding it failed: the GPU has fallen off the bus\ncuda:1 (Fake B) is lost")
	require.Equal(t, status.Unhealthy, status.CodeOf(f.check(e, e.slots[0], f.lengths(1, 1))))
	requireUnhealthy(t, e, "0 of 2")
}

// TestPlanOfARebuild: a plan that the cache has, and that is as large as the weights, is not kept for a rebuild that may never come. A
// rebuild builds none.
func TestPlanOfARebuild(t *testing.T) {
	folder := t.TempDir()
	lose := func(cache string, between func()) error {
		f := newFake(t, 1)
		o := f.options()
		o.Cache = cache
		e := f.engine(o)
		between()
		f.kill(0)
		err := f.check(e, e.slots[0], f.sequences(newRandom(1), 7))
		require.LessOrEqual(t, f.count("build", 0), 1)
		return err
	}
	require.NoError(t, lose("off", func() {}))
	require.NoError(t, lose(folder, func() {}))
	err := lose(folder, func() {
		for _, name := range names(t, folder, planSuffix) {
			require.NoError(t, os.Remove(filepath.Join(folder, name)))
		}
	})
	require.Equal(t, status.Unhealthy, status.CodeOf(err))
	require.ErrorContains(t, err, "rebuilding it failed: its plan is not in "+folder+" any more")
}

// TestSecondLossOfTheLastDevice ends the runs that wait for it.
func TestSecondLossOfTheLastDevice(t *testing.T) {
	f := newFake(t, 1)
	e := f.engine(f.options())
	batch := f.sequences(newRandom(2), 7, 30)
	f.kill(0)
	require.NoError(t, f.check(e, e.slots[0], batch))
	f.kill(0)
	var runs sync.WaitGroup
	for _, s := range e.slots {
		runs.Go(func() {
			if err := f.check(e, s, batch); status.CodeOf(err) != status.Unhealthy {
				t.Error(err)
			}
		})
	}
	runs.Wait()
	requireUnhealthy(t, e, "0 of 1 replicas serve: cuda:0 (Fake A) is lost")
}

// TestWaitForARebuild: runs that have no device left wait for it, and leave when their context ends.
func TestWaitForARebuild(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		rebuild := f.holdRebuilds()
		e := f.engine(f.options())
		f.kill(0)
		batch := f.sequences(newRandom(1), 7, 30)
		answered := make(chan error)
		go func() { answered <- f.check(e, e.slots[0], batch) }()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := suite.Compute(ctx, e.slots[1], e.info, batch, engine.Pooled)
		require.Equal(t, status.Cancelled, status.CodeOf(err))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		requireUnhealthy(t, e, "0 of 1 replicas serve: cuda:0 (Fake A) is being rebuilt")
		rebuild <- nil
		require.NoError(t, <-answered)
		require.NoError(t, e.Health())
	})
}

// TestCancelledAndLost: a run whose caller left while a device was lost does not say that the engine is.
func TestCancelledAndLost(t *testing.T) {
	f := newFake(t, 2)
	ctx, cancel := context.WithCancel(t.Context())
	var armed atomic.Bool
	f.script = func(c call) error {
		if c.op == "wait" && armed.Swap(false) {
			cancel()
			return errLost
		}
		return nil
	}
	e := f.engine(f.options())
	armed.Store(true)
	_, err := suite.Compute(ctx, e.slots[0], e.info, f.lengths(1, 5), engine.Pooled)
	require.Equal(t, status.Cancelled, status.CodeOf(err), err)
	require.Eventually(t, func() bool { return e.Health() == nil }, 10*time.Second, time.Millisecond)
}

// idle is a queue of an engine's slots.
func idle(e *Engine) chan engine.Slot {
	slots := make(chan engine.Slot, len(e.slots))
	for _, s := range e.slots {
		slots <- s
	}
	return slots
}

// crowd runs 64 callers on the slots of an engine until each has had so many answers, each of which it checks.
func (f *fake) crowd(t *testing.T, e *Engine, answers int, each func(done int64)) {
	slots := idle(e)
	var callers sync.WaitGroup
	var done atomic.Int64
	for n := range 64 {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(15, uint64(n)))
			for range answers {
				batch := f.batch(random, e.info.Limits)
				s := <-slots
				err := f.check(e, s, batch)
				slots <- s
				if err != nil {
					t.Errorf("caller %d: %v", n, err)
					return
				}
				each(done.Add(1))
			}
		})
	}
	callers.Wait()
	require.Equal(t, int64(64*answers), done.Load())
}

func TestCrowdOnTwoReplicas(t *testing.T) {
	f := newFake(t, 2)
	e := f.engine(f.options())
	warm := [2]int{f.count("wait", 0), f.count("wait", 1)}
	f.crowd(t, e, 20, func(int64) {})
	runs := [2]int{f.count("wait", 0) - warm[0], f.count("wait", 1) - warm[1]}
	require.Greater(t, min(runs[0], runs[1]), 64, "both serve: %v", runs)
}

// TestCrowdWithLosses: both devices are lost, one after the other and the first of them again: everybody gets the right answers.
func TestCrowdWithLosses(t *testing.T) {
	f := newFake(t, 2)
	e := f.engine(f.options())
	var second atomic.Bool
	again := func() {
		if e.Health() == nil && second.CompareAndSwap(false, true) {
			f.kill(0)
		}
	}
	f.crowd(t, e, 60, func(done int64) {
		switch {
		case done == 200:
			f.kill(0)
		case done == 1000:
			f.kill(1)
		case done > 2000:
			again()
		}
	})
	require.Len(t, f.logged("was rebuilt"), 2)
	require.Len(t, f.logged("cuda:0 (Fake A) is lost"), 2)
	requireUnhealthy(t, e, "1 of 2 replicas serve: cuda:0 (Fake A) is lost")
}

// TestCrowdIsToldOfTheEnd: with the last device lost for good everybody gets an error, and nobody hangs.
func TestCrowdIsToldOfTheEnd(t *testing.T) {
	f := newFake(t, 2)
	f.script = func(c call) error {
		if c.op == "load" && c.number > 1 {
			return errLost
		}
		return nil
	}
	e := f.engine(f.options())
	slots := idle(e)
	var answers atomic.Int64
	var callers sync.WaitGroup
	for n := range 64 {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(17, uint64(n)))
			for {
				s := <-slots
				err := f.check(e, s, f.batch(random, e.info.Limits))
				slots <- s
				switch {
				case status.CodeOf(err) == status.Unhealthy:
					return
				case err != nil:
					t.Error(err)
					return
				}
				if answers.Add(1) == 300 {
					f.kill(0)
					f.kill(1)
				}
			}
		})
	}
	callers.Wait()
	requireUnhealthy(t, e, "0 of 2", "Fake A", "Fake B")
}
