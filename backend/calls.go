package backend

import (
	"context"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Embed computes embeddings of token sequences; see bei_embed.
func (b *Backend) Embed(ctx context.Context, batch Batch, o CallOptions, out Output) error {
	if err := b.needs("embed", ModelEmbedding); err != nil {
		return err
	}
	return b.runBatch(ctx, "embed", batch, o, out, engine.Pooled|engine.TokenVectors|engine.Sparse)
}

// Predict computes raw class logits of token sequences; see bei_predict.
func (b *Backend) Predict(ctx context.Context, batch Batch, o CallOptions, out Output) error {
	if err := b.needs("predict", ModelClassifier); err != nil {
		return err
	}
	return b.runBatch(ctx, "predict", batch, o, out, engine.Pooled)
}

// PredictTokens computes raw logits of every token, in out.Result; see bei_predict_tokens.
func (b *Backend) PredictTokens(ctx context.Context, batch Batch, o CallOptions, out Output) error {
	if err := b.needs("predict_tokens", ModelTokenClassifier); err != nil {
		return err
	}
	return b.runBatch(ctx, "predict_tokens", batch, o, out, engine.TokenVectors)
}

// EmbedTexts tokenizes texts and computes their embeddings; see bei_embed_texts.
func (b *Backend) EmbedTexts(ctx context.Context, texts []Text, o CallOptions, out Output) error {
	if err := b.needs("embed_texts", ModelEmbedding); err != nil {
		return err
	}
	return b.runTexts(ctx, "embed_texts", texts, o, out, engine.Pooled|engine.TokenVectors|engine.Sparse|TokensOutput)
}

// PredictTexts tokenizes texts or pairs and computes their class logits; see bei_predict_texts.
func (b *Backend) PredictTexts(ctx context.Context, texts []Text, o CallOptions, out Output) error {
	if err := b.needs("predict_texts", ModelClassifier); err != nil {
		return err
	}
	return b.runTexts(ctx, "predict_texts", texts, o, out, engine.Pooled|TokensOutput)
}

// PredictTokensTexts tokenizes texts and names their entities; see bei_predict_tokens_texts. Each item that is ok has its entities, its
// tokens and their logits, whatever its Outputs.
func (b *Backend) PredictTokensTexts(ctx context.Context, texts []Text, o CallOptions, out Output) error {
	if err := b.needs("predict_tokens_texts", ModelTokenClassifier); err != nil {
		return err
	}
	return b.run(ctx, "predict_tokens_texts", o, out, engine.TokenVectors|TokensOutput,
		func(r *results) (pipeline.Work, error) { return b.newTaggedWork(texts, o, r) }, o.pipeline())
}

// needs checks that the model is of the type that a call is for.
func (b *Backend) needs(call string, t ModelType) error {
	if b.info.ModelType != t {
		err := status.Errorf(status.Unsupported, "%s needs a model of type %s, this one is of type %s", call, t, b.info.ModelType)
		b.metrics.observeCall(call, time.Now(), err)
		return err
	}
	return nil
}

func (b *Backend) runBatch(ctx context.Context, name string, batch Batch, o CallOptions, out Output, allowed engine.Outputs) error {
	options := o.pipeline()
	options.Prepared = true
	return b.run(ctx, name, o, out, allowed, func(r *results) (pipeline.Work, error) { return newBatchWork(batch, r) }, options)
}

func (b *Backend) runTexts(ctx context.Context, name string, texts []Text, o CallOptions, out Output, allowed engine.Outputs) error {
	return b.run(ctx, name, o, out, allowed, func(r *results) (pipeline.Work, error) {
		w, err := b.newTextWork(texts, o, r)
		if err != nil {
			return nil, err
		}
		return w, w.checkOutputs(len(texts), w.wants)
	},
		o.pipeline())
}

// run is the one way of a call through the pipeline.
func (b *Backend) run(ctx context.Context, name string, o CallOptions, out Output, allowed engine.Outputs,
	newWork func(*results) (pipeline.Work, error), po pipeline.Options) (err error) {
	start := time.Now()
	defer func() { b.metrics.observeCall(name, start, err) }()
	ctx, cancel := b.withTimeout(ctx, o)
	defer cancel()
	r, err := b.newResults(out, o, allowed)
	if err != nil {
		return err
	}
	w, err := newWork(r)
	if err != nil {
		return err
	}
	stats, err := b.pipe.Do(ctx, w, po)
	if err != nil {
		return err
	}
	stats.Total = time.Since(start)
	return r.finish(stats)
}

// withTimeout puts the call's timeout, or the config's, into ctx. A negative timeout is none.
func (b *Backend) withTimeout(ctx context.Context, o CallOptions) (context.Context, context.CancelFunc) {
	timeout := o.Timeout
	if timeout == 0 {
		timeout = time.Duration(b.config.Queue.TimeoutMS) * time.Millisecond
	}
	if timeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}

var errShutDown = status.Errorf(status.ShutDown, "the backend is shut down")

// Health tells whether the backend works: nil, or status.Unhealthy. Cheap by itself: hung slots, a last run that lost the engine, the
// engine's own word on all its replicas, and NVML's on the devices that it uses. Deep also runs one token before, within o's timeout, in
// whichever slot comes free first: it does not go through all slots.
func (b *Backend) Health(ctx context.Context, deep bool, o CallOptions) error {
	if deep {
		if err := b.runZeros(ctx, "health", 1, 1, CallOptions{Timeout: o.Timeout, Priority: 1}); err != nil {
			switch code := status.CodeOf(err); code {
			case status.Timeout, status.Overloaded, status.Cancelled, status.ShutDown:
				return err
			}
			return status.Errorf(status.Unhealthy, "one token did not run: %w", err)
		}
	}
	return b.health()
}

// health is the cheap check. Only the devices that the engine uses count: a GPU that is lost is no trouble on CPU, or on another GPU.
func (b *Backend) health() error {
	i := b.engine.Info()
	if err := b.pipe.Health(); err != nil || i.Device == "cpu" {
		return err
	}
	return b.monitor.Health(i.DeviceUUIDs...)
}
