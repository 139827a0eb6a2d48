package onnx

// Emulated makes options of cuda run on the CPU provider, whose kernels take float32 and lack the fused forms of
// attention.
func Emulated(o Options, precision string) Options {
	o.Device, o.Precision, o.emulate = CUDA, precision, true
	return o
}

// WithAttention makes attention take a form on cuda, wherever that form can express it.
func WithAttention(o Options, form string) Options {
	o.attention = attentionForm(form)
	return o
}

// The forms of attention on cuda.
const (
	FormPacked   = string(formPacked)
	FormPaged    = string(formPaged)
	FormGrouped  = string(formGrouped)
	FormMulti    = string(formMulti)
	FormProducts = string(formProducts)
)
