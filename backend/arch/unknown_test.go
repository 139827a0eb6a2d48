package arch

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

func TestUnknownToken(t *testing.T) {
	for name, c := range map[string]struct {
		config, special string // "": no file
		token           string
		named           bool
		err             string
	}{
		"no files":           {},
		"named":              {config: `{"unk_token": "[UNK]"}`, token: "[UNK]", named: true},
		"the newer file":     {config: `{"unk_token": "[UNK]", "added_tokens_decoder": {}}`, special: `{"unk_token": "<unk>"}`, token: "[UNK]", named: true},
		"with its spaces":    {config: `{"unk_token": {"content": "<unk>", "lstrip": true}}`, token: "<unk>", named: true},
		"none":               {config: `{"unk_token": null}`, named: true},
		"the older file":     {config: `{"unk_token": "[UNK]"}`, special: `{"unk_token": {"content": "<unk>"}}`, token: "<unk>", named: true},
		"without a default":  {config: `{"tokenizer_class": "PreTrainedTokenizerFast"}`, special: `{}`, named: true},
		"with a default":     {config: `{"tokenizer_class": "BertTokenizer"}`},
		"of another type":    {config: `{"unk_token": 7}`, err: "tokenizer_config.json: unk_token is neither a string nor an object with content"},
		"content of another": {special: `{"unk_token": {"content": 7}}`, err: "special_tokens_map.json: unk_token: content is 7; it must be a string"},
		"class of another":   {config: `{"tokenizer_class": []}`, err: "tokenizer_class"},
		"no JSON":            {config: `{`, err: "tokenizer_config.json"},
	} {
		t.Run(name, func(t *testing.T) {
			files := fstest.MapFS{}
			for file, content := range map[string]string{"tokenizer_config.json": c.config, "special_tokens_map.json": c.special} {
				if content != "" {
					files[file] = &fstest.MapFile{Data: []byte(content)}
				}
			}
			token, named, err := readUnknownToken(files)
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.token, token)
			require.Equal(t, c.named, named)
		})
	}
}
