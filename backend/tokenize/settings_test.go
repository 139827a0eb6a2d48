package tokenize

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// mergePatch is RFC 7396's.
func mergePatch(value, patch any) any {
	edits, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	object, ok := value.(map[string]any)
	if !ok {
		object = map[string]any{}
	}
	for key, inner := range edits {
		if inner == nil {
			delete(object, key)
		} else {
			object[key] = mergePatch(object[key], inner)
		}
	}
	return object
}

// editedFolder is a folder of testdata/models with edits of its files, without weights.
func editedFolder(t *testing.T, base string, edits map[string]any) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{FileName, "tokenizer_config.json", "config.json"} {
		data, err := os.ReadFile(filepath.Join("..", "..", "testdata", "models", base, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	for name, patch := range edits {
		var value any
		if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			require.NoError(t, json.Unmarshal(data, &value))
		}
		data, err := json.Marshal(mergePatch(value, patch))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
	return dir
}

func openFolder(dir string) (*Tokenizer, error) {
	c, _, err := arch.ReadTokenizer(dir)
	if err != nil {
		return nil, err
	}
	return Open(dir, false, c)
}

// TestSettings holds tokens of folders with settings beside tokenizer.json to transformers'.
func TestSettings(t *testing.T) {
	var golden struct {
		Texts []string
		Cases []struct {
			Base, Side string
			Edits      map[string]any
			IDs        [][]uint32
		}
	}
	data, err := os.ReadFile(filepath.Join(fixtureDir, "settings.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &golden))
	for _, c := range golden.Cases {
		t.Run(fmt.Sprintf("%s %v", c.Base, c.Edits), func(t *testing.T) {
			tokenizer, err := openFolder(editedFolder(t, c.Base, c.Edits))
			require.NoError(t, err)
			defer tokenizer.Close()
			require.Equal(t, map[string]Side{"left": Left, "right": Right}[c.Side], tokenizer.TruncationSide)
			var out Encoding
			for i, text := range golden.Texts {
				require.NoError(t, tokenizer.Encode(Input{Text: text}, Options{AddSpecial: true}, &out))
				require.Equal(t, c.IDs[i], out.IDs, text)
			}
		})
	}
}

// TestNullTokens: null is no token, not the class's own. A merge patch cannot say null, so the tokens are here; they are AutoTokenizer's.
func TestNullTokens(t *testing.T) {
	dir := editedFolder(t, "llama-lasttoken", map[string]any{FileName: map[string]any{"added_tokens": []any{}}})
	config := `{"tokenizer_class": "LlamaTokenizer", "bos_token": null, "eos_token": null, "unk_token": null, "legacy": null, "add_prefix_space": null}`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer_config.json"), []byte(config), 0o600))
	tokenizer, err := openFolder(dir)
	require.NoError(t, err)
	defer tokenizer.Close()
	var out Encoding
	require.NoError(t, tokenizer.Encode(Input{Text: "x<s>y 猫 the [SEP]"}, Options{AddSpecial: true}, &out))
	require.Equal(t, []uint32{1, 298, 295, 63, 290, 65, 296, 298, 234, 143, 174, 302, 298, 94, 86, 72, 83, 96}, out.IDs)
}

// TestSettingsRefused: what tokenizer_config.json asks for and is not done is an error that names file, key and value.
func TestSettingsRefused(t *testing.T) {
	const config, bert = "tokenizer_config.json", "bert-mean"
	token := func(content string) map[string]any { return map[string]any{"content": content, "lstrip": true} }
	for _, c := range []struct {
		base, file string
		edit       map[string]any
		code       status.Code
		says       string
	}{
		{bert, config, map[string]any{"split_special_tokens": true}, status.Unsupported, "tokenizer_config.json: split_special_tokens true"},
		{bert, config, map[string]any{"truncation_side": "middle"}, status.Unsupported, `truncation_side "middle" is not supported; supported: right, left`},
		{bert, config, map[string]any{"do_lower_case": "yes"}, status.Start, `tokenizer_config.json: do_lower_case is "yes"; it must be true or false`},
		{bert, config, map[string]any{"mask_token": "<none>"}, status.Start, `tokenizer_config.json: mask_token names the token "<none>", which is not in it`},
		{bert, config, map[string]any{"cls_token": "<none>"}, status.Start, `cls_token names the token "<none>"`},
		{bert, config, map[string]any{"extra_special_tokens": []any{"<a>"}}, status.Start, `extra_special_tokens: 0 names the token "<a>"`},
		{bert, config, map[string]any{"extra_special_tokens": map[string]any{"image": "<a>"}}, status.Start, `extra_special_tokens: image names the token "<a>"`},
		{bert, config, map[string]any{"extra_special_tokens": 5}, status.Start, `extra_special_tokens is 5; it must be a list of tokens`},
		{bert, config, map[string]any{"added_tokens_decoder": map[string]any{"7": token("[MASK]")}}, status.Start,
			`added_tokens_decoder: 7 gives the token "[MASK]" the id 7; it has the id 4`},
		{bert, config, map[string]any{"added_tokens_decoder": map[string]any{"x": token("[MASK]")}}, status.Start, `added_tokens_decoder: "x" is no token id`},
		{bert, config, map[string]any{"added_tokens_decoder": map[string]any{"4": map[string]any{}}}, status.Start, `added_tokens_decoder: 4: content is missing`},
		{bert, "added_tokens.json", map[string]any{"<new>": 999}, status.Start, `added_tokens.json: "<new>" names the token "<new>"`},
		{bert, "special_tokens_map.json", map[string]any{"unk_token": token("<new>")}, status.Start, `special_tokens_map.json: unk_token names the token "<new>"`},
		{"roberta-mean", config, map[string]any{"tokenizer_class": "BertTokenizer"}, status.Start,
			"tokenizer_class BertTokenizer of tokenizer_config.json: it needs a model of type WordPiece; tokenizer.json has \"BPE\""},
		{bert, config, map[string]any{"tokenizer_class": "LlamaTokenizer"}, status.Start,
			"tokenizer_class LlamaTokenizer of tokenizer_config.json: it needs a model of type BPE; tokenizer.json has \"WordPiece\""},
		{"gemma-lasttoken", config, map[string]any{"tokenizer_class": "GemmaTokenizer"}, status.Start,
			"tokenizer_class GemmaTokenizer of tokenizer_config.json: its own mask_token names the token \"<mask>\", which is not in it"},
		{"xlm-roberta-cls", config, map[string]any{"tokenizer_class": "XLMRobertaTokenizer", "add_prefix_space": false}, status.Start,
			"add_prefix_space is false, but the pre_tokenizer Metaspace of tokenizer.json does otherwise"},
		{"xlm-roberta-cls", config, map[string]any{"tokenizer_class": "DebertaV2Tokenizer", "split_by_punct": true}, status.Start, "split_by_punct is true"},
	} {
		t.Run(c.says, func(t *testing.T) {
			tokenizer, err := openFolder(editedFolder(t, c.base, map[string]any{c.file: c.edit}))
			require.Nil(t, tokenizer)
			require.ErrorContains(t, err, c.says)
			require.Equal(t, c.code, status.CodeOf(err))
		})
	}
}

// FuzzSettings gives foreign bytes to the files beside tokenizer.json: an error, or a tokenizer whose tokens are in its vocabulary.
func FuzzSettings(f *testing.F) {
	f.Add([]byte(`{"tokenizer_class": "BertTokenizer", "do_lower_case": false, "strip_accents": true, "cls_token": "[MASK]"}`), []byte(`{"model_type": "bert"}`), []byte(`{}`), []byte(`{}`))
	f.Add([]byte(`{"added_tokens_decoder": {"4": {"content": "[MASK]", "lstrip": true}}, "split_special_tokens": false}`), []byte(`{}`), []byte(`{}`), []byte(`{}`))
	f.Add([]byte(`{"extra_special_tokens": {"a": "the"}, "additional_special_tokens": ["the", {"content": "a"}]}`), []byte(`{}`), []byte(`{"mask_token": {"content": "[MASK]"}}`), []byte(`{"the": 9}`))
	base, err := os.ReadFile(filepath.Join("..", "..", "testdata", "models", "bert-mean", FileName))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, config, model, special, added []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{FileName: base, "tokenizer_config.json": config, "config.json": model,
			"special_tokens_map.json": special, "added_tokens.json": added} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		}
		tokenizer, err := openFolder(dir)
		if err != nil {
			require.Less(t, len(err.Error()), 4000)
			return
		}
		defer tokenizer.Close()
		var out Encoding
		require.NoError(t, tokenizer.Encode(Input{Text: "Hello the [MASK]"}, Options{AddSpecial: true}, &out))
		for _, id := range out.IDs {
			require.Less(t, int(id), tokenizer.VocabSize())
		}
	})
}
