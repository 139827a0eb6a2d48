package tokenize

import (
	"strings"
	"sync"
)

// maxPrompts bounds promptCounts; a model has a handful of prompts.
const maxPrompts = 64

// promptCount is what is known of a prompt tokenized alone, without special tokens.
type promptCount struct {
	tokens int
	last   uint32 // id of its last token, where there is one
}

// promptCounts remembers prompts, since the same few come with every text.
type promptCounts struct {
	mu     sync.RWMutex // guards counts
	counts map[string]promptCount
}

// promptTokens counts the tokens of the prompt as _get_prompt_length of sentence-transformers: the prompt is tokenized
// alone, with special tokens and truncation, and the last token is not counted where it is a special one.
func (t *Tokenizer) promptTokens(prompt string, o Options) (int, error) {
	count, err := t.promptCount(prompt)
	if err != nil {
		return 0, err
	}
	total, last, anything := count.tokens, count.last, count.tokens > 0
	if o.AddSpecial {
		behind := false
		for _, p := range t.processor.single.parts {
			if p.sequence == sequenceA {
				behind = true
			} else if n := len(p.ids); n > 0 {
				if total += n; behind || count.tokens == 0 {
					last, anything = p.ids[n-1], true
				}
			}
		}
	}
	if o.MaxLength > 0 {
		total = min(total, o.MaxLength)
	}
	if anything && total > 0 && t.vocab.special[last] {
		total--
	}
	return total, nil
}

func (t *Tokenizer) promptCount(prompt string) (promptCount, error) {
	t.prompts.mu.RLock()
	count, ok := t.prompts.counts[prompt]
	t.prompts.mu.RUnlock()
	if ok {
		return count, nil
	}
	var s sequence
	defer s.raw.free()
	if err := t.run(&s, prompt, "", false); err != nil {
		return promptCount{}, err
	}
	if count.tokens = len(s.raw.ids); count.tokens > 0 {
		count.last = s.raw.ids[count.tokens-1]
	}
	t.prompts.mu.Lock()
	defer t.prompts.mu.Unlock()
	if t.prompts.counts == nil {
		t.prompts.counts = map[string]promptCount{}
	}
	if len(t.prompts.counts) < maxPrompts {
		t.prompts.counts[strings.Clone(prompt)] = count // the caller's string may be C memory
	}
	return count, nil
}
