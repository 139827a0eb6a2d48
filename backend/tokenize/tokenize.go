// Package tokenize turns texts into token sequences and back, id by id as Hugging Face tokenizers does. It is the only
// package that knows text: prompts, truncation, pairs, special tokens, type ids and offsets are decided here.
package tokenize

import (
	"github.com/basetenlabs/bei-runtime/backend/status"
)

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
	Prompt  string // put before Text; not allowed together with a pair
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
// allocated once.
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

// NoSequence is the Encoding.Sequence of special tokens.
const NoSequence = 255

// Tokenizer is an open tokenizer. All methods but Close may be called from any goroutine at any time.
type Tokenizer struct{}

// Open reads tokenizer.json from the folder dir. Errors are START errors that name the file, the field and the fix.
func Open(dir string) (*Tokenizer, error) {
	return nil, status.Errorf(status.Unsupported, "tokenizer of %s", dir)
}

// Encode tokenizes in and writes the result to out, which must not be used by another goroutine meanwhile. Item errors are
// *status.Error: EMPTY, INVALID_UTF8, NUL_BYTE, TOO_LONG, TOKENIZATION; INVALID_ARGUMENT for a prompt with a pair.
func (t *Tokenizer) Encode(in Input, o Options, out *Encoding) error { return nil }

// Decode joins tokens to a text. An id outside the vocabulary is TOKEN_OUT_OF_RANGE.
func (t *Tokenizer) Decode(ids []uint32, skipSpecial bool) (string, error) { return "", nil }

// Piece returns the token string of id, "" for an id without a token.
func (t *Tokenizer) Piece(id uint32) string { return "" }

// VocabSize returns the number one above the largest token id, added tokens included.
func (t *Tokenizer) VocabSize() int { return 0 }

// SpecialTokens returns how many special tokens the post-processor adds to one text, or to a pair.
func (t *Tokenizer) SpecialTokens(pair bool) int { return 0 }

// Close frees the tokenizer. The caller makes sure that no other method runs or is called afterwards.
func (t *Tokenizer) Close() {}
