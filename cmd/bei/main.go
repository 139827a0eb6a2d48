// Command bei looks at models and runs them from the command line, on the same runtime as libbei.so.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/hub"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bei:", err)
		stop()
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "bei",
		Short: "Embeddings from the command line",
		Long: `bei looks at models and runs them, on the same runtime as libbei.so.

A model is a folder as Hugging Face keeps it: config.json, model.safetensors, tokenizer.json, and the files of
sentence-transformers where there are any. Or it is a model's id on the Hugging Face hub, where there is no folder of that name:
its files are then fetched into the cache that Python's huggingface_hub uses, and taken from there the next time. The
variables are huggingface_hub's: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and others.`,
		Example: `  bei info models/all-MiniLM-L6-v2
  echo "How do I reset my password?" | bei embed models/all-MiniLM-L6-v2
  bei embed models/all-MiniLM-L6-v2 --format npy --output vectors.npy < lines.txt
  bei embed BAAI/bge-small-en-v1.5 --revision main < lines.txt
  bei bench models/all-MiniLM-L6-v2 --batches 1x32,32x128`,
		Version:       backend.Version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newInfoCommand(), newEmbedCommand(), newBenchCommand(), newCalibrateCommand(), newVerifyCommand())
	return root
}

// oneModel wants one argument, the model's folder or id.
func oneModel(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s takes one argument, the model's folder or its id on a hub, and got %d; see '%s --help'",
			c.CommandPath(), len(args), c.CommandPath())
	}
	return nil
}

// openFlags are the flags of commands that open a model.
type openFlags struct {
	command  *cobra.Command
	options  string
	engine   string
	device   string
	dtype    string
	revision string
	token    string
	threads  int
	verbose  bool
}

func (f *openFlags) register(c *cobra.Command) {
	f.command = c
	c.Flags().StringVar(&f.revision, "revision", "", "branch, tag or commit of a model of a hub (default: main)")
	c.Flags().StringVar(&f.token, "hf-token", "", "token for private and gated models (default: HF_TOKEN, or that of a login)")
	c.Flags().StringVar(&f.options, "options", "{}", "further options, one JSON object, as bei_init takes (see 'bei info --schema')")
	c.Flags().IntVar(&f.threads, "threads", 0, "threads of the engine (default: the physical cores)")
	c.Flags().BoolVarP(&f.verbose, "verbose", "v", false, "log to stderr what is done")
}

// registerEngine adds the flags of commands that any engine can serve.
func (f *openFlags) registerEngine(c *cobra.Command) {
	c.Flags().StringVar(&f.engine, "engine", "", "onnxruntime, tensorrt or mock (default: what is measured to be fastest on a GPU; without one onnxruntime)")
	c.Flags().StringVar(&f.device, "device", "", "cpu or cuda (default: a GPU where there is one; for --engine onnxruntime the CPU)")
	c.Flags().StringVar(&f.dtype, "dtype", "", "precision of the computation: float32, float16, bfloat16 or float8 (default: the engine's choice)")
}

// open opens a model: a folder, or an id on a hub.
func (f *openFlags) open(ctx context.Context, model string) (*backend.Backend, error) {
	c, err := f.config(model)
	if err != nil {
		return nil, err
	}
	return backend.Open(ctx, c)
}

// config is what the flags say of a model.
func (f *openFlags) config(model string) (backend.Config, error) {
	c, err := backend.ParseConfig([]byte(f.options))
	if err != nil {
		return c, err
	}
	c.Model = model
	for _, o := range []struct{ flag, option *string }{{&f.engine, &c.Engine}, {&f.device, &c.Device}, {&f.dtype, &c.DType},
		{&f.revision, &c.Revision}, {&f.token, &c.Hub.Token}} {
		if *o.flag != "" {
			*o.option = *o.flag
		}
	}
	if f.threads != 0 {
		c.Threads = f.threads
	}
	if c.Log.Level == "" {
		c.Log.Level = "off" // what fails is printed once, as the command's error
		if f.verbose {
			c.Log.Level = "info"
		}
	}
	if c.Log.Format == "" {
		c.Log.Format = "console"
	}
	// The command line's values must stand up to the schema as well.
	text, err := json.Marshal(c)
	if err != nil {
		return c, err
	}
	if c, err = backend.ParseConfig(text); err != nil {
		return c, err
	}
	if !f.verbose {
		c.Hub.Progress = newFetchProgress(f.command.ErrOrStderr())
	}
	return c, nil
}

// newFetchProgress shows the bytes that are fetched from a hub, where it takes long.
func newFetchProgress(stderr io.Writer) func(hub.Progress) {
	start := time.Now()
	bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(stderr), progressbar.OptionSetVisibility(isTerminal(stderr)),
		progressbar.OptionSetDescription("fetching from the hub"), progressbar.OptionShowBytes(true), progressbar.OptionShowTotalBytes(true),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	return func(p hub.Progress) {
		if time.Since(start) < quietTime {
			return
		}
		bar.ChangeMax64(p.Total)
		_ = bar.Set64(p.Done) // a terminal that went away hinders nothing
	}
}
