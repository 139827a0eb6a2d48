package onnx

import (
	"fmt"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
)

// customOperators implements operators on the CPU, by those of domain "bei".
type customOperators struct{ rowOperators }

func newCustomOperators(l *lowering) customOperators {
	return customOperators{rowOperators{l, func(ort.DataType) string { return domainOfBei }}}
}

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

// known is number, and refuses the model where there is none.
func known[K comparable](l *lowering, what string, numbers map[K]int64, key K) int64 {
	n := number(numbers, key)
	if n < 0 {
		l.refuse("%s %d", what, key)
	}
	return n
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
		attrs, err = c.ropeInputs(attrs, inputs[8:10], a.Rope)
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
