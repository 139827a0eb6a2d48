package trt

import (
	"time"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// Precisions by their name in a config's dtype: the type of the stream and of the matrix products. FP8 products lie in a float16 stream.
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
	detailed  bool
}

// plan is a built network.
type plan struct {
	bytes         []byte
	inputs        []string
	outputs       engine.Outputs
	pooled, token int // columns
	notes         map[string]int
	took          time.Duration
}

// build lowers the model and builds its plan. It needs no device.
func (d *design) build(library *nvinfer.Library, w *weights.Set) (*plan, error) {
	begin := time.Now()
	dtype, ok := precisions[d.precision]
	if !ok {
		return nil, status.Errorf(status.Unsupported, "dtype %q: engine tensorrt computes in float32, float16, bfloat16 or float8", d.precision)
	}
	net, err := library.NewNetwork()
	if err != nil {
		return nil, err
	}
	defer net.Free()
	l := &lowering{
		g: newGraph(net), m: d.model, weights: w, form: d.form, dtype: dtype, amax: d.amax, notes: make(map[string]int),
		positions: max(d.model.MaxPositions, d.model.Embeddings.PositionOffset+d.limits.MaxLength),
	}
	if err := l.lower(); err != nil {
		return nil, err
	}
	p := &plan{inputs: l.inputs, outputs: l.outputs, pooled: l.pooled, token: l.token, notes: l.notes}
	p.bytes, err = net.Build(nvinfer.BuildOptions{Inputs: d.ranges(l.inputs), Detailed: d.detailed})
	p.took = time.Since(begin)
	return p, err
}

// ranges is the profile: kernels are chosen for full runs of sequences of middling length.
func (d *design) ranges(inputs []string) []nvinfer.Range {
	m := d.limits
	best := min(m.MaxLength, 256, m.BestTokens)
	var ranges []nvinfer.Range
	for _, name := range inputs {
		r := nvinfer.Range{Name: name, Least: []int{1}}
		switch name {
		case offsets:
			r.Best, r.Most = []int{best}, []int{m.MaxLength}
		case starts, lengths, poolSkip:
			r.Best, r.Most = []int{max(1, min(m.MaxSequences, m.BestTokens/best))}, []int{m.MaxSequences}
		default:
			r.Best, r.Most = []int{m.BestTokens}, []int{m.MaxTokens}
			if d.form.uniform {
				r.Least, r.Best, r.Most = []int{1, 1}, []int{max(1, min(m.MaxSequences, m.BestTokens/best)), best}, []int{m.MaxSequences, m.MaxLength}
			}
		}
		ranges = append(ranges, r)
	}
	return ranges
}
