// Package backend is the runtime: it opens a model on an engine, carries texts and token batches through the pipeline, and
// tells health, metrics and information. capi gives it to C; Go programs use it directly:
//
//	b, err := backend.Open(ctx, backend.Config{Model: "models/all-MiniLM-L6-v2"})
//	...
//	defer b.Close(ctx)
//	rows := make([]float32, len(texts)*int(b.Info().Dimensions))
//	err = b.EmbedTexts(ctx, texts, backend.CallOptions{}, backend.Output{Rows: rows})
//
// # Caveats
//
// All methods may be called from any goroutine. Slices passed in are read and written only during the call. Close waits for calls under
// way; calls that come later get status.ShutDown.
package backend

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/device"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/tokenize"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// Version is the library's version; the build sets it.
var Version = "0.1.0-dev"

// Backend is an open model on an engine.
type Backend struct {
	config    Config
	queue     pipeline.Config // of config, with defaults
	log       *zap.Logger
	folder    string      // of the model; "": there is none
	commit    string      // of a hub's model
	model     *arch.Model // nil for the mock engine
	weights   *weights.Set
	tokenizer *tokenize.Tokenizer // nil without tokenizer.json (mock engine only)
	engine    engine.Engine
	pipe      *pipeline.Pipeline
	monitor   device.Monitor
	info      Info
	prompt    string                 // the default prompt
	template  *tokenize.PairTemplate // of a reranker that is a language model; nil: the tokenizer joins pairs
	tagger    *tagger                // of a token classifier with a tokenizer
	metrics   *metrics
	opened    time.Duration
	closed    atomic.Bool
	// calibrates: the engine is an onnx.Engine that keeps maxima, for a Calibrator.
	calibrates bool
	weightless []uint32 // token ids without a weight, of models with an arch.TokenHead
	choice     string   // why the engine is what it is
	decisions  []arch.Decision
	parity     parity // with the references of the model's folder
	// tokenizerUse is held for reading by calls that use the tokenizer outside the pipeline; for writing to close it.
	tokenizerUse sync.RWMutex
	cut          atomic.Bool  // these calls must end: the time that Close gives them is over
	cutCalls     atomic.Int64 // those that did
}

// Open opens the model of c.Model on the engine that c chooses, warms it up, and holds it to the folder's bei-manifest.json (c.Verify). Errors are *status.Error. ctx bounds the
// opening only.
func Open(ctx context.Context, c Config) (*Backend, error) { return openBackend(ctx, c, false) }

// openBackend is Open, or OpenCalibrator's.
func openBackend(ctx context.Context, c Config, calibrates bool) (*Backend, error) {
	start := time.Now()
	if err := c.check(); err != nil {
		return nil, err
	}
	c.Go.apply()
	b := &Backend{config: c, queue: c.pipeline(), log: newLogger(c.Log), metrics: newMetrics(), calibrates: calibrates}
	if err := b.open(ctx); err != nil {
		failure := status.Of(err, status.Start)
		b.log.Error("open failed", zap.String("model", c.Model), zap.Stringer("code", failure.Code), zap.Error(failure))
		if err := b.shut(context.Background()); err != nil {
			b.log.Error("closing after a failed open", zap.Error(err))
		}
		return nil, failure
	}
	debug.FreeOSMemory() // what parsing left behind would stay resident until the next collection, which may be far
	b.opened = time.Since(start)
	i := b.engine.Info()
	b.log.Info("open", zap.String("model", c.Model), zap.String("engine", i.Name), zap.String("engine_choice", b.choice), zap.String("engine_version", i.Version),
		zap.String("device", i.Device), zap.String("precision", i.Precision), zap.Uint32("slots", b.info.Slots), zap.Any("limits", i.Limits),
		zap.Any("details", i.Details), zap.String("devices", b.monitor.Describe()), zap.Duration("took", b.opened))
	return b, nil
}

func (b *Backend) open(ctx context.Context) (err error) {
	if err := b.findFolder(ctx); err != nil {
		return err
	}
	if err := b.openTokenizer(); err != nil {
		return err
	}
	b.monitor = device.Open()
	if b.engine, b.choice, err = b.openEngine(ctx); err != nil {
		return err
	}
	if b.prompt, err = b.defaultPrompt(); err != nil {
		return err
	}
	if b.weightless, err = b.readSpecialTokens(); err != nil {
		return err
	}
	b.info = b.describe()
	if b.info.HasTokenizer {
		if err := checkVocabulary(b.tokenizer, int(b.info.VocabSize)); err != nil {
			return err
		}
	}
	if err := b.openTagger(); err != nil {
		return err
	}
	b.queue.Fallback = b.fallback()
	b.pipe = pipeline.New(b.engine, b.queue, pipeline.NewMetrics(b.metrics.registry), b.log)
	b.metrics.watch(b)
	if err := b.warmUp(ctx); err != nil {
		return err
	}
	return b.verifyAtOpen(ctx)
}

func (b *Backend) openTokenizer() (err error) {
	if b.folder == "" {
		return nil
	}
	text, err := arch.ReadText(b.folder)
	if err != nil {
		return err
	}
	c, decisions, err := arch.ReadTokenizer(b.folder)
	b.decisions = decisions
	if err != nil {
		return err
	}
	b.tokenizer, err = tokenize.Open(b.folder, text.LowerCase, c)
	return err
}

// defaultPrompt is the text put before texts when a call names no prompt.
func (b *Backend) defaultPrompt() (string, error) {
	c := &b.config
	switch {
	case c.DefaultPrompt != "":
		return c.DefaultPrompt, nil
	case c.DefaultPromptName != "":
		return b.promptNamed(c.DefaultPromptName)
	case b.model != nil && b.model.Text.DefaultPrompt != "":
		return b.promptNamed(b.model.Text.DefaultPrompt)
	}
	return "", nil
}

// promptNamed looks a prompt of the model up.
func (b *Backend) promptNamed(name string) (string, error) {
	var prompts map[string]string
	if b.model != nil {
		prompts = b.model.Text.Prompts
	}
	prompt, ok := prompts[name]
	if !ok {
		return "", status.Errorf(status.InvalidArgument, "prompt_name %q is none of the model's prompts: %s", name, promptNames(prompts))
	}
	return prompt, nil
}

// warmUp runs one token, and then one full run, so that memory and threads are there before the first request.
func (b *Backend) warmUp(ctx context.Context) error {
	o := CallOptions{Timeout: -1} // ctx bounds it, not the default timeout of calls
	if err := b.runZeros(ctx, "warm_up", 1, 1, o); err != nil {
		return warmUpError(ctx, err)
	}
	limits := b.engine.Info().Limits
	length := min(limits.MaxLength, limits.BestTokens)
	n := min(limits.BestTokens/length, limits.MaxSequences, b.queue.MaxItems)
	if err := b.runZeros(ctx, "warm_up", n, length, o); err != nil {
		return warmUpError(ctx, err)
	}
	return nil
}

// warmUpError is what Open says of a failed run: status.Start, whatever failed in it, unless the caller ended the opening.
func warmUpError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	return status.Errorf(status.Start, "warm-up: %w", err)
}

// runZeros runs a batch of n sequences of length tokens, all alike; call is its name in the metrics.
func (b *Backend) runZeros(ctx context.Context, call string, n, length int, o CallOptions) error {
	batch := Batch{InputIDs: make([]uint32, n*length), CumulativeSeqLengths: make([]uint32, n+1)}
	if pad := b.padToken(); pad != nil && *pad == 0 && b.info.VocabSize > 1 { // padding would be cut off
		for i := range batch.InputIDs {
			batch.InputIDs[i] = 1
		}
	}
	items := make([]uint32, n)
	for i := range n {
		batch.CumulativeSeqLengths[i+1] = uint32((i + 1) * length)
		items[i] = uint32(i)
	}
	info := b.engine.Info()
	switch {
	case info.Outputs&engine.Pooled != 0:
		batch.PooledIndices = items
		return b.runBatch(ctx, call, batch, o, Output{Rows: make([]float32, n*info.PooledWidth)}, info.Outputs)
	case info.Outputs&engine.Sparse != 0:
		batch.SparseIndices = items
	default:
		batch.RawIndices = items
	}
	return b.runBatch(ctx, call, batch, o, Output{Result: &Result{}}, info.Outputs)
}

// UseSlot gives f the engine's slot i, of Info.Slots, for itself: it waits for the run under way there, and later runs wait for f, as
// Close does. It is for measuring the bare engine; calls go through Embed and its siblings, which check, queue and isolate. Errors
// are f's, status.InvalidArgument for a slot that is not there, and status.ShutDown.
func (b *Backend) UseSlot(i int, f func(engine.Slot) error) error { return b.pipe.UseSlot(i, f) }

// Close ends the backend: calls under way may finish until ctx ends, the rest gets status.ShutDown. The error is
// status.Timeout when calls were cut off; all memory is released all the same. Only when a run never returned
// (status.Unhealthy) the engine's memory stays. A second Close does nothing.
func (b *Backend) Close(ctx context.Context) error {
	if b.closed.Swap(true) {
		return nil
	}
	b.log.Info("closing")
	err := b.shut(ctx)
	b.log.Info("closed", zap.Error(err))
	return err
}

// shut releases what is open, last opened first.
func (b *Backend) shut(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { b.cut.Store(true) })
	defer stop()
	var cut error
	if b.pipe != nil {
		if cut = b.pipe.Close(ctx); status.CodeOf(cut) == status.Unhealthy {
			return cut
		}
	}
	var errs []error
	if b.monitor != nil {
		errs = append(errs, b.monitor.Close())
	}
	if b.engine != nil {
		errs = append(errs, b.engine.Close())
	}
	if b.weights != nil {
		errs = append(errs, b.weights.Close())
	}
	if b.tokenizer != nil {
		b.tokenizerUse.Lock()
		b.tokenizer.Close()
		b.tokenizerUse.Unlock()
	}
	if n := b.cutCalls.Load(); n > 0 && cut == nil {
		cut = status.Errorf(status.Timeout, "%d calls were cut off by the shutdown", n)
	}
	if err := errors.Join(errs...); err != nil {
		return status.Errorf(status.Internal, "closing: %w", err)
	}
	return cut
}
