package tokenize

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A cutter finds places where a text may be cut before it is tokenized, such that the tokens of the part before the cut are
// the first tokens of the whole text. Truncation on the right then needs time for the tokens it keeps, not for the text.
//
// The place is between a letter x and a space. Why nothing crosses it, in the order in which a text is worked on:
//
//  1. Added tokens are found first, leftmost and longest. One that covers the place has a space after its first character;
//     no cutter is made where there is such a token. (One that ends with x may take the space into its offsets, so the last
//     token before a cut is never kept: see firstTokens.)
//  2. Normalizers. Those that work on single characters see no neighbours. Unicode normalization, lower-casing and
//     SentencePiece's character map see a grapheme cluster or a run of combining marks, and a space always begins a new one.
//     Prepend changes the begin, Strip the begin and the end, but x is no white space. Replace is accepted only for
//     patterns that contain no letter, digit or mark, and white space only where they are nothing else: no match holds x.
//     (That a character map turns no letter into white space is checked with the letters themselves: probeLetters.)
//  3. Pre-tokenizers. One is needed that always splits between x and the space, before any that is not known not to look
//     across: later ones see the pieces one by one. The regular expressions accepted match a letter or digit only in
//     alternatives that end before white space and look at nothing behind it.
//  4. The model works on one piece at a time.
//
// With BertNormalizer every CJK ideograph becomes a word of its own, so behind each of them there is such a place too.
type cutter struct {
	letters    [letterLimit]bool
	ideographs bool
}

const (
	letterLimit    = 0x3100
	ideographFirst = 0x4E00
	ideographLast  = 0x9FA5 // those of Unicode 1.1, which every table of character classes knows
)

// probeRanges are the letters offered to probeLetters: alphabets that all versions of Unicode agree on.
var probeRanges = [][2]rune{
	{'0', '9'}, {'A', 'Z'}, {'a', 'z'}, {0xC0, 0x24F}, {0x391, 0x3C9}, {0x400, 0x481}, {0x48A, 0x52F}, {0x531, 0x556},
	{0x561, 0x586}, {0x5D0, 0x5EA}, {0x620, 0x64A}, {0x905, 0x939}, {0x10D0, 0x10F0}, {0x3041, 0x3096}, {0x30A1, 0x30FA},
}

// splitPatterns are the regular expressions of Split that are known to split between a letter or digit and a space: those
// of GPT-4 and Llama 3, and of Qwen 2.
var splitPatterns = map[string]bool{
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: true,
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`:      true,
}

// newCutter returns nil where the proof above does not hold.
func newCutter(f *file) (*cutter, error) {
	ideographs := f.hasBertNormalizer()
	for _, token := range f.added {
		content := *token.Content
		for i, r := range content {
			if i > 0 && unicode.IsSpace(r) || *token.Normalized && r >= utf8.RuneSelf {
				return nil, nil
			}
			ideographs = ideographs && !isIdeograph(r)
		}
	}
	if !normalizerKeepsCuts(f.normalizer) {
		return nil, nil
	}
	if splits, _ := preTokenizerSplits(f.preTokenizer); !splits {
		return nil, nil
	}
	c := &cutter{ideographs: ideographs}
	if err := c.probeLetters(f); err != nil {
		return nil, err
	}
	return c, nil
}

func isIdeograph(r rune) bool { return r >= ideographFirst && r <= ideographLast }

func (f *file) hasBertNormalizer() bool {
	normalizer, _ := f.normalizer.(map[string]any)
	preTokenizer, _ := f.preTokenizer.(map[string]any)
	return normalizer["type"] == "BertNormalizer" && normalizer["handle_chinese_chars"] == true &&
		preTokenizer["type"] == "BertPreTokenizer"
}

// normalizerKeepsCuts is step 2 of the proof.
func normalizerKeepsCuts(value any) bool {
	if value == nil {
		return true
	}
	section, _ := value.(map[string]any)
	switch section["type"] {
	case "BertNormalizer", "Strip", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", typePrecompiled, "Prepend":
		return true
	case "Replace":
		pattern, _ := section["pattern"].(map[string]any)
		if pattern["Regex"] == " {2,}" {
			return true
		}
		text, ok := pattern["String"].(string)
		if strings.TrimSpace(text) == "" {
			return ok && text != ""
		}
		return ok && !strings.ContainsFunc(text, func(r rune) bool {
			return unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r) || unicode.IsSpace(r)
		})
	case typeSequence:
		list, ok := section["normalizers"].([]any)
		for _, item := range list {
			ok = ok && normalizerKeepsCuts(item)
		}
		return ok
	}
	return false
}

// preTokenizerSplits is step 3 of the proof. local means that it does not split there, but changes nothing either.
func preTokenizerSplits(value any) (splits, local bool) {
	section, _ := value.(map[string]any)
	switch section["type"] {
	case "BertPreTokenizer", "Whitespace", "WhitespaceSplit":
		return true, true
	case "ByteLevel":
		return section["use_regex"] != false, false
	case "Metaspace":
		return section["split"] != false, false
	case "Digits", "Punctuation":
		return false, true
	case "Split":
		pattern, _ := section["pattern"].(map[string]any)
		text, _ := pattern["Regex"].(string)
		known := splitPatterns[text]
		pieces := section["behavior"] == "Isolated" && section["invert"] == false ||
			section["behavior"] == "Removed" && section["invert"] == true
		return known && pieces, false
	case typeSequence:
		list, _ := section["pretokenizers"].([]any)
		for _, item := range list {
			if splits, local = preTokenizerSplits(item); splits || !local {
				return splits, local
			}
		}
	}
	return false, false
}

// probeTokenizer opens a tokenizer with the normalizer of f and a model of one token, which stands for every piece.
func (f *file) probeTokenizer(preTokenizer any) (binding, error) {
	config, err := json.Marshal(map[string]any{
		"version": supportedVersion, "added_tokens": []any{}, "normalizer": f.normalizer, "pre_tokenizer": preTokenizer,
		"model": map[string]any{"type": "WordLevel", "vocab": map[string]int{"?": 0}, "unk_token": "?"},
	})
	if err != nil {
		return binding{}, err
	}
	return openBinding(config)
}

// probeLetters finds the letters that stay one piece of their own, between spaces, after the normalizer and pre-tokenizer
// of f. What a normalizer removes, or turns into white space, is so left out.
func (c *cutter) probeLetters(f *file) error {
	b, err := f.probeTokenizer(f.preTokenizer)
	if err != nil {
		return err
	}
	defer b.free()
	var text []byte
	for _, r := range probeRanges {
		for letter := r[0]; letter <= r[1]; letter++ {
			text = append(utf8.AppendRune(text, letter), ' ')
		}
	}
	text = append(text, 0)
	var raw rawTokens
	if err := b.encode(text, true, &raw); err != nil {
		return fmt.Errorf("normalizer or pre_tokenizer: %w on plain letters", err)
	}
	defer raw.free()
	token := 0
	for at := 0; at < len(text)-1; {
		letter, size := utf8.DecodeRune(text[at:])
		end := at + size
		pieces, alone := 0, true
		for ; token < len(raw.ids) && int(raw.offsets[2*token]) < end; token++ {
			pieces++
			alone = alone && int(raw.offsets[2*token]) >= at-1 && int(raw.offsets[2*token+1]) == end
		}
		c.letters[letter] = pieces == 1 && alone
		at = end + 1
	}
	return nil
}

// before returns the last place to cut text in its first limit bytes but not in their first half, or 0.
func (c *cutter) before(text string, limit int) int {
	for at := min(limit, len(text)-1); at > limit/2; at-- {
		if text[at] != ' ' && !(c.ideographs && utf8.RuneStart(text[at])) {
			continue
		}
		r, _ := utf8.DecodeLastRuneInString(text[:at])
		if text[at] == ' ' && r < letterLimit && c.letters[r] || c.ideographs && isIdeograph(r) {
			return at
		}
	}
	return 0
}
