package onnx

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func loadLibrary(t *testing.T) {
	path := os.Getenv(ort.LibraryVariable)
	if path == "" {
		path = suite.Dependency(t, "onnxruntime/libonnxruntime.so.1")
	}
	_, err := ort.Load(path, false)
	require.NoError(t, err)
}

// one runs a graph of one operator over rows [5, 12], and returns how that fails.
func one(t *testing.T, op string, inputs func(b *binder, x string) []string, attrs []attr, change func(*ort.Packed)) error {
	loadLibrary(t)
	builder, err := ort.NewBuilder(2)
	require.NoError(t, err)
	defer builder.Free()
	g := newGraph(ort.Float32, opsetsOfCPU...)
	g.packedInputs()
	b := &binder{g: g, session: builder, bound: make(map[string]string)}
	defer b.release()
	x := g.rows(tokens, 12)
	g.add("", "Gather", []string{numbers(t, b, "table", 20, 12), inputIDs}, []string{x.name}, attr{"axis", int64(0)})
	y := g.value(ort.Float32, dim{name: "a"}, dim{name: "b"})
	g.add(domainOfBei, op, inputs(b, x.name), []string{y}, attrs...)
	g.output(rows{name: y, count: tokens, width: 4, dtype: ort.Float32}, outputTokenVectors)
	session, err := builder.Session(g.encode())
	if err != nil {
		return err
	}
	defer session.Close()
	runner, err := ort.NewRunner()
	require.NoError(t, err)
	defer runner.Close()
	p := &ort.Packed{
		InputIDs: []int32{1, 2, 3, 4, 5}, TypeIDs: make([]int32, 5), PositionIDs: []int32{0, 1, 2, 0, 1}, CuSeqLens: []int32{0, 3, 5}, PoolSkip: []int32{0, 0},
		TokenVectors: make([]float32, 5*4), TokenWidth: 4,
	}
	if change != nil {
		change(p)
	}
	return runner.Run(t.Context(), session, p)
}

// numbers makes a constant.
func numbers(t *testing.T, b *binder, key string, shape ...int) string {
	size := 1
	for _, n := range shape {
		size *= n
	}
	name, err := b.constant(key, ort.Float32, shape, make([]float32, size))
	require.NoError(t, err)
	return name
}

// attentionAttrs are of two heads of size two, with changes.
func attentionAttrs(changes ...attr) []attr {
	attrs := []attr{
		{"num_heads", int64(2)}, {"num_kv_heads", int64(2)}, {"head_dim", int64(2)}, {"scale", float32(1)}, {"causal", int64(0)},
		{"window_left", int64(-1)}, {"window_right", int64(-1)}, {"softcap", float32(0)}, {"qk_norm", int64(0)}, {"qk_norm_eps", float32(0)},
		{"qk_norm_one_plus_weight", int64(0)}, {"rope", int64(0)}, {"rope_dim", int64(0)},
	}
	for _, c := range changes {
		for i := range attrs {
			if attrs[i].name == c.name {
				attrs[i] = c
			}
		}
	}
	return attrs
}

// What does not fit is an error with the operator's and the input's name, never a fault.
func TestOperatorsRefuse(t *testing.T) {
	type inputs = func(*binder, string) []string
	plain := func(_ *binder, x string) []string { return []string{x, cuSeqLens} }
	with := func(position int, shape ...int) inputs {
		return func(b *binder, x string) []string {
			list := []string{x, cuSeqLens, "", "", "", "", "", "", "", "", "", ""}
			list[position] = numbers(t, b, "w", shape...)
			return list
		}
	}
	roped := func(positions, dims int) inputs {
		return func(b *binder, x string) []string {
			table := numbers(t, b, "rope", positions, dims)
			return []string{x, cuSeqLens, positionIDs, "", "", "", "", "", table, table}
		}
	}
	row := func(shape ...int) inputs {
		return func(b *binder, x string) []string { return []string{x, numbers(t, b, "w", shape...)} }
	}
	rope := attentionAttrs(attr{"rope", int64(1)}, attr{"rope_dim", int64(2)})
	cu := func(lengths ...int32) func(*ort.Packed) {
		return func(p *ort.Packed) { p.CuSeqLens, p.PoolSkip = lengths, make([]int32, len(lengths)-1) }
	}
	norm := []attr{{"norm", int64(1)}, {"eps", float32(1)}, {"one_plus_weight", int64(0)}}
	for name, c := range map[string]struct {
		op     string
		inputs inputs
		attrs  []attr
		change func(*ort.Packed)
		want   string
	}{
		"heads that do not fit": {"Attention", plain, attentionAttrs(attr{"head_dim", int64(3)}), nil, "qkv must be [tokens, 18]"},
		"kv heads":              {"Attention", plain, attentionAttrs(attr{"num_heads", int64(3)}), nil, "num_kv_heads 2 does not divide num_heads 3"},
		"no heads":              {"Attention", plain, attentionAttrs(attr{"num_heads", int64(0)}), nil, "num_heads is 0, outside [1, 65536]"},
		"missing attribute":     {"Attention", plain, attentionAttrs()[1:], nil, "num_heads"},
		"odd rope":              {"Attention", roped(4, 1), attentionAttrs(attr{"rope", int64(1)}, attr{"rope_dim", int64(1)}), nil, "rope_dim 1"},
		"rope without tables":   {"Attention", plain, rope, nil, "rope needs rope_cos"},
		"rope tables":           {"Attention", roped(4, 2), rope, nil, "must be [positions, 1]"},
		"position":              {"Attention", roped(2, 1), rope, nil, "position id 2 of row 2 is outside [0, 2)"},
		"negative position":     {"Attention", roped(4, 1), rope, func(p *ort.Packed) { p.PositionIDs[4] = -1 }, "position id -1 of row 4"},
		"bias":                  {"Attention", with(3, 11), attentionAttrs(), nil, "qkv_bias must be [12]"},
		"norm weight":           {"Attention", with(4, 3), attentionAttrs(attr{"qk_norm", int64(2)}), nil, "q_norm_weight must be [2]"},
		"norm weight's rank":    {"Attention", with(5, 2, 1), attentionAttrs(attr{"qk_norm", int64(2)}), nil, "k_norm_weight must be [2]"},
		"slopes":                {"Attention", with(10, 3), attentionAttrs(), nil, "alibi_slopes must be [2]"},
		"relative bias":         {"Attention", with(11, 2, 4), attentionAttrs(), nil, "relative_bias must be [2, 2 * max + 1]"},
		"rank":                  {"Attention", with(11, 2, 1, 1, 1, 1), attentionAttrs(), nil, "relative_bias has rank 5"},
		"cu_seqlens' start":     {"Attention", plain, attentionAttrs(), cu(1, 5), "cu_seqlens starts at 1"},
		"cu_seqlens fall":       {"Attention", plain, attentionAttrs(), cu(0, 4, 3), "cu_seqlens[2] is 3, after 4"},
		"cu_seqlens' end":       {"Attention", plain, attentionAttrs(), cu(0, 6), "cu_seqlens[1] is 6, after 0, with 5 tokens"},
		"softcap":               {"Attention", plain, attentionAttrs(attr{"softcap", float32(-1)}), nil, "softcap -1"},
		"window":                {"Attention", plain, attentionAttrs(attr{"window_left", int64(-2)}), nil, "window_left is -2"},
		"activation":            {"BiasActivation", row(12), []attr{{"activation", int64(-1)}}, nil, "activation is -1"},
		"activation's bias":     {"BiasActivation", row(5), []attr{{"activation", int64(1)}}, nil, "bias must be [12]"},
		"gate's bias":           {"GatedActivation", row(6), []attr{{"activation", int64(1)}, {"gate_first", int64(1)}}, nil, "bias must be [12]"},
		"gate's side":           {"GatedActivation", row(12), []attr{{"activation", int64(1)}, {"gate_first", int64(2)}}, nil, "gate_first is 2"},
		"norm's bias":           {"ResidualNorm", row(11), norm, nil, "x_bias must be [12]"},
		"norm's kind":           {"ResidualNorm", row(12), append([]attr{{"norm", int64(3)}}, norm[1:]...), nil, "norm is 3"},
		"norm's eps":            {"ResidualNorm", row(12), []attr{norm[0], {"eps", float32(-1)}, norm[2]}, nil, "eps -1"},
		"residual": {"ResidualNorm", func(b *binder, x string) []string { return []string{x, "", numbers(t, b, "w", 5, 11)} }, norm, nil,
			"residual must be [5, 12]"},
		"pooling":        {"Pool", plain, []attr{{"pooling", int64(9)}}, nil, "pooling is 9"},
		"pooling's ends": {"Pool", plain, []attr{{"pooling", int64(2)}}, cu(0, 9), "cu_seqlens[1] is 9"},
		"pooling's skip": {"Pool", func(_ *binder, x string) []string { return []string{x, cuSeqLens, poolSkip} }, []attr{{"pooling", int64(2)}},
			func(p *ort.Packed) { p.PoolSkip = []int32{0, -1} }, "skip[1] is -1"},
		"token id": {"Attention", plain, attentionAttrs(), func(p *ort.Packed) { p.InputIDs[0] = 20 }, "indices element out of data bounds"},
	} {
		t.Run(name, func(t *testing.T) { require.ErrorContains(t, one(t, c.op, c.inputs, c.attrs, c.change), c.want) })
	}
	require.NoError(t, one(t, "Attention", plain, attentionAttrs(), nil), "the right one")
	require.NoError(t, one(t, "Attention", plain, attentionAttrs(), cu(0, 0, 4)), "rows outside every sequence")
}

func TestUnknownChoicesAreRefused(t *testing.T) {
	require.Equal(t, status.Unsupported, status.CodeOf(supported(&arch.Model{Head: arch.Head{Kind: 77}})))
	require.Equal(t, int64(-1), number(actNumbers, arch.Activation(99)))
	require.Panics(t, func() { attr{"x", "text"}.encode() })
}
