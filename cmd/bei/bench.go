package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/basetenlabs/bei-runtime/backend"
)

var errInterrupted = errors.New("interrupted")

type benchFlags struct {
	open       openFlags
	batches    []string
	rounds     int
	iterations int
	inFlight   int
	json       bool
	worker     bool
}

func newBenchCommand() *cobra.Command {
	var flags benchFlags
	c := &cobra.Command{
		Use:   "bench MODEL",
		Short: "Measure token batches: the runtime beside its bare engine",
		Long: `bench runs batches of seeded random tokens through the model MODEL and prints medians of wall times.

  engine    the engine alone: the runs that the batch is split into, one after another on one slot, vectors in its own memory
  runtime   the same batch as one embed call of the library: checks, queue, runs over all slots, normalised vectors copied out
  added     what the runtime costs on top; below zero where its runs overlap on several slots

The two take turns, round by round, after a warm-up. With --in-flight N, N callers keep N batches under way, and as many of
the bare engine as it has slots; the time is then the wall time over the number of batches.

A batch is COUNTxLENGTH, mixedCOUNT (seeded lengths of 16 to 512), mixedCOUNT:SHORTEST-LONGEST, or lengths joined by +.

--worker serves another program instead, such as bench/gpu/bench.py, which lets several contenders take turns. It prints
{"ready": INFO} once the model is open, then answers each line of standard input with a line:

  {"batch": "32x512", "iterations": 20, "kind": "runtime", "in_flight": 1}   {"seconds": [...], "tokens": 16384, "runs": 1}
  {"vectors": "4x32"}                                                        {"float32": base64 of the rows, "rows": 4}

or with {"error": MESSAGE}, and goes on until standard input ends.`,
		Example: `  bei bench models/all-MiniLM-L6-v2 --batches 1x32,32x128,mixed64:8-256
  bei bench models/bge-base --engine tensorrt --dtype float16 --batches 32x512 --in-flight 2
  echo '{"batch": "1x32", "iterations": 3, "kind": "engine"}' | bei bench models/all-MiniLM-L6-v2 --worker`,
		Args: oneModel,
		RunE: func(c *cobra.Command, args []string) error {
			if flags.worker {
				return flags.serve(c, args[0])
			}
			return flags.run(c, args[0])
		},
	}
	flags.open.register(c)
	flags.open.registerEngine(c)
	c.Flags().StringSliceVar(&flags.batches, "batches", []string{"1x32", "8x128", "32x128"}, "batches to measure, separated by commas")
	c.Flags().IntVar(&flags.rounds, "rounds", 5, "times that engine and runtime take turns")
	c.Flags().IntVar(&flags.iterations, "iterations", 10, "calls of a turn")
	c.Flags().IntVar(&flags.inFlight, "in-flight", 1, "batches under way at once")
	c.Flags().BoolVar(&flags.json, "json", false, "print one JSON object instead of a table")
	c.Flags().BoolVar(&flags.worker, "worker", false, "answer requests from standard input, a JSON object a line")
	c.MarkFlagsMutuallyExclusive("json", "worker")
	return c
}

// benchRow is the outcome of a batch.
type benchRow struct {
	Batch          string    `json:"batch"`
	Sequences      int       `json:"sequences"`
	Tokens         int       `json:"tokens"`
	Runs           int       `json:"runs"`
	EngineSeconds  []float64 `json:"engine_seconds"`
	RuntimeSeconds []float64 `json:"runtime_seconds"`
	Engine         float64   `json:"engine_median"`
	Runtime        float64   `json:"runtime_median"`
	Added          float64   `json:"added"` // share of the engine's time
	TokensPerSec   float64   `json:"tokens_per_second"`
}

func (f *benchFlags) run(c *cobra.Command, model string) error {
	if f.rounds < 1 {
		return fmt.Errorf("--rounds is %d; it must be at least 1", f.rounds)
	}
	for _, name := range f.batches { // before the model is opened, which may take minutes
		if _, err := parseLengths(name); err != nil {
			return err
		}
	}
	b, err := f.open.open(c.Context(), model)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close(context.Background()) }()
	m, err := newBencher(b)
	if err != nil {
		return err
	}
	rows := make([]benchRow, len(f.batches))
	for i, name := range f.batches {
		if rows[i], err = f.row(c.Context(), m, name); err != nil {
			return err
		}
	}
	return f.print(c.OutOrStdout(), b, rows)
}

// row measures one batch.
func (f *benchFlags) row(ctx context.Context, m *bencher, name string) (benchRow, error) {
	batch, err := m.batch(name)
	if err != nil {
		return benchRow{}, err
	}
	r := benchRow{Batch: name, Sequences: len(batch.PooledIndices), Tokens: len(batch.InputIDs), Runs: len(m.runs(batch))}
	for i := range f.rounds {
		for k := range 2 {
			kind, seconds := kindEngine, &r.EngineSeconds
			if (i+k)%2 == 1 {
				kind, seconds = kindRuntime, &r.RuntimeSeconds
			}
			took, err := m.measure(ctx, kind, name, f.iterations, f.inFlight)
			if err != nil {
				return r, err
			}
			*seconds = append(*seconds, took...)
		}
	}
	r.Engine, r.Runtime = median(r.EngineSeconds), median(r.RuntimeSeconds)
	r.Added, r.TokensPerSec = r.Runtime/r.Engine-1, float64(r.Tokens)/r.Runtime
	return r, nil
}

func (f *benchFlags) print(out io.Writer, b *backend.Backend, rows []benchRow) error {
	info, err := b.InfoJSON()
	if err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(out).Encode(struct {
			Info     json.RawMessage `json:"info"`
			Rounds   int             `json:"rounds"`
			InFlight int             `json:"in_flight"`
			Rows     []benchRow      `json:"rows"`
		}{info, f.rounds, f.inFlight, rows})
	}
	var e struct {
		Engine        string `json:"engine"`
		EngineVersion string `json:"engine_version"`
		Device        string `json:"device"`
		DType         string `json:"dtype"`
		Slots         int    `json:"slots"`
	}
	if err := json.Unmarshal(info, &e); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s %s on %s, %s, %d slots; medians of %d rounds, %d in flight\n\n", e.Engine, e.EngineVersion, e.Device, e.DType, e.Slots, f.rounds, f.inFlight)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "batch\ttokens\truns\tengine ms\truntime ms\tadded\ttokens/s\t")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%d\t%d\t%.3f\t%.3f\t%+.1f %%\t%.0f\t\n", r.Batch, r.Tokens, r.Runs, 1e3*r.Engine, 1e3*r.Runtime, 1e2*r.Added, r.TokensPerSec)
	}
	return w.Flush()
}

// request is a line that a worker reads.
type request struct {
	Batch      string `json:"batch"`
	Iterations int    `json:"iterations"`
	Kind       string `json:"kind"`
	InFlight   int    `json:"in_flight"`
	Vectors    string `json:"vectors"`
}

// serve is the worker. A model that does not open is told on standard output as well, where the other program reads.
func (f *benchFlags) serve(c *cobra.Command, model string) error {
	answers := json.NewEncoder(c.OutOrStdout())
	m, ready, err := f.openWorker(c.Context(), model)
	if err != nil {
		_ = answers.Encode(map[string]string{"error": err.Error()})
		return err
	}
	defer func() { _ = m.backend.Close(context.Background()) }()
	if err := answers.Encode(map[string]any{"ready": ready}); err != nil {
		return err
	}
	err = eachLine(c.Context(), c.InOrStdin(), func(line string) error {
		answer, err := m.answer(c.Context(), line)
		if err != nil {
			answer = map[string]string{"error": err.Error()}
		}
		return answers.Encode(answer)
	})
	if errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("a request is longer than %d bytes", maxLineBytes)
	}
	return err
}

func (f *benchFlags) openWorker(ctx context.Context, model string) (*bencher, json.RawMessage, error) {
	b, err := f.open.open(ctx, model)
	if err != nil {
		return nil, nil, err
	}
	m, err := newBencher(b)
	if err == nil {
		var info []byte
		if info, err = b.InfoJSON(); err == nil {
			return m, info, nil
		}
	}
	return nil, nil, errors.Join(err, b.Close(context.Background()))
}

// answer does what a request wants.
func (m *bencher) answer(ctx context.Context, line string) (any, error) {
	q := request{Iterations: 1, Kind: kindRuntime, InFlight: 1}
	d := json.NewDecoder(strings.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		return nil, fmt.Errorf("request: %w", err)
	}
	if (q.Batch == "") == (q.Vectors == "") {
		return nil, errors.New(`request: it has either "batch" or "vectors", the name of a batch`)
	}
	if q.Vectors != "" {
		return m.vectors(ctx, q.Vectors)
	}
	seconds, err := m.measure(ctx, q.Kind, q.Batch, q.Iterations, q.InFlight)
	if err != nil {
		return nil, err
	}
	batch := m.batches[q.Batch]
	return map[string]any{"seconds": seconds, "tokens": len(batch.InputIDs), "runs": len(m.runs(batch))}, nil
}

// vectors embeds a batch and returns its rows, little-endian float32 in base64.
func (m *bencher) vectors(ctx context.Context, name string) (any, error) {
	b, err := m.batch(name)
	if err != nil {
		return nil, err
	}
	rows := make([]float32, len(b.PooledIndices)*int(m.backend.Info().Dimensions))
	if err := m.backend.Embed(ctx, b, backend.CallOptions{}, backend.Output{Rows: rows}); err != nil {
		return nil, err
	}
	var data bytes.Buffer
	if err := binary.Write(&data, binary.LittleEndian, rows); err != nil {
		return nil, err
	}
	return map[string]any{"float32": base64.StdEncoding.EncodeToString(data.Bytes()), "rows": len(b.PooledIndices)}, nil
}
