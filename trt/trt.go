// Package trt is the room of the TensorRT engine: Model -> TensorRT network, over the internal C interface of trt/shim.
package trt

import (
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Open always fails with status.Unsupported: this build drives no TensorRT flavour.
func Open() (engine.Engine, error) {
	return nil, status.Errorf(status.Unsupported, "engine \"tensorrt\": this build of the library has no TensorRT flavour; use \"onnxruntime\"")
}
