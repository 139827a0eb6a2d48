// Package suite has the tests that every engine must pass. Contract checks what holds for any engine, whatever its
// numbers are; Run adds the numbers: golden vectors of real libraries, and an independent float64 transformer over
// models that exercise every choice of arch.Model.
package suite

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// Sequence is one item of a batch and, where known, what it must give.
type Sequence struct {
	IDs, Types, Positions []int32
	Skip                  int       // leading tokens that are not pooled
	Pooled                []float64 // nil: not known
	TokenVectors          []float64 // rows joined; nil: not known
	Sparse                []float64 // nil: not known
}

// Case is a model with sequences and their results.
type Case struct {
	Name      string
	Model     *arch.Model
	Weights   *weights.Set
	Normalize bool // Pooled rows of the sequences are normalised; the engine's are not
	Sequences []Sequence
	// BFloat16Cosine is VerifyCosine's number for transformers itself in bfloat16; 0: not known.
	BFloat16Cosine float64
}

// Opener opens an engine on a case's model. It fails the test if it cannot. Zero limits are the engine's defaults.
type Opener func(t *testing.T, m *arch.Model, w *weights.Set, limits engine.Limits) engine.Engine

// Run tests an engine that runs models: each case by its numbers within the bounds and by its cosine, which is printed, and the contract on
// one of them.
func Run(t *testing.T, open Opener, cases []Case, bounds Bounds) {
	for i := range cases {
		c := &cases[i]
		t.Run(c.Name, func(t *testing.T) {
			e := open(t, c.Model, c.Weights, engine.Limits{})
			single, err := alone(e, c)
			require.NoError(t, err)
			text, err := c.verifyCosine(e, single, bounds.MinCosine)
			assert.NoError(t, err, text)
			t.Log(text)
			assert.NoError(t, c.verify(e, single, bounds))
			require.NoError(t, e.Close())
		})
	}
	t.Run("contract", func(t *testing.T) {
		c := &cases[0]
		Contract(t, func(t *testing.T, l engine.Limits) engine.Engine { return open(t, c.Model, c.Weights, l) }, c.Sequences, bounds)
	})
}

// Verify runs each sequence of a case alone, then all in batches as large as the engine takes, and compares with what they must give.
func Verify(e engine.Engine, c *Case, bounds Bounds) error {
	single, err := alone(e, c)
	if err != nil {
		return err
	}
	return c.verify(e, single, bounds)
}

// alone runs each sequence of a case alone.
func alone(e engine.Engine, c *Case) ([]Result, error) {
	var single []Result
	for i := range c.Sequences {
		results, err := Compute(context.Background(), e.Slots()[0], e.Info(), c.Sequences[i:i+1], e.Info().Outputs)
		if err != nil {
			return nil, err
		}
		single = append(single, results...)
	}
	return single, nil
}

// verify is Verify with what each sequence has given alone.
func (c *Case) verify(e engine.Engine, single []Result, bounds Bounds) error {
	for i := range single {
		if err := c.compare(single[i:i+1], []int{i}, bounds); err != nil {
			return err
		}
	}
	var batches [][]int
	limits, tokens, longest := e.Info().Limits, 0, 0
	for i := range c.Sequences {
		n, last := len(c.Sequences[i].IDs), len(batches)-1
		tokens, longest = tokens+n, max(longest, n)
		full := last < 0 || len(batches[last]) == limits.MaxSequences || tokens > limits.MaxTokens
		if full || limits.Padded && (len(batches[last])+1)*longest > limits.MaxTokens {
			batches, tokens, longest = append(batches, nil), n, n
		}
		batches[len(batches)-1] = append(batches[len(batches)-1], i)
	}
	for _, order := range batches {
		results, err := Compute(context.Background(), e.Slots()[0], e.Info(), pick(c.Sequences, order), e.Info().Outputs)
		if err != nil {
			return err
		}
		if err := c.compare(results, order, bounds); err != nil {
			return err
		}
	}
	return nil
}

// compare holds what a batch of sequences has given to what it must give.
func (c *Case) compare(results []Result, order []int, bounds Bounds) error {
	for i, r := range results {
		if c.Normalize {
			normalise(r.Pooled)
		}
		if err := r.matches(&c.Sequences[order[i]], bounds); err != nil {
			return fmt.Errorf("sequence %d of %d: %w", order[i], len(order), err)
		}
	}
	return nil
}

// Result is what one sequence gave, copied out of the slot.
type Result struct{ Pooled, TokenVectors, Sparse []float32 }

// Compute runs sequences as one batch of a slot.
func Compute(ctx context.Context, s engine.Slot, info engine.Info, sequences []Sequence, want engine.Outputs) ([]Result, error) {
	b := s.Batch()
	b.Reset()
	for _, q := range sequences {
		b.InputIDs = append(b.InputIDs, q.IDs...)
		b.TypeIDs = append(b.TypeIDs, q.Types...)
		b.PositionIDs = append(b.PositionIDs, q.Positions...)
		b.EndSequence(want, q.Skip)
	}
	out, err := s.Run(ctx)
	if err != nil {
		return nil, err
	}
	if err := shaped(out, info, b, want); err != nil {
		return nil, err
	}
	results := make([]Result, len(sequences))
	for i := range sequences {
		if want&engine.Pooled != 0 {
			results[i].Pooled = slices.Clone(out.Pooled[i*info.PooledWidth : (i+1)*info.PooledWidth])
		}
		if want&engine.TokenVectors != 0 {
			results[i].TokenVectors = slices.Clone(out.TokenVectors[int(b.CuSeqLens[i])*info.TokenWidth : int(b.CuSeqLens[i+1])*info.TokenWidth])
		}
		if want&engine.Sparse != 0 {
			results[i].Sparse = slices.Clone(out.Sparse[i*info.SparseWidth : (i+1)*info.SparseWidth])
		}
	}
	return results, nil
}

// shaped checks that an output has what was asked for, in the right size, and nothing else.
func shaped(out engine.Output, info engine.Info, b *engine.Batch, want engine.Outputs) error {
	for _, o := range []struct {
		name string
		bit  engine.Outputs
		data []float32
		size int
	}{
		{"pooled", engine.Pooled, out.Pooled, b.Sequences() * info.PooledWidth},
		{"token vectors", engine.TokenVectors, out.TokenVectors, b.Tokens() * info.TokenWidth},
		{"sparse", engine.Sparse, out.Sparse, b.Sequences() * info.SparseWidth},
	} {
		if want&o.bit == 0 && o.data != nil {
			return fmt.Errorf("%s were not asked for, but are there", o.name)
		}
		if want&o.bit != 0 && len(o.data) != o.size {
			return fmt.Errorf("%s have %d numbers, not %d", o.name, len(o.data), o.size)
		}
	}
	return nil
}

func (r *Result) matches(q *Sequence, bounds Bounds) error {
	if q.Pooled != nil {
		if err := bounds.Compare(r.Pooled, q.Pooled); err != nil {
			return fmt.Errorf("pooled: %w", err)
		}
	}
	if q.TokenVectors != nil {
		if err := bounds.Compare(r.TokenVectors, q.TokenVectors); err != nil {
			return fmt.Errorf("token vectors: %w", err)
		}
	}
	if q.Sparse != nil {
		if err := bounds.Compare(r.Sparse, q.Sparse); err != nil {
			return fmt.Errorf("sparse: %w", err)
		}
	}
	return nil
}

// Bounds of the difference between an engine and the truth.
type Bounds struct {
	MinCosine float64
	MaxError  float64 // absolute, relative to one plus the largest number of the truth
}

// Exact is for engines that compute in float32 throughout. Precisions has the bounds of what GPUs compute in, by
// engine.Info.Precision: there float32 still sums in another order, and the others round every tensor between operators.
var (
	Exact      = Bounds{MinCosine: 0.999999, MaxError: 1e-5} // 2e-5 for normalised vectors
	Precisions = map[string]Bounds{
		"float32":  {MinCosine: 0.99999, MaxError: 2e-4},
		"float16":  {MinCosine: 0.9999, MaxError: 2e-2},
		"bfloat16": {MinCosine: 0.998, MaxError: 2e-1},
	}
)

// leastWidth is the least number of columns whose direction means something: of a logit or a few, near zero, rounding decides it.
const leastWidth = 8

// Compare says how two vectors differ beyond the bounds; nil: they agree.
func (b Bounds) Compare(got []float32, want []float64) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d numbers instead of %d", len(got), len(want))
	}
	var worst, largest float64
	at := 0
	for i, w := range want {
		largest = max(largest, math.Abs(w))
		if d := math.Abs(float64(got[i]) - w); !(d <= worst) { // NaN counts
			worst, at = d, i
		}
	}
	if bound := b.MaxError * (1 + largest); !(worst <= bound) {
		return fmt.Errorf("number %d of %d is %g instead of %g: off by %g, more than %g", at, len(want), got[at], want[at], worst, bound)
	}
	if c := cosine(got, want); len(want) >= leastWidth && !(c >= b.MinCosine) {
		return fmt.Errorf("cosine %.9f is below %g", c, b.MinCosine)
	}
	return nil
}

func normalise(v []float32) {
	sum := 0.0
	for _, x := range v {
		sum += float64(x) * float64(x)
	}
	for i := range v {
		v[i] = float32(float64(v[i]) / math.Sqrt(sum))
	}
}

func pick(sequences []Sequence, order []int) []Sequence {
	picked := make([]Sequence, len(order))
	for i, j := range order {
		picked[i] = sequences[j]
	}
	return picked
}

func float64s(v []float32) []float64 {
	if v == nil {
		return nil
	}
	w := make([]float64, len(v))
	for i, x := range v {
		w[i] = float64(x)
	}
	return w
}
