package backend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/auto"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// What two engines on one device need: each holds the weights, and as much again for runs in flight. TensorRT, which is opened first and
// takes what it needs at once, is kept to its share.
const (
	weightsOfTwo = 4 // times the bytes of the weights that must be free
	shareOfTwo   = 0.5
)

// openers open the engines that engine "auto" chooses from.
type openers struct {
	tensorRT func(ctx context.Context, share float64) (engine.Engine, error) // share of the free device memory; 0: its default
	cuda     func(ctx context.Context) (engine.Engine, error)                // ONNX Runtime
	cpu      func(ctx context.Context) (engine.Engine, error)                // ONNX Runtime
}

// openAuto opens the best engine of this machine for the model.
func (b *Backend) openAuto(ctx context.Context) (engine.Engine, string, error) {
	a := automatic{Backend: b, weightsBytes: b.weights.TotalBytes(), open: openers{
		tensorRT: b.openTensorRT,
		cuda:     func(ctx context.Context) (engine.Engine, error) { return b.openONNXRuntime(ctx, onnx.CUDA) },
		cpu:      func(ctx context.Context) (engine.Engine, error) { return b.openONNXRuntime(ctx, onnx.CPU) },
	}}
	e, choice, err := a.choose(ctx)
	return e, "auto: " + choice, err
}

// automatic chooses an engine, once.
type automatic struct {
	*Backend
	open         openers
	weightsBytes int64
	errs         []error  // of engines that failed to open
	refused      []string // engines that are not used, and why
}

// choose opens what the devices and the config allow, and measures where there is a choice. Without a GPU, or where none of its engines
// opens, the CPU runs the model, unless a GPU was asked for.
func (a *automatic) choose(ctx context.Context) (engine.Engine, string, error) {
	c := &a.config
	wanted := c.Device == onnx.CUDA || len(c.Devices) > 0
	switch {
	case c.Device == onnx.CPU:
		return a.onCPU(ctx, `device "cpu" was asked for`)
	case !wanted && len(a.monitor.Devices()) == 0:
		return a.onCPU(ctx, fmt.Sprintf("no NVIDIA device (%s)", a.monitor.Describe()))
	}
	e, choice, err := a.onGPU(ctx)
	switch {
	case e != nil || err != nil:
		return e, choice, err
	case wanted:
		return nil, "", status.Errorf(a.code(), "engine \"auto\": no engine opens on a GPU, and the options ask for one: %w", errors.Join(a.errs...))
	}
	e, choice, err = a.onCPU(ctx, "no engine opens on a GPU")
	if err != nil {
		a.errs = append(a.errs, fmt.Errorf("onnxruntime on the CPU: %w", err))
		return nil, "", status.Errorf(status.CodeOf(err), "engine \"auto\": no engine opens: %w", errors.Join(a.errs...))
	}
	return e, a.withRefused(choice), nil
}

func (a *automatic) onCPU(ctx context.Context, reason string) (engine.Engine, string, error) {
	e, err := a.open.cpu(ctx)
	return e, reason + ": onnxruntime on the CPU", err
}

// onGPU opens TensorRT and ONNX Runtime on CUDA, as far as the config and the memory allow, and has them measured. Without an engine and
// an error none opened.
func (a *automatic) onGPU(ctx context.Context) (engine.Engine, string, error) {
	alone := a.onlyTensorRT()
	tight := ""
	if free, known := a.freeBytes(); known && alone == "" && free < weightsOfTwo*uint64(a.weightsBytes) {
		tight = fmt.Sprintf("two copies of the weights (%d MB each) with room for runs do not fit into the %d MB that are free", a.weightsBytes>>20, free>>20)
	}
	share := shareOfTwo
	if alone != "" || tight != "" {
		share = 0
	}
	var opened []auto.Candidate
	for _, candidate := range []struct {
		name, refused string
		open          func() (engine.Engine, error)
	}{
		{"tensorrt", "", func() (engine.Engine, error) { return a.open.tensorRT(ctx, share) }},
		{"onnxruntime", alone, func() (engine.Engine, error) { return a.open.cuda(ctx) }},
	} {
		if candidate.refused == "" && len(opened) > 0 {
			candidate.refused = tight
		}
		if candidate.refused != "" {
			a.refused = append(a.refused, fmt.Sprintf("%s: not used: %s", candidate.name, candidate.refused))
			continue
		}
		e, err := candidate.open()
		if err == nil {
			opened = append(opened, auto.Candidate{Name: candidate.name, Engine: e})
			continue
		}
		if ctx.Err() != nil {
			return nil, "", errors.Join(append([]error{err}, closed(opened)...)...)
		}
		a.log.Warn("auto: an engine is not used", zap.String("engine", candidate.name), zap.Error(err))
		a.errs = append(a.errs, fmt.Errorf("%s: %w", candidate.name, err))
		a.refused = append(a.refused, fmt.Sprintf("%s: not used: %v", candidate.name, err))
	}
	switch len(opened) {
	case 0:
		return nil, "", nil
	case 1:
		return opened[0].Engine, a.withRefused(opened[0].Name), nil
	}
	a.log.Info("auto: measuring engines", zap.String("first", opened[0].Name), zap.String("second", opened[1].Name))
	m := a.model
	tables := auto.Tables{Vocab: m.VocabSize, Types: max(m.Embeddings.TypeVocabSize, 1), FirstPosition: m.Embeddings.PositionOffset}
	e, choice, err := auto.Open(ctx, [2]auto.Candidate{opened[0], opened[1]}, tables, func(message string) { a.log.Error(message) })
	if err != nil && ctx.Err() == nil { // neither can run
		a.log.Warn("auto: no engine is used", zap.Error(err))
		a.errs, a.refused = append(a.errs, err), append(a.refused, fmt.Sprintf("not used: %v", err))
		return nil, "", nil
	}
	return e, choice, err
}

func closed(opened []auto.Candidate) []error {
	var errs []error
	for _, c := range opened {
		errs = append(errs, c.Engine.Close())
	}
	return errs
}

// onlyTensorRT says why nothing else can do what the config asks for on a GPU; "": ONNX Runtime can.
func (a *automatic) onlyTensorRT() string {
	switch c := &a.config; {
	case c.DType == "float8":
		return "dtype float8 is tensorrt's"
	case len(c.Devices) > 1:
		return fmt.Sprintf("it runs on one device, not %d", len(c.Devices))
	}
	return ""
}

// freeBytes is the free memory of the emptiest device: which of NVML's is CUDA's first is not known yet.
func (a *automatic) freeBytes() (free uint64, known bool) {
	for _, d := range a.monitor.Devices() {
		if d.MemoryTotal > 0 {
			free, known = max(free, d.MemoryTotal-min(d.MemoryUsed, d.MemoryTotal)), true
		}
	}
	return free, known
}

// code is the first engine's that could be tried, if there is one.
func (a *automatic) code() status.Code {
	if i := slices.IndexFunc(a.errs, func(err error) bool { return status.CodeOf(err) != status.NoBackend }); i >= 0 {
		return status.CodeOf(a.errs[i])
	}
	return status.NoBackend
}

// withRefused tells of the other engines behind a choice.
func (a *automatic) withRefused(choice string) string {
	return strings.Join(append([]string{choice}, a.refused...), "; ")
}
