package backend

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/manifest"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/tokenize"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// The values of Config.Verify.
const (
	verifyFull = "full"
	verifyOff  = "off"
)

// States of parity in the info.
const (
	parityPassed = "passed"
	parityNone   = "none" // the model's folder has no manifest, or there is no model
	parityOff    = "off"
)

// parity is how the start's check went.
type parity struct {
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"` // of a state that is not passed
	*manifest.Report
}

// itemsTogether are run in one call: enough to fill runs, and bounded where items' outputs are large.
const itemsTogether = 64

// verifyAtOpen holds the engine to the manifest of the model's folder, where it has one.
func (b *Backend) verifyAtOpen(ctx context.Context) error {
	switch {
	case b.folder == "":
		b.parity = parity{State: parityNone, Reason: "there is no model folder"}
		return nil
	case b.config.Verify == verifyOff:
		b.parity = parity{State: parityOff, Reason: "the option verify is off"}
		if _, err := os.Stat(filepath.Join(b.folder, manifest.FileName)); err == nil {
			b.log.Warn("the outputs are not verified: the option verify is off", zap.String("file", manifest.FileName))
		}
		return nil
	}
	report, err := b.Verify(ctx, b.config.Verify == verifyFull)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		b.parity = parity{State: parityNone, Reason: "the model's folder has no " + manifest.FileName}
		return nil
	case errors.Is(err, errNoModel):
		b.parity = parity{State: parityNone, Reason: err.Error()}
		b.log.Info("the outputs are not verified", zap.Error(err))
		return nil
	case err != nil && ctx.Err() != nil:
		return status.Errorf(status.Cancelled, "verifying the model: %w", context.Cause(ctx))
	case err != nil:
		return status.Errorf(status.Start, "verifying the model: %w", err)
	}
	if n := len(report.Failures); n > 0 {
		return status.Errorf(status.Start, "%s: parity failed in %d places on engine %q in %s, the first: %s; fix: another dtype or engine, or a new manifest "+
			"('bei verify' shows all items, 'bei verify --write' makes the file); \"verify\": \"off\" serves it as it is", filepath.Join(b.folder, manifest.FileName),
			n, b.engine.Info().Name, report.Precision, report.Failures[0])
	}
	b.parity = parity{State: parityPassed, Report: report}
	b.metrics.watchParity(report)
	b.log.Info("parity", zap.String("file", manifest.FileName), zap.Int("items", report.Items), zap.Int("skipped", report.Skipped),
		zap.Float64p("worst_cosine", report.WorstCosine), zap.Float64("worst_error", report.WorstError), zap.String("precision", report.Precision))
	return nil
}

var errNoModel = status.Errorf(status.Unsupported, "the mock engine computes no model, and the manifest's references are not its own")

// Verify compares the files of the model's folder with its manifest, runs the manifest's items, alone and in batches, and compares their
// outputs with the references: Report.Failures tells where they differ. full hashes weights, too. Errors: status.Start where the manifest or a file is wrong (and
// fs.ErrNotExist where there is no manifest), those of runs, and ctx's.
func (b *Backend) Verify(ctx context.Context, full bool) (*manifest.Report, error) {
	start := time.Now()
	m, err := manifest.Read(b.folder)
	if err != nil {
		return nil, err
	}
	if e := b.engine.Info(); b.model == nil && (m.Reference == nil || m.Reference.Engine != e.Name) {
		return nil, errNoModel
	}
	if err := b.checkManifest(ctx, m, full); err != nil {
		return nil, err
	}
	var results [2][]manifest.Result // alone, together
	for i, together := range []int{1, min(itemsTogether, b.queue.MaxItems)} {
		if results[i], err = b.reference(ctx, m.Items, together); err != nil {
			return nil, status.Errorf(status.CodeOf(err), "%s: %w", filepath.Join(b.folder, manifest.FileName), err)
		}
	}
	e := b.engine.Info()
	report := m.Compare(manifest.Precision(e.Precision, e.Device), results[0], results[1])
	report.Seconds = time.Since(start).Seconds()
	return report, nil
}

// checkManifest checks that the manifest belongs to the model as it was opened.
func (b *Backend) checkManifest(ctx context.Context, m *manifest.Manifest, full bool) error {
	own := b.manifestModel()
	fail := func(key string, theirs, ours any, fix string) error {
		return status.Errorf(status.Start, "%s: %s is %v, but the model was opened with %v; %s, or set \"verify\": \"off\"",
			filepath.Join(b.folder, manifest.FileName), key, theirs, ours, fix)
	}
	const options = "leave out the options that change it (pooling, reranker)"
	switch {
	case m.Model.Type != own.Type:
		return fail("model.type", m.Model.Type, own.Type, options)
	case m.Model.Output != own.Output:
		return fail("model.output", m.Model.Output, own.Output, options)
	case len(m.Model.Pooling) > 0 && !slices.Equal(m.Model.Pooling, own.Pooling):
		return fail("model.pooling", m.Model.Pooling, own.Pooling, options)
	case m.Model.Width != own.Width:
		return fail("model.width", m.Model.Width, own.Width, options)
	case m.WeightsFingerprint != "" && b.weights != nil && m.WeightsFingerprint != b.weights.Fingerprint():
		return fail("weights_fingerprint", m.WeightsFingerprint, b.weights.Fingerprint(), "restore the weights, or make the file with 'bei verify --write'")
	}
	return m.CheckFiles(ctx, b.folder, func(name string) bool { return full || !isWeights(name) })
}

// isWeights tells files that take long to hash. Their fingerprint stands in, and their sizes.
func isWeights(name string) bool { return strings.HasSuffix(name, ".safetensors") }

// manifestModel is what a manifest of this backend says of the model.
func (b *Backend) manifestModel() manifest.Model {
	e, m := b.engine.Info(), manifest.Model{Type: b.info.ModelType.String()}
	switch b.info.ModelType {
	case ModelClassifier:
		m.Output, m.Width = manifest.Logits, int(b.info.Labels)
	case ModelTokenClassifier:
		m.Output, m.Width = manifest.TokenLogits, int(b.info.Labels)
	default:
		if m.Output, m.Width = manifest.Pooled, e.PooledWidth; e.Outputs&engine.Pooled == 0 {
			m.Output, m.Width = manifest.Sparse, e.SparseWidth
		}
	}
	if b.model != nil && b.info.ModelType == ModelEmbedding {
		for _, mode := range b.model.Head.Pooling.Modes {
			m.Pooling = append(m.Pooling, mode.String())
		}
	}
	return m
}

// reference runs items, at most so many in one call, and returns their outputs. The default prompt is the model's own, whatever the
// config says. An error names the item.
func (b *Backend) reference(ctx context.Context, items []manifest.Item, together int) ([]manifest.Result, error) {
	results := make([]manifest.Result, len(items))
	for first := 0; first < len(items); {
		// One call has one prompt, and either texts or token ids.
		n, head := 1, &items[first]
		for first+n < len(items) && n < together && alike(head, &items[first+n]) {
			n++
		}
		if err := b.referenceCall(ctx, first, items[first:first+n], results[first:first+n]); err != nil {
			return nil, err
		}
		first += n
	}
	return results, nil
}

func alike(a, b *manifest.Item) bool {
	return a.PromptName == b.PromptName && (a.Text == nil) == (b.Text == nil) && (a.Pair == nil) == (b.Pair == nil)
}

// referenceCall runs items that are alike in one call; first is the first one's index, for messages.
func (b *Backend) referenceCall(ctx context.Context, first int, items []manifest.Item, results []manifest.Result) error {
	model := b.manifestModel()
	want := map[manifest.Output]engine.Outputs{manifest.Sparse: engine.Sparse, manifest.TokenLogits: engine.TokenVectors}[model.Output]
	if want == 0 {
		want = engine.Pooled
	}
	result, codes := Result{}, make([]status.Code, len(items))
	out := Output{Status: codes, Result: &result}
	if want == engine.Pooled {
		out.Rows = make([]float32, len(items)*model.Width)
	}
	options := CallOptions{PromptName: items[0].PromptName, Truncate: Off, Timeout: -1}
	if err := b.runItems(ctx, items, options, out, want); err != nil {
		return status.Errorf(status.CodeOf(err), "items.%d: %w", first, err)
	}
	for i := range items {
		switch it := &result.Items[i]; {
		case codes[i] == status.TooLong && b.model != nil && int(b.info.MaxLength) < b.model.MaxLength:
			results[i].TooLong = true
		case codes[i] != status.OK:
			return status.Errorf(codes[i], "items.%d (%s): %s", first+i, items[i].Label(), it.Message)
		case want == engine.Pooled:
			results[i].Values = out.Rows[i*model.Width : (i+1)*model.Width]
		case want == engine.Sparse:
			results[i].Values, results[i].Indices = it.Sparse, it.SparseIDs
		default:
			results[i].Values = it.TokenVectors
		}
	}
	return nil
}

// runItems is one call of texts or of token ids.
func (b *Backend) runItems(ctx context.Context, items []manifest.Item, o CallOptions, out Output, want engine.Outputs) error {
	const call = "verify" // in the metrics
	if items[0].Text != nil {
		texts := make([]Text, len(items))
		for i, it := range items {
			texts[i] = Text{Text: *it.Text, Outputs: want}
			if it.Pair != nil {
				texts[i].Pair, texts[i].HasPair = *it.Pair, true
			}
		}
		own, err := b.ownPrompt()
		if err != nil {
			return err
		}
		return b.run(ctx, call, o, out, want, func(r *results) (pipeline.Work, error) {
			w, err := b.newTextWork(texts, o, r)
			if err != nil {
				return nil, err
			}
			if o.PromptName == "" {
				w.encoder.prompt = own
			}
			return w, w.checkOutputs(len(texts), w.wants)
		}, pipeline.Options{})
	}
	batch := Batch{CumulativeSeqLengths: []uint32{0}}
	typed := slices.ContainsFunc(items, func(it manifest.Item) bool { return it.TokenTypeIDs != nil })
	var indices []uint32
	for i, it := range items {
		batch.InputIDs = append(batch.InputIDs, it.InputIDs...)
		if typed {
			batch.TokenTypeIDs = append(batch.TokenTypeIDs, it.TokenTypeIDs...)
			batch.TokenTypeIDs = append(batch.TokenTypeIDs, make([]uint32, len(batch.InputIDs)-len(batch.TokenTypeIDs))...)
		}
		batch.CumulativeSeqLengths = append(batch.CumulativeSeqLengths, uint32(len(batch.InputIDs)))
		indices = append(indices, uint32(i))
	}
	switch want {
	case engine.Pooled:
		batch.PooledIndices = indices
	case engine.Sparse:
		batch.SparseIndices = indices
	default:
		batch.RawIndices = indices
	}
	return b.runBatch(ctx, call, batch, o, out, want)
}

// ownPrompt is the model's own default prompt.
func (b *Backend) ownPrompt() (string, error) {
	if b.model == nil || b.model.Text.DefaultPrompt == "" {
		return "", nil
	}
	return b.promptNamed(b.model.Text.DefaultPrompt)
}

// Manifest runs items, whose references it ignores, and returns a manifest with what they gave, and with the hashes of the model's files.
// The engine should compute in float32 on the CPU. Errors name the item.
func (b *Backend) Manifest(ctx context.Context, items []manifest.Item) (*manifest.Manifest, error) {
	if b.folder == "" {
		return nil, status.Errorf(status.InvalidArgument, "a manifest is of a model's folder, and there is none")
	}
	e := b.engine.Info()
	m := &manifest.Manifest{Model: b.manifestModel(), Reference: &manifest.Identity{
		Library: Version, Engine: e.Name, EngineVersion: e.Version, Device: e.Device, Precision: e.Precision}}
	if b.weights != nil {
		m.WeightsFingerprint = b.weights.Fingerprint()
	}
	results, err := b.reference(ctx, items, 1)
	if err != nil {
		return nil, err
	}
	for i, it := range items {
		if results[i].TooLong {
			return nil, status.Errorf(status.TooLong, "items.%d (%s) is longer than max_length %d", i, it.Label(), b.info.MaxLength)
		}
		it.Values, it.Indices = results[i].Values, results[i].Indices
		m.Items = append(m.Items, it)
	}
	m.Rank()
	for _, name := range b.manifestFiles() {
		f, err := manifest.Hash(ctx, b.folder, name)
		if err != nil {
			return nil, status.Errorf(status.Start, "%s: %w", filepath.Join(b.folder, name), err)
		}
		m.Files = append(m.Files, f)
	}
	return m, nil
}

// manifestFiles are the files of the folder that decide on outputs: configs, the tokenizer, weights.
func (b *Backend) manifestFiles() []string {
	folders := []string{""}
	if more, err := weights.Folders(b.folder); err == nil { // the model is open: an error would have been Open's
		for _, folder := range more {
			if !slices.Contains(folders, folder) {
				folders = append(folders, folder)
			}
		}
	}
	var names []string
	for _, folder := range folders {
		for _, name := range append(arch.Files(), tokenize.FileName) {
			name = path.Join(folder, name)
			if info, err := os.Stat(filepath.Join(b.folder, name)); err == nil && info.Mode().IsRegular() && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if b.weights != nil {
		names = append(names, b.weights.Files()...)
	}
	return names
}

// Folder is where the model's files are: the folder that was named, or that of a hub's cache; "": there is none.
func (b *Backend) Folder() string { return b.folder }

// Pairs tells that the model is a reranker, which takes pairs of texts.
func (b *Backend) Pairs() bool { return b.info.ModelType == ModelClassifier && b.info.Labels == 1 }
