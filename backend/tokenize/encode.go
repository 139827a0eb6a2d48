package tokenize

import (
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// sequence is one text on its way: its bytes as given to the library, and the tokens that came back.
type sequence struct {
	text []byte // followed by a NUL in its capacity
	raw  rawTokens
	cut  bool // text is only the begin, so raw has the first tokens; otherwise all
}

// call is the memory of one Encode.
type call struct{ a, b sequence }

var calls = sync.Pool{New: func() any { return new(call) }}

// keptBytes is the largest text buffer that goes back to the pool.
const keptBytes = 1 << 20

func (c *call) release() {
	for _, s := range []*sequence{&c.a, &c.b} {
		s.raw.free()
		s.cut = false
		if cap(s.text) > keptBytes {
			s.text = nil
		}
	}
	calls.Put(c)
}

// Encode tokenizes in and writes the result to out, which no other goroutine may use meanwhile. Item errors are *status.Error:
// EMPTY (no text at all), INVALID_UTF8 and NUL_BYTE (with the byte offset), TOO_LONG (with the value and the limit),
// TOKENIZATION; INVALID_ARGUMENT for a prompt with a pair and for a negative MaxLength. After an error out has no meaning.
//
// A text without tokens is none of these: it gives the special tokens alone, as upstream.
func (t *Tokenizer) Encode(in Input, o Options, out *Encoding) error {
	out.reset()
	if err := check(in, o); err != nil {
		return err
	}
	template, prompt := &t.processor.single, in.Prompt
	switch {
	case in.Template != nil:
		template, prompt = &in.Template.frame, ""
		in = in.Template.render(in)
	case in.HasPair:
		template = &t.processor.pair
	}
	special := 0
	if o.AddSpecial {
		special = template.special
	}
	budget := -1
	if o.MaxLength > 0 {
		if budget = o.MaxLength - special; budget < 0 {
			return status.Errorf(status.TooLong, "the special tokens alone are %d, max_length is %d", special, o.MaxLength)
		}
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.library.handle == nil {
		return errClosed
	}
	c := calls.Get().(*call)
	defer c.release()
	if err := t.tokenize(c, in, o, budget); err != nil {
		return err
	}
	a, b := len(c.a.raw.ids), len(c.b.raw.ids)
	if budget >= 0 && a+b > budget {
		if !o.Truncate {
			atLeast := ""
			if c.a.cut || c.b.cut {
				atLeast = "at least "
			}
			return status.Errorf(status.TooLong, "has %s%d tokens, max_length is %d; shorten it or truncate", atLeast, a+b+special, o.MaxLength)
		}
		if in.HasPair {
			a, b = longestFirst(a, b, budget)
		} else {
			a = budget
		}
	}
	t.assemble(template, c, a, b, o, out)
	if prompt != "" {
		n, err := t.promptTokens(prompt, o)
		if err != nil {
			return err
		}
		out.PromptTokens = min(n, len(out.IDs))
	}
	return nil
}

// check finds what is wrong with the input itself.
func check(in Input, o Options) error {
	if o.MaxLength < 0 {
		return status.Errorf(status.InvalidArgument, "max_length is %d, must not be negative", o.MaxLength)
	}
	if in.Prompt != "" && in.HasPair && in.Template == nil {
		return status.Errorf(status.InvalidArgument, "a prompt cannot be used with a pair of texts")
	}
	if in.Text == "" && (!in.HasPair || in.Pair == "") {
		return status.Errorf(status.Empty, "the text is empty")
	}
	if err := checkText("text", in.Text); err != nil {
		return err
	}
	if in.HasPair {
		if err := checkText("pair", in.Pair); err != nil {
			return err
		}
	}
	return checkText("prompt", in.Prompt)
}

func checkText(name, text string) error {
	if !utf8.ValidString(text) {
		at := 0
		for at < len(text) {
			r, size := utf8.DecodeRuneInString(text[at:])
			if r == utf8.RuneError && size == 1 {
				break
			}
			at += size
		}
		return status.Errorf(status.InvalidUTF8, "%s is not UTF-8: byte 0x%02x at offset %d", name, text[at], at)
	}
	if at := strings.IndexByte(text, 0); at >= 0 {
		return status.Errorf(status.NulByte, "%s has a NUL byte at offset %d", name, at)
	}
	return nil
}

// tokenize fills the sequences of c: with all tokens, or with more than budget of them where the rest cannot matter.
func (t *Tokenizer) tokenize(c *call, in Input, o Options, budget int) error {
	need := budget
	if o.Truncate && o.Side == Left {
		need = -1
	}
	if err := t.firstTokens(&c.a, in.Prompt, in.Text, need, o.Offsets); err != nil || !in.HasPair {
		return err
	}
	if err := t.firstTokens(&c.b, "", in.Pair, need, o.Offsets); err != nil {
		return err
	}
	// Where both are longer than an odd budget, the one token that is left over goes to the longer text, so both lengths must
	// be known. In all other cases longestFirst is the same for all lengths above the budget.
	if !o.Truncate || budget%2 == 0 || len(c.a.raw.ids) <= budget || len(c.b.raw.ids) <= budget {
		return nil
	}
	if c.a.cut {
		if err := t.firstTokens(&c.a, "", in.Text, -1, o.Offsets); err != nil {
			return err
		}
	}
	if c.b.cut {
		return t.firstTokens(&c.b, "", in.Pair, -1, o.Offsets)
	}
	return nil
}

// firstTokens tokenizes prompt+text: a begin of it that has more than need tokens, where there is a safe place to cut,
// otherwise the whole. need -1 asks for all tokens.
func (t *Tokenizer) firstTokens(s *sequence, prompt, text string, need int, offsets bool) error {
	if t.cutter != nil && need >= 0 && need < MaxWholeBytes/8 {
		// English needs 4 to 5 bytes a token, so the first try is nearly always enough.
		for size := 8*need + 512; size < len(text)/4*3 && len(prompt)+size <= MaxWholeBytes; size *= 4 {
			at := t.cutter.before(text, size)
			if at == 0 {
				continue
			}
			if err := t.run(s, prompt, text[:at], offsets); err != nil {
				return err
			}
			if len(s.raw.ids) > need {
				s.cut = true
				return nil
			}
		}
	}
	if bytes := len(prompt) + len(text); bytes > MaxWholeBytes {
		return status.Errorf(status.TooLong, "has %d bytes, and there is no safe place to cut it before tokenizing; the limit for that is %d bytes",
			bytes, MaxWholeBytes)
	}
	s.cut = false
	return t.run(s, prompt, text, offsets)
}

// run gives prompt+text to the library.
func (t *Tokenizer) run(s *sequence, prompt, text string, offsets bool) error {
	s.raw.free()
	s.text = append(append(append(s.text[:0], prompt...), text...), 0)
	err := t.library.encode(s.text, offsets, &s.raw)
	s.text = s.text[:len(s.text)-1]
	if err != nil {
		return status.Errorf(status.Tokenization, "%w on the text: it has something that the vocabulary lacks, and there is no unknown token", err)
	}
	return nil
}

// longestFirst shares budget tokens among two sequences of a and b tokens, a+b > budget, as truncate_encodings upstream does.
func longestFirst(a, b, budget int) (int, int) {
	short, swapped := a, a > b
	if swapped {
		short = b
	}
	long := short
	if short <= budget {
		long = max(short, budget-short)
	}
	if short+long > budget {
		short = budget / 2
		long = short + budget%2
	}
	if swapped {
		return long, short
	}
	return short, long
}

// assemble puts the first or last a and b tokens of the sequences into the template.
func (t *Tokenizer) assemble(template *template, c *call, a, b int, o Options, out *Encoding) {
	for i := range template.parts {
		p := &template.parts[i]
		if p.sequence == NoSequence {
			if o.AddSpecial {
				out.appendSpecial(p, o.Offsets)
			}
			continue
		}
		s, n := &c.a, a
		if p.sequence == sequenceB {
			s, n = &c.b, b
		}
		from := 0
		if o.Side == Left {
			from = len(s.raw.ids) - n
		}
		out.IDs = append(out.IDs, s.raw.ids[from:from+n]...)
		for range n {
			out.TypeIDs = append(out.TypeIDs, p.typeID)
		}
		if !o.Offsets {
			continue
		}
		for range n {
			out.Special, out.Sequence = append(out.Special, 0), append(out.Sequence, p.sequence)
		}
		t.appendOffsets(out, s.text, &s.raw, from, from+n)
	}
}

func (e *Encoding) appendSpecial(p *part, offsets bool) {
	e.IDs = append(e.IDs, p.ids...)
	for range p.ids {
		e.TypeIDs = append(e.TypeIDs, p.typeID)
		if offsets {
			e.Special, e.Sequence = append(e.Special, 1), append(e.Sequence, NoSequence)
			e.Starts, e.Ends = append(e.Starts, 0), append(e.Ends, 0)
		}
	}
}
