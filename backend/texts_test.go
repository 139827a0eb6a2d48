package backend

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// openTokenizer opens the mock with a tiny model's tokenizer.
func openTokenizer(t testing.TB, change func(*Config)) *Backend {
	return openMock(t, func(c *Config) {
		c.Model, c.Mock.VocabSize = modelFolder("bert-mean"), 0
		if change != nil {
			change(c)
		}
	})
}

// idsOf tokenizes one text.
func idsOf(t testing.TB, b *Backend, text Text, o CallOptions) []uint32 {
	t.Helper()
	result := &Result{}
	require.NoError(t, b.Tokenize(background, []Text{text}, o, Output{Result: result}))
	return result.Items[0].Tokens.IDs
}

const sentence = "the token and the text, 10 of 12"

func TestEmbedTextsIsEmbedOfTheTokens(t *testing.T) {
	b := openTokenizer(t, nil)
	require.True(t, b.Info().HasTokenizer)
	require.EqualValues(t, b.tokenizer.VocabSize(), b.Info().VocabSize)
	texts := []Text{{Text: sentence}, {Text: "a"}, {Text: "do", Outputs: engine.Pooled | engine.TokenVectors | TokensOutput}, {Text: "te", Outputs: engine.Sparse}}
	rows, result := rowsFor(b, 4), &Result{}
	require.NoError(t, b.EmbedTexts(background, texts, CallOptions{}, Output{Rows: rows, Result: result}))
	tokens := 0
	for i, text := range texts {
		ids := idsOf(t, b, text, CallOptions{Truncate: On})
		tokens += len(ids)
		want := reference(t, b, ids)
		if i < 3 {
			requireClose(t, normalized(want.Pooled, 8), rows[i*8:(i+1)*8], 1e-7)
		} else {
			require.Equal(t, slices.Repeat([]float32{-99}, 8), rows[i*8:])
			require.NotEmpty(t, result.Items[i].SparseIDs)
			require.True(t, slices.IsSorted(result.Items[i].SparseIDs))
		}
		if i == 2 {
			require.Equal(t, want.TokenVectors, result.Items[i].TokenVectors)
			require.Equal(t, ids, result.Items[i].Tokens.IDs)
			require.Len(t, result.Items[i].Tokens.Starts, len(ids))
			require.Len(t, result.Items[i].Tokens.PieceOffsets, len(ids)+1)
		} else {
			require.Nil(t, result.Items[i].Tokens)
		}
	}
	require.Equal(t, tokens, result.Stats.Tokens)
	require.Positive(t, result.Stats.Prepare)

	// Many texts at once, from many callers: the same rows.
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			many := slices.Repeat([]Text{texts[0], texts[1]}, 50)
			again := rowsFor(b, 100)
			require.NoError(t, b.EmbedTexts(background, many, CallOptions{}, Output{Rows: again}))
			for i := range many {
				require.Equal(t, rows[i%2*8:i%2*8+8], again[i*8:i*8+8])
			}
		})
	}
	calls.Wait()
}

func TestBadTextsAreItems(t *testing.T) {
	b := openTokenizer(t, nil)
	texts := []Text{{Text: "a"}, {Text: ""}, {Text: "a\x00b"}, {Text: "a\xffb"}, {Text: "a", Outputs: TokensOutput}, {Text: "z"}}
	codes, result := make([]status.Code, len(texts)), &Result{}
	require.NoError(t, b.EmbedTexts(background, texts, CallOptions{}, Output{Rows: rowsFor(b, len(texts)), Status: codes, Result: result}))
	require.Equal(t, []status.Code{status.OK, status.Empty, status.NulByte, status.InvalidUTF8, status.InvalidArgument, status.OK}, codes)
	for i, item := range result.Items {
		require.Equal(t, codes[i] == status.OK, item.Message == "", "%d: %s", i, item.Message)
	}
	requireCode(t, status.Empty, b.EmbedTexts(background, texts[:4], CallOptions{}, Output{Rows: rowsFor(b, 4)}), "item 1")

	requireCode(t, status.InvalidArgument, b.EmbedTexts(background, texts[:1], CallOptions{AddSpecialTokens: Off}, Output{Rows: rowsFor(b, 1)}), "add_special_tokens")
	requireCode(t, status.InvalidArgument, b.EmbedTexts(background, texts[:1], CallOptions{PromptName: "query"}, Output{Rows: rowsFor(b, 1)}),
		`prompt_name "query" is none of the model's prompts: it has none`)
	requireCode(t, status.InvalidArgument, b.EmbedTexts(background, texts[4:5], CallOptions{}, Output{Rows: rowsFor(b, 1)}), "a result is needed")
	requireCode(t, status.BufferTooSmall, b.EmbedTexts(background, texts[:2], CallOptions{}, Output{Rows: rowsFor(b, 1)}), "2 items x 8 need 16")
	requireCode(t, status.InvalidArgument, b.EmbedTexts(background, make([]Text, 65537), CallOptions{}, Output{}), "65537 items")
	require.NoError(t, b.EmbedTexts(background, nil, CallOptions{}, Output{}))
}

func TestTruncation(t *testing.T) {
	long := Text{Text: strings.Repeat("the text ", 50)}
	no := false
	for _, c := range []struct {
		config *bool
		call   Switch
		want   status.Code
	}{{nil, Default, status.OK}, {nil, Off, status.TooLong}, {nil, On, status.OK}, {&no, Default, status.TooLong}, {&no, On, status.OK}} {
		b := openTokenizer(t, func(config *Config) { config.Truncate = c.config })
		err := b.EmbedTexts(background, []Text{long}, CallOptions{Truncate: c.call}, Output{Rows: rowsFor(b, 1)})
		require.Equal(t, c.want, status.CodeOf(err), "%v", err)
	}

	numbered := Text{Text: "0 1 2 3 0 1 2 3 0 1 2 3 0 1 2 3 0 1 2 3"}
	right, left := openTokenizer(t, nil), openTokenizer(t, func(c *Config) { c.TruncationSide = "left" })
	whole := idsOf(t, right, numbered, CallOptions{})
	require.Len(t, whole, 22, "tokenize does not cut by default")
	head := append(slices.Clone(whole[:15]), whole[21])
	tail := append(slices.Clone(whole[:1]), whole[7:]...)
	require.Equal(t, head, idsOf(t, right, numbered, CallOptions{Truncate: On}))
	require.Equal(t, tail, idsOf(t, right, numbered, CallOptions{Truncate: On, TruncationSide: SideLeft}))
	require.Equal(t, tail, idsOf(t, left, numbered, CallOptions{Truncate: On}))
	require.Equal(t, head, idsOf(t, left, numbered, CallOptions{Truncate: On, TruncationSide: SideRight}))

	// Of a folder that says left, unless an option or the call says otherwise.
	folder := t.TempDir()
	require.NoError(t, os.CopyFS(folder, os.DirFS(modelFolder("bert-mean"))))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "tokenizer_config.json"), []byte(`{"truncation_side": "left"}`), 0o600))
	files := openTokenizer(t, func(c *Config) { c.Model = folder })
	require.Equal(t, tail, idsOf(t, files, numbered, CallOptions{Truncate: On}))
	require.Equal(t, head, idsOf(t, files, numbered, CallOptions{Truncate: On, TruncationSide: SideRight}))
	option := openTokenizer(t, func(c *Config) { c.Model, c.TruncationSide = folder, "right" })
	require.Equal(t, head, idsOf(t, option, numbered, CallOptions{Truncate: On}))
}

func TestPrompts(t *testing.T) {
	b := openTokenizer(t, func(c *Config) { c.DefaultPrompt = "do: " })
	bare := openTokenizer(t, nil)
	require.Equal(t, idsOf(t, bare, Text{Text: "do: " + sentence}, CallOptions{}), idsOf(t, b, Text{Text: sentence}, CallOptions{}))

	// A pair leaves the default prompt out, and refuses one by name.
	pair := Text{Text: "the", Pair: "text", HasPair: true}
	require.Equal(t, idsOf(t, bare, pair, CallOptions{}), idsOf(t, b, pair, CallOptions{}))

	c := onnxConfig("bert-prompts-new-files")
	real := open(t, c)
	require.Equal(t, "Where is: ", real.prompt, "the model's default")
	query := idsOf(t, real, Text{Text: "the text"}, CallOptions{PromptName: "query"})
	require.Equal(t, idsOf(t, real, Text{Text: "Where is: the text"}, CallOptions{PromptName: "document"}), query)
	require.Equal(t, query, idsOf(t, real, Text{Text: "the text"}, CallOptions{}))
	out := Output{Rows: rowsFor(real, 1), Result: &Result{}}
	requireCode(t, status.InvalidArgument, real.EmbedTexts(background, []Text{{Text: "a"}}, CallOptions{PromptName: "q"}, out),
		`prompt_name "q" is none of the model's prompts: it has document, query`)
	requireCode(t, status.InvalidArgument, real.EmbedTexts(background, []Text{pair}, CallOptions{PromptName: "query"}, out), "item 0 is a pair, and prompt_name is \"query\"")
	requireCode(t, status.InvalidArgument, real.Tokenize(background, []Text{pair}, CallOptions{PromptName: "query"}, out), "item 0")
	requireCode(t, status.InvalidArgument, real.Tokenize(background, []Text{pair}, CallOptions{PromptName: "q"}, out), "it has document, query")

	c.DefaultPromptName = "document"
	require.Empty(t, open(t, c).prompt)
	c.DefaultPromptName = "q"
	_, err := Open(background, c)
	requireCode(t, status.InvalidArgument, err, "it has document, query")
}

func TestPredictTexts(t *testing.T) {
	b := openTokenizer(t, func(c *Config) { c.Mock.Kind, c.Mock.Labels = mock.Classifier, 1 })
	rows := rowsFor(b, 2)
	texts := []Text{{Text: "the", Pair: "text", HasPair: true}, {Text: "the"}}
	require.NoError(t, b.PredictTexts(background, texts, CallOptions{}, Output{Rows: rows}))
	require.Equal(t, reference(t, b, idsOf(t, b, texts[1], CallOptions{})).Pooled[0], rows[1])
	require.NotEqual(t, rows[0], rows[1])
	texts[1].Outputs = engine.TokenVectors
	requireCode(t, status.InvalidArgument, b.PredictTexts(background, texts, CallOptions{}, Output{Rows: rows, Result: &Result{}}), "token vectors")
}

func TestTokenizeAndDecode(t *testing.T) {
	b := openTokenizer(t, nil)
	result := &Result{}
	codes := make([]status.Code, 4)
	texts := []Text{{Text: sentence}, {Text: "a\xff"}, {Text: ""}, {Text: "the", Pair: "text", HasPair: true}}
	require.NoError(t, b.Tokenize(background, texts, CallOptions{}, Output{Result: result, Status: codes}))
	require.Equal(t, []status.Code{status.OK, status.InvalidUTF8, status.Empty, status.OK}, codes)
	tokens := result.Items[0].Tokens
	n := len(tokens.IDs)
	for k := range n {
		piece := string(tokens.Pieces[tokens.PieceOffsets[k]:tokens.PieceOffsets[k+1]])
		require.Equal(t, b.tokenizer.Piece(tokens.IDs[k]), piece)
		if tokens.Special[k] == 0 {
			require.Equal(t, sentence[tokens.Starts[k]:tokens.Ends[k]], strings.TrimPrefix(piece, "##"))
		}
	}
	require.Contains(t, result.Items[3].Tokens.Sequence, uint8(1))
	require.Len(t, idsOf(t, b, texts[0], CallOptions{AddSpecialTokens: Off}), n-2)

	decoded := &Result{}
	ids := append(slices.Clone(tokens.IDs), 1<<31)
	cu := []uint32{0, uint32(n), uint32(n), uint32(n + 1)}
	codes = make([]status.Code, 3)
	require.NoError(t, b.Decode(background, ids, cu, CallOptions{}, Output{Result: decoded, Status: codes}))
	require.Equal(t, []status.Code{status.OK, status.OK, status.TokenOutOfRange}, codes)
	require.Equal(t, "the token and the text, 10 of 12", decoded.Items[0].Text)
	require.Empty(t, decoded.Items[2].Text)
	require.NoError(t, b.Decode(background, tokens.IDs, []uint32{0, uint32(n)}, CallOptions{SkipSpecialTokens: Off}, Output{Result: decoded}))
	require.Contains(t, decoded.Items[0].Text, "[CLS]")

	for want, cu := range map[string][]uint32{
		"cumulative_lengths must begin with 0 and end with ids_size": nil,
		"end with ids_size, ": {0, 5},
		"begin with 0":        {1, uint32(len(ids))},
		"cumulative_lengths[2] is 1, below the value before it, 3": {0, 3, 1, uint32(len(ids))},
	} {
		requireCode(t, status.InvalidArgument, b.Decode(background, ids, cu, CallOptions{}, Output{Result: decoded}), want)
	}
	requireCode(t, status.InvalidArgument, b.Decode(background, nil, []uint32{0}, CallOptions{}, Output{}), "decode: a result is needed")
	requireCode(t, status.InvalidArgument, b.Tokenize(background, make([]Text, 65537), CallOptions{}, Output{Result: decoded}), "65537 items")
	requireCode(t, status.BufferTooSmall, b.Tokenize(background, texts, CallOptions{}, Output{Result: decoded, Status: codes[:1]}), "room for 1 items")
	require.NoError(t, b.Tokenize(background, nil, CallOptions{}, Output{Result: decoded}))
}

func TestTokenizeEndsWithItsContext(t *testing.T) {
	b := openTokenizer(t, nil)
	ctx, cancel := context.WithCancel(background)
	cancel()
	codes := make([]status.Code, 3)
	texts := make([]Text, 3)
	requireCode(t, status.Cancelled, b.Tokenize(ctx, texts, CallOptions{}, Output{Result: &Result{}, Status: codes}), "cancelled")
	require.Equal(t, make([]status.Code, 3), codes)
	requireCode(t, status.Timeout, b.Tokenize(background, slices.Repeat([]Text{{Text: strings.Repeat(sentence, 100)}}, 1000), CallOptions{Timeout: time.Millisecond},
		Output{Result: &Result{}}), "timeout passed")
}

// TestCloseLetsTokenizeFinish: a call under way has the time that Close gives, and a new one is refused at once.
func TestCloseLetsTokenizeFinish(t *testing.T) {
	for _, patience := range []time.Duration{time.Minute, time.Millisecond} {
		c := mockConfig()
		c.Model, c.Mock.VocabSize = modelFolder("bert-mean"), 0
		b, err := Open(background, c)
		require.NoError(t, err)
		texts := slices.Repeat([]Text{{Text: strings.Repeat(sentence, 20)}}, 2000)
		codes, result := make([]status.Code, len(texts)), &Result{}
		called := make(chan error)
		go func() { called <- b.Tokenize(background, texts, CallOptions{}, Output{Result: result, Status: codes}) }()
		require.Eventually(t, func() bool {
			if b.tokenizerUse.TryLock() {
				b.tokenizerUse.Unlock()
				return false
			}
			return true
		}, time.Minute, 100*time.Microsecond)
		time.Sleep(5 * time.Millisecond) // some items are done
		ctx, cancel := context.WithTimeout(background, patience)
		closed := make(chan error)
		go func() { closed <- b.Close(ctx) }()
		require.Eventually(t, b.closed.Load, time.Minute, 100*time.Microsecond)
		requireCode(t, status.ShutDown, b.Tokenize(background, texts[:1], CallOptions{}, Output{Result: &Result{}}), "shut down")
		want, end := status.OK, status.OK
		if patience < time.Minute {
			want, end = status.ShutDown, status.Timeout
		}
		require.NoError(t, <-called)
		require.Equal(t, status.OK, codes[0])
		require.Equal(t, want, codes[len(codes)-1])
		requireCode(t, end, <-closed, "")
		require.Less(t, result.Stats.Prepare, result.Stats.Total, "the longest item, not all of them")
		cancel()
	}
}

func TestNoTokenizer(t *testing.T) {
	b := openMock(t, nil)
	out := Output{Rows: rowsFor(b, 1), Result: &Result{}}
	requireCode(t, status.Unsupported, b.EmbedTexts(background, []Text{{Text: "a"}}, CallOptions{}, out), "texts: this backend has no tokenizer")
	requireCode(t, status.Unsupported, b.Tokenize(background, []Text{{Text: "a"}}, CallOptions{}, out), "this backend has no tokenizer")
	requireCode(t, status.Unsupported, b.Decode(background, []uint32{1}, []uint32{0, 1}, CallOptions{}, out), "decode: this backend has no tokenizer")
}

// TestCloseDuringTokenize: Close waits for those who use the tokenizer, and they stop.
func TestCloseDuringTokenize(t *testing.T) {
	c := mockConfig()
	c.Model, c.Mock.VocabSize = modelFolder("bert-mean"), 0
	b, err := Open(background, c)
	require.NoError(t, err)
	texts := slices.Repeat([]Text{{Text: sentence}}, 20_000)
	codes := make([]status.Code, len(texts))
	var calls sync.WaitGroup
	result := &Result{}
	calls.Go(func() {
		if err := b.Tokenize(background, texts, CallOptions{}, Output{Result: result, Status: codes}); err != nil {
			require.Equal(t, status.ShutDown, status.CodeOf(err))
		}
	})
	calls.Go(func() {
		err := b.EmbedTexts(background, texts, CallOptions{}, Output{Rows: rowsFor(b, len(texts)), Status: make([]status.Code, len(texts))})
		if err != nil {
			require.Equal(t, status.ShutDown, status.CodeOf(err))
		}
	})
	time.Sleep(3 * time.Millisecond)
	ended, cancel := context.WithCancel(background)
	cancel()
	if err := b.Close(ended); err != nil {
		require.Equal(t, status.Timeout, status.CodeOf(err))
	}
	calls.Wait()
	for _, code := range codes {
		require.Contains(t, []status.Code{status.OK, status.ShutDown}, code)
	}
	requireShutDown(t, b)
}

// TestRealModels covers what only a model has: families, heads, labels, prompts, weights.
func TestRealModels(t *testing.T) {
	for _, c := range []struct {
		folder  string
		kind    ModelType
		pooling Pooling
		info    map[string]any
	}{
		{"bert-mean", ModelEmbedding, PoolingMean, map[string]any{"family": "bert", "pooling": []any{"mean"}, "engine": "onnxruntime", "engine_choice": "asked for"}},
		{"bert-cls-dense", ModelEmbedding, PoolingCLS, nil},
		{"bert-lasttoken-bf16", ModelEmbedding, PoolingLastToken, nil},
		{"bert-joined-dense", ModelEmbedding, PoolingOther, nil},
		{"bert-sqrt", ModelEmbedding, PoolingOther, nil},
		{"bert-classifier", ModelClassifier, PoolingNone, nil},
		{"bert-reranker", ModelClassifier, PoolingNone, nil},
		{"bert-token-classifier", ModelTokenClassifier, PoolingNone, nil},
		{"bert-prompts-new-files", ModelEmbedding, PoolingMean, map[string]any{"default_prompt": "Where is: ", "has_tokenizer": true}},
	} {
		b := open(t, onnxConfig(c.folder))
		require.Equal(t, c.kind, b.Info().ModelType, c.folder)
		if c.kind == ModelEmbedding {
			require.Equal(t, c.pooling, b.Info().Pooling, c.folder)
		} else {
			require.NotZero(t, b.Info().Labels, c.folder)
			require.False(t, b.Info().Normalizes, c.folder)
		}
		require.NoError(t, b.Health(background, true, CallOptions{}), c.folder)
		text, err := b.InfoJSON()
		require.NoError(t, err)
		var info map[string]any
		require.NoError(t, json.Unmarshal(text, &info))
		for key, want := range c.info {
			require.Equal(t, want, info[key], "%s: %s", c.folder, key)
		}
		require.NotZero(t, info["weights_bytes"])
		require.NotEmpty(t, info["weights_fingerprint"])
		require.EqualValues(t, b.Info().MaxLength, info["max_length"])
		// The position ids of the model are known, so that they are checked.
		batch := packed([]uint32{1})
		batch.PositionIDs = []uint32{40}
		if c.kind == ModelEmbedding {
			requireCode(t, status.TokenOutOfRange, b.Embed(background, batch, CallOptions{}, Output{Rows: rowsFor(b, 1)}), "the limit is 39 (max_position_embeddings)")
		}
	}

	cls := onnxConfig("bert-mean")
	cls.Pooling = "cls"
	require.Equal(t, PoolingCLS, open(t, cls).Info().Pooling, "the option overrides the model")
	require.Equal(t, PoolingSplade, poolingOf(arch.Head{Kind: arch.HeadSparse}))
}

// TestExcludedPrompts: a model that leaves its prompt out of pooling gives other vectors than one that does not.
func TestExcludedPrompts(t *testing.T) {
	c := onnxConfig("bert-prompts-new-files")
	copied := t.TempDir()
	require.NoError(t, os.CopyFS(copied, os.DirFS(c.Model)))
	require.NoError(t, os.WriteFile(filepath.Join(copied, "1_Pooling", "config.json"),
		[]byte(`{"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": false}`), 0o600))
	included := open(t, c)
	c.Model = copied
	excluded := open(t, c)
	embed := func(b *Backend, prompt string) []float32 {
		rows := rowsFor(b, 1)
		require.NoError(t, b.EmbedTexts(background, []Text{{Text: "the text"}}, CallOptions{PromptName: prompt}, Output{Rows: rows}))
		return rows
	}
	require.NotEqual(t, embed(included, "query"), embed(excluded, "query"))
	require.Equal(t, embed(included, "document"), embed(excluded, "document"), "an empty prompt")
}

// TestTextsBeyondTheModel: what a tokenizer file gives is checked like a caller's tokens.
func TestTextsBeyondTheModel(t *testing.T) {
	folder := t.TempDir()
	text, err := os.ReadFile(filepath.Join(modelFolder("bert-mean"), "tokenizer.json"))
	require.NoError(t, err)
	var file map[string]any
	require.NoError(t, json.Unmarshal(text, &file))
	file["post_processor"] = nil // so that no special token is added
	text, err = json.Marshal(file)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "tokenizer.json"), text, 0o600))
	bare := openTokenizer(t, func(c *Config) { c.Model = folder })
	codes, rows := make([]status.Code, 3), rowsFor(bare, 3)
	texts := []Text{{Text: " \t "}, {Text: "the"}, {Text: " ", Outputs: engine.TokenVectors}}
	require.NoError(t, bare.EmbedTexts(background, texts, CallOptions{}, Output{Rows: rows, Status: codes, Result: &Result{}}))
	require.Equal(t, []status.Code{status.Empty, status.OK, status.OK}, codes, "no token, so no vector; no token, so no token vectors")
	require.Equal(t, slices.Repeat([]float32{-99}, 8), rows[:8])

	oneType := openTokenizer(t, func(c *Config) { c.Mock.TypeVocab = 1 })
	pair := []Text{{Text: "the", Pair: "text", HasPair: true}}
	requireCode(t, status.TokenOutOfRange, oneType.EmbedTexts(background, pair, CallOptions{}, Output{Rows: rowsFor(oneType, 1)}), "token_type_ids[3] is 1, the limit is 0 (type_vocab_size)")
}
