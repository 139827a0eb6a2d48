package suite

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// maker makes a model with seeded random weights.
type maker struct {
	random *rand.Rand
	header map[string]any
	data   []byte
}

// tensor adds numbers of the normal distribution with that mean and deviation.
func (k *maker) tensor(mean, deviation float64, shape ...int) arch.Tensor {
	size := 1
	for _, n := range shape {
		size *= n
	}
	t := arch.Tensor{Name: fmt.Sprintf("tensor%d", len(k.header)), Shape: shape}
	k.header[t.Name] = map[string]any{"dtype": "F32", "shape": shape, "data_offsets": []int{len(k.data), len(k.data) + 4*size}}
	for range size {
		k.data = binary.LittleEndian.AppendUint32(k.data, math.Float32bits(float32(mean+deviation*k.random.NormFloat64())))
	}
	return t
}

func (k *maker) linear(in, out int, bias bool) arch.Linear {
	l := arch.Linear{Weight: k.tensor(0, 1/math.Sqrt(float64(in)), out, in), In: in, Out: out}
	if bias {
		l.Bias = k.tensor(0, 0.5, out)
	}
	return l
}

// conv is a linear map stored [in, out].
func (k *maker) conv(in, out int) arch.Linear {
	return arch.Linear{Weight: k.tensor(0, 1/math.Sqrt(float64(in)), in, out), Bias: k.tensor(0, 0.5, out), In: in, Out: out, Transposed: true}
}

// layerNorm has an eps that is large enough to be seen in the results.
func (k *maker) layerNorm(width int) *arch.Norm {
	return &arch.Norm{Weight: k.tensor(1, 0.3, width), Bias: k.tensor(0, 0.3, width), Eps: 0.02}
}

func (k *maker) rmsNorm(width int, onePlus bool) *arch.Norm {
	mean := 1.0
	if onePlus {
		mean = 0
	}
	return &arch.Norm{Kind: arch.RMSNorm, Weight: k.tensor(mean, 0.3, width), Eps: 0.01, OnePlusWeight: onePlus}
}

// Sizes of the models: nothing divides evenly into vectors.
const (
	vocabSize, typeCount, maxPositions, maxLength = 97, 2, 64, 48
)

// attention has heads of that size, biases in its maps and no options.
func (k *maker) attention(hidden, heads, kvHeads, headDim int, bias bool) arch.Attention {
	return arch.Attention{
		Heads: heads, KVHeads: kvHeads, HeadDim: headDim, Scale: float32(1 / math.Sqrt(float64(headDim))), WindowLeft: -1, WindowRight: -1,
		QKV: []arch.Linear{k.linear(hidden, heads*headDim, bias), k.linear(hidden, kvHeads*headDim, bias), k.linear(hidden, kvHeads*headDim, bias)},
		Out: k.linear(heads*headDim, hidden, bias),
	}
}

func (k *maker) mlp(hidden, inner int, act arch.Activation, bias bool) arch.MLP {
	return arch.MLP{Activation: act, Up: k.linear(hidden, inner, bias), Down: k.linear(inner, hidden, bias), Intermediate: inner}
}

func (k *maker) gated(hidden, inner int, act arch.Activation, bias bool) arch.MLP {
	m := k.mlp(hidden, inner, act, bias)
	m.Gate = k.linear(hidden, inner, bias)
	return m
}

// fused has gate and up in one map.
func (k *maker) fused(hidden, inner int, act arch.Activation, upFirst bool) arch.MLP {
	return arch.MLP{Activation: act, GateUp: k.linear(hidden, 2*inner, true), Down: k.linear(inner, hidden, false), UpFirst: upFirst, Intermediate: inner}
}

func (k *maker) rope(kind arch.RopeKind, dims int, base, factor float64) *arch.Rope {
	r := &arch.Rope{Kind: kind, Dim: dims, Factor: float32(factor)}
	for i := range dims / 2 {
		r.InvFreq = append(r.InvFreq, float32(math.Pow(base, -2*float64(i)/float64(dims))))
	}
	return r
}

// model has word embeddings only, no layers, and mean pooling.
func (k *maker) model(hidden int) *arch.Model {
	return &arch.Model{
		Family: "synthetic", Architecture: "Synthetic", HiddenSize: hidden, VocabSize: vocabSize, MaxPositions: maxPositions, MaxLength: maxLength,
		Embeddings: arch.Embeddings{Word: k.tensor(0, 1, vocabSize, hidden), TypeVocabSize: typeCount, Scale: 1},
		Head:       arch.Head{Pooling: arch.Pooling{Modes: []arch.PoolMode{arch.PoolMean}}},
	}
}

// postNorm adds layers as BERT has them.
func (k *maker) postNorm(m *arch.Model, layers int, attention func(layer int) arch.Attention, mlp func() arch.MLP) {
	for i := range layers {
		m.Layers = append(m.Layers, arch.Layer{
			Attention: attention(i), AttentionNorms: arch.BlockNorms{Residual: k.layerNorm(m.HiddenSize)},
			MLP: mlp(), MLPNorms: arch.BlockNorms{Residual: k.layerNorm(m.HiddenSize)},
		})
	}
}

// preNorm adds layers as decoders have them, and the final norm. norm makes each.
func (k *maker) preNorm(m *arch.Model, layers int, norm func() *arch.Norm, attention func(layer int) arch.Attention, mlp func() arch.MLP) {
	for i := range layers {
		m.Layers = append(m.Layers, arch.Layer{
			Attention: attention(i), AttentionNorms: arch.BlockNorms{Before: norm()}, MLP: mlp(), MLPNorms: arch.BlockNorms{Before: norm()},
		})
	}
	m.FinalNorm = norm()
}

// Synthetic makes the models whose names are in Models, with the reference's results.
func Synthetic(t testing.TB) []Case {
	var cases []Case
	for _, entry := range models {
		cases = append(cases, synthesise(t, entry.name, entry.make))
	}
	return cases
}

func synthesise(t testing.TB, name string, build func(k *maker) *arch.Model) Case {
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(name)) // a hash does not fail
	k := &maker{random: rand.New(rand.NewPCG(seed.Sum64(), 1)), header: make(map[string]any)}
	c := Case{Name: name, Model: build(k), Sequences: k.sequences()}

	c.Weights = k.open(t, t.TempDir())
	t.Cleanup(func() { require.NoError(t, c.Weights.Close()) })
	newReference(t, &c).fill(c.Sequences)
	return c
}

// open writes the weights to a file in dir and opens it.
func (k *maker) open(t require.TestingT, dir string) *weights.Set {
	header, err := json.Marshal(k.header)
	require.NoError(t, err)
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), append(header, k.data...)...)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors"), file, 0o600))
	set, err := weights.Open(dir)
	require.NoError(t, err)
	return set
}

// sequences are of awkward lengths, with positions that start at 2.
func (k *maker) sequences() []Sequence {
	var sequences []Sequence
	for _, n := range []int{7, 1, 33, 2, maxLength, 16} {
		sequences = append(sequences, k.sequence(n, 2))
	}
	return sequences
}

// sequence has n tokens, a prompt to skip, and positions from first on.
func (k *maker) sequence(n, first int) Sequence {
	q := Sequence{Skip: min(n-1, 3)}
	for i := range n {
		q.IDs = append(q.IDs, k.random.Int32N(vocabSize))
		q.Types = append(q.Types, k.random.Int32N(typeCount))
		q.Positions = append(q.Positions, int32(first+i))
	}
	return q
}
