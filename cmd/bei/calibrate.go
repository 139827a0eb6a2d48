package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
)

// quietTime passes before progress is shown: what ends sooner needs none.
const quietTime = 2 * time.Second

type calibrateFlags struct {
	open       openFlags
	texts      string
	output     string
	maxTexts   int
	promptName string
}

func newCalibrateCommand() *cobra.Command {
	var flags calibrateFlags
	c := &cobra.Command{
		Use:   "calibrate MODEL --texts FILE",
		Short: "Measure what FP8 needs to know of a model: the range of its activations",
		Long: `calibrate runs the UTF-8 lines of FILE through the model MODEL, in float32 on the CPU, and keeps the largest
magnitude (amax) of what each linear map is given. It writes them to ` + calibration.FileName + ` beside the model, from where engines that
multiply in FP8 take their scales: what lies above a map's amax later is cut off.

So the texts should be like those that the model will serve, in language, length and prompt, and enough to show what they
hold: some hundred lines are a usual choice. The file belongs to these weights and is refused for others. Lines that are
too long for the model are cut. A line that cannot be run, such as an empty one, ends the command with an error that names it,
and an older ` + calibration.FileName + ` stays.`,
		Example: `  bei calibrate models/Qwen3-Embedding-0.6B --texts questions.txt
  bei calibrate models/Qwen3-Embedding-0.6B --texts corpus.txt --max-texts 512 --output /tmp/` + calibration.FileName,
		Args: oneModel,
		RunE: func(c *cobra.Command, args []string) error { return flags.run(c, args[0]) },
	}
	flags.open.register(c)
	c.Flags().StringVar(&flags.texts, "texts", "", "file with a text in each line (needed)")
	c.Flags().StringVarP(&flags.output, "output", "o", "", "file to write to (default: "+calibration.FileName+" in the model's folder)")
	c.Flags().IntVar(&flags.maxTexts, "max-texts", 0, "use the first lines only, so many (default: all)")
	c.Flags().StringVar(&flags.promptName, "prompt-name", "", "the model's prompt to put before each line")
	return c
}

func (f *calibrateFlags) run(c *cobra.Command, model string) (err error) {
	if f.texts == "" {
		return fmt.Errorf("--texts is missing: a file with a text in each line; see '%s --help'", c.CommandPath())
	}
	if f.maxTexts < 0 {
		return fmt.Errorf("--max-texts is %d; it must not be negative", f.maxTexts)
	}
	texts, err := os.Open(f.texts)
	if err != nil {
		return err
	}
	defer texts.Close()
	config, err := f.open.config(model)
	if err != nil {
		return err
	}
	k, err := backend.OpenCalibrator(c.Context(), config)
	if err != nil {
		return err
	}
	defer func() { _ = k.Close() }()
	if err := f.feed(c, k, texts); err != nil {
		return err
	}
	scales, err := k.Scales()
	if err != nil {
		return fmt.Errorf("%s: %w", f.texts, err)
	}
	path := f.output
	if path == "" {
		path = filepath.Join(k.Folder(), calibration.FileName)
	}
	if err := scales.Write(path); err != nil {
		return err
	}
	fmt.Fprintf(c.OutOrStdout(), "%s: %d maxima over %d texts, %d tokens\n", path, len(scales.Keys()), scales.Texts, scales.Tokens)
	return nil
}

// errEnough ends the reading at --max-texts.
var errEnough = errors.New("enough")

// linesPerRound lines are run together: few enough that progress moves, and enough for some runs of short lines.
const linesPerRound = 128

// feed gives the lines of texts to k.
func (f *calibrateFlags) feed(c *cobra.Command, k *backend.Calibrator, texts *os.File) error {
	start, progress := time.Now(), newProgress(c.ErrOrStderr(), "calibrating")
	var lines []string
	done := 0
	flush := func() error {
		if len(lines) == 0 {
			return nil
		}
		item, err := k.Add(c.Context(), lines, f.promptName)
		if err != nil && item >= 0 {
			return fmt.Errorf("%s: line %d: %w", f.texts, done+item+1, err)
		}
		if err != nil {
			return err
		}
		done, lines = done+len(lines), lines[:0]
		if time.Since(start) < quietTime {
			return nil
		}
		return progress.Set(done)
	}
	err := eachLine(c.Context(), texts, func(line string) error {
		lines = append(lines, line)
		if f.maxTexts > 0 && done+len(lines) == f.maxTexts {
			return errEnough
		}
		if len(lines) == linesPerRound {
			return flush()
		}
		return nil
	})
	if errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("%s: line %d is longer than %d bytes", f.texts, done+len(lines)+1, maxLineBytes)
	}
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if err := flush(); err != nil {
		return err
	}
	if time.Since(start) < quietTime {
		return nil
	}
	return progress.Finish()
}
