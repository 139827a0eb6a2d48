package trt

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// TestWarmUp: every worker launches every shape before the first run, and captures its graph.
func TestWarmUp(t *testing.T) {
	f := newFake(t, 2)
	e := f.engine(f.options())
	require.Len(t, e.slots, 4)
	for device, r := range e.replicas {
		require.Len(t, r.workers, 2)
		for _, w := range r.workers {
			for _, x := range r.shapes.all {
				at := launched{device, w.lane.(*fakeLane).number, x}
				require.Positive(t, f.launches[at], "%+v", at)
				require.Equal(t, 1, f.graphs[at], "%+v", at)
			}
		}
	}
	require.Zero(t, e.Stats()[0].Launches, "warm-up does not count")
	info := e.Info()
	require.Equal(t, "cuda:0,cuda:1", info.Device)
	require.Equal(t, []string{"GPU-0", "GPU-1"}, info.DeviceUUIDs)
	require.Equal(t, engine.Limits{MaxTokens: 64, MaxSequences: 8, MaxLength: 40, BestTokens: info.Limits.BestTokens}, info.Limits)
	require.Equal(t, fmt.Sprint(len(e.replicas[0].shapes.all)), info.Details["shapes"])
	require.Equal(t, "7", info.Details["fake layers"])
	require.Len(t, f.logged("cuda:0 (Fake A) is warm"), 1)
	require.Len(t, f.logged("cuda:1 (Fake B) is warm"), 1)
}

// sizesOf are those of small replicas.
func sizesOf(workers int) sizes {
	return sizes{limits: engine.Limits{MaxTokens: 64, MaxSequences: 8, MaxLength: 40}, workers: workers, graphs: maxGraphs, memoryShare: 1}
}

func (f *fake) replica(ctx context.Context, s sizes) (*replica, error) {
	return openReplica(ctx, f, f.devices[0], f.plan(s.limits), nil, f.layout, s, listener{func(int, int) {}, func(string) {}})
}

// TestGraphsAreBounded: the smallest shapes have graphs, as many as are allowed.
func TestGraphsAreBounded(t *testing.T) {
	f := newFake(t, 1)
	s := sizesOf(2)
	s.graphs = 3
	r, err := f.replica(t.Context(), s)
	require.NoError(t, err)
	defer r.free()
	for _, w := range r.workers {
		for i, x := range r.shapes.all {
			want := 0
			if i < 3 {
				want = 1
			}
			require.Equal(t, want, f.graphs[launched{0, w.lane.(*fakeLane).number, x}], "%v", x)
		}
	}
}

// TestMeasuredCosts: the costs are those that the device has, and decide the best size of a run.
func TestMeasuredCosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		times := make(map[shape]int)
		f.cost = func(x shape) time.Duration {
			times[x]++ // the first three take longer
			return time.Duration(100+x.cells()+x.n*x.n)*time.Microsecond + time.Duration(max(0, 4-times[x]))*time.Second
		}
		e := f.engine(f.options())
		s := e.replicas[0].shapes
		for i, x := range s.all {
			require.Equal(t, float64(100+x.cells()+x.n*x.n), s.cost[i])
		}
		require.Equal(t, s.bestTokens(64), e.Info().Limits.BestTokens)
	})
}

// TestWrongShapesAreRefused: a shape in which sequences get other numbers than elsewhere is not used, on any worker; runs are right.
func TestWrongShapesAreRefused(t *testing.T) {
	f := newFake(t, 1)
	f.wrong = func(x shape) bool { return x.n == 4 || x == shape{1, 32} }
	e := f.engine(f.options())
	s := e.replicas[0].shapes
	require.NotEmpty(t, f.logged("other numbers for 4 sequences of 16 tokens than"))
	require.Len(t, f.logged("other numbers for 1 sequences of 32 tokens"), 1)
	for i, x := range s.all {
		require.Equal(t, f.wrong(x), s.refused(i), "%v", x)
	}
	random := newRandom(1)
	for range 20 {
		require.NoError(t, f.check(e, e.slots[0], f.sequences(random, 7, 9, 3, 14, 30)))
	}

	f.wrong = nil
	for name, fault := range map[string]*func(shape) bool{"mixed": &f.mixed, "stale": &f.stale} {
		bad := shape{4, 32}
		*fault = func(x shape) bool { return x == bad }
		r, err := f.replica(t.Context(), sizesOf(2))
		require.NoError(t, err)
		for i, x := range r.shapes.all {
			require.Equal(t, x == bad, r.shapes.refused(i), "%s: %v", name, x)
		}
		r.free()
		*fault = nil
	}

	bad := shape{1, 32}
	second := newFake(t, 1)
	second.late = func(lane int, x shape, longest int) bool { return lane == 1 && x == bad && longest == x.l }
	r, err := second.replica(t.Context(), sizesOf(2))
	require.NoError(t, err)
	for i, x := range r.shapes.all {
		require.Equal(t, x == bad, r.shapes.refused(i), "on the second worker, of full length: %v", x)
	}
	r.free()

	f.wrong = func(x shape) bool { return x.l == 40 }
	_, err = f.replica(t.Context(), sizesOf(1))
	require.ErrorContains(t, err, "no shape for sequences of 40 tokens computes what others do")
}

// TestSlowWarmUpIsTold: who waits for minutes wants to know for what.
func TestSlowWarmUpIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		f.cost = func(shape) time.Duration { return 2 * time.Second }
		e := f.engine(f.options())
		require.Regexp(t, `^warming up cuda:0: [0-9]+ of [0-9]+ shapes after [0-9]+s$`, f.logged("warming up")[0])
		require.Equal(t, e.replicas[0].device, f.devices[0])
	})
}

// TestWarmUpEnds: with its context and, where a worker fails, with that.
func TestWarmUpEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		f.cost = func(shape) time.Duration { return time.Second }
		ctx, cancel := context.WithTimeoutCause(t.Context(), 4*time.Second, errors.New("enough"))
		defer cancel()
		begin := time.Now()
		_, err := f.replica(ctx, sizesOf(2))
		require.Equal(t, status.Cancelled, status.CodeOf(err))
		require.ErrorContains(t, err, "warming up: enough")
		require.Less(t, time.Since(begin), 6*time.Second)

		for launch, want := range map[int]string{1: "cuda:0 (Fake A), warming up shape ", 3: "cuda:0 (Fake A), shape "} {
			waits := f.count("wait", 0)
			f.script = func(c call) error {
				if c.op == "wait" && c.number == waits+launch {
					return status.Errorf(status.Inference, "no kernel")
				}
				return nil
			}
			before := f.count("enqueue", 0)
			_, err = f.replica(t.Context(), sizesOf(2))
			require.Equal(t, status.Inference, status.CodeOf(err))
			require.ErrorContains(t, err, want)
			require.ErrorContains(t, err, ": no kernel")
			require.Equal(t, launch, f.count("enqueue", 0)-before)
		}
	})
}

// TestMemoryLimit: shapes that do not fit are left out, all workers together stay within the limit, and runs are right.
func TestMemoryLimit(t *testing.T) {
	full := func(limit uint64) (*fake, *Engine) {
		f := newFake(t, 1)
		f.weights, f.layout.token = 1<<20, 100
		f.context = func(x shape) uint64 { return uint64(200*x.cells() + 5000*x.n) } // not in the order of cells
		o := f.options()
		o.MemoryBytes = limit
		return f, f.engine(o)
	}
	f, e := full(1 << 30)
	all, need := len(e.replicas[0].shapes.all), f.peak[0]
	require.Less(t, need, uint64(2<<20))
	previous := all + 1
	for limit := need; limit > 1<<20+62000; limit -= 6000 {
		f, e := full(limit)
		require.LessOrEqual(t, f.peak[0], limit)
		shapes := len(e.replicas[0].shapes.all)
		require.LessOrEqual(t, shapes, previous)
		previous = shapes
		for k := range 10 {
			require.NoError(t, f.check(e, e.slots[0], f.sequences(newRandom(k), 40, 1, 3, 9, 10)))
		}
	}
	require.Less(t, previous, all, "the least limit leaves shapes out")
}

func TestTooLittleMemory(t *testing.T) {
	f := newFake(t, 2)
	f.weights = 5 << 20
	f.context = func(x shape) uint64 { return uint64(x.cells()) << 20 }
	o := f.options()
	o.MemoryBytes = 65 << 20
	_, err := f.open(o)
	require.Equal(t, status.Start, status.CodeOf(err))
	require.EqualError(t, err, "cuda:0 (Fake A) has 30 MB for each of 2 runs in flight, beside 5 MB of weights; "+
		"one sequence of 40 tokens needs 41 MB or more: lower max_length or slots, or raise tensorrt.memory_bytes")
	o.MemoryBytes = 1 // less than the weights
	_, err = f.open(o)
	require.ErrorContains(t, err, "cuda:0 (Fake A) has 0 MB for each of 2 runs in flight, beside 5 MB of weights")

	// What is free counts where no limit is set, and what the device says if it was wrong.
	o.MemoryBytes, f.devices[1].MemoryFree = 0, 10<<20
	_, err = f.open(o)
	require.ErrorContains(t, err, "cuda:1 (Fake B) has 2 MB for each of 2 runs in flight, beside 5 MB of weights")
	f.devices[1].MemoryFree, f.devices[1].MemoryTotal = 1<<30, 50<<20
	_, err = f.open(o)
	require.ErrorIs(t, err, nvinfer.ErrNoMemory)
	require.ErrorContains(t, err, "cuda:1 (Fake B), memory for a run")
}

// TestFailedStart lets each call that opening makes fail: an error says so, and all is freed. Kernels that cannot be had are no failure.
func TestFailedStart(t *testing.T) {
	f := newFake(t, 2)
	f.kernels = []byte("kernels")
	o := f.options()
	o.Limits.MaxSequences = 2
	e, err := f.open(o)
	require.NoError(t, err)
	require.NoError(t, e.Close())
	made := make(map[call]int)
	for c, n := range f.calls {
		made[c] = n
	}
	delete(made, call{op: "free", device: 0})
	delete(made, call{op: "free", device: 1})
	failed := 0
	for c, n := range made {
		for number := 1; number <= n; number++ {
			f.mu.Lock()
			clear(f.calls)
			f.mu.Unlock()
			f.script = func(now call) error {
				if now == (call{c.op, c.device, number}) {
					return status.Errorf(status.Start, "no luck")
				}
				return nil
			}
			e, err := f.open(o)
			if c.op == "cache" {
				require.NoError(t, err)
				require.NoError(t, e.Close())
				continue
			}
			require.ErrorContains(t, err, "no luck", "%+v", c)
			require.Equal(t, status.Start, status.CodeOf(err))
			require.Equal(t, []uint64{0, 0}, f.used)
			failed++
		}
	}
	t.Logf("%d calls failed, one at a time", failed)
	require.Greater(t, failed, 100)
}

func TestDevices(t *testing.T) {
	f := newFake(t, 2)
	for device, text := range map[int]string{2: "there is no CUDA device 2; this process sees 2", -1: "there is no CUDA device -1"} {
		o := f.options()
		o.Devices = []int{0, device}
		_, err := f.open(o)
		require.Equal(t, status.InvalidArgument, status.CodeOf(err))
		require.ErrorContains(t, err, text)
	}
	o := f.options()
	o.Devices = []int{1}
	e := f.engine(o)
	require.Equal(t, "cuda:1", e.Info().Device)
	require.NoError(t, f.check(e, e.slots[0], f.sequences(newRandom(1), 5)))
	require.Zero(t, f.count("load", 0))
	require.Zero(t, f.count("device", 0), "a device that is not wanted may be another process's")
}

// TestPrecisionsOfDevices: what the GPU does not have is refused before a plan is built.
func TestPrecisionsOfDevices(t *testing.T) {
	for _, c := range []struct {
		precision    string
		major, minor int
		refused      string
	}{
		{"float16", 7, 5, ""},
		{"bfloat16", 7, 5, `dtype "bfloat16": cuda:0 (Fake A) has compute capability 7.5; it begins with 8.0: use dtype float16 or float32`},
		{"bfloat16", 8, 0, ""},
		{"bfloat16", 9, 0, ""},
		{"float8", 8, 6, `dtype "float8": cuda:0 (Fake A) has compute capability 8.6; it begins with 8.9: use dtype float16 or float32`},
		{"float8", 8, 9, ""},
		{"float8", 12, 0, ""},
	} {
		err := capable(nvinfer.Device{Name: "Fake A", ComputeMajor: c.major, ComputeMinor: c.minor}, c.precision)
		if c.refused == "" {
			require.NoError(t, err, "%+v", c)
			continue
		}
		require.Equal(t, status.Unsupported, status.CodeOf(err))
		require.EqualError(t, err, c.refused)
	}
	f := newFake(t, 1)
	f.devices[0].ComputeMajor, f.devices[0].ComputeMinor = 7, 5
	o := f.options()
	o.Precision = "bfloat16"
	_, err := f.open(o)
	require.Equal(t, status.Unsupported, status.CodeOf(err))
	require.Zero(t, f.count("build", 0))
}
