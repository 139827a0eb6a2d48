package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// slow is a mock whose runs cost enough to be told from nothing; of best_tokens, 2x16 takes one run and 4x16 two.
const slow = `{"engine": "mock", "slots": 2, "best_tokens": 32, "mock": {"dimensions": 8, "max_length": 512, "run_us": 2000}}`

func TestLengths(t *testing.T) {
	for name, want := range map[string][]int{
		"1x32": {32}, "3x2": {2, 2, 2}, "5": {5}, "16+40+3": {16, 40, 3},
		"mixed4": {193, 450, 255, 366}, "mixed3:7-7": {7, 7, 7}, "mixed5:2-4": {4, 3, 2, 4, 2}, // as scripts/bench_gpu_test.py has them
	} {
		lengths, err := parseLengths(name)
		require.NoError(t, err)
		require.Equal(t, want, lengths, name)
	}
	for _, name := range []string{"", "x", "1x", "x1", "0x3", "3x0", "-1x3", "1x2x3", "1+", "+", "a", "1.5", "mixed", "mixed0", "mixed-1", "mixed4:", "mixed4:3",
		"mixed4:0-3", "mixed4:4-3", "mixed4:1-2-3", "2147483647x1", "2147483648", "1x16777217", "mixed2000000", "99999999999999999999x1"} {
		_, err := parseLengths(name)
		require.ErrorContains(t, err, "COUNTxLENGTH", "%q", name)
	}
}

func TestMixIsWhatOtherProgramsHave(t *testing.T) {
	require.Equal(t, []uint64{0x910a2dec89025cc1, 0xb9f24f7bae4a6586}, []uint64{mix(lengthStream, 0), mix(idStream, 6)})
}

func bench(t *testing.T, in string, args ...string) (string, error) {
	t.Helper()
	return bei(t.Context(), strings.NewReader(in), append([]string{"bench", model, "--options", slow}, args...)...)
}

func TestBenchPrintsATable(t *testing.T) {
	out, err := bench(t, "", "--batches", "2x16,4x16,mixed3:2-9", "--rounds", "2", "--iterations", "1")
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	require.Len(t, lines, 6)
	require.Equal(t, "mock 1 on cpu, float32, 2 slots; medians of 2 rounds, 1 in flight", lines[0])
	require.Equal(t, strings.Fields("batch tokens runs engine ms runtime ms added tokens/s"), strings.Fields(lines[2]))
	require.Equal(t, []string{"4x16", "64", "2"}, strings.Fields(lines[4])[:3])
}

func TestBenchPrintsJSON(t *testing.T) {
	out, err := bench(t, "", "--batches", "2x16,4x16", "--rounds", "2", "--iterations", "2", "--json", "--in-flight", "3")
	require.NoError(t, err)
	var result struct {
		Info struct {
			Engine string `json:"engine"`
		} `json:"info"`
		InFlight int        `json:"in_flight"`
		Rows     []benchRow `json:"rows"`
	}
	require.NoError(t, json.Unmarshal([]byte(out), &result))
	require.Equal(t, "mock", result.Info.Engine)
	require.Equal(t, 3, result.InFlight)
	require.Len(t, result.Rows, 2)
	for i, r := range result.Rows {
		require.Equal(t, []int{2 + 2*i, 32 + 32*i, 1 + i}, []int{r.Sequences, r.Tokens, r.Runs})
		require.Len(t, r.EngineSeconds, 2)
		require.Len(t, r.RuntimeSeconds, 2)
		// Two slots at once, runs of 2 ms.
		require.Greater(t, r.Engine, 0.0009*float64(r.Runs))
		require.Greater(t, r.Runtime, 0.0009*float64(r.Runs))
		require.InDelta(t, r.Runtime/r.Engine-1, r.Added, 1e-9)
	}
}

// serve gives requests to a worker and returns its answers, the first of which is about the model.
func serve(t *testing.T, requests ...string) []map[string]any {
	t.Helper()
	out, err := bench(t, strings.Join(requests, "\n"), "--worker")
	require.NoError(t, err)
	var answers []map[string]any
	for line := range strings.Lines(out) {
		var answer map[string]any
		require.NoError(t, json.Unmarshal([]byte(line), &answer))
		answers = append(answers, answer)
	}
	require.Len(t, answers, len(requests)+1)
	require.Equal(t, "mock", answers[0]["ready"].(map[string]any)["engine"])
	return answers[1:]
}

func TestBenchServes(t *testing.T) {
	answers := serve(t,
		`{"batch": "4x16", "iterations": 3, "kind": "engine"}`,
		`{"batch": "4x16", "iterations": 2, "kind": "runtime"}`,
		`{"batch": "2x16", "iterations": 2, "kind": "engine", "in_flight": 5}`,
		`{"batch": "2x16"}`,
		`{"vectors": "mixed3:2-9"}`)
	for i, want := range []struct{ seconds, tokens, runs int }{{3, 64, 2}, {2, 64, 2}, {1, 32, 1}, {1, 32, 1}} {
		require.Len(t, answers[i]["seconds"], want.seconds)
		require.EqualValues(t, want.tokens, answers[i]["tokens"])
		require.EqualValues(t, want.runs, answers[i]["runs"])
	}
	for i := range 3 { // two runs on one slot take twice as long
		require.GreaterOrEqual(t, answers[0]["seconds"].([]any)[i], 0.004)
	}
	rows, err := base64.StdEncoding.DecodeString(answers[4]["float32"].(string))
	require.NoError(t, err)
	require.Len(t, rows, 4*3*8)
	require.EqualValues(t, 3, answers[4]["rows"])
}

func TestBenchAnswersWrongRequests(t *testing.T) {
	wrong := map[string]string{
		`{`:                                      "request: ",
		`{"batch": "1x2", "colour": 1}`:          "colour",
		`{}`:                                     `either "batch" or "vectors"`,
		`{"batch": "1x2", "vectors": "1x2"}`:     `either "batch" or "vectors"`,
		`{"batch": "1y2"}`:                       `batch "1y2": it is COUNTxLENGTH`,
		`{"vectors": "2x513"}`:                   `batch "2x513": item 0 has 513 tokens; this model's limit is 512 (max_length)`,
		`{"batch": "1x2", "kind": "gpu"}`:        `kind is "gpu"; it is runtime or engine`,
		`{"batch": "1x2", "iterations": 0}`:      "iterations is 0; it can be 1 to 1000000",
		`{"batch": "1x2", "in_flight": 65}`:      "in_flight is 65; it can be 1 to 64",
		`{"batch": "1x2", "iterations": "many"}`: "iterations",
	}
	var requests []string
	for r := range wrong {
		requests = append(requests, r)
	}
	slices.Sort(requests)
	for i, answer := range serve(t, requests...) {
		require.Contains(t, answer["error"], wrong[requests[i]])
	}
}

func TestBenchNamesWhatIsWrong(t *testing.T) {
	for want, args := range map[string][]string{
		`batch "many": it is COUNTxLENGTH`: {"--batches", "1x2,many"},
		"item 0 has 600 tokens":            {"--batches", "1x600"},
		"--rounds is 0":                    {"--rounds", "0"},
		"iterations is -1":                 {"--iterations", "-1"},
		"in_flight is 0":                   {"--in-flight", "0"},
		"[json worker]":                    {"--json", "--worker"},
		"bench needs an embedding model":   {"--options", `{"engine": "mock", "mock": {"kind": "classifier"}}`},
		"mock: run 3 fails as scripted":    {"--options", `{"engine": "mock", "mock": {"faults": [{"kind": "error", "from": 3}]}}`, "--in-flight", "2"},
		`dtype "float8" on device "cuda"`:  {"--options", "{}", "--engine", "onnxruntime", "--device", "cuda", "--dtype", "float8"},
	} {
		_, err := bench(t, "", args...)
		require.ErrorContains(t, err, want)
	}
}

// TestBenchTellsTheOtherProgram covers a model that does not open: the program that started the worker reads standard output only.
func TestBenchTellsTheOtherProgram(t *testing.T) {
	for _, args := range [][]string{{"no-such-folder"}, {model, "--options", `{"engine": "mock", "mock": {"kind": "classifier"}}`}} {
		out, err := bei(t.Context(), strings.NewReader(""), append([]string{"bench", "--worker"}, args...)...)
		require.Error(t, err)
		var answer map[string]string
		require.NoError(t, json.Unmarshal([]byte(out), &answer))
		require.Equal(t, err.Error(), answer["error"])
	}
}

// TestBenchEndsWhenInterrupted interrupts a measurement that would take hours.
func TestBenchEndsWhenInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	in, out := io.Pipe()
	t.Cleanup(func() { require.NoError(t, out.Close()) })
	go func() {
		_, _ = io.WriteString(out, `{"batch": "2x16", "iterations": 1000000}`+"\n")
		cancel()
	}()
	_, err := bei(ctx, in, "bench", model, "--options", slow, "--worker")
	require.ErrorContains(t, err, "interrupted")
}

// TestBenchRunsARealModel has the engine and the runtime compute the same on CPU.
func TestBenchRunsARealModel(t *testing.T) {
	library, err := filepath.Abs(filepath.Join("..", "..", ".deps", "onnxruntime", "libonnxruntime.so.1"))
	require.NoError(t, err)
	t.Setenv("BEI_ONNXRUNTIME_LIB", library) // absolute, since a process can load one only, by one name
	out, err := bei(t.Context(), nil, "bench", model, "--engine", "onnxruntime", "--threads", "1", "--batches", "4x8", "--rounds", "1", "--iterations", "2")
	require.NoError(t, err)
	require.Contains(t, out, "onnxruntime")
}
