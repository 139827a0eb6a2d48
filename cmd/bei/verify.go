package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/manifest"
)

type verifyFlags struct {
	open   openFlags
	write  bool
	texts  string
	output string
	schema bool
}

func newVerifyCommand() *cobra.Command {
	var flags verifyFlags
	c := &cobra.Command{
		Use:   "verify MODEL",
		Short: "Hold a model's outputs on an engine to its reference outputs",
		Long: `verify compares the files of MODEL with the sizes and hashes of its ` + manifest.FileName + `, all weights included, runs the
reference items of that file, alone and in batches, and prints how far each output is from its reference. It fails where one is further than
the file allows for the engine's precision. libbei.so and the router do the same whenever they open the model, without hashing the weights.

With --write it makes the file: it runs texts in float32 on the CPU and keeps what they gave. --texts has one in each line; a reranker needs
pairs, with a tab between query and document. A line that begins with { is an item of the file, without its reference, such as
{"text": "...", "prompt_name": "query"} or {"input_ids": [101, 2023, 102]}. Without --texts a few texts of several lengths and scripts are used.
What the references are is the outputs that this version gives: compare them with another implementation once, then keep the file.`,
		Example: `  bei verify --write models/all-MiniLM-L6-v2
  bei verify models/all-MiniLM-L6-v2
  bei verify models/all-MiniLM-L6-v2 --engine tensorrt --dtype float16
  bei verify --write models/my-reranker --texts pairs.tsv`,
		Args: func(c *cobra.Command, args []string) error {
			if flags.schema {
				return cobra.NoArgs(c, args)
			}
			return oneModel(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case flags.schema:
				_, err := fmt.Fprint(c.OutOrStdout(), manifest.Schema())
				return err
			case flags.write:
				return flags.make(c, args[0])
			case flags.texts != "" || flags.output != "":
				return errors.New("--texts and --output are for --write")
			}
			return flags.compare(c, args[0])
		},
	}
	flags.open.register(c)
	flags.open.registerEngine(c)
	c.Flags().BoolVar(&flags.write, "write", false, "make the file instead, on the CPU in float32")
	c.Flags().StringVar(&flags.texts, "texts", "", "with --write: file with a text, a pair or an item in each line")
	c.Flags().StringVarP(&flags.output, "output", "o", "", "with --write: file to write to (default: "+manifest.FileName+" in the model's folder)")
	c.Flags().BoolVar(&flags.schema, "schema", false, "print the JSON Schema of the file instead")
	return c
}

// openUnverified opens the model without holding it to its manifest: that is this command's work.
func (f *verifyFlags) openUnverified(c *cobra.Command, model string, change func(*backend.Config)) (*backend.Backend, error) {
	config, err := f.open.config(model)
	if err != nil {
		return nil, err
	}
	config.Verify = "off"
	change(&config)
	return backend.Open(c.Context(), config)
}

func (f *verifyFlags) compare(c *cobra.Command, model string) error {
	b, err := f.openUnverified(c, model, func(*backend.Config) {})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close(context.Background()) }()
	report, err := b.Verify(c.Context(), true)
	if err != nil {
		return err
	}
	if err := printReport(c.OutOrStdout(), report); err != nil {
		return err
	}
	if n := len(report.Failures); n > 0 {
		return fmt.Errorf("parity failed in %d places, the first: %s", n, report.Failures[0])
	}
	return nil
}

func printReport(out io.Writer, r *manifest.Report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	vectors := r.WorstCosine != nil
	if vectors {
		fmt.Fprintln(w, "item\tinput\tcosine alone\tin a batch\terror alone\tin a batch\t")
	} else {
		fmt.Fprintln(w, "item\tinput\terror alone\tin a batch\t")
	}
	for i, row := range r.Rows {
		verdict := "ok"
		if row.Failed {
			verdict = "FAILED"
		}
		switch {
		case row.Skipped:
			fmt.Fprintf(w, "%d\t%s\tskipped: longer than max_length\n", i, row.Label)
		case vectors:
			fmt.Fprintf(w, "%d\t%s\t%.7f\t%.7f\t%.2g\t%.2g\t%s\n", i, row.Label, row.Alone.Cosine, row.InBatch.Cosine, row.Alone.Error, row.InBatch.Error, verdict)
		default:
			fmt.Fprintf(w, "%d\t%s\t%.2g\t%.2g\t%s\n", i, row.Label, row.Alone.Error, row.InBatch.Error, verdict)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	limits := fmt.Sprintf("max_error %g", r.Threshold.MaxError)
	if vectors {
		limits = fmt.Sprintf("min_cosine %g, %s", r.Threshold.MinCosine, limits)
	}
	for _, failure := range r.Failures {
		if _, err := fmt.Fprintln(out, failure); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(out, "%s: %d items, %d rankings, %s; %d failures in %.1f s\n", r.Precision, r.Items-r.Skipped, r.Rankings, limits, len(r.Failures), r.Seconds)
	return err
}

func (f *verifyFlags) make(c *cobra.Command, model string) error {
	for flag, value := range map[string]string{"--engine": f.open.engine, "--device": f.open.device, "--dtype": f.open.dtype} {
		if value != "" {
			return fmt.Errorf("%s cannot be given with --write: references are computed in float32 on the CPU", flag)
		}
	}
	var items []manifest.Item
	if f.texts != "" {
		var err error
		if items, err = readItems(c.Context(), f.texts); err != nil {
			return err
		}
	}
	b, err := f.openUnverified(c, model, func(config *backend.Config) {
		if config.Engine != "mock" {
			config.Engine, config.Device, config.DType = "onnxruntime", "cpu", "float32"
		}
	})
	if err != nil {
		return err
	}
	defer func() { _ = b.Close(context.Background()) }()
	if f.texts == "" {
		if items, err = builtInItems(c.Context(), b); err != nil {
			return err
		}
	}
	m, err := b.Manifest(c.Context(), items)
	if err != nil {
		return err
	}
	path := f.output
	if path == "" {
		path = filepath.Join(b.Folder(), manifest.FileName)
	}
	if err := m.Write(path); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %d items of %s %q and width %d, %d rankings, %d files\n", path, len(m.Items), m.Model.Type, m.Model.Output,
		m.Model.Width, len(m.Rankings), len(m.Files))
	return err
}

// maxItems is the manifest's limit.
const maxItems = 1024

// readItems reads a file of lines: texts, pairs with a tab, or items as JSON.
func readItems(ctx context.Context, name string) ([]manifest.Item, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var items []manifest.Item
	err = eachLine(ctx, file, func(line string) error {
		it, err := readItem(line)
		if err == nil && len(items) == maxItems {
			err = fmt.Errorf("a manifest has at most %d items", maxItems)
		}
		if err != nil {
			return fmt.Errorf("%s: line %d: %w", name, len(items)+1, err)
		}
		items = append(items, it)
		return nil
	})
	if errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%s: line %d is longer than %d bytes", name, len(items)+1, maxLineBytes)
	}
	if err == nil && len(items) == 0 {
		return nil, fmt.Errorf("%s has no lines", name)
	}
	return items, err
}

func readItem(line string) (it manifest.Item, err error) {
	if strings.HasPrefix(line, "{") {
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		err = d.Decode(&it)
		return it, err
	}
	text, pair, isPair := strings.Cut(line, "\t")
	if it.Text = &text; isPair {
		it.Pair = &pair
	}
	return it, nil
}

// builtInTexts are of several lengths and scripts. The first is a question that the next ones answer more or less.
var builtInTexts = []string{
	"How do I reset my password?",
	"To reset your password, open the settings, choose \"Security\" and follow the link that we send you.",
	"Passwords must have at least twelve characters.",
	"The museum is open from nine to five, except on Mondays.",
	"a",
	"WHAT'S NEW in version 2.0? (1) faster search; (2) fewer bugs; (3) dark mode!!!",
	"Die Straßenbahn fährt über die Brücke.",
	"東京は日本の首都です。",
	"Где находится ближайшая станция метро?",
	"مرحبا بالعالم",
	"naïve café 🚀 e\u0301 \u00bd",
	"def add(a, b):\n    return a + b\n",
	strings.TrimSpace(strings.Repeat("Long inputs cross the limits of tiles and windows, and so this one goes on for a while. ", 24)),
}

// builtInItems are the built-in texts that the model takes: as pairs for a reranker, and those that are not too long for it, since what tiny
// and old models cannot take tells nothing of them.
func builtInItems(ctx context.Context, b *backend.Backend) ([]manifest.Item, error) {
	query, texts := builtInTexts[0], builtInTexts
	if b.Pairs() {
		texts = builtInTexts[1:]
	}
	var items []manifest.Item
	for _, text := range texts {
		it, in := manifest.Item{Text: &text}, backend.Text{Text: text}
		if b.Pairs() {
			it, in = manifest.Item{Text: &query, Pair: &text}, backend.Text{Text: query, Pair: text, HasPair: true}
		}
		var result backend.Result
		if err := b.Tokenize(ctx, []backend.Text{in}, backend.CallOptions{Truncate: backend.Off}, backend.Output{Result: &result}); err != nil {
			return nil, err
		}
		if len(result.Items[0].Tokens.IDs) <= int(b.Info().MaxLength) {
			items = append(items, it)
		}
	}
	return items, nil
}
