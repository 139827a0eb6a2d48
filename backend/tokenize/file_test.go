package tokenize

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// object makes a map of keys and values in turn.
func object(pairs ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	return m
}

// steps is n times the same step.
func steps(name string, n int, step any) map[string]any {
	return object("type", typeSequence, name, slices.Repeat([]any{step}, n))
}

// charsmap is a character map that changes nothing: an array of 256 empty units and no texts.
func charsmap() string {
	return base64.StdEncoding.EncodeToString(append([]byte{0, 4, 0, 0}, make([]byte, 1024)...))
}

// changed reads the tokenizer.json of kind, lets change edit it, and writes it again.
func changed(t testing.TB, kind string, change func(map[string]any)) []byte {
	data, err := os.ReadFile(filepath.Join(kindDir(kind), FileName))
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, json.Unmarshal(data, &file))
	change(file)
	data, err = json.Marshal(file)
	require.NoError(t, err)
	return data
}

func parseChanged(t testing.TB, kind string, change func(map[string]any)) *Tokenizer {
	tokenizer, err := parse(changed(t, kind, change), false, &arch.TokenizerConfig{})
	require.NoError(t, err)
	t.Cleanup(tokenizer.Close)
	return tokenizer
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	open := func() error {
		_, err := Open(dir, false, arch.TokenizerConfig{})
		return err
	}
	path := filepath.Join(dir, FileName)
	requireStatus(t, open(), status.Start, path, "is missing", "save_pretrained")

	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	requireStatus(t, open(), status.Start, path, "not a JSON object")

	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(maxFileBytes+1))
	require.NoError(t, f.Close())
	requireStatus(t, open(), status.Start, "268435457 bytes, limit 268435456")

	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Mkdir(path, 0o700))
	requireStatus(t, open(), status.Start, "no regular file")

	require.NoError(t, os.Remove(path))
	require.NoError(t, os.Symlink(FileName, path))
	requireStatus(t, open(), status.Start, path)

	require.NoError(t, os.Remove(path))
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	requireStatus(t, open(), status.Start)
}

// TestHostileBytes: none of these may end the process, which is what upstream does where it panics while opening.
func TestHostileBytes(t *testing.T) {
	for name, c := range map[string]struct{ data, message string }{
		"empty":              {"", "not a JSON object"},
		"null":               {"null", "model is missing"},
		"a list":             {"[]", "not a JSON object"},
		"not UTF-8":          {"{\"a\":\"\xff\"}", "not UTF-8"},
		"byte order mark":    {"\ufeff{}", "not a JSON object"},
		"two documents":      {"{}{}", "not a JSON object"},
		"very deep":          {strings.Repeat("[", 1<<20), "not a JSON object"},
		"version":            {`{"version":"2.0"}`, `version is "2.0"`},
		"version a number":   {`{"version":1}`, "version"},
		"no model":           {`{"version":"1.0"}`, "model is missing"},
		"model a list":       {`{"model":[]}`, "model"},
		"no vocab":           {`{"model":{"type":"BPE"}}`, "vocab is missing"},
		"vocab a number":     {`{"model":{"type":"BPE","vocab":1}}`, "vocab"},
		"lone surrogate":     {`{"decoder":{"type":"Fuse","x":"\ud800"},"model":{}}`, "surrogate"},
		"lone low surrogate": {`{"decoder":{"type":"Fuse","x":"\uDC00"},"model":{}}`, "surrogate"},
		"NUL in a type":      {`{"model":{"type":"a\u0000b","vocab":{}}}`, "NUL"},
		"NUL in normalizer":  {`{"normalizer":{"type":"Prepend","prepend":"\\\u0000"},"model":{}}`, "NUL"},
		"NUL in version":     {`{"version":"\u0000"}`, "NUL"},
		"NUL in post":        {`{"post_processor":{"type":"\u0000"},"model":{}}`, "NUL"},
		"huge number":        {`{"decoder":{"type":"Strip","content":" ","start":1e999,"stop":0},"model":{}}`, "decoder"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse([]byte(c.data), false, &arch.TokenizerConfig{})
			require.ErrorContains(t, err, c.message)
			require.Less(t, len(err.Error()), 600)
		})
	}
	require.False(t, hasEscapedNUL([]byte(`"\\u0000"`)), "an escaped backslash, then letters")
	require.Equal(t, -1, loneSurrogate([]byte(`"\ud83d\ude00 \\ud800 \u0041"`)))
}

func TestHostileSections(t *testing.T) {
	post := func(value any) func(map[string]any) {
		return func(file map[string]any) { file["post_processor"] = value }
	}
	normalizer := func(value any) func(map[string]any) {
		return func(file map[string]any) { file["normalizer"] = value }
	}
	model := func(pairs ...any) func(map[string]any) {
		return func(file map[string]any) {
			for i := 0; i < len(pairs); i += 2 {
				file["model"].(map[string]any)[pairs[i].(string)] = pairs[i+1]
			}
		}
	}
	added := func(key string, value any) func(map[string]any) {
		return func(file map[string]any) {
			first := file["added_tokens"].([]any)[0].(map[string]any)
			if first[key] = value; value == nil {
				delete(first, key)
			}
		}
	}
	precompiled := func(text any) func(map[string]any) {
		return normalizer(object("type", typeSequence, "normalizers", []any{object("type", typePrecompiled, "precompiled_charsmap", text)}))
	}
	bytes64 := func(data ...byte) string { return base64.StdEncoding.EncodeToString(data) }
	deep := any(object("type", "Lowercase"))
	deepPost := any(object("type", "ByteLevel", "add_prefix_space", true, "trim_offsets", true))
	for range 100 {
		deep = object("type", typeSequence, "normalizers", []any{deep})
		deepPost = object("type", typeSequence, "processors", []any{deepPost})
	}
	bert := object("type", "BertProcessing", "cls", []any{"[CLS]", 2}, "sep", []any{"[SEP]", 3})
	a := object("Sequence", object("id", "A", "type_id", 0))
	b := object("Sequence", object("id", "B", "type_id", 1))
	special := object("SpecialToken", object("id", "[X]", "type_id", 0))
	templates := func(single, pair []any, ids ...any) map[string]any {
		return object("type", "TemplateProcessing", "single", single, "pair", pair,
			"special_tokens", object("[X]", object("id", "[X]", "ids", ids, "tokens", []any{})))
	}
	for name, c := range map[string]struct {
		kind    string
		change  func(map[string]any)
		message string
	}{
		"unknown post-processor":    {"bert", post(object("type", "Magic")), `post_processor.type is "Magic", supported`},
		"post-processor untyped":    {"bert", post(object()), "post_processor.type is missing"},
		"post-processor a list":     {"bert", post([]any{}), "post_processor"},
		"post-processor deep":       {"bert", post(deepPost), "nested deeper than 32"},
		"post-processor twice":      {"bert", post(object("type", typeSequence, "processors", []any{bert, bert})), "processors[1] (BertProcessing): adds special tokens"},
		"cls missing":               {"bert", post(object("type", "BertProcessing", "sep", []any{"[SEP]", 3})), "cls or sep is missing"},
		"cls out of range":          {"bert", post(object("type", "BertProcessing", "cls", []any{"[CLS]", 99999}, "sep", []any{"[SEP]", 3})), `"[CLS]" has the id 99999, the vocabulary has`},
		"cls of one part":           {"bert", post(object("type", "BertProcessing", "cls", []any{"[CLS]"}, "sep", []any{"[SEP]", 3})), "must be [token, id]"},
		"cls of wrong types":        {"bert", post(object("type", "RobertaProcessing", "cls", []any{1, 2}, "sep", []any{"[SEP]", 3})), "post_processor"},
		"roberta without trim":      {"bert", post(object("type", "RobertaProcessing", "cls", []any{"[CLS]", 2}, "sep", []any{"[SEP]", 3})), "trim_offsets"},
		"byte level without trim":   {"bert", post(object("type", "ByteLevel")), "trim_offsets"},
		"template unknown special":  {"bert", post(templates([]any{a, object("SpecialToken", object("id", "[Y]", "type_id", 0))}, []any{a, b}, 1)), `"[Y]" is not in special_tokens`},
		"template special range":    {"bert", post(templates([]any{a, special}, []any{a, b}, 1, 4000000000)), "4000000000"},
		"template special negative": {"bert", post(templates([]any{a, special}, []any{a, b}, -1)), "post_processor"},
		"template B in single":      {"bert", post(templates([]any{a, b}, []any{a, b}, 1)), `single: part 1: there is no sequence "B"`},
		"template C":                {"bert", post(templates([]any{a}, []any{a, object("Sequence", object("id", "C", "type_id", 1))}, 1)), `no sequence "C"`},
		"template A twice":          {"bert", post(templates([]any{a, a}, []any{a, b}, 1)), "stands twice"},
		"template empty part":       {"bert", post(templates([]any{a, object()}, []any{a, b}, 1)), "either SpecialToken or Sequence"},
		"template without pair":     {"bert", post(object("type", "TemplateProcessing", "single", []any{a}, "special_tokens", object())), "pair: is missing"},

		"normalizer unknown":        {"bert", normalizer(object("type", "Magic")), `normalizer.type is "Magic"`},
		"normalizer type an object": {"bert", normalizer(object("type", object(typePrecompiled, nil))), "normalizer.type"},
		"normalizer deep":           {"bert", normalizer(deep), "nested deeper"},
		"normalizer half":           {"bert", normalizer(object("type", "Strip")), "Failed to create tokenizer"},
		"normalizer bad pattern":    {"bert", normalizer(object("type", "Replace", "pattern", object("Regex", "("), "content", "")), "Failed to create tokenizer"},
		"normalizer doubles":        {"bert", normalizer(steps("normalizers", 9, object("type", "Replace", "pattern", object("String", "a"), "content", "aa"))), "normalizer may make a text more than 256 times as long"},
		"normalizer prepends":       {"bert", normalizer(steps("normalizers", 9, object("type", "Prepend", "prepend", "a"))), "more than 256 times as long"},
		"normalizer of nothing":     {"bert", normalizer(steps("normalizers", 9, object("type", "Replace", "pattern", object("Regex", ""), "content", "a"))), "more than 256 times as long"},
		"normalizer in bytes":       {"bert", normalizer(steps("normalizers", 9, object("type", "ByteLevel"))), "more than 256 times as long"},
		"normalizer of many":        {"bert", normalizer(steps("normalizers", 4097, object("type", "NFC"))), "normalizer.normalizers has 4097 items, limit 4096"},
		"pre-tokenizer doubles": {"bert", func(f map[string]any) {
			f["pre_tokenizer"] = steps("pretokenizers", 9, object("type", "ByteLevel", "add_prefix_space", false, "trim_offsets", true, "use_regex", false))
		}, "pre_tokenizer may make"},
		"decoder doubles": {"bert", func(f map[string]any) {
			f["decoder"] = steps("decoders", 9, object("type", "Replace", "pattern", object("String", "a"), "content", "aa"))
		}, "decoder may make"},
		"charsmap of long texts": {"bert", precompiled(bytes64(append([]byte{4, 0, 0, 0, 0, 0, 0, 0}, bytes.Repeat([]byte{'a'}, 300)...)...)), "more than 256 times as long"},
		"pre-tokenizer unknown":  {"bert", func(f map[string]any) { f["pre_tokenizer"] = object("type", 7) }, "pre_tokenizer.type"},
		"decoder unknown":        {"bert", func(f map[string]any) { f["decoder"] = object("type", "Magic") }, "decoder.type"},
		"decoder half":           {"bert", func(f map[string]any) { f["decoder"] = object("type", "WordPiece") }, "Failed to create tokenizer"},
		"decoder a text":         {"bert", func(f map[string]any) { f["decoder"] = "WordPiece" }, "Failed to create tokenizer"},

		"charsmap missing":                  {"bert", precompiled(nil), "precompiled_charsmap: not a base64 string"},
		"charsmap not base64":               {"bert", precompiled("***"), "illegal base64"},
		"charsmap with breaks":              {"bert", precompiled("AAAA\nAAAA"), "not a base64"},
		"charsmap short":                    {"bert", precompiled(bytes64(1)), "at least 4"},
		"charsmap lies":                     {"bert", precompiled(bytes64(0xff, 0xff, 0xff, 0xff, 0)), "array has 4294967292 bytes, but 1 follow"},
		"charsmap no array":                 {"bert", precompiled(bytes64(0, 0, 0, 0, 'a')), "empty"},
		"charsmap not UTF-8":                {"bert", precompiled(bytes64(4, 0, 0, 0, 0, 0, 0, 0, 0xff)), "not UTF-8"},
		"charsmap too short for any letter": {"bert", precompiled(bytes64(4, 0, 0, 0, 0, 0, 0, 0)), "normalizer"},

		"model unknown":      {"bert", model("type", "Magic"), "Failed to create tokenizer"},
		"model type number":  {"bert", model("type", 1), "type"},
		"id negative":        {"bert", model("vocab", object("a", -1)), "vocab"},
		"id a fraction":      {"bert", model("vocab", object("a", 1.5)), "vocab"},
		"id too large":       {"bert", model("vocab", object("a", 4_000_000_000)), `the id of "a" is 4000000000, limit 4194303`},
		"words too long":     {"bert", model("max_input_chars_per_word", 1_000_000), "max_input_chars_per_word is 1000000, limit 1000"},
		"merge out of vocab": {"roberta", model("merges", []any{"a zzzzzz"}), "merges: entry 0 needs"},
		"merge of one part":  {"roberta", model("merges", []any{"#version: 0.2", "a"}), "must have 2"},
		"merge of numbers":   {"roberta", model("merges", []any{[]any{1, 2}}), "merges"},
		"merge below prefix": {"roberta", model("continuing_subword_prefix", "####", "merges", []any{[]any{"a", "b"}}), "shorter than continuing_subword_prefix"},
		"merge within rune":  {"roberta", model("continuing_subword_prefix", "#", "merges", []any{[]any{"a", "Ġ"}}), "shorter than continuing_subword_prefix"},
		"unigram unk_id":     {"unigram", model("unk_id", 100000), "Failed to create tokenizer"},
		"unigram half entry": {"unigram", model("vocab", []any{[]any{"a"}}), "Failed to create tokenizer"},
		"unigram no entry":   {"unigram", model("vocab", []any{1}), "vocab"},
		"unigram bad piece":  {"unigram", model("vocab", []any{[]any{1, 1}}), "vocab: entry 0 must be [piece, score]"},
		"unigram bad score":  {"unigram", model("vocab", []any{[]any{"a", "b"}}), "Failed to create tokenizer"},

		"added without id":      {"bert", added("id", nil), "added_tokens[0] lacks"},
		"added without special": {"bert", added("special", nil), "added_tokens[0] lacks"},
		"added id too large":    {"bert", added("id", 4194304), "added_tokens[0].id is 4194304, limit 4194303"},
		"added a list":          {"bert", func(f map[string]any) { f["added_tokens"] = object() }, "added_tokens"},
		"too many added":        {"bert", func(f map[string]any) { f["added_tokens"] = make([]any, maxAddedTokens+1) }, "65537 entries, limit 65536"},
		"added too long":        {"bert", added("content", strings.Repeat("a", maxAddedBytes)), "more than 4194304 bytes"},
		"added that no normalizer takes": {"bert", func(f map[string]any) {
			f["normalizer"] = object("type", typePrecompiled, "precompiled_charsmap", bytes64(4, 0, 0, 0, 0, 0, 0, 0))
			f["added_tokens"].([]any)[0].(map[string]any)["normalized"] = true
		}, "added_tokens[0]"},
	} {
		t.Run(name, func(t *testing.T) {
			tokenizer, err := parse(changed(t, c.kind, c.change), false, &arch.TokenizerConfig{})
			require.Nil(t, tokenizer)
			require.ErrorContains(t, err, c.message)
			require.Less(t, len(err.Error()), 1000)
		})
	}
}

// A key of megabytes above many items must not be copied for each of them.
func TestLongKeyIsNotRepeated(t *testing.T) {
	data := changed(t, "bert", func(f map[string]any) {
		f["normalizer"] = object("type", "NFC", strings.Repeat("k", 1<<20), slices.Repeat([]any{0}, maxSectionItems))
	})
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _ = parse(data, false, &arch.TokenizerConfig{})
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<20))
}

func TestLowerCase(t *testing.T) {
	lowered, err := Open(kindDir("roberta"), true, arch.TokenizerConfig{})
	require.NoError(t, err)
	defer lowered.Close()
	plain := open(t, "roberta")
	var a, b Encoding
	// Letter by letter, as upstream: a sigma at the end of a word is an ordinary one.
	for upper, lower := range map[string]string{"Hello WORLD": "hello world", "ΑΣ İ": "ασ i\u0307", "<s> X": "<s> x"} {
		require.NoError(t, lowered.Encode(Input{Text: upper}, Options{AddSpecial: true}, &a))
		require.NoError(t, plain.Encode(Input{Text: lower}, Options{AddSpecial: true}, &b))
		require.Equal(t, b.IDs, a.IDs, upper)
	}
	for name, normalizer := range map[string]any{
		"has it": object("type", typeSequence, "normalizers", []any{object("type", "NFC"), object("type", typeLowercase)}),
		"is it":  object("type", typeLowercase),
	} {
		f := file{normalizer: normalizer}
		f.lowerCase()
		require.Equal(t, normalizer, f.normalizer, name)
	}
	f := file{}
	f.lowerCase()
	require.Equal(t, steps("normalizers", 1, object("type", typeLowercase)), f.normalizer)
}

func TestAcceptedFiles(t *testing.T) {
	var out Encoding
	t.Run("dropout is ignored", func(t *testing.T) {
		tokenizer := parseChanged(t, "roberta", func(f map[string]any) { f["model"].(map[string]any)["dropout"] = 1.0 })
		require.NoError(t, tokenizer.Encode(Input{Text: "the quick brown fox"}, Options{}, &out))
		want := append([]uint32{}, out.IDs...)
		require.NoError(t, open(t, "roberta").Encode(Input{Text: "the quick brown fox"}, Options{}, &out))
		require.Equal(t, want, out.IDs)
	})
	t.Run("a model without type", func(t *testing.T) {
		tokenizer := parseChanged(t, "bert", func(f map[string]any) { delete(f["model"].(map[string]any), "type") })
		require.NoError(t, tokenizer.Encode(Input{Text: "the"}, Options{AddSpecial: true}, &out))
		require.Len(t, out.IDs, 3)
	})
	t.Run("merges in the old form", func(t *testing.T) {
		tokenizer := parseChanged(t, "roberta", func(f map[string]any) {
			lines := []any{"#version: 0.2"}
			for _, pair := range f["model"].(map[string]any)["merges"].([]any) {
				pair := pair.([]any)
				lines = append(lines, pair[0].(string)+" "+pair[1].(string))
			}
			f["model"].(map[string]any)["merges"] = lines
		})
		require.NoError(t, tokenizer.Encode(Input{Text: "the quick"}, Options{}, &out))
	})
	t.Run("a piece with NUL", func(t *testing.T) {
		tokenizer := parseChanged(t, "bert", func(f map[string]any) { f["model"].(map[string]any)["vocab"].(map[string]any)["a\x00b"] = 999 })
		require.Equal(t, 1000, tokenizer.VocabSize())
		require.Equal(t, "a\x00b", tokenizer.Piece(999))
		_, err := tokenizer.Decode([]uint32{999}, false)
		requireStatus(t, err, status.Tokenization)
	})
	t.Run("added tokens get upstream's ids", func(t *testing.T) {
		tokenizer := parseChanged(t, "bert", func(f map[string]any) {
			for _, content := range []string{"<new>", "the", "<newer>", ""} {
				f["added_tokens"] = append(f["added_tokens"].([]any), object("id", 7, "content", content, "single_word", false,
					"lstrip", false, "rstrip", true, "normalized", true, "special", false))
			}
		})
		size := tokenizer.VocabSize()
		require.Equal(t, open(t, "bert").VocabSize()+2, size)
		require.NoError(t, tokenizer.Encode(Input{Text: "<new> the <newer>"}, Options{}, &out))
		require.Equal(t, "<new>", tokenizer.Piece(out.IDs[0]))
		require.Equal(t, "the", tokenizer.Piece(out.IDs[1]))
		require.Equal(t, "<newer>", tokenizer.Piece(out.IDs[2]))
		require.EqualValues(t, size-1, out.IDs[2])
	})
	t.Run("decoders that may not run", func(t *testing.T) {
		for message, decoder := range map[string]any{
			"Strip has stop 1":                   object("type", typeSequence, "decoders", []any{object("type", "Strip", "content", " ", "start", 0, "stop", 1)}),
			"Replace has the regular expression": object("type", "Replace", "pattern", object("Regex", "(a+)+$"), "content", ""),
		} {
			tokenizer := parseChanged(t, "bert", func(f map[string]any) { f["decoder"] = decoder })
			_, err := tokenizer.Decode([]uint32{5}, false)
			requireStatus(t, err, status.Unsupported, message)
			require.NoError(t, tokenizer.Encode(Input{Text: "the"}, Options{}, &out))
		}
	})
	t.Run("an added token with a space forbids cuts", func(t *testing.T) {
		token := object("id", 7, "content", "a b", "single_word", false, "lstrip", false, "rstrip", false, "normalized", false, "special", true)
		tokenizer := parseChanged(t, "bert", func(f map[string]any) { f["added_tokens"] = append(f["added_tokens"].([]any), token) })
		require.Nil(t, tokenizer.cutter)
	})
	t.Run("normalizers that forbid cuts", func(t *testing.T) {
		for _, pattern := range []any{object("String", "a "), object("String", ""), object("Regex", "x y"), object()} {
			require.False(t, normalizerKeepsCuts(object("type", "Replace", "pattern", pattern)), "%v", pattern)
		}
		require.True(t, normalizerKeepsCuts(object("type", "Replace", "pattern", object("String", "``"))))
		require.False(t, normalizerKeepsCuts(object("type", "ByteLevel")))
		splits, _ := preTokenizerSplits(object("type", "UnicodeScripts"))
		require.False(t, splits)
	})
}
