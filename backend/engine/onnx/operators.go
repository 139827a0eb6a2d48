package onnx

import (
	"fmt"
	"math"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

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

func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// float32 converts rows of another dtype.
func (l *lowering) float32(x rows, dtype ort.DataType) rows {
	if dtype == ort.Float32 {
		return x
	}
	return l.g.same("", "Cast", x, nil, attr{"to", int64(ort.Float32)})
}

// linear multiplies by the weights of maps, joined, and leaves their bias to whoever reads the rows. key is calibration's of x.
func (l *lowering) linear(key string, x rows, maps ...arch.Linear) (rows, string, error) {
	w, err := l.b.linear(maps...)
	if err != nil {
		return rows{}, "", err
	}
	if w.in != x.width {
		return rows{}, "", status.Errorf(status.Start, "weight %q takes %d columns; it is given %d", maps[0].Weight.Name, w.in, x.width)
	}
	l.observe(key, x)
	y := l.g.rows(x.count, w.out)
	l.g.add("", "Gemm", []string{x.name, w.weight}, []string{y.name}, attr{"transB", flag(w.transposed)})
	return y, w.bias, nil
}

// activate is act(x + bias).
func (l *lowering) activate(x rows, bias string, act arch.Activation) rows {
	if x.absent() || (bias == "" && act == arch.Identity) {
		return x
	}
	return l.g.same(domainOfBei, "BiasActivation", x, []string{bias}, attr{"activation", number(actNumbers, act)})
}

// gate is act(gate + bias) * (up + bias) of joined rows.
func (l *lowering) gate(x rows, bias string, act arch.Activation, gateFirst bool) rows {
	y := l.g.rows(x.count, x.width/2)
	l.g.add(domainOfBei, "GatedActivation", []string{x.name, bias}, []string{y.name},
		attr{"activation", number(actNumbers, act)}, attr{"gate_first", flag(gateFirst)})
	return y
}

// norm is norm(x + bias + residual). Where sum is not nil, its rows receive what is normalised.
func (l *lowering) norm(x rows, bias string, n *arch.Norm, residual rows, sum *rows) (rows, error) {
	weight, err := l.b.tensor(n.Weight)
	if err != nil {
		return rows{}, err
	}
	offset, err := l.b.tensor(n.Bias)
	if err != nil {
		return rows{}, err
	}
	y := l.g.rows(x.count, x.width)
	outputs := []string{y.name}
	if sum != nil {
		outputs = append(outputs, sum.name)
	}
	l.g.add(domainOfBei, "ResidualNorm", []string{x.name, bias, residual.name, weight, offset}, outputs,
		attr{"norm", number(normNumbers, n.Kind)}, attr{"eps", n.Eps}, attr{"one_plus_weight", flag(n.OnePlusWeight)})
	return y, nil
}

// pool makes one row of each sequence.
func (l *lowering) pool(x rows, mode arch.PoolMode) rows {
	y, skip := l.g.rows(sequences, x.width), ""
	if l.m.Head.Pooling.ExcludePrompt {
		skip = poolSkip
	}
	l.g.add(domainOfBei, "Pool", []string{x.name, cuSeqLens, skip}, []string{y.name}, attr{"pooling", number(poolNumbers, mode)})
	return y
}

// attention is the whole block: joined projections, attention, output projection.
func (l *lowering) attention(layer int, x rows, a *arch.Attention) (rows, string, error) {
	width := (a.Heads + 2*a.KVHeads) * a.HeadDim
	qkv, bias, err := l.linear(calibration.AttentionQKV(layer), x, a.QKV...)
	if err != nil {
		return qkv, "", err
	}
	if qkv.width != width || a.KVHeads < 1 || a.HeadDim < 1 || a.Heads%a.KVHeads != 0 {
		return qkv, "", status.Errorf(status.Start, "%d columns of query, key and value do not fit %d heads, %d kv heads of size %d",
			qkv.width, a.Heads, a.KVHeads, a.HeadDim)
	}
	norm := a.QKNorm
	if norm != nil && norm.FullWidth {
		if qkv, bias, err = l.normaliseQK(qkv, bias, a); err != nil {
			return qkv, "", err
		}
		norm = nil
	}
	inputs := []string{qkv.name, cuSeqLens, positionIDs, bias, "", "", "", "", "", "", "", ""}
	attrs := []attr{
		{"num_heads", int64(a.Heads)}, {"num_kv_heads", int64(a.KVHeads)}, {"head_dim", int64(a.HeadDim)},
		{"scale", a.Scale}, {"softcap", a.Softcap}, {"causal", flag(a.Causal)},
		{"window_left", int64(max(a.WindowLeft, -1))}, {"window_right", int64(max(a.WindowRight, -1))},
	}
	attrs, err = l.qkNorm(attrs, inputs[4:8], norm)
	if err == nil {
		attrs, err = l.rope(attrs, inputs[8:10], a.Rope)
	}
	if err == nil {
		inputs[10], inputs[11], err = l.positionBiases(a)
	}
	if err != nil {
		return qkv, "", err
	}
	y := l.g.rows(x.count, a.Heads*a.HeadDim)
	l.g.add(domainOfBei, "Attention", inputs, []string{y.name}, attrs...)
	return l.linear(calibration.AttentionOut(layer), y, a.Out)
}

// qkNorm binds the norm of each head's query and key: weights of both, then biases of both.
func (l *lowering) qkNorm(attrs []attr, inputs []string, n *arch.QKNorm) ([]attr, error) {
	if n == nil {
		return append(attrs, attr{"qk_norm", int64(0)}, attr{"qk_norm_eps", float32(0)}, attr{"qk_norm_one_plus_weight", int64(0)}), nil
	}
	if n.Q.Kind != n.K.Kind || n.Q.Eps != n.K.Eps || n.Q.OnePlusWeight != n.K.OnePlusWeight {
		return nil, status.Errorf(status.Unsupported, "engine onnxruntime: norms of query and key that differ in kind or eps")
	}
	for i, t := range []arch.Tensor{n.Q.Weight, n.K.Weight, n.Q.Bias, n.K.Bias} {
		var err error
		if inputs[i], err = l.b.tensor(t); err != nil {
			return nil, err
		}
	}
	return append(attrs, attr{"qk_norm", number(normNumbers, n.Q.Kind)}, attr{"qk_norm_eps", n.Q.Eps}, attr{"qk_norm_one_plus_weight", flag(n.Q.OnePlusWeight)}), nil
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

// rope binds the tables [positions, dim / 2] of cos and sin.
func (l *lowering) rope(attrs []attr, inputs []string, r *arch.Rope) ([]attr, error) {
	if r == nil {
		return append(attrs, attr{"rope", int64(0)}, attr{"rope_dim", int64(0)}), nil
	}
	if len(r.InvFreq) == 0 || r.Dim != 2*len(r.InvFreq) {
		return nil, status.Errorf(status.Start, "rope of %d numbers has %d frequencies", r.Dim, len(r.InvFreq))
	}
	for i, f := range []func(float64) float64{math.Cos, math.Sin} {
		key := fmt.Sprintf("rope %d %g %b", i, r.Factor, r.InvFreq)
		name, err := l.b.make(key, []int{l.positions, len(r.InvFreq)}, func(dst []float32) ([]float32, error) {
			for p := range l.positions {
				for _, freq := range r.InvFreq {
					// The angle is rounded to float32, as in the models' own code: at high positions that is seen in
					// the result.
					dst = append(dst, float32(f(float64(float32(p)*freq))*float64(r.Factor)))
				}
			}
			return dst, nil
		})
		if err != nil {
			return nil, err
		}
		inputs[i] = name
	}
	return append(attrs, attr{"rope", number(ropeNumbers, r.Kind)}, attr{"rope_dim", int64(r.Dim)}), nil
}

// positionBiases binds what is added to scores by position.
func (l *lowering) positionBiases(a *arch.Attention) (alibi, relative string, err error) {
	if a.AlibiSlopes != nil {
		if alibi, err = l.b.constant(fmt.Sprintf("alibi %b", a.AlibiSlopes), []int{a.Heads}, a.AlibiSlopes); err != nil {
			return "", "", err
		}
	}
	if a.RelativeBias != nil {
		relative, err = l.relativeBias(a.RelativeBias, a.Heads)
	}
	return alibi, relative, err
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
	return l.b.make(key, []int{heads, width}, func(dst []float32) ([]float32, error) {
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
