package onnx

import (
	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// rowOperators implements the operators that work on rows by our own ones: BiasActivation, GatedActivation, ResidualNorm and
// Pool, which are the same on all devices.
type rowOperators struct {
	l      *lowering
	domain func(ort.DataType) string // of the operators for rows of a dtype
}

func (r rowOperators) activate(x rows, bias string, act arch.Activation) rows {
	if x.absent() || (bias == "" && act == arch.Identity) {
		return x
	}
	return r.l.g.same(r.domain(x.dtype), "BiasActivation", x, []string{bias}, attr{"activation", known(r.l, "activation", actNumbers, act)})
}

func (r rowOperators) gated(x rows, m *arch.MLP) (rows, error) {
	maps, gateFirst := []arch.Linear{m.Gate, m.Up}, true
	if m.GateUp.Out > 0 {
		maps, gateFirst = []arch.Linear{m.GateUp}, !m.UpFirst
	}
	if len(maps) == 2 && m.Gate.Out != m.Up.Out {
		return x, status.Errorf(status.Start, "gate %q yields %d columns; up yields %d", m.Gate.Weight.Name, m.Gate.Out, m.Up.Out)
	}
	x, bias, err := r.l.linear(x, maps...)
	if err != nil {
		return x, err
	}
	y := r.l.g.typedRows(x.dtype, x.count, x.width/2)
	r.l.g.add(r.domain(x.dtype), "GatedActivation", []string{x.name, bias}, []string{y.name},
		attr{"activation", known(r.l, "activation", actNumbers, m.Activation)}, attr{"gate_first", flag(gateFirst)})
	return y, nil
}

func (r rowOperators) norm(x rows, bias string, n *arch.Norm, residual rows, sum *rows) (rows, error) {
	g := r.l.g
	weight, err := r.l.b.tensor(n.Weight)
	if err != nil {
		return rows{}, err
	}
	offset, err := r.l.b.tensor(n.Bias)
	if err != nil {
		return rows{}, err
	}
	x = g.cast(x, g.dtype)
	y := g.rows(x.count, x.width)
	outputs := []string{y.name}
	if sum != nil {
		outputs = append(outputs, sum.name)
	}
	g.add(r.domain(g.dtype), "ResidualNorm", []string{x.name, bias, residual.name, weight, offset}, outputs,
		attr{"norm", known(r.l, "norm kind", normNumbers, n.Kind)}, attr{"eps", n.Eps}, attr{"one_plus_weight", flag(n.OnePlusWeight)})
	return y, nil
}

// pool yields float32 rows.
func (r rowOperators) pool(x rows, mode arch.PoolMode) rows {
	g, skip := r.l.g, ""
	if r.l.m.Head.Pooling.ExcludePrompt {
		skip = g.input(poolSkip, ort.Int32, sequences)
	}
	y := g.typedRows(ort.Float32, sequences, x.width)
	g.add(r.domain(x.dtype), "Pool", []string{x.name, g.input(cuSeqLens, ort.Int32, dim{name: "sequences_plus_one"}), skip}, []string{y.name},
		attr{"pooling", known(r.l, "pooling", poolNumbers, mode)})
	return y
}

// alike reports that the norms of query and key differ in their weights only.
func alike(n *arch.QKNorm) bool {
	return n.Q.Kind == n.K.Kind && n.Q.Eps == n.K.Eps && n.Q.OnePlusWeight == n.K.OnePlusWeight
}

// qkNorm binds the norm of each head's query and key: weights of both, then biases of both.
func (r rowOperators) qkNorm(attrs []attr, inputs []string, n *arch.QKNorm) ([]attr, error) {
	if n == nil {
		return append(attrs, attr{"qk_norm", int64(0)}, attr{"qk_norm_eps", float32(0)}, attr{"qk_norm_one_plus_weight", int64(0)}), nil
	}
	if !alike(n) {
		return nil, status.Errorf(status.Unsupported, "engine onnxruntime: norms of query and key that differ in kind or eps")
	}
	for i, t := range []arch.Tensor{n.Q.Weight, n.K.Weight, n.Q.Bias, n.K.Bias} {
		var err error
		if inputs[i], err = r.l.b.tensor(t); err != nil {
			return nil, err
		}
	}
	return append(attrs, attr{"qk_norm", number(normNumbers, n.Q.Kind)}, attr{"qk_norm_eps", n.Q.Eps},
		attr{"qk_norm_one_plus_weight", flag(n.Q.OnePlusWeight)}), nil
}

// ropeInputs binds the tables of cos and sin.
func (r rowOperators) ropeInputs(attrs []attr, inputs []string, rope *arch.Rope) ([]attr, error) {
	if rope == nil {
		return append(attrs, attr{"rope", int64(0)}, attr{"rope_dim", int64(0)}), nil
	}
	var err error
	if inputs[0], inputs[1], err = r.l.ropeTables(rope, ort.Float32); err != nil {
		return nil, err
	}
	return append(attrs, attr{"rope", known(r.l, "rope kind", ropeNumbers, rope.Kind)}, attr{"rope_dim", int64(rope.Dim)}), nil
}
