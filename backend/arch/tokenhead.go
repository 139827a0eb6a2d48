package arch

import (
	"io/fs"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Names of bge-m3's heads, as FlagEmbedding saves them: each is a file of its own.
const (
	colbertLinear = "colbert_linear"
	sparseLinear  = "sparse_linear"
)

// special are the tokens that FlagEmbedding gives no weight, with what XLM-RoBERTa's tokenizer calls them by itself.
var special = []struct{ key, token string }{
	{"cls_token", "<s>"}, {"eos_token", "</s>"}, {"pad_token", "<pad>"}, {"unk_token", "<unk>"},
}

// tokenHead reads the heads of tokens that an embedding model may have beside its pooling; nil: it has none.
func tokenHead(fsys fs.FS, t *tensors, m *Model) (*TokenHead, error) {
	vector, ok := t.index.Shape(colbertLinear + ".weight")
	if !ok && !t.has(sparseLinear+".weight") {
		return nil, nil
	}
	if ok && len(vector) != 2 {
		return nil, status.Errorf(status.Start, "tensor %q has shape %v; it must have [columns, %d]", colbertLinear+".weight", vector, m.HiddenSize)
	}
	columns := m.HiddenSize
	if ok {
		columns = vector[0]
	}
	if columns < 1 || columns > maxWide {
		return nil, status.Errorf(status.Start, "tensor %q has %d rows; it must have 1 to %d", colbertLinear+".weight", columns, maxWide)
	}
	h := &TokenHead{Vector: t.linear(colbertLinear, m.HiddenSize, columns), Weight: t.linear(sparseLinear, m.HiddenSize, 1)}
	var err error
	if h.SpecialTokens, err = specialTokens(fsys); err != nil {
		return nil, err
	}
	return h, t.err
}

// specialTokens reads what the tokenizer calls its special tokens; without a file or a key it is as XLM-RoBERTa's.
func specialTokens(fsys fs.FS) ([]string, error) {
	var tokens []string
	var files []*object
	for _, name := range []string{"tokenizer_config.json", "special_tokens_map.json"} {
		c, err := readObject(fsys, name)
		if err != nil {
			return nil, err
		}
		if c != nil {
			files = append(files, c)
		}
	}
	for _, s := range special {
		token := s.token
		for _, c := range files {
			if _, ok := c.values[s.key]; !ok {
				continue
			}
			if token = c.token(s.key); c.err != nil {
				return nil, c.err
			}
			break
		}
		if token != "" { // null: the tokenizer has none
			tokens = append(tokens, token)
		}
	}
	return tokens, nil
}

// token reads the text of a token: "" for null.
func (o *object) token(key string) string {
	if raw := o.values[key]; len(raw) == 0 || string(raw) == "null" {
		return ""
	}
	return o.addedToken(key).Content
}
