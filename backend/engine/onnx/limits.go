package onnx

import (
	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Default limits. More tokens a run than BestTokens bring no throughput, and a short call waits for the run before it:
// see "Slots and tokens a run" in docs/measurements.md. Larger runs are for long sequences; activationBytes bounds what
// they cost.
const (
	defaultBestTokens   = 512
	defaultMaxSequences = 1024
	maxTokensStep       = 1024 // MaxTokens is a multiple of it, up to 16
	activationBytes     = 64 << 20
	// Models of very wide rows (a million labels) run fewer than the defaults rather than take more than this.
	mostBytes = 1 << 30
)

// withDefaults checks the options and fills in what is zero.
func (o Options) withDefaults(m *arch.Model) (Options, error) {
	if o.Device == "" {
		o.Device = CPU
	}
	switch {
	case o.Device == CUDA && o.Calibrate:
		return o, status.Errorf(status.Unsupported, "engine onnxruntime: calibrate on device %q: it calibrates on %q only", CUDA, CPU)
	case o.Device == CUDA:
		return o.withCUDADefaults(m)
	case o.Device != CPU:
		return o, status.Errorf(status.InvalidArgument, "engine onnxruntime: device %q; it must be %q or %q", o.Device, CPU, CUDA)
	case o.Precision == "":
		o.Precision = Float32
	case o.Precision != Float32:
		return o, status.Errorf(status.Unsupported, "engine onnxruntime: dtype %q on device %q: it computes in %q only", o.Precision, CPU, Float32)
	}
	if o.Threads == 0 {
		o.Threads = defaultThreads()
	}
	if o.Slots == 0 {
		o.Slots = 1
	}
	l := &o.Limits
	if l.MaxTokens == 0 {
		row := rowBytes(m)
		bounded := min(activationBytes/row, 16*maxTokensStep) / maxTokensStep * maxTokensStep
		l.MaxTokens = max(bounded, min(maxTokensStep, mostBytes/row), 1, min(m.MaxLength, maxTokens), l.BestTokens)
	}
	if l.MaxSequences == 0 {
		l.MaxSequences = max(1, min(defaultMaxSequences, mostBytes/(4*max(pooledWidth(m), 1))))
	}
	if l.MaxLength == 0 {
		l.MaxLength = m.MaxLength
	}
	if l.BestTokens == 0 {
		l.BestTokens = defaultBestTokens
	}
	return o.checked(m)
}

// checked checks the options, of which none is zero.
func (o Options) checked(m *arch.Model) (Options, error) {
	l, most := &o.Limits, maxTokens
	if o.Device == CUDA {
		most = maxCUDATokens
	}
	// A lower limit on runs lowers what lies within it.
	l.MaxLength = min(l.MaxLength, m.MaxLength, l.MaxTokens)
	l.BestTokens = min(l.BestTokens, l.MaxTokens)
	for _, f := range []struct {
		name        string
		value, most int
	}{
		{"threads", o.Threads, maxThreads},
		{"slots", o.Slots, maxSlots},
		{"limits.max_tokens", l.MaxTokens, most},
		{"limits.max_sequences", l.MaxSequences, most},
		{"limits.max_length", l.MaxLength, most},
		{"limits.best_tokens", l.BestTokens, most},
	} {
		if f.value < 1 || f.value > f.most {
			return o, status.Errorf(status.InvalidArgument, "engine onnxruntime: %s is %d; it must be 1 to %d", f.name, f.value, f.most)
		}
	}
	if l.Padded {
		return o, status.Errorf(status.InvalidArgument, "engine onnxruntime: limits.padded: the engine says itself whether its runs are padded")
	}
	return o, nil
}

// pooledWidth is the widest row of a sequence.
func pooledWidth(m *arch.Model) int {
	widest := m.HiddenSize * len(m.Head.Pooling.Modes)
	for i := range m.Head.Chain {
		widest = max(widest, m.Head.Chain[i].Linear.Out)
	}
	return widest
}

// rowBytes is what one token of a run needs at most at once: the widest of a layer's intermediate rows, and the stream.
func rowBytes(m *arch.Model) int {
	widest := m.HiddenSize
	for i := range m.Layers {
		layer := &m.Layers[i]
		qkv := (layer.Attention.Heads + 2*layer.Attention.KVHeads) * layer.Attention.HeadDim
		inner := layer.MLP.Intermediate
		if layer.MLP.Gated() {
			inner *= 3
		}
		widest = max(widest, qkv+layer.Attention.Heads*layer.Attention.HeadDim, inner)
	}
	if m.Head.Kind == arch.HeadTokenClassifier {
		widest = max(widest, pooledWidth(m))
	}
	if h := m.Head.Tokens; h != nil {
		widest = max(widest, h.Vector.Out+h.Weight.Out)
	}
	if m.Head.Kind == arch.HeadSparse {
		widest = max(widest, min(m.VocabSize, vocabularyPart))
	}
	return 4 * max(widest+3*m.HiddenSize, 1)
}
