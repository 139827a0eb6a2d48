package backend

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/tokenize"
)

// encodings are reused between items: one lives from an item's tokenization to its end.
var encodings = sync.Pool{New: func() any { return new(tokenize.Encoding) }}

// textWork runs texts: Prepare tokenizes on the pipeline's workers.
type textWork struct {
	*results
	texts     []Text
	wants     []engine.Outputs
	encoder   encoder
	encodings []*tokenize.Encoding // [n] set while the item is between Prepare and its end
	// Where entities are wanted:
	tagger      *tagger // nil: they are not
	aggregation Aggregation
}

// encoder is a call's resolved way to tokenize.
type encoder struct {
	tokenizer *tokenize.Tokenizer
	prompt    string
	template  *tokenize.PairTemplate // nil: the tokenizer joins pairs
	options   tokenize.Options
}

// newEncoder resolves prompt and truncation. truncate is what BEI_DEFAULT means for the call.
func (b *Backend) newEncoder(o CallOptions, truncate bool) (encoder, error) {
	e := encoder{tokenizer: b.tokenizer, prompt: b.prompt, template: b.template}
	if b.tokenizer == nil {
		return e, status.Errorf(status.Unsupported, "texts: this backend has no tokenizer; open it with \"model\" set to a folder with tokenizer.json")
	}
	if o.PromptName != "" {
		var err error
		if e.prompt, err = b.promptNamed(o.PromptName); err != nil {
			return e, err
		}
	}
	e.options = tokenize.Options{
		AddSpecial: o.AddSpecialTokens != Off,
		MaxLength:  int(b.info.MaxLength),
		Truncate:   o.Truncate == On || (o.Truncate == Default && truncate),
	}
	e.options.Side = b.truncationSide(o)
	return e, nil
}

// truncationSide is the call's, else that of the options, else that of the model's files.
func (b *Backend) truncationSide(o CallOptions) tokenize.Side {
	switch {
	case o.TruncationSide == SideLeft || o.TruncationSide == SideDefault && b.config.TruncationSide == "left":
		return tokenize.Left
	case o.TruncationSide == SideRight || b.config.TruncationSide == "right":
		return tokenize.Right
	}
	return b.tokenizer.TruncationSide
}

// takesPrompts tells that pairs can have a prompt: the instruction of a reranker's template.
func (e *encoder) takesPrompts() bool { return e.template != nil && e.template.HasInstruction() }

// encode tokenizes one text. For pairs, the default prompt is the instruction of a template and otherwise left out; one that the call
// names is refused where it has no place.
func (e *encoder) encode(t Text, named bool, out *tokenize.Encoding) error {
	in := tokenize.Input{Text: t.Text, Pair: t.Pair, HasPair: t.HasPair, Prompt: e.prompt}
	if t.HasPair {
		in.Template = e.template
	}
	if t.HasPair && !named && !e.takesPrompts() {
		in.Prompt = ""
	}
	return e.tokenizer.Encode(in, e.options, out)
}

// newTaggedWork is newTextWork for texts whose entities are wanted, beside their tokens and the logits of these.
func (b *Backend) newTaggedWork(texts []Text, o CallOptions, r *results) (*textWork, error) {
	if err := b.CheckItems(len(texts)); err != nil {
		return nil, err
	}
	if err := checkTagged(texts, o.Aggregation); err != nil {
		return nil, err
	}
	wanted := make([]Text, len(texts))
	for i, t := range texts {
		t.Outputs = engine.TokenVectors | TokensOutput
		wanted[i] = t
	}
	w, err := b.newTextWork(wanted, o, r)
	if err != nil {
		return nil, err
	}
	w.tagger, w.aggregation = b.tagger, o.Aggregation
	return w, w.checkOutputs(len(texts), w.wants)
}

// newTextWork checks what concerns the texts as a whole.
func (b *Backend) newTextWork(texts []Text, o CallOptions, r *results) (*textWork, error) {
	if err := b.CheckItems(len(texts)); err != nil {
		return nil, err
	}
	e, err := b.newEncoder(o, b.config.truncates())
	if err != nil {
		return nil, err
	}
	if o.AddSpecialTokens == Off {
		return nil, status.Errorf(status.InvalidArgument, "add_special_tokens: off is for tokenizing only: the model was trained with them")
	}
	w := &textWork{results: r, texts: texts, wants: make([]engine.Outputs, len(texts)), encoder: e, encodings: make([]*tokenize.Encoding, len(texts))}
	for i, t := range texts {
		w.wants[i] = t.Outputs
		if t.Outputs == 0 {
			w.wants[i] = engine.Pooled
		}
		if w.wants[i]&TokensOutput != 0 {
			w.encoder.options.Offsets = true
		}
		if t.HasPair && o.PromptName != "" && !e.takesPrompts() {
			return nil, status.Errorf(status.InvalidArgument, "item %d is a pair, and prompt_name is %q: prompts are for single texts", i, o.PromptName)
		}
		if !t.HasPair && e.template != nil {
			return nil, status.Errorf(status.InvalidArgument, "item %d is a text alone: this reranker needs pairs of query and document", i)
		}
	}
	return w, nil
}

func (w *textWork) Items() int { return len(w.texts) }

func (w *textWork) Prepare(i int, s *pipeline.Sequence) error {
	enc := encodings.Get().(*tokenize.Encoding)
	w.encodings[i] = enc
	if err := w.encoder.encode(w.texts[i], false, enc); err != nil {
		return err
	}
	if len(enc.IDs) == 0 && w.wants[i]&(engine.Pooled|engine.Sparse) != 0 {
		return status.Errorf(status.Empty, "item %d: the tokenizer gives no token for this text, so there is nothing to pool", i)
	}
	s.IDs = enc.IDs
	s.FirstPosition = w.backend.info.PositionOffset
	s.Outputs = w.backend.engineOutputs(w.wants[i] &^ TokensOutput)
	if w.backend.model != nil && w.backend.model.Head.Pooling.ExcludePrompt {
		s.PoolSkip = uint32(enc.PromptTokens)
	}
	if s.Outputs == 0 {
		return status.Errorf(status.InvalidArgument, "item %d wants only its tokens: bei_tokenize gives them without a run", i)
	}
	info := &w.backend.info
	if err := below(i, "input_ids", s.IDs, 0, info.VocabSize, "vocab_size"); err != nil {
		return err
	}
	if !info.ignoresTypes {
		s.TypeIDs = enc.TypeIDs
		if err := below(i, "token_type_ids", s.TypeIDs, 0, info.TypeVocabSize, "type_vocab_size"); err != nil {
			return err
		}
	}
	return w.backend.cutPadding(i, s)
}

func (w *textWork) Deliver(i int, rows pipeline.Rows) error {
	split, err := w.split(i, rows, w.wants[i], w.encodings[i].IDs)
	if err != nil {
		return err
	}
	if err := w.deliver(i, split); err != nil {
		return err
	}
	if w.wants[i]&TokensOutput != 0 {
		if err := w.takeTokens(i, &w.encoder, w.encodings[i]); err != nil {
			return err
		}
	}
	if w.tagger != nil {
		if err := w.takeEntities(i); err != nil {
			return err
		}
	}
	w.recycle(i)
	return nil
}

func (w *textWork) Fail(i int, err *status.Error) {
	w.results.Fail(i, err)
	w.recycle(i)
}

func (w *textWork) recycle(i int) {
	if w.encodings[i] != nil {
		encodings.Put(w.encodings[i])
		w.encodings[i] = nil
	}
}

// takeTokens keeps item i's tokens in the result.
func (r *results) takeTokens(i int, e *encoder, enc *tokenize.Encoding) error {
	const bytesPerToken = 5*4 + 2 // of Tokens' fields; the pieces are about as long as the text
	if err := r.take(i, bytesPerToken*len(enc.IDs)); err != nil {
		return err
	}
	r.out.Result.Items[i].Tokens = e.tokensOf(enc)
	return nil
}

// tokensOf copies an encoding into a result.
func (e *encoder) tokensOf(enc *tokenize.Encoding) *Tokens {
	t := &Tokens{
		IDs: append([]uint32(nil), enc.IDs...), TypeIDs: append([]uint32(nil), enc.TypeIDs...),
		Special: append([]uint8(nil), enc.Special...), Sequence: append([]uint8(nil), enc.Sequence...),
		Starts: append([]uint32(nil), enc.Starts...), Ends: append([]uint32(nil), enc.Ends...),
		PieceOffsets: make([]uint32, 1, len(enc.IDs)+1),
	}
	for _, id := range enc.IDs {
		t.Pieces = append(t.Pieces, e.tokenizer.Piece(id)...)
		t.PieceOffsets = append(t.PieceOffsets, uint32(len(t.Pieces)))
	}
	return t
}

// Tokenize gives the tokens of each text, in out.Result. It waits for no engine; its work is shared over the processors by
// the caller's threads.
func (b *Backend) Tokenize(ctx context.Context, texts []Text, o CallOptions, out Output) error {
	return b.eachItem(ctx, "tokenize", len(texts), o, out, func(r *results) (func(i int) error, error) {
		e, err := b.newEncoder(o, false)
		if err != nil {
			return nil, err
		}
		e.options.Offsets = true
		if !e.options.Truncate {
			e.options.MaxLength = 0
		}
		enc := new(tokenize.Encoding) // for all items of the call
		return func(i int) error {
			if err := e.encode(texts[i], o.PromptName != "", enc); err != nil {
				return err
			}
			return r.takeTokens(i, &e, enc)
		}, nil
	})
}

// Decode turns token ids back into texts, in out.Result. Item i has ids[cumulativeLengths[i]:cumulativeLengths[i+1]].
func (b *Backend) Decode(ctx context.Context, ids, cumulativeLengths []uint32, o CallOptions, out Output) error {
	cu := cumulativeLengths
	return b.eachItem(ctx, "decode", len(cu)-1, o, out, func(*results) (func(i int) error, error) {
		if len(cu) == 0 || cu[0] != 0 || int(cu[len(cu)-1]) != len(ids) {
			return nil, status.Errorf(status.InvalidArgument, "cumulative_lengths must begin with 0 and end with ids_size, %d", len(ids))
		}
		for i := 1; i < len(cu); i++ {
			if cu[i] < cu[i-1] {
				return nil, status.Errorf(status.InvalidArgument, "cumulative_lengths[%d] is %d, below the value before it, %d", i, cu[i], cu[i-1])
			}
		}
		if b.tokenizer == nil {
			return nil, status.Errorf(status.Unsupported, "decode: this backend has no tokenizer; open it with \"model\" set to a folder with tokenizer.json")
		}
		return func(i int) error {
			text, err := b.tokenizer.Decode(ids[cu[i]:cu[i+1]], o.SkipSpecialTokens != Off)
			if err == nil && !utf8.ValidString(text) {
				err = status.Errorf(status.Tokenization, "item %d: the decoded text is not UTF-8", i)
			}
			out.Result.Items[i].Text = text
			return err
		}, nil
	})
}

// eachItem runs a call that needs no engine: do for each item, until ctx ends or Close cuts it off. As in the pipeline, that
// is the call's error when no item was done, and otherwise the failure of those that were not.
func (b *Backend) eachItem(ctx context.Context, name string, n int, o CallOptions, out Output,
	start func(r *results) (do func(i int) error, err error)) (err error) {
	begun := time.Now()
	defer func() { b.metrics.observeCall(name, begun, err) }()
	if b.closed.Load() {
		return errShutDown // at once, not when the calls that Close waits for have ended
	}
	b.tokenizerUse.RLock()
	defer b.tokenizerUse.RUnlock()
	if b.closed.Load() {
		return errShutDown
	}
	if out.Result == nil {
		return status.Errorf(status.InvalidArgument, "%s: a result is needed", name)
	}
	if err := b.CheckItems(n); err != nil {
		return err
	}
	ctx, cancel := b.withTimeout(ctx, o)
	defer cancel()
	ended := func() *status.Error {
		switch {
		case ctx.Err() != nil:
			return pipeline.ContextError(ctx, time.Since(begun))
		case b.cut.Load():
			b.cutCalls.Add(1)
			return errShutDown
		}
		return nil
	}
	r := &results{backend: b, out: out}
	do, err := start(r)
	if err != nil {
		return err
	}
	if err := r.prepareStatus(n); err != nil {
		return err
	}
	var end *status.Error
	var longest time.Duration
	for i := range n {
		if end == nil {
			end = ended()
		}
		if end != nil {
			if i == 0 {
				return end
			}
			r.Fail(i, end)
			continue
		}
		start := time.Now()
		if err := do(i); err != nil {
			r.Fail(i, status.Of(err, status.Tokenization))
		} else {
			r.status[i] = status.OK
		}
		longest = max(longest, time.Since(start))
	}
	return r.finish(pipeline.Stats{Total: time.Since(begun), Prepare: longest})
}
