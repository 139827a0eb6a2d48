package onnx

import (
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

// BenchmarkCUDAAttention reports what one layer's attention takes by each operator of ONNX Runtime that can express it, for sequences of one
// length, which need no padding: what a form costs without the gathering round it, with the kernels that ONNX Runtime chooses and with those
// of one library (sdpa_kernel, a sum of AttentionBackend's in attention_kernel_options.h). What it cannot do is skipped, with its words.
func BenchmarkCUDAAttention(b *testing.B) {
	if suite.GPUs() == 0 {
		b.Skip("needs a CUDA device: set BEI_GPU_TESTS=1")
	}
	_, err := ort.Load(suite.Dependency(b, "gpu/onnxruntime/libonnxruntime.so.1"), true)
	require.NoError(b, err)
	for _, h := range []attentionHeads{{"qwen3-0.6b", 16, 8, 128, true}, {"bert-base", 12, 12, 64, false}} {
		for _, size := range [][2]int{{32, 512}, {128, 128}, {8, 512}} {
			for _, form := range h.forms() {
				for name, kernels := range map[string]string{"any": "0", "flash": "1", "cuDNN": "8"} {
					b.Run(fmt.Sprintf("%s/%dx%d/%s/%s", h.name, size[0], size[1], form.name, name), func(b *testing.B) {
						options := map[string]string{"sdpa_kernel": kernels}
						few, many := newAttentionRun(b, h, form, size, 2, options), newAttentionRun(b, h, form, size, 18, options)
						least := [2]time.Duration{time.Hour, time.Hour}
						for b.Loop() {
							for i, r := range []*attentionRun{few, many} {
								begin := time.Now()
								require.NoError(b, r.run(b))
								least[i] = min(least[i], time.Since(begin))
							}
						}
						b.ReportMetric(float64(least[1]-least[0])/16/1000, "us/layer")
					})
				}
			}
		}
	}
}

type attentionHeads struct {
	name                string
	heads, kvHeads, dim int
	causal              bool
}

// attentionOp adds one layer's attention, of query [rows, heads * dim] or as many dimensions as the form wants; rows are sequences of length.
type attentionOp struct {
	name   string
	query  func(sequences, length, width int) []int
	keys   func(sequences, length, heads, dim int) []int
	inputs func(r *attentionRun, q, k, v string) []string
	attrs  []attr
	domain string
	op     string
	more   int // outputs beside the first
}

func (h attentionHeads) forms() []attentionOp {
	batched := func(sequences, length, width int) []int { return []int{sequences, length, width} }
	joined := func(sequences, length, heads, dim int) []int { return []int{sequences, length, heads * dim} }
	byHead := func(sequences, length, heads, dim int) []int { return []int{sequences, heads, length, dim} }
	packed := func(sequences, length, width int) []int { return []int{sequences * length, width} }
	packedKeys := func(sequences, length, heads, dim int) []int { return []int{sequences * length, heads * dim} }
	scale := attr{"scale", float32(0.125)}
	ofGroups := []attr{{"num_heads", int64(h.heads)}, {"kv_num_heads", int64(h.kvHeads)}, scale}
	apart := func(_ *attentionRun, q, k, v string) []string { return []string{q, k, v} }

	attention := attentionOp{"Attention", batched, joined, apart, []attr{
		{"q_num_heads", int64(h.heads)}, {"kv_num_heads", int64(h.kvHeads)}, {"is_causal", flag(h.causal)}, scale,
	}, "", "Attention", 0}
	pagedInputs := func(r *attentionRun, q, k, v, slots string) []string {
		page := pageRows(h.dim)
		pages := (r.length + page - 1) / page
		keys, values := r.filled("key cache", r.sequences*pages, page, h.kvHeads, h.dim), r.filled("value cache", r.sequences*pages, page, h.kvHeads, h.dim)
		return []string{
			q, k, v, keys, values, r.ints(filledCuSeqLens, 0, r.length, r.sequences+1), r.ints(pastLengths, 0, 0, r.sequences),
			r.ints(blockTable, 0, 1, r.sequences, pages), "", "", slots, "", "", "", "", "", r.ints(attentionMetadata, r.length, 0, 3),
		}
	}
	pagedAttrs := append(slices.Clone(ofGroups), attr{"is_causal", flag(h.causal)})
	paged := attentionOp{"PagedAttention", packed, packedKeys, func(r *attentionRun, q, k, v string) []string {
		return pagedInputs(r, q, k, v, "")
	}, pagedAttrs, domainOfMicrosoft, "PagedAttention", 0}
	unwritten := attentionOp{"PagedAttention that writes nothing", packed, packedKeys, func(r *attentionRun, q, k, v string) []string {
		return pagedInputs(r, q, k, v, r.ints(noSlots, -1, 0, r.sequences*r.length))
	}, pagedAttrs, domainOfMicrosoft, "PagedAttention", 0}
	if h.causal {
		lengths := func(r *attentionRun) []string {
			return []string{r.ints("last", r.length-1, 0, r.sequences), r.ints("total", r.length, 0)}
		}
		return []attentionOp{
			paged, unwritten, attention,
			{"GroupQueryAttention", batched, joined, func(r *attentionRun, q, k, v string) []string {
				return append([]string{q, k, v, "", ""}, lengths(r)...)
			}, ofGroups, domainOfMicrosoft, "GroupQueryAttention", 2},
			// All keys are in the cache, which the operator then does not write.
			{"GroupQueryAttention of a cache", batched, byHead, func(r *attentionRun, q, k, v string) []string {
				none := r.filled("none", r.sequences, 0, h.kvHeads*h.dim)
				return append([]string{q, none, none, k, v}, lengths(r)...)
			}, ofGroups, domainOfMicrosoft, "GroupQueryAttention", 0},
		}
	}
	heads := []attr{{"num_heads", int64(h.heads)}, scale}
	return []attentionOp{
		paged, unwritten, attention,
		{"PackedMultiHeadAttention", packed, packedKeys, func(r *attentionRun, q, k, v string) []string {
			return []string{
				q, k, v, "", r.ints(tokenOffset, 0, 1, r.sequences, r.length), r.ints(filledCuSeqLens, 0, r.length, r.sequences+1),
			}
		}, heads, domainOfMicrosoft, "PackedMultiHeadAttention", 0},
		{"MultiHeadAttention", batched, joined, apart, heads, domainOfMicrosoft, "MultiHeadAttention", 0},
	}
}

// attentionRun is a session of some layers of attention, each of which takes what the one before it gave as its query.
type attentionRun struct {
	sequences, length int
	g                 *graph
	inputs, outputs   []ort.Tensor
	data              [][]byte // of the inputs
	session           *ort.Session
	runner            *ort.Runner
}

func newAttentionRun(b *testing.B, h attentionHeads, form attentionOp, size [2]int, layers int, options map[string]string) *attentionRun {
	opsets := slices.Clone(opsetsOfCUDA)
	if form.domain == "" {
		opsets[0].version = 23
	}
	r := &attentionRun{sequences: size[0], length: size[1], g: newGraph(ort.Float16, opsets...)}
	query := r.filled("query", form.query(r.sequences, r.length, h.heads*h.dim)...)
	key := r.filled("key", form.keys(r.sequences, r.length, h.kvHeads, h.dim)...)
	value := r.filled("value", form.keys(r.sequences, r.length, h.kvHeads, h.dim)...)
	for i := range layers {
		outputs := []string{fmt.Sprint("y", i)}
		for k := range form.more {
			outputs = append(outputs, fmt.Sprint("present", i, k))
		}
		r.g.add(form.domain, form.op, form.inputs(r, query, key, value), outputs, form.attrs...)
		query = outputs[0]
	}
	y := r.g.typedRows(ort.Float16, dim{size: 1}, 1)
	r.g.add("", "Reshape", []string{r.g.op("", "ReduceMax", []string{query}, attr{"keepdims", int64(0)}), r.longs("one by one", 1, 1)}, []string{y.name})
	r.g.output(y, outputPooled)

	builder, err := ort.NewBuilder(1)
	require.NoError(b, err)
	defer builder.Free()
	require.NoError(b, builder.CUDA(0, options))
	if r.session, err = builder.Session(r.g.encode()); err != nil {
		b.Skip(err)
	}
	b.Cleanup(r.session.Close)
	r.runner, err = ort.NewRunner()
	require.NoError(b, err)
	b.Cleanup(r.runner.Close)
	r.outputs = []ort.Tensor{{Name: outputPooled, Type: ort.Float32, Dims: []int{1, 1}}}
	memory, err := r.session.HostMemory(place(nil, r.inputs, r.outputs))
	require.NoError(b, err)
	b.Cleanup(func() { r.session.FreeHostMemory(memory) })
	place(memory, r.inputs, r.outputs)
	for i, data := range r.data {
		copy(r.inputs[i].Data, data)
	}
	if err := r.run(b); err != nil {
		b.Skip(err)
	}
	return r
}

func (r *attentionRun) run(b *testing.B) error {
	return r.runner.RunTensors(b.Context(), r.session, r.inputs, r.outputs)
}

// input adds an input and what it is, once.
func (r *attentionRun) input(name string, dtype ort.DataType, data []byte, sizes ...int) string {
	var dims []dim
	for _, n := range sizes {
		dims = append(dims, dim{size: n})
	}
	if count := len(r.g.inputs); r.g.input(name, dtype, dims...) != "" && len(r.g.inputs) > count {
		r.inputs, r.data = append(r.inputs, ort.Tensor{Name: name, Type: dtype, Dims: sizes}), append(r.data, data)
	}
	return name
}

func (r *attentionRun) longs(name string, numbers ...int) string {
	var data []byte
	for _, n := range numbers {
		data = binary.LittleEndian.AppendUint64(data, uint64(n))
	}
	return r.input(name, ort.Int64, data, len(numbers))
}

// ints are first, first + step, first + 2 * step, ...; without a size one number of no dimensions.
func (r *attentionRun) ints(name string, first, step int, sizes ...int) string {
	count := 1
	for _, size := range sizes {
		count *= size
	}
	var data []byte
	for i := range count {
		data = binary.LittleEndian.AppendUint32(data, uint32(first+i*step))
	}
	return r.input(name, ort.Int32, data, sizes...)
}

// filled is a tensor of small numbers on the device.
func (r *attentionRun) filled(name string, sizes ...int) string {
	if slices.ContainsFunc(r.g.nodes, func(n node) bool { return n.outputs[0] == name }) {
		return name
	}
	small := r.input("small", ort.Float32, []byte{0x0a, 0xd7, 0x23, 0x3c}, 1) // 0.01
	half := r.g.op("", "Cast", []string{small}, attr{"to", int64(ort.Float16)})
	r.g.add("", "Expand", []string{half, r.longs("sizes of "+name, sizes...)}, []string{name})
	return name
}
