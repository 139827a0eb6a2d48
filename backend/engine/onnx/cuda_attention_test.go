package onnx

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

// PagedAttention's own rope knows no position ids: what it is given is rotated before, by these.
func TestPagedAttentionIsGivenRotatedRows(t *testing.T) {
	loadLibrary(t)
	layers := 0
	for _, c := range append(suite.Golden(t, arch.HeadEmbedding), suite.Synthetic(t)...) {
		builder, err := ort.NewBuilder(1)
		require.NoError(t, err)
		o, err := Options{Device: CUDA, Precision: Float16, attention: formPaged}.withDefaults(c.Model)
		require.NoError(t, err)
		g := newGraph(ort.Float16, opsetsOfCUDA...)
		b := &binder{g: g, set: c.Weights, session: builder, bound: make(map[string]string), device: true}
		l := newLowering(g, b, c.Model, o)
		operators := newCUDAOperators(l, o.attention, false)
		l.operators = operators
		require.NoError(t, l.lower())
		from := make(map[string]node)
		for _, n := range g.nodes {
			for _, name := range n.outputs {
				from[name] = n
			}
		}
		paged := slices.DeleteFunc(slices.Clone(g.nodes), func(n node) bool { return n.op != "PagedAttention" })
		for i := range c.Model.Layers {
			a := &c.Model.Layers[i].Attention
			if !operators.expresses(formPaged, a) {
				continue
			}
			n := paged[0]
			paged = paged[1:]
			require.False(t, slices.ContainsFunc(n.attrs, func(a attr) bool { return a.name == "do_rotary" }))
			require.Equal(t, []string{"", ""}, n.inputs[8:10], "tables")
			split := operators.splits(a)
			if split { // keys and values are in the cache, to which the operator must not write
				made := from[n.inputs[0]]
				require.Equal(t, "Heads", made.op, c.Name)
				require.Len(t, made.outputs, 1)
				require.Equal(t, []string{cacheSlots, n.inputs[3], n.inputs[4]}, made.inputs[9:])
				require.Equal(t, noSlots, n.inputs[10])
			}
			if a.Rope == nil {
				continue
			}
			layers++
			if split {
				require.Equal(t, positionIDs, from[n.inputs[0]].inputs[1])
				continue
			}
			require.Empty(t, n.inputs[10])
			for _, x := range n.inputs[:2] {
				turned := from[from[x].inputs[0]]
				require.Equal(t, "RotaryEmbedding", turned.op, c.Name)
				require.Equal(t, []string{positionIDs}, from[from[turned.inputs[1]].inputs[0]].inputs)
			}
		}
		require.Empty(t, paged)
		b.release()
		builder.Free()
	}
	require.Greater(t, layers, 4)
}

// Rope in float16, where position ids are any and as great as they get, against float64.
func TestRopeInFloat16(t *testing.T) {
	loadLibrary(t)
	const headDim, headCount, count, positions = 16, 3, 64, 40960
	const width = headDim * headCount
	random := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []arch.RopeKind{arch.RopeHalf, arch.RopeInterleaved} {
		r := &arch.Rope{Kind: kind, Dim: 12, Factor: 1.2}
		for i := range r.Dim / 2 {
			r.InvFreq = append(r.InvFreq, float32(math.Pow(1e6, -float64(2*i)/float64(r.Dim))))
		}
		builder, err := ort.NewBuilder(1)
		require.NoError(t, err)
		g := newGraph(ort.Float16, opsetsOfCUDA...)
		b := &binder{g: g, session: builder, bound: make(map[string]string), device: true}
		l := &lowering{g: g, b: b, m: &arch.Model{}, positions: positions}
		x := rows{g.input("x", ort.Float32, tokens, dim{size: width}), tokens, width, ort.Float32}
		y, err := newCUDAOperators(l, "", false).prepare(g.cast(x, ort.Float16), nil, &arch.Attention{HeadDim: headDim, Rope: r})
		require.NoError(t, err)
		g.output(y, outputTokenVectors)
		session, err := builder.Session(g.encode())
		require.NoError(t, err)
		runner, err := ort.NewRunner()
		require.NoError(t, err)
		tensor := func(name string, dtype ort.DataType, dims ...int) ort.Tensor {
			bytes, _ := alignedBytes(dtype, dims)
			memory, err := b.memory(name, bytes) // C keeps pointers to it
			require.NoError(t, err)
			return ort.Tensor{Name: name, Type: dtype, Dims: dims, Data: memory}
		}
		in, ids := tensor("x", ort.Float32, count, width), tensor(positionIDs, ort.Int32, count)
		out := tensor(outputTokenVectors, ort.Float32, count, width)
		numbers, at := view[float32](in.Data), view[int32](ids.Data)
		for i := range numbers {
			numbers[i] = float32(math.Ldexp(math.Round(random.NormFloat64()*128), -7)) // float16 holds it
		}
		for i := range at {
			at[i] = random.Int32N(positions)
		}
		at[0], at[1] = 0, positions-1
		require.NoError(t, runner.RunTensors(t.Context(), session, []ort.Tensor{in, ids}, []ort.Tensor{out}))
		var want []float64
		for i, x := range numbers {
			head, d := i-i%headDim, i%headDim
			if d >= r.Dim {
				want = append(want, float64(x))
				continue
			}
			pair, first := d%(r.Dim/2), d < r.Dim/2
			other := head + (d+r.Dim/2)%r.Dim
			if kind == arch.RopeInterleaved {
				pair, first, other = d/2, d%2 == 0, head+d^1
			}
			sin, cos := math.Sincos(float64(float32(at[i/width]) * r.InvFreq[pair]))
			if first {
				sin = -sin
			}
			want = append(want, float64(r.Factor)*(float64(x)*cos+float64(numbers[other])*sin))
		}
		got := slices.Clone(view[float32](out.Data))
		require.NoError(t, suite.Bounds{MinCosine: 0.999999, MaxError: 5e-4}.Compare(got, want), "kind %d", kind)
		runner.Close()
		session.Close()
		b.release()
		builder.Free()
	}
}
