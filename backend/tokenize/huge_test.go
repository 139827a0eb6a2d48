package tokenize

import (
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// whole is tokenizer without its cutter.
func whole(tokenizer *Tokenizer) *Tokenizer {
	return &Tokenizer{vocab: tokenizer.vocab, processor: tokenizer.processor, library: tokenizer.library}
}

func TestWhichTokenizersCut(t *testing.T) {
	for kind, cuts := range map[string]bool{
		"minilm": true, "bert": true, "roberta": true, "roberta_prefix": true, "roberta_untrimmed": true, "sequence": true,
		"template": true, "unigram": true, "plain": true,
		"byte_fallback": false, // no pre-tokenizer: a merge may cross any place
	} {
		require.Equal(t, cuts, open(t, kind).cutter != nil, kind)
	}
	c := open(t, "minilm").cutter
	letters := 0
	for _, ok := range c.letters {
		if ok {
			letters++
		}
	}
	require.Greater(t, letters, 700)
	require.True(t, c.letters['a'] && c.letters['Z'] && c.letters['7'] && c.letters['é'] && c.letters['я'])
	require.True(t, c.ideographs)
	require.False(t, open(t, "template").cutter.ideographs)
}

// longTexts joins pieces of the fixture and awkward bits.
func longTexts(f *fixture, n int) []string {
	rng := rand.New(rand.NewPCG(1, 2))
	bits := []string{" ", "  ", "\n", "\t ", "<mask>", " <mask> ", "<extra>", "[MASK]", "猫犬", " 猫 犬x ", "e\u0301 ", "\u0301", "ﷺ ",
		"don't ", "''  ", "...", "12345678 ", "İ ", "🙂 ", "\u200d ", "\u00a0", "▁a ▁", strings.Repeat("q", 300) + " ", "Ⅷ ½ ", "\u0007 ", "a"}
	var out []string
	for range n {
		var b strings.Builder
		for size := 600 + rng.IntN(9000); b.Len() < size; {
			if rng.IntN(3) == 0 {
				b.WriteString(f.Texts[rng.IntN(len(f.Texts))])
			} else {
				b.WriteString(bits[rng.IntN(len(bits))])
			}
			if rng.IntN(2) == 0 {
				b.WriteByte(' ')
			}
		}
		out = append(out, b.String())
	}
	return out
}

func TestCutChangesNothing(t *testing.T) {
	f := loadFixture(t)
	texts := longTexts(f, 10)
	rng := rand.New(rand.NewPCG(3, 4))
	kinds := map[string]*Tokenizer{}
	for _, kind := range []string{"minilm", "bert", "roberta", "roberta_prefix", "sequence", "template", "unigram", "plain", "qwen"} {
		kinds[kind] = open(t, kind)
	}
	for pattern := range splitPatterns {
		kinds[pattern] = parseChanged(t, "roberta", func(file map[string]any) {
			file["normalizer"] = object("type", "NFC")
			file["pre_tokenizer"] = object("type", typeSequence, "pretokenizers", []any{
				object("type", "Split", "pattern", object("Regex", pattern), "behavior", "Isolated", "invert", false),
				object("type", "ByteLevel", "add_prefix_space", false, "trim_offsets", true, "use_regex", false)})
		})
	}
	kinds["metaspace"] = parseChanged(t, "unigram", func(file map[string]any) {
		file["normalizer"] = object("type", typeSequence, "normalizers", []any{object("type", typePrecompiled, "precompiled_charsmap", charsmap()),
			object("type", "Strip", "strip_left", true, "strip_right", true)})
		file["pre_tokenizer"] = object("type", "Metaspace", "replacement", "▁", "prepend_scheme", "always", "split", true)
	})
	for kind, tokenizer := range kinds {
		reference := whole(tokenizer)
		cuts := 0
		var got, want Encoding
		for i, text := range texts {
			// Every place that the cutter names keeps all tokens before it.
			at := tokenizer.cutter.before(text, 64+rng.IntN(len(text)-64))
			if at > 0 {
				cuts++
				require.NoError(t, tokenizer.Encode(Input{Text: text[:at]}, Options{}, &got))
				require.NoError(t, tokenizer.Encode(Input{Text: text}, Options{}, &want))
				require.Equal(t, got.IDs, want.IDs[:len(got.IDs)], "%s: %q", kind, text[:at])
			}
			for _, limit := range []int{8, 9, 31, 64} {
				o := Options{AddSpecial: true, Offsets: true, Truncate: true, MaxLength: limit}
				for _, in := range []Input{{Text: text}, {Text: text, HasPair: true, Pair: texts[(i+1)%len(texts)]}, {Text: "fox", HasPair: true, Pair: text}, {Text: text, Prompt: "query: "}} {
					require.NoError(t, tokenizer.Encode(in, o, &got))
					require.NoError(t, reference.Encode(in, o, &want))
					require.Equal(t, want, got, "%s %d", kind, limit)
				}
			}
		}
		require.Greater(t, cuts, len(texts)/2, kind)
	}
}

func TestTenMegabytes(t *testing.T) {
	tokenizer := open(t, "minilm")
	text := strings.Repeat("the quick brown fox, naïve, 猫 ", 10<<20/32)
	var out Encoding
	start := time.Now()
	o := Options{AddSpecial: true, MaxLength: 256, Truncate: true, Offsets: true}
	require.NoError(t, tokenizer.Encode(Input{Text: text}, o, &out))
	require.Len(t, out.IDs, 256)
	require.NoError(t, tokenizer.Encode(Input{Text: strings.Repeat("猫", 3<<20)}, o, &out))
	require.Len(t, out.IDs, 256)
	require.NoError(t, tokenizer.Encode(Input{Text: text, HasPair: true, Pair: "short"}, o, &out))
	require.Len(t, out.IDs, 256)

	o.Truncate = false
	requireStatus(t, tokenizer.Encode(Input{Text: text}, o, &out), status.TooLong, "at least", "max_length is 256")

	// An odd budget, and both texts longer than it: which is the longer one cannot be known, so they are tokenized whole.
	requireStatus(t, tokenizer.Encode(Input{Text: text, HasPair: true, Pair: text}, Options{AddSpecial: true, MaxLength: 256, Truncate: true}, &out),
		status.TooLong, "1048576 bytes")
	requireStatus(t, tokenizer.Encode(Input{Text: text, HasPair: true, Pair: "x" + text}, Options{AddSpecial: true, MaxLength: 256}, &out), status.TooLong, "at least")
	require.NoError(t, tokenizer.Encode(Input{Text: text, HasPair: true, Pair: text}, Options{AddSpecial: true, MaxLength: 257, Truncate: true}, &out))
	require.Len(t, out.IDs, 257)

	requireStatus(t, tokenizer.Encode(Input{Text: text}, Options{MaxLength: 256, Truncate: true, Side: Left}, &out), status.TooLong, "bytes")
	requireStatus(t, tokenizer.Encode(Input{Text: text}, Options{}, &out), status.TooLong, "limit")
	requireStatus(t, tokenizer.Encode(Input{Text: strings.Repeat("x", 10<<20)}, o, &out), status.TooLong, "no safe place")
	require.Less(t, time.Since(start), 30*time.Second)
}

// resident returns the resident memory of this process, in bytes.
func resident(t testing.TB) int {
	data, err := os.ReadFile("/proc/self/statm")
	require.NoError(t, err)
	pages, err := strconv.Atoi(strings.Fields(string(data))[1])
	require.NoError(t, err)
	return pages * os.Getpagesize()
}

func TestNoLeak(t *testing.T) {
	f := loadFixture(t)
	var out Encoding
	work := func(tokenizer *Tokenizer, n int) {
		for i := range n {
			text := f.Texts[i%len(f.Texts)]
			err := tokenizer.Encode(Input{Text: text}, Options{AddSpecial: true, Offsets: i%2 == 0, MaxLength: 64, Truncate: true}, &out)
			require.True(t, err == nil || text == "")
			if i%16 == 0 {
				_, err = tokenizer.Decode(out.IDs, false)
				require.NoError(t, err)
			}
		}
	}
	f.Texts = slices.DeleteFunc(f.Texts, func(text string) bool { return len(text) > 100 })
	tokenizer := open(t, "minilm")
	work(tokenizer, 5000)
	before := resident(t)
	work(tokenizer, 100_000)
	require.Less(t, resident(t)-before, 24<<20, "after 100,000 encodings")

	small := func(n int) {
		for range n {
			other, err := Open(kindDir("bert"), false, arch.TokenizerConfig{})
			require.NoError(t, err)
			work(other, 2)
			other.Close()
		}
	}
	small(20)
	before = resident(t)
	small(300)
	require.Less(t, resident(t)-before, 24<<20, "after opening 300 tokenizers")
}

func TestForeignMemory(t *testing.T) {
	tokenizer := open(t, "minilm")
	memory := []byte("query: hello")
	alias := unsafe.String(&memory[0], len(memory))
	var out Encoding
	require.NoError(t, tokenizer.Encode(Input{Text: alias[7:], Prompt: alias[:7]}, Options{AddSpecial: true}, &out))
	require.Equal(t, 3, out.PromptTokens)
	clear(memory)
	require.NoError(t, tokenizer.Encode(Input{Text: "hello", Prompt: "query: "}, Options{AddSpecial: true}, &out))
	require.Equal(t, 3, out.PromptTokens)
}

func requireStatus(t testing.TB, err error, code status.Code, parts ...string) {
	t.Helper()
	var e *status.Error
	require.True(t, errors.As(err, &e), "%v", err)
	require.Equal(t, code.String(), e.Code.String(), e.Msg)
	for _, part := range parts {
		require.Contains(t, e.Msg, part)
	}
}
