package tokenize

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// model is the "model" section, checked. It marshals to what the library opens. Fields that training left behind are
// dropped, dropout among them: with it the same text gives other tokens each time.
type model struct {
	Type          *string         `json:"type,omitempty"`
	UnkToken      *string         `json:"unk_token,omitempty"`
	UnkID         *uint64         `json:"unk_id,omitempty"`
	Prefix        *string         `json:"continuing_subword_prefix,omitempty"`
	Suffix        *string         `json:"end_of_word_suffix,omitempty"`
	FuseUnk       *bool           `json:"fuse_unk,omitempty"`
	ByteFallback  *bool           `json:"byte_fallback,omitempty"`
	IgnoreMerges  *bool           `json:"ignore_merges,omitempty"`
	MaxWordLength *uint64         `json:"max_input_chars_per_word,omitempty"`
	Vocab         json.RawMessage `json:"vocab"`
	Merges        json.RawMessage `json:"merges,omitempty"`

	ids    map[string]uint32 // token -> id
	pieces []string          // of Unigram: pieces[id]; several may be equal, and ids has the last then
}

func (m *model) parse(raw json.RawMessage) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return err
	}
	for name, target := range map[string]any{
		"type": &m.Type, "unk_token": &m.UnkToken, "unk_id": &m.UnkID, "continuing_subword_prefix": &m.Prefix,
		"end_of_word_suffix": &m.Suffix, "fuse_unk": &m.FuseUnk, "byte_fallback": &m.ByteFallback,
		"ignore_merges": &m.IgnoreMerges, "max_input_chars_per_word": &m.MaxWordLength,
	} {
		if err := unmarshalSection(fields, name, target); err != nil {
			return err
		}
	}
	if m.MaxWordLength != nil && *m.MaxWordLength > maxCharsPerWord {
		return fmt.Errorf("max_input_chars_per_word is %d, limit %d", *m.MaxWordLength, maxCharsPerWord)
	}
	var ok bool
	if m.Vocab, ok = fields["vocab"]; !ok {
		return errors.New("vocab is missing")
	}
	if err := m.parseVocab(); err != nil {
		return fmt.Errorf("vocab: %w", err)
	}
	if m.Merges, ok = fields["merges"]; ok {
		if err := m.checkMerges(); err != nil {
			return fmt.Errorf("merges: %w", err)
		}
	}
	return nil
}

// parseVocab fills ids and pieces. Pieces may hold NUL characters: no text matches them.
func (m *model) parseVocab() error {
	if len(m.Vocab) == 0 || m.Vocab[0] != '[' {
		if err := json.Unmarshal(m.Vocab, &m.ids); err != nil {
			return err
		}
		for token, id := range m.ids {
			if id > maxTokenID {
				return fmt.Errorf("the id of %.80q is %d, limit %d", token, id, maxTokenID)
			}
		}
		return nil
	}
	var pieces [][2]any // piece and score; the library reads the scores, and refuses entries of other lengths
	if err := json.Unmarshal(m.Vocab, &pieces); err != nil {
		return err
	}
	if len(pieces) > maxTokenID {
		return fmt.Errorf("has %d pieces, limit %d", len(pieces), maxTokenID)
	}
	m.pieces, m.ids = make([]string, len(pieces)), make(map[string]uint32, len(pieces))
	for id, entry := range pieces {
		piece, ok := entry[0].(string)
		if !ok {
			return fmt.Errorf("entry %d must be [piece, score]", id)
		}
		m.pieces[id] = piece
		m.ids[piece] = uint32(id)
	}
	return nil
}

// checkMerges makes sure that both parts of each merge and their union are in vocab: upstream cuts the prefix of a
// continuing piece off the second part without a look at its length.
func (m *model) checkMerges() error {
	var lines []string
	var pairs [][]string
	if json.Unmarshal(m.Merges, &lines) == nil {
		for _, line := range lines {
			if !strings.HasPrefix(line, "#version") {
				pairs = append(pairs, strings.Split(line, " "))
			}
		}
	} else if err := json.Unmarshal(m.Merges, &pairs); err != nil {
		return err
	}
	prefix := 0
	if m.Prefix != nil {
		prefix = len(*m.Prefix)
	}
	for i, pair := range pairs {
		if len(pair) != 2 {
			return fmt.Errorf("entry %d has %d parts, must have 2", i, len(pair))
		}
		left, right := pair[0], pair[1]
		if prefix > len(right) || prefix < len(right) && !utf8.RuneStart(right[prefix]) {
			return fmt.Errorf("entry %d, %.80q, is shorter than continuing_subword_prefix", i, right)
		}
		for _, token := range []string{left, right, left + right[prefix:]} {
			if _, ok := m.ids[token]; !ok {
				return fmt.Errorf("entry %d needs %.80q, which is not in vocab", i, token)
			}
		}
	}
	return nil
}

// unknown is the token for what the vocabulary lacks; "": none.
func (m *model) unknown() string {
	switch {
	case m.UnkID != nil && *m.UnkID < uint64(len(m.pieces)):
		return m.pieces[*m.UnkID]
	case m.UnkToken != nil:
		return *m.UnkToken
	}
	return ""
}
