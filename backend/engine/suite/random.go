package suite

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// randomBounds are wider than Exact: random norms of rows with a small variance enlarge what float32 has rounded before them, here up to
// fortyfold.
var randomBounds = Bounds{MinCosine: Exact.MinCosine, MaxError: 1e-4}

// RandomModels returns the property that an engine gives what the reference gives, whatever the choices of a Model are, for rapid.Check and
// rapid.MakeFuzz. What fails is shrunk to the fewest and smallest choices that fail, and its Model is printed.
func RandomModels(open func(m *arch.Model, w *weights.Set) (engine.Engine, error)) func(t *rapid.T) {
	return func(t *rapid.T) {
		k := &drawer{T: t, maker: maker{random: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed of the weights"), 1)), header: make(map[string]any)}}
		c := Case{Model: k.drawModel(), Sequences: k.drawSequences()}
		dir, err := os.MkdirTemp("", "bei-random-*")
		require.NoError(t, err)
		defer func() { _ = os.RemoveAll(dir) }()
		c.Weights = k.open(t, dir)
		defer func() { require.NoError(t, c.Weights.Close()) }()
		newReference(t, &c).fill(c.Sequences)
		e, err := open(c.Model, c.Weights)
		if err == nil {
			defer func() { require.NoError(t, e.Close()) }()
			err = Verify(e, &c, randomBounds)
		}
		require.NoError(t, err, "%s", describe(c.Model))
	}
}

// drawer makes a model of choices that rapid makes. The first of a list, false and the lowest number are what shrinking goes for.
type drawer struct {
	*rapid.T
	maker
}

func (k *drawer) number(label string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(k.T, label) }
func (k *drawer) yes(label string) bool               { return rapid.Bool().Draw(k.T, label) }

func among[V any](k *drawer, label string, choices ...V) V {
	return rapid.SampledFrom(choices).Draw(k.T, label)
}

// maybe is one of two choices, of which the first is nothing.
func maybe[V any](k *drawer, label string, make func() *V) *V {
	if !k.yes(label) {
		return nil
	}
	return make()
}

func (k *drawer) drawModel() *arch.Model {
	hidden := k.number("hidden", 4, 40)
	m := k.model(hidden)
	m.Embeddings = k.drawEmbeddings(hidden)
	// Scores of rows without a norm before them grow until float32 cannot tell them apart: attention always has one.
	placement := among(k, "norms of attention", "post", "pre", "sandwich", "inner")
	ofMLP := among(k, "norms of mlp", placement, "none")
	norm := k.drawNorms("norm")
	for i := range k.number("layers", 0, 3) {
		l := fmt.Sprintf("layer %d ", i)
		m.Layers = append(m.Layers, arch.Layer{
			Attention: k.drawAttention(l, hidden), AttentionNorms: placed(placement, hidden, norm),
			MLP: k.drawMLP(l, hidden), MLPNorms: placed(ofMLP, hidden, norm),
		})
	}
	// Nor do gates of rows without a norm: logits that are small differences of rows of thousands lose their last digits.
	if ofMLP == "none" || k.yes("final norm") {
		m.FinalNorm = norm(hidden)
	}
	m.Head = k.drawHead(m)
	return m
}

func (k *drawer) drawEmbeddings(hidden int) arch.Embeddings {
	e := arch.Embeddings{Scale: among[float32](k, "scale of the embeddings", 1, 0.5, 3), TypeVocabSize: typeCount}
	width := hidden
	if k.yes("projection of the embeddings") {
		width = k.number("embeddings", 3, 24)
		projection := k.drawLinear("projection", width, hidden)
		e.Projection = &projection
	}
	e.Word = k.tensor(0, 1, vocabSize, width)
	if k.yes("table of positions") {
		e.Position = k.tensor(0, 1, maxPositions, width)
	}
	if k.yes("table of types") {
		e.Type = k.tensor(0, 1, typeCount, width)
	}
	e.Norm = maybe(k, "norm of the embeddings", func() *arch.Norm { return k.drawNorms("norm of the embeddings")(width) })
	return e
}

// drawNorms chooses a kind of norm, whose norms have weights of their own.
func (k *drawer) drawNorms(label string) func(width int) *arch.Norm {
	kind := among(k, label, "layer", "rms", "rms of one plus weight", "layer without bias", "layer without weights", "rms without weight")
	eps := among[float32](k, label+" eps", 0.02, 0.1, 1e-3)
	return func(width int) *arch.Norm {
		n := k.layerNorm(width)
		switch kind {
		case "rms", "rms of one plus weight":
			n = k.rmsNorm(width, kind != "rms")
		case "layer without bias":
			n.Bias = arch.Tensor{}
		case "layer without weights":
			n = &arch.Norm{}
		case "rms without weight":
			n = &arch.Norm{Kind: arch.RMSNorm}
		}
		n.Eps = eps
		return n
	}
}

func placed(placement string, width int, norm func(width int) *arch.Norm) (n arch.BlockNorms) {
	switch placement {
	case "post":
		n.Residual = norm(width)
	case "pre":
		n.Before = norm(width)
	case "sandwich":
		n.Before, n.After = norm(width), norm(width)
	case "inner":
		n.Inner, n.Residual = norm(width), norm(width)
	}
	return n
}

func (k *drawer) drawLinear(label string, in, out int) arch.Linear {
	switch among(k, label, "with bias", "without bias", "conv") {
	case "conv":
		return k.conv(in, out)
	case "without bias":
		return k.linear(in, out, false)
	}
	return k.linear(in, out, true)
}

func (k *drawer) drawAttention(l string, hidden int) arch.Attention {
	kv, headDim := k.number(l+"kv heads", 1, 4), k.number(l+"head_dim", 1, 24)
	heads := kv * k.number(l+"query heads for each", 1, 4)
	a := arch.Attention{
		Heads: heads, KVHeads: kv, HeadDim: headDim, Causal: k.yes(l + "causal"),
		Scale:      float32(among(k, l+"scale", 1, 0.5, 1.25) / math.Sqrt(float64(headDim))),
		WindowLeft: k.drawWindow(l + "window left"), WindowRight: k.drawWindow(l + "window right"),
		Softcap: among[float32](k, l+"softcap", 0, 0.7, 5),
	}
	if k.yes(l + "one map of query, key and value") {
		a.QKV = []arch.Linear{k.drawLinear(l+"qkv", hidden, (heads+2*kv)*headDim)}
	} else {
		for i, n := range []int{heads, kv, kv} {
			a.QKV = append(a.QKV, k.drawLinear(l+[]string{"query", "key", "value"}[i], hidden, n*headDim))
		}
	}
	a.Out = k.drawLinear(l+"attention out", heads*headDim, hidden)
	a.QKNorm = maybe(k, l+"norm of queries and keys", func() *arch.QKNorm {
		norm, full := k.drawNorms(l+"norm of queries and keys"), k.yes(l+"over all heads")
		q, kv := headDim, headDim
		if full {
			q, kv = heads*headDim, a.KVHeads*headDim
		}
		return &arch.QKNorm{Q: *norm(q), K: *norm(kv), FullWidth: full}
	})
	if headDim > 1 {
		a.Rope = maybe(k, l+"rope", func() *arch.Rope {
			kind := among(k, l+"pairs of rope", arch.RopeHalf, arch.RopeInterleaved)
			return k.rope(kind, 2*k.number(l+"pairs of numbers that rope turns", 1, headDim/2), among(k, l+"base of rope", 10000.0, 20, 160000),
				among(k, l+"factor of rope", 1, 1.25))
		})
	}
	k.drawPlaces(l, hidden, &a)
	return a
}

func (k *drawer) drawWindow(label string) int {
	return among(k, label, -1, 0, 1, 5, 17, maxLength+1)
}

// drawPlaces adds what scores have from distances.
func (k *drawer) drawPlaces(l string, hidden int, a *arch.Attention) {
	if k.yes(l + "alibi") {
		for i := range a.Heads {
			a.AlibiSlopes = append(a.AlibiSlopes, float32(math.Exp2(-float64(i%7)))*0.5)
		}
	}
	a.RelativeBias = maybe(k, l+"relative bias", func() *arch.RelativeBias {
		buckets := k.number(l+"buckets", 4, 20)
		return &arch.RelativeBias{
			// A border between buckets may not be a whole number, of which rounding would decide: MaxDistance is a prime number.
			Weight: k.tensor(0, 1, buckets, a.Heads), Buckets: buckets, MaxDistance: among(k, l+"most distance", 23, 41, 127),
			Bidirectional: k.yes(l + "bidirectional"),
		}
	})
	if a.Heads != a.KVHeads {
		return
	}
	a.Disentangled = maybe(k, l+"disentangled", func() *arch.Disentangled {
		d := &arch.Disentangled{Span: k.number(l+"span", 1, 50)}
		d.Embeddings = k.tensor(0, 1, 2*d.Span, hidden)
		d.Norm = maybe(k, l+"norm of places", func() *arch.Norm { return k.layerNorm(hidden) })
		by := among(k, l+"places by", "key", "query", "both")
		linear := func() *arch.Linear {
			m := k.linear(hidden, a.Heads*a.HeadDim, k.yes(l+"bias of places"))
			return &m
		}
		if by != "query" {
			d.Key = linear()
		}
		if by != "key" {
			d.Query = linear()
		}
		if d.Span > 1 && k.yes(l+"places in steps") {
			d.Buckets, d.MaxDistance = k.number(l+"buckets of places", 2, d.Span), among(k, l+"most place", 54, 98)
		}
		return d
	})
}

func (k *drawer) drawMLP(l string, hidden int) arch.MLP {
	inner := k.number(l+"intermediate", 1, 50)
	m := arch.MLP{Activation: k.drawActivation(l + "activation"), Intermediate: inner}
	switch among(k, l+"mlp", "plain", "gated", "gate and up in one map", "up and gate in one map") {
	case "plain":
		m.Up = k.drawLinear(l+"up", hidden, inner)
	case "gated":
		m.Up, m.Gate = k.drawLinear(l+"up", hidden, inner), k.drawLinear(l+"gate", hidden, inner)
	case "up and gate in one map":
		m.UpFirst = true
		fallthrough
	default:
		m.GateUp = k.drawLinear(l+"gate and up", hidden, 2*inner)
	}
	m.Down = k.drawLinear(l+"down", inner, hidden)
	return m
}

func (k *drawer) drawActivation(label string) arch.Activation {
	return among(k, label, arch.Identity, arch.GELU, arch.GELUTanh, arch.QuickGELU, arch.ReLU, arch.SiLU, arch.Tanh)
}

func (k *drawer) drawHead(m *arch.Model) arch.Head {
	h := arch.Head{Kind: among(k, "head", arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier, arch.HeadSparse)}
	width := m.HiddenSize
	if h.Kind == arch.HeadEmbedding || h.Kind == arch.HeadClassifier {
		modes := []arch.PoolMode{arch.PoolMean, arch.PoolCLS, arch.PoolLastToken, arch.PoolMax, arch.PoolMeanSqrtLen, arch.PoolWeightedMean}
		h.Pooling.Modes = rapid.SliceOfNDistinct(rapid.SampledFrom(modes), 1, len(modes), rapid.ID[arch.PoolMode]).Draw(k.T, "pooling")
		h.Pooling.ExcludePrompt = k.yes("prompt excluded")
		width *= len(h.Pooling.Modes)
	}
	for i := range k.number("dense", 0, 2) {
		l, out := fmt.Sprintf("dense %d", i), k.number(fmt.Sprintf("dense %d out", i), 1, 40)
		d := arch.Dense{Linear: k.drawLinear(l, width, out), Activation: k.drawActivation(l + " activation")}
		d.Norm = maybe(k, l+" norm", func() *arch.Norm { return k.drawNorms(l + " norm")(out) })
		h.Chain, width = append(h.Chain, d), out
	}
	switch {
	case h.Kind == arch.HeadSparse && width == m.Embeddings.Word.Shape[1] && k.yes("tied"):
		h.Chain = append(h.Chain, arch.Dense{Linear: arch.Linear{Weight: m.Embeddings.Word, In: width, Out: vocabSize}})
	case h.Kind == arch.HeadSparse:
		h.Chain = append(h.Chain, arch.Dense{Linear: k.linear(width, vocabSize, k.yes("bias of the vocabulary"))})
	case h.Kind == arch.HeadClassifier && k.yes("score of two tokens") && width == m.Embeddings.Word.Shape[1]:
		score := arch.TokenScore{True: k.number("yes", 0, vocabSize-1), False: k.number("no", -1, vocabSize-1)}
		h.Chain = append(h.Chain, arch.Dense{Linear: arch.Linear{Weight: m.Embeddings.Word, Score: &score, In: width, Out: 1}})
	case h.Kind != arch.HeadEmbedding && len(h.Chain) == 0:
		h.Chain = append(h.Chain, arch.Dense{Linear: k.linear(width, 3, true)})
	}
	return h
}

// drawSequences are of lengths at and round those where kernels change their ways.
func (k *drawer) drawSequences() []Sequence {
	var sequences []Sequence
	for i := range k.number("sequences", 1, 4) {
		n := among(k, fmt.Sprintf("length of sequence %d", i), 1, 2, 3, 5, 8, 15, 16, 17, 24, 33, maxLength)
		sequences = append(sequences, k.sequence(n, k.number("first position", 0, 3)))
	}
	return sequences
}
