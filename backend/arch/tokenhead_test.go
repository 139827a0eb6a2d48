package arch

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

var withHeads = tiny.with(shapes{
	"colbert_linear.weight": {5, 8}, "colbert_linear.bias": {5}, "sparse_linear.weight": {1, 8}, "sparse_linear.bias": {1},
})

func TestTokenHead(t *testing.T) {
	for want, pairs := range map[[4]string][]string{
		{"<s>", "</s>", "<pad>", "<unk>"}: {},
		{"[CLS]", "</s>", "<p>", "?"}: {
			"tokenizer_config.json", `{"cls_token": "[CLS]", "pad_token": {"content": "<p>", "lstrip": false}}`, "special_tokens_map.json", `{"cls_token": "no", "unk_token": "?"}`},
	} {
		m, err := read(files(pairs...), withHeads, Options{})
		require.NoError(t, err)
		require.Equal(t, want[:], m.Head.Tokens.SpecialTokens)
		require.Equal(t, 5, m.Head.Tokens.Vector.Out)
		require.Equal(t, Tensor{"sparse_linear.bias", []int{1}}, m.Head.Tokens.Weight.Bias)
		require.Len(t, m.Head.Tokens.Maps(), 2)
	}
	m, err := read(files("tokenizer_config.json", `{"unk_token": null}`), withHeads, Options{})
	require.NoError(t, err)
	require.Equal(t, []string{"<s>", "</s>", "<pad>"}, m.Head.Tokens.SpecialTokens)
	m, err = read(files(), tiny, Options{})
	require.NoError(t, err)
	require.Nil(t, m.Head.Tokens)
}

func TestTokenHeadIsRefused(t *testing.T) {
	for want, bad := range map[string]shapes{
		`no tensor "sparse_linear.weight" of shape [1 8]`:                   {"sparse_linear.weight": nil},
		`no tensor "colbert_linear.weight" of shape [8 8]`:                  {"colbert_linear.weight": nil},
		`tensor "colbert_linear.weight" has shape [5 9]`:                    {"colbert_linear.weight": {5, 9}},
		`"colbert_linear.weight" has shape [40]; it must have [columns, 8]`: {"colbert_linear.weight": {40}},
		`"colbert_linear.weight" has 0 rows; it must have 1 to 1048576`:     {"colbert_linear.weight": {0, 8}},
		`tensor "sparse_linear.weight" has shape [2 8]`:                     {"sparse_linear.weight": {2, 8}},
		`no tensor "sparse_linear.bias"`:                                    {"sparse_linear.bias": nil},
	} {
		_, err := read(files(), withHeads.with(bad), Options{})
		require.ErrorContains(t, err, want)
	}
	_, err := read(files("special_tokens_map.json", `{"pad_token": ["<pad>"]}`), withHeads, Options{})
	requireCode(t, status.Start, err, "special_tokens_map.json: pad_token is neither a string nor an object with content")
}

// TestLayerNorms: norms stand where the pipeline has them, and take what comes from before.
func TestLayerNorms(t *testing.T) {
	stored := tiny.with(shapes{"2_LayerNorm/norm.weight": {8}, "2_LayerNorm/norm.bias": {8}, "4_LayerNorm/norm.weight": {6}, "4_LayerNorm/norm.bias": {6}})
	chain := []string{
		"modules.json", pipeline("Transformer", "Pooling:1_Pooling", "LayerNorm:2_LayerNorm", "Dense:2_Dense", "LayerNorm:4_LayerNorm"),
		"1_Pooling/config.json", `{}`, "2_LayerNorm/config.json", `{"dimension": 8}`, "4_LayerNorm/config.json", `{"dimension": 6}`,
		"2_Dense/config.json", `{"in_features": 8, "out_features": 5}`,
	}
	_, err := read(files(chain...), stored, Options{})
	requireCode(t, status.Start, err, "LayerNorm module (4_LayerNorm/norm.weight) takes 6 columns, but gets 5")
	m, err := read(files(append(chain, "4_LayerNorm/config.json", `{"dimension": 5}`)...), stored.with(shapes{"4_LayerNorm/norm.weight": {5}, "4_LayerNorm/norm.bias": {5}}), Options{})
	require.NoError(t, err)
	require.Len(t, m.Head.Chain, 3)
	require.True(t, m.Head.Chain[0].Linear.Absent())
	require.Equal(t, float32(1e-5), m.Head.Chain[2].Norm.Eps)
	require.Equal(t, 5, m.Head.Chain[1].Linear.Out)
}
