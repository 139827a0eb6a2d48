package tokenize

import (
	"strings"
	"unicode/utf8"
)

// Words tells which tokens begin a word, by the rules of transformers' TokenClassificationPipeline (gather_pre_entities in
// pipelines/token_classification.py): where the vocabulary marks what stands inside a word with a prefix, those whose piece is as long as
// their part of the text; else those with a space before or in front. The unknown token always begins one.
type Words struct {
	tokenizer *Tokenizer
	unknown   int64 // token id; -1: none
}

// Words returns the tokenizer's rules. unknown is the unknown token where a file beside tokenizer.json names it ("": none); nil: the
// tokenizer's own.
func (t *Tokenizer) Words(unknown *string) Words {
	if unknown == nil {
		unknown = &t.unknown
	}
	w := Words{t, -1}
	if id, ok := t.Token(*unknown); ok && *unknown != "" {
		w.unknown = int64(id)
	}
	return w
}

// Inside appends to out, for each of e's tokens, whether it continues a word. text is what e was made of, with Options.Offsets: prompt and
// text. Special tokens have no meaning in it.
func (w Words) Inside(text string, e *Encoding, out []bool) []bool {
	at := cursor{text: text}
	for k, id := range e.IDs {
		start := int(e.Starts[k])
		inside := false
		switch {
		case int64(id) == w.unknown || e.Special[k] != 0:
		case w.tokenizer.marksSubwords:
			inside = utf8.RuneCountInString(w.tokenizer.Piece(id)) != int(e.Ends[k])-start
		case start > 0:
			inside = !strings.Contains(at.slice(start-1, start+1), " ")
		}
		out = append(out, inside)
	}
	return out
}

// cursor finds code points of a text by number; those of successive tokens lie close together.
type cursor struct {
	text string
	position
}

// seek goes to code point n, or to the end.
func (c *cursor) seek(n int) int {
	for c.points < n && c.bytes < len(c.text) {
		_, size := utf8.DecodeRuneInString(c.text[c.bytes:])
		c.bytes, c.points = c.bytes+size, c.points+1
	}
	for c.points > n {
		_, size := utf8.DecodeLastRuneInString(c.text[:c.bytes])
		c.bytes, c.points = c.bytes-size, c.points-1
	}
	return c.bytes
}

// slice is the text from code point a up to b.
func (c *cursor) slice(a, b int) string {
	from := c.seek(a)
	return c.text[from:c.seek(b)]
}
