package trt

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// layout is what a plan's inputs and outputs look like: the same for all replicas.
type layout struct {
	planes        planes
	outputs       engine.Outputs
	pooled, token int // columns
	precision     string
	vocab         int // ids are below it
	position      int // of a sequence's first token
}

// listener hears how far a replica's warm-up is, and what is wrong but not fatal.
type listener struct {
	progress func(done, all int)
	warn     func(message string)
}

// byRow are the outputs that have a row for each sequence, in a binding of their own. A model has one of them, or none.
const byRow = engine.Pooled | engine.Sparse

// tensors are the inputs and outputs of a plan of that layout and those limits.
func (l layout) tensors(limits engine.Limits) []nvinfer.TensorInfo {
	none := []int{}
	all := []nvinfer.TensorInfo{
		{Name: inputTokens, IsInput: true, DType: nvinfer.Int32, Dims: []int{l.planes.tokens, -1, -1},
			Least: []int{l.planes.tokens, 1, 1}, Most: []int{l.planes.tokens, limits.MaxSequences, limits.MaxLength}},
		{Name: inputSequences, IsInput: true, DType: nvinfer.Int32, Dims: []int{l.planes.sequences, -1},
			Least: []int{l.planes.sequences, 1}, Most: []int{l.planes.sequences, limits.MaxSequences}},
		{Name: outputTokenVectors, DType: nvinfer.Float32, Dims: []int{-1, l.token}, Least: none, Most: none},
	}
	if l.outputs&byRow != 0 {
		all = append(all, nvinfer.TensorInfo{Name: outputPooled, DType: nvinfer.Float32, Dims: []int{-1, l.pooled}, Least: none, Most: none})
	}
	return all
}

// check refuses a program whose inputs and outputs are not those that lanes have memory for.
func (l layout) check(p program, limits engine.Limits) error {
	got, err := p.Tensors()
	if err != nil {
		return err
	}
	want := l.tensors(limits)
	byName := func(a, b nvinfer.TensorInfo) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(got, byName)
	slices.SortFunc(want, byName)
	if !reflect.DeepEqual(got, want) {
		return status.Errorf(status.Start, "%w: its inputs and outputs are %+v instead of %+v", nvinfer.ErrBadPlan, got, want)
	}
	return nil
}

// Bindings of a lane, in order. Those that a model does not have are left out at the end.
const (
	bindTokens = iota
	bindSequences
	bindTokenVectors
	bindPooled
	inputCount = 2
)

// replica is the program on one device, with its lanes.
type replica struct {
	device  nvinfer.Device
	program program
	workers []*worker
	shapes  *shapes

	// Guarded by Engine.mu.
	lost    error // why it serves no more
	idle    int   // workers that came back since
	rebuilt bool  // the one attempt was made

	weightsBytes, contextBytes uint64
}

// worker is a lane with its staging memory.
type worker struct {
	replica *replica
	lane    lane
	shapes  *shapes
	layout  layout
	graphs  int // shapes below it have CUDA graphs

	tokens, sequences memory
	pooled            memory
	vectors           memory // grows when token vectors are wanted
	cells, count      int    // that staging has room for
	bound             int    // bindings
	launch            nvinfer.Launch
	dims              [inputCount][3]int
}

// sizes bound what the workers of a replica hold.
type sizes struct {
	limits      engine.Limits
	workers     int    // of a replica
	graphs      int    // of a worker
	memoryBytes uint64 // of a replica on its device; 0: memoryShare of what is free
	memoryShare float64
}

// openReplica loads the plan, makes its workers and warms them up: afterwards no launch makes kernels, graphs or device memory.
func openReplica(ctx context.Context, d driver, device nvinfer.Device, plan, kernels []byte, l layout, s sizes, to listener) (*replica, error) {
	engine.Making.Lock()
	p, err := d.Load(plan, nvinfer.ProgramOptions{Device: device.Index, Cache: kernels})
	engine.Making.Unlock()
	if err != nil {
		return nil, err
	}
	r := &replica{device: device, program: p, shapes: newShapes(s.limits.MaxTokens, s.limits.MaxSequences, s.limits.MaxLength)}
	if err := r.prepare(ctx, l, s, to); err != nil {
		r.free()
		return nil, err
	}
	return r, nil
}

// prepare makes and warms up the workers of a replica that has its program.
func (r *replica) prepare(ctx context.Context, l layout, s sizes, to listener) (err error) {
	if err := l.check(r.program, s.limits); err != nil {
		return err
	}
	if r.weightsBytes, _, err = r.program.Memory(); err != nil {
		return err
	}
	largest, err := r.fit(ctx, l, s)
	if err != nil {
		return err
	}
	for len(r.workers) < s.workers {
		if _, err := r.open(ctx, l, s); err != nil {
			return err
		}
	}
	for _, w := range r.workers {
		w.setDims(largest)
		if err := w.lane.Reserve(w.launch.Dims); err != nil {
			return status.Errorf(status.CodeOf(err), "%s, memory for a run: %w", r.name(), err)
		}
	}
	return r.warmUp(ctx, l, to)
}

// ended returns an error once ctx has ended.
func ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return status.Errorf(status.Cancelled, "warming up: %w", context.Cause(ctx))
	}
	return nil
}

// open adds a worker with memory for the shapes, but for what a launch needs beside its inputs and outputs.
func (r *replica) open(ctx context.Context, l layout, s sizes) (*worker, error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	w := &worker{replica: r, layout: l, shapes: r.shapes, graphs: s.graphs}
	largest, most := 0, 0
	for _, x := range r.shapes.all {
		largest, most = max(largest, x.cells()), max(most, x.n)
	}
	// Room for the launches of a full run, which pad it.
	w.cells, w.count = max(largest, 2*s.limits.MaxTokens), max(most, 2*s.limits.MaxSequences)
	bindings := []nvinfer.Binding{
		{Name: inputTokens, DeviceBytes: 4 * l.planes.tokens * largest, HostBytes: 4 * l.planes.tokens * w.cells},
		{Name: inputSequences, DeviceBytes: 4 * l.planes.sequences * most, HostBytes: 4 * l.planes.sequences * w.count},
		{Name: outputTokenVectors, DeviceBytes: 4 * l.token * largest},
	}
	if l.outputs&byRow != 0 {
		bindings = append(bindings, nvinfer.Binding{Name: outputPooled, DeviceBytes: 4 * l.pooled * most, HostBytes: 4 * l.pooled * w.count})
	}
	engine.Making.Lock()
	lane, err := r.program.Lane(bindings, inputCount)
	engine.Making.Unlock()
	if err != nil {
		return nil, status.Errorf(status.CodeOf(err), "%s: %w", r.name(), err)
	}
	w.lane, w.bound = lane, len(bindings)
	host := func(i int) memory { return memory{bindings[i].Host, bindings[i].HostBytes} }
	w.tokens, w.sequences = host(bindTokens), host(bindSequences)
	if w.bound > bindPooled {
		w.pooled = host(bindPooled)
	}
	w.launch = nvinfer.Launch{Dims: [][]int{w.dims[0][:3], w.dims[1][:2]}, Offsets: make([]int, w.bound), Bytes: make([]int, w.bound)}
	r.workers = append(r.workers, w)
	return w, nil
}

// room is what a worker needs on its device for a set of shapes.
type room struct {
	cells, sequences int    // of inputs and outputs
	context          uint64 // bytes
}

func (m room) with(x shape, context uint64) room {
	return room{max(m.cells, x.cells()), max(m.sequences, x.n), max(m.context, context)}
}

func (m room) bytes(l layout) uint64 {
	return m.context + uint64(4*m.cells*(l.planes.tokens+l.token)+4*m.sequences*(l.planes.sequences+l.pooled))
}

// fit opens the first worker, drops shapes that do not fit into the replica's memory, and returns the one of the rest whose context
// needs most.
func (r *replica) fit(ctx context.Context, l layout, s sizes) (largest shape, err error) {
	contexts := make(map[shape]uint64)
	// Before the contexts' needs are known, what cannot fit even so: the first worker has room for all that are left.
	if err := r.keep(contexts, l, s); err != nil {
		return largest, err
	}
	w, err := r.open(ctx, l, s)
	if err != nil {
		return largest, err
	}
	for _, x := range r.shapes.all {
		if err := ended(ctx); err != nil {
			return largest, err
		}
		w.setDims(x)
		if contexts[x], err = w.lane.Needs(w.launch.Dims); err != nil {
			return largest, status.Errorf(status.CodeOf(err), "%s, shape of %d x %d: %w", r.name(), x.n, x.l, err)
		}
	}
	if err := r.keep(contexts, l, s); err != nil {
		return largest, err
	}
	if len(r.shapes.all) < len(contexts) { // its memory is for shapes that are gone
		w.lane.Free()
		r.workers = nil
	}
	for _, x := range r.shapes.all {
		if contexts[x] >= r.contextBytes {
			r.contextBytes, largest = contexts[x], x
		}
	}
	return largest, nil
}

// keep drops shapes, largest first, until the rest fits into the replica's memory. contexts: bytes of each shape's context, where known.
func (r *replica) keep(contexts map[shape]uint64, l layout, s sizes) error {
	budget := s.memoryBytes
	if budget == 0 {
		budget = uint64(float64(r.device.MemoryFree) * s.memoryShare)
	}
	budget -= min(budget, r.weightsBytes)
	each := budget / uint64(s.workers)
	longest := shape{1, s.limits.MaxLength} // must fit
	need := room{}.with(longest, contexts[longest])
	if need.bytes(l) > each {
		return status.Errorf(status.Start, "%s has %d MB for each of %d runs in flight, beside %d MB of weights; "+
			"one sequence of %d tokens needs %d MB or more: lower max_length or slots, or raise tensorrt.memory_bytes",
			r.name(), each>>20, s.workers, r.weightsBytes>>20, longest.l, need.bytes(l)>>20+1)
	}
	r.shapes.keep(func(x shape) bool {
		more := need.with(x, contexts[x])
		if more.bytes(l) > each {
			return false
		}
		need = more
		return true
	})
	return nil
}

// warmUp launches every shape on every worker, which makes its kernels and captures its graph, measures each on the first, and takes those
// out of use that compute other numbers than the rest. Workers share the kernels, so that those after the first take little time, and are
// probed with one length in each place, not all. At the end each graph is launched once more, with another: as runs will launch it, when the
// worker's context has had all other shapes.
func (r *replica) warmUp(ctx context.Context, l layout, to listener) error {
	p := newProbe(l, r.shapes, func(x shape, agreement float64) { to.warn(r.otherNumbers(x, agreement)) })
	done, all := 0, 2*len(r.workers)*len(r.shapes.all)
	tell := func() { done++; to.progress(done, all) }
	for k, w := range r.workers {
		for i, x := range r.shapes.all {
			tell()
			if r.shapes.refused(i) {
				continue
			}
			err := w.make(i)
			if ended := ended(ctx); ended != nil {
				return ended
			}
			if err != nil {
				return status.Errorf(status.CodeOf(err), "%s, warming up shape %d x %d: %w", r.name(), x.n, x.l, err)
			}
			if k == 0 {
				err = p.all(ctx, w, i)
			} else { // the first place has the shape's full length, in the last pass the shortest
				_, _, err = p.turn(w, i, len(p.lengths(x))-1)
			}
			if ended := ended(ctx); ended != nil {
				return ended
			}
			if err != nil {
				return status.Errorf(status.CodeOf(err), "%s, shape %d x %d: %w", r.name(), x.n, x.l, err)
			}
		}
		if k == 0 {
			if err := p.settle(); err != nil {
				return status.Errorf(status.CodeOf(err), "%s: %w", r.name(), err)
			}
		}
	}
	for _, w := range r.workers {
		for i, x := range r.shapes.all {
			tell()
			if r.shapes.refused(i) {
				continue
			}
			if err := ended(ctx); err != nil {
				return err
			}
			if _, _, err := p.turn(w, i, 0); err != nil {
				return status.Errorf(status.CodeOf(err), "%s, shape %d x %d: %w", r.name(), x.n, x.l, err)
			}
		}
	}
	return nil
}

// make launches a shape of full sequences for the first time.
func (w *worker) make(i int) error {
	// TensorRT-RTX 1.6 fails, too ("No plan found to execute"), where two contexts of a process make kernels at the same time.
	engine.Making.Lock()
	defer engine.Making.Unlock()
	x := w.shapes.all[i]
	clear(w.tokens.ints()[:w.layout.planes.tokens*x.cells()])
	lengths := w.sequences.ints()[:w.layout.planes.sequences*x.n]
	clear(lengths)
	for s := range x.n {
		lengths[s] = int32(x.l)
	}
	if _, err := w.enqueue(i, 0, 0, -1); err != nil {
		return err
	}
	return w.lane.Wait()
}

func (w *worker) setDims(x shape) {
	w.dims[0] = [3]int{w.layout.planes.tokens, x.n, x.l}
	w.dims[1] = [3]int{w.layout.planes.sequences, x.n}
}

// enqueue launches a shape whose inputs are staged from cell and sequence numbers on. Token vectors go to cell vectors of their
// staging memory; -1: they are not wanted.
func (w *worker) enqueue(i, cell, sequence, vectors int) (nvinfer.LaunchKind, error) {
	x, l := w.shapes.all[i], &w.launch
	w.setDims(x)
	l.Offsets[bindTokens], l.Bytes[bindTokens] = 4*w.layout.planes.tokens*cell, 4*w.layout.planes.tokens*x.cells()
	l.Offsets[bindSequences], l.Bytes[bindSequences] = 4*w.layout.planes.sequences*sequence, 4*w.layout.planes.sequences*x.n
	l.Offsets[bindTokenVectors], l.Bytes[bindTokenVectors] = 0, 0
	if vectors >= 0 && w.vectors.bytes > 0 {
		l.Offsets[bindTokenVectors], l.Bytes[bindTokenVectors] = 4*w.layout.token*vectors, 4*w.layout.token*x.cells()
	}
	if w.bound > bindPooled {
		l.Offsets[bindPooled], l.Bytes[bindPooled] = 4*w.layout.pooled*sequence, 4*w.layout.pooled*x.n
	}
	l.Graph = nvinfer.NoGraph
	if i < w.graphs {
		l.Graph = int64(i)
	}
	return w.lane.Enqueue(l)
}

func (r *replica) name() string {
	return fmt.Sprintf("%s (%s)", r.deviceName(), cmp.Or(r.device.Name, "unknown"))
}

func (r *replica) free() {
	for _, w := range r.workers {
		w.lane.Free()
	}
	r.workers = nil
	if r.program != nil {
		r.program.Free()
		r.program = nil
	}
}
