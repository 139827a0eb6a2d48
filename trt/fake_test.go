package trt

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// fake is a driver without TensorRT. Its programs compute on the host, from what is staged, when a lane is waited for: as late as a
// device may. It holds its caller to trt/shim.h: what is not allowed becomes a problem, and so does what is not freed.
type fake struct {
	t       testing.TB
	devices []nvinfer.Device
	model   *arch.Model
	set     *weights.Set
	layout  layout

	// The script, set before the engine is opened and then called from any goroutine. nil: nothing happens.
	script    func(call) error                          // waits, or fails the call
	cost      func(shape) time.Duration                 // of a launch
	context   func(shape) uint64                        // bytes of a launch's context
	weights   uint64                                    // bytes of the weights
	kernels   []byte                                    // what programs give to keep; nil: Unsupported
	poison    int32                                     // launches with this id fail; 0: none
	nan       int32                                     // rows of this id are NaN; 0: none
	wrong     func(shape) bool                          // launches that compute other numbers
	late      func(lane int, x shape, longest int) bool // the same by the lane, numbered from 0, and the longest sequence
	mixed     func(shape) bool                          // launches in which a sequence gets a little of the next one's first token
	stale     func(shape) bool                          // graphs that compute other numbers once another shape has been made
	graphless bool                                      // no graph can be used

	mu       sync.Mutex // guards what follows
	calls    map[call]int
	launches map[launched]int
	graphs   map[launched]int // captures
	programs map[*fakeProgram]bool
	used     []uint64 // bytes of each device
	peak     []uint64
	lanes    int // made so far
	given    [][]byte
	problems []string
	messages []string
}

// call is a call of the driver. number counts those of the same operation on the same device, from 1; calls are kept without it.
type call struct {
	op             string
	device, number int
}

// launched is a shape on a lane, which are numbered in the order of their making.
type launched struct {
	device, lane int
	shape        shape
}

// newFake returns n devices of 1 GB and a small model. It checks at the end that all is freed.
func newFake(t testing.TB, n int) *fake {
	c := suite.Folder(t, suite.Root(t)+"/testdata/models/bert-mean", arch.Options{})
	f := &fake{
		t: t, model: c.Model, set: c.Weights, calls: make(map[call]int), launches: make(map[launched]int), graphs: make(map[launched]int),
		programs: make(map[*fakeProgram]bool), used: make([]uint64, n), peak: make([]uint64, n),
		layout: layout{planes: planesOf(c.Model), outputs: engine.Pooled | engine.TokenVectors, pooled: 5, token: 3,
			precision: "float16", vocab: c.Model.VocabSize, position: c.Model.Embeddings.PositionOffset},
	}
	f.model.MaxLength = 40
	for i := range n {
		f.devices = append(f.devices, nvinfer.Device{
			Index: i, Name: fmt.Sprintf("Fake %c", 'A'+i), UUID: fmt.Sprintf("GPU-%d", i), MemoryTotal: 1 << 30, MemoryFree: 1 << 30,
			ComputeMajor: 9,
		})
	}
	t.Cleanup(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		require.Empty(t, f.problems)
		require.Empty(t, f.programs, "programs that are not freed")
		require.Equal(t, make([]uint64, n), f.used, "device memory that is not freed")
	})
	return f
}

// options are those of small engines, which warm up fast, on all devices.
func (f *fake) options() Options {
	o := Options{Slots: 2, Limits: engine.Limits{MaxTokens: 64, MaxSequences: 8}, Cache: "off"}
	o.Logger = func(_ nvinfer.Severity, message string) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.messages = append(f.messages, message)
	}
	for i := range f.devices {
		o.Devices = append(o.Devices, i)
	}
	return o
}

func (f *fake) open(o Options) (*Engine, error) {
	o, err := o.withDefaults(f.model, weights.F32)
	require.NoError(f.t, err)
	e, err := open(f.t.Context(), f, &nvinfer.Library{Flavour: "fake", Version: "1.2"}, f.model, f.set, o)
	if err != nil {
		return nil, err
	}
	return e.(*Engine), nil
}

// engine opens an engine that is closed at the end.
func (f *fake) engine(o Options) *Engine {
	e, err := f.open(o)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { require.NoError(f.t, e.Close()) })
	return e
}

// called notes a call and lets its script happen.
func (f *fake) called(op string, device int) error {
	c := call{op: op, device: device}
	f.mu.Lock()
	f.calls[c]++
	c.number = f.calls[c]
	f.mu.Unlock()
	if f.script == nil {
		return nil
	}
	return f.script(c)
}

func (f *fake) count(op string, device int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call{op: op, device: device}]
}

func (f *fake) problem(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.problems = append(f.problems, fmt.Sprintf(format, args...))
}

// take allocates device memory.
func (f *fake) take(device int, bytes uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used[device]+bytes > f.devices[device].MemoryTotal {
		return status.Errorf(status.Start, "%w: %d bytes", nvinfer.ErrNoMemory, bytes)
	}
	f.used[device] += bytes
	f.peak[device] = max(f.peak[device], f.used[device])
	return nil
}

func (f *fake) give(device int, bytes uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used[device] -= bytes
}

// kill makes all that the device holds unusable, as an illegal memory access of a kernel does.
func (f *fake) kill(device int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.programs {
		if p.device == device {
			p.lost.Store(true)
		}
	}
}

var errLost = status.Errorf(status.Unhealthy, "running the engine: an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)")

// DeviceCount implements driver.
func (f *fake) DeviceCount() (int, error) { return len(f.devices), f.called("count", 0) }

// Device implements driver.
func (f *fake) Device(index int) (nvinfer.Device, error) {
	return f.devices[index], f.called("device", index)
}

// planOf begins a plan of the fake, planForm is all of it: with its limits.
const (
	planOf   = "a plan of the fake for "
	planForm = planOf + "%d tokens of %d sequences of %d"
)

func (f *fake) plan(l engine.Limits) []byte {
	return fmt.Appendf(nil, planForm, l.MaxTokens, l.MaxSequences, l.MaxLength)
}

// Build implements driver.
func (f *fake) Build(d *design, _ *weights.Set) (*plan, error) {
	if err := f.called("build", 0); err != nil {
		return nil, err
	}
	l := f.layout
	return &plan{bytes: f.plan(d.limits), outputs: l.outputs, pooled: l.pooled, token: l.token, notes: map[string]int{"fake layers": 7}}, nil
}

// Load implements driver.
func (f *fake) Load(plan []byte, o nvinfer.ProgramOptions) (program, error) {
	if err := f.called("load", o.Device); err != nil {
		return nil, err
	}
	var limits engine.Limits
	if _, err := fmt.Sscanf(string(plan), planForm, &limits.MaxTokens, &limits.MaxSequences, &limits.MaxLength); err != nil {
		return nil, status.Errorf(status.Start, "%w: %d bytes", nvinfer.ErrBadPlan, len(plan))
	}
	if err := f.take(o.Device, f.weights); err != nil {
		return nil, err
	}
	p := &fakeProgram{f: f, device: o.Device, limits: limits}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.programs[p] = true
	f.given = append(f.given, o.Cache)
	return p, nil
}

type fakeProgram struct {
	f      *fake
	device int
	limits engine.Limits
	lanes  atomic.Int64
	freed  atomic.Bool
	lost   atomic.Bool
}

func (p *fakeProgram) called(op string) error {
	if p.freed.Load() {
		p.f.problem("%s of a program that is freed", op)
	}
	if err := p.f.called(op, p.device); err != nil {
		return err
	}
	if p.lost.Load() {
		return errLost
	}
	return nil
}

// Tensors implements program.
func (p *fakeProgram) Tensors() ([]nvinfer.TensorInfo, error) {
	return p.f.layout.tensors(p.limits), p.called("tensors")
}

// Memory implements program.
func (p *fakeProgram) Memory() (weights, context uint64, err error) {
	return p.f.weights, 0, p.called("memory")
}

// Cache implements program.
func (p *fakeProgram) Cache() ([]byte, error) {
	if err := p.called("cache"); err != nil {
		return nil, err
	}
	if p.f.kernels == nil {
		return nil, status.Errorf(status.Unsupported, "no kernels to keep")
	}
	return p.f.kernels, nil
}

// Free implements program.
func (p *fakeProgram) Free() {
	if p.freed.Swap(true) {
		p.f.problem("a program is freed twice")
		return
	}
	if n := p.lanes.Load(); n != 0 {
		p.f.problem("a program is freed before %d of its lanes", n)
	}
	p.f.give(p.device, p.f.weights)
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	delete(p.f.programs, p)
}

// Lane implements program.
func (p *fakeProgram) Lane(bindings []nvinfer.Binding, inputs int) (lane, error) {
	if err := p.called("lane"); err != nil {
		return nil, err
	}
	l := &fakeLane{p: p, f: p.f, graphs: make(map[int64]shape)}
	for i, b := range bindings {
		if b.DeviceBytes <= 0 || (i < inputs) != (b.Name == inputTokens || b.Name == inputSequences) {
			p.f.problem("binding %d is %+v", i, b)
		}
		l.bytes += uint64(b.DeviceBytes)
	}
	if err := p.f.take(p.device, l.bytes); err != nil {
		return nil, err
	}
	for i, b := range bindings {
		l.bindings = append(l.bindings, fakeBinding{device: b.DeviceBytes})
		bindings[i].Host = l.stage(i, b.HostBytes)
	}
	p.lanes.Add(1)
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	l.number = p.f.lanes
	p.f.lanes++
	return l, nil
}

// value is column c of a token's vector: in [-1, 1), by SplitMix64 (Steele, Lea, Flood 2014).
func (f *fake) value(id, kind, position int32, c int) float32 {
	if f.nan != 0 && id == f.nan {
		return float32(math.NaN())
	}
	z := (uint64(id)<<40 ^ uint64(kind)<<32 ^ uint64(position)) + (uint64(c)+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return float32(int32(z>>32)) / (1 << 31)
}

// truth fills in what a sequence must give: the mean of its tokens' vectors as its row, and these.
func (f *fake) truth(q *suite.Sequence) {
	p := f.layout.planes
	q.Pooled, q.TokenVectors = make([]float64, f.layout.pooled), nil
	for t, id := range q.IDs {
		var kind, position int32
		if p.types >= 0 {
			kind = q.Types[t]
		}
		if p.positions >= 0 {
			position = q.Positions[t]
		}
		for c := range f.layout.token {
			q.TokenVectors = append(q.TokenVectors, float64(f.value(id, kind, position, c)))
		}
		for c := range q.Pooled {
			if t >= q.Skip {
				q.Pooled[c] += float64(f.value(id, kind, position, c)) / float64(len(q.IDs)-q.Skip)
			}
		}
	}
	if f.layout.outputs&engine.Sparse != 0 {
		q.Pooled, q.Sparse = nil, q.Pooled
	}
}

// sequences returns sequences of these lengths with what they must give. Lengths may be 0.
func (f *fake) sequences(random *rand.Rand, lengths ...int) []suite.Sequence {
	var list []suite.Sequence
	for _, n := range lengths {
		var q suite.Sequence
		for t := range n {
			q.IDs = append(q.IDs, 10+random.Int32N(int32(f.model.VocabSize)-10)) // below are those with a meaning to tests
			q.Types = append(q.Types, random.Int32N(int32(f.model.Embeddings.TypeVocabSize)))
			q.Positions = append(q.Positions, int32(t))
		}
		if f.layout.planes.skip >= 0 && n > 1 {
			q.Skip = random.IntN(n)
		}
		f.truth(&q)
		list = append(list, q)
	}
	return list
}

// batch returns up to the engine's limits of sequences of any length.
func (f *fake) batch(random *rand.Rand, l engine.Limits) []suite.Sequence {
	var lengths []int
	for left := l.MaxTokens; len(lengths) <= random.IntN(l.MaxSequences); {
		n := random.IntN(min(l.MaxLength, left) + 1)
		lengths, left = append(lengths, n), left-n
	}
	return f.sequences(random, lengths...)
}

// check runs sequences as a batch and compares.
func (f *fake) check(e *Engine, s engine.Slot, sequences []suite.Sequence) error {
	results, err := suite.Compute(f.t.Context(), s, e.info, sequences, e.info.Outputs)
	if err != nil {
		return err
	}
	return differ(results, sequences, e.info.Outputs)
}

func differ(results []suite.Result, sequences []suite.Sequence, outputs engine.Outputs) error {
	for i, r := range results {
		q := &sequences[i]
		if outputs&engine.Pooled != 0 {
			if err := suite.Exact.Compare(r.Pooled, q.Pooled); err != nil {
				return fmt.Errorf("sequence %d, pooled: %w", i, err)
			}
		}
		if err := suite.Exact.Compare(r.Sparse, q.Sparse); err != nil {
			return fmt.Errorf("sequence %d, sparse: %w", i, err)
		}
		if err := suite.Exact.Compare(r.TokenVectors, q.TokenVectors); err != nil {
			return fmt.Errorf("sequence %d, token vectors: %w", i, err)
		}
	}
	return nil
}

// logged returns what was logged and contains text.
func (f *fake) logged(text string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.messages), func(m string) bool { return !strings.Contains(m, text) })
}

func newRandom(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 0)) }
