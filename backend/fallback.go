package backend

import (
	"context"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
)

// fallback opens ONNX Runtime on the CPU in float32, for items whose outputs are not finite in the engine's precision; nil: that is
// float32 already, there are no weights, or these are more than the config allows.
func (b *Backend) fallback() pipeline.Fallback {
	if b.model == nil || b.engine.Info().Precision == onnx.Float32 {
		return nil
	}
	bytes, limit := b.float32Bytes(), b.config.rerunMaxBytes()
	if bytes > limit {
		b.log.Info("items whose outputs are not finite fail: they are not run again in float32", zap.Int64("float32_weights_bytes", bytes),
			zap.Int64("rerun_max_bytes", limit))
		return nil
	}
	length := b.engine.Info().Limits.MaxLength
	return func(ctx context.Context) (engine.Engine, error) {
		return onnx.Open(ctx, b.model, b.weights, onnx.Options{
			Library: b.config.ONNXRuntime.Library, Device: onnx.CPU, Precision: onnx.Float32, Threads: b.config.Threads, Slots: 1,
			Limits: engine.Limits{MaxLength: length, MaxTokens: length, MaxSequences: 1, BestTokens: length},
		})
	}
}

// float32Bytes is the size of the weights as float32.
func (b *Backend) float32Bytes() (bytes int64) {
	for _, name := range b.weights.Names() {
		shape, _ := b.weights.Shape(name)
		elements := int64(1)
		for _, n := range shape {
			elements *= int64(n)
		}
		bytes += 4 * elements
	}
	return bytes
}
