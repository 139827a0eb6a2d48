package onnx

import (
	"fmt"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// customOperators implements operators on the CPU, by those of domain "bei".
type customOperators struct{ l *lowering }

// Numbers of the enums in kernels.h, which the operators' attributes carry.
var (
	actNumbers = map[arch.Activation]int64{
		arch.Identity: 0, arch.GELU: 1, arch.GELUTanh: 2, arch.QuickGELU: 3, arch.ReLU: 4, arch.SiLU: 5, arch.Tanh: 6,
	}
	normNumbers = map[arch.NormKind]int64{arch.LayerNorm: 1, arch.RMSNorm: 2}
	ropeNumbers = map[arch.RopeKind]int64{arch.RopeHalf: 1, arch.RopeInterleaved: 2}
	poolNumbers = map[arch.PoolMode]int64{
		arch.PoolCLS: 0, arch.PoolLastToken: 1, arch.PoolMean: 2, arch.PoolMax: 3, arch.PoolMeanSqrtLen: 4, arch.PoolWeightedMean: 5,
	}
)

// number looks an enum up; one that the operators do not have becomes -1, which they refuse.
func number[K comparable](numbers map[K]int64, key K) int64 {
	if n, ok := numbers[key]; ok {
		return n
	}
	return -1
}

func (c customOperators) activate(x rows, bias string, act arch.Activation) rows {
	if x.absent() || (bias == "" && act == arch.Identity) {
		return x
	}
	return c.l.g.same(domainOfBei, "BiasActivation", x, []string{bias}, attr{"activation", number(actNumbers, act)})
}

func (c customOperators) gated(x rows, m *arch.MLP) (rows, error) {
	maps, gateFirst := []arch.Linear{m.Gate, m.Up}, true
	if m.GateUp.Out > 0 {
		maps, gateFirst = []arch.Linear{m.GateUp}, !m.UpFirst
	}
	x, bias, err := c.l.linear(x, maps...)
	if err != nil {
		return x, err
	}
	y := c.l.g.rows(x.count, x.width/2)
	c.l.g.add(domainOfBei, "GatedActivation", []string{x.name, bias}, []string{y.name},
		attr{"activation", number(actNumbers, m.Activation)}, attr{"gate_first", flag(gateFirst)})
	return y, nil
}

func (c customOperators) norm(x rows, bias string, n *arch.Norm, residual rows, sum *rows) (rows, error) {
	weight, err := c.l.b.tensor(n.Weight)
	if err != nil {
		return rows{}, err
	}
	offset, err := c.l.b.tensor(n.Bias)
	if err != nil {
		return rows{}, err
	}
	y := c.l.g.rows(x.count, x.width)
	outputs := []string{y.name}
	if sum != nil {
		outputs = append(outputs, sum.name)
	}
	c.l.g.add(domainOfBei, "ResidualNorm", []string{x.name, bias, residual.name, weight, offset}, outputs,
		attr{"norm", number(normNumbers, n.Kind)}, attr{"eps", n.Eps}, attr{"one_plus_weight", flag(n.OnePlusWeight)})
	return y, nil
}

func (c customOperators) pool(x rows, mode arch.PoolMode) rows {
	y, skip := c.l.g.rows(sequences, x.width), ""
	if c.l.m.Head.Pooling.ExcludePrompt {
		skip = poolSkip
	}
	c.l.g.add(domainOfBei, "Pool", []string{x.name, cuSeqLens, skip}, []string{y.name}, attr{"pooling", number(poolNumbers, mode)})
	return y
}

func (c customOperators) attend(x rows, a *arch.Attention) (rows, error) {
	l := c.l
	qkv, bias, err := l.linear(x, a.QKV...)
	if err != nil {
		return qkv, err
	}
	norm := a.QKNorm
	if norm != nil && norm.FullWidth {
		if qkv, bias, err = l.normaliseQK(qkv, bias, a); err != nil {
			return qkv, err
		}
		norm = nil
	}
	inputs := append([]string{qkv.name, cuSeqLens, positionIDs, bias}, make([]string, 11)...)
	attrs := []attr{
		{"num_heads", int64(a.Heads)}, {"num_kv_heads", int64(a.KVHeads)}, {"head_dim", int64(a.HeadDim)},
		{"scale", a.Scale}, {"softcap", a.Softcap}, {"causal", flag(a.Causal)},
		{"window_left", int64(max(a.WindowLeft, -1))}, {"window_right", int64(max(a.WindowRight, -1))},
	}
	attrs, err = c.qkNorm(attrs, inputs[4:8], norm)
	if err == nil {
		attrs, err = c.rope(attrs, inputs[8:10], a.Rope)
	}
	if err == nil {
		inputs[10], inputs[11], err = c.positionBiases(a)
	}
	if err == nil {
		err = c.places(inputs[12:15], a)
	}
	if err != nil {
		return qkv, err
	}
	y := l.g.rows(qkv.count, a.Heads*a.HeadDim)
	l.g.add(domainOfBei, "Attention", inputs, []string{y.name}, attrs...)
	return y, nil
}

// qkNorm binds the norm of each head's query and key: weights of both, then biases of both.
func (c customOperators) qkNorm(attrs []attr, inputs []string, n *arch.QKNorm) ([]attr, error) {
	if n == nil {
		return append(attrs, attr{"qk_norm", int64(0)}, attr{"qk_norm_eps", float32(0)}, attr{"qk_norm_one_plus_weight", int64(0)}), nil
	}
	if n.Q.Kind != n.K.Kind || n.Q.Eps != n.K.Eps || n.Q.OnePlusWeight != n.K.OnePlusWeight {
		return nil, status.Errorf(status.Unsupported, "engine onnxruntime: norms of query and key that differ in kind or eps")
	}
	for i, t := range []arch.Tensor{n.Q.Weight, n.K.Weight, n.Q.Bias, n.K.Bias} {
		var err error
		if inputs[i], err = c.l.b.tensor(t); err != nil {
			return nil, err
		}
	}
	return append(attrs, attr{"qk_norm", number(normNumbers, n.Q.Kind)}, attr{"qk_norm_eps", n.Q.Eps}, attr{"qk_norm_one_plus_weight", flag(n.Q.OnePlusWeight)}), nil
}

// rope binds the tables of cos and sin.
func (c customOperators) rope(attrs []attr, inputs []string, r *arch.Rope) ([]attr, error) {
	if r == nil {
		return append(attrs, attr{"rope", int64(0)}, attr{"rope_dim", int64(0)}), nil
	}
	var err error
	if inputs[0], inputs[1], err = c.l.ropeTables(r, ort.Float32); err != nil {
		return nil, err
	}
	return append(attrs, attr{"rope", number(ropeNumbers, r.Kind)}, attr{"rope_dim", int64(r.Dim)}), nil
}

// positionBiases binds what is added to scores by position.
func (c customOperators) positionBiases(a *arch.Attention) (alibi, relative string, err error) {
	if a.AlibiSlopes != nil {
		if alibi, err = c.l.b.constant(fmt.Sprintf("alibi %b", a.AlibiSlopes), ort.Float32, []int{a.Heads}, a.AlibiSlopes); err != nil {
			return "", "", err
		}
	}
	if a.RelativeBias != nil {
		relative, err = c.l.relativeBias(a.RelativeBias, a.Heads)
	}
	return alibi, relative, err
}

// places binds the tables of disentangled attention: of keys, of queries, and the rows of distances.
func (c customOperators) places(inputs []string, a *arch.Attention) error {
	d := a.Disentangled
	if d == nil {
		return nil
	}
	tables, err := c.l.placeTables(a)
	if err != nil {
		return err
	}
	for i, table := range [][]float32{tables.keys, tables.queries} {
		if table == nil {
			continue
		}
		by := [...]*arch.Linear{d.Key, d.Query}[i]
		key := fmt.Sprintf("places of %s by %s", d.Name(), by.Weight.Name)
		if inputs[i], err = c.l.b.constant(key, ort.Float32, []int{2 * d.Span, a.Heads * a.HeadDim}, table); err != nil {
			return err
		}
	}
	inputs[2] = c.l.b.indices(d.Rows(c.l.positions))
	return nil
}
