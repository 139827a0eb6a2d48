package trt

import (
	"math"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// head adds the outputs. hidden: float32 [rows, hidden size]. Everything here is in float32.
func (l *lowering) head(hidden tensor) {
	h, g := &l.m.Head, l.g
	if h.Kind == arch.HeadTokenClassifier {
		logits := l.chain(hidden, h.Chain)
		l.outputs, l.token = engine.TokenVectors, l.widthOf(logits, 2)
		g.output(logits, outputTokenVectors)
		return
	}
	if h.Kind == arch.HeadSparse {
		sparse := l.vocabulary(hidden)
		l.outputs, l.token, l.pooled = engine.Sparse|engine.TokenVectors, l.widthOf(hidden, 2), l.widthOf(sparse, 2)
		g.output(hidden, outputTokenVectors)
		g.output(sparse, outputPooled)
		return
	}
	if len(h.Pooling.Modes) == 0 {
		g.fail(status.Errorf(status.Start, "the head has no pooling mode"))
		return
	}
	var parts []tensor
	for _, mode := range h.Pooling.Modes {
		parts = append(parts, l.pool(hidden, mode))
	}
	pooled := l.chain(g.concat(1, parts...), h.Chain)
	if h.Tokens != nil { // a product with a row for each token: in 16 bits, too
		hidden = l.linear(g.cast(hidden, l.dtype), calibration.TokenHead, h.Tokens.Maps()...)
	}
	l.outputs, l.token, l.pooled = engine.Pooled|engine.TokenVectors, l.widthOf(hidden, 2), l.widthOf(pooled, 2)
	// An output of its own: TensorRT refuses to name one tensor twice where the head is only a gather.
	g.output(hidden, outputTokenVectors)
	g.output(pooled, outputPooled)
}

// vocabulary is the masked-LM head and what SPLADE makes of it (https://arxiv.org/abs/2107.05720): max over the tokens of log(1 + relu(logits)),
// float32 [sequences, vocabulary]. Its products have a row for each token, so they are in the type of all others. Log and bias do not change which
// token has most, so they come after the maximum.
func (l *lowering) vocabulary(hidden tensor) tensor {
	g, chain := l.g, l.m.Head.Chain
	last := len(chain) - 1
	if last < 0 || chain[last].Activation != arch.Identity || chain[last].Norm != nil {
		g.fail(status.Errorf(status.Unsupported, "engine tensorrt: a masked-LM head that does not end with a linear map alone"))
		return hidden
	}
	x := g.cast(hidden, l.dtype)
	for i := range last {
		x = l.activate(l.linear(x, calibration.Head(i), chain[i].Linear), chain[i].Activation, 2)
		x = g.cast(l.norm(x, chain[i].Norm, 2), l.dtype)
	}
	words, bias := chain[last].Linear, chain[last].Linear.Bias
	words.Bias = arch.Tensor{}
	most := l.pool(l.linear(x, calibration.Head(last), words), arch.PoolMax)
	if !bias.Absent() {
		most = g.sum(most, l.stored(bias, nvinfer.Float32, 1, words.Out))
	}
	return g.unary(nvinfer.Log, g.sum(g.activation(nvinfer.ReLU, most), g.scalar(1, 2)))
}

func (l *lowering) chain(x tensor, chain []arch.Dense) tensor {
	stream := l.dtype
	defer func() { l.dtype = stream }()
	l.dtype = nvinfer.Float32 // few rows: float32 costs nothing that counts
	for i := range chain {
		if !chain[i].Linear.Absent() {
			x = l.activate(l.linear(x, calibration.Head(i), chain[i].Linear), chain[i].Activation, 2)
		}
		x = l.norm(x, chain[i].Norm, 2)
	}
	return x
}

// pool makes one row of each sequence: [sequences, width]. Sequences without tokens get some row.
func (l *lowering) pool(x tensor, mode arch.PoolMode) tensor {
	g, width := l.g, l.widthOf(x, 2)
	cells := l.grid(x, width)                                         // [sequences, longest, width]
	column := func(t tensor) tensor { return g.reshape(t, -1, 1, 1) } // [sequences, 1, 1]
	offset := g.reshape(l.offsets, 1, -1, 1)                          // [1, longest, 1]
	choose := func(chosen tensor) tensor {                            // the sum of the chosen cells
		return g.reduce(nvinfer.ReduceSum, g.choose(chosen, cells, g.scalar(0, 3)), 1, false)
	}
	switch mode {
	case arch.PoolCLS:
		return g.reshape(g.gather(cells, g.indices(0), 1), -1, width)
	case arch.PoolLastToken:
		return choose(g.binary(nvinfer.Equal, offset, g.binary(nvinfer.Sub, column(l.lengths), g.integer(1, 3))))
	}
	counted := g.binary(nvinfer.Less, offset, column(l.lengths)) // [sequences, longest, 1]
	if l.planes.skip >= 0 {
		counted = g.binary(nvinfer.And, counted, g.binary(nvinfer.Less, g.binary(nvinfer.Sub, column(l.skip), g.integer(1, 3)), offset))
	}
	if mode == arch.PoolMax {
		largest := g.reduce(nvinfer.ReduceMax, g.choose(counted, cells, g.scalar(-math.MaxFloat32, 3)), 1, false)
		if l.planes.skip < 0 {
			return largest
		}
		some := g.binary(nvinfer.Less, g.reshape(l.skip, -1, 1), g.reshape(l.lengths, -1, 1))
		return g.choose(some, largest, g.scalar(0, 2)) // nothing is left to pool: zeros, as the other modes give
	}
	weight := g.choose(counted, g.scalar(1, 3), g.scalar(0, 3))
	if mode == arch.PoolWeightedMean {
		weight = g.prod(weight, g.cast(g.sum(offset, g.integer(1, 3)), nvinfer.Float32))
	}
	// Chosen, not only multiplied: a cell that does not count must not spoil the sum.
	sum := g.reduce(nvinfer.ReduceSum, g.choose(counted, g.prod(cells, weight), g.scalar(0, 3)), 1, false)
	total := g.binary(nvinfer.Max, g.reduce(nvinfer.ReduceSum, weight, 1, false), g.scalar(1e-9, 2))
	switch mode {
	case arch.PoolMean, arch.PoolWeightedMean:
		return g.binary(nvinfer.Div, sum, total)
	case arch.PoolMeanSqrtLen:
		return g.binary(nvinfer.Div, sum, g.unary(nvinfer.Sqrt, total))
	}
	g.fail(status.Errorf(status.Unsupported, "engine tensorrt: pooling mode %d", mode))
	return sum
}
