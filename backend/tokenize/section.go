package tokenize

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	typePrecompiled = "Precompiled"
	typeSequence    = "Sequence"
	typeByteLevel   = "ByteLevel"
	typeLowercase   = "Lowercase"
)

const (
	maxSectionItems = 4096 // of one list: each is work for every text
	maxPathBytes    = 200  // of a place in messages
	// maxGrowth bounds how many times longer a text may come out of a normalizer or a decoder. Each replacement may grow what
	// the one before it left, so that thirty short ones would take all memory. The character map of NFKC grows a text by up to
	// 33, and what stands behind it in served models by 4.
	maxGrowth = 256
)

// sectionTypes are the values of "type" that the linked library knows.
var sectionTypes = map[string][]string{
	"normalizer": {"BertNormalizer", "Bert", "Strip", "StripAccents", "NFC", "NFD", "NFKC", "NFKD", typeSequence, typeLowercase,
		"Nmt", typePrecompiled, "Replace", "Prepend", typeByteLevel},
	"pre_tokenizer": {"BertPreTokenizer", typeByteLevel, "CharDelimiterSplit", "Delimiter", "Metaspace", "Whitespace", typeSequence, "Split",
		"Punctuation", "WhitespaceSplit", "Digits", "UnicodeScripts", "FixedLength"},
	"decoder": {"BPEDecoder", typeByteLevel, "WordPiece", "Metaspace", "CTC", typeSequence, "Replace", "Fuse", "Strip", "ByteFallback"},
}

// checkSection walks a section of tokenizer.json, whatever its shape, since upstream tries several readings of one object.
// path names value in messages.
func checkSection(value any, types []string, path string, depth int) error {
	if depth > maxSectionDepth {
		return fmt.Errorf("%.80s… is nested deeper than %d", path, maxSectionDepth)
	}
	switch value := value.(type) {
	case []any:
		if len(value) > maxSectionItems {
			return fmt.Errorf("%s has %d items, limit %d", path, len(value), maxSectionItems)
		}
		for i, item := range value {
			if err := checkSection(item, types, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		if kind, ok := value["type"]; ok {
			name, isString := kind.(string)
			if !isString || !slices.Contains(types, name) {
				return fmt.Errorf("%s.type is %.80q, supported: %s", path, fmt.Sprint(kind), strings.Join(types, ", "))
			}
			if name == typePrecompiled {
				if err := checkCharsmap(value["precompiled_charsmap"]); err != nil {
					return fmt.Errorf("%s.precompiled_charsmap: %w", path, err)
				}
			}
		}
		for key, item := range value {
			if err := checkSection(item, types, fmt.Sprintf("%s.%.*s", path, max(0, maxPathBytes-len(path)), key), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// growth bounds how many times longer a text may become in a section that checkSection has passed.
func growth(value any) float64 {
	factor := 1.0
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			factor *= growth(item)
		}
	case map[string]any:
		for _, item := range value {
			factor *= growth(item)
		}
		if text, ok := value["content"].(string); ok { // Replace
			pattern, _ := value["pattern"].(map[string]any)
			if replaced, _ := pattern["String"].(string); replaced != "" {
				factor *= max(1, float64(len(text))/float64(len(replaced)))
			} else { // a regular expression may match nothing, before every byte
				factor *= float64(1 + len(text))
			}
		}
		if text, ok := value["prepend"].(string); ok {
			factor *= float64(1 + len(text))
		}
		switch value["type"] {
		case typeByteLevel:
			factor *= 2
		case typePrecompiled:
			text, _ := value["precompiled_charsmap"].(string)
			factor *= longestReplacement(text)
		}
	}
	return factor
}

// longestReplacement is the length of the longest text in a character map that checkCharsmap has passed.
func longestReplacement(charsmap string) float64 {
	data, _ := base64.StdEncoding.DecodeString(charsmap)
	longest := 1
	for text := range bytes.SplitSeq(data[4+binary.LittleEndian.Uint32(data)/4*4:], []byte{0}) {
		longest = max(longest, len(text))
	}
	return float64(longest)
}

// lowerCase puts lower-casing before the normalizer, unless it has it, as sentence-transformers does for do_lower_case.
func (f *file) lowerCase() {
	steps := []any{f.normalizer}
	if section, ok := f.normalizer.(map[string]any); ok && section["type"] == typeSequence {
		steps, _ = section["normalizers"].([]any)
	}
	all := []any{map[string]any{"type": typeLowercase}}
	for _, step := range steps {
		if section, ok := step.(map[string]any); ok && section["type"] == typeLowercase {
			return
		}
		if step != nil {
			all = append(all, step)
		}
	}
	f.normalizer = map[string]any{"type": typeSequence, "normalizers": all}
}

// checkCharsmap checks the character map of SentencePiece: a little-endian byte count, that many bytes of a double array
// of 32-bit units, then UTF-8 texts separated by NUL. Upstream panics on a map that does not parse.
func checkCharsmap(value any) error {
	text, ok := value.(string)
	if !ok || strings.ContainsAny(text, "\r\n") {
		return errors.New("not a base64 string")
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return err
	}
	if len(data) < 4 {
		return fmt.Errorf("has %d bytes, at least 4 are needed", len(data))
	}
	array := binary.LittleEndian.Uint32(data) / 4 * 4
	if uint64(array) > uint64(len(data)-4) {
		return fmt.Errorf("says that its array has %d bytes, but %d follow", array, len(data)-4)
	}
	if array == 0 {
		return errors.New("its array is empty")
	}
	if !utf8.Valid(data[4+array:]) {
		return errors.New("its texts are not UTF-8")
	}
	return nil
}

// refuseDecoder says why a decoder must not run, or "". Upstream does not catch panics while decoding, and these decoders
// panic on some ids: Strip indexes below zero where a token is shorter than stop, and a regular expression ends in a
// panic at the limit of its steps.
func refuseDecoder(value any) string {
	switch value := value.(type) {
	case []any:
		for _, item := range value {
			if why := refuseDecoder(item); why != "" {
				return why
			}
		}
	case map[string]any:
		if stop, ok := value["stop"]; ok && stop != 0.0 {
			return fmt.Sprintf("decoder Strip has stop %v, supported: 0", stop)
		}
		if pattern, ok := value["Regex"]; ok {
			return fmt.Sprintf("decoder Replace has the regular expression %.80q, supported: plain strings", fmt.Sprint(pattern))
		}
		for _, item := range value {
			if why := refuseDecoder(item); why != "" {
				return why
			}
		}
	}
	return ""
}

// checkAddedNormalize runs the normalizer over the added tokens that are normalized, with a model that takes everything.
// The library does so while it opens a tokenizer, where a failure would end the process, but catches it while it encodes.
func (f *file) checkAddedNormalize() error {
	if f.normalizer == nil {
		return nil
	}
	b, err := f.probeTokenizer(nil)
	if err != nil {
		return err
	}
	defer b.free()
	for i, token := range f.added {
		if !*token.Normalized {
			continue
		}
		var raw rawTokens
		if err := b.encode(append([]byte(*token.Content), 0), false, &raw); err != nil {
			return fmt.Errorf("normalizer: %w on added_tokens[%d], %.80q", err, i, *token.Content)
		}
		raw.free()
	}
	return nil
}
