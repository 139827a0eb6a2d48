package tokenize

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unicode/utf8"
)

// Limits on tokenizer.json. Served models stay far below: the largest have 256,000 pieces in 35 MB.
const (
	maxFileBytes       = 256 << 20
	maxTokenID         = 1<<22 - 1
	maxAddedTokens     = 1 << 16 // upstream compares each added token with all before it
	maxAddedBytes      = 4 << 20 // of all added tokens: upstream makes states of a search machine from each byte
	maxSectionDepth    = 32      // nesting of a section; upstream recurses on the caller's stack
	maxCharsPerWord    = 1000    // WordPiece needs time to the third power of it for one word
	supportedVersion   = "1.0"
	escapedNUL         = `\u0000`
	whatATokenizerIsIn = "it must be a tokenizer.json of Hugging Face tokenizers"
)

// addedToken is one entry of added_tokens. Pointers tell missing fields, which upstream refuses.
type addedToken struct {
	ID         *uint32 `json:"id"`
	Content    *string `json:"content"`
	SingleWord *bool   `json:"single_word"`
	LStrip     *bool   `json:"lstrip"`
	RStrip     *bool   `json:"rstrip"`
	Normalized *bool   `json:"normalized"`
	Special    *bool   `json:"special"`
}

// file is a checked tokenizer.json. What goes to the library is written anew from these parts (see config), never the
// foreign bytes themselves, so that what was checked is what is loaded.
type file struct {
	added         []addedToken
	normalizer    any // nil, or a map as encoding/json makes it; so are the next two
	preTokenizer  any
	decoder       any
	postProcessor json.RawMessage
	model         model
	truncation    struct{ Direction string }

	// decodeRefusal says why the decoder may not run; the library is then opened without it.
	decodeRefusal string
}

// readFile reads path with a limit. Only regular files are read, because others may block.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would wait for a writer
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	if info.Size() > maxFileBytes {
		return nil, fmt.Errorf("%s has %d bytes, limit %d", path, info.Size(), maxFileBytes)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return data, nil
}

// parseFile checks a tokenizer.json. Beyond its form it refuses everything that makes upstream panic while opening, since
// a panic there ends the process: upstream catches them only while encoding.
func parseFile(data []byte) (*file, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	var sections map[string]json.RawMessage
	if err := json.Unmarshal(data, &sections); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w; %s", err, whatATokenizerIsIn)
	}
	if at := loneSurrogate(data); at >= 0 {
		return nil, fmt.Errorf("an escaped half of a surrogate pair stands alone at byte %d", at)
	}
	var version *string
	if err := unmarshalSection(sections, "version", &version); err != nil {
		return nil, err
	}
	if version != nil && *version != supportedVersion {
		return nil, fmt.Errorf("version is %q, supported: %q", *version, supportedVersion)
	}
	var f file
	if err := f.parseAdded(sections); err != nil {
		return nil, err
	}
	for name, target := range map[string]*any{"normalizer": &f.normalizer, "pre_tokenizer": &f.preTokenizer, "decoder": &f.decoder} {
		if err := unmarshalSection(sections, name, target); err != nil {
			return nil, err
		}
		if err := checkSection(*target, sectionTypes[name], name, 0); err != nil {
			return nil, err
		}
		if growth(*target) > maxGrowth {
			return nil, fmt.Errorf("%s may make a text more than %d times as long, by what it replaces and puts before it", name, maxGrowth)
		}
	}
	if why := refuseDecoder(f.decoder); why != "" {
		f.decodeRefusal, f.decoder = why, nil
	}
	f.postProcessor = sections["post_processor"]
	if hasEscapedNUL(f.postProcessor) {
		return nil, errors.New("post_processor holds a NUL character")
	}
	if err := unmarshalSection(sections, "truncation", &f.truncation); err != nil {
		return nil, err
	}
	raw, ok := sections["model"]
	if !ok {
		return nil, errors.New("model is missing; " + whatATokenizerIsIn)
	}
	if err := f.model.parse(raw); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	return &f, nil
}

func (f *file) parseAdded(sections map[string]json.RawMessage) error {
	if err := unmarshalSection(sections, "added_tokens", &f.added); err != nil {
		return err
	}
	if len(f.added) > maxAddedTokens {
		return fmt.Errorf("added_tokens has %d entries, limit %d", len(f.added), maxAddedTokens)
	}
	total := 0
	for i, t := range f.added {
		if t.ID == nil || t.Content == nil || t.SingleWord == nil || t.LStrip == nil || t.RStrip == nil || t.Normalized == nil || t.Special == nil {
			return fmt.Errorf("added_tokens[%d] lacks one of id, content, single_word, lstrip, rstrip, normalized, special", i)
		}
		if *t.ID > maxTokenID {
			return fmt.Errorf("added_tokens[%d].id is %d, limit %d", i, *t.ID, maxTokenID)
		}
		if total += len(*t.Content); total > maxAddedBytes {
			return fmt.Errorf("added_tokens have more than %d bytes of content", maxAddedBytes)
		}
	}
	return nil
}

// unmarshalSection decodes one section, where it is there. NUL characters are refused, because upstream panics when it
// puts one into an error message.
func unmarshalSection(sections map[string]json.RawMessage, name string, target any) error {
	raw, ok := sections[name]
	if !ok {
		return nil
	}
	if hasEscapedNUL(raw) {
		return fmt.Errorf("%s holds a NUL character", name)
	}
	if err := json.Unmarshal(raw, target); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// hasEscapedNUL tells whether JSON text has a string with a NUL character, which can only be there in escaped form.
func hasEscapedNUL(raw []byte) bool {
	for at := 0; ; {
		i := bytes.Index(raw[at:], []byte(escapedNUL))
		if i < 0 {
			return false
		}
		i += at
		backslashes := 1
		for i-backslashes >= 0 && raw[i-backslashes] == '\\' {
			backslashes++
		}
		if backslashes%2 == 1 {
			return true
		}
		at = i + len(escapedNUL)
	}
}

// loneSurrogate finds an escaped UTF-16 surrogate without its other half in valid JSON, or returns -1. Go reads one as
// U+FFFD, upstream refuses it, and where a decoder holds one it panics.
func loneSurrogate(data []byte) int {
	half := func(at int) (high, low bool) {
		if at+6 > len(data) || data[at] != '\\' || data[at+1] != 'u' || (data[at+2]|0x20) != 'd' {
			return false, false
		}
		switch data[at+3] | 0x20 {
		case '8', '9', 'a', 'b':
			return true, false
		case 'c', 'd', 'e', 'f':
			return false, true
		}
		return false, false
	}
	for at := 0; at < len(data); {
		i := bytes.IndexByte(data[at:], '\\')
		if i < 0 {
			return -1
		}
		at += i
		high, low := half(at)
		if !high && !low {
			at += 2
			continue
		}
		if _, lowNext := half(at + 6); low || !lowNext {
			return at
		}
		at += 12
	}
	return -1
}

// config writes the JSON that the library opens: without padding and truncation, which would stay active, and without
// the post-processor, which package tokenize applies itself.
func (f *file) config() ([]byte, error) {
	return json.Marshal(struct {
		Version      string       `json:"version"`
		AddedTokens  []addedToken `json:"added_tokens"`
		Normalizer   any          `json:"normalizer"`
		PreTokenizer any          `json:"pre_tokenizer"`
		Decoder      any          `json:"decoder"`
		Model        *model       `json:"model"`
	}{supportedVersion, append([]addedToken{}, f.added...), f.normalizer, f.preTokenizer, f.decoder, &f.model})
}
