package onnx

import (
	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// lowering turns a Model into a graph over packed rows. Biases of linear maps travel with their rows to the operator
// that reads them next, which adds them on the way: no pass over memory is spent on a bias.
type lowering struct {
	operators
	g         *graph
	b         *binder
	m         *arch.Model
	positions int // rows of tables by position, such as rope's
	calibrate bool
	outputs   engine.Outputs
	pooled    int      // columns
	tokens    int      // columns
	sparse    int      // columns
	keys      []string // of maxima
	maxima    []rows   // [1, 1] each; where calibrate is set
	refused   error
}

// operators are what devices have different operators for.
type operators interface {
	// activate is act(x + bias).
	activate(x rows, bias string, act arch.Activation) rows
	// gated is act(Gate(x)) * Up(x).
	gated(x rows, m *arch.MLP) (rows, error)
	// norm is norm(x + bias + residual). Where sum is not nil, its rows receive what is normalised.
	norm(x rows, bias string, n *arch.Norm, residual rows, sum *rows) (rows, error)
	// pool makes one row of each sequence.
	pool(x rows, mode arch.PoolMode) rows
	// attend is attention without its output projection: [hidden] -> [heads * head_dim].
	attend(x rows, a *arch.Attention) (rows, error)
}

// describe says what the graph yields.
func (l *lowering) describe(info *engine.Info) {
	info.Outputs, info.PooledWidth, info.TokenWidth, info.SparseWidth = l.outputs, l.pooled, l.tokens, l.sparse
}

// refuse notes the first thing that an operator has no form for.
func (l *lowering) refuse(format string, args ...any) {
	if l.refused == nil {
		l.refused = status.Errorf(status.Unsupported, "engine onnxruntime: "+format, args...)
	}
}

// lower fills the graph. It refuses with Unsupported what it cannot express.
func (l *lowering) lower() error {
	if err := supported(l.m); err != nil {
		return err
	}
	x, err := l.embeddings()
	if err != nil {
		return err
	}
	s := stream{x: x}
	for i := range l.m.Layers {
		if err := l.layer(&s, i); err != nil {
			return status.Errorf(status.CodeOf(err), "layer %d: %w", i, err)
		}
	}
	var hidden rows
	if l.m.FinalNorm != nil {
		hidden, err = l.normalise(&s, l.m.FinalNorm, false)
	} else {
		hidden = l.settle(&s)
	}
	if err != nil {
		return err
	}
	if err := l.head(hidden); err != nil {
		return err
	}
	if len(l.maxima) > 0 {
		l.g.output(l.g.join(l.maxima...), outputMaxima)
	}
	return l.refused
}

// supported refuses what the graph has no form for.
func supported(m *arch.Model) error {
	switch {
	case m.Head.Kind < arch.HeadEmbedding || m.Head.Kind > arch.HeadSparse:
		return status.Errorf(status.Unsupported, "engine onnxruntime: head kind %d", m.Head.Kind)
	case m.Embeddings.Scale == 0:
		return status.Errorf(status.Start, "embeddings: scale is 0")
	}
	return nil
}

// ---- Embeddings ----

// look takes rows of a table.
func (l *lowering) look(table arch.Tensor, ids string) (rows, error) {
	if len(table.Shape) != 2 {
		return rows{}, status.Errorf(status.Start, "table %q has shape %v, not [rows, width]", table.Name, table.Shape)
	}
	name, dtype, err := l.b.table(table)
	if err != nil {
		return rows{}, err
	}
	width := dim{size: table.Shape[1]}
	y := rows{l.g.value(dtype, tokens, width), tokens, width.size, dtype}
	l.g.add("", "Gather", []string{name, l.g.input(ids, ort.Int32, tokens)}, []string{y.name}, attr{"axis", int64(0)})
	return l.g.cast(y, l.g.dtype), nil
}

// embeddings is norm(scale * word[id] + position[pos] + type[t]), projected to the hidden size.
func (l *lowering) embeddings() (rows, error) {
	e := &l.m.Embeddings
	x, err := l.look(e.Word, inputIDs)
	if err != nil {
		return x, err
	}
	if e.Scale != 1 {
		x = l.g.same("", "Mul", x, []string{l.b.scalar(e.Scale)})
	}
	var added rows
	for _, t := range []struct {
		table arch.Tensor
		ids   string
	}{{e.Position, positionIDs}, {e.Type, typeIDs}} {
		if t.table.Absent() {
			continue
		}
		y, err := l.look(t.table, t.ids)
		if err != nil {
			return x, err
		}
		if y.width != x.width {
			return x, status.Errorf(status.Start, "table %q has %d columns; the word table has %d", t.table.Name, y.width, x.width)
		}
		if !added.absent() {
			y = l.g.sum(added, y)
		}
		added = y
	}
	s := stream{x: x, delta: added}
	if e.Norm != nil {
		x, err = l.normalise(&s, e.Norm, false)
	} else {
		x = l.settle(&s)
	}
	if err != nil || e.Projection == nil {
		return x, err
	}
	l.observe(calibration.EmbeddingProjection, x)
	y, bias, err := l.linear(x, *e.Projection)
	return l.activate(y, bias, arch.Identity), err
}

// ---- The residual stream ----

// stream is the residual stream: x, or x + delta + bias where the sum is left to the norm that comes next.
type stream struct {
	x, delta rows
	bias     string
}

// settle does a sum that no norm will do.
func (l *lowering) settle(s *stream) rows {
	if !s.delta.absent() {
		s.x = l.g.sum(s.x, l.activate(s.delta, s.bias, arch.Identity))
	}
	*s = stream{x: s.x}
	return s.x
}

// normalise returns the norm of the stream. With keep, the stream goes on as the sum.
func (l *lowering) normalise(s *stream, n *arch.Norm, keep bool) (rows, error) {
	if s.delta.absent() {
		return l.norm(s.x, "", n, rows{}, nil)
	}
	if !keep {
		return l.norm(s.delta, s.bias, n, s.x, nil)
	}
	sum := l.g.rows(s.x.count, s.x.width)
	y, err := l.norm(s.delta, s.bias, n, s.x, &sum)
	*s = stream{x: sum}
	return y, err
}

func (l *lowering) layer(s *stream, i int) error {
	layer := &l.m.Layers[i]
	if err := l.block(s, layer.AttentionNorms, func(x rows) (rows, string, error) { return l.attention(i, x, &layer.Attention) }); err != nil {
		return err
	}
	return l.block(s, layer.MLPNorms, func(x rows) (rows, string, error) { return l.mlp(i, x, &layer.MLP) })
}

// block is x = Residual(x + After(f(Before(x)))), or x = Residual(x + Inner(x + f(Before(x)))).
func (l *lowering) block(s *stream, norms arch.BlockNorms, f func(x rows) (y rows, bias string, err error)) (err error) {
	var x rows
	if norms.Before != nil {
		x, err = l.normalise(s, norms.Before, true)
	} else {
		x = l.settle(s)
	}
	if err != nil {
		return err
	}
	if s.delta, s.bias, err = f(x); err != nil {
		return err
	}
	if s.delta.width != s.x.width {
		return status.Errorf(status.Start, "a block yields %d columns; the residual stream has %d", s.delta.width, s.x.width)
	}
	if norms.After != nil {
		if s.delta, err = l.norm(s.delta, s.bias, norms.After, rows{}, nil); err != nil {
			return err
		}
		s.bias = ""
	}
	if norms.Inner != nil {
		if s.delta, err = l.normalise(s, norms.Inner, false); err != nil {
			return err
		}
		s.bias = ""
	}
	if norms.Residual != nil {
		x, err = l.normalise(s, norms.Residual, false)
		*s = stream{x: x}
	}
	return err
}

// mlp is Down(act(Up(x))), or Down(act(Gate(x)) * Up(x)).
func (l *lowering) mlp(layer int, x rows, m *arch.MLP) (rows, string, error) {
	l.observe(calibration.MLPUp(layer), x)
	var y rows
	if m.Gated() {
		var err error
		if y, err = l.gated(x, m); err != nil {
			return y, "", err
		}
	} else {
		up, bias, err := l.linear(x, m.Up)
		if err != nil {
			return up, "", err
		}
		y = l.activate(up, bias, m.Activation)
	}
	l.observe(calibration.MLPDown(layer), y)
	return l.linear(y, m.Down)
}

// ---- The head ----

func (l *lowering) head(hidden rows) error {
	h := &l.m.Head
	if h.Kind == arch.HeadSparse {
		return l.vocabulary(hidden)
	}
	if h.Kind == arch.HeadTokenClassifier {
		logits, err := l.chain(hidden, h.Chain)
		if err != nil {
			return err
		}
		l.g.output(logits, outputTokenVectors)
		l.outputs, l.tokens = engine.TokenVectors, logits.width
		return nil
	}
	if len(h.Pooling.Modes) == 0 {
		return status.Errorf(status.Start, "the head has no pooling mode")
	}
	var parts []rows
	for _, mode := range h.Pooling.Modes {
		parts = append(parts, l.pool(hidden, mode))
	}
	pooled, err := l.chain(l.g.join(parts...), h.Chain)
	if err != nil {
		return err
	}
	vectors, err := l.tokenRows(hidden)
	if err != nil {
		return err
	}
	l.g.output(vectors, outputTokenVectors)
	l.g.output(pooled, outputPooled)
	l.outputs, l.tokens, l.pooled = engine.Pooled|engine.TokenVectors, vectors.width, pooled.width
	return nil
}

// tokenRows are the rows of tokens in the output: the last hidden state, or what the model's head makes of it.
func (l *lowering) tokenRows(hidden rows) (rows, error) {
	h := l.m.Head.Tokens
	if h == nil {
		return hidden, nil
	}
	l.observe(calibration.TokenHead, hidden)
	y, bias, err := l.linear(hidden, h.Maps()...)
	return l.activate(y, bias, arch.Identity), err
}

// vocabularyPart is how many columns of the vocabulary have their logits in memory at once.
const vocabularyPart = 8192

// vocabulary is the masked-LM head and what SPLADE makes of it (https://arxiv.org/abs/2107.05720): max over the tokens of log(1 + relu(logits)).
// Log and bias do not change which token has most, so they come after the maximum.
func (l *lowering) vocabulary(hidden rows) error {
	last := len(l.m.Head.Chain) - 1
	if last < 0 || l.m.Head.Chain[last].Activation != arch.Identity || l.m.Head.Chain[last].Norm != nil || l.m.Head.Chain[last].Linear.Transposed {
		return status.Errorf(status.Unsupported, "engine onnxruntime: a masked-LM head that does not end with a linear map alone")
	}
	x, err := l.chain(hidden, l.m.Head.Chain[:last])
	if err != nil {
		return err
	}
	m := l.m.Head.Chain[last].Linear
	l.observe(calibration.Head(last), x)
	var parts []rows
	for from := 0; from < m.Out; from += vocabularyPart {
		part := m
		part.Out = min(vocabularyPart, m.Out-from)
		w := linear{in: m.In, out: part.Out, transposed: true}
		if w.weight, err = l.b.part(m.Weight, from, from+part.Out); err != nil {
			return err
		}
		logits, _, err := l.product(x, w, []arch.Linear{part})
		if err != nil {
			return err
		}
		parts = append(parts, l.pool(logits, arch.PoolMax))
	}
	most := l.g.cast(l.g.join(parts...), ort.Float32)
	if !m.Bias.Absent() {
		bias, err := l.b.wide(m.Bias)
		if err != nil {
			return err
		}
		most = l.g.same("", "Add", most, []string{bias})
	}
	// What is not finite must not become a zero: relu drops NaN.
	zero := l.g.same("", "Mul", most, []string{l.b.typedScalar(ort.Float32, 0)})
	y := l.g.same("", "Add", l.g.same("", "Relu", most, nil), []string{l.b.typedScalar(ort.Float32, 1)})
	y = l.g.sum(l.g.same("", "Log", y, nil), zero)
	l.g.output(hidden, outputTokenVectors)
	l.g.output(y, outputSparse)
	l.outputs, l.tokens, l.sparse = engine.Sparse|engine.TokenVectors, hidden.width, m.Out
	return nil
}

func (l *lowering) chain(x rows, chain []arch.Dense) (rows, error) {
	for i := range chain {
		if !chain[i].Linear.Absent() {
			l.observe(calibration.Head(i), x)
			y, bias, err := l.linear(x, chain[i].Linear)
			if err != nil {
				return x, err
			}
			x = l.activate(y, bias, chain[i].Activation)
		}
		if chain[i].Norm != nil {
			var err error
			if x, err = l.norm(x, "", chain[i].Norm, rows{}, nil); err != nil {
				return x, err
			}
		}
	}
	return x, nil
}
