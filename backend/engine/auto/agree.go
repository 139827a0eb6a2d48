package auto

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// leastAgreement is the least cosine of two engines' vectors at which both are believed. Two that round to 16 bits in ways of their own
// stay above 0.99; a kernel that computes something else does not.
const leastAgreement = 0.98

// fewColumns is below how many a row has too little of a direction for its cosine to tell anything: logits.
const fewColumns = 8

// uneven are lengths of sequences that are compared in one batch: what pads or masks wrongly shows.
var uneven = []int{1, 18, 5, 47, 130, 3}

// unevenRun runs a batch of uneven seeded sequences, within limits, on the first slot of e, for what there is to compare of want. Nobody
// else may use the slot before the output, which is the slot's, has been compared. Errors are the engine's.
func unevenRun(ctx context.Context, e engine.Engine, limits engine.Limits, want engine.Outputs, t Tables) (engine.Output, error) {
	var lengths []int
	for total, i := 0, 0; i < len(uneven) && i < limits.MaxSequences; i++ {
		n := min(uneven[i], limits.MaxLength, limits.MaxTokens-total)
		if n < 1 {
			break
		}
		lengths, total = append(lengths, n), total+n
	}
	slot := e.Slots()[0]
	defer slot.Batch().Reset()
	fillLengths(slot.Batch(), lengths, t, want&(engine.Pooled|engine.TokenVectors))
	out, err := slot.Run(ctx)
	if err != nil {
		return out, fmt.Errorf("comparing the vectors: %w", err)
	}
	return out, nil
}

// agreement is the least cosine of two outputs' pooled rows and token vectors; NaN where one's of a row are finite and the other's are not.
func agreement(outputs [2]engine.Output, info engine.Info) float64 {
	least := rows(outputs[0].TokenVectors, outputs[1].TokenVectors, info.TokenWidth)
	return min(least, rows(outputs[0].Pooled, outputs[1].Pooled, info.PooledWidth))
}

func finite(o engine.Output) bool { return allFinite(o.TokenVectors) && allFinite(o.Pooled) }

func allFinite(numbers []float32) bool {
	return !slices.ContainsFunc(numbers, func(x float32) bool { return math.IsNaN(float64(x)) || math.IsInf(float64(x), 0) })
}

// rows returns the least cosine of two matrices' rows; 1 where there are none, or none with a direction in either.
func rows(a, b []float32, width int) float64 {
	least := 1.0
	if width < fewColumns {
		return least
	}
	for from := 0; from+width <= min(len(a), len(b)); from += width {
		var dot, aa, bb float64
		for i := from; i < from+width; i++ {
			x, y := float64(a[i]), float64(b[i])
			dot, aa, bb = dot+x*y, aa+x*x, bb+y*y
		}
		if aa > 0 || bb > 0 {
			least = min(least, dot/math.Sqrt(aa*bb)) // NaN stays
		}
	}
	return least
}
