package arch

import (
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// tensors names weights and checks them against the index. As with object, err has the first fault.
type tensors struct {
	index        Index
	parametrised bool // linear maps and tables may be stored as torch's parametrizations
	err          error
}

func (t *tensors) has(name string) bool {
	_, ok := t.index.Shape(name)
	return ok
}

// need returns the tensor with that name, which must be there in that shape.
func (t *tensors) need(name string, shape ...int) Tensor {
	if t.err != nil {
		return Tensor{}
	}
	found, ok := t.index.Shape(name)
	if !ok {
		t.err = status.Errorf(status.WeightsNotFound, "the weights have no tensor %s of shape %v%s", quote(name), shape, t.near(name))
		return Tensor{}
	}
	if !slices.Equal(found, shape) {
		t.err = status.Errorf(status.Start, "tensor %s has shape %v; by config.json it must have %v", quote(name), found, shape)
		return Tensor{}
	}
	if index, ok := t.index.(interface{ Usable(string) error }); ok {
		t.err = index.Usable(name)
	}
	return Tensor{Name: name, Shape: shape}
}

func (t *tensors) near(name string) string {
	index, ok := t.index.(interface{ Near(string) []string })
	if !ok {
		return ""
	}
	near := index.Near(name)
	if len(near) == 0 {
		return ""
	}
	for i := range near {
		near[i] = quote(near[i])
	}
	return "; near: " + strings.Join(near, ", ")
}

// weight is the name of a module's weight.
func (t *tensors) weight(module string) string {
	if t.parametrised && t.has(module+parametrised) {
		return module + parametrised
	}
	return module + ".weight"
}

// prefixOf is the first of prefixes with which there is a tensor of that name; "": there is none.
func (t *tensors) prefixOf(name string, prefixes ...string) string {
	for _, prefix := range prefixes {
		if t.has(prefix + name) {
			return prefix
		}
	}
	return ""
}

// linear is torch's nn.Linear with a bias.
func (t *tensors) linear(name string, in, out int) Linear {
	return t.linearBias(name, in, out, true)
}

// linearWithoutBias is torch's nn.Linear with bias=False.
func (t *tensors) linearWithoutBias(name string, in, out int) Linear {
	return t.linearBias(name, in, out, false)
}

func (t *tensors) linearBias(name string, in, out int, bias bool) Linear {
	l := Linear{Weight: t.need(t.weight(name), out, in), In: in, Out: out}
	if bias {
		l.Bias = t.need(name+".bias", out)
	}
	return l
}

// norm is layerNorm or rmsNorm.
func (t *tensors) norm(kind NormKind, name string, width int, eps float32) *Norm {
	if kind == RMSNorm {
		return t.rmsNorm(name, width, eps)
	}
	return t.layerNorm(name, width, eps)
}

// rmsNorm is x / sqrt(mean(x^2) + eps) * weight.
func (t *tensors) rmsNorm(name string, width int, eps float32) *Norm {
	return &Norm{Kind: RMSNorm, Weight: t.need(name+".weight", width), Eps: eps}
}

// layerNorm is torch's nn.LayerNorm. Checkpoints converted from TensorFlow call weight and bias gamma and beta.
func (t *tensors) layerNorm(name string, width int, eps float32) *Norm {
	weight, bias := name+".weight", name+".bias"
	if !t.has(weight) && t.has(name+".gamma") {
		weight, bias = name+".gamma", name+".beta"
	}
	return &Norm{Kind: LayerNorm, Weight: t.need(weight, width), Bias: t.need(bias, width), Eps: eps}
}
