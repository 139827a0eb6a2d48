package tokenize

import (
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
)

// FuzzTokenizerFile opens foreign files. One that opens must encode and decode, or fail, without ending the process.
func FuzzTokenizerFile(f *testing.F) {
	added := `[{"id":0,"content":"[U]","single_word":false,"lstrip":true,"rstrip":false,"normalized":true,"special":true}]`
	for _, rest := range []string{
		`"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
		 "pre_tokenizer":{"type":"BertPreTokenizer"},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},
		 "post_processor":{"type":"BertProcessing","sep":["b",2],"cls":["a",1]},
		 "model":{"type":"WordPiece","unk_token":"[U]","continuing_subword_prefix":"##","max_input_chars_per_word":9,"vocab":{"[U]":0,"a":1,"b":2,"##b":3}}`,
		`"normalizer":{"type":"Sequence","normalizers":[{"type":"Precompiled","precompiled_charsmap":"` + charsmap() + `"},{"type":"Prepend","prepend":"_"},
		 {"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "},{"type":"Strip","strip_left":true,"strip_right":true}]},
		 "pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true},{"type":"Digits","individual_digits":true}]},
		 "decoder":{"type":"Sequence","decoders":[{"type":"Strip","content":" ","start":1,"stop":0},{"type":"ByteFallback"},{"type":"Fuse"}]},
		 "post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
		 "pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"x":{"id":"x","ids":[0,1],"tokens":["a","b"]}}},
		 "model":{"type":"Unigram","unk_id":0,"vocab":[["[U]",0.0],["a",-1.5],["▁b",-2]],"byte_fallback":true}`,
		`"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\s+"},"behavior":"Isolated","invert":false},
		 {"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}]},"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true},
		 "post_processor":{"type":"Sequence","processors":[{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true},
		 {"type":"RobertaProcessing","sep":["b",2],"cls":["a",1],"trim_offsets":true,"add_prefix_space":true}]},
		 "model":{"type":"BPE","dropout":null,"unk_token":"[U]","continuing_subword_prefix":"","end_of_word_suffix":"","fuse_unk":true,"byte_fallback":false,
		 "ignore_merges":false,"vocab":{"[U]":0,"a":1,"b":2,"ab":3},"merges":[["a","b"],["ab","b"]]}`,
		`"normalizer":{"type":"NFKC"},"pre_tokenizer":{"type":"UnicodeScripts"},"post_processor":null,"decoder":{"type":"CTC","pad_token":"a","word_delimiter_token":"b","cleanup":true},
		 "model":{"type":"WordLevel","unk_token":"[U]","vocab":{"[U]":0,"a":1,"b":2}}`,
	} {
		f.Add([]byte(`{"version":"1.0","truncation":null,"padding":null,"added_tokens":` + added + `,` + rest + `}`))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		tokenizer, err := parse(data, false, &arch.TokenizerConfig{})
		if err != nil {
			require.Nil(t, tokenizer)
			return
		}
		defer tokenizer.Close()
		var out Encoding
		for _, text := range []string{"ab [U] b  a1", "é猫 \u0301▁b", strings.Repeat("ab ", 400)} {
			for _, in := range []Input{{Text: text}, {Text: text, Prompt: "a "}, {Text: text, HasPair: true, Pair: "b"}} {
				o := Options{AddSpecial: true, MaxLength: 6, Truncate: true, Offsets: true}
				if tokenizer.Encode(in, o, &out) == nil {
					checkInvariants(t, in, o, &out)
					_, _ = tokenizer.Decode(out.IDs, false)
				}
			}
		}
	})
}

// FuzzEncode gives any bytes to three tokenizers.
func FuzzEncode(f *testing.F) {
	var tokenizers []*Tokenizer
	for _, kind := range []string{"bert", "roberta_prefix", "unigram"} {
		tokenizers = append(tokenizers, open(f, kind))
	}
	for _, text := range []string{"the quick brown fox", "", "\xff", "a\x00b", "猫 <mask> 🙂", " \t", "e\u0301ﷺ", strings.Repeat("fox ", 300)} {
		f.Add([]byte(text), []byte("a dog "), uint8(9), true, false)
		f.Add([]byte(text), []byte("b"), uint8(0), false, true)
	}
	f.Fuzz(func(t *testing.T, text, other []byte, limit uint8, pair, left bool) {
		in := Input{Text: string(text), Prompt: string(other)}
		if pair {
			in = Input{Text: string(text), Pair: string(other), HasPair: true}
		}
		o := Options{AddSpecial: true, MaxLength: int(limit), Truncate: true, Offsets: true}
		if left {
			o.Side = Left
		}
		for _, tokenizer := range tokenizers {
			var out, again, uncut Encoding
			err := tokenizer.Encode(in, o, &out)
			if !utf8.Valid(text) || !utf8.Valid(other) || strings.IndexByte(string(text)+string(other), 0) >= 0 ||
				len(text) == 0 && (!pair || len(other) == 0) {
				require.Error(t, err)
				continue
			}
			if err != nil {
				require.Less(t, int(limit), 5, "%v", err)
				continue
			}
			checkInvariants(t, in, o, &out)
			require.NoError(t, tokenizer.Encode(in, o, &again))
			require.Equal(t, out, again)
			require.NoError(t, whole(tokenizer).Encode(in, o, &uncut))
			require.Equal(t, out, uncut)
			for _, id := range out.IDs {
				require.NotEmpty(t, tokenizer.Piece(id))
			}
			_, err = tokenizer.Decode(out.IDs, true)
			require.NoError(t, err)
		}
	})
}

// checkInvariants: lengths agree, the limit holds, and the offsets of each sequence lie inside its text and end in ascending
// order. (Starts do not always ascend: of a space that upstream put before a word, trimming leaves the end of that word.)
func checkInvariants(t *testing.T, in Input, o Options, out *Encoding) {
	n := len(out.IDs)
	require.True(t, o.MaxLength == 0 || n <= o.MaxLength)
	for _, length := range []int{len(out.TypeIDs), len(out.Special), len(out.Sequence), len(out.Starts), len(out.Ends)} {
		require.Equal(t, n, length)
	}
	require.LessOrEqual(t, out.PromptTokens, n)
	points := []int{utf8.RuneCountInString(in.Prompt + in.Text), utf8.RuneCountInString(in.Pair)}
	last := []uint32{0, 0}
	for i := range n {
		require.LessOrEqual(t, out.Starts[i], out.Ends[i])
		if out.Special[i] == 1 {
			require.EqualValues(t, NoSequence, out.Sequence[i])
			require.Zero(t, out.Ends[i])
			continue
		}
		s := out.Sequence[i]
		require.LessOrEqual(t, int(out.Ends[i]), points[s])
		require.LessOrEqual(t, last[s], out.Ends[i])
		last[s] = out.Ends[i]
	}
}

func TestMain(m *testing.M) {
	os.Setenv("RUST_BACKTRACE", "0") // the panics that tests provoke are caught; their traces would only hide the results
	os.Exit(m.Run())
}
