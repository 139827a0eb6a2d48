package onnx

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// Limits on CUDA. A GPU is busy from some thousand tokens a run on; memory bounds what a run may have.
const (
	defaultCUDATokens     = 32768
	defaultCUDABestTokens = 16384
	// Where Heads cannot rotate, RotaryEmbedding has a grid of as many blocks as rows in a direction that has no more.
	maxCUDATokens = 1<<16 - 1
	// Rows of one layer of a run, and scores of one layer where they are held in memory.
	cudaActivationBytes = 4 << 30
	cudaScoreBytes      = 4 << 30
	scoreBytes          = 14 // of one score: float32 before and after each of two steps, less what is reused, and 16 bits
)

func (o Options) withCUDADefaults(m *arch.Model) (Options, error) {
	if _, ok := precisions[o.Precision]; !ok {
		return o, status.Errorf(status.Unsupported, "engine onnxruntime: dtype %q on device %q: it computes in %q, %q and %q",
			o.Precision, CUDA, Float32, Float16, BFloat16)
	}
	if o.DeviceID < 0 {
		return o, status.Errorf(status.InvalidArgument, "engine onnxruntime: device id %d is negative", o.DeviceID)
	}
	if o.Threads == 0 {
		o.Threads = 1
	}
	if o.Slots == 0 {
		o.Slots = 2
	}
	l := &o.Limits
	if o.defaultTokens = l.MaxTokens == 0; o.defaultTokens {
		rows := min(defaultCUDATokens, cudaActivationBytes/rowBytes(m))
		l.MaxTokens = max(rows, 1, min(m.MaxLength, maxCUDATokens), l.BestTokens)
	}
	if l.MaxSequences == 0 {
		l.MaxSequences = max(1, min(defaultMaxSequences, mostBytes/(4*max(pooledWidth(m), 1))))
	}
	if l.MaxLength == 0 {
		l.MaxLength = m.MaxLength
	}
	if l.BestTokens == 0 {
		l.BestTokens = defaultCUDABestTokens
	}
	return o.checked(m)
}

// autoPrecision is bfloat16 for models that are stored in it: their numbers may be more than float16 can hold.
func autoPrecision(m *arch.Model, w *weights.Set) string {
	if t, err := w.Tensor(m.Embeddings.Word.Name); err == nil && t.DType == weights.BF16 {
		return BFloat16
	}
	return Float16
}

// device is engine.Info's.
func (o Options) device() string {
	if o.Device == CUDA {
		return fmt.Sprintf("cuda:%d", o.DeviceID)
	}
	return CPU
}

// deviceGraph is what runs of a graph on CUDA need to know of it.
type deviceGraph struct {
	inputs []value
	block  int // rows of a page
	align  int // the longest sequence counts as a multiple of it
	// positions is what position ids are below; 0: the graph has none.
	positions     int
	firstPosition int // of a sequence
}

// newCUDABuilder starts a session on the GPU, or one that emulates it.
func newCUDABuilder(o Options) (*ort.Builder, error) {
	builder, err := ort.NewBuilder(o.Threads)
	if err != nil {
		return nil, err
	}
	if !o.emulate {
		err = builder.CUDA(o.DeviceID, map[string]string{"use_tf32": "0"}) // float32 is float32
	}
	if err == nil {
		err = builder.CUDAOperators(o.DeviceID)
	}
	if err != nil {
		builder.Free()
		return nil, err
	}
	return builder, nil
}

// loadCUDA is load for a GPU: a session for each slot, over the same weights.
func (e *Engine) loadCUDA(m *arch.Model, w *weights.Set, o Options) error {
	model, err := e.lowerCUDA(m, w, o)
	if err == nil {
		err = e.openSessions(model, o)
	}
	if err == nil && !o.emulate {
		var uuid string
		uuid, err = ort.CUDAUUID(o.DeviceID)
		e.info.DeviceUUIDs = []string{uuid}
	}
	if err != nil {
		return e.failed(err)
	}
	return nil
}

// lowerCUDA lowers the model, puts its weights on the device and returns the graph.
func (e *Engine) lowerCUDA(m *arch.Model, w *weights.Set, o Options) ([]byte, error) {
	builder, err := newCUDABuilder(o)
	if err != nil {
		return nil, err
	}
	defer builder.Free()
	if !o.emulate {
		if err := ort.LoadCUDAKernels(); err != nil {
			return nil, err
		}
	}
	g := newGraph(precisions[o.Precision], opsetsOfCUDA...)
	b := &binder{g: g, set: w, session: builder, bound: make(map[string]string), device: true}
	defer b.release()
	l := newLowering(g, b, m, o)
	c := newCUDAOperators(l, o.attention, o.emulate)
	l.operators = c
	if err := l.lower(); err != nil {
		return nil, err
	}
	l.describe(&e.info)
	e.info.Details["attention"] = strings.Join(slices.Sorted(maps.Keys(c.forms)), ", ")
	if c.padded {
		e.info.Limits = paddedLimits(e.info.Limits, o, c.scores)
	}
	e.graph = &deviceGraph{inputs: g.inputs, block: c.block, align: 1, firstPosition: m.Embeddings.PositionOffset}
	if slices.ContainsFunc(g.inputs, func(v value) bool { return v.name == positionIDs }) {
		e.graph.positions = l.positions
	}
	if c.forms[string(formMulti)] {
		e.graph.align = rowsOfBias
	}
	e.weights, err = builder.Weights()
	return g.encode(), err
}

// openSessions makes a session of the graph for each slot.
func (e *Engine) openSessions(model []byte, o Options) error {
	// ONNX Runtime wants a file where the graph says that external numbers are.
	folder, err := os.MkdirTemp("", "bei-")
	if err == nil {
		defer func() { _ = os.RemoveAll(folder) }()
		err = os.WriteFile(filepath.Join(folder, externalFile), nil, 0o600)
	}
	if err != nil {
		return status.Errorf(status.Start, "a temporary folder: %w", err)
	}
	for range o.Slots {
		builder, err := newCUDABuilder(o)
		if err != nil {
			return err
		}
		session := new(ort.Session)
		if err = builder.Share(e.weights, folder); err == nil {
			engine.Making.Lock()
			session, err = builder.Session(model)
			engine.Making.Unlock()
		}
		builder.Free()
		if err != nil {
			return err
		}
		e.sessions = append(e.sessions, session)
	}
	return nil
}

// paddedLimits bounds the tokens of a run where scores of attention are held in memory, unless the options say otherwise.
// One sequence of the greatest length must fit.
func paddedLimits(l engine.Limits, o Options, heads int) engine.Limits {
	l.Padded = true
	if !o.defaultTokens {
		return l
	}
	l.MaxTokens = max(l.MaxLength, min(l.MaxTokens, cudaScoreBytes/(scoreBytes*max(heads, 1)*l.MaxLength)))
	l.BestTokens = min(l.BestTokens, l.MaxTokens)
	return l
}

// deviceRun runs a graph on CUDA for one slot. ONNX Runtime's CUDA provider keeps handles for each thread that calls it,
// so all calls come from one thread.
type deviceRun struct {
	graph   *deviceGraph
	session *ort.Session
	runner  *ort.Runner
	memory  []byte // of inputs and outputs, page-locked; as much as runs have needed so far
	work    chan func()

	graphs []*captured   // ascending by tokens
	filled *engine.Batch // scratch: a batch with what fills it up for one of them
}

func newDeviceRun(g *deviceGraph, s *ort.Session, r *ort.Runner) *deviceRun {
	d := &deviceRun{graph: g, session: s, runner: r, work: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range d.work {
			f()
		}
	}()
	return d
}

func (d *deviceRun) do(f func()) {
	done := make(chan struct{})
	d.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

func (d *deviceRun) close() {
	d.drop(0)
	d.do(func() { d.session.FreeHostMemory(d.memory) })
	close(d.work)
}

// alignment of tensors in the memory.
const alignment = 256

func alignedBytes(v ort.DataType, dims []int) (bytes, room int) {
	bytes = map[ort.DataType]int{ort.Float32: 4, ort.Int32: 4, ort.Int64: 8}[v]
	for _, d := range dims {
		bytes *= d
	}
	return bytes, (bytes + alignment - 1) / alignment * alignment
}

// grow makes room for a run.
func (d *deviceRun) grow(bytes int) error {
	if len(d.memory) >= bytes {
		return nil
	}
	d.session.FreeHostMemory(d.memory)
	d.memory = nil
	memory, err := d.session.HostMemory(bytes + bytes/4)
	d.memory = memory
	return err
}

// inputs are those of a run, without memory.
func (d *deviceRun) inputs(l *layout) []ort.Tensor {
	inputs := make([]ort.Tensor, len(d.graph.inputs))
	for i, v := range d.graph.inputs {
		inputs[i] = ort.Tensor{Name: v.name, Type: v.dtype, Dims: l.dims(v)}
	}
	return inputs
}

// place gives tensors their memory, one after another, and returns how much that is. Without memory it only counts.
func place(memory []byte, lists ...[]ort.Tensor) int {
	at := 0
	for _, list := range lists {
		for i := range list {
			bytes, room := alignedBytes(list[i].Type, list[i].Dims)
			if memory != nil {
				list[i].Data = memory[at : at+bytes : at+bytes]
			}
			at += room
		}
	}
	return max(at, alignment)
}

// run computes the outputs, whose Data it sets.
func (d *deviceRun) run(ctx context.Context, l *layout, outputs []ort.Tensor) error {
	inputs := d.inputs(l)
	if err := d.grow(place(nil, inputs, outputs)); err != nil {
		return err
	}
	place(d.memory, inputs, outputs)
	for i, v := range d.graph.inputs {
		l.write(v, inputs[i].Data)
	}
	return d.runner.RunTensors(ctx, d.session, inputs, outputs)
}

// runDevice is Run on CUDA.
func (s *slot) runDevice(ctx context.Context) (engine.Output, error) {
	e, b := s.engine, s.batch
	if lost := e.lost.Load(); lost != nil {
		return engine.Output{}, *lost
	}
	if err := s.device.graph.check(b); err != nil {
		return engine.Output{}, err
	}
	var outputs []ort.Tensor
	if b.Outputs&engine.Pooled != 0 {
		outputs = append(outputs, ort.Tensor{Name: outputPooled, Type: ort.Float32, Dims: []int{b.Sequences(), e.info.PooledWidth}})
	}
	if b.Outputs&engine.TokenVectors != 0 {
		outputs = append(outputs, ort.Tensor{Name: outputTokenVectors, Type: ort.Float32, Dims: []int{b.Tokens(), e.info.TokenWidth}})
	}
	if b.Outputs&engine.Sparse != 0 {
		outputs = append(outputs, ort.Tensor{Name: outputSparse, Type: ort.Float32, Dims: []int{b.Sequences(), e.info.SparseWidth}})
	}
	var out engine.Output
	switch {
	case b.Tokens() == 0:
		if b.Outputs&engine.Pooled != 0 {
			out.Pooled = grow(&s.pooled, b.Sequences()*e.info.PooledWidth)
		}
		if b.Outputs&engine.Sparse != 0 {
			out.Sparse = grow(&s.sparse, b.Sequences()*e.info.SparseWidth)
		}
		s.clearEmpty(out)
		if b.Outputs&engine.TokenVectors != 0 {
			out.TokenVectors = []float32{}
		}
		return out, nil
	case len(outputs) == 0:
		return out, nil
	}
	if c := s.device.graphFor(b); c != nil {
		return s.replay(ctx, c)
	}
	l, padding := lay(b, s.device.graph), 0
	if e.info.Limits.Padded {
		padding = l.padding()
	}
	e.stats.launched(b.Tokens(), padding)
	var err error
	s.device.do(func() { err = s.device.run(ctx, l, outputs) })
	if err != nil {
		return engine.Output{}, e.deviceError(err)
	}
	for _, t := range outputs {
		switch rows := view[float32](t.Data); t.Name {
		case outputPooled:
			out.Pooled = rows
		case outputSparse:
			out.Sparse = rows
		default:
			out.TokenVectors = rows
		}
	}
	s.clearEmpty(out)
	return out, nil
}

// What CUDA says when a context is lost for good: every later call fails, too. From the CUDA runtime's error names and
// texts (https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html), as ONNX Runtime words them.
var lostTexts = []string{
	"CUDA failure 46:", "CUDA failure 214:", "CUDA failure 220:", "CUDA failure 226:", // devices unavailable, ECC, NVLink, contained
	"CUDA failure 700:", "CUDA failure 702:", "CUDA failure 709:", "CUDA failure 710:", // illegal address, timeout, context destroyed, assert
	"CUDA failure 714:", "CUDA failure 715:", "CUDA failure 716:", "CUDA failure 717:", "CUDA failure 718:", "CUDA failure 719:", // faults of kernels
	"CUDA failure 721:", "CUDA failure 810:", "CUDA failure 911:", // leaked tensor memory, the end of an MPS client, an external device
	"CUDA failure 999:", "illegal memory access", "unspecified launch failure", "device-side assert", "uncorrectable ECC error",
	"misaligned address", "illegal instruction", "GPU is lost", "fallen off the bus",
}

// deviceError says what an error of a run means: one of a lost device is Unhealthy, for good.
func (e *Engine) deviceError(err error) error {
	if status.CodeOf(err) != status.Inference {
		return err
	}
	for _, text := range lostTexts {
		if strings.Contains(err.Error(), text) {
			var lost error = status.Errorf(status.Unhealthy, "engine onnxruntime: %s is lost: %w", e.info.Device, err)
			e.lost.CompareAndSwap(nil, &lost)
			return lost
		}
	}
	return err
}
