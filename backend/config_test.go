package backend

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{"model": "m", "engine": "mock", "slots": 2, "truncate": false, "queue": {"max_wait_us": 0, "max_items": 7},
		"mock": {"faults": [{"kind": "nan", "token_id": 5}], "run_us": 1.5}}`))
	require.NoError(t, err)
	no, zero, five := false, 0, int32(5)
	require.Equal(t, Config{Model: "m", Engine: "mock", Slots: 2, Truncate: &no, Queue: QueueConfig{MaxItems: 7, MaxWaitUS: &zero},
		Mock: mock.Config{RunMicros: 1.5, Faults: []mock.Fault{{Kind: "nan", TokenID: &five}}}}, c)
	c, err = ParseConfig([]byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, Config{}, c)
}

func TestParseConfigRefuses(t *testing.T) {
	for doc, want := range map[string]string{
		``:                                      "options: not one JSON document",
		` `:                                     "not one JSON document",
		`{`:                                     "not one JSON document",
		`{} {}`:                                 "not one JSON document",
		`{}x`:                                   "not one JSON document",
		"{\"model\": \"a\x00\"}":                "not one JSON document",
		`null`:                                  "got null, want object",
		`[]`:                                    "got array, want object",
		`"model"`:                               "got string, want object",
		`{"tokens": "m"}`:                       "additional properties 'tokens' not allowed",
		`{"Model": "m"}`:                        "additional properties 'Model' not allowed",
		`{"model": 5}`:                          "model: got number, want string",
		`{"model": null}`:                       "model: got null, want string",
		`{"engine": "tensorflow"}`:              "engine: value must be one of",
		`{"device": "tpu"}`:                     "device: value must be one of",
		`{"slots": -1}`:                         "slots: minimum: got -1, want 0",
		`{"slots": 65}`:                         "slots: maximum: got 65, want 64",
		`{"slots": 1.5}`:                        "slots: got number, want integer",
		`{"slots": "2"}`:                        "slots: got string, want integer",
		`{"slots": 1.0}`:                        "slots",
		`{"slots": 1e400}`:                      "",
		`{"slots": true}`:                       "slots: got boolean, want integer",
		`{"truncate": 1}`:                       "truncate: got number, want boolean",
		`{"queue": []}`:                         "queue: got array, want object",
		`{"queue": {"size": 1}}`:                "queue: additional properties 'size' not allowed",
		`{"queue": {"max_items": -5}}`:          "queue.max_items: minimum: got -5, want 0",
		`{"mock": {"faults": {}}}`:              "mock.faults: got object, want array",
		`{"mock": {"faults": [{}]}}`:            "mock.faults.0: missing property 'kind'",
		`{"mock": {"faults": [{"kind": "x"}]}}`: "mock.faults.0.kind: value must be one of",
		`{"mock": {"faults": [{"kind": "nan", "token_id": 4294967296}]}}`: "options: json",
		`{"go": {"memory_limit_bytes": 1e30}}`:                            "options: json",
		`{"model": "` + strings.Repeat("m", 5000) + `"}`:                  "model: maxLength: got 5,000, want 4,096",
		strings.Repeat("[", 100_000):                                      "not one JSON document",
		strings.Repeat(" ", maxOptionsBytes+1):                            "1048577 bytes are more than the limit of 1048576",
	} {
		_, err := ParseConfig([]byte(doc))
		requireCode(t, status.InvalidArgument, err, want)
		require.True(t, strings.HasPrefix(err.Error(), "options: "), err)
		require.Less(t, len(err.Error()), 1000, "the message does not repeat the document")
	}
}

// TestSchemaHasTheStructsKeys compares the schema's keys with the json names of Config, both ways, at all depths.
func TestSchemaHasTheStructsKeys(t *testing.T) {
	var schema map[string]any
	require.NoError(t, json.Unmarshal([]byte(Schema()), &schema))
	compareKeys(t, "options", reflect.TypeFor[Config](), schema)
}

func compareKeys(t *testing.T, where string, typ reflect.Type, schema map[string]any) {
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch typ.Kind() {
	case reflect.Slice:
		require.Equal(t, "array", schema["type"], where)
		compareKeys(t, where+"[]", typ.Elem(), schema["items"].(map[string]any))
		return
	case reflect.Struct:
	default:
		kinds := map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Int: "integer", reflect.Int32: "integer",
			reflect.Int64: "integer", reflect.Float64: "number"}
		if schema["enum"] == nil {
			require.Equal(t, kinds[typ.Kind()], schema["type"], where)
		}
		return
	}
	require.Equal(t, "object", schema["type"], where)
	require.Equal(t, false, schema["additionalProperties"], where)
	properties := schema["properties"].(map[string]any)
	fields := 0
	for f := range typ.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" { // for Go programs alone
			continue
		}
		fields++
		property, ok := properties[name].(map[string]any)
		require.True(t, ok, "%s.%s is not in the schema", where, name)
		compareKeys(t, where+"."+name, f.Type, property)
	}
	require.Len(t, properties, fields, where)
}

// TestOpenChecksTheConfig covers Configs that Go programs fill in: the schema holds for them, too.
func TestOpenChecksTheConfig(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`"model" is missing`:                    func(c *Config) { *c = Config{Log: c.Log} },
		"engine: value must be one of":          func(c *Config) { c.Engine = "tensorflow" },
		"slots: minimum: got -1, want 0":        func(c *Config) { c.Slots = -1 },
		"queue.max_items: minimum":              func(c *Config) { c.Queue.MaxItems = -1 },
		"mock.dimensions: maximum":              func(c *Config) { c.Mock.Dimensions = 1 << 30 },
		"mock.faults.0.kind: value must be one": withFaults(mock.Fault{Kind: "earthquake"}),
		"exclude each other":                    func(c *Config) { c.DefaultPrompt, c.DefaultPromptName = "a", "b" },
		"max_length 20 is above max_tokens 10":  func(c *Config) { c.MaxLength, c.MaxTokens = 20, 10 },
		"best_tokens 20 is above max_tokens 10": func(c *Config) { c.BestTokens, c.MaxTokens = 20, 10 },
		"json: unsupported value: NaN":          func(c *Config) { c.Mock.RunMicros = math.NaN() },
	} {
		c := mockConfig()
		change(&c)
		_, err := Open(background, c)
		requireCode(t, status.InvalidArgument, err, want)
	}
}

// TestOpenNamesAWrongFolder covers what users give by mistake: a path that is not there, a file.
func TestOpenNamesAWrongFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "model.safetensors")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	for folder, want := range map[string]string{
		"./models/all-MiniLM-L6-v2": "does not exist; it must be a folder with config.json",
		file:                        "is a file; it must be a folder",
		"a\x00b":                    "invalid argument",
		t.TempDir():                 "tokenizer.json is missing",
	} {
		c := mockConfig()
		c.Model = folder
		_, err := Open(background, c)
		requireCode(t, status.Start, err, want)
	}
}

func TestEngineOptions(t *testing.T) {
	b := openMock(t, func(c *Config) {
		c.Slots, c.MaxLength, c.MaxTokens, c.MaxSequences, c.BestTokens, c.Mock.Padded = 3, 10, 100, 5, 50, true
	})
	i := b.Info()
	require.Equal(t, []uint32{3, 10, 100, 5, 50}, []uint32{i.Slots, i.MaxLength, i.MaxTokens, i.MaxSequences, i.BestTokens})
	require.True(t, i.Padded)
	require.False(t, i.HasTokenizer)
	rows := rowsFor(b, 1)
	requireCode(t, status.TooLong, b.Embed(background, packed(make([]uint32, 11)), CallOptions{}, Output{Rows: rows}), "11 tokens, the limit is 10")
	require.NoError(t, b.Embed(background, packed(make([]uint32, 10)), CallOptions{}, Output{Rows: rows}))

	require.EqualValues(t, 16, openMock(t, func(c *Config) { c.MaxLength = 50 }).Info().MaxLength, "the model's limit stands")
}

func TestMockOptions(t *testing.T) {
	i := openMock(t, func(c *Config) {
		c.Mock = mock.Config{Kind: mock.Classifier, Dimensions: 5, Labels: 4, VocabSize: 11, TypeVocab: 3, MaxLength: 12}
	}).Info()
	require.Equal(t, ModelClassifier, i.ModelType)
	require.Equal(t, []uint32{4, 0, 11, 3, 12}, []uint32{i.Labels, i.Dimensions, i.VocabSize, i.TypeVocabSize, i.MaxLength})
	require.Equal(t, "classifier", i.ModelType.String())
	i = openMock(t, func(c *Config) { c.Mock = mock.Config{} }).Info()
	require.Equal(t, []uint32{384, 384, 30522, 2, 256}, []uint32{i.Dimensions, i.TokenDimensions, i.VocabSize, i.TypeVocabSize, i.MaxLength})
	require.True(t, i.Normalizes)
	require.Equal(t, PoolingMean, i.Pooling)

	begun := time.Now()
	openMock(t, func(c *Config) { c.Mock.RunMicros, c.Mock.TokenMicros = 1000, 10 })
	require.Greater(t, time.Since(begun), 2*time.Millisecond, "the warm-up's two runs")
}

func TestQueueOptions(t *testing.T) {
	require.Equal(t, runtime.GOMAXPROCS(0), Config{}.pipeline().PrepareWorkers)
	require.Equal(t, 5, Config{Tokenizer: TokenizerConfig{Workers: 5}}.pipeline().PrepareWorkers)
	require.Equal(t, 2*time.Millisecond, Config{}.pipeline().MaxWait)
	zero := 0
	require.Zero(t, Config{Queue: QueueConfig{MaxWaitUS: &zero}}.pipeline().MaxWait)
	require.Equal(t, time.Minute, Config{}.pipeline().RunTimeout)
	require.Equal(t, 5*time.Millisecond, Config{RunTimeoutMS: 5}.pipeline().RunTimeout)
	require.Equal(t, 65536, Config{}.pipeline().MaxItems)

	b := openMock(t, func(c *Config) { c.Queue.MaxItems = 1 })
	require.NoError(t, b.Embed(background, packed([]uint32{1}), CallOptions{}, Output{Rows: rowsFor(b, 1)}))
	requireCode(t, status.InvalidArgument, b.Embed(background, packed([]uint32{1}, []uint32{1}), CallOptions{}, Output{Rows: rowsFor(b, 2)}),
		"2 items are more than one call may have: the limit is 1 (queue.max_items)")

	synctest.Test(t, func(t *testing.T) {
		// The default timeout of calls is no timeout of the warm-up.
		slow := func(c *Config) { c.Queue.TimeoutMS, c.Mock.RunMicros = 60, 150_000 }
		b := openMock(t, slow)
		batch, out := packed([]uint32{1}), Output{Rows: rowsFor(b, 1)}
		requireCode(t, status.Timeout, b.Embed(background, batch, CallOptions{}, out), "timeout passed after")
		require.NoError(t, b.Embed(background, batch, CallOptions{Timeout: time.Minute}, out))

		b = openMock(t, func(c *Config) {
			c.RunTimeoutMS, c.Mock.Faults = 50, []mock.Fault{{Kind: mock.Hung, From: 3, Count: 1}}
		})
		requireCode(t, status.Unhealthy, b.Embed(background, batch, CallOptions{}, out), "run_timeout_ms is 50")
		require.NoError(t, b.Embed(background, batch, CallOptions{}, out))
	})
}

func TestGoOptions(t *testing.T) {
	procs, gc, limit := runtime.GOMAXPROCS(0), debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	defer func() {
		runtime.GOMAXPROCS(procs)
		debug.SetGCPercent(gc)
		debug.SetMemoryLimit(limit)
	}()
	openMock(t, func(c *Config) { c.Go = GoConfig{MaxProcs: procs + 1, GCPercent: 77, MemoryLimitBytes: 1 << 40} })
	require.Equal(t, procs+1, runtime.GOMAXPROCS(0))
	require.Equal(t, 77, debug.SetGCPercent(77))
	require.EqualValues(t, 1<<40, debug.SetMemoryLimit(-1))
	openMock(t, nil)
	require.Equal(t, procs+1, runtime.GOMAXPROCS(0), "unset means unchanged")
}

func TestEnginesThatAreNotThere(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`dtype "float16" on device "cpu"`: func(c *Config) { c.DType = "float16" },
		`dtype "float8" on device "cuda"`: func(c *Config) { c.Device, c.DType = "cuda", "float8" },
	} {
		c := onnxConfig("bert-mean")
		change(&c)
		_, err := Open(background, c)
		requireCode(t, status.Unsupported, err, want)
	}
	c := onnxConfig("bert-mean")
	c.Device = "cuda"
	_, err := Open(background, c)
	requireCode(t, status.NoBackend, err, "no CUDA provider")
	t.Setenv("BEI_TRT_SHIM_DIR", t.TempDir())
	c = onnxConfig("bert-mean")
	c.Engine = "tensorrt"
	_, err = Open(background, c)
	requireCode(t, status.NoBackend, err, "libbei_trt_rtx1.so: no such file")
	c.Device = "cpu"
	_, err = Open(background, c)
	requireCode(t, status.InvalidArgument, err, `engine "tensorrt" runs on device "cuda"`)
	for _, c := range []Config{
		{Model: t.TempDir()},
		{Model: "does-not-exist"},
		{Model: modelFolder("bert-mean"), Engine: "onnxruntime", ONNXRuntime: ONNXRuntimeConfig{Library: "does-not-exist.so"}},
		{Model: modelFolder("bert-mean"), Engine: "mock", Mock: mock.Config{VocabSize: 10}},
		{Model: modelFolder("bert-mean"), Engine: "mock", DefaultPromptName: "query"},
	} {
		c.Log.Level = "off"
		_, err := Open(background, c)
		require.Error(t, err)
		require.NotEqual(t, status.Internal, status.CodeOf(err), "%v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{`{}`, `{"model": "m", "queue": {"max_wait_us": 5}, "mock": {"faults": [{"kind": "nan"}]}}`, `{"slots": 1e3}`, `[`, `{"a":{}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		c, err := ParseConfig(doc)
		if err != nil {
			requireCode(t, status.InvalidArgument, err, "options: ")
			return
		}
		// What was accepted is a fixed point.
		text, err := json.Marshal(c)
		require.NoError(t, err)
		again, err := ParseConfig(text)
		require.NoError(t, err, fmt.Sprintf("%s -> %s", doc, text))
		twice, err := json.Marshal(again)
		require.NoError(t, err)
		require.Equal(t, string(text), string(twice))
	})
}
