package onnx

import (
	"fmt"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
)

// hidden is added to the score of a pair that must not see each other: finite, so that a row of nothing else has no NaN.
const hidden = -1e30

// pad gathers packed rows to [filled, longest, width]. What is beyond the end of a sequence is its last row again: rows
// of its own, so that one sequence's NaN never reaches another.
func (c *cudaOperators) pad(x rows) string {
	g := c.l.g
	index := c.shared("padded rows", func() string {
		position, last := g.input(padPositions, ort.Int32, longest), c.column(lastPositions)
		within := g.op("", "Where", []string{g.op("", "LessOrEqual", []string{position, last}), position, last})
		return g.op("", "Add", []string{within, c.column(starts)})
	})
	return g.op("", "Gather", []string{x.name, index}, attr{"axis", int64(0)})
}

// column is an input of one number for each sequence, as [filled, 1].
func (c *cudaOperators) column(name string) string {
	return c.shared("column "+name, func() string { return c.reshape(c.l.g.input(name, ort.Int32, filled), -1, 1) })
}

// unpad takes the rows of tokens out of [filled, longest, width].
func (c *cudaOperators) unpad(x string, width int, dtype ort.DataType) rows {
	g := c.l.g
	y := g.typedRows(dtype, tokens, width)
	flat := c.reshape(x, -1, width)
	g.add("", "Gather", []string{flat, g.input(unpaddedRows, ort.Int32, tokens)}, []string{y.name}, attr{"axis", int64(0)})
	return y
}

// products is attention written out, with softmax in float32. Query heads that share a key head are one long query.
func (c *cudaOperators) products(h heads, a *arch.Attention) (rows, error) {
	g := c.l.g
	dtype := g.dtype
	if a.HeadDim%8 != 0 {
		// No model of size has such heads, for which kernels in 16 bit lose more than for others.
		dtype = ort.Float32
		h = heads{g.cast(h.q, dtype), g.cast(h.k, dtype), g.cast(h.v, dtype)}
	}
	group := a.Heads / a.KVHeads
	transpose := func(x string, perm ...int64) string { return g.op("", "Transpose", []string{x}, attr{"perm", perm}) }
	q := g.same("", "Mul", h.q, []string{c.l.b.typedScalar(dtype, a.Scale)})
	query := c.reshape(transpose(c.reshape(c.pad(q), 0, 0, a.KVHeads, group, a.HeadDim), 0, 2, 3, 1, 4), 0, a.KVHeads, -1, a.HeadDim)
	key := transpose(c.reshape(c.pad(h.k), 0, 0, a.KVHeads, a.HeadDim), 0, 2, 3, 1)
	value := transpose(c.reshape(c.pad(h.v), 0, 0, a.KVHeads, a.HeadDim), 0, 2, 1, 3)

	scores := c.reshape(g.op("", "MatMul", []string{query, key}), 0, a.Heads, -1, 0)
	scores = c.convert(scores, dtype, ort.Float32)
	if a.Disentangled != nil {
		said, err := c.places(query, transpose(key, 0, 1, 3, 2), a, dtype)
		if err != nil {
			return h.q, err
		}
		scores = g.op("", "Add", []string{scores, said})
	}
	if a.Softcap > 0 {
		limit := c.l.b.typedScalar(ort.Float32, a.Softcap)
		scores = g.op("", "Mul", []string{g.op("", "Tanh", []string{g.op("", "Div", []string{scores, limit})}), limit})
	}
	bias, err := c.scoreBias(a)
	if err != nil {
		return h.q, err
	}
	weights := g.op("", "Softmax", []string{g.op("", "Add", []string{scores, bias})}, attr{"axis", int64(-1)})
	weights = c.reshape(c.convert(weights, ort.Float32, dtype), 0, a.KVHeads, -1, 0)
	y := c.reshape(g.op("", "MatMul", []string{weights, value}), 0, a.KVHeads, group, -1, a.HeadDim)
	return g.cast(c.unpad(transpose(y, 0, 3, 1, 2, 4), a.Heads*a.HeadDim, dtype), g.dtype), nil
}

func (c *cudaOperators) convert(x string, from, to ort.DataType) string {
	if from == to {
		return x
	}
	return c.l.g.op("", "Cast", []string{x}, attr{"to", int64(to)})
}

// scoreBias is what is added to scores, float32 [filled, heads or 1, longest or 1, longest]: of padding, of what is
// hidden, of distances. Layers of the same kind share it.
func (c *cudaOperators) scoreBias(a *arch.Attention) (string, error) {
	g := c.l.g
	relative, slopes := "", ""
	var err error
	if a.RelativeBias != nil {
		if relative, err = c.l.relativeBias(a.RelativeBias, a.Heads); err != nil {
			return "", err
		}
	}
	if a.AlibiSlopes != nil {
		slopes, err = c.l.b.constant(fmt.Sprintf("alibi %b", a.AlibiSlopes), ort.Float32, []int{a.Heads, 1, 1}, a.AlibiSlopes)
		if err != nil {
			return "", err
		}
	}
	left, right := a.WindowLeft, a.WindowRight
	if a.Causal {
		right = 0
	}
	hide := func(condition string) string {
		return g.op("", "Where", []string{condition, c.number(hidden), c.number(0)})
	}
	key := fmt.Sprint("score bias ", relative, " ", slopes, " ", max(left, -1), " ", max(right, -1))
	return c.shared(key, func() string {
		bias := c.shared("padding bias", func() string { // [filled, 1, 1, longest]
			beyond := g.op("", "Greater", []string{g.input(padPositions, ort.Int32, longest), c.column(lastPositions)})
			return g.op("", "Unsqueeze", []string{hide(beyond), c.shape(1, 2)})
		})
		add := func(x string) { bias = g.op("", "Add", []string{bias, x}) }
		if left >= 0 {
			add(hide(g.op("", "Less", []string{c.distance(), c.number(float32(-left))})))
		}
		if right >= 0 {
			add(hide(g.op("", "Greater", []string{c.distance(), c.number(float32(right))})))
		}
		if slopes != "" {
			add(g.op("", "Mul", []string{g.op("", "Mul", []string{g.op("", "Abs", []string{c.distance()}), slopes}), c.number(-1)}))
		}
		if relative != "" {
			most := float32(a.RelativeBias.MaxDistance)
			clipped := g.op("", "Clip", []string{c.distance(), c.number(-most), c.number(most)})
			index := g.op("", "Cast", []string{g.op("", "Add", []string{clipped, c.number(most)})}, attr{"to", int64(ort.Int32)})
			add(g.op("", "Gather", []string{relative, index}, attr{"axis", int64(1)}))
		}
		return bias
	}), nil
}

// places is what distances say to queries and to keys (disentangled attention), float32 [filled, heads, longest, longest]. query, scaled,
// and key: [filled, heads, longest, head_dim].
func (c *cudaOperators) places(query, key string, a *arch.Attention, dtype ort.DataType) (string, error) {
	g, b, d := c.l.g, c.l.b, a.Disentangled
	tables, err := c.l.placeTables(a)
	if err != nil {
		return "", err
	}
	rows, count := d.Rows(c.l.positions), 2*d.Span
	row := c.shared(fmt.Sprint("place rows ", rows), func() string { // [longest, longest], by query and key
		most := float32(len(rows) / 2)
		index := g.op("", "Sub", []string{c.number(most), g.op("", "Clip", []string{c.distance(), c.number(-most), c.number(most)})})
		return g.op("", "Gather", []string{b.indices(rows), g.op("", "Cast", []string{index}, attr{"to", int64(ort.Int32)})})
	})
	sum := ""
	for i, side := range []struct {
		table []float32
		by    *arch.Linear
		x     string
		scale float32
		shape []int // of positions: those of queries or of keys
	}{{tables.keys, d.Key, query, 1, []int{-1, 1}}, {tables.queries, d.Query, key, a.Scale, []int{1, -1}}} {
		if side.table == nil {
			continue
		}
		name := fmt.Sprintf("places of %s by %s %g, turned", d.Name(), side.by.Weight.Name, side.scale)
		turned, err := b.make(name, dtype, []int{a.Heads, a.HeadDim, count}, func(dst []float32) ([]float32, error) {
			for column := range a.Heads * a.HeadDim {
				for r := range count {
					dst = append(dst, side.scale*side.table[r*a.Heads*a.HeadDim+column])
				}
			}
			return dst, nil
		})
		if err != nil {
			return "", err
		}
		// Of each query (or key) its numbers for all rows; the one that a pair wants lies at position * rows + row.
		said := c.reshape(c.convert(g.op("", "MatMul", []string{side.x, turned}), dtype, ort.Float32), 0, a.Heads, -1)
		index := c.shared(fmt.Sprint("place index ", i, " ", count, " ", row), func() string {
			position := g.op("", "Mul", []string{c.reshape(g.input(padPositions, ort.Int32, longest), side.shape...), b.indices([]int32{int32(count)})})
			return g.op("", "Add", []string{position, row})
		})
		said = g.op("", "Gather", []string{said, index}, attr{"axis", int64(2)})
		if sum != "" {
			said = g.op("", "Add", []string{sum, said})
		}
		sum = said
	}
	return sum, nil
}

// distance is key minus query, float32 [longest, longest].
func (c *cudaOperators) distance() string {
	g := c.l.g
	return c.shared("distance", func() string {
		position := g.op("", "Cast", []string{g.input(padPositions, ort.Int32, longest)}, attr{"to", int64(ort.Float32)})
		return g.op("", "Sub", []string{c.reshape(position, 1, -1), c.reshape(position, -1, 1)})
	})
}

// multi is MultiHeadAttention with all that is added to scores in one tensor. Its kernel wants as many key heads as query
// heads.
func (c *cudaOperators) multi(h heads, a *arch.Attention) (rows, error) {
	g := c.l.g
	bias, err := c.scoreBias(a)
	if err != nil {
		return h.q, err
	}
	if !a.Causal && a.WindowLeft < 0 && a.WindowRight < 0 && a.AlibiSlopes == nil && a.RelativeBias == nil {
		bias = c.shared("whole "+bias, func() string { // padding alone has one row for all
			return g.op("", "Add", []string{bias, g.op("", "Mul", []string{c.distance(), c.number(0)})})
		})
	}
	c.scores = max(c.scores, 1)
	if a.AlibiSlopes != nil || a.RelativeBias != nil {
		c.scores = max(c.scores, a.Heads)
	}
	if g.dtype != ort.Float32 {
		// What is hidden would be infinite in float16, and a sum of such NaN.
		bias = c.shared("narrow "+bias, func() string {
			return c.convert(g.op("", "Clip", []string{bias, c.number(-6e4), c.number(6e4)}), ort.Float32, g.dtype)
		})
	}
	repeated := func(x rows) string {
		if a.Heads == a.KVHeads {
			return c.pad(x)
		}
		each := c.reshape(c.pad(x), 0, 0, a.KVHeads, 1, a.HeadDim)
		return c.reshape(g.op("", "Expand", []string{each, c.shape(1, 1, 1, a.Heads/a.KVHeads, 1)}), 0, 0, a.Heads*a.HeadDim)
	}
	y := g.op(domainOfMicrosoft, "MultiHeadAttention", []string{c.pad(h.q), repeated(h.k), repeated(h.v), "", "", bias},
		attr{"num_heads", int64(a.Heads)}, attr{"scale", a.Scale})
	return c.unpad(y, a.Heads*a.HeadDim, g.dtype), nil
}

// grouped is GroupQueryAttention as for a prompt: nothing comes before it.
func (c *cudaOperators) grouped(h heads, a *arch.Attention) rows {
	g := c.l.g
	y := g.op(domainOfMicrosoft, "GroupQueryAttention",
		[]string{c.pad(h.q), c.pad(h.k), c.pad(h.v), "", "", g.input(lastPositions, ort.Int32, filled), g.input(longestLength, ort.Int32)},
		attr{"num_heads", int64(a.Heads)}, attr{"kv_num_heads", int64(a.KVHeads)}, attr{"scale", a.Scale}, attr{"softcap", a.Softcap})
	// The operator wants its other outputs, the keys and values, to be there.
	n := &g.nodes[len(g.nodes)-1]
	n.outputs = append(n.outputs, n.outputs[0]+"_key", n.outputs[0]+"_value")
	return c.unpad(y, a.Heads*a.HeadDim, g.dtype)
}

// number is a float32 scalar.
func (c *cudaOperators) number(x float32) string {
	return c.shared(fmt.Sprint("number ", x), func() string { return c.l.b.typedScalar(ort.Float32, x) })
}
