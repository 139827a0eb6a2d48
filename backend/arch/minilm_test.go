package arch_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

const miniLM = "../../.deps/models/all-MiniLM-L6-v2"

func TestMiniLM(t *testing.T) {
	require.DirExists(t, miniLM, "run `make setup` first")
	set, err := weights.Open(miniLM)
	require.NoError(t, err)
	defer set.Close()
	m, err := arch.Read(miniLM, set, arch.Options{})
	require.NoError(t, err)

	require.Equal(t, "bert", m.Family)
	require.Equal(t, "BertModel", m.Architecture)
	require.Equal(t, 384, m.HiddenSize)
	require.Equal(t, 30522, m.VocabSize)
	require.Equal(t, 512, m.MaxPositions)
	require.Equal(t, 256, m.MaxLength)
	require.Equal(t, arch.Head{Kind: arch.HeadEmbedding, Pooling: arch.Pooling{Modes: []arch.PoolMode{arch.PoolMean}}, Normalize: true}, m.Head)
	require.Equal(t, arch.Text{}, m.Text)
	require.Len(t, m.Layers, 6)
	require.Equal(t, arch.Tensor{Name: "embeddings.word_embeddings.weight", Shape: []int{30522, 384}}, m.Embeddings.Word)

	a := m.Layers[5].Attention
	require.Equal(t, []int{12, 12, 32, -1, -1}, []int{a.Heads, a.KVHeads, a.HeadDim, a.WindowLeft, a.WindowRight})
	require.InDelta(t, 0.17677669, a.Scale, 1e-8)
	require.Equal(t, "encoder.layer.5.attention.self.value.weight", a.QKV[2].Weight.Name)
	require.Equal(t, arch.GELU, m.Layers[5].MLP.Activation)
	require.Equal(t, float32(1e-12), m.Layers[5].MLPNorms.Residual.Eps)

	last := m.Layers[5].MLPNorms.Residual.Weight
	w, err := set.Tensor(last.Name)
	require.NoError(t, err)
	require.Equal(t, last.Shape, w.Shape)
}

// TestTinyModels reads every model folder of testdata/models.
func TestTinyModels(t *testing.T) {
	configs, err := filepath.Glob("../../testdata/models/*/config.json")
	require.NoError(t, err)
	require.NotEmpty(t, configs)
	for _, config := range configs {
		dir := filepath.Dir(config)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			set, err := weights.Open(dir)
			require.NoError(t, err)
			defer set.Close()
			m, err := arch.Read(dir, set, arch.Options{})
			require.NoError(t, err)
			require.NotEmpty(t, m.Layers)
			require.Positive(t, m.MaxLength)
		})
	}
}

func TestTinySparse(t *testing.T) {
	const dir = "../../testdata/models/bert-masked-lm"
	set, err := weights.Open(dir)
	require.NoError(t, err)
	defer set.Close()
	m, err := arch.Read(dir, set, arch.Options{Pooling: "splade"})
	require.NoError(t, err)
	require.Equal(t, arch.HeadSparse, m.Head.Kind)
	require.Len(t, m.Head.Chain, 2)
	require.Equal(t, m.VocabSize, m.Head.Chain[1].Linear.Out)
}
