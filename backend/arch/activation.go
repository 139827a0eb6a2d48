package arch

import (
	"maps"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// activations by the names of transformers' hidden_act (ACT2FN in its activations.py). gelu_fast writes the tanh form's constant
// with ten digits, gelu_new and gelu_accurate with all: the same function in float32.
var activations = map[string]Activation{
	"gelu": GELU, "gelu_python": GELU,
	"gelu_new": GELUTanh, "gelu_fast": GELUTanh, "gelu_accurate": GELUTanh, "gelu_pytorch_tanh": GELUTanh, "gelu_python_tanh": GELUTanh,
	"quick_gelu": QuickGELU, "relu": ReLU, "silu": SiLU, "swish": SiLU, "tanh": Tanh, "linear": Identity,
}

// torchActivations by class, in torch.nn.
var torchActivations = map[string]Activation{
	"Identity": Identity, "Tanh": Tanh, "ReLU": ReLU, "GELU": GELU, "SiLU": SiLU,
}

// activation reads a key with one of transformers' names.
func (o *object) activation(key, fallback string) Activation {
	name := o.text(key, fallback)
	a, ok := activations[name]
	if !ok {
		o.fail(status.Unsupported, "%s %s is not supported; supported: %s", key, quote(name), strings.Join(slices.Sorted(maps.Keys(activations)), ", "))
	}
	return a
}

// torchActivation reads a key with a class path, such as torch.nn.modules.activation.Tanh.
func (o *object) torchActivation(key, fallback string) Activation {
	path := o.text(key, fallback)
	class := path[strings.LastIndexByte(path, '.')+1:]
	a, ok := torchActivations[class]
	if !ok || !strings.HasPrefix(path, "torch.nn.") {
		o.fail(status.Unsupported, "%s %s is not supported; supported of torch.nn: %s", key, quote(path), strings.Join(slices.Sorted(maps.Keys(torchActivations)), ", "))
	}
	return a
}
