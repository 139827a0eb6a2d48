package manifest

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

func text(s string) *string { return &s }

// sample is a valid manifest of three vectors.
func sample() *Manifest {
	query := 0
	return &Manifest{
		Model:              Model{Type: "embedding", Output: Pooled, Width: 2, Pooling: []string{"mean"}},
		WeightsFingerprint: strings.Repeat("a", 64),
		Files:              []File{{Name: "config.json", Bytes: 2, SHA256: strings.Repeat("0", 64)}},
		Reference:          &Identity{Engine: "onnxruntime", Precision: "float32"},
		Items: []Item{{Text: text("a"), Values: Floats{1, 0}}, {Text: text("b"), PromptName: "query", Values: Floats{0.8, 0.6}},
			{InputIDs: []uint32{1, 2}, TokenTypeIDs: []uint32{0, 1}, Values: Floats{0.6, 0.8}}},
		Rankings: []Ranking{{Query: &query, Order: []int{1, 2}}},
	}
}

func encode(t testing.TB, m *Manifest) []byte {
	t.Helper()
	m.Format, m.Version = format, version
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	return raw
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	dir, m := t.TempDir(), sample()
	require.NoError(t, m.Write(filepath.Join(dir, FileName)))
	read, err := Read(dir)
	require.NoError(t, err)
	require.Equal(t, m, read)
	require.NoError(t, schema.Compile())

	_, err = Read(t.TempDir())
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.Equal(t, status.Start, status.CodeOf(err))
	require.ErrorContains(t, err, "bei verify --write")

	m.Items[0].Values = Floats{1}
	require.ErrorContains(t, m.Write(filepath.Join(dir, FileName)), "items.0: reference has 1 numbers; the width is 2")
	left, err := Read(dir)
	require.NoError(t, err)
	require.Equal(t, read, left, "the older file stays")
}

// TestDamagedFiles: each error names the key, its value and the limit, and does not repeat the file.
func TestDamagedFiles(t *testing.T) {
	one := 1
	for want, damage := range map[string]func(*Manifest){
		"items.0: reference has 3 numbers; the width is 2":                    func(m *Manifest) { m.Items[0].Values = Floats{1, 2, 3} },
		"items.0: it must have either text or input_ids":                      func(m *Manifest) { m.Items[0].Text = nil },
		"items.1: it must have either text or input_ids":                      func(m *Manifest) { m.Items[1].InputIDs = []uint32{1} },
		"items.2: token_type_ids has 1 values, input_ids has 2":               func(m *Manifest) { m.Items[2].TokenTypeIDs = []uint32{1} },
		"items.2: pair and prompt_name are for texts":                         func(m *Manifest) { m.Items[2].PromptName = "query" },
		"items.1: token_type_ids are for input_ids":                           func(m *Manifest) { m.Items[1].TokenTypeIDs = []uint32{1} },
		`items.0: indices are for output "sparse"; this is "pooled"`:          func(m *Manifest) { m.Items[0].Indices = Uints{1, 2} },
		`model.output is "logits"; a model of type "embedding" has`:           func(m *Manifest) { m.Model.Output = Logits },
		"model.width: minimum: got 0, want 1":                                 func(m *Manifest) { m.Model.Width = 0 },
		"model.width: maximum: got 1.07":                                      func(m *Manifest) { m.Model.Width = 1 << 30 },
		"items: minItems: got 0, want 1":                                      func(m *Manifest) { m.Items = []Item{} },
		"items: maxItems: got 1,025, want 1,024":                              func(m *Manifest) { m.Items = append(make([]Item, 0), many(m.Items[0], 1025)...) },
		`files.0.name is "../config.json"; it must be a plain path`:           func(m *Manifest) { m.Files[0].Name = "../config.json" },
		`files.0.name is "/etc/passwd"; it must be a plain path`:              func(m *Manifest) { m.Files[0].Name = "/etc/passwd" },
		`files.1.name is "config.json" for the second time`:                   func(m *Manifest) { m.Files = append(m.Files, m.Files[0]) },
		"files.0.bytes: minimum: got -1, want 0":                              func(m *Manifest) { m.Files[0].Bytes = -1 },
		"files.0.sha256: 'xyz' does not match pattern":                        func(m *Manifest) { m.Files[0].SHA256 = "xyz" },
		"rankings.0: query is missing":                                        func(m *Manifest) { m.Rankings[0].Query = nil },
		"rankings.0: order.1 is 1; it must be an item below 3, once":          func(m *Manifest) { m.Rankings[0].Order = []int{1, 1} },
		"rankings.0: order.1 is 3; it must be an item below 3":                func(m *Manifest) { m.Rankings[0].Order = []int{1, 3} },
		"rankings.0: order.0 is 1; it must be an item below 3, once, and not": func(m *Manifest) { m.Rankings[0].Query = &one },
		"rankings.0: order.1: item 1 has the reference score 0.79999":         func(m *Manifest) { m.Rankings[0].Order = []int{2, 1} },
		"thresholds.float16.min_cosine: maximum: got 2, want 1":               func(m *Manifest) { two := 2.0; m.Thresholds = map[string]Override{"float16": {MinCosine: &two}} },
		"thresholds: additional properties 'float4' not allowed":              func(m *Manifest) { m.Thresholds = map[string]Override{"float4": {}} },
		"number 1 is NaN; it must be finite":                                  func(m *Manifest) { m.Items[0].Values[1] = float32(math.NaN()) },
		"number 0 is -Inf; it must be finite":                                 func(m *Manifest) { m.Items[0].Values[0] = float32(math.Inf(-1)) },
	} {
		m := sample()
		damage(m)
		_, err := parse(encode(t, m))
		require.ErrorContains(t, err, want)
		require.Less(t, len(err.Error()), 1000)
	}
	valid := string(encode(t, sample()))
	for want, doc := range map[string]string{
		"unexpected end of JSON input":            valid[:len(valid)-1],
		"has more behind its value":               valid + "{}",
		`has the key "format" twice`:              `{"format": "bei-manifest", "format": "x"}`,
		`has the key "a" twice`:                   `{"b": [{"a": {}, "a": 1}]}`,
		"got array, want object":                  "[]",
		"nests deeper than 6 levels":              strings.Repeat("[", 100_000),
		"has more than 262144 values":             "[" + strings.Repeat("{},", 1<<18) + "{}]",
		"value must be 1":                         strings.Replace(valid, `"version":1`, `"version":2`, 1),
		"format: value must be 'bei-manifest'":    strings.Replace(valid, `"format":"bei-manifest"`, `"format":"other"`, 1),
		"additional properties 'extra' not allow": strings.Replace(valid, `"format"`, `"extra":1,"format"`, 1),
		"illegal base64 data":                     strings.Replace(valid, `"reference":"AACAPwAAAAA="`, `"reference":"!"`, 1),
		"3 bytes are no numbers of 4":             strings.Replace(valid, `"reference":"AACAPwAAAAA="`, `"reference":"AAAA"`, 1),
		"missing property 'reference'":            strings.Replace(valid, `"reference":"AACAPwAAAAA="`, `"prompt_name":"x"`, 1),
		"input_ids.0: maximum":                    strings.Replace(valid, `"input_ids":[1,`, `"input_ids":[4294967296,`, 1),
		"input_ids.0: got number, want integer":   strings.Replace(valid, `"input_ids":[1,`, `"input_ids":[1.5,`, 1),
		"invalid character":                       "{\"format\": \"\x00\"}",
	} {
		_, err := parse([]byte(doc))
		require.ErrorContains(t, err, want)
		require.Less(t, len(err.Error()), 1000)
	}
}

func many(it Item, n int) []Item {
	items := make([]Item, n)
	for i := range items {
		items[i] = it
	}
	return items
}

func TestFilesThatCannotBeManifests(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, FileName), 0o700))
	_, err := Read(dir)
	require.ErrorContains(t, err, "is no regular file")

	dir = t.TempDir()
	f, err := os.Create(filepath.Join(dir, FileName))
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<40)) // sparse: nobody may read it to its end
	require.NoError(t, f.Close())
	_, err = Read(dir)
	require.ErrorContains(t, err, fmt.Sprintf("exceeds the limit of %d bytes", maxFile))
	require.Equal(t, status.Start, status.CodeOf(err))
}

func TestLogitsOfEachKind(t *testing.T) {
	m := &Manifest{Model: Model{Type: "classifier", Output: Logits, Width: 1}, Items: []Item{
		{Text: text("q"), Pair: text("a"), Values: Floats{-1}}, {Text: text("q"), Pair: text("b"), Values: Floats{3}}, {Text: text("q"), Pair: text("c"), Values: Floats{2}}}}
	m.Rank()
	require.Equal(t, []Ranking{{Order: []int{1, 2, 0}}}, m.Rankings)
	_, err := parse(encode(t, m))
	require.NoError(t, err)
	same := []Result{{Values: []float32{-1}}, {Values: []float32{3}}, {Values: []float32{2}}}
	require.Empty(t, m.Compare("float32", same, same).Failures)
	require.Nil(t, m.Compare("float32", same, same).WorstCosine, "a logit has no direction")
	changed := []Result{{Values: []float32{-1}}, {Values: []float32{2.4}}, {Values: []float32{2.5}}}
	r := m.Compare("float8", changed, changed)
	require.Len(t, r.Failures, 1)
	require.Contains(t, r.Failures[0], "rankings.0: item 2 (score 2.5) comes before item 1 (2.4)")

	m = &Manifest{Model: Model{Type: "token_classifier", Output: TokenLogits, Width: 3}, Items: []Item{{Text: text("a b"), Values: make(Floats, 12)},
		{InputIDs: []uint32{1, 2}, Values: make(Floats, 6)}}}
	m.Rank()
	require.Empty(t, m.Rankings)
	_, err = parse(encode(t, m))
	require.NoError(t, err)
	m.Items[1].Values = make(Floats, 9)
	_, err = parse(encode(t, m))
	require.ErrorContains(t, err, "items.1: reference has 9 numbers; 2 tokens of width 3 need 6")
	m.Items[1].Values = make(Floats, 7)
	_, err = parse(encode(t, m))
	require.ErrorContains(t, err, "items.1: reference has 7 numbers; it must be a multiple of the width, 3")

	m = &Manifest{Model: Model{Type: "embedding", Output: Sparse, Width: 100}, Items: []Item{{Text: text("a"), Values: Floats{1, 2}, Indices: Uints{3, 50}}}}
	_, err = parse(encode(t, m))
	require.NoError(t, err)
	near := []Result{{Values: []float32{1, 2, 1e-4}, Indices: []uint32{3, 50, 99}}}
	require.Empty(t, m.Compare("float32", near, near).Failures, "a weight that is almost zero may be there or not")
	far := []Result{{Values: []float32{1, 2}, Indices: []uint32{3, 51}}}
	require.Len(t, m.Compare("float8", far, near).Failures, 1)
	for want, indices := range map[string]Uints{"number 1 is 3; they must ascend": {3, 3}, "number 1 is 100; they must": {3, 100}, "indices has 1 numbers": {3}} {
		m.Items[0].Indices = indices
		_, err = parse(encode(t, m))
		require.ErrorContains(t, err, want)
	}
}

// TestThresholds: each precision has its own, and the manifest can set them.
func TestThresholds(t *testing.T) {
	require.Equal(t, "float32", Precision("float32", "cpu"))
	require.Equal(t, TF32, Precision("float32", "cuda:0"))
	require.Equal(t, "float16", Precision("float16", "cuda:0"))
	m := sample()
	turned := func(angle float64) []Result { // every vector, by an angle
		results := make([]Result, len(m.Items))
		for i, it := range m.Items {
			a := math.Atan2(float64(it.Values[1]), float64(it.Values[0])) + angle
			results[i].Values = []float32{float32(math.Cos(a)), float32(math.Sin(a))}
		}
		return results
	}
	good := turned(0)
	for _, c := range []struct {
		precision   string
		passes, not float64
	}{{"float32", 5e-4, 5e-3}, {TF32, 4e-3, 1.5e-2}, {"float16", 1.5e-2, 4e-2}, {"bfloat16", 5e-2, 0.12}, {"float8", 0.15, 0.25}} {
		require.Empty(t, m.Compare(c.precision, turned(c.passes), good).Failures, c.precision)
		r := m.Compare(c.precision, good, turned(c.not))
		require.Len(t, r.Failures, len(m.Items), c.precision)
		require.Contains(t, r.Failures[0], `in a batch: cosine`)
		require.InDelta(t, math.Cos(c.not), *r.WorstCosine, 1e-6)
	}
	half, wide := 0.5, 10.0
	m.Thresholds = map[string]Override{"float32": {MinCosine: &half, MaxError: &wide}}
	require.Empty(t, m.Compare("float32", turned(0.5), turned(0.5)).Failures)
	require.Equal(t, defaults["float32"].RankMargin, m.Threshold("float32").RankMargin)
	require.Equal(t, defaults["float8"], m.Threshold("int4"))
}

func TestWhatIsNoNumberIsNoParity(t *testing.T) {
	m := sample()
	good, bad := make([]Result, 3), make([]Result, 3)
	for i, it := range m.Items {
		good[i], bad[i] = Result{Values: it.Values}, Result{Values: []float32{float32(math.NaN()), 0}}
	}
	require.NotEmpty(t, m.Compare("float8", bad, good).Failures)
	short := append([]Result{{Values: []float32{1}}}, good[1:]...)
	require.Contains(t, m.Compare("float8", short, good).Failures[0], "the output has 1 numbers, the reference has 2")
	skipped := append([]Result{{TooLong: true}}, good[1:]...)
	r := m.Compare("float32", skipped, skipped)
	require.Empty(t, r.Failures)
	require.Equal(t, 1, r.Skipped)
	require.True(t, r.Rows[0].Skipped)
}

func TestFilesAreCompared(t *testing.T) {
	dir, m := t.TempDir(), sample()
	all := func(string) bool { return true }
	require.ErrorContains(t, m.CheckFiles(t.Context(), dir, all), "config.json is missing")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("{}"), 0o600))
	require.ErrorContains(t, m.CheckFiles(t.Context(), dir, all), "has the SHA-256 44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a, not 000")
	require.NoError(t, m.CheckFiles(t.Context(), dir, func(string) bool { return false }))
	hashed, err := Hash(t.Context(), dir, "config.json")
	require.NoError(t, err)
	m.Files = []File{hashed}
	require.NoError(t, m.CheckFiles(t.Context(), dir, all))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte("{} "), 0o600))
	require.ErrorContains(t, m.CheckFiles(t.Context(), dir, all), "has 3 bytes, not 2")
}

// FuzzManifest: whatever is read can be compared and written again.
func FuzzManifest(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add([]byte(`{"format": "bei-manifest", "version": 1, "model": {"type": "classifier", "output": "logits", "width": 1}, "items": [{"text": "a", "reference": "AACAPw=="}]}`))
	f.Add([]byte(`{"items": [[[[]]]]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := parse(raw)
		if err != nil {
			require.Less(t, len(err.Error()), 2000)
			return
		}
		own := make([]Result, len(m.Items))
		for i, it := range m.Items {
			own[i] = Result{Values: it.Values, Indices: it.Indices}
		}
		for _, failure := range m.Compare("float32", own, own).Failures {
			require.NotContains(t, failure, "rankings", "checked when it was read")
		}
		again, err := parse(encode(t, m))
		require.NoError(t, err)
		require.Equal(t, encode(t, m), encode(t, again))
	})
}
