package backend

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/vectors"
)

// spanGolden is what golden.json has of parts of texts: [start, end, vector] of each.
type spanGolden struct {
	Name  string
	Dim   int
	Items []struct {
		Text       string
		Pair       *string
		PromptName string `json:"prompt_name"`
	}
	Spans [][][3]json.RawMessage
}

func decode(t *testing.T, raw json.RawMessage, to any) {
	t.Helper()
	require.NoError(t, json.Unmarshal(raw, to))
}

// TestSpansAreTransformers holds vectors of parts of texts to transformers' hidden states: WordPiece, byte-level BPE and Unigram, four
// poolings, with and without prompts; each text alone and all in one call.
func TestSpansAreTransformers(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "models", "*", "golden.json"))
	require.NoError(t, err)
	models := 0
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		if !strings.Contains(string(text), "\n \"spans\":") {
			continue
		}
		models++
		var golden spanGolden
		require.NoError(t, json.Unmarshal(text, &golden))
		t.Run(golden.Name, func(t *testing.T) { golden.check(t, open(t, onnxConfig(golden.Name))) })
	}
	require.Equal(t, 5, models)
}

func (g *spanGolden) check(t *testing.T, b *Backend) {
	texts, spans, cumulative := []Text(nil), []Span(nil), []uint32{0}
	var want [][]float32
	item := 0
	for _, it := range g.Items {
		if it.Pair != nil {
			continue
		}
		first := len(spans)
		for _, s := range g.Spans[item] {
			var span Span
			var row []float32
			decode(t, s[0], &span.Start)
			decode(t, s[1], &span.End)
			decode(t, s[2], &row)
			spans, want = append(spans, span), append(want, row)
		}
		item++
		n := uint32(len(spans) - first)
		alone := g.embed(t, b, []Text{{Text: it.Text}}, spans[first:], []uint32{0, n}, CallOptions{PromptName: it.PromptName})
		for k, row := range alone {
			require.InDeltaSlice(t, want[first+k], row, 2e-5, "%q, span %v", it.Text, spans[first+k])
		}
		if it.PromptName != "" {
			spans, want = spans[:first], want[:first]
			continue
		}
		texts, cumulative = append(texts, Text{Text: it.Text}), append(cumulative, uint32(len(spans)))
	}
	for k, row := range g.embed(t, b, texts, spans, cumulative, CallOptions{}) {
		require.InDeltaSlice(t, want[k], row, 2e-5, "span %d of all", k)
	}
}

func (g *spanGolden) embed(t *testing.T, b *Backend, texts []Text, spans []Span, cumulative []uint32, o CallOptions) (rows [][]float32) {
	t.Helper()
	all := make([]float32, len(spans)*g.Dim)
	require.NoError(t, b.EmbedSpans(background, texts, spans, cumulative, o, Output{Rows: all}))
	for ; len(all) > 0; all = all[g.Dim:] {
		rows = append(rows, all[:g.Dim])
	}
	return rows
}

func TestSpansOfTheWholeTextAndDimensions(t *testing.T) {
	b := open(t, onnxConfig("bert-mean"))
	text := []Text{{Text: "the quick brown fox"}}
	dim := int(b.Info().Dimensions)
	whole, short, rows := make([]float32, dim), make([]float32, 5), make([]float32, dim)
	one := []uint32{0, 1}
	require.NoError(t, b.EmbedSpans(background, text, []Span{{0, 19}}, one, CallOptions{Normalize: Off}, Output{Rows: whole}))
	require.NoError(t, b.EmbedSpans(background, text, []Span{{0, 19}}, one, CallOptions{Dimensions: 5}, Output{Rows: short}))
	vectors.Normalize(rows[:5], whole)
	require.InDeltaSlice(t, rows[:5], short, 1e-6)
	var result Result
	require.NoError(t, b.EmbedTexts(background, []Text{{Text: text[0].Text, Outputs: engine.TokenVectors}}, CallOptions{}, Output{Result: &result}))
	vectors := result.Items[0].TokenVectors
	mean := make([]float32, dim)
	for k, x := range vectors[dim : len(vectors)-dim] { // without [CLS] and [SEP]
		mean[k%dim] += x / float32(len(vectors)/dim-2)
	}
	require.InDeltaSlice(t, mean, whole, 1e-5)
}

func TestSpansAreRefused(t *testing.T) {
	b := open(t, onnxConfig("bert-mean"))
	dim := int(b.Info().Dimensions)
	texts := []Text{{Text: "été  today"}, {Text: strings.Repeat("fox ", 40)}}
	for want, spans := range map[string][]Span{
		"item 0: span 0 is [0, 11), but the text has 10 code points":                                 {{0, 11}, {0, 3}},
		"item 0: span 0 is [4294967294, 4294967295), but the text":                                   {{1<<32 - 2, 1<<32 - 1}, {0, 3}},
		"item 0: span 0 is [3, 3): it must end after its start":                                      {{3, 3}, {0, 3}},
		"item 0: span 0 is [5, 2): it must end after its start":                                      {{5, 2}, {0, 3}},
		"item 0: span 0, [3, 5), has no token: it is white space, a part of a token, or cut off":     {{3, 5}, {0, 3}},
		"item 1: span 1, [150, 160), has no token: it is white space, a part of a token, or cut off": {{0, 3}, {150, 160}},
	} {
		codes := make([]status.Code, 2)
		var result Result
		rows := make([]float32, 2*dim)
		require.NoError(t, b.EmbedSpans(background, texts, spans, []uint32{0, 1, 2}, CallOptions{Truncate: On}, Output{Rows: rows, Status: codes, Result: &result}))
		bad := 0
		if strings.HasPrefix(want, "item 1") {
			bad = 1
		}
		require.Contains(t, result.Items[bad].Message, want)
		require.NotEqual(t, status.OK, codes[bad])
		require.Equal(t, status.OK, codes[1-bad], "the other item is fine")
	}
	rows := make([]float32, 1000*dim)
	for _, bad := range []struct {
		code       status.Code
		want       string
		texts      []Text
		spans      []Span
		cumulative []uint32
		rows       []float32
	}{
		{status.InvalidArgument, "cumulative_spans must have 3 values, begin with 0 and end with num_spans, 1", texts, []Span{{0, 1}}, []uint32{0, 1}, rows},
		{status.InvalidArgument, "cumulative_spans[2] is 0, below the value before it, 1", append(texts, texts[0]), []Span{{0, 1}}, []uint32{0, 1, 0, 1}, rows},
		{status.InvalidArgument, "item 0 is a pair", []Text{{Text: "a", HasPair: true}}, []Span{{0, 1}}, []uint32{0, 1}, rows},
		{status.InvalidArgument, "outputs is 0x2", []Text{{Text: "a", Outputs: engine.TokenVectors}}, []Span{{0, 1}}, []uint32{0, 1}, rows},
		{status.BufferTooSmall, "the output buffer has 59 floats, 1 spans x 60 need 60", texts[:1], []Span{{0, 3}}, []uint32{0, 1}, rows[:59]},
		{status.InvalidArgument, "item 0 has no span", texts[:1], nil, []uint32{0, 0}, rows},
		{status.InvalidArgument, "65537 items are more than one call may have", texts[:1], make([]Span, 65537), []uint32{0, 65537}, rows},
		{status.InvalidArgument, "item 0: its spans up to 106 hold 321 tokens, the limit is 320: 64 times those of the item",
			[]Text{{Text: "été"}}, repeated(Span{0, 3}, 200), []uint32{0, 200}, rows},
	} {
		requireCode(t, bad.code, b.EmbedSpans(background, bad.texts, bad.spans, bad.cumulative, CallOptions{}, Output{Rows: bad.rows}), bad.want)
	}
	for folder, want := range map[string]string{
		"bge-m3":            "its token vectors are those of a head of their own",
		"bert-cls-dense":    "dense or LayerNorm modules follow its pooling",
		"distilbert-splade": "it has no pooled vectors",
		"bert-classifier":   "embed_spans needs a model of type embedding, this one is of type classifier",
	} {
		other := open(t, onnxConfig(folder))
		requireCode(t, status.Unsupported, other.EmbedSpans(background, texts[:1], []Span{{0, 3}}, []uint32{0, 1}, CallOptions{}, Output{Rows: rows}), want)
	}
}

func repeated(s Span, n int) []Span {
	spans := make([]Span, n)
	for i := range spans {
		spans[i] = s
	}
	return spans
}

func TestPoolTokens(t *testing.T) {
	rows := []float32{1, -1, 3, -2, 8, -6}
	for mode, want := range map[arch.PoolMode][]float32{
		arch.PoolCLS: {2, -1.5}, arch.PoolMean: {2, -1.5}, arch.PoolMax: {3, -1}, arch.PoolLastToken: {3, -2},
		arch.PoolMeanSqrtLen: {4 / 1.4142135, -3 / 1.4142135}, arch.PoolWeightedMean: {7. / 3, -5. / 3},
	} {
		got := make([]float32, 2)
		poolTokens(got, rows, []int{0, 1}, mode)
		require.InDeltaSlice(t, want, got, 1e-6, "%s", mode)
	}
}

// TestSpansOfNaN: a text whose token vectors are not finite gives no vector; the other texts do.
func TestSpansOfNaN(t *testing.T) {
	b := openTokenizer(t, withFaults(mock.Fault{Kind: mock.NaN, From: 3, Count: 1}))
	row, codes, result := make([]float32, b.Info().Dimensions), make([]status.Code, 1), new(Result)
	text, spans := []Text{{Text: "the dog"}}, []Span{{0, 3}}
	require.NoError(t, b.EmbedSpans(background, text, spans, []uint32{0, 1}, CallOptions{}, Output{Rows: row, Status: codes, Result: result}))
	require.Equal(t, []status.Code{status.NonFinite}, codes)
	require.Equal(t, "item 0: the model's output holds NaN or infinity", result.Items[0].Message)
	require.Equal(t, make([]float32, len(row)), row)
	require.NoError(t, b.EmbedSpans(background, text, spans, []uint32{0, 1}, CallOptions{}, Output{Rows: row, Status: codes, Result: result}))
	require.Equal(t, []status.Code{status.OK}, codes)
}
