// Package onnx is the engine that runs a Model on ONNX Runtime's CPU provider.
//
// The Model is lowered to a graph over packed rows [tokens, width]: nothing is padded, attention alone sees sequences.
// Matrix products are ONNX Runtime's; attention, activations, norms and pooling are operators of ours on its threads.
// weights.go says where weights lie.
package onnx

import (
	"context"
	"strconv"
	"sync"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// Options of an engine. Zero values are defaults.
type Options struct {
	Library string        // path of the ONNX Runtime library; see ort.Load
	Threads int           // of one run, the calling one included; default: physical cores that the process may use
	Slots   int           // runs at once, which share the threads; default 1
	Limits  engine.Limits // each zero field is a default; MaxLength and BestTokens are cut to what the rest allows
	// Calibrate makes every run look for the largest magnitude of each linear map's input, too; see Maxima.
	Calibrate bool
	// Logger receives ONNX Runtime's warnings and errors, on its threads. It is one for the process: the last Open with
	// a Logger sets it.
	Logger func(severity ort.Severity, message string)
}

// Limits of Options.
const (
	maxThreads = 1024
	maxSlots   = 64
	maxTokens  = 1 << 22
)

// Engine implements engine.Engine.
type Engine struct {
	info    engine.Info
	slots   []engine.Slot
	session *ort.Session
	maxima  *maxima // nil: not opened for calibration

	running sync.RWMutex // runs hold it for reading, Close for writing
	closed  bool
}

var _ engine.Engine = (*Engine)(nil)

// Open makes an engine for m, with its weights from w, which must stay open until Close. It runs one token, so that a
// graph that cannot run is an error here. Errors are *status.Error: NoBackend without the library, Unsupported for what
// the engine cannot express, InvalidArgument for options, WeightsNotFound and Start for the rest.
func Open(ctx context.Context, m *arch.Model, w *weights.Set, o Options) (engine.Engine, error) {
	o, err := o.withDefaults(m)
	if err != nil {
		return nil, err
	}
	version, err := ort.Load(o.Library)
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
		Name: "onnxruntime", Version: version, Device: "cpu", Precision: "float32", Limits: o.Limits,
		Details: map[string]string{
			"threads": strconv.Itoa(o.Threads), "slots": strconv.Itoa(o.Slots), "kernels": kernels.Level(),
		},
	}}
	if err := e.load(m, w, o); err != nil {
		return nil, err
	}
	for range o.Slots {
		s := &slot{engine: e, batch: engine.NewBatch(o.Limits)}
		e.slots = append(e.slots, s)
		if s.runner, err = ort.NewRunner(); err != nil {
			return nil, e.failed(err)
		}
	}
	if err := e.slots[0].(*slot).check(ctx); err != nil {
		return nil, e.failed(err)
	}
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
	g := newGraph()
	b := &binder{g: g, set: w, session: builder, bound: make(map[string]string)}
	defer b.release()
	l := &lowering{g: g, b: b, m: m, positions: max(m.MaxPositions, m.Embeddings.PositionOffset+o.Limits.MaxLength), calibrate: o.Calibrate}
	if err := l.lower(); err != nil {
		return err
	}
	e.info.Outputs, e.info.PooledWidth, e.info.TokenWidth = l.outputs, l.pooled, l.tokens
	if o.Calibrate {
		e.maxima = &maxima{keys: l.keys, amax: make([]float32, len(l.keys))}
	}
	e.session, err = builder.Session(g.encode())
	return err
}

// Info implements engine.Engine.
func (e *Engine) Info() engine.Info { return e.info }

// Slots implements engine.Engine.
func (e *Engine) Slots() []engine.Slot { return e.slots }

// Health implements engine.Engine. There is no device to lose: only a closed engine is not healthy.
func (e *Engine) Health() error {
	e.running.RLock()
	defer e.running.RUnlock()
	if e.closed {
		return status.Errorf(status.ShutDown, "engine onnxruntime is closed")
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
		if r := s.(*slot).runner; r != nil {
			r.Close()
		}
	}
	e.session.Close()
	return nil
}
