package tokenize

import (
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestEncodeErrors(t *testing.T) {
	tokenizer := open(t, "minilm")
	var out Encoding
	for name, c := range map[string]struct {
		in   Input
		o    Options
		code status.Code
		want []string
	}{
		"empty":             {Input{}, Options{AddSpecial: true}, status.Empty, nil},
		"only a prompt":     {Input{Prompt: "query: "}, Options{AddSpecial: true}, status.Empty, nil},
		"empty pair":        {Input{HasPair: true}, Options{AddSpecial: true}, status.Empty, nil},
		"bad byte":          {Input{Text: "héllo \xff"}, Options{}, status.InvalidUTF8, []string{"text", "0xff at offset 7"}},
		"half a character":  {Input{Text: "a\xe7\x8c"}, Options{}, status.InvalidUTF8, []string{"0xe7 at offset 1"}},
		"surrogate":         {Input{Text: "a\xed\xa0\x80"}, Options{}, status.InvalidUTF8, []string{"offset 1"}},
		"real U+FFFD, bad":  {Input{Text: "\ufffd\xff"}, Options{}, status.InvalidUTF8, []string{"0xff at offset 3"}},
		"bad pair":          {Input{Text: "a", HasPair: true, Pair: "b\x80"}, Options{}, status.InvalidUTF8, []string{"pair", "offset 1"}},
		"bad prompt":        {Input{Text: "a", Prompt: "\xfe"}, Options{}, status.InvalidUTF8, []string{"prompt", "offset 0"}},
		"NUL":               {Input{Text: "ab\x00c"}, Options{}, status.NulByte, []string{"text", "offset 2"}},
		"NUL in the pair":   {Input{Text: "ab", HasPair: true, Pair: "\x00"}, Options{}, status.NulByte, []string{"pair", "offset 0"}},
		"NUL in the prompt": {Input{Text: "ab", Prompt: "a\x00"}, Options{}, status.NulByte, []string{"prompt", "offset 1"}},
		"too long":          {Input{Text: "one two three four"}, Options{AddSpecial: true, MaxLength: 5}, status.TooLong, []string{"has 6 tokens", "max_length is 5"}},
		"pair too long":     {Input{Text: "one two", HasPair: true, Pair: "three"}, Options{AddSpecial: true, MaxLength: 5}, status.TooLong, []string{"has 6 tokens"}},
		"no room":           {Input{Text: "one"}, Options{AddSpecial: true, MaxLength: 1, Truncate: true}, status.TooLong, []string{"special tokens alone are 2", "max_length is 1"}},
		"prompt and pair":   {Input{Text: "a", HasPair: true, Pair: "b", Prompt: "p"}, Options{}, status.InvalidArgument, []string{"prompt", "pair"}},
		"negative limit":    {Input{Text: "a"}, Options{MaxLength: -1}, status.InvalidArgument, []string{"max_length is -1"}},
		"huge prompt":       {Input{Text: "a", Prompt: strings.Repeat("p", MaxWholeBytes)}, Options{}, status.TooLong, []string{"1048577 bytes", "1048576 bytes"}},
	} {
		t.Run(name, func(t *testing.T) {
			requireStatus(t, tokenizer.Encode(c.in, c.o, &out), c.code, c.want...)
			require.NoError(t, tokenizer.Encode(Input{Text: "next"}, Options{AddSpecial: true}, &out))
			require.Len(t, out.IDs, 3)
		})
	}
}

func TestEncodeLimits(t *testing.T) {
	tokenizer := open(t, "minilm")
	var out Encoding
	o := Options{AddSpecial: true, MaxLength: 6}
	require.NoError(t, tokenizer.Encode(Input{Text: "one two three four"}, o, &out))
	require.Len(t, out.IDs, 6)
	o.MaxLength, o.Truncate = 2, true
	require.NoError(t, tokenizer.Encode(Input{Text: "one two three four"}, o, &out))
	require.Len(t, out.IDs, 2)
	o.MaxLength = int(^uint(0) >> 1)
	require.NoError(t, tokenizer.Encode(Input{Text: strings.Repeat("one two ", 5000)}, o, &out))
	require.Len(t, out.IDs, 10002)

	// White space and control characters alone have no tokens, and that is no failure.
	for _, text := range []string{" ", "\u200b", "\u0007"} {
		require.NoError(t, tokenizer.Encode(Input{Text: text}, Options{AddSpecial: true, Offsets: true}, &out))
		require.Len(t, out.IDs, 2, "%q", text)
		require.NoError(t, tokenizer.Encode(Input{Text: text}, Options{Offsets: true}, &out))
		require.Empty(t, out.IDs, "%q", text)
	}
}

func TestFailureOfTheLibrary(t *testing.T) {
	tokenizer := parseChanged(t, "bert", func(file map[string]any) { file["model"].(map[string]any)["unk_token"] = "[NONE]" })
	var out Encoding
	requireStatus(t, tokenizer.Encode(Input{Text: "猫"}, Options{AddSpecial: true}, &out), status.Tokenization)
	require.NoError(t, tokenizer.Encode(Input{Text: "the"}, Options{AddSpecial: true}, &out))

	// A panic inside: chunks of no characters.
	tokenizer = parseChanged(t, "bert", func(file map[string]any) { file["pre_tokenizer"] = object("type", "FixedLength", "length", 0) })
	requireStatus(t, tokenizer.Encode(Input{Text: "the"}, Options{AddSpecial: true}, &out), status.Tokenization)
}

func TestClose(t *testing.T) {
	tokenizer, err := Open(kindDir("bert"), false, arch.TokenizerConfig{})
	require.NoError(t, err)
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			var out Encoding
			for {
				if err := tokenizer.Encode(Input{Text: "the quick brown fox", Prompt: "a "}, Options{AddSpecial: true}, &out); err != nil {
					requireStatus(t, err, status.ShutDown)
					return
				}
			}
		})
	}
	tokenizer.Close()
	group.Wait()
	tokenizer.Close()
	_, err = tokenizer.Decode([]uint32{5}, false)
	requireStatus(t, err, status.ShutDown)
	require.Equal(t, 2, tokenizer.SpecialTokens(false))
	require.Equal(t, 3, tokenizer.SpecialTokens(true))
}

func TestConcurrent(t *testing.T) {
	f := loadFixture(t)
	tokenizers := map[string]*Tokenizer{}
	for _, kind := range []string{"minilm", "roberta", "unigram", "byte_fallback"} {
		tokenizers[kind] = open(t, kind)
	}
	var group sync.WaitGroup
	for worker := range 16 {
		group.Go(func() {
			var out Encoding
			for i := worker; i < len(f.Encode); i += 5 {
				c := f.Encode[i]
				in := c.input(f)
				if tokenizers[c.Tokenizer] == nil || in.Text == "" && in.Pair == "" {
					continue
				}
				if err := tokenizers[c.Tokenizer].Encode(in, c.options(), &out); err != nil || !slices.Equal(c.IDs, out.IDs) {
					t.Errorf("%s %q: %v, %v", c.Tokenizer, in.Text, out.IDs, err)
				}
			}
		})
	}
	group.Wait()
}

func TestDecodeErrors(t *testing.T) {
	tokenizer := open(t, "minilm")
	require.Equal(t, 30522, tokenizer.VocabSize())
	for _, id := range []uint32{30522, 1 << 31, ^uint32(0)} {
		_, err := tokenizer.Decode([]uint32{101, id}, true)
		requireStatus(t, err, status.TokenOutOfRange, "ids[1] is", "vocabulary size 30522")
		require.Empty(t, tokenizer.Piece(id))
	}
	for _, ids := range [][]uint32{nil, {}, {101, 102}} {
		text, err := tokenizer.Decode(ids, true)
		require.NoError(t, err)
		require.Empty(t, text)
	}
	text, err := tokenizer.Decode([]uint32{101, 7592, 2088, 102}, true)
	require.NoError(t, err)
	require.Equal(t, "hello world", text)
	require.Equal(t, "hello", tokenizer.Piece(7592))
	require.Equal(t, "[PAD]", tokenizer.Piece(0))
}

// TestPromptTokens: what _get_prompt_length of sentence-transformers gives for these tokenizers.
// A prompt has the bound of texts, although a text behind it can be cut.
func TestHugePrompt(t *testing.T) {
	tokenizer := open(t, "minilm")
	var out Encoding
	in := Input{Text: strings.Repeat("some words ", 1000), Prompt: strings.Repeat("p ", MaxWholeBytes/2)}
	err := tokenizer.Encode(in, Options{AddSpecial: true, MaxLength: 16, Truncate: true}, &out)
	requireStatus(t, err, status.TooLong, "the limit for that is 1048576 bytes")
}

func TestPromptTokens(t *testing.T) {
	var out Encoding
	for _, c := range []struct {
		kind   string
		prompt string
		o      Options
		want   int
	}{
		{"minilm", "query: ", Options{AddSpecial: true}, 3},                               // [CLS] query : [SEP], less [SEP]
		{"minilm", "query: ", Options{}, 2},                                               // no special tokens
		{"minilm", " ", Options{AddSpecial: true}, 1},                                     // [CLS] [SEP]
		{"minilm", "query: ", Options{AddSpecial: true, MaxLength: 4, Truncate: true}, 3}, // cut, and [SEP] not counted
		{"minilm", "one two three", Options{AddSpecial: true, MaxLength: 3, Truncate: true}, 2},
		{"sequence", "the ", Options{AddSpecial: true}, 2},      // the, Ġ; <|endoftext|> not counted
		{"template", "the dog ", Options{AddSpecial: true}, 6},  // <bos> <lang> the dog <sep> <lang> </s>
		{"byte_fallback", "the ", Options{AddSpecial: true}, 3}, // <s> ▁the ▁
		{"plain", "猫", Options{AddSpecial: true}, 0},            // <unk> is a special token
		{"minilm", "", Options{AddSpecial: true}, 0},
	} {
		tokenizer := open(t, c.kind)
		for range 2 {
			require.NoError(t, tokenizer.Encode(Input{Text: "the quick brown fox", Prompt: c.prompt}, c.o, &out))
			require.Equal(t, c.want, out.PromptTokens, "%s %q", c.kind, c.prompt)
		}
	}
	tokenizer := open(t, "minilm")
	for i := range 2 * maxPrompts {
		require.NoError(t, tokenizer.Encode(Input{Text: "x", Prompt: strings.Repeat("a ", i+1)}, Options{}, &out))
		require.Equal(t, i+1, out.PromptTokens)
	}
	require.Len(t, tokenizer.prompts.counts, maxPrompts)

	// Offsets are those of prompt and text together.
	require.NoError(t, tokenizer.Encode(Input{Text: "猫", Prompt: "é: "}, Options{Offsets: true}, &out))
	require.Equal(t, []uint32{0, 1, 3}, out.Starts)
	require.Equal(t, []uint32{1, 2, 4}, out.Ends)
}

func TestLongestFirst(t *testing.T) {
	for _, c := range [][5]int{
		{1, 9, 4, 1, 3}, {9, 1, 4, 3, 1}, {9, 9, 5, 2, 3}, {9, 10, 5, 2, 3}, {10, 9, 5, 3, 2}, {3, 9, 5, 2, 3}, {9, 3, 5, 3, 2},
		{0, 9, 4, 0, 4}, {9, 9, 0, 0, 0}, {9, 9, 1, 0, 1}, {1, 1, 1, 0, 1}, {2, 3, 4, 2, 2},
	} {
		a, b := longestFirst(c[0], c[1], c[2])
		require.Equal(t, [2]int{c[3], c[4]}, [2]int{a, b}, "%v", c)
	}
}

func BenchmarkEncode(b *testing.B) {
	tokenizer := open(b, "minilm")
	text := strings.Repeat("The harbour was quiet when the first boat came in. ", 10)
	measure := func(name string, encode func() int) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			tokens := 0
			for b.Loop() {
				tokens += encode()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(tokens), "ns/token")
		})
	}
	var out Encoding
	for name, o := range map[string]Options{
		"ids": {AddSpecial: true}, "offsets": {AddSpecial: true, Offsets: true}, "truncate": {AddSpecial: true, MaxLength: 256, Truncate: true},
	} {
		measure(name, func() int {
			require.NoError(b, tokenizer.Encode(Input{Text: text}, o, &out))
			return len(out.IDs)
		})
	}
	raw := append([]byte(text), 0)
	measure("library", func() int {
		var tokens rawTokens
		require.NoError(b, tokenizer.library.encode(raw, false, &tokens))
		defer tokens.free()
		return len(tokens.ids)
	})
}
