package arch

import (
	"io/fs"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// classifier is a linear map of the last token that is not pad_token_id (GenericForSequenceClassification).
func (d *decoder) classifier(c *object, t *tensors, m *Model) []Dense {
	pad := d.padToken
	if c.null("pad_token_id") {
		pad = noToken
	}
	if pad = c.integer("pad_token_id", pad, noToken, maxTable); pad != noToken {
		m.Head.Pooling.PadToken = &pad
	}
	m.Head.Labels = c.labels()
	return []Dense{{Linear: t.linearWithoutBias("score", m.HiddenSize, len(m.Head.Labels))}}
}

// decoderTokenClassifier is a linear map of each token (GenericForTokenClassification).
func decoderTokenClassifier(c *object, t *tensors, m *Model) []Dense {
	m.Head.Labels = c.labels()
	if !c.boolean("token_classification_bias", true) {
		return []Dense{{Linear: t.linearWithoutBias("score", m.HiddenSize, len(m.Head.Labels))}}
	}
	return []Dense{{Linear: t.linear("score", m.HiddenSize, len(m.Head.Labels))}}
}

// vocabulary is the table of a language model's logits: lm_head where the file has one, whatever tie_word_embeddings says (transformers
// does not tie what the file has twice), else the word table where tied.
//
// A cap of the logits is refused: of a difference of two there is none.
func (d *decoder) vocabulary(c *object, t *tensors, m *Model) Tensor {
	const head, softcap = "lm_head.weight", "final_logit_softcapping"
	if d.sandwich && (c.present(softcap) || d.softcap && !c.null(softcap)) { // of gemma2 and gemma3; gemma2's default is 30
		c.fail(status.Unsupported, "%s is not supported for a reranker; supported: null", softcap)
	}
	if !t.has(head) && c.boolean("tie_word_embeddings", d.tied) {
		return m.Embeddings.Word
	}
	return t.need(head, m.VocabSize, m.HiddenSize)
}

// scoreModule is the module of sentence-transformers that makes a reranker of a language model.
const scoreModule = "LogitScore"

// rerankerHead has one logit, at the last token. It is asked for by Options.Reranker or by Transformer, LogitScore in modules.json.
func rerankerHead(fsys fs.FS, c *object, t *tensors, m *Model, a architecture, mods modules, want asked) (err error) {
	if a.vocabulary == nil {
		return status.Errorf(status.Unsupported, "a reranker by the logits of tokens needs a causal language model; architecture %s is none",
			quote(m.Architecture))
	}
	if want.name != "" {
		return status.Errorf(status.Unsupported, "pooling %q is for embedding models; this one is a reranker", want.name)
	}
	r := want.reranker
	if r == nil {
		r = &Reranker{}
		if r.Score, err = mods.score(fsys); err != nil {
			return err
		}
		if r.Template, err = readTemplate(fsys, taskGeneration, "feature-extraction"); err != nil {
			return err
		}
	}
	linear := Linear{Weight: a.vocabulary(c, t, m), Score: &r.Score, In: m.HiddenSize, Out: 1}
	if err := firstOf(c.err, t.err); err != nil {
		return err
	}
	m.Text.Template = r.Template
	m.Head = Head{
		Kind:    HeadClassifier,
		Pooling: Pooling{Modes: []PoolMode{PoolLastToken}},
		Chain:   []Dense{{Linear: linear}},
		Labels:  []string{"LABEL_0"}, // what transformers calls a single one
	}
	return linear.Check()
}

// score reads Transformer, LogitScore.
func (mods modules) score(fsys fs.FS) (s TokenScore, err error) {
	for i, mod := range mods[1:] {
		if mod.class != scoreModule || i != 0 {
			return s, mods.outOfOrder(i + 1)
		}
	}
	c, err := moduleConfig(fsys, mods[1].folder)
	if err != nil {
		return s, err
	}
	if c == nil {
		return s, status.Errorf(status.Start, "%s is missing", configOf(mods[1].folder))
	}
	if !c.present("true_token_id") {
		c.fail(status.Start, "true_token_id is missing")
	}
	if name := c.text("module_input_name", "causal_logits"); name != "causal_logits" {
		c.fail(status.Unsupported, "module_input_name %s is not supported; supported: causal_logits", quote(name))
	}
	s = TokenScore{True: c.integer("true_token_id", 0, 0, maxTable), False: c.integer("false_token_id", noToken, 0, maxTable)}
	return s, c.err
}
