package trt

import (
	"fmt"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// Names of the inputs and outputs of a network.
const (
	// inputTokens is int32 [planes, sequences, longest]: ids, then type ids where the model has a table of types, then positions where
	// it reads them. Cells beyond a sequence's end hold anything within the tables.
	inputTokens = "tokens"
	// inputSequences is int32 [planes, sequences]: lengths, then the tokens that pooling leaves out where it leaves a prompt out.
	inputSequences = "sequences"

	outputPooled       = "pooled"        // float32 [sequences, width]: pooled rows, or sparse ones
	outputTokenVectors = "token_vectors" // float32 [sequences * longest, width]
)

// planes says which planes a model's inputs have. -1: none.
type planes struct {
	types, positions, skip int // of tokens, of tokens, of sequences
	tokens, sequences      int // counts
}

func planesOf(m *arch.Model) planes {
	p := planes{types: -1, positions: -1, skip: -1, tokens: 1, sequences: 1}
	if !m.Embeddings.Type.Absent() {
		p.types, p.tokens = p.tokens, p.tokens+1
	}
	if readsPositions(m) {
		p.positions, p.tokens = p.tokens, p.tokens+1
	}
	if m.Head.Pooling.ExcludePrompt && len(m.Head.Pooling.Modes) > 0 {
		p.skip, p.sequences = 1, 2
	}
	return p
}

// lowering turns a Model into a strongly typed network. A launch holds sequences of like length, padded to the longest of them; rows
// are [sequences * longest, width] in all that works token by token, and [sequences, longest, ...] round attention and pooling, without a
// copy between the two. (Packed rows, gathered round attention alone, were measured to be slower on TensorRT-RTX: docs/measurements.md.)
//
// The matrix products are in the precision's 16-bit type (or float32), and so is the stream, but for bfloat16's: of eight bits too much is
// lost at each sum. Biases, activations and gates, norms, softmax, rope, pooling and what follows it are in float32.
type lowering struct {
	g       *graph
	m       *arch.Model
	weights *weights.Set
	form    form
	dtype   nvinfer.DType // of matrix products
	amax    func(key string) (float32, bool)
	limits  engine.Limits

	// What all layers derive from the inputs.
	batch      tensor // int64 [2]: sequences, longest
	lengths    tensor // int32 [sequences]
	offsets    tensor // int32 [longest]: 0, 1, 2, ...
	ids, types tensor // int32 [rows]
	positions  tensor // int32 [rows]
	skip       tensor // int32 [sequences]
	planes     planes
	shared     map[string]tensor

	outputs       engine.Outputs
	pooled, token int            // columns; pooled are those of a sequence's row, be it pooled or sparse
	notes         map[string]int // forms chosen, with how often
}

func (l *lowering) note(what string) { l.notes[what]++ }

// supported refuses what the network has no form for.
func supported(m *arch.Model) error {
	switch {
	case m.Head.Kind < arch.HeadEmbedding || m.Head.Kind > arch.HeadSparse:
		return status.Errorf(status.Unsupported, "engine tensorrt: head kind %d", m.Head.Kind)
	case m.Embeddings.Scale == 0:
		return status.Errorf(status.Start, "embeddings: scale is 0")
	}
	return nil
}

// lower fills the network.
func (l *lowering) lower() error {
	if err := supported(l.m); err != nil {
		return err
	}
	l.declare()
	s := residual{x: l.embeddings()}
	for i := range l.m.Layers {
		layer := &l.m.Layers[i]
		l.block(&s, layer.AttentionNorms, func(x tensor) tensor { return l.attention(x, i, &layer.Attention) })
		l.block(&s, layer.MLPNorms, func(x tensor) tensor { return l.mlp(x, i, &layer.MLP) })
		if l.g.err != nil {
			return status.Errorf(status.CodeOf(l.g.err), "layer %d: %w", i, l.g.err)
		}
	}
	var hidden tensor // float32
	if l.m.FinalNorm != nil {
		hidden = l.normalise(&s, l.m.FinalNorm, false)
	} else {
		hidden = l.total(&s)
	}
	l.head(hidden)
	return l.g.err
}

// declare adds the inputs that the model reads.
func (l *lowering) declare() {
	g := l.g
	l.planes, l.shared = planesOf(l.m), make(map[string]tensor)
	tokens := g.input(inputTokens, nvinfer.Int32, l.planes.tokens, -1, -1)
	sequences := g.input(inputSequences, nvinfer.Int32, l.planes.sequences, -1)
	// Else every sum of what is made from both would have to find out at run time whether one of them is to be repeated.
	g.named(tokens, 1, "sequences")
	g.named(sequences, 1, "sequences")
	rows := func(plane int) tensor {
		if plane < 0 {
			return 0
		}
		return g.reshape(g.gather(tokens, g.indices(plane), 0), -1)
	}
	l.ids, l.types, l.positions = rows(0), rows(l.planes.types), rows(l.planes.positions)
	l.lengths = g.reshape(g.gather(sequences, g.indices(0), 0), -1)
	if l.planes.skip >= 0 {
		l.skip = g.reshape(g.gather(sequences, g.indices(l.planes.skip), 0), -1)
	}
	shape := g.shape(tokens)
	l.batch = g.gather(shape, g.indices(1, 2), 0)
	l.offsets = g.add(nvinfer.Node{Kind: nvinfer.Iota, Inputs: []tensor{g.gather(shape, g.indices(2), 0)}})
}

// grid views rows [sequences * longest, ...] as [sequences, longest, dims...].
func (l *lowering) grid(x tensor, dims ...int) tensor {
	return l.g.reshapeTo(x, l.g.concat(0, l.batch, l.g.sizes(dims...)))
}

func readsPositions(m *arch.Model) bool {
	return !m.Embeddings.Position.Absent() || slices.ContainsFunc(m.Layers, func(l arch.Layer) bool { return l.Attention.Rope != nil })
}

// ---- Embeddings ----

// embeddings is norm(scale * word[id] + position[pos] + type[t]), projected to the hidden size.
func (l *lowering) embeddings() tensor {
	e, g := &l.m.Embeddings, l.g
	look := func(table arch.Tensor, ids tensor) tensor {
		return g.cast(g.gather(l.stored(table, l.dtype), ids, 0), nvinfer.Float32)
	}
	x := look(e.Word, l.ids)
	if e.Scale != 1 {
		x = g.prod(x, g.scalar(e.Scale, 2))
	}
	for _, t := range []struct {
		table arch.Tensor
		ids   tensor
	}{{e.Position, l.positions}, {e.Type, l.types}} {
		if !t.table.Absent() {
			x = g.sum(x, look(t.table, t.ids))
		}
	}
	x = l.norm(x, e.Norm, 2)
	if e.Projection != nil {
		x = l.linear(g.cast(x, l.dtype), calibration.EmbeddingProjection, *e.Projection)
	}
	return l.streamed(x)
}

// ---- The residual stream ----

// residual is the residual stream x, or x + delta where the sum is left to the norm that comes next.
type residual struct {
	x, delta tensor
	pending  bool
}

// streamed is x, which is in float32, as the stream holds it.
func (l *lowering) streamed(x tensor) tensor {
	if l.dtype == nvinfer.BFloat16 {
		return x
	}
	return l.g.cast(x, l.dtype)
}

// settle does a sum that no norm will do. It returns the stream for a product.
func (l *lowering) settle(s *residual) tensor {
	if s.pending {
		s.x = l.streamed(l.total(s))
	}
	*s = residual{x: s.x}
	return l.g.cast(s.x, l.dtype)
}

// total is the stream in float32.
func (l *lowering) total(s *residual) tensor {
	x := l.g.cast(s.x, nvinfer.Float32)
	if s.pending {
		x = l.g.sum(x, l.g.cast(s.delta, nvinfer.Float32))
	}
	return x
}

// normalise returns the norm of the stream, in float32. With keep, the stream goes on as the sum.
func (l *lowering) normalise(s *residual, n *arch.Norm, keep bool) tensor {
	sum := l.total(s)
	if keep && s.pending {
		*s = residual{x: l.streamed(sum)}
	}
	return l.norm(sum, n, 2)
}

// block is x = Residual(x + After(f(Before(x)))), or x = Residual(x + Inner(x + f(Before(x)))).
func (l *lowering) block(s *residual, norms arch.BlockNorms, f func(x tensor) tensor) {
	var x tensor
	if norms.Before != nil {
		x = l.g.cast(l.normalise(s, norms.Before, true), l.dtype)
	} else {
		x = l.settle(s)
	}
	s.delta, s.pending = f(x), true
	if norms.After != nil {
		s.delta = l.streamed(l.norm(l.g.cast(s.delta, nvinfer.Float32), norms.After, 2))
	}
	if norms.Inner != nil {
		s.delta = l.streamed(l.normalise(s, norms.Inner, false))
	}
	if norms.Residual != nil {
		*s = residual{x: l.streamed(l.normalise(s, norms.Residual, false))}
	}
}

// norm normalises the last dimension of x, a float32 tensor of that rank. A nil norm is none.
func (l *lowering) norm(x tensor, n *arch.Norm, rank int) tensor {
	if n == nil {
		return x
	}
	g := l.g
	weight, hasWeight := l.normWeight(n, rank)
	if n.Kind == arch.LayerNorm {
		width := l.widthOf(x, rank)
		dims := ones(rank)
		dims[rank-1] = width
		if !hasWeight {
			weight = g.floats(fmt.Sprint("ones ", dims), dims, func() []float32 { return filled(width, 1) })
		}
		var bias tensor
		if n.Bias.Absent() {
			bias = g.floats(fmt.Sprint("zeros ", dims), dims, func() []float32 { return filled(width, 0) })
		} else {
			bias = l.stored(n.Bias, nvinfer.Float32, dims...)
		}
		return g.add(nvinfer.Node{Kind: nvinfer.Normalization, Inputs: []tensor{x, weight, bias}, Ints: []int{rank - 1}, Eps: n.Eps})
	}
	// RMS norm is written out: TensorRT has no layer for it and fuses the parts into one kernel.
	mean := g.reduce(nvinfer.ReduceAvg, g.prod(x, x), rank-1, true)
	y := g.prod(x, g.unary(nvinfer.Recip, g.unary(nvinfer.Sqrt, g.sum(mean, g.scalar(n.Eps, rank)))))
	if hasWeight {
		y = g.prod(y, weight)
	}
	if !n.Bias.Absent() {
		dims := ones(rank)
		dims[rank-1] = n.Bias.Shape[0]
		y = g.sum(y, l.stored(n.Bias, nvinfer.Float32, dims...))
	}
	return y
}

func filled(n int, x float32) []float32 {
	numbers := make([]float32, n)
	for i := range numbers {
		numbers[i] = x
	}
	return numbers
}

// widthOf is the last dimension of x.
func (l *lowering) widthOf(x tensor, rank int) int {
	if l.g.err != nil {
		return 1
	}
	_, dims, err := l.g.net.Describe(x)
	if err == nil && (len(dims) != rank || dims[rank-1] < 1) {
		err = status.Errorf(status.Internal, "a tensor of dimensions %v where %d are needed", dims, rank)
	}
	if err != nil {
		l.g.fail(err)
		return 1
	}
	return dims[rank-1]
}

// normWeight adds a norm's weight in float32 as [1, ..., width]; false: there is none.
func (l *lowering) normWeight(n *arch.Norm, rank int) (tensor, bool) {
	if n.Weight.Absent() {
		return 0, false
	}
	dims := ones(rank)
	dims[rank-1] = n.Weight.Shape[0]
	w := l.stored(n.Weight, nvinfer.Float32, dims...)
	if n.OnePlusWeight {
		w = l.g.sum(w, l.g.scalar(1, rank))
	}
	return w, true
}

// ---- Matrix products ----

// float8Step is what FP8 kernels want dimensions to be multiples of.
const float8Step = 16

// linear is the product of rows with the weights of maps, joined, plus their biases: in float32, which what follows is in. key names the product for
// calibration.
func (l *lowering) linear(x tensor, key string, maps ...arch.Linear) tensor {
	return l.biased(l.product(x, key, maps...))
}

// biased is what linear makes of a product.
func (l *lowering) biased(y tensor, j joined) tensor {
	g := l.g
	y = g.cast(y, nvinfer.Float32)
	if bias, ok := l.bias(j); ok && g.err == nil {
		y = g.sum(y, bias)
	}
	return y
}

// product is linear without the biases, as the precision has it.
func (l *lowering) product(x tensor, key string, maps ...arch.Linear) (tensor, joined) {
	g := l.g
	if g.err != nil {
		return 0, joined{}
	}
	j, err := join(maps...)
	if err != nil {
		g.fail(err)
		return 0, joined{}
	}
	if width := l.widthOf(x, 2); g.err == nil && width != j.in {
		g.fail(status.Errorf(status.Start, "weight %q takes %d columns; it is given %d", maps[0].Weight.Name, j.in, width))
	}
	var y tensor
	if amax, ok := l.float8(key, j); ok {
		scale := g.scalar(amax/float8Most, 0)
		quantised := g.add(nvinfer.Node{Kind: nvinfer.Quantize, DType: nvinfer.Float8, Inputs: []tensor{x, scale}, Ints: []int{-1}})
		x = g.add(nvinfer.Node{Kind: nvinfer.Dequantize, DType: l.dtype, Inputs: []tensor{quantised, scale}, Ints: []int{-1}})
		y = g.matmul(x, l.float8Matrix(j, l.dtype), 0, 1, l.dtype)
	} else {
		y = g.matmul(x, l.matrix(j, l.dtype), 0, 1, l.dtype)
	}
	return y, j
}

// float8 returns the largest input of a product that is to be in FP8.
func (l *lowering) float8(key string, j joined) (float32, bool) {
	if l.amax == nil {
		return 0, false
	}
	amax, ok := l.amax(key)
	if !ok {
		return 0, false
	}
	if l.isEarly(key) {
		l.note("first products in " + l.dtype.String() + ": FP8 would cost most there")
		return 0, false
	}
	if j.in%float8Step != 0 || j.out%float8Step != 0 {
		l.note(fmt.Sprintf("%d x %d in %s: FP8 wants multiples of %d", j.out, j.in, l.dtype, float8Step))
		return 0, false
	}
	l.note("float8 products")
	return amax, true
}

// isEarly reports that key is of the first layers of a deep model whose norms come before its blocks. Its stream is small there, so that
// what FP8 rounds away is much of it, and all later layers see that: docs/measurements.md.
func (l *lowering) isEarly(key string) bool {
	for i := range min(2, len(l.m.Layers)/8) {
		switch key {
		case calibration.AttentionQKV(i), calibration.AttentionOut(i), calibration.MLPUp(i), calibration.MLPDown(i):
			return l.m.Layers[i].AttentionNorms.Before != nil
		}
	}
	return false
}

// mlp is Down(act(Up(x))), or Down(act(Gate(x)) * Up(x)).
func (l *lowering) mlp(x tensor, layer int, m *arch.MLP) tensor {
	up, down := calibration.MLPUp(layer), calibration.MLPDown(layer)
	if !m.Gated() {
		return l.linear(l.g.cast(l.activate(l.linear(x, up, m.Up), m.Activation, 2), l.dtype), down, m.Down)
	}
	maps, gateFirst := []arch.Linear{m.Gate, m.Up}, true
	if m.GateUp.Out > 0 {
		maps, gateFirst = []arch.Linear{m.GateUp}, !m.UpFirst
	}
	// Halves are taken before they are cast, or the product would write float32 rows.
	y, j := l.product(x, up, maps...)
	half := l.widthOf(y, 2) / 2
	gate, other := l.g.last(y, 2, 0, half), l.g.last(y, 2, half, half)
	if !m.GateUp.Bias.Absent() || !m.Gate.Bias.Absent() || !m.Up.Bias.Absent() {
		// TensorRT-RTX 1.6 computes something else where an activation's slice is of a product with a bias: docs/measurements.md.
		pairs := l.g.reshape(l.g.cast(l.biased(y, j), l.dtype), 0, 2, half)
		pick := func(i int) tensor { return l.g.reshape(l.g.gather(pairs, l.g.indices(i), 1), 0, half) }
		gate, other = pick(0), pick(1)
	}
	gate, other = l.g.cast(gate, nvinfer.Float32), l.g.cast(other, nvinfer.Float32)
	if !gateFirst {
		gate, other = other, gate
	}
	return l.linear(l.g.cast(l.g.prod(l.activate(gate, m.Activation, 2), other), l.dtype), down, m.Down)
}

// activate applies an activation to x, in float32, of that rank.
func (l *lowering) activate(x tensor, a arch.Activation, rank int) tensor {
	g := l.g
	// x * sigmoid(slope * x): TensorRT has no layer for it.
	swish := func(slope float32) tensor {
		inner := x
		if slope != 1 {
			inner = g.prod(x, g.scalar(slope, rank))
		}
		return g.prod(x, g.activation(nvinfer.Sigmoid, inner))
	}
	switch a {
	case arch.Identity:
		return x
	case arch.GELU:
		return g.activation(nvinfer.GELUErf, x)
	case arch.GELUTanh:
		return g.activation(nvinfer.GELUTanh, x)
	case arch.QuickGELU:
		return swish(1.702)
	case arch.SiLU:
		return swish(1)
	case arch.ReLU:
		return g.activation(nvinfer.ReLU, x)
	case arch.Tanh:
		return g.activation(nvinfer.Tanh, x)
	}
	g.fail(status.Errorf(status.Unsupported, "engine tensorrt: activation %d", a))
	return x
}
