package suite

import (
	"math"

	"github.com/basetenlabs/bei-runtime/backend/arch"
)

// models has one model for each family of choices that arch.Model can express; together they take every choice at least
// once.
var models = []struct {
	name string
	make func(k *maker) *arch.Model
}{
	{"bert", func(k *maker) *arch.Model {
		m := k.model(36)
		m.Embeddings.Position, m.Embeddings.PositionOffset = k.tensor(0, 1, maxPositions, 36), 2
		m.Embeddings.Type, m.Embeddings.Norm = k.tensor(0, 1, typeCount, 36), k.layerNorm(36)
		k.postNorm(m, 2, func(int) arch.Attention { return k.attention(36, 3, 3, 12, true) }, func() arch.MLP { return k.mlp(36, 70, arch.GELU, true) })
		return m
	}},
	{"qwen3: rope, grouped heads, norms of query and key, causal, gated, last token", func(k *maker) *arch.Model {
		m := k.model(40)
		m.Head.Pooling.Modes = []arch.PoolMode{arch.PoolLastToken}
		norm := func() *arch.Norm { return k.rmsNorm(40, false) }
		k.preNorm(m, 2, norm, func(int) arch.Attention {
			a := k.attention(40, 6, 2, 10, false)
			a.Causal, a.Rope, a.QKNorm = true, k.rope(arch.RopeHalf, 10, 1000, 1), &arch.QKNorm{Q: *k.rmsNorm(10, false), K: *k.rmsNorm(10, false)}
			return a
		}, func() arch.MLP { return k.gated(40, 52, arch.SiLU, false) })
		return m
	}},
	{"llama: causal, window of a layer, grouped heads of a size that fused kernels have", func(k *maker) *arch.Model {
		m := k.model(48)
		m.Head.Pooling.Modes = []arch.PoolMode{arch.PoolLastToken}
		norm := func() *arch.Norm { return k.rmsNorm(48, false) }
		k.preNorm(m, 2, norm, func(layer int) arch.Attention {
			a := k.attention(48, 4, 2, 16, true)
			a.Causal, a.Rope = true, k.rope(arch.RopeHalf, 16, 10000, 1)
			if layer == 0 {
				a.QKNorm = &arch.QKNorm{Q: *k.rmsNorm(16, true), K: *k.rmsNorm(16, true)}
			} else {
				a.WindowLeft = 7
			}
			return a
		}, func() arch.MLP { return k.gated(48, 64, arch.SiLU, false) })
		return m
	}},
	{"nomic: rope and norms of queries in both directions, heads of a size that fused kernels have", func(k *maker) *arch.Model {
		m := k.model(32)
		m.Embeddings.Type, m.Embeddings.Norm = k.tensor(0, 1, typeCount, 32), k.layerNorm(32)
		k.postNorm(m, 2, func(layer int) arch.Attention {
			a := k.attention(32, 2, 2, 16, false)
			a.Rope = k.rope(arch.RopeHalf, 16, 1000, 1)
			if layer == 1 {
				a.QKNorm = &arch.QKNorm{Q: *k.layerNorm(16), K: *k.layerNorm(16)}
			}
			return a
		}, func() arch.MLP { return k.gated(32, 40, arch.SiLU, true) })
		return m
	}},
	{"gemma: sandwich norms of one plus weight, scaled embeddings, windows, softcap", func(k *maker) *arch.Model {
		m := k.model(32)
		m.Embeddings.Scale = float32(math.Sqrt(32))
		norm := func() *arch.Norm { return k.rmsNorm(32, true) }
		for i := range 3 {
			a := k.attention(32, 4, 1, 16, false)
			a.Rope, a.Softcap, a.QKNorm = k.rope(arch.RopeHalf, 16, 10000, 1), 2, &arch.QKNorm{Q: *k.rmsNorm(16, true), K: *k.rmsNorm(16, true)}
			if i != 1 {
				a.WindowLeft, a.WindowRight, a.Rope = 5, 4, k.rope(arch.RopeHalf, 16, 100, 1)
			}
			m.Layers = append(m.Layers, arch.Layer{
				Attention: a, AttentionNorms: arch.BlockNorms{Before: norm(), After: norm()},
				MLP: k.gated(32, 44, arch.GELUTanh, false), MLPNorms: arch.BlockNorms{Before: norm(), After: norm()},
			})
		}
		m.FinalNorm = norm()
		return m
	}},
	{"jina: alibi, gate and up in one map with up first, no positions", func(k *maker) *arch.Model {
		m := k.model(32)
		m.MaxPositions = 0
		m.Embeddings.Type, m.Embeddings.Norm = k.tensor(0, 1, typeCount, 32), k.layerNorm(32)
		k.postNorm(m, 2, func(int) arch.Attention {
			a := k.attention(32, 4, 4, 8, true)
			a.AlibiSlopes = []float32{0.25, 0.0625, 0.015625, 0.5}
			return a
		}, func() arch.MLP { return k.fused(32, 50, arch.GELU, true) })
		return m
	}},
	{"qk-post: norms over all heads, alibi, a norm of the sum inside the sum", func(k *maker) *arch.Model {
		m := k.model(24)
		m.Embeddings.Type, m.Embeddings.Norm = k.tensor(0, 1, typeCount, 24), k.layerNorm(24)
		k.postNorm(m, 2, func(int) arch.Attention {
			a := k.attention(24, 3, 3, 8, true)
			a.AlibiSlopes = []float32{0.0625, 0.00390625, 0.25}
			a.QKNorm = &arch.QKNorm{Q: *k.layerNorm(24), K: *k.layerNorm(24), FullWidth: true}
			return a
		}, func() arch.MLP { return k.fused(24, 30, arch.ReLU, true) })
		for i := range m.Layers {
			m.Layers[i].AttentionNorms.Inner = k.layerNorm(24)
		}
		return m
	}},
	{"modernbert: one map of query, key and value, first layer without norm, cls", func(k *maker) *arch.Model {
		m := k.model(36)
		m.Embeddings.Norm = &arch.Norm{Weight: k.tensor(1, 0.3, 36), Eps: 0.02}
		m.Head.Pooling.Modes = []arch.PoolMode{arch.PoolCLS}
		norm := func() *arch.Norm { return &arch.Norm{Weight: k.tensor(1, 0.3, 36), Eps: 0.02} }
		k.preNorm(m, 3, norm, func(layer int) arch.Attention {
			a := k.attention(36, 3, 3, 12, false)
			a.QKV, a.Rope = []arch.Linear{k.linear(36, 3*36, false)}, k.rope(arch.RopeHalf, 12, 160000, 1)
			if layer > 0 {
				a.WindowLeft, a.WindowRight, a.Rope = 6, 6, k.rope(arch.RopeHalf, 12, 10000, 1)
			}
			return a
		}, func() arch.MLP { return k.fused(36, 41, arch.GELU, false) })
		m.Layers[0].AttentionNorms.Before = nil
		return m
	}},
	{"mpnet: relative bias by bucket, both directions", func(k *maker) *arch.Model {
		m := k.model(32)
		m.Embeddings.Position, m.Embeddings.PositionOffset, m.Embeddings.Norm = k.tensor(0, 1, maxPositions, 32), 2, k.layerNorm(32)
		bias := &arch.RelativeBias{Weight: k.tensor(0, 1, 12, 4), Buckets: 12, MaxDistance: 17, Bidirectional: true}
		k.postNorm(m, 2, func(int) arch.Attention {
			a := k.attention(32, 4, 4, 8, true)
			a.RelativeBias = bias
			return a
		}, func() arch.MLP { return k.mlp(32, 48, arch.GELU, true) })
		return m
	}},
	{"deberta: places by query and by key, rows in steps and normalised; then by query alone, each distance", func(k *maker) *arch.Model {
		m := k.model(30)
		m.Embeddings.Norm = k.layerNorm(30)
		k.postNorm(m, 2, func(layer int) arch.Attention {
			a := k.attention(30, 3, 3, 10, true)
			key, query := k.linear(30, 30, true), k.linear(30, 30, false)
			a.Scale = float32(1 / math.Sqrt(30))
			a.Disentangled = &arch.Disentangled{Embeddings: k.tensor(0, 1, 14, 30), Norm: k.layerNorm(30), Key: &key, Query: &query, Span: 7, Buckets: 7, MaxDistance: 23}
			if layer == 1 {
				a.Disentangled = &arch.Disentangled{Embeddings: k.tensor(0, 1, 18, 30), Key: &key, Span: 9}
			}
			return a
		}, func() arch.MLP { return k.mlp(30, 44, arch.GELU, true) })
		return m
	}},
	{"gptj: interleaved rope of a part, factor, window to the left, one-way relative bias", func(k *maker) *arch.Model {
		m := k.model(40)
		m.Head.Pooling.Modes = []arch.PoolMode{arch.PoolWeightedMean}
		k.preNorm(m, 2, func() *arch.Norm { return k.layerNorm(40) }, func(int) arch.Attention {
			a := k.attention(40, 4, 2, 11, true)
			a.Rope, a.WindowLeft, a.Causal = k.rope(arch.RopeInterleaved, 6, 500, 1.25), 9, true
			a.RelativeBias = &arch.RelativeBias{Weight: k.tensor(0, 1, 7, 4), Buckets: 7, MaxDistance: 19}
			return a
		}, func() arch.MLP { return k.mlp(40, 60, arch.QuickGELU, true) })
		return m
	}},
	{"conv maps, norms over all heads, sums without a norm", func(k *maker) *arch.Model {
		m := k.model(24)
		for range 2 {
			a := k.attention(24, 4, 2, 6, true)
			a.QKV = []arch.Linear{k.conv(24, 24), k.conv(24, 12), k.linear(24, 12, false)}
			a.Out, a.QKNorm = k.conv(24, 24), &arch.QKNorm{Q: *k.rmsNorm(24, false), K: *k.rmsNorm(12, false), FullWidth: true}
			mlp := k.mlp(24, 30, arch.ReLU, true)
			mlp.Up, mlp.Down = k.conv(24, 30), k.conv(30, 24)
			m.Layers = append(m.Layers, arch.Layer{Attention: a, AttentionNorms: arch.BlockNorms{Before: k.layerNorm(24)}, MLP: mlp})
		}
		return m
	}},
	{"projected embeddings, all poolings joined without the prompt, dense layers", func(k *maker) *arch.Model {
		m := k.model(28)
		projection := k.linear(18, 28, true)
		m.Embeddings.Word, m.Embeddings.Norm, m.Embeddings.Projection = k.tensor(0, 1, vocabSize, 18), k.layerNorm(18), &projection
		k.postNorm(m, 1, func(int) arch.Attention {
			a := k.attention(28, 2, 2, 14, true)
			a.QKNorm = &arch.QKNorm{Q: *k.layerNorm(14), K: *k.layerNorm(14)}
			return a
		}, func() arch.MLP { return k.mlp(28, 40, arch.Tanh, false) })
		m.Head.Pooling = arch.Pooling{ExcludePrompt: true, Modes: []arch.PoolMode{
			arch.PoolCLS, arch.PoolMean, arch.PoolMax, arch.PoolMeanSqrtLen, arch.PoolWeightedMean, arch.PoolLastToken}}
		m.Head.Chain = []arch.Dense{
			{Linear: k.linear(6*28, 30, true), Activation: arch.Tanh, Norm: k.layerNorm(30)},
			{Linear: k.linear(30, 17, false)},
		}
		return m
	}},
	{"heads of tokens: vectors and weights beside the pooled vector, norms between dense layers", func(k *maker) *arch.Model {
		m := k.model(32)
		m.Embeddings.Norm = k.layerNorm(32)
		k.postNorm(m, 1, func(int) arch.Attention { return k.attention(32, 4, 4, 8, true) }, func() arch.MLP { return k.mlp(32, 40, arch.GELU, true) })
		m.Head.Pooling.Modes = []arch.PoolMode{arch.PoolCLS}
		m.Head.Chain = []arch.Dense{
			{Norm: k.layerNorm(32)}, {Linear: k.linear(32, 20, true), Activation: arch.Tanh}, {Norm: k.layerNorm(20)}, {Linear: k.linear(20, 12, false)}}
		m.Head.Tokens = &arch.TokenHead{Vector: k.linear(32, 9, true), Weight: k.linear(32, 1, true)}
		return m
	}},
	{"classifier", func(k *maker) *arch.Model {
		m := k.model(32)
		m.Embeddings.Norm = k.layerNorm(32)
		k.postNorm(m, 1, func(int) arch.Attention { return k.attention(32, 4, 4, 8, true) }, func() arch.MLP { return k.mlp(32, 40, arch.GELU, true) })
		m.Head = arch.Head{Kind: arch.HeadClassifier, Pooling: arch.Pooling{Modes: []arch.PoolMode{arch.PoolCLS}}, Chain: []arch.Dense{
			{Linear: k.linear(32, 32, true), Activation: arch.Tanh}, {Linear: k.linear(32, 3, true)}}}
		return m
	}},
	{"sparse: masked-LM head tied to the words", func(k *maker) *arch.Model {
		m := k.model(28)
		m.Embeddings.Norm = k.layerNorm(28)
		k.postNorm(m, 1, func(int) arch.Attention { return k.attention(28, 4, 4, 7, true) }, func() arch.MLP { return k.mlp(28, 36, arch.GELU, true) })
		m.Head = arch.Head{Kind: arch.HeadSparse, Chain: []arch.Dense{
			{Linear: k.linear(28, 28, true), Activation: arch.GELU, Norm: k.layerNorm(28)},
			{Linear: arch.Linear{Weight: m.Embeddings.Word, Bias: k.tensor(0, 1, vocabSize), In: 28, Out: vocabSize}}}}
		return m
	}},
	{"token classifier", func(k *maker) *arch.Model {
		m := k.model(32)
		m.Embeddings.Norm = k.layerNorm(32)
		k.postNorm(m, 1, func(int) arch.Attention { return k.attention(32, 4, 4, 8, true) }, func() arch.MLP { return k.mlp(32, 40, arch.GELU, true) })
		m.Head = arch.Head{Kind: arch.HeadTokenClassifier, Chain: []arch.Dense{
			{Linear: k.linear(32, 20, true), Activation: arch.GELU, Norm: k.layerNorm(20)}, {Linear: k.linear(20, 5, true)}}}
		return m
	}},
}
