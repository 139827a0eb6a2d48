package arch

import (
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// transformersNames are those of a layer of transformers' nomic_bert, gte and jina_embeddings_v3; its own name begins with "layers.".
var transformersNames = layerNames{
	qkv: []string{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"}, out: "self_attn.o_proj",
	attentionNorm: "post_attention_layernorm", norm: "post_mlp_layernorm",
}

// paddedVocabulary is vocab_size, rounded up to pad_vocab_size_multiple.
func (o *object) paddedVocabulary(fallback int) int {
	return roundUp(o.integer("vocab_size", fallback, 1, maxTable), o.integer("pad_vocab_size_multiple", 1, 1, 1<<16))
}

func roundUp(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }

// refuseTrue refuses a key that is true, and says why.
func (o *object) refuseTrue(key, why string) {
	if o.boolean(key, false) {
		o.fail(status.Unsupported, "%s true is not supported: %s", key, why)
	}
}

// refusePresent refuses a key that is not null.
func (o *object) refusePresent(key string) {
	if o.present(key) {
		o.fail(status.Unsupported, "%s %s is not supported; supported: null", key, quoteJSON(o.values[key]))
	}
}

// oneOf returns a text of supported, of which the first is what its absence means.
func (o *object) oneOf(key string, supported ...string) string {
	s := o.text(key, supported[0])
	if !slices.Contains(supported, s) {
		o.fail(status.Unsupported, "%s %s is not supported; supported: %s", key, quote(s), strings.Join(supported, ", "))
	}
	return s
}
