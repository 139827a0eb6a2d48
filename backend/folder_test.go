package backend

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDoLowerCase: sentence_bert_config.json can ask for lower case where the tokenizer keeps the case.
func TestDoLowerCase(t *testing.T) {
	cased := func(settings string) *Backend {
		c := onnxConfig("bert-mean")
		copied := t.TempDir()
		require.NoError(t, os.CopyFS(copied, os.DirFS(c.Model)))
		c.Model = copied
		for name, edit := range map[string][2]string{
			"tokenizer.json": {`"lowercase":true`, `"lowercase":false`}, "tokenizer_config.json": {`"do_lower_case": true`, `"do_lower_case": false`},
		} {
			file := filepath.Join(copied, name)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			kept := bytes.Replace(text, []byte(edit[0]), []byte(edit[1]), 1)
			require.NotEqual(t, len(text), len(kept))
			require.NoError(t, os.WriteFile(file, kept, 0o600))
		}
		require.NoError(t, os.WriteFile(filepath.Join(copied, "sentence_bert_config.json"), []byte(settings), 0o600))
		return open(t, c)
	}
	lowered, kept := cased(`{"do_lower_case": true}`), cased(`{"do_lower_case": false}`)
	lower := idsOf(t, kept, Text{Text: "the text"}, CallOptions{})
	require.Equal(t, lower, idsOf(t, lowered, Text{Text: "The TEXT"}, CallOptions{}))
	require.NotEqual(t, lower, idsOf(t, kept, Text{Text: "The TEXT"}, CallOptions{}))

	c := onnxConfig("bert-mean")
	c.Model = t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(c.Model, "sentence_bert_config.json"), []byte(`{"do_lower_case": 1}`), 0o600))
	_, err := Open(background, c)
	require.ErrorContains(t, err, "do_lower_case")
}
