package onnx

import (
	"sync"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// maxima are the largest magnitudes of the linear maps' inputs over all runs of an engine that was opened with Options.Calibrate.
type maxima struct {
	keys []string // calibration's, in the order of the graph's output

	mu     sync.Mutex // guards what follows
	amax   []float32
	tokens int64
}

// add takes one run in.
func (m *maxima) add(amax []float32, tokens int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tokens += int64(tokens)
	for i, v := range amax {
		if v > m.amax[i] || v != v { // NaN comes and stays
			m.amax[i] = v
		}
	}
}

// Maxima returns what e's runs have seen since it was opened or since the last call, and forgets it: by the keys of package
// calibration, the largest magnitude of each linear map's input, and the number of tokens. Runs that failed are not in it. e must have
// been opened by Open with Options.Calibrate: others are status.Unsupported.
func Maxima(e engine.Engine) (amax map[string]float32, tokens int64, err error) {
	o, ok := e.(*Engine)
	if !ok || o.maxima == nil {
		return nil, 0, status.Errorf(status.Unsupported, "engine %s was not opened for calibration", e.Info().Name)
	}
	m := o.maxima
	m.mu.Lock()
	defer m.mu.Unlock()
	amax = make(map[string]float32, len(m.keys))
	for i, key := range m.keys {
		amax[key] = m.amax[i]
	}
	tokens = m.tokens
	clear(m.amax)
	m.tokens = 0
	return amax, tokens, nil
}

// observe makes the largest magnitude of rows one number of the output of maxima, where there is one.
func (l *lowering) observe(key string, x rows) {
	if !l.calibrate {
		return
	}
	one := dim{size: 1}
	top := rows{l.g.value(ort.Float32, one, one), one, 1, ort.Float32}
	l.g.add("", "ReduceMax", []string{l.g.same("", "Abs", x, nil).name}, []string{top.name}, attr{"keepdims", int64(1)})
	l.keys, l.maxima = append(l.keys, key), append(l.maxima, top)
}
