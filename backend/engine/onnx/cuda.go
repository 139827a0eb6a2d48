package onnx

import (
	"fmt"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// cudaOperators implements operators on a GPU, by kernels that ONNX Runtime's CUDA provider has. All but the fused
// attention have kernels on the CPU too, so that tests check them without a GPU.
type cudaOperators struct {
	l     *lowering
	force attentionForm     // tests choose one; "": the best
	forms map[string]bool   // what attention became: for info
	once  map[string]string // tensors that layers share, by what they are
	block int               // rows of a page of PagedAttention's cache
	// padded says that a run costs sequences times the longest of them.
	padded bool
	// scores is the number of heads whose scores, or what is added to them, are held in memory.
	scores int
}

// rowsOfBias is what the number of rows of a bias must be a multiple of for the fused kernels that read one.
const rowsOfBias = 8

func newCUDAOperators(l *lowering, force attentionForm) *cudaOperators {
	c := &cudaOperators{l: l, force: force, forms: make(map[string]bool), once: make(map[string]string)}
	for i := range l.m.Layers {
		c.block = max(c.block, pageRows(l.m.Layers[i].Attention.HeadDim))
	}
	return c
}

// shared returns the tensor of that key, which make makes the first time.
func (c *cudaOperators) shared(key string, make func() string) string {
	if _, ok := c.once[key]; !ok {
		c.once[key] = make()
	}
	return c.once[key]
}

// shape binds the shape of a Reshape: 0 copies a size, -1 is what is left.
func (c *cudaOperators) shape(sizes ...int) string {
	return c.shared(fmt.Sprint("shape", sizes), func() string { return c.l.b.sizes(sizes...) })
}

func (c *cudaOperators) reshape(x string, sizes ...int) string {
	return c.l.g.op("", "Reshape", []string{x, c.shape(sizes...)})
}

func (c *cudaOperators) activate(x rows, bias string, act arch.Activation) rows {
	g := c.l.g
	if x.absent() {
		return x
	}
	switch act {
	case arch.GELU:
		if bias == "" {
			return g.same(domainOfMicrosoft, "Gelu", x, nil)
		}
		return g.same(domainOfMicrosoft, "BiasGelu", x, []string{bias})
	case arch.GELUTanh:
		if bias == "" && x.width%2 == 1 {
			// Without a bias the kernel takes 16-bit numbers in pairs and leaves the last one of an odd number undone: docs/measurements.md.
			zeros, err := c.l.b.constant(fmt.Sprintf("zeros %d of %d", x.width, x.dtype), x.dtype, []int{x.width}, make([]float32, x.width))
			if err != nil {
				c.l.refuse("%v", err)
			}
			bias = zeros
		}
		return g.same(domainOfMicrosoft, "FastGelu", x, []string{bias})
	}
	if bias != "" {
		x = g.same("", "Add", x, []string{bias})
	}
	switch act {
	case arch.Identity:
	case arch.QuickGELU:
		x = g.same(domainOfMicrosoft, "QuickGelu", x, nil, attr{"alpha", float32(1.702)})
	case arch.SiLU:
		x = g.same(domainOfMicrosoft, "QuickGelu", x, nil, attr{"alpha", float32(1)})
	case arch.ReLU:
		x = g.same("", "Relu", x, nil)
	case arch.Tanh:
		x = g.same("", "Tanh", x, nil)
	default:
		c.l.refuse("activation %d on cuda", act)
	}
	return x
}

// apart has a product of its own for each of widths: cutting a joined one would cost a pass over memory.
func (c *cudaOperators) apart(x rows, maps []arch.Linear, widths ...int) ([]rows, []string, error) {
	cut, err := c.l.b.cut(maps, widths...)
	if err != nil {
		return nil, nil, err
	}
	parts, biases := make([]rows, len(cut)), make([]string, len(cut))
	for i, w := range cut {
		if parts[i], biases[i], err = c.l.product(x, w, maps); err != nil {
			return nil, nil, err
		}
	}
	return parts, biases, nil
}

func (c *cudaOperators) gated(x rows, m *arch.MLP) (rows, error) {
	maps, widths := []arch.Linear{m.Gate, m.Up}, []int{m.Gate.Out, m.Up.Out}
	if half := m.GateUp.Out / 2; half > 0 {
		maps, widths = []arch.Linear{m.GateUp}, []int{half, half}
	}
	parts, biases, err := c.apart(x, maps, widths...)
	if err != nil {
		return x, err
	}
	gate, up := 0, 1
	if m.GateUp.Out > 0 && m.UpFirst {
		gate, up = up, gate
	}
	if parts[gate].width != parts[up].width {
		return x, status.Errorf(status.Start, "gate %q yields %d columns; up yields %d", m.Gate.Weight.Name, parts[gate].width, parts[up].width)
	}
	activated := c.activate(parts[gate], biases[gate], m.Activation)
	return c.l.g.same("", "Mul", activated, []string{c.activate(parts[up], biases[up], arch.Identity).name}), nil
}

// normWeights binds weight and bias of a norm of that width; a weight is always there.
func (c *cudaOperators) normWeights(n *arch.Norm, width int) (weight, bias string, err error) {
	b := c.l.b
	switch {
	case n.Weight.Absent():
		ones := make([]float32, width)
		for i := range ones {
			ones[i] = 1
		}
		weight, err = b.constant(fmt.Sprint("ones ", width), c.l.g.dtype, []int{width}, ones)
	case n.OnePlusWeight:
		weight, err = b.make("one plus "+n.Weight.Name, c.l.g.dtype, n.Weight.Shape, func(dst []float32) ([]float32, error) {
			stored, err := b.open(n.Weight)
			if err != nil {
				return nil, err
			}
			dst = stored.AppendFloat32(dst)
			for i := range dst {
				dst[i]++
			}
			return dst, nil
		})
	default:
		weight, err = b.tensor(n.Weight)
	}
	if err != nil {
		return "", "", err
	}
	bias, err = b.tensor(n.Bias)
	return weight, bias, err
}

// norm has its statistics in float32: LayerNormalization by definition, the fused ones in the provider's strict mode.
func (c *cudaOperators) norm(x rows, bias string, n *arch.Norm, residual rows, sum *rows) (rows, error) {
	g := c.l.g
	if n.Kind != arch.LayerNorm && n.Kind != arch.RMSNorm {
		c.l.refuse("norm kind %d on cuda", n.Kind)
		return x, nil
	}
	weight, offset, err := c.normWeights(n, x.width)
	if err != nil {
		return x, err
	}
	y := g.rows(x.count, x.width)
	eps := attr{"epsilon", n.Eps}
	switch {
	case residual.absent():
		x = g.cast(c.activate(x, bias, arch.Identity), g.dtype)
		op, inputs := "LayerNormalization", []string{x.name, weight, offset}
		if n.Kind == arch.RMSNorm {
			op, inputs = "SimplifiedLayerNormalization", inputs[:2]
		}
		g.add("", op, inputs, []string{y.name}, attr{"axis", int64(-1)}, eps, attr{"stash_type", int64(1)})
	default:
		op, inputs := "SkipLayerNormalization", []string{x.name, residual.name, weight, offset, bias}
		if n.Kind == arch.RMSNorm {
			op, inputs = "SkipSimplifiedLayerNormalization", []string{x.name, residual.name, weight, bias}
		}
		outputs := []string{y.name}
		if sum != nil {
			outputs = append(outputs, "", "", sum.name)
		}
		g.add(domainOfMicrosoft, op, inputs, outputs, eps)
	}
	if n.Kind == arch.RMSNorm && offset != "" {
		y = g.same("", "Add", y, []string{offset})
	}
	return y, nil
}
