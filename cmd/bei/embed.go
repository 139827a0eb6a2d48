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
		Use:   "embed MODEL < lines",
		Short: "Embed each line of standard input",
		Long: `embed reads UTF-8 lines from standard input and writes a vector for each, in order.

--format json writes one JSON array a line; npy writes a float32 matrix for numpy.load, [lines x dimensions], which
needs a file (--output, or standard output redirected to a file). Lines that are too long for the model are cut. A line that
cannot be embedded, such as an empty one, ends the command with an error that names it.`,
		Example: `  printf 'one\ntwo\n' | bei embed models/all-MiniLM-L6-v2
  bei embed models/all-MiniLM-L6-v2 --format npy --output vectors.npy < lines.txt`,
		Args: oneModel,
		RunE: func(c *cobra.Command, args []string) error { return flags.run(c, args[0]) },
	}
	flags.open.register(c)
	flags.open.registerEngine(c)
	c.Flags().StringVar(&flags.format, "format", "json", "json or npy")
	c.Flags().StringVarP(&flags.output, "output", "o", "", "file to write to (default: standard output)")
	c.Flags().StringVar(&flags.promptName, "prompt-name", "", "the model's prompt to put before each line")
	c.Flags().IntVar(&flags.dimensions, "dimensions", 0, "cut vectors to their first numbers (default: all)")
	return c
}

func (f *embedFlags) run(c *cobra.Command, model string) (err error) {
	if f.format != "json" && f.format != "npy" {
		return fmt.Errorf("--format %q: it is json or npy", f.format)
	}
	b, err := f.open.open(c.Context(), model)
	if err != nil {
		return err
	}
	defer func() { _ = b.Close(context.Background()) }()
	columns := int(b.Info().Dimensions)
	if f.dimensions != 0 {
		if f.dimensions < 1 || f.dimensions > columns {
			return fmt.Errorf("--dimensions is %d; it can be 1 to %d", f.dimensions, columns)
		}
		columns = f.dimensions
	}
	out := c.OutOrStdout()
	if f.output != "" { // not before the model is open, so that a wrong folder leaves an old file alone
		var file *os.File
		if file, err = os.Create(f.output); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		out = file
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
	progress := newProgress(c.ErrOrStderr(), "embedding")
	if isTerminal(c.InOrStdin()) {
		fmt.Fprintln(c.ErrOrStderr(), "bei: reading lines from the terminal; Ctrl-D ends them")
	}
	options := backend.CallOptions{PromptName: f.promptName, Dimensions: f.dimensions}
	texts := make([]backend.Text, 0, linesPerCall)
	codes := make([]status.Code, linesPerCall)
	rows := make([]float32, linesPerCall*columns)
	done := 0
	flush := func() error {
		if len(texts) == 0 {
			return nil
		}
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
	err := eachLine(c.Context(), c.InOrStdin(), func(line string) error {
		texts = append(texts, backend.Text{Text: line})
		if len(texts) == linesPerCall {
			return flush()
		}
		return nil
	})
	if errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("line %d is longer than %d bytes", done+len(texts)+1, maxLineBytes)
	}
	if err != nil {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	return progress.Finish()
}

// eachLine calls do with each line of in until the first error. It returns when ctx ends, too: a read from a terminal or a pipe
// cannot be interrupted, so it is made, and then left behind, on another goroutine.
func eachLine(ctx context.Context, in io.Reader, do func(line string) error) error {
	lines, ended := make(chan string), make(chan error, 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		scanner := bufio.NewScanner(in)
		scanner.Buffer(nil, maxLineBytes)
		for scanner.Scan() {
			select {
			case lines <- scanner.Text():
			case <-stop:
				return
			}
		}
		ended <- scanner.Err()
	}()
	for {
		select {
		case line := <-lines:
			if err := do(line); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-ctx.Done():
			return errInterrupted
		}
	}
}

func isTerminal(stream any) bool {
	file, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// newProgress shows lines done and their rate, where stderr is a terminal.
func newProgress(stderr io.Writer, description string) *progressbar.ProgressBar {
	return progressbar.NewOptions(-1, progressbar.OptionSetWriter(stderr), progressbar.OptionSetVisibility(isTerminal(stderr)),
		progressbar.OptionSetDescription(description), progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString("lines"),
		progressbar.OptionClearOnFinish())
}
