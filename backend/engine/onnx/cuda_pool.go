package onnx

import (
	"fmt"
	"math"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
)

// pool yields float32 rows.
func (c *cudaOperators) pool(x rows, mode arch.PoolMode) rows {
	g := c.l.g
	switch mode {
	case arch.PoolCLS, arch.PoolLastToken:
		y := g.typedRows(x.dtype, sequences, x.width)
		index := g.input(map[arch.PoolMode]string{arch.PoolCLS: firstRows, arch.PoolLastToken: lastRows}[mode], ort.Int32, sequences)
		g.add("", "Gather", []string{x.name, index}, []string{y.name}, attr{"axis", int64(0)})
		return g.cast(y, ort.Float32)
	case arch.PoolMax:
		return c.largest(x)
	case arch.PoolMean, arch.PoolMeanSqrtLen, arch.PoolWeightedMean:
		return c.average(x, g.input(poolWeights(mode), ort.Float32, tokens))
	}
	c.l.refuse("pooling %d on cuda", mode)
	return x
}

// average is a product with a matrix [sequences, tokens] that has the weight of each row in the column of its sequence.
// A row that is not finite would spoil every sequence of the run, so it is left out, and makes only its own sequence NaN.
func (c *cudaOperators) average(x rows, weights string) rows {
	g := c.l.g
	clean := c.shared("clean "+x.name, func() string {
		return g.op("", "Where", []string{c.finite(x), g.cast(x, ort.Float32).name, c.number(0)})
	})
	return c.orNaN(x, weights, g.op("", "MatMul", []string{c.averages(weights), clean}))
}

// number is a float32 scalar.
func (c *cudaOperators) number(x float32) string {
	return c.shared(fmt.Sprint("number ", x), func() string { return c.l.b.typedScalar(ort.Float32, x) })
}

func (c *cudaOperators) averages(weights string) string {
	g := c.l.g
	return c.shared("averages "+weights, func() string {
		own := g.op("", "Equal", []string{g.input(rowSequences, ort.Int32, tokens), c.reshape(g.input(sequenceNumbers, ort.Int32, sequences), -1, 1)})
		return g.op("", "Where", []string{own, weights, c.number(0)})
	})
}

// finite says which rows are, as [tokens, 1]: x times zeros is zero, or NaN.
func (c *cudaOperators) finite(x rows) string {
	g := c.l.g
	return c.shared("finite "+x.name, func() string {
		zeros, err := c.l.b.constant(fmt.Sprint("column of zeros ", x.width), ort.Float32, []int{x.width, 1}, make([]float32, x.width))
		if err != nil {
			c.l.refuse("%v", err)
		}
		return g.op("", "Equal", []string{g.op("", "MatMul", []string{g.cast(x, ort.Float32).name, zeros}), c.number(0)})
	})
}

// orNaN is y [sequences, width], with NaN for sequences that have a row of x with a weight that is not finite.
func (c *cudaOperators) orNaN(x rows, weights, y string) rows {
	g := c.l.g
	spoilt := c.shared("spoilt "+x.name+" "+weights, func() string {
		rows := g.op("", "Cast", []string{g.op("", "Not", []string{c.finite(x)})}, attr{"to", int64(ort.Float32)})
		return g.op("", "Greater", []string{g.op("", "MatMul", []string{c.averages(weights), rows}), c.number(0)})
	})
	pooled := g.typedRows(ort.Float32, sequences, x.width)
	g.add("", "Where", []string{spoilt, c.number(float32(math.NaN())), y}, []string{pooled.name})
	return pooled
}

// largest gathers the pooled rows to [sequences, longest, width]; beyond both ends the first or last one again.
func (c *cudaOperators) largest(x rows) rows {
	g := c.l.g
	c.padded = true
	column := func(name string) string {
		return c.shared("column "+name, func() string { return c.reshape(g.input(name, ort.Int32, sequences), -1, 1) })
	}
	index := c.shared("pooled rows", func() string {
		position, first, last := g.input(padPositions, ort.Int32, longest), column(poolFirst), column(poolLast)
		within := g.op("", "Where", []string{g.op("", "LessOrEqual", []string{position, last}), position, last})
		within = g.op("", "Where", []string{g.op("", "Less", []string{within, first}), first, within})
		return g.op("", "Add", []string{within, column(firstRows)})
	})
	all := c.convert(g.op("", "Gather", []string{x.name, index}, attr{"axis", int64(0)}), x.dtype, ort.Float32)
	most := g.op("", "ReduceMax", []string{all}, attr{"axes", []int64{1}}, attr{"keepdims", int64(0)})
	some := g.op("", "Cast", []string{column(poolCounts)}, attr{"to", int64(ort.Bool)})
	most = g.op("", "Where", []string{some, most, c.number(0)})
	return c.orNaN(x, g.input(poolWeights(arch.PoolMean), ort.Float32, tokens), most)
}
