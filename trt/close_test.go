package trt

import (
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// TestCloseDuringRuns: Close waits for a run that a device is at, whoever calls it; those that come later are refused.
func TestCloseDuringRuns(t *testing.T) {
	f := newFake(t, 1)
	var armed atomic.Bool
	running, finish := make(chan bool), make(chan bool)
	f.script = func(c call) error {
		if c.op == "wait" && armed.Swap(false) {
			running <- true
			<-finish
		}
		return nil
	}
	e, err := f.open(f.options())
	require.NoError(t, err)
	armed.Store(true)
	answered := make(chan error)
	go func() { answered <- f.check(e, e.slots[0], f.sequences(newRandom(1), 7)) }()
	<-running
	closed := make(chan error, 3)
	for range cap(closed) {
		go func() { closed <- e.Close() }()
	}
	<-e.life.Done()
	require.Equal(t, status.ShutDown, status.CodeOf(e.Health()))
	require.Equal(t, status.ShutDown, status.CodeOf(f.check(e, e.slots[1], f.lengths(1, 1))))
	require.Empty(t, closed)
	require.NotZero(t, f.memory(0))
	finish <- true
	require.NoError(t, <-answered)
	for range cap(closed) {
		require.NoError(t, <-closed)
	}
	require.Zero(t, f.memory(0))
}

// TestCloseDuringARebuild: the rebuild ends after the step that it is at, and all is freed.
func TestCloseDuringARebuild(t *testing.T) {
	for _, op := range []string{"load", "tensors", "memory", "lane", "needs", "reserve", "enqueue", "wait", "cache"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t, 1)
				f.kernels = []byte("kernels")
				var rebuilding, closing atomic.Bool
				var later atomic.Int64
				f.script = func(c call) error {
					if c.op == "load" && c.number > 1 {
						rebuilding.Store(true)
					}
					if closing.Load() && (c.op == "enqueue" || c.op == "needs") {
						later.Add(1)
					}
					if c.op == op && rebuilding.Swap(false) {
						time.Sleep(20 * time.Second) // no call of TensorRT can be interrupted
					}
					return nil
				}
				e, err := f.open(f.options())
				require.NoError(t, err)
				f.kill(0)
				answered := make(chan error)
				go func() { answered <- f.check(e, e.slots[0], f.lengths(1, 3)) }()
				synctest.Wait()
				requireUnhealthy(t, e, "is being rebuilt")
				closing.Store(true)
				begin := time.Now()
				require.NoError(t, e.Close())
				require.Equal(t, 20*time.Second, time.Since(begin))
				require.ErrorIs(t, <-answered, errClosed)
				require.LessOrEqual(t, later.Load(), int64(2), "steps after Close: each worker's next")
				require.Zero(t, f.memory(0))
			})
		})
	}
}

// TestCloseBesideARebuildThatHangs: Close tells that it gave up waiting; what the rebuild has is freed when it ends.
func TestCloseBesideARebuildThatHangs(t *testing.T) {
	for _, op := range []string{"free", "load"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(t, 2)
				goOn := make(chan error)
				var lost atomic.Bool
				f.script = func(c call) error {
					if c.device == 0 && c.op == op && lost.Swap(false) {
						return <-goOn
					}
					return nil
				}
				e, err := f.open(f.options())
				require.NoError(t, err)
				f.kill(0)
				lost.Store(true)
				f.until(t, e, 0)
				synctest.Wait()
				begin := time.Now()
				err = e.Close()
				require.Equal(t, status.Timeout, status.CodeOf(err), err)
				require.Equal(t, closeWait, time.Since(begin))
				require.Zero(t, f.memory(1), "the other device is freed")
				require.Equal(t, err, e.Close())
				goOn <- nil
				synctest.Wait()
				require.Zero(t, f.memory(0))
			})
		})
	}
}

// TestCloseWithRunsThatWait: no device is left, one is being rebuilt, and everybody is told at once that the engine is closed.
func TestCloseWithRunsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		f.script = func(c call) error {
			if c.op == "load" && c.number > 1 {
				time.Sleep(10 * time.Second)
			}
			return nil
		}
		o := f.options()
		o.Slots = 16
		e, err := f.open(o)
		require.NoError(t, err)
		f.kill(0)
		errs := make(chan error)
		for _, s := range e.slots {
			go func() { errs <- f.check(e, s, f.lengths(1, 3)) }()
		}
		synctest.Wait()
		requireUnhealthy(t, e, "is being rebuilt")
		begin := time.Now()
		closed := make(chan error)
		go func() { closed <- e.Close() }()
		for range e.slots {
			err := <-errs
			require.True(t, errors.Is(err, errClosed), err)
		}
		require.Zero(t, time.Since(begin))
		require.NoError(t, <-closed)
		require.Equal(t, 10*time.Second, time.Since(begin))
		require.Len(t, f.logged("could not be rebuilt"), 0, "a rebuild that Close ends is no trouble")
	})
}
