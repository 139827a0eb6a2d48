package trt

import (
	"fmt"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

type fakeBinding struct {
	device int // bytes
	host   []int32
}

// fakeLaunch is a launch that nobody has waited for yet.
type fakeLaunch struct {
	shape          shape
	offsets, bytes [bindPooled + 1]int
	stale          bool // a graph, and other shapes were captured after it
}

type fakeLane struct {
	p        *fakeProgram
	f        *fake
	number   int
	bindings []fakeBinding
	bytes    uint64
	busy     atomic.Bool
	freed    bool
	reserved bool
	context  uint64
	graphs   map[int64]shape
	made     shape // of the last graph
	pending  []fakeLaunch
}

// enter begins a call, which leave ends.
func (l *fakeLane) enter(op string) error {
	if !l.busy.CompareAndSwap(false, true) {
		l.f.problem("%s of a lane that another goroutine uses", op)
	}
	if l.freed {
		l.f.problem("%s of a lane that is freed", op)
	}
	return l.p.called(op)
}

func (l *fakeLane) leave() { l.busy.Store(false) }

func (l *fakeLane) stage(binding, bytes int) unsafe.Pointer {
	l.bindings[binding].host = make([]int32, bytes/4)
	return unsafe.Pointer(unsafe.SliceData(l.bindings[binding].host))
}

// shapeOf checks the dims of a launch.
func (l *fakeLane) shapeOf(dims [][]int) shape {
	p := l.f.layout.planes
	if len(dims) != inputCount || len(dims[0]) != 3 || len(dims[1]) != 2 ||
		dims[0][0] != p.tokens || dims[1][0] != p.sequences || dims[0][1] != dims[1][1] {
		l.f.problem("dims are %v", dims)
		return shape{}
	}
	return shape{dims[0][1], dims[0][2]}
}

func (l *fakeLane) needs(x shape) uint64 {
	if l.f.context == nil {
		return uint64(16 * x.cells())
	}
	return l.f.context(x)
}

// Needs implements lane.
func (l *fakeLane) Needs(dims [][]int) (uint64, error) {
	err := l.enter("needs")
	defer l.leave()
	return l.needs(l.shapeOf(dims)), err
}

// Reserve implements lane.
func (l *fakeLane) Reserve(dims [][]int) error {
	err := l.enter("reserve")
	defer l.leave()
	if err != nil {
		return err
	}
	if l.reserved {
		l.f.problem("a lane's context has memory already")
	}
	n := l.needs(l.shapeOf(dims))
	if err := l.f.take(l.p.device, n); err != nil {
		return err
	}
	l.reserved, l.context = true, n
	return nil
}

// Stage implements lane.
func (l *fakeLane) Stage(binding, bytes int) (memory, error) {
	err := l.enter("stage")
	defer l.leave()
	if len(l.pending) != 0 {
		l.f.problem("staging memory is made while %d launches use it", len(l.pending))
	}
	if err != nil {
		l.bindings[binding].host = nil
		return memory{}, err
	}
	return memory{l.stage(binding, bytes), bytes}, nil
}

// Enqueue implements lane.
func (l *fakeLane) Enqueue(launch *nvinfer.Launch) (nvinfer.LaunchKind, error) {
	defer l.leave()
	if err := l.enter("enqueue"); err != nil {
		return nvinfer.Plain, err
	}
	x := l.shapeOf(launch.Dims)
	n := fakeLaunch{shape: x}
	copy(n.offsets[:], launch.Offsets)
	copy(n.bytes[:], launch.Bytes)
	p, out := l.f.layout.planes, l.f.layout
	want := [...]int{4 * p.tokens * x.cells(), 4 * p.sequences * x.n, 4 * out.token * x.cells(), 4 * out.pooled * x.n}
	for i, b := range l.bindings {
		bytes, offset := n.bytes[i], n.offsets[i]
		expected := bytes == want[i] || i == bindTokenVectors && bytes == 0
		if !expected || bytes > b.device || offset+bytes > 4*len(b.host) {
			l.f.problem("a launch of %v copies %d bytes of binding %d at %d; it has %d on the device and %d of staging",
				x, bytes, i, offset, b.device, 4*len(b.host))
			return nvinfer.Plain, errLost
		}
	}
	if !l.reserved || l.needs(x) > l.context {
		l.f.problem("a launch of %v needs %d bytes; the context has %d", x, l.needs(x), l.context)
	}
	kind := l.graph(launch.Graph, x)
	if kind == nvinfer.Captured {
		l.made = x
	}
	n.stale = kind != nvinfer.Plain && l.made != x
	l.pending = append(l.pending, n)
	return kind, nil
}

// graph notes a launch, and what became of its graph.
func (l *fakeLane) graph(key int64, x shape) nvinfer.LaunchKind {
	at := launched{l.p.device, l.number, x}
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	l.f.launches[at]++
	if key == nvinfer.NoGraph || l.f.graphless {
		return nvinfer.Plain
	}
	known, ok := l.graphs[key]
	if ok && known != x {
		l.f.problems = append(l.f.problems, fmt.Sprintf("the graph of %v is launched for %v", known, x))
	}
	if ok {
		return nvinfer.Replayed
	}
	l.graphs[key] = x
	l.f.graphs[at]++
	return nvinfer.Captured
}

// Wait implements lane.
func (l *fakeLane) Wait() error {
	err := l.enter("wait")
	defer l.leave()
	pending := l.pending
	l.pending = l.pending[:0]
	if err != nil {
		return err
	}
	for i := range pending {
		if l.f.cost != nil {
			time.Sleep(l.f.cost(pending[i].shape))
		}
		if err := l.compute(&pending[i]); err != nil {
			return err
		}
	}
	return nil
}

// at views the part of a binding's staging that a launch copies.
func (l *fakeLane) at(n *fakeLaunch, binding int) memory {
	m := memory{unsafe.Pointer(unsafe.SliceData(l.bindings[binding].host)), 4 * len(l.bindings[binding].host)}
	return memory{unsafe.Add(m.start, n.offsets[binding]), n.bytes[binding]}
}

// compute does what truth says.
func (l *fakeLane) compute(n *fakeLaunch) error {
	f, x, p := l.f, n.shape, l.f.layout.planes
	tokens, sequences := l.at(n, bindTokens).ints(), l.at(n, bindSequences).ints()
	var vectors, pooled []float32
	if n.bytes[bindTokenVectors] > 0 {
		vectors = l.at(n, bindTokenVectors).floats()
	}
	if len(l.bindings) > bindPooled {
		pooled = l.at(n, bindPooled).floats()
		clear(pooled)
	}
	for k := range x.n {
		length, skip := int(sequences[k]), 0
		if p.skip >= 0 {
			skip = int(sequences[p.skip*x.n+k])
		}
		if length < 0 || length > x.l {
			f.problem("a sequence of %d tokens in a launch of %v", length, x)
		}
		for t := range x.l {
			cell := k*x.l + t
			id, kind, position := tokens[cell], int32(0), int32(0)
			if p.types >= 0 {
				kind = tokens[p.types*x.cells()+cell]
			}
			if p.positions >= 0 {
				position = tokens[p.positions*x.cells()+cell]
			}
			inTable := func(i int32, rows int) bool { return i >= 0 && int(i) < rows }
			if m := f.model; !inTable(id, m.VocabSize) || !inTable(kind, m.Embeddings.TypeVocabSize) || !inTable(position, m.MaxPositions) {
				f.problem("a cell has id %d, type %d, position %d", id, kind, position)
			}
			if f.poison != 0 && id == f.poison {
				return status.Errorf(status.Inference, "the fake does not like id %d", id)
			}
			for c := range len(vectors) / x.cells() {
				vectors[cell*f.layout.token+c] = f.value(id, kind, position, c)
			}
			for c := range len(pooled) / x.n {
				if skip <= t && t < length {
					pooled[k*f.layout.pooled+c] += f.value(id, kind, position, c) / float32(max(length-skip, 1))
				}
			}
		}
	}
	wrong := f.wrong != nil && f.wrong(x) || n.stale && f.stale != nil && f.stale(x) ||
		f.late != nil && f.late(l.number, x, int(slices.Max(sequences[:x.n])))
	for i := range pooled {
		if wrong && i%2 == 0 {
			pooled[i] = -pooled[i]
		}
		if k, c := i/f.layout.pooled, i%f.layout.pooled; f.mixed != nil && f.mixed(x) && k+1 < x.n {
			pooled[i] += f.value(tokens[(k+1)*x.l], 0, 0, c) - f.value(tokens[k*x.l], 0, 0, c)
		}
	}
	return nil
}

// Free implements lane.
func (l *fakeLane) Free() {
	defer l.leave()
	_ = l.enter("free") // which cannot fail
	l.freed = true
	for _, b := range l.bindings { // who reads it still gets what cannot be right
		for i := range b.host {
			b.host[i] = -1
		}
	}
	l.f.give(l.p.device, l.bytes+l.context)
	l.p.lanes.Add(-1)
}
