// Package tokenize turns texts into token sequences and back, id by id as Hugging Face tokenizers does. It is the only
// package that knows text: prompts, truncation, pairs, special tokens, type ids and offsets are decided here.
//
// The model of a tokenizer.json (normalizer, pre-tokenizer, vocabulary, added tokens, decoder) runs in libtokenizers.a,
// which gives the tokens of one text. Truncation and the post-processor are applied here, by the rules of
// tokenizers/src/utils/truncation.rs and tokenizers/src/processors of the crate tokenizers.
//
// Limits:
//   - A text must be valid UTF-8 without NUL bytes, since the library takes C strings and replaces invalid bytes.
//   - At most MaxWholeBytes of a text are tokenized. Longer ones are cut first where that provably does not change the
//     result (see cutter): with a MaxLength, and on the right side. Others are TOO_LONG, among them a pair whose texts are
//     both longer than an odd room for them, since its last token goes to the text with more tokens.
//   - tokenizer.json has the limits of file.go; regular expressions in it run with the step limit of Oniguruma, whose
//     exhaustion is a TOKENIZATION error. A panic of the library while encoding is one too, and is also printed by Rust.
//   - Dropout of BPE is ignored, so that a text always has the same tokens.
//   - Offsets are those of upstream, whose conversion to code points leaves bytes where a token begins behind the last
//     character; here they are code points always.
package tokenize

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// FileName is the file that Open reads.
const FileName = "tokenizer.json"

// MaxWholeBytes is the largest text, with its prompt, that is tokenized whole. The library needs up to 0.5 KB of memory and
// some microseconds for each byte of it (measured with text of single letters and commas).
const MaxWholeBytes = 1 << 20

// NoSequence is the Encoding.Sequence of special tokens.
const NoSequence = 255

// Side is the side of a sequence that truncation cuts off.
type Side int

// The two sides of truncation.
const (
	Right Side = iota
	Left
)

// Input is one text or one pair of texts. Its strings are read during the call only, so they may alias C memory.
type Input struct {
	Text    string
	Pair    string // the second text, where HasPair is set
	HasPair bool
	Prompt  string // put before Text; not allowed together with a pair, but with a template: there it is the instruction
	// Template makes one text of the pair, which there must be; offsets are in that text. nil: the post-processor joins pairs.
	Template *PairTemplate
}

// Options of one Encode.
type Options struct {
	AddSpecial bool // add the special tokens of the post-processor
	MaxLength  int  // tokens, special ones included; 0: no limit
	Truncate   bool // cut to MaxLength; otherwise a longer sequence is TOO_LONG
	Side       Side // the side that is cut off
	Offsets    bool // fill Special, Sequence, Starts and Ends
}

// Encoding is one token sequence of n tokens. It is reusable: Encode resets it and appends, so that its buffers are
// allocated once. n may be 0, where a text has no tokens (such as white space) and no special ones are added.
type Encoding struct {
	IDs      []uint32 // [n] token ids
	TypeIDs  []uint32 // [n] token type ids
	Special  []uint8  // [n] 1 for a token that the post-processor added; with Options.Offsets
	Sequence []uint8  // [n] 0 for tokens of the text, 1 for the pair, NoSequence for special tokens; with Options.Offsets
	Starts   []uint32 // [n] first code point of the token in prompt+text, or in the pair; 0 for special ones; with Options.Offsets
	Ends     []uint32 // [n] code point after the last one; with Options.Offsets

	// PromptTokens counts the leading tokens that belong to the template's prefix and the prompt: those that pooling leaves
	// out where the model says include_prompt=false, counted as sentence-transformers counts them. 0 without a prompt.
	PromptTokens int
}

func (e *Encoding) reset() {
	*e = Encoding{IDs: e.IDs[:0], TypeIDs: e.TypeIDs[:0], Special: e.Special[:0], Sequence: e.Sequence[:0], Starts: e.Starts[:0], Ends: e.Ends[:0]}
}

// Tokenizer is an open tokenizer. Its methods may be called from any goroutine at any time.
type Tokenizer struct {
	// TruncationSide is the side that the files say is cut off.
	TruncationSide Side

	vocab         *vocabulary
	processor     *processor
	cutter        *cutter // nil: a text must be tokenized whole
	decodeRefusal string
	unknown       string // the model's token for what it lacks; "": none
	marksSubwords bool   // pieces inside a word begin with a prefix of their own

	mu      sync.RWMutex // read: the library is in use; write: it is freed
	library binding

	prompts promptCounts
}

// Open reads tokenizer.json from the folder dir; c is what the files beside it say. lowerCase lowers texts first, whatever these say:
// sentence-transformers' do_lower_case. Errors are START errors that name the file, the field and the fix. The caller must Close the tokenizer.
func Open(dir string, lowerCase bool, c arch.TokenizerConfig) (*Tokenizer, error) {
	path := filepath.Join(dir, FileName)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(status.Start, "%s is missing; a model folder needs the file that Hugging Face's save_pretrained writes for a fast tokenizer", path)
	}
	if err != nil {
		return nil, status.Errorf(status.Start, "%w", err)
	}
	t, err := parse(data, lowerCase, &c)
	if err != nil {
		return nil, status.Errorf(status.Start, "%s: %w", path, err)
	}
	return t, nil
}

func parse(data []byte, lowerCase bool, c *arch.TokenizerConfig) (*Tokenizer, error) {
	f, err := parseFile(data)
	if err != nil {
		return nil, err
	}
	if err := f.apply(c); err != nil {
		return nil, err
	}
	if lowerCase {
		f.lowerCase()
	}
	t := &Tokenizer{decodeRefusal: f.decodeRefusal, unknown: f.model.unknown(), TruncationSide: f.truncationSide(c),
		marksSubwords: f.model.Prefix != nil && *f.model.Prefix != ""}
	if t.vocab, err = newVocabulary(f); err != nil {
		return nil, err
	}
	if t.processor, err = parseProcessor(f.postProcessor, t.vocab.size()); err != nil {
		return nil, err
	}
	if err := f.checkAddedNormalize(); err != nil {
		return nil, err
	}
	if t.cutter, err = newCutter(f); err != nil {
		return nil, err
	}
	config, err := f.config()
	if err != nil {
		return nil, err
	}
	if t.library, err = openBinding(config); err != nil {
		return nil, err
	}
	return t, nil
}

// Decode joins the tokens of ids to a text. An id outside the vocabulary is TOKEN_OUT_OF_RANGE; one inside without a token is
// left out, as upstream does. UNSUPPORTED where the decoder may not run (see refuseDecoder).
func (t *Tokenizer) Decode(ids []uint32, skipSpecial bool) (string, error) {
	anything := false
	for i, id := range ids {
		if int64(id) >= int64(t.vocab.size()) {
			return "", status.Errorf(status.TokenOutOfRange, "ids[%d] is %d, must be below the vocabulary size %d", i, id, t.vocab.size())
		}
		anything = anything || !skipSpecial || !t.vocab.special[id]
	}
	if t.decodeRefusal != "" {
		return "", status.Errorf(status.Unsupported, "this tokenizer cannot decode: %s", t.decodeRefusal)
	}
	if !anything {
		return "", nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.library.handle == nil {
		return "", errClosed
	}
	text, err := t.library.decode(ids, skipSpecial)
	if err != nil {
		return "", status.Errorf(status.Tokenization, "%d ids cannot be decoded: %w", len(ids), err)
	}
	return text, nil
}

// Piece returns the token string of id as the vocabulary has it, "" for an id without a token.
func (t *Tokenizer) Piece(id uint32) string { return t.vocab.piece(id) }

// ID returns the least id of a token as the vocabulary has it; false: there is none. It looks at the whole vocabulary.
func (t *Tokenizer) ID(token string) (uint32, bool) { return t.vocab.id(token) }

// VocabSize returns the number one above the largest token id, added tokens included.
func (t *Tokenizer) VocabSize() int { return t.vocab.size() }

// SpecialTokens returns how many special tokens the post-processor adds to one text, or to a pair.
func (t *Tokenizer) SpecialTokens(pair bool) int {
	if pair {
		return t.processor.pair.special
	}
	return t.processor.single.special
}

// Close frees the tokenizer after waiting for the calls under way. Later calls of Encode and Decode are SHUT_DOWN.
func (t *Tokenizer) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.library.handle != nil {
		t.library.free()
		t.library = binding{}
	}
}

var errClosed = status.Errorf(status.ShutDown, "the tokenizer is closed")
