package backend

import (
	"encoding/json"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

var aggregations = map[string]Aggregation{
	"none": AggregateNone, "simple": AggregateSimple, "first": AggregateFirst, "average": AggregateAverage, "max": AggregateMax,
}

// goldenEntity is one of entities.json: [label or group, score, start, end, index of the token], the last with "none" only.
type goldenEntity struct {
	name       string
	score      float64
	start, end uint32
	index      uint32
}

func (e *goldenEntity) UnmarshalJSON(raw []byte) error {
	fields := []any{&e.name, &e.score, &e.start, &e.end, &e.index}
	return json.Unmarshal(raw, &fields)
}

// TestEntitiesAreThoseOfTransformers holds token classifiers to transformers' TokenClassificationPipeline, over each kind of tokenizer.
func TestEntitiesAreThoseOfTransformers(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(modelFolder("*"), "entities.json"))
	require.NoError(t, err)
	require.Len(t, files, 5)
	for _, file := range files {
		var golden struct {
			Items []map[string]json.RawMessage
		}
		readJSON(t, file, &golden)
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			b := open(t, onnxConfig(name))
			var info infoDocument
			text, err := b.InfoJSON()
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(text, &info))
			for i, item := range golden.Items {
				var text, side string
				var ids []uint32
				for key, to := range map[string]any{"text": &text, "side": &side, "input_ids": &ids} {
					require.NoError(t, json.Unmarshal(item[key], to))
				}
				for key, aggregation := range aggregations {
					var want []goldenEntity
					require.NoError(t, json.Unmarshal(item[key], &want))
					options, result := CallOptions{Aggregation: aggregation, TruncationSide: map[string]Side{"right": SideRight, "left": SideLeft}[side]}, Result{}
					require.NoError(t, b.PredictTokensTexts(background, []Text{{Text: text}}, options, Output{Result: &result}))
					got := result.Items[0]
					require.Equal(t, ids, got.Tokens.IDs)
					require.Len(t, got.TokenVectors, len(ids)*len(info.Labels))
					require.Len(t, got.Entities, len(want), "item %d, %s: %q", i, key, text)
					names := info.EntityGroups
					if aggregation == AggregateNone {
						names = info.Labels
					}
					for k, e := range got.Entities {
						w := want[k]
						require.Equal(t, w.name, names[e.Label], "item %d, %s, entity %d", i, key, k)
						require.Equal(t, [2]uint32{w.start, w.end}, [2]uint32{e.Start, e.End}, "item %d, %s, entity %d", i, key, k)
						require.InDelta(t, w.score, e.Score, 1e-4, "item %d, %s, entity %d", i, key, k)
						require.Equal(t, e.Start, got.Tokens.Starts[e.Token])
						if aggregation == AggregateNone {
							require.Equal(t, w.index, e.Token)
						}
					}
				}
			}
		})
	}
}

// TestEntitiesOfManyTexts: beside other texts, some of which fail, each has its own.
func TestEntitiesOfManyTexts(t *testing.T) {
	b := open(t, onnxConfig("bert-entities"))
	texts := []Text{{Text: "the quick brown fox"}, {Text: ""}, {Text: "over the lazy dog", Outputs: engine.Pooled}, {Text: "\xff"}}
	codes, result := make([]status.Code, len(texts)), Result{}
	options := CallOptions{Aggregation: AggregateMax}
	require.NoError(t, b.PredictTokensTexts(background, texts, options, Output{Status: codes, Result: &result}))
	require.Equal(t, []status.Code{status.OK, status.Empty, status.OK, status.InvalidUTF8}, codes)
	for _, i := range []int{0, 2} {
		var alone Result
		require.NoError(t, b.PredictTokensTexts(background, texts[i:i+1], options, Output{Result: &alone}))
		require.NotEmpty(t, alone.Items[0].Entities)
		require.Len(t, result.Items[i].Entities, len(alone.Items[0].Entities))
		for k, e := range alone.Items[0].Entities {
			got := result.Items[i].Entities[k]
			require.InDelta(t, e.Score, got.Score, 1e-5)
			got.Score = e.Score
			require.Equal(t, e, got)
		}
	}
	require.Empty(t, result.Items[1].Entities)
}

func TestEntitiesRefuse(t *testing.T) {
	b := open(t, onnxConfig("bert-entities"))
	for _, c := range []struct {
		text    Text
		options CallOptions
		code    status.Code
		message string
	}{
		{Text{Text: "a", Pair: "b", HasPair: true}, CallOptions{}, status.InvalidArgument, "item 0 is a pair: entities are named in single texts"},
		{Text{Text: "a"}, CallOptions{Aggregation: 5}, status.InvalidArgument, "aggregation is 5; it must be 0 to 4"},
		{Text{Text: "a"}, CallOptions{Aggregation: -1}, status.InvalidArgument, "aggregation is -1"},
		{Text{Text: "a"}, CallOptions{AddSpecialTokens: Off}, status.InvalidArgument, "add_special_tokens"},
		{Text{Text: ""}, CallOptions{}, status.Empty, "item 0"},
	} {
		err := b.PredictTokensTexts(background, []Text{c.text}, c.options, Output{Result: &Result{}})
		requireCode(t, c.code, err, c.message)
	}
	err := b.PredictTokensTexts(background, []Text{{Text: "a"}}, CallOptions{}, Output{})
	requireCode(t, status.InvalidArgument, err, "a result is needed")
	err = open(t, onnxConfig("bert-mean")).PredictTokensTexts(background, []Text{{Text: "a"}}, CallOptions{}, Output{Result: &Result{}})
	requireCode(t, status.Unsupported, err, "needs a model of type token_classifier")

	// Room for the logits and the tokens, but not for the entities.
	b.config.Queue.MaxResultBytes = 800
	err = b.PredictTokensTexts(background, []Text{{Text: "the quick brown fox jumps over the lazy dog"}}, CallOptions{}, Output{Result: &Result{}})
	requireCode(t, status.Overloaded, err, "queue.max_result_bytes")
}

// TestEntitiesWithPrompts: offsets are in prompt and text, as those of tokens are.
func TestEntitiesWithPrompts(t *testing.T) {
	const prompt, text = "быстрая лисица: ", "the quick brown fox"
	plain := open(t, onnxConfig("bert-entities"))
	c := onnxConfig("bert-entities")
	c.DefaultPrompt = prompt
	prompted := open(t, c)
	var want, got Result
	options := CallOptions{Aggregation: AggregateFirst}
	require.NoError(t, plain.PredictTokensTexts(background, []Text{{Text: prompt + text}}, options, Output{Result: &want}))
	require.NoError(t, prompted.PredictTokensTexts(background, []Text{{Text: text}}, options, Output{Result: &got}))
	require.NotEmpty(t, want.Items[0].Entities)
	require.Equal(t, want.Items[0].Entities, got.Items[0].Entities)
}

func TestLabelNames(t *testing.T) {
	for name, want := range map[string]label{
		"O":        {tag: "O", group: "O", ignored: true},
		"B-PER":    {tag: "PER", group: "PER", begins: true},
		"I-PER":    {tag: "PER", group: "PER"},
		"PER":      {tag: "PER", group: "PER"},
		"B":        {tag: "B", group: "B"},
		"E-LOC":    {tag: "E-LOC", group: "LOC"},
		"B-first-": {tag: "first-", group: "first-", begins: true},
		"X-O":      {tag: "X-O", group: "O"},
		"":         {},
	} {
		require.Equal(t, want, newLabel(name), name)
	}
}
