package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// linesPerCall lines are embedded together: some runs' worth, so that the slots stay busy and memory stays bounded.
const linesPerCall = 1024

// maxLineBytes bounds a line, so that a binary file given by mistake does not fill the memory.
const maxLineBytes = 16 << 20

type embedFlags struct {
	open       openFlags
	format     string
	output     string
	promptName string
	dimensions int
}

func newEmbedCommand() *cobra.Command {
	var flags embedFlags
	c := &cobra.Command{
		Use:   "embed FOLDER < lines",
		Short: "Embed each line of standard input",
		Long: `embed reads UTF-8 lines from standard input and writes a vector for each, in order.

--format json writes one JSON array a line; npy writes a float32 matrix for numpy.load, [lines x dimensions], which
needs a file (--output, or standard output redirected to a file). Lines that are too long for the model are cut. A line that
cannot be embedded, such as an empty one, ends the command with an error that names it.`,
		Example: `  printf 'one\ntwo\n' | bei embed models/all-MiniLM-L6-v2
  bei embed models/all-MiniLM-L6-v2 --format npy --output vectors.npy < lines.txt`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error { return flags.run(c, args[0]) },
	}
	flags.open.register(c)
	c.Flags().StringVar(&flags.format, "format", "json", "json or npy")
	c.Flags().StringVarP(&flags.output, "output", "o", "", "file to write to (default: standard output)")
	c.Flags().StringVar(&flags.promptName, "prompt-name", "", "the model's prompt to put before each line")
	c.Flags().IntVar(&flags.dimensions, "dimensions", 0, "cut vectors to their first numbers (default: all)")
	return c
}

func (f *embedFlags) run(c *cobra.Command, folder string) (err error) {
	if f.format != "json" && f.format != "npy" {
		return fmt.Errorf("--format %q: it is json or npy", f.format)
	}
	out := c.OutOrStdout()
	if f.output != "" {
		file, err := os.Create(f.output)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
	}
	b, err := f.open.open(c.Context(), folder)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close(context.Background()) }()
	columns := int(b.Info().Dimensions)
	if f.dimensions != 0 {
		columns = f.dimensions
	}
	w, err := newVectorWriter(f.format, out, columns)
	if err != nil {
		return err
	}
	if err := f.embed(c, b, w, columns); err != nil {
		return err
	}
	return w.Close()
}

// embed carries lines from standard input to w.
func (f *embedFlags) embed(c *cobra.Command, b *backend.Backend, w vectorWriter, columns int) error {
	progress := newProgress(c.ErrOrStderr())
	lines := bufio.NewScanner(c.InOrStdin())
	lines.Buffer(nil, maxLineBytes)
	options := backend.CallOptions{PromptName: f.promptName, Dimensions: f.dimensions}
	texts := make([]backend.Text, 0, linesPerCall)
	codes := make([]status.Code, linesPerCall)
	rows := make([]float32, linesPerCall*max(columns, 0))
	done := 0
	flush := func() error {
		result := backend.Result{}
		if err := b.EmbedTexts(c.Context(), texts, options, backend.Output{Rows: rows, Status: codes, Result: &result}); err != nil {
			return err
		}
		for i := range texts {
			if codes[i] != status.OK {
				return fmt.Errorf("line %d: %s", done+i+1, strings.TrimPrefix(result.Items[i].Message, fmt.Sprintf("item %d: ", i)))
			}
			if err := w.Write(rows[i*columns : (i+1)*columns]); err != nil {
				return err
			}
		}
		done += len(texts)
		texts = texts[:0]
		return progress.Set(done)
	}
	for lines.Scan() {
		texts = append(texts, backend.Text{Text: lines.Text()})
		if len(texts) == linesPerCall {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d is longer than %d bytes", done+len(texts)+1, maxLineBytes)
	}
	if err := errors.Join(lines.Err(), flush()); err != nil {
		return err
	}
	return progress.Finish()
}

// newProgress shows lines done and their rate, where stderr is a terminal.
func newProgress(stderr io.Writer) *progressbar.ProgressBar {
	file, ok := stderr.(*os.File)
	visible := ok && term.IsTerminal(int(file.Fd()))
	return progressbar.NewOptions(-1, progressbar.OptionSetWriter(stderr), progressbar.OptionSetVisibility(visible),
		progressbar.OptionSetDescription("embedding"), progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("lines"),
		progressbar.OptionClearOnFinish())
}
