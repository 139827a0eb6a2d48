package onnx_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// shaped makes a model of a known shape, with small random weights in float16.
type shaped struct {
	header map[string]any
	bytes  int
}

func (s *shaped) tensor(shape ...int) arch.Tensor {
	size := 2
	for _, n := range shape {
		size *= n
	}
	t := arch.Tensor{Name: fmt.Sprint("tensor", len(s.header)), Shape: shape}
	s.header[t.Name] = map[string]any{"dtype": "F16", "shape": shape, "data_offsets": []int{s.bytes, s.bytes + size}}
	s.bytes += size
	return t
}

func (s *shaped) linear(in, out int, bias bool) arch.Linear {
	l := arch.Linear{Weight: s.tensor(out, in), In: in, Out: out}
	if bias {
		l.Bias = s.tensor(out)
	}
	return l
}

func (s *shaped) attention(hidden, heads, kvHeads, headDim int, bias bool) arch.Attention {
	return arch.Attention{
		Heads: heads, KVHeads: kvHeads, HeadDim: headDim, Scale: 0.125, WindowLeft: -1, WindowRight: -1, Out: s.linear(heads*headDim, hidden, bias),
		QKV: []arch.Linear{s.linear(hidden, heads*headDim, bias), s.linear(hidden, kvHeads*headDim, bias), s.linear(hidden, kvHeads*headDim, bias)},
	}
}

func (s *shaped) model(hidden int) *arch.Model {
	return &arch.Model{
		HiddenSize: hidden, VocabSize: 1000, MaxPositions: 512, MaxLength: 512,
		Embeddings: arch.Embeddings{Word: s.tensor(1000, hidden), TypeVocabSize: 1, Scale: 1},
		Head:       arch.Head{Pooling: arch.Pooling{Modes: []arch.PoolMode{arch.PoolMean}}},
	}
}

func (s *shaped) bertBase() *arch.Model {
	m := s.model(768)
	norm := func() *arch.Norm { return &arch.Norm{Weight: s.tensor(768), Bias: s.tensor(768), Eps: 1e-12} }
	m.Embeddings.Position, m.Embeddings.Norm = s.tensor(512, 768), norm()
	for range 12 {
		m.Layers = append(m.Layers, arch.Layer{
			Attention: s.attention(768, 12, 12, 64, true), AttentionNorms: arch.BlockNorms{Residual: norm()}, MLPNorms: arch.BlockNorms{Residual: norm()},
			MLP: arch.MLP{Activation: arch.GELU, Up: s.linear(768, 3072, true), Down: s.linear(3072, 768, true), Intermediate: 3072},
		})
	}
	return m
}

func (s *shaped) qwen3() *arch.Model {
	m := s.model(1024)
	norm := func(width int) *arch.Norm { return &arch.Norm{Kind: arch.RMSNorm, Weight: s.tensor(width), Eps: 1e-6} }
	rope := &arch.Rope{Dim: 128, InvFreq: make([]float32, 64), Factor: 1}
	for i := range rope.InvFreq {
		rope.InvFreq[i] = 1 / float32(i+1)
	}
	for range 28 {
		a := s.attention(1024, 16, 8, 128, false)
		a.Causal, a.Rope, a.QKNorm = true, rope, &arch.QKNorm{Q: *norm(128), K: *norm(128)}
		m.Layers = append(m.Layers, arch.Layer{
			Attention: a, AttentionNorms: arch.BlockNorms{Before: norm(1024)}, MLPNorms: arch.BlockNorms{Before: norm(1024)},
			MLP: arch.MLP{Activation: arch.SiLU, Gate: s.linear(1024, 3072, false), Up: s.linear(1024, 3072, false), Down: s.linear(3072, 1024, false), Intermediate: 3072},
		})
	}
	m.FinalNorm, m.Head.Pooling.Modes = norm(1024), []arch.PoolMode{arch.PoolLastToken}
	return m
}

// save writes the weights: one block of random numbers, again and again.
func (s *shaped) save(b *testing.B) *weights.Set {
	header, err := json.Marshal(s.header)
	require.NoError(b, err)
	for len(header)%8 != 0 {
		header = append(header, ' ')
	}
	random := rand.New(rand.NewPCG(1, 1))
	block := make([]byte, 0, 1<<21)
	for range 1 << 20 { // float16 of either sign, 0.0078 to 0.031
		block = binary.LittleEndian.AppendUint16(block, uint16(random.Uint32N(0x800))+0x2000|uint16(random.Uint32N(2))<<15)
	}
	dir := b.TempDir()
	file, err := os.Create(filepath.Join(dir, "model.safetensors"))
	require.NoError(b, err)
	w := bufio.NewWriter(file)
	_, err = w.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...))
	require.NoError(b, err)
	for left := s.bytes; left > 0; left -= len(block) {
		_, err = w.Write(block[:min(left, len(block))])
		require.NoError(b, err)
	}
	require.NoError(b, w.Flush())
	require.NoError(b, file.Close())
	set, err := weights.Open(dir)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, set.Close()) })
	return set
}

// BenchmarkCUDA reports the best run of each shape, staging and copies included.
func BenchmarkCUDA(b *testing.B) {
	requireGPU(b)
	for _, model := range []struct {
		name string
		make func(*shaped) *arch.Model
	}{{"bert-base", (*shaped).bertBase}, {"qwen3-0.6b", (*shaped).qwen3}} {
		b.Run(model.name, func(b *testing.B) {
			s := &shaped{header: make(map[string]any)}
			m := model.make(s)
			o := options(b)
			o.Device, o.Precision, o.Threads = onnx.CUDA, onnx.Float16, 0
			e, err := onnx.Open(b.Context(), m, s.save(b), onnx.WithAttention(o, os.Getenv(attentionVariable)))
			require.NoError(b, err)
			b.Logf("attention: %s", e.Info().Details["attention"])
			for _, shape := range []struct {
				name    string
				lengths func(i int) int
				n       int
			}{
				{"1x32", func(int) int { return 32 }, 1}, {"8x128", func(int) int { return 128 }, 8}, {"8x512", func(int) int { return 512 }, 8},
				{"32x512", func(int) int { return 512 }, 32}, {"128x128", func(int) int { return 128 }, 128},
				{"64 mixed", func(i int) int { return 16 + i*496/63 }, 64},
			} {
				b.Run(shape.name, func(b *testing.B) {
					var sequences []suite.Sequence
					tokens := 0
					for i := range shape.n {
						q := words(rand.New(rand.NewPCG(1, uint64(i))), shape.lengths(i))
						for j := range q.IDs {
							q.IDs[j] %= 1000
						}
						sequences, tokens = append(sequences, q), tokens+len(q.IDs)
					}
					fastest := time.Hour
					for b.Loop() {
						start := time.Now()
						_, err := suite.Compute(b.Context(), e.Slots()[0], e.Info(), sequences, engine.Pooled)
						require.NoError(b, err)
						fastest = min(fastest, time.Since(start))
					}
					b.ReportMetric(float64(fastest.Microseconds())/1000, "ms-min")
					b.ReportMetric(float64(tokens)/fastest.Seconds(), "tokens/s")
				})
			}
			require.NoError(b, e.Close())
		})
	}
}
