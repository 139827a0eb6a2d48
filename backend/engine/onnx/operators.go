package onnx

import (
	"fmt"
	"math"

	"github.com/basetenlabs/bei-runtime/backend/arch"
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
func (l *lowering) attention(x rows, a *arch.Attention) (rows, string, error) {
	width := 0
	for _, m := range a.QKV {
		width += m.Out
	}
	if width != (a.Heads+2*a.KVHeads)*a.HeadDim || a.KVHeads < 1 || a.HeadDim < 1 || a.Heads%a.KVHeads != 0 {
		return x, "", status.Errorf(status.Start, "%d columns of query, key and value do not fit %d heads, %d kv heads of size %d",
			width, a.Heads, a.KVHeads, a.HeadDim)
	}
	y, err := l.attend(x, a)
	if err != nil {
		return y, "", err
	}
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
			for p := range l.positions {
				for _, freq := range r.InvFreq {
					// The angle is rounded to float32, as in the models' own code: at high positions that is seen in
					// the result.
					dst = append(dst, float32(f(float64(float32(p)*freq))*float64(r.Factor)))
				}
			}
			return dst, nil
		})
	}
	if cos, err = table("cos", math.Cos); err != nil {
		return "", "", err
	}
	sin, err = table("sin", math.Sin)
	return cos, sin, err
}

// relativeBias binds the learned bias of each head by distance, [heads, 2 * max + 1], from its buckets. From
// MaxDistance on every distance is in the last bucket.
func (l *lowering) relativeBias(r *arch.RelativeBias, heads int) (string, error) {
	if r.Buckets < 4 || r.MaxDistance <= r.Buckets || r.MaxDistance > 1<<20 {
		return "", status.Errorf(status.Unsupported, "engine onnxruntime: relative bias of %d buckets up to distance %d",
			r.Buckets, r.MaxDistance)
	}
	stored, err := l.b.open(r.Weight)
	if err != nil {
		return "", err
	}
	width := 2*r.MaxDistance + 1
	key := fmt.Sprintf("relative %s %d %d %t", r.Weight.Name, r.Buckets, r.MaxDistance, r.Bidirectional)
	return l.b.make(key, ort.Float32, []int{heads, width}, func(dst []float32) ([]float32, error) {
		table := stored.AppendFloat32(nil)
		if len(table) != r.Buckets*heads {
			return nil, status.Errorf(status.Start, "tensor %q must be [%d buckets, %d heads]", r.Weight.Name, r.Buckets, heads)
		}
		for h := range heads {
			for i := range width {
				dst = append(dst, table[bucket(r, i-r.MaxDistance)*heads+h])
			}
		}
		return dst, nil
	})
}

// bucket is T5's: half of the buckets for exact distances, the rest in logarithmic steps (relative_position_bucket in
// https://github.com/google-research/text-to-text-transfer-transformer and its copies). distance: key minus query. In
// float32, as there: on the borders between buckets rounding decides.
func bucket(r *arch.RelativeBias, distance int) int {
	buckets, first := r.Buckets, 0
	if r.Bidirectional {
		buckets /= 2
		if distance > 0 {
			first = buckets
		} else {
			distance = -distance
		}
	} else {
		distance = max(-distance, 0)
	}
	exact := buckets / 2
	if distance < exact {
		return first + distance
	}
	ratio := float32(math.Log(float64(float32(distance) / float32(exact))))
	steps := ratio / float32(math.Log(float64(r.MaxDistance)/float64(exact))) * float32(buckets-exact)
	return first + min(exact+int(steps), buckets-1)
}
