package trt

import (
	"strings"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// Precisions are the values of Options.Precision, the exact one first.
func Precisions() []string { return []string{"float32", "float16", "bfloat16", "float8"} }

// Precisions by their name in a config's dtype: the type of the matrix products. FP8 products lie among float16.
var precisions = map[string]nvinfer.DType{
	"float32": nvinfer.Float32, "float16": nvinfer.Float16, "bfloat16": nvinfer.BFloat16, "float8": nvinfer.Float16,
}

// design is all that decides a plan, but for the weights' numbers.
type design struct {
	model     *arch.Model
	precision string
	limits    engine.Limits
	form      form
	amax      func(key string) (float32, bool) // of FP8; nil for others
}

// plan is a built network.
type plan struct {
	bytes         []byte
	outputs       engine.Outputs
	pooled, token int // columns
	tensors       []nvinfer.TensorInfo
	notes         map[string]int
	took          time.Duration
}

// build lowers the model and builds its plan. It needs no device.
func (d *design) build(library *nvinfer.Library, w *weights.Set) (*plan, error) {
	begin := time.Now()
	dtype, ok := precisions[d.precision]
	if !ok {
		return nil, status.Errorf(status.Unsupported, "dtype %q: engine tensorrt computes in %s", d.precision, strings.Join(Precisions(), ", "))
	}
	net, err := library.NewNetwork()
	if err != nil {
		return nil, err
	}
	defer net.Free()
	l := &lowering{
		g: newGraph(net), m: d.model, weights: w, form: d.form, dtype: dtype, amax: d.amax, limits: d.limits, notes: make(map[string]int),
	}
	if err := l.lower(); err != nil {
		return nil, err
	}
	p := &plan{outputs: l.outputs, pooled: l.pooled, token: l.token, notes: l.notes}
	if p.bytes, err = net.Build(nvinfer.BuildOptions{Inputs: d.ranges()}); err != nil {
		return nil, err
	}
	p.tensors, err = net.Tensors()
	p.took = time.Since(begin)
	return p, err
}

// ranges is the profile: kernels are chosen for full launches of sequences of middling length.
func (d *design) ranges() []nvinfer.Range {
	m, p := d.limits, planesOf(d.model)
	length := min(m.MaxLength, 256, m.BestTokens)
	n := max(1, min(m.MaxSequences, m.BestTokens/length))
	return []nvinfer.Range{
		{Name: inputTokens, Least: []int{p.tokens, 1, 1}, Best: []int{p.tokens, n, length}, Most: []int{p.tokens, m.MaxSequences, m.MaxLength}},
		{Name: inputSequences, Least: []int{p.sequences, 1}, Best: []int{p.sequences, n}, Most: []int{p.sequences, m.MaxSequences}},
	}
}
