package tokenize

import (
	"fmt"
	"strings"
)

// vocabulary maps ids to tokens. It holds the strings in one piece of memory, because there may be hundreds of thousands.
type vocabulary struct {
	text    string
	ends    []uint32 // piece id is text[ends[id-1]:ends[id]]; empty for an id without a token
	special []bool   // [size] tokens that added_tokens calls special
	strips  []bool   // [size] added tokens that take the white space beside them
}

// newVocabulary joins the model's tokens and the added ones. Added tokens get their ids as upstream gives them, which does
// not look at the ids in the file: that of the model's token with the same text, otherwise the next one free.
func newVocabulary(f *file) (*vocabulary, error) {
	tokens := make([]string, 0, len(f.model.ids))
	set := func(id uint32, token string) {
		for int(id) >= len(tokens) {
			tokens = append(tokens, "")
		}
		tokens[id] = token
	}
	for token, id := range f.model.ids {
		set(id, token)
	}
	for id, piece := range f.model.pieces {
		set(uint32(id), piece)
	}
	modelSize := uint32(len(f.model.ids))
	if f.model.pieces != nil {
		modelSize = uint32(len(f.model.pieces))
	}
	v := &vocabulary{}
	added := make(map[string]uint32, len(f.added))
	next, special, strips := modelSize, map[uint32]bool{}, map[uint32]bool{}
	for _, token := range f.added {
		if *token.Content == "" {
			continue
		}
		id, ok := added[*token.Content]
		if !ok {
			id, ok = f.model.ids[*token.Content]
		}
		if !ok {
			id = next
		}
		if id > maxTokenID {
			return nil, fmt.Errorf("added token %.80q gets the id %d, limit %d", *token.Content, id, maxTokenID)
		}
		added[*token.Content] = id
		next = max(next, id+1)
		set(id, *token.Content)
		special[id] = special[id] || *token.Special
		strips[id] = *token.LStrip || *token.RStrip
	}
	var text strings.Builder
	v.ends, v.special, v.strips = make([]uint32, len(tokens)), make([]bool, len(tokens)), make([]bool, len(tokens))
	for id, token := range tokens {
		text.WriteString(token)
		v.ends[id], v.special[id], v.strips[id] = uint32(text.Len()), special[uint32(id)], strips[uint32(id)]
	}
	v.text = text.String()
	return v, nil
}

func (v *vocabulary) size() int { return len(v.ends) }

func (v *vocabulary) piece(id uint32) string {
	if int64(id) >= int64(len(v.ends)) {
		return ""
	}
	start := uint32(0)
	if id > 0 {
		start = v.ends[id-1]
	}
	return v.text[start:v.ends[id]]
}

// id finds a token; false: there is none of that text.
func (v *vocabulary) id(token string) (uint32, bool) {
	for id := range v.ends {
		if token != "" && v.piece(uint32(id)) == token {
			return uint32(id), true
		}
	}
	return 0, false
}
