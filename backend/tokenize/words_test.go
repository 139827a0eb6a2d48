package tokenize

import (
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// TestWordsByCodePoints holds Inside to the pipeline's own lines, over a text as a list of code points.
func TestWordsByCodePoints(t *testing.T) {
	f := loadFixture(t)
	for kind, marks := range map[string]bool{"bert": true, "roberta": false, "unigram": false, "qwen": false, "byte_fallback": false} {
		tokenizer := open(t, kind)
		words := tokenizer.Words(nil)
		var enc Encoding
		for _, text := range f.Texts {
			if text == "" {
				continue
			}
			for _, side := range []Side{Right, Left} {
				options := Options{AddSpecial: true, MaxLength: 12, Truncate: true, Side: side, Offsets: true}
				require.NoError(t, tokenizer.Encode(Input{Text: text}, options, &enc))
				inside := words.Inside(text, &enc, nil)
				require.Len(t, inside, len(enc.IDs))
				sentence := []rune(text)
				for k, id := range enc.IDs {
					if enc.Special[k] != 0 {
						continue
					}
					start, end := int(enc.Starts[k]), int(enc.Ends[k])
					want := start > 0 && !slices.Contains(sentence[start-1:min(start+1, len(sentence))], ' ')
					if marks {
						want = utf8.RuneCountInString(tokenizer.Piece(id)) != len(sentence[start:end])
					}
					require.Equal(t, want && int64(id) != words.unknown, inside[k], "%s: %q, token %d", kind, text, k)
				}
			}
		}
	}
}

func TestUnknownToken(t *testing.T) {
	for kind, want := range map[string]string{"bert": "[UNK]", "unigram": "<unk>", "plain": "<unk>", "roberta": "", "qwen": ""} {
		tokenizer := open(t, kind)
		id, ok := tokenizer.Token(want)
		own := tokenizer.Words(nil).unknown
		require.Equal(t, want != "", own >= 0, kind)
		require.True(t, own < 0 || ok && own == int64(id), kind)
		none, other := "", "no such token"
		require.EqualValues(t, -1, tokenizer.Words(&none).unknown)
		require.EqualValues(t, -1, tokenizer.Words(&other).unknown)
	}
}
