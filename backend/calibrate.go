package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Calibrator runs texts through a model in float32 on the CPU and keeps the largest magnitude of what each linear map is given. One
// goroutine uses it.
type Calibrator struct {
	backend *Backend
	texts   int
	tokens  int64
	amax    map[string]float32
}

// OpenCalibrator opens the model of c.Model as Open does. The engine is onnxruntime on the CPU: c may name no other. The caller must
// Close it.
func OpenCalibrator(ctx context.Context, c Config) (*Calibrator, error) {
	if c.Engine != "" && c.Engine != "auto" && c.Engine != "onnxruntime" {
		return nil, status.Errorf(status.InvalidArgument, "options: engine %q cannot calibrate; leave it out or use \"onnxruntime\"", c.Engine)
	}
	if c.Device != "" && c.Device != "auto" && c.Device != "cpu" {
		return nil, status.Errorf(status.InvalidArgument, "options: device %q cannot calibrate; leave it out or use \"cpu\"", c.Device)
	}
	c.Engine, c.Device = "onnxruntime", "cpu"
	b, err := openBackend(ctx, c, true)
	if err != nil {
		return nil, err
	}
	if _, _, err := onnx.Maxima(b.engine); err != nil { // forgets the warm-up
		return nil, errors.Join(err, b.Close(context.Background()))
	}
	return &Calibrator{backend: b, amax: make(map[string]float32)}, nil
}

// Folder is where the model's files are: the folder that was named, or that of a hub's cache.
func (k *Calibrator) Folder() string { return k.backend.folder }

// Add runs texts, of which there may be as many as one call's items. promptName names the prompt before each; "": the default one. After
// an error nothing of them counts; where it concerns one text, item is its index, else -1.
func (k *Calibrator) Add(ctx context.Context, texts []string, promptName string) (item int, err error) {
	b := k.backend
	want := engine.Pooled
	switch outputs := b.engine.Info().Outputs; {
	case outputs&engine.Pooled != 0:
	case outputs&engine.Sparse != 0:
		want = engine.Sparse
	default:
		want = engine.TokenVectors
	}
	items := make([]Text, len(texts))
	for i, text := range texts {
		items[i] = Text{Text: text, Outputs: want}
	}
	codes, result := make([]status.Code, len(items)), Result{}
	out := Output{Rows: make([]float32, len(items)*b.engine.Info().PooledWidth), Status: codes, Result: &result}
	options := CallOptions{PromptName: promptName, Normalize: Off, Timeout: -1}
	failed := b.runTexts(ctx, "calibrate", items, options, out, want)
	amax, tokens, err := onnx.Maxima(b.engine) // after a failure it forgets the part that was run
	if failed != nil || err != nil {
		return -1, errors.Join(failed, err)
	}
	for i, code := range codes {
		if code != status.OK {
			return i, status.Errorf(code, "%s", strings.TrimPrefix(result.Items[i].Message, fmt.Sprintf("item %d: ", i)))
		}
	}
	for key, v := range amax {
		k.amax[key] = max(k.amax[key], v) // NaN stays
	}
	k.texts, k.tokens = k.texts+len(items), k.tokens+tokens
	return -1, nil
}

// Scales returns the maxima over all texts so far. It is an error if there were none, or if a map was given nothing but zeros.
func (k *Calibrator) Scales() (*calibration.Scales, error) {
	if k.texts == 0 {
		return nil, status.Errorf(status.InvalidArgument, "there are no texts to calibrate with")
	}
	return calibration.New(k.backend.weights.Fingerprint(), k.texts, k.tokens, calibration.Keys(k.backend.model), k.amax)
}

// Close releases everything.
func (k *Calibrator) Close() error { return k.backend.Close(context.Background()) }
