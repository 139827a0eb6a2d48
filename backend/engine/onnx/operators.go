package onnx

import (
	"fmt"
	"math"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// linear multiplies by the weights of maps, joined, and leaves their bias to whoever reads the rows.
func (l *lowering) linear(x rows, maps ...arch.Linear) (rows, string, error) {
	w, err := l.b.linear(maps...)
	if err != nil {
		return rows{}, "", err
	}
	return l.product(x, w, maps)
}

func (l *lowering) product(x rows, w linear, maps []arch.Linear) (rows, string, error) {
	if w.in != x.width {
		return rows{}, "", status.Errorf(status.Start, "weight %q takes %d columns; it is given %d", maps[0].Weight.Name, w.in, x.width)
	}
	x = l.g.cast(x, l.g.dtype)
	y := l.g.rows(x.count, w.out)
	l.g.add("", "Gemm", []string{x.name, w.weight}, []string{y.name}, attr{"transB", flag(w.transposed)})
	return y, w.bias, nil
}

// attention is the whole block: joined projections, attention, output projection.
func (l *lowering) attention(layer int, x rows, a *arch.Attention) (rows, string, error) {
	width := 0
	for _, m := range a.QKV {
		width += m.Out
	}
	if width != (a.Heads+2*a.KVHeads)*a.HeadDim || a.KVHeads < 1 || a.HeadDim < 1 || a.Heads%a.KVHeads != 0 {
		return x, "", status.Errorf(status.Start, "%d columns of query, key and value do not fit %d heads, %d kv heads of size %d",
			width, a.Heads, a.KVHeads, a.HeadDim)
	}
	l.observe(calibration.AttentionQKV(layer), x)
	y, err := l.attend(x, a)
	if err != nil {
		return y, "", err
	}
	l.observe(calibration.AttentionOut(layer), y)
	return l.linear(y, a.Out)
}

// normaliseQK is the norm of whole queries and keys (over all heads at once), with their bias added before. It returns
// the rows and the bias that is still to be added: none.
func (l *lowering) normaliseQK(qkv rows, bias string, a *arch.Attention) (rows, string, error) {
	qkv = l.activate(qkv, bias, arch.Identity)
	query, key := a.Heads*a.HeadDim, a.KVHeads*a.HeadDim
	parts := []rows{l.g.rows(tokens, query), l.g.rows(tokens, key), l.g.rows(tokens, key)}
	sizes := l.b.sizes(query, key, key)
	l.g.add("", "Split", []string{qkv.name, sizes}, []string{parts[0].name, parts[1].name, parts[2].name}, attr{"axis", int64(1)})
	for i, n := range []*arch.Norm{&a.QKNorm.Q, &a.QKNorm.K} {
		var err error
		if parts[i], err = l.norm(parts[i], "", n, rows{}, nil); err != nil {
			return qkv, "", err
		}
	}
	return l.g.join(parts...), "", nil
}

// ropeTables binds the tables [positions, dim / 2] of cos and sin, with factor.
func (l *lowering) ropeTables(r *arch.Rope, dtype ort.DataType) (cos, sin string, err error) {
	if len(r.InvFreq) == 0 || r.Dim != 2*len(r.InvFreq) {
		return "", "", status.Errorf(status.Start, "rope of %d numbers has %d frequencies", r.Dim, len(r.InvFreq))
	}
	table := func(kind string, f func(float64) float64) (string, error) {
		key := fmt.Sprintf("rope %s %g %b", kind, r.Factor, r.InvFreq)
		return l.b.make(key, dtype, []int{l.positions, len(r.InvFreq)}, func(dst []float32) ([]float32, error) {
			return append(dst, r.Table(f, l.positions)...), nil
		})
	}
	if cos, err = table("cos", math.Cos); err != nil {
		return "", "", err
	}
	sin, err = table("sin", math.Sin)
	return cos, sin, err
}

// relativeBias binds the learned bias of each head by distance, [heads, 2 * max + 1], from its buckets.
func (l *lowering) relativeBias(r *arch.RelativeBias, heads int) (string, error) {
	if err := r.Check(); err != nil {
		return "", status.Errorf(status.CodeOf(err), "engine onnxruntime: %w", err)
	}
	stored, err := l.b.open(r.Weight)
	if err != nil {
		return "", err
	}
	key := fmt.Sprintf("relative %s %d %d %t", r.Weight.Name, r.Buckets, r.MaxDistance, r.Bidirectional)
	return l.b.make(key, ort.Float32, []int{heads, 2*r.MaxDistance + 1}, func(dst []float32) ([]float32, error) {
		table := stored.AppendFloat32(nil)
		if len(table) != r.Buckets*heads {
			return nil, status.Errorf(status.Start, "tensor %q must be [%d buckets, %d heads]", r.Weight.Name, r.Buckets, heads)
		}
		return append(dst, r.ByDistance(table, heads)...), nil
	})
}

// placeTables are the tables of disentangled attention, [2 * span, heads * head_dim]; nil where there is none.
type placeTables struct{ keys, queries []float32 }

func (l *lowering) placeTables(a *arch.Attention) (placeTables, error) {
	d := a.Disentangled
	if err := d.Check(a.Heads, a.KVHeads, a.HeadDim); err != nil {
		return placeTables{}, status.Errorf(status.CodeOf(err), "engine onnxruntime: %w", err)
	}
	keys, queries, err := d.Tables(func(t arch.Tensor) ([]float32, error) {
		stored, err := l.b.open(t)
		if err != nil {
			return nil, err
		}
		return stored.AppendFloat32(nil), nil
	})
	return placeTables{keys, queries}, err
}
