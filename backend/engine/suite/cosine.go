package suite

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// VerifyCosine runs each sequence of a case alone and takes the least cosine to the truth of pooled rows, of sparse ones and of token
// vectors, a sequence's rows joined. It says what that is, and of an engine in bfloat16 what transformers itself comes to in bfloat16, where that is
// known. Less than least is an error, and so is an engine in bfloat16 that is worse than transformers.
func VerifyCosine(e engine.Engine, c *Case, least float64) (string, error) {
	single, err := alone(e, c)
	if err != nil {
		return "", err
	}
	return c.verifyCosine(e, single, least)
}

// verifyCosine is VerifyCosine with what each sequence has given alone.
func (c *Case) verifyCosine(e engine.Engine, single []Result, least float64) (string, error) {
	got := 1.0
	for i, r := range single {
		q := &c.Sequences[i]
		for _, pair := range []struct {
			got  []float32
			want []float64
		}{{r.Pooled, q.Pooled}, {r.TokenVectors, q.TokenVectors}, {r.Sparse, q.Sparse}} {
			switch {
			case len(pair.want) < 2: // not known, or a logit, which has no direction
			case len(pair.got) != len(pair.want):
				return "", fmt.Errorf("sequence %d: %d numbers instead of %d", i, len(pair.got), len(pair.want))
			default:
				got = min(got, cosine(pair.got, pair.want)) // NaN stays
			}
		}
	}
	precision := e.Info().Precision
	text := fmt.Sprintf("cosine %s %s %.7f", c.Name, precision, got)
	if precision == "bfloat16" && c.BFloat16Cosine != 0 {
		text += fmt.Sprintf(", transformers' own %.7f", c.BFloat16Cosine)
		least = 1 - mostOfTheirDistance*(1-c.BFloat16Cosine)
	}
	if !(got >= least) {
		return text, fmt.Errorf("%s: it must be %.7f or more", text, least)
	}
	return text, nil
}

// mostOfTheirDistance bounds an engine's distance to the truth in bfloat16, 1 - cosine, by transformers' own on the same case. Both are a
// draw of rounding errors: an engine that rounds as well is often a little further off or nearer. How ours compare over all cases stands in
// docs/measurements.md.
const mostOfTheirDistance = 2

// cosine of two vectors of one length; 1 where the truth is zeros.
func cosine(got []float32, want []float64) float64 {
	var dot, gg, ww float64
	for i, w := range want {
		g := float64(got[i])
		dot, gg, ww = dot+g*w, gg+g*g, ww+w*w
	}
	if ww == 0 {
		return 1
	}
	return dot / math.Sqrt(gg*ww)
}

// AloneAgainstBatched computes the pooled vector of each sequence beside 29 others and alone, and returns the least cosine of the two, with a
// line that says of which sequence, and how near either is to what it must be.
func AloneAgainstBatched(ctx context.Context, e engine.Engine, sequences []Sequence) (least float64, line string, err error) {
	const together = 30
	slot, info := e.Slots()[0], e.Info()
	least = 1
	for batch := range slices.Chunk(sequences, together) {
		batched, err := Compute(ctx, slot, info, batch, engine.Pooled)
		if err != nil {
			return 0, "", err
		}
		for i, q := range batch {
			alone, err := Compute(ctx, slot, info, []Sequence{q}, engine.Pooled)
			if err != nil {
				return 0, "", err
			}
			c := cosine(alone[0].Pooled, float64s(batched[i].Pooled))
			if truth := cosine(batched[i].Pooled, q.Pooled); math.IsNaN(c) || !(truth > 0.99) {
				return 0, "", fmt.Errorf("a sequence of %d tokens: cosine %g alone to the same in a batch, %g of that to the truth", len(q.IDs), c, truth)
			}
			if c < least {
				least = c
				line = fmt.Sprintf("cosine %.8f of a sequence of %d tokens alone to the same in a batch; to the truth %.8f alone, %.8f in the batch",
					c, len(q.IDs), cosine(alone[0].Pooled, q.Pooled), cosine(batched[i].Pooled, q.Pooled))
			}
		}
	}
	return least, line, nil
}
