package backend

import (
	"context"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt"
)

// limits are the engine's limits as far as the config sets them.
func (c Config) limits() engine.Limits {
	return engine.Limits{MaxTokens: c.MaxTokens, MaxSequences: c.MaxSequences, MaxLength: c.MaxLength, BestTokens: c.BestTokens}
}

// openEngine opens what the config asks for, and says why it is what it is.
func (b *Backend) openEngine(ctx context.Context) (e engine.Engine, choice string, err error) {
	c := &b.config
	if c.Engine == "mock" {
		m := c.Mock
		if b.tokenizer != nil && m.VocabSize == 0 {
			m.VocabSize = b.tokenizer.VocabSize()
		}
		return mock.Open(m, c.Slots, c.limits()), "asked for", nil
	}
	if c.Engine == "tensorrt" && c.Device == "cpu" {
		return nil, "", status.Errorf(status.InvalidArgument, "options: engine \"tensorrt\" runs on device \"cuda\", not \"cpu\"")
	}
	if b.weights, err = weights.Open(b.folder); err != nil {
		return nil, "", err
	}
	if err := b.readModel(); err != nil {
		return nil, "", err
	}
	b.log.Info("opening", zap.String("model", c.Model), zap.String("family", b.model.Family), zap.Int("layers", len(b.model.Layers)),
		zap.Int("hidden_size", b.model.HiddenSize), zap.Int64("weights_bytes", b.weights.TotalBytes()))
	switch {
	case c.Engine == "tensorrt":
		e, err = b.openTensorRT(ctx, 0)
		return e, "asked for", err
	case c.Engine == "onnxruntime":
		e, err = b.openONNXRuntime(ctx, c.Device)
		return e, "asked for", err
	}
	return b.openAuto(ctx)
}

// readModel reads what the model is, and how its pairs become texts.
func (b *Backend) readModel() (err error) {
	options, err := b.readOptions()
	if err != nil {
		return err
	}
	var decisions []arch.Decision
	b.model, decisions, err = arch.Explain(b.folder, b.weights, options)
	b.decisions = append(b.decisions, decisions...)
	if err != nil || b.model.Text.Template == nil {
		return err
	}
	b.template, err = b.tokenizer.NewPairTemplate(b.model.Text.Template)
	return err
}

// readOptions are what the config says of the model. The tokenizer is open where it asks for a reranker.
func (b *Backend) readOptions() (arch.Options, error) {
	options := arch.Options{Pooling: b.config.Pooling}
	if b.config.Reranker != "" { // qwen3
		var score [2]uint32
		for i, token := range []string{"yes", "no"} {
			var ok bool
			if score[i], ok = b.tokenizer.Token(token); !ok {
				return options, status.Errorf(status.Start, "options: reranker %q needs the token %q, which tokenizer.json does not have", b.config.Reranker, token)
			}
		}
		options.Reranker = &arch.Reranker{Score: arch.TokenScore{True: int(score[0]), False: int(score[1])}, Template: arch.Qwen3Reranker}
	}
	return options, nil
}

// modelLimits are the config's limits, cut to the model's.
func (b *Backend) modelLimits() engine.Limits {
	limits := b.config.limits()
	if limits.MaxLength == 0 || limits.MaxLength > b.model.MaxLength {
		limits.MaxLength = b.model.MaxLength
	}
	return limits
}

// precision is the config's dtype; "": the engine's choice.
func (c Config) precision() string {
	if c.DType == "auto" {
		return ""
	}
	return c.DType
}

// openONNXRuntime opens ONNX Runtime on device "cpu" or "cuda"; "" and "auto" are "cpu".
func (b *Backend) openONNXRuntime(ctx context.Context, device string) (engine.Engine, error) {
	c := &b.config
	o := onnx.Options{
		Library: c.ONNXRuntime.Library, Device: device, Precision: c.precision(), Threads: c.Threads, Slots: c.Slots, Limits: b.modelLimits(),
		Calibrate: b.calibrates, Logger: logONNXRuntime(b.log),
	}
	if device == "auto" {
		o.Device = ""
	}
	switch {
	case len(c.Devices) > 1:
		return nil, status.Errorf(status.Unsupported, "devices: engine \"onnxruntime\" runs on one device, not %d; engine \"tensorrt\" takes several", len(c.Devices))
	case len(c.Devices) == 1:
		o.DeviceID = c.Devices[0]
	}
	return onnx.Open(ctx, b.model, b.weights, o)
}

// openTensorRT opens TensorRT on the config's devices. Where the config does not bound its memory it takes share of what is free; 0: its
// default.
func (b *Backend) openTensorRT(ctx context.Context, share float64) (engine.Engine, error) {
	c := &b.config
	o := trt.Options{
		LibraryOptions: trt.LibraryOptions{Library: c.TensorRT.Library, Flavour: c.TensorRT.Flavour},
		Devices:        c.Devices, Precision: c.precision(), Slots: c.Slots, Limits: b.modelLimits(),
		Cache: c.TensorRT.Cache, CacheBytes: c.TensorRT.CacheBytes, MemoryBytes: uint64(c.TensorRT.MemoryBytes), MemoryShare: share,
		Logger: logTensorRT(b.log),
	}
	if o.Precision == "float8" {
		var err error
		if o.Scales, err = calibration.Read(b.folder, b.model, b.weights.Fingerprint()); err != nil {
			return nil, err
		}
	}
	return trt.Open(ctx, b.model, b.weights, o)
}
