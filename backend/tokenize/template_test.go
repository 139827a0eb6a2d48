package tokenize

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestPairTemplate(t *testing.T) {
	tokenizer, err := Open(kindDir("qwen"), false, arch.TokenizerConfig{})
	require.NoError(t, err)
	defer tokenizer.Close()
	source := &arch.PairTemplate{
		Parts:  []arch.TemplatePart{{Text: "<|im_start|>", Slot: arch.SlotInstruction}, {Text: "\nQ: ", Slot: arch.SlotQuery}, {Text: " D: ", Slot: arch.SlotDocument}},
		Suffix: "<|im_end|>\nsay", Instruction: "rank",
	}
	template, err := tokenizer.NewPairTemplate(source)
	require.NoError(t, err)
	require.True(t, template.HasInstruction())

	ids := func(text string, o Options) []uint32 {
		var e Encoding
		require.NoError(t, tokenizer.Encode(Input{Text: text}, o, &e))
		return e.IDs
	}
	encode := func(in Input, o Options) Encoding {
		var e Encoding
		in.HasPair, in.Template = true, template
		require.NoError(t, tokenizer.Encode(in, o, &e))
		return e
	}
	pair := Input{Text: "the dog", Pair: "café 🙂 the river"}
	const body, tail = "<|im_start|>rank\nQ: the dog D: café 🙂 the river", "<|im_end|>\nsay"

	// The text as a whole, without the post-processor's special tokens.
	whole := ids(body+tail, Options{})
	e := encode(pair, Options{AddSpecial: true, Offsets: true})
	require.Equal(t, whole, e.IDs)
	suffix := len(ids(tail, Options{}))
	text := []rune(body)
	for i := range e.IDs {
		if i >= len(e.IDs)-suffix {
			require.Equal(t, []uint32{1, NoSequence, 0, 0}, []uint32{uint32(e.Special[i]), uint32(e.Sequence[i]), e.Starts[i], e.Ends[i]})
			continue
		}
		require.Zero(t, e.Sequence[i])
		require.LessOrEqual(t, int(e.Ends[i]), len(text))
	}
	require.Zero(t, e.PromptTokens)
	require.Equal(t, len(text), int(e.Ends[len(e.IDs)-suffix-1]))

	// An instruction of the call's.
	pair.Prompt = "find"
	require.Equal(t, ids("<|im_start|>find\nQ: the dog D: café 🙂 the river"+tail, Options{}), encode(pair, Options{AddSpecial: true}).IDs)
	pair.Prompt = ""

	// What is cut off stands before the suffix.
	right := encode(pair, Options{AddSpecial: true, MaxLength: 12, Truncate: true}).IDs
	require.Equal(t, append(append([]uint32(nil), whole[:12-suffix]...), whole[len(whole)-suffix:]...), right)
	left := encode(pair, Options{AddSpecial: true, MaxLength: 12, Truncate: true, Side: Left}).IDs
	require.Equal(t, whole[len(whole)-12:], left)
	var none Encoding
	err = tokenizer.Encode(Input{Text: "a", Pair: "b", HasPair: true, Template: template}, Options{AddSpecial: true, MaxLength: 12}, &none)
	require.Equal(t, status.TooLong, status.CodeOf(err))
	err = tokenizer.Encode(Input{Text: "a", Pair: "b", HasPair: true, Template: template}, Options{AddSpecial: true, MaxLength: 2, Truncate: true}, &none)
	require.ErrorContains(t, err, "the special tokens alone are")

	// Without a suffix, and without an instruction.
	source = &arch.PairTemplate{Parts: source.Parts[1:]}
	template, err = tokenizer.NewPairTemplate(source)
	require.NoError(t, err)
	require.False(t, template.HasInstruction())
	require.Equal(t, ids("\nQ: the dog D: café 🙂 the river", Options{}), encode(pair, Options{AddSpecial: true}).IDs)

	for suffix, want := range map[string]string{
		"\nsay":          `the reranker's template ends with "\nsay"; it must begin with a special token of tokenizer.json`,
		" <|im_end|>":    "it must begin with a special token",
		"<|im_end|>\xff": "suffix is not UTF-8",
	} {
		_, err := tokenizer.NewPairTemplate(&arch.PairTemplate{Parts: source.Parts, Suffix: suffix})
		require.ErrorContains(t, err, want)
	}

	id, ok := tokenizer.Token("<|im_end|>")
	require.True(t, ok)
	require.EqualValues(t, 2, id)
	_, ok = tokenizer.Token("no such token")
	require.False(t, ok)
}
