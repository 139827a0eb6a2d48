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

// Agreement runs a batch of uneven seeded sequences on the first slots of two engines of one model, and returns the least cosine of their
// pooled rows and token vectors, and whose numbers are all finite; NaN where one's of a row are and the other's are not. Nobody else may
// use the slots meanwhile. Errors are the engines'.
func Agreement(ctx context.Context, a, b engine.Engine, t Tables) (least float64, finite [2]bool, err error) {
	infos, slots := [2]engine.Info{a.Info(), b.Info()}, [2]engine.Slot{a.Slots()[0], b.Slots()[0]}
	limits := common(infos[0].Limits, infos[1].Limits)
	want := infos[0].Outputs & infos[1].Outputs & (engine.Pooled | engine.TokenVectors)
	var lengths []int
	for total, i := 0, 0; i < len(uneven) && i < limits.MaxSequences; i++ {
		n := min(uneven[i], limits.MaxLength, limits.MaxTokens-total)
		if n < 1 {
			break
		}
		lengths, total = append(lengths, n), total+n
	}
	var outputs [2]engine.Output
	for i, slot := range slots {
		defer slot.Batch().Reset()
		fillLengths(slot.Batch(), lengths, t, want)
		if outputs[i], err = slot.Run(ctx); err != nil {
			return 0, finite, fmt.Errorf("comparing the vectors: %w", err)
		}
		finite[i] = allFinite(outputs[i].TokenVectors) && allFinite(outputs[i].Pooled)
	}
	least = rows(outputs[0].TokenVectors, outputs[1].TokenVectors, infos[0].TokenWidth)
	return min(least, rows(outputs[0].Pooled, outputs[1].Pooled, infos[0].PooledWidth)), finite, nil
}

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
