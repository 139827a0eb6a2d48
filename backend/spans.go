package backend

import (
	"cmp"
	"context"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/vectors"
)

// Span is a part of a text in Unicode code points: [Start, End). bei_span.
type Span struct{ Start, End uint32 }

// EmbedSpans computes a vector for each span of each text, from one forward pass over the whole text (late chunking,
// https://arxiv.org/abs/2409.04701). Text i has spans[cumulative[i]:cumulative[i+1]], which may overlap; row k of out.Rows is of span k. A
// span's tokens are those whose last code point lies in it. See bei_embed_spans.
func (b *Backend) EmbedSpans(ctx context.Context, texts []Text, spans []Span, cumulative []uint32, o CallOptions, out Output) error {
	if err := b.needs("embed_spans", ModelEmbedding); err != nil {
		return err
	}
	return b.run(ctx, "embed_spans", o, out, engine.TokenVectors, func(r *results) (pipeline.Work, error) {
		return b.newSpanWork(texts, spans, cumulative, o, r)
	}, o.pipeline())
}

// maxSpanOverlap bounds the tokens of an item's spans, those in several spans counted for each, as a multiple of the item's tokens: pooling
// keeps a slot busy.
const maxSpanOverlap = 64

// spanWork runs texts and pools their token vectors span by span.
type spanWork struct {
	*textWork
	spans      []Span
	cumulative []uint32  // [n+1]
	placed     [][]int   // [n] the item's tokens that have a place in the text, by their last code point
	tokens     []placing // [spans]
	prompt     int       // code points of the prompt, from which offsets count
}

// placing is a range of an item's placed tokens.
type placing struct{ first, last int }

func (b *Backend) newSpanWork(texts []Text, spans []Span, cumulative []uint32, o CallOptions, r *results) (*spanWork, error) {
	if err := b.poolsSpans(); err != nil {
		return nil, err
	}
	if err := b.CheckItems(len(spans)); err != nil {
		return nil, err
	}
	if err := checkCumulative(cumulative, len(texts), len(spans)); err != nil {
		return nil, err
	}
	for i, t := range texts {
		if t.HasPair {
			return nil, status.Errorf(status.InvalidArgument, "item %d is a pair: spans are of single texts", i)
		}
		if t.Outputs&^engine.Pooled != 0 {
			return nil, status.Errorf(status.InvalidArgument, "item %d: outputs is %#x: embed_spans gives one vector for each span, nothing else", i, uint32(t.Outputs))
		}
	}
	if len(r.out.Rows)/r.width < len(spans) {
		return nil, status.Errorf(status.BufferTooSmall, "the output buffer has %d floats, %d spans x %d need %d",
			len(r.out.Rows), len(spans), r.width, len(spans)*r.width)
	}
	w, err := b.newTextWork(texts, o, r)
	if err != nil {
		return nil, err
	}
	w.encoder.options.Offsets = true
	for i := range w.wants {
		w.wants[i] = engine.TokenVectors
	}
	return &spanWork{
		textWork: w, spans: spans, cumulative: cumulative, placed: make([][]int, len(texts)), tokens: make([]placing, len(spans)),
		prompt: utf8.RuneCountInString(w.encoder.prompt),
	}, r.prepareStatus(len(texts))
}

// poolsSpans refuses models whose vectors are more than a pooling of token vectors.
func (b *Backend) poolsSpans() error {
	why := ""
	switch h := b.head(); {
	case b.engine.Info().Outputs&(engine.Pooled|engine.TokenVectors) != engine.Pooled|engine.TokenVectors:
		why = "it has no pooled vectors of its tokens' vectors"
	case h.Tokens != nil:
		why = "its token vectors are those of a head of their own (colbert_linear)"
	case len(h.Chain) > 0:
		why = "dense or LayerNorm modules follow its pooling"
	case len(h.Pooling.Modes) > 1:
		why = "it joins several poolings"
	}
	if why != "" {
		return status.Errorf(status.Unsupported, "embed_spans: this model cannot pool spans: %s", why)
	}
	return nil
}

// head is the model's; the mock engine's has mean pooling.
func (b *Backend) head() arch.Head {
	if b.model == nil {
		return arch.Head{Pooling: arch.Pooling{Modes: []arch.PoolMode{arch.PoolMean}}}
	}
	return b.model.Head
}

// checkCumulative checks n + 1 offsets of total spans.
func checkCumulative(cumulative []uint32, n, total int) error {
	if len(cumulative) != n+1 || cumulative[0] != 0 || int(cumulative[n]) != total {
		return status.Errorf(status.InvalidArgument, "cumulative_spans must have %d values, begin with 0 and end with num_spans, %d", n+1, total)
	}
	for i := range n {
		if cumulative[i+1] < cumulative[i] {
			return status.Errorf(status.InvalidArgument, "cumulative_spans[%d] is %d, below the value before it, %d", i+1, cumulative[i+1], cumulative[i])
		}
	}
	return nil
}

// Prepare is pipeline.Work's. An item whose spans are wrong does not run.
func (w *spanWork) Prepare(i int, s *pipeline.Sequence) error {
	if err := w.textWork.Prepare(i, s); err != nil { // also whether the text is UTF-8
		return err
	}
	first, last := w.cumulative[i], w.cumulative[i+1]
	if first == last {
		return status.Errorf(status.InvalidArgument, "item %d has no span", i)
	}
	w.place(i)
	length, total, limit := utf8.RuneCountInString(w.texts[i].Text), 0, maxSpanOverlap*len(s.IDs)
	for k := first; k < last; k++ {
		span, tokens := w.spans[k], &w.tokens[k]
		if int(span.End) > length {
			return status.Errorf(status.InvalidArgument, "item %d: span %d is [%d, %d), but the text has %d code points", i, k, span.Start, span.End, length)
		}
		if span.Start >= span.End {
			return status.Errorf(status.InvalidArgument, "item %d: span %d is [%d, %d): it must end after its start", i, k, span.Start, span.End)
		}
		if *tokens = w.within(i, span); tokens.first == tokens.last {
			return status.Errorf(status.Empty, "item %d: span %d, [%d, %d), has no token: it is white space, a part of a token, or cut off", i, k, span.Start, span.End)
		}
		if total += tokens.last - tokens.first; total > limit {
			return status.Errorf(status.InvalidArgument, "item %d: its spans up to %d hold %d tokens, the limit is %d: %d times those of the item",
				i, k, total, limit, maxSpanOverlap)
		}
	}
	return nil
}

// place lists the tokens of item i that have a place in the text.
func (w *spanWork) place(i int) {
	enc := w.encodings[i]
	for k, end := range enc.Ends {
		if end > enc.Starts[k] { // special tokens have no place
			w.placed[i] = append(w.placed[i], k)
		}
	}
	slices.SortStableFunc(w.placed[i], func(x, y int) int { return cmp.Compare(enc.Ends[x], enc.Ends[y]) })
}

// within is the range of item i's placed tokens whose last code point lies in the span.
func (w *spanWork) within(i int, span Span) placing {
	upTo := func(end uint32) int {
		at, _ := slices.BinarySearchFunc(w.placed[i], w.prompt+int(end), func(token, end int) int {
			return cmp.Or(cmp.Compare(int(w.encodings[i].Ends[token]), end), -1) // the first that ends after
		})
		return at
	}
	return placing{upTo(span.Start), upTo(span.End)}
}

// Deliver is pipeline.Work's.
func (w *spanWork) Deliver(i int, rows pipeline.Rows) error {
	if !vectors.Finite(rows.TokenVectors) {
		return nonFinite(i)
	}
	columns := w.backend.tokenColumns()
	mode := w.backend.head().Pooling.Modes[0]
	pooled := make([]float32, columns)
	for k := w.cumulative[i]; k < w.cumulative[i+1]; k++ {
		poolTokens(pooled, rows.TokenVectors, w.placed[i][w.tokens[k].first:w.tokens[k].last], mode)
		dst := w.out.Rows[int(k)*w.width:][:w.width]
		switch {
		case !w.normalize:
			copy(dst, pooled)
		case zeros(pooled[:w.width]):
			return status.Errorf(status.NonFinite, "item %d: the vector of span %d is zeros, which cannot be normalised", i, k)
		default:
			vectors.Normalize(dst, pooled)
		}
	}
	w.status[i] = status.OK
	w.recycle(i)
	return nil
}

// poolTokens pools rows of tokens as the mode pools those of a sequence, with the places of a weighted mean counted in tokens. A span has no
// token that stands for all as a sequence's first one does: there it is the mean.
func poolTokens(dst, rows []float32, tokens []int, mode arch.PoolMode) {
	columns := len(dst)
	if mode == arch.PoolLastToken {
		tokens = tokens[len(tokens)-1:]
	}
	sum, total := make([]float64, columns), 0.0
	if mode == arch.PoolMax {
		for c := range sum {
			sum[c] = math.Inf(-1)
		}
	}
	for place, t := range tokens {
		weight := 1.0
		if mode == arch.PoolWeightedMean {
			weight = float64(place + 1)
		}
		total += weight
		for c, x := range rows[t*columns:][:columns] {
			if mode == arch.PoolMax {
				sum[c] = max(sum[c], float64(x))
			} else {
				sum[c] += weight * float64(x)
			}
		}
	}
	switch mode {
	case arch.PoolMax:
		total = 1
	case arch.PoolMeanSqrtLen:
		total = math.Sqrt(total)
	}
	for c := range dst {
		dst[c] = float32(sum[c] / total)
	}
}
