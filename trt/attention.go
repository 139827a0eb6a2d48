package trt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// form is how attention is expressed, where there is a choice by what the flavour has.
type form struct {
	fused   bool // IAttention, where it can express the layer; else two products and a softmax
	lengths bool // IAttention takes lengths instead of a mask
}

func formOf(f nvinfer.Features) form {
	return form{fused: f&nvinfer.HasAttention != 0, lengths: f&nvinfer.HasLengths != 0}
}

// attention is the whole block: joined projections, attention, output projection. x: [rows, hidden].
func (l *lowering) attention(x tensor, layer int, a *arch.Attention) tensor {
	g := l.g
	width := (a.Heads + 2*a.KVHeads) * a.HeadDim
	qkv, j := l.product(x, calibration.AttentionQKV(layer), a.QKV...)
	if got := l.widthOf(qkv, 2); g.err == nil && (got != width || a.KVHeads < 1 || a.HeadDim < 1 || a.Heads%a.KVHeads != 0) {
		g.fail(status.Errorf(status.Start, "%d columns of query, key and value do not fit %d heads, %d kv heads of size %d", got, a.Heads, a.KVHeads, a.HeadDim))
	}
	if g.err != nil {
		return 0
	}
	y := l.attend(l.heads(qkv, j, a))
	// [sequences, heads, longest, head_dim] -> [rows, width]
	return l.linear(g.reshape(g.transpose(y, 0, 2, 1, 3), -1, a.Heads*a.HeadDim), calibration.AttentionOut(layer), a.Out)
}

// headed are the inputs of attention: q [sequences, heads, longest, dim], k and v [sequences, kv heads, longest, dim]; for IAttention, which does
// not scale, queries are scaled.
type headed struct {
	*arch.Attention
	q, k, v tensor
}

// heads makes them from rows [rows, query | key | value]: norms, rope and scale in float32, in one chain for all heads, of which TensorRT makes
// one kernel, and one more for a mean. Of three chains it makes up to six, which wait for each other.
func (l *lowering) heads(qkv tensor, j joined, a *arch.Attention) headed {
	g, all := l.g, a.Heads+2*a.KVHeads
	scaled, normed := l.fused(a) && a.Scale != 1, a.QKNorm != nil
	if n := a.QKNorm; normed && (n.FullWidth || n.Q.Kind != n.K.Kind || n.Q.Eps != n.K.Eps) {
		qkv, normed, j = l.normaliseApart(l.biased(qkv, j), a), false, joined{}
	}
	wide := g.cast(g.reshape(qkv, 0, all, a.HeadDim), nvinfer.Float32)
	if bias, ok := l.bias(j); ok { // here, or the product would write float32 rows
		wide = g.sum(wide, g.reshape(bias, 1, all, a.HeadDim))
	}
	x := wide
	if normed {
		x = l.normaliseHeads(x, a)
	}
	if a.Rope != nil {
		x = l.rotate(x, a.Rope, a.HeadDim)
	}
	if scaled {
		x = g.prod(x, l.perHead(fmt.Sprintf("scale %b", a.Scale), a, 1, func() ([]float32, []float32, error) {
			return []float32{a.Scale}, []float32{1}, nil
		}))
	}
	if normed || a.Rope != nil {
		x = g.choose(l.turned(a), x, wide)
	}
	x = g.cast(x, l.dtype)
	cells := l.grid(x, all, a.HeadDim) // [sequences, longest, all heads, dim]
	part := func(from, n int) tensor { return g.transpose(g.headsOf(cells, from, n, a.HeadDim), 0, 2, 1, 3) }
	return headed{a, part(0, a.Heads), part(a.Heads, a.KVHeads), part(a.Heads+a.KVHeads, a.KVHeads)}
}

// perHead is a float32 constant [1, all heads, width]: rows for queries, for keys, and ones for values.
func (l *lowering) perHead(key string, a *arch.Attention, width int, rows func() (q, k []float32, err error)) tensor {
	key = fmt.Sprintf("%s for %d and %d heads", key, a.Heads, a.KVHeads)
	all := a.Heads + 2*a.KVHeads
	return l.g.constant(key, nvinfer.Float32, []int{1, all, width}, func() ([]byte, error) {
		q, k, err := rows()
		if err != nil {
			return nil, err
		}
		numbers := make([]float32, 0, all*width)
		for h := range all {
			switch {
			case h < a.Heads:
				numbers = append(numbers, q...)
			case h < a.Heads+a.KVHeads:
				numbers = append(numbers, k...)
			default:
				numbers = append(numbers, filled(width, 1)...)
			}
		}
		if len(numbers) != all*width {
			return nil, status.Errorf(status.Start, "%s have %d and %d numbers, not %d", key, len(q), len(k), width)
		}
		return float32Bytes(numbers), nil
	})
}

// turned says which heads have norms and rope: queries and keys. Bool [1, all heads, 1].
func (l *lowering) turned(a *arch.Attention) tensor {
	all := a.Heads + 2*a.KVHeads
	return l.g.constant(fmt.Sprintf("turned %d of %d", all-a.KVHeads, all), nvinfer.Bool, []int{1, all, 1}, func() ([]byte, error) {
		return append(bytes.Repeat([]byte{1}, all-a.KVHeads), make([]byte, a.KVHeads)...), nil
	})
}

// normaliseHeads is the norm of each head of x [rows, all heads, dim], with the weights of queries and keys. Of values it is nonsense.
func (l *lowering) normaliseHeads(x tensor, a *arch.Attention) tensor {
	n := a.QKNorm
	y := l.norm(x, &arch.Norm{Kind: n.Q.Kind, Eps: n.Q.Eps}, 3)
	read := func(t arch.Tensor, absent float32, plus float32) ([]float32, error) {
		if t.Absent() {
			return filled(a.HeadDim, absent), nil
		}
		stored, err := l.open(t)
		if err != nil {
			return nil, err
		}
		numbers := stored.AppendFloat32(nil)
		for i := range numbers {
			numbers[i] += plus
		}
		return numbers, nil
	}
	both := func(q, k arch.Tensor, absent float32, plus func(n *arch.Norm) float32) func() ([]float32, []float32, error) {
		return func() ([]float32, []float32, error) {
			first, err := read(q, absent, plus(&n.Q))
			if err != nil {
				return nil, nil, err
			}
			second, err := read(k, absent, plus(&n.K))
			return first, second, err
		}
	}
	if !n.Q.Weight.Absent() || !n.K.Weight.Absent() {
		one := func(n *arch.Norm) float32 {
			if n.OnePlusWeight {
				return 1
			}
			return 0
		}
		y = l.g.prod(y, l.perHead(fmt.Sprintf("norms %s %s", n.Q.Weight.Name, n.K.Weight.Name), a, a.HeadDim, both(n.Q.Weight, n.K.Weight, 1, one)))
	}
	if !n.Q.Bias.Absent() || !n.K.Bias.Absent() {
		zero := func(*arch.Norm) float32 { return 0 }
		y = l.g.sum(y, l.perHead(fmt.Sprintf("norms %s %s", n.Q.Bias.Name, n.K.Bias.Name), a, a.HeadDim, both(n.Q.Bias, n.K.Bias, 0, zero)))
	}
	return y
}

// normaliseApart normalises queries and keys of rows [rows, query | key | value] where one chain cannot: over all heads at once, or each in its
// own way.
func (l *lowering) normaliseApart(qkv tensor, a *arch.Attention) tensor {
	g, query, keys := l.g, a.Heads*a.HeadDim, a.KVHeads*a.HeadDim
	norm := func(x tensor, heads int, n *arch.Norm) tensor {
		if a.QKNorm.FullWidth {
			return l.norm(x, n, 2)
		}
		return g.reshape(l.norm(g.reshape(x, 0, heads, a.HeadDim), n, 3), 0, heads*a.HeadDim)
	}
	return g.concat(1, norm(g.last(qkv, 2, 0, query), a.Heads, &a.QKNorm.Q), norm(g.last(qkv, 2, query, keys), a.KVHeads, &a.QKNorm.K),
		g.last(qkv, 2, query+keys, keys))
}

// rotate is rope on x [rows, heads, dim] in float32.
func (l *lowering) rotate(x tensor, r *arch.Rope, dim int) tensor {
	g := l.g
	half := len(r.InvFreq)
	if half == 0 || r.Dim != 2*half || r.Dim > dim {
		g.fail(status.Errorf(status.Start, "rope of %d of %d numbers has %d frequencies", r.Dim, dim, half))
		return x
	}
	cos, sin := l.table("cos", math.Cos, r), l.table("sin", math.Sin, r)
	var a, b tensor
	if r.Kind == arch.RopeInterleaved {
		a, b = g.strided(x, 3, 0, half), g.strided(x, 3, 1, half)
	} else {
		a, b = g.last(x, 3, 0, half), g.last(x, 3, half, half)
	}
	first := g.binary(nvinfer.Sub, g.prod(a, cos), g.prod(b, sin))
	second := g.sum(g.prod(b, cos), g.prod(a, sin))
	var parts []tensor
	if r.Kind == arch.RopeInterleaved {
		pairs := g.concat(3, g.reshape(first, 0, 0, half, 1), g.reshape(second, 0, 0, half, 1))
		parts = append(parts, g.reshape(pairs, 0, 0, r.Dim))
	} else {
		parts = append(parts, first, second)
	}
	if r.Dim < dim {
		parts = append(parts, g.last(x, 3, r.Dim, dim-r.Dim))
	}
	return g.concat(2, parts...)
}

// table is the rows of rope's table for the positions of this run, [rows, 1, dim / 2].
func (l *lowering) table(name string, f func(float64) float64, r *arch.Rope) tensor {
	key := fmt.Sprintf("rope %s %g %b", name, r.Factor, r.InvFreq)
	if t, ok := l.shared[key]; ok {
		return t
	}
	rows := l.positionCount()
	all := l.g.floats(key, []int{rows, len(r.InvFreq)}, func() []float32 { return r.Table(f, rows) })
	t := l.g.reshape(l.g.gather(all, l.positions, 0), 0, 1, len(r.InvFreq))
	l.shared[key] = t
	return t
}

// fused reports that IAttention can express the layer.
func (l *lowering) fused(a *arch.Attention) bool {
	plain := a.Softcap == 0 && a.AlibiSlopes == nil && a.RelativeBias == nil && a.Disentangled == nil
	return plain && l.form.fused && l.fits(a)
}

// fits: fused kernels in 16 bit take heads of whole 16 bytes; TensorRT-RTX 1.6 fails to build others, instead of decomposing them.
func (l *lowering) fits(a *arch.Attention) bool {
	return l.dtype == nvinfer.Float32 || a.HeadDim%8 == 0
}

// attend is attention, [sequences, heads, longest, dim].
func (l *lowering) attend(h headed) tensor {
	g, a, q, k, v := l.g, h.Attention, h.q, h.k, h.v
	if l.fused(a) {
		windowed := a.WindowLeft >= 0 || (a.WindowRight >= 0 && !a.Causal)
		n := nvinfer.Node{Kind: nvinfer.Attention, Inputs: []tensor{q, k, v}, Ints: []int{0, 1, 0}}
		switch {
		case a.Causal && !windowed: // cells beyond a sequence's end come after all its own
			n.Ints[0] = 1
			l.note("attention: fused, causal")
		case l.form.lengths && !windowed:
			n.Inputs, n.Ints[2] = append(n.Inputs, l.lengths), 2
			l.note("attention: fused, lengths")
		default:
			n.Inputs, n.Ints[2] = append(n.Inputs, l.added(a)), 1
			l.note("attention: fused, mask")
		}
		return g.add(n)
	}
	if l.fits(a) {
		return l.writtenOut(q, k, v, a, l.dtype)
	}
	// Products of such heads in 16 bit come out wrong, too: docs/measurements.md.
	wide := func(x tensor) tensor { return g.cast(x, nvinfer.Float32) }
	return g.cast(l.writtenOut(wide(q), wide(k), wide(v), a, nvinfer.Float32), l.dtype)
}

// regroup views [sequences, heads, m * longest, n] with another number of heads; each takes its part of, or joins, the rows.
func (l *lowering) regroup(x tensor, a *arch.Attention, heads int) tensor {
	if a.Heads == a.KVHeads {
		return x
	}
	g := l.g
	shape := g.shape(x)
	return g.reshapeTo(x, g.concat(0, g.gather(shape, g.indices(0), 0), g.sizes(heads, -1), g.gather(shape, g.indices(3), 0)))
}

// writtenOut is attention of rows of dtype as two products and a softmax. Query heads that share keys and values are rows of one product
// with them.
func (l *lowering) writtenOut(q, k, v tensor, a *arch.Attention, dtype nvinfer.DType) tensor {
	g := l.g
	s := g.cast(l.regroup(g.matmul(l.regroup(q, a, a.KVHeads), k, 0, 1, dtype), a, a.Heads), nvinfer.Float32)
	if a.Disentangled != nil {
		s = g.sum(s, l.places(q, k, a, dtype))
	}
	s = g.prod(s, g.scalar(a.Scale, 4))
	if a.Softcap > 0 {
		s = g.prod(g.activation(nvinfer.Tanh, g.prod(s, g.scalar(1/a.Softcap, 4))), g.scalar(a.Softcap, 4))
	}
	if a.AlibiSlopes != nil {
		slopes := g.floats(fmt.Sprintf("alibi %b", a.AlibiSlopes), []int{1, a.Heads, 1, 1}, func() []float32 { return a.AlibiSlopes })
		distance := g.reshapeTo(g.cast(g.unary(nvinfer.Abs, l.distance()), nvinfer.Float32), g.concat(0, g.sizes(1, 1), g.shape(l.distance())))
		s = g.binary(nvinfer.Sub, s, g.prod(distance, slopes))
	}
	if a.RelativeBias != nil {
		s = g.sum(s, l.relative(a.RelativeBias, a.Heads))
	}
	s = g.choose(l.mask(a), s, g.scalar(-math.MaxFloat32, 4))
	s = l.regroup(g.cast(g.softmax(s, 3), dtype), a, a.KVHeads)
	return l.regroup(g.matmul(s, v, 0, 0, dtype), a, a.Heads)
}

// places is what distances say to queries and to keys [sequences, heads, longest, dim] (disentangled attention), before the scale: float32
// [sequences, heads, longest, longest].
func (l *lowering) places(q, k tensor, a *arch.Attention, dtype nvinfer.DType) tensor {
	g, d := l.g, a.Disentangled
	if err := d.Check(a.Heads, a.KVHeads, a.HeadDim); err != nil {
		g.fail(status.Errorf(status.CodeOf(err), "engine tensorrt: %w", err))
		return 0
	}
	keys, queries, err := d.Tables(func(t arch.Tensor) ([]float32, error) {
		stored, err := l.open(t)
		if err != nil {
			return nil, err
		}
		return stored.AppendFloat32(nil), nil
	})
	if err != nil {
		g.fail(err)
		return 0
	}
	var sum tensor
	for i, side := range []struct {
		table []float32
		by    *arch.Linear
		x     tensor
		shape []int // of positions: those of queries or of keys
	}{{keys, d.Key, q, []int{-1, 1}}, {queries, d.Query, k, []int{1, -1}}} {
		if side.table == nil {
			continue
		}
		table := l.placeTable(fmt.Sprintf("places of %s by %s", d.Name(), side.by.Weight.Name), side.table, a.Heads, a.HeadDim, dtype)
		// Of each query (or key) its numbers for all rows; the one that a pair wants lies at position * rows + row.
		said := g.reshape(g.cast(g.matmul(side.x, table, 0, 1, dtype), nvinfer.Float32), 0, 0, -1)
		index := g.sum(g.prod(g.reshape(l.offsets, side.shape...), g.integer(int32(2*d.Span), 2)), l.placeRows(d))
		said = g.gather(said, index, 2)
		if i > 0 && keys != nil {
			said = g.sum(sum, said)
		}
		sum = said
	}
	return sum
}

// placeTable is a table [rows, heads * dim] as [1, heads, rows, dim].
func (l *lowering) placeTable(key string, table []float32, heads, dim int, dtype nvinfer.DType) tensor {
	rows := len(table) / (heads * dim)
	return l.g.constant(key, dtype, []int{1, heads, rows, dim}, func() ([]byte, error) {
		turned := make([]float32, 0, len(table))
		for h := range heads {
			for r := range rows {
				turned = append(turned, table[(r*heads+h)*dim:][:dim]...)
			}
		}
		return encode(nil, turned, dtype, key)
	})
}

// placeRows is the row of each pair's distance (query minus key), int32 [longest, longest].
func (l *lowering) placeRows(d *arch.Disentangled) tensor {
	key := fmt.Sprintf("place rows %d %d %d", d.Span, d.Buckets, d.MaxDistance)
	if t, ok := l.shared[key]; ok {
		return t
	}
	g, rows := l.g, d.Rows(l.positionCount())
	all := g.constant(key, nvinfer.Int32, []int{len(rows)}, func() ([]byte, error) {
		var data []byte
		for _, r := range rows {
			data = binary.LittleEndian.AppendUint32(data, uint32(r))
		}
		return data, nil
	})
	most := int32(len(rows) / 2)
	clipped := g.binary(nvinfer.Max, g.binary(nvinfer.Min, l.distance(), g.integer(most, 2)), g.integer(-most, 2))
	t := g.gather(all, g.binary(nvinfer.Sub, g.integer(most, 2), clipped), 0)
	l.shared[key] = t
	return t
}

// positionCount bounds positions and distances.
func (l *lowering) positionCount() int {
	return max(l.m.Positions(l.limits.MaxLength), l.m.Embeddings.PositionOffset+l.limits.MaxLength)
}

// distance is key minus query, int32 [longest, longest].
func (l *lowering) distance() tensor {
	t, ok := l.shared["distance"]
	if !ok {
		g := l.g
		t = g.binary(nvinfer.Sub, g.reshape(l.offsets, 1, -1), g.reshape(l.offsets, -1, 1))
		l.shared["distance"] = t
	}
	return t
}

// mask says which keys each query sees, bool [sequences, 1, 1 or longest, longest].
func (l *lowering) mask(a *arch.Attention) tensor {
	key := fmt.Sprintf("mask %t %d %d", a.Causal, max(a.WindowLeft, -1), max(a.WindowRight, -1))
	if t, ok := l.shared[key]; ok {
		return t
	}
	g := l.g
	keys := g.binary(nvinfer.Less, g.reshape(l.offsets, 1, -1), g.reshape(l.lengths, -1, 1)) // [sequences, longest]
	t := g.reshape(keys, 0, 1, 1, -1)
	// Where nothing is visible (padded queries of windows) the softmax would have nothing to weigh: they see their own key.
	limit := func(condition tensor) {
		t = g.binary(nvinfer.And, t, g.reshapeTo(condition, g.concat(0, g.sizes(1, 1), g.shape(l.distance()))))
	}
	limited := false
	if a.WindowLeft >= 0 {
		limit(g.binary(nvinfer.Greater, l.distance(), g.integer(int32(-a.WindowLeft-1), 2)))
		limited = true
	}
	right := a.WindowRight
	if a.Causal && (right < 0 || right > 0) {
		right = 0
	}
	if right >= 0 {
		limit(g.binary(nvinfer.Less, l.distance(), g.integer(int32(right+1), 2)))
		limited = true
	}
	if limited {
		own := g.binary(nvinfer.Equal, l.distance(), g.integer(0, 2))
		t = g.binary(nvinfer.Or, t, g.reshapeTo(own, g.concat(0, g.sizes(1, 1), g.shape(l.distance()))))
	}
	l.shared[key] = t
	return t
}

// added is the mask as what is added to scores. From one of bools TensorRT-RTX makes a list of blocks to be seen, in eight kernels, and copies a size
// from the host for it (Graph in shim/lane.cpp).
func (l *lowering) added(a *arch.Attention) tensor {
	mask := l.mask(a)
	key := fmt.Sprint("added ", mask)
	if t, ok := l.shared[key]; ok {
		return t
	}
	hidden := float32(-1e30)
	if l.dtype == nvinfer.Float16 {
		hidden = -65504
	}
	t := l.g.cast(l.g.choose(mask, l.g.scalar(0, 4), l.g.scalar(hidden, 4)), l.dtype)
	l.shared[key] = t
	return t
}

// relative is the learned bias of each head by distance, float32 [1, heads, longest, longest].
func (l *lowering) relative(r *arch.RelativeBias, heads int) tensor {
	key := fmt.Sprintf("relative %s %d %d %t", r.Weight.Name, r.Buckets, r.MaxDistance, r.Bidirectional)
	if t, ok := l.shared[key]; ok {
		return t
	}
	g, width := l.g, 2*r.MaxDistance+1
	all := g.constant(key, nvinfer.Float32, []int{heads, width}, func() ([]byte, error) {
		if err := r.Check(); err != nil {
			return nil, err
		}
		stored, err := l.open(r.Weight)
		if err != nil {
			return nil, err
		}
		table := stored.AppendFloat32(nil)
		if len(table) != r.Buckets*heads {
			return nil, status.Errorf(status.Start, "tensor %q must be [%d buckets, %d heads]", r.Weight.Name, r.Buckets, heads)
		}
		return float32Bytes(r.ByDistance(table, heads)), nil
	})
	bound := g.integer(int32(r.MaxDistance), 2)
	index := g.sum(g.binary(nvinfer.Max, g.binary(nvinfer.Min, l.distance(), bound), g.integer(int32(-r.MaxDistance), 2)), bound)
	bias := g.gather(all, index, 1) // [heads, longest, longest]
	t := g.reshapeTo(bias, g.concat(0, g.sizes(1), g.shape(bias)))
	l.shared[key] = t
	return t
}
