package tokenize

import (
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// PairTemplate makes one text of a pair, as a language model is asked that ranks. Its suffix is kept whatever is cut off, as the
// model card of Qwen3-Reranker and sentence-transformers do; special tokens of the post-processor are not added.
type PairTemplate struct {
	source *arch.PairTemplate
	frame  template // the text, then the suffix
}

// NewPairTemplate tokenizes the suffix. It must begin with a special token: only there a text can be cut without changing its tokens.
// Errors are START errors.
func (t *Tokenizer) NewPairTemplate(source *arch.PairTemplate) (*PairTemplate, error) {
	p := &PairTemplate{source: source, frame: newTemplate(sequencePart(sequenceA, 0))}
	if source.Suffix == "" {
		return p, nil
	}
	if err := checkText("suffix", source.Suffix); err != nil {
		return nil, status.Errorf(status.Start, "the reranker's template: %w", err)
	}
	var s sequence
	defer s.raw.free()
	t.mu.RLock()
	defer t.mu.RUnlock()
	if err := t.run(&s, "", source.Suffix, false); err != nil {
		return nil, status.Errorf(status.Start, "the reranker's template: %w", err)
	}
	ids := append([]uint32(nil), s.raw.ids...)
	if len(ids) == 0 || !t.vocab.special[ids[0]] || t.vocab.strips[ids[0]] || !strings.HasPrefix(source.Suffix, t.vocab.piece(ids[0])) {
		return nil, status.Errorf(status.Unsupported,
			"the reranker's template ends with %.80q; it must begin with a special token of tokenizer.json", source.Suffix)
	}
	p.frame = newTemplate(sequencePart(sequenceA, 0), specialPart(0, ids...))
	return p, nil
}

// HasInstruction tells that prompts have a place in the template.
func (p *PairTemplate) HasInstruction() bool {
	for _, part := range p.source.Parts {
		if part.Slot == arch.SlotInstruction {
			return true
		}
	}
	return false
}

// render returns the pair as one text, in two parts: all that stands before the last slot, and that slot's content. The input's prompt
// is the instruction; without one it is the template's own.
func (p *PairTemplate) render(in Input) Input {
	contents := map[arch.Slot]string{arch.SlotQuery: in.Text, arch.SlotDocument: in.Pair, arch.SlotInstruction: in.Prompt}
	if in.Prompt == "" {
		contents[arch.SlotInstruction] = p.source.Instruction
	}
	var before strings.Builder
	last := ""
	for _, part := range p.source.Parts {
		before.WriteString(last)
		before.WriteString(part.Text)
		last = contents[part.Slot]
	}
	return Input{Prompt: before.String(), Text: last}
}

// Token returns the id of a token with that text, as transformers' convert_tokens_to_ids; false: there is none.
func (t *Tokenizer) Token(text string) (uint32, bool) {
	for id := range t.vocab.ends {
		if t.vocab.piece(uint32(id)) == text {
			return uint32(id), true
		}
	}
	return 0, false
}
