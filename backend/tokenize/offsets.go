package tokenize

import (
	"unicode"
	"unicode/utf8"
)

// byteLevelSpace is how byte-level pieces write a space.
const byteLevelSpace = 'Ġ'

// position is a byte offset of a text together with the code points before it.
type position struct{ bytes, points int }

// move goes to the code point that holds byte target, or to the end. The offsets of successive tokens lie close together,
// nearly always ascending, so that all moves of one text together cost one pass over it.
func (p *position) move(text []byte, target int) uint32 {
	target = min(target, len(text))
	for p.bytes < target {
		size := 1
		if text[p.bytes] >= utf8.RuneSelf {
			_, size = utf8.DecodeRune(text[p.bytes:])
		}
		if p.bytes+size > target {
			break
		}
		p.bytes, p.points = p.bytes+size, p.points+1
	}
	for p.bytes > target {
		_, size := utf8.DecodeLastRune(text[:p.bytes])
		p.bytes, p.points = p.bytes-size, p.points-1
	}
	return uint32(p.points)
}

// appendOffsets converts the byte offsets of tokens [from, to) to code points of text and trims them. first is where the
// tokens of the sequence begin in out.
func (t *Tokenizer) appendOffsets(out *Encoding, text []byte, raw *rawTokens, from, to int) {
	var start, end position
	for i := from; i < to; i++ {
		low, high := int(raw.offsets[2*i]), int(raw.offsets[2*i+1])
		a, b := start.move(text, low), end.move(text, high)
		if len(t.processor.trims) > 0 {
			leading, trailing := t.spaces(raw.ids[i], text[min(low, len(text)):max(min(high, len(text)), min(low, len(text)))])
			for _, trim := range t.processor.trims {
				a, b = trim.apply(a, b, leading, trailing, i == from)
			}
		}
		out.Starts, out.Ends = append(out.Starts, a), append(out.Ends, b)
	}
}

// spaces counts the white space round the token's string. An added token that strips has in its string what it stripped,
// so its own text is looked at instead of its piece.
func (t *Tokenizer) spaces(id uint32, text []byte) (leading, trailing uint32) {
	if int64(id) < int64(len(t.vocab.strips)) && t.vocab.strips[id] {
		for rest := text; len(rest) > 0; leading++ {
			r, size := utf8.DecodeRune(rest)
			if !isSpace(r) {
				break
			}
			rest = rest[size:]
		}
		for rest := text; len(rest) > 0; trailing++ {
			r, size := utf8.DecodeLastRune(rest)
			if !isSpace(r) {
				break
			}
			rest = rest[:len(rest)-size]
		}
		return leading, trailing
	}
	piece := t.vocab.piece(id)
	for rest := piece; len(rest) > 0; leading++ {
		r, size := utf8.DecodeRuneInString(rest)
		if !isSpace(r) {
			break
		}
		rest = rest[size:]
	}
	for rest := piece; len(rest) > 0; trailing++ {
		r, size := utf8.DecodeLastRuneInString(rest)
		if !isSpace(r) {
			break
		}
		rest = rest[:len(rest)-size]
	}
	return leading, trailing
}

func isSpace(r rune) bool { return r == byteLevelSpace || unicode.IsSpace(r) }

// apply trims one token as upstream's process_offsets: with addPrefixSpace a single leading space of the first token was
// added by the tokenizer, so it is no part of the text.
func (t trim) apply(start, end, leading, trailing uint32, first bool) (uint32, uint32) {
	if leading > 0 {
		if (first || start == 0) && t.addPrefixSpace && leading == 1 {
			leading = 0
		}
		start = min(start+leading, end)
	}
	if trailing > 0 && end >= trailing {
		end = max(end-trailing, start)
	}
	return start, end
}
