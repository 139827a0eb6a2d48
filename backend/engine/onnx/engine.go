// Package onnx is the engine that runs a Model on ONNX Runtime: on its CPU provider, or on its CUDA provider.
//
// The Model is lowered to a graph over packed rows [tokens, width]: nothing is padded, attention alone sees sequences.
// Matrix products are ONNX Runtime's. On the CPU attention, activations, norms and pooling are operators of ours on its
// threads (custom.go); on CUDA they are made of its own kernels (cuda.go), and what the graph needs to know of a batch is
// computed on the host (plan.go). weights.go says where weights lie.
package onnx

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// Options of an engine. Zero values are defaults.
type Options struct {
	Library   string        // path of the ONNX Runtime library; see ort.Load
	Device    string        // "cpu" (default) or "cuda"
	DeviceID  int           // which of the CUDA devices
	Precision string        // "float32" (default on the CPU), and on cuda "float16" (default there) or "bfloat16" (default for models stored in it)
	Threads   int           // of one run, the calling one included; default: physical cores that the process may use; on cuda 1
	Slots     int           // runs at once, which share the threads; default 1, on cuda 2
	Limits    engine.Limits // each zero field is a default; MaxLength and BestTokens are cut to what the rest allows
	// Calibrate makes every run look for the largest magnitude of each linear map's input, too; see Maxima. On the CPU only.
	Calibrate bool
	// Logger receives ONNX Runtime's warnings and errors, on its threads. It is one for the process: the last Open with
	// a Logger sets it.
	Logger func(severity ort.Severity, message string)

	// For tests: the form of attention on cuda, and cuda's graph on the CPU provider.
	attention attentionForm
	emulate   bool

	defaultTokens bool // Limits.MaxTokens was zero
}

// Devices and precisions of Options.
const (
	CPU  = "cpu"
	CUDA = "cuda"

	Float32  = "float32"
	Float16  = "float16"
	BFloat16 = "bfloat16"
)

var precisions = map[string]ort.DataType{Float32: ort.Float32, Float16: ort.Float16, BFloat16: ort.BFloat16}

// Limits of Options.
const (
	maxThreads = 1024
	maxSlots   = 64
	maxTokens  = 1 << 22
)

// Engine implements engine.Engine.
type Engine struct {
	info     engine.Info
	slots    []engine.Slot
	sessions []*ort.Session // one for all slots, or for each on CUDA
	weights  *ort.Weights   // that they share there
	graph    *deviceGraph   // nil on the CPU
	lost     atomic.Pointer[error]
	maxima   *maxima // nil: not opened for calibration
	stats    counters

	running sync.RWMutex // runs hold it for reading, Close for writing
	closed  bool
}

var _ engine.Engine = (*Engine)(nil)

// Open makes an engine for m, with its weights from w, which must stay open until Close. It runs one token, so that a
// graph that cannot run is an error here. Errors are *status.Error: NoBackend without the library, Unsupported for what
// the engine cannot express, InvalidArgument for options, WeightsNotFound and Start for the rest.
func Open(ctx context.Context, m *arch.Model, w *weights.Set, o Options) (engine.Engine, error) {
	if o.Device == CUDA && o.Precision == "" {
		o.Precision = autoPrecision(m, w)
	}
	o, err := o.withDefaults(m)
	if err != nil {
		return nil, err
	}
	version, err := ort.Load(o.Library, o.Device == CUDA && !o.emulate)
	if err != nil {
		return nil, err
	}
	if err := kernels.UseEnvironment(); err != nil {
		return nil, err
	}
	if o.Logger != nil {
		ort.SetLogger(o.Logger)
	}
	if ctx.Err() != nil {
		return nil, status.Errorf(status.Cancelled, "opening the engine: %w", context.Cause(ctx))
	}
	e := &Engine{info: engine.Info{
		Name: "onnxruntime", Version: version, Device: o.device(), Precision: o.Precision, Limits: o.Limits,
		Details: map[string]string{"threads": strconv.Itoa(o.Threads), "slots": strconv.Itoa(o.Slots)},
	}}
	if o.Device == CUDA {
		err = e.loadCUDA(m, w, o)
	} else {
		e.info.Details["kernels"] = kernels.Level()
		err = e.load(m, w, o)
	}
	if err != nil {
		return nil, err
	}
	for i := range o.Slots {
		s := &slot{engine: e, batch: engine.NewBatch(e.info.Limits), session: e.sessions[i%len(e.sessions)]}
		e.slots = append(e.slots, s)
		if s.runner, err = ort.NewRunner(); err != nil {
			return nil, e.failed(err)
		}
		if e.graph != nil {
			s.device = newDeviceRun(e.graph, s.session, s.runner)
		}
	}
	for i := range e.sessions {
		s := e.slots[i].(*slot)
		err := s.check(ctx)
		if err == nil && o.Device == CUDA && !o.emulate {
			err = s.capture(ctx, o.Logger)
		}
		if err != nil {
			return nil, e.failed(err)
		}
	}
	e.stats.reset()
	if e.maxima != nil { // the check's token is none of the caller's
		_, _, err = Maxima(e)
	}
	return e, err
}

func (e *Engine) failed(err error) error {
	_ = e.Close() // it has no error of its own
	return err
}

// load lowers the model and creates the session.
func (e *Engine) load(m *arch.Model, w *weights.Set, o Options) error {
	builder, err := ort.NewBuilder(o.Threads)
	if err != nil {
		return err
	}
	defer builder.Free()
	g := newGraph(ort.Float32, opsetsOfCPU...)
	g.packedInputs()
	b := &binder{g: g, set: w, session: builder, bound: make(map[string]string)}
	defer b.release()
	l := newLowering(g, b, m, o)
	l.operators = newCustomOperators(l)
	if err := l.lower(); err != nil {
		return err
	}
	l.describe(&e.info)
	if o.Calibrate {
		e.maxima = &maxima{keys: l.keys, amax: make([]float32, len(l.keys))}
	}
	session, err := builder.Session(g.encode())
	e.sessions = append(e.sessions, session)
	return err
}

func newLowering(g *graph, b *binder, m *arch.Model, o Options) *lowering {
	return &lowering{g: g, b: b, m: m, positions: max(m.Positions(o.Limits.MaxLength), m.Embeddings.PositionOffset+o.Limits.MaxLength), calibrate: o.Calibrate}
}

// Info implements engine.Engine.
func (e *Engine) Info() engine.Info { return e.info }

// Slots implements engine.Engine.
func (e *Engine) Slots() []engine.Slot { return e.slots }

// Health implements engine.Engine. A closed engine is not healthy, nor one whose device was lost.
func (e *Engine) Health() error {
	e.running.RLock()
	defer e.running.RUnlock()
	if e.closed {
		return status.Errorf(status.ShutDown, "engine onnxruntime is closed")
	}
	if lost := e.lost.Load(); lost != nil {
		return *lost
	}
	return nil
}

// Close implements engine.Engine. It waits for runs in progress; later ones fail with ShutDown.
func (e *Engine) Close() error {
	e.running.Lock()
	defer e.running.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	for _, s := range e.slots {
		if d := s.(*slot).device; d != nil {
			d.close()
		}
		if r := s.(*slot).runner; r != nil {
			r.Close()
		}
	}
	for _, s := range e.sessions {
		s.Close()
	}
	e.weights.Close()
	return nil
}
