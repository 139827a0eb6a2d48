package onnx

import (
	"fmt"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
)

// cudaOperators implements operators on a GPU: products and attention by kernels that ONNX Runtime's CUDA provider has, what
// works on rows by ours (cuda/kernels.cu). All but the fused attention and Heads have kernels on the CPU
// too, so that tests check them without a GPU.
type cudaOperators struct {
	rowOperators
	onCPU bool              // with the operators that have kernels there
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

// newCUDAOperators makes the operators of a graph; emulated: for the CPU provider, where the dtype is float32.
func newCUDAOperators(l *lowering, force attentionForm, emulated bool) *cudaOperators {
	onCPU, domain := emulated && l.g.dtype == ort.Float32, domainOnCUDA
	if onCPU {
		domain = func(ort.DataType) string { return domainOfBei }
	}
	c := &cudaOperators{rowOperators: rowOperators{l, domain}, onCPU: onCPU, force: force, forms: make(map[string]bool), once: make(map[string]string)}
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

// norm refuses rows that are too long for its kernel.
func (c *cudaOperators) norm(x rows, bias string, n *arch.Norm, residual rows, sum *rows) (rows, error) {
	at, most := 16/dtypeBytes(c.l.g.dtype), maxNormPortions
	if x.width%at == 0 {
		most *= at
	}
	if x.width > most {
		c.l.refuse("norm of %d columns on cuda: the limit is %d", x.width, most)
	}
	return c.rowOperators.norm(x, bias, n, residual, sum)
}

// maxNormPortions is OPS_CUDA_MAX_PORTIONS of ort/ops.h.
const maxNormPortions = 4096

func dtypeBytes(d ort.DataType) int {
	if d == ort.Float32 {
		return 4
	}
	return 2
}

// domainOnCUDA is the domain of our operators on CUDA for rows of a dtype.
func domainOnCUDA(d ort.DataType) string {
	switch d {
	case ort.Float16:
		return domainOfFloat16
	case ort.BFloat16:
		return domainOfBFloat16
	}
	return domainOfFloat32
}
