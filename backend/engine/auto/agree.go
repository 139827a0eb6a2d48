package auto

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// leastAgreement is the least cosine of two engines' vectors at which both are believed, by the coarser one's precision. Two that round in
// ways of their own stay above it (docs/measurements.md); a kernel that computes something else does not.
func leastAgreement(infos [2]engine.Info) float64 {
	least := 0.9999
	for _, i := range infos {
		of, ok := map[string]float64{"float32": 0.9999, "TF32": 0.999, "float16": 0.999}[products(i)]
		if !ok {
			of = 0.98
		}
		least = min(least, of)
	}
	return least
}

// fewColumns is below how many a row has too little of a direction for its cosine to tell anything: logits.
const fewColumns = 8

// uneven are batches of lengths that are compared: what pads or masks wrongly shows. An engine that pads to shapes of its own meets some of
// them here that runs will meet.
var uneven = [][]int{
	{1, 18, 5, 47, 130, 3},
	{256, 201, 243, 229, 17, 33, 64, 90},
	{512, 300, 411, 7},
	{97, 128, 101, 127, 99, 113, 120, 105, 111, 98, 126, 119},
	{1000, 700, 2000},
	{31, 12, 16, 64, 40, 9, 58, 23, 62, 61, 34, 2, 49, 13, 29, 47, 55, 50, 21, 33},
}

// unevenRun runs a batch of seeded sequences of those lengths, within limits, on the first slot of e, for what there is to compare of want.
// Nobody else may use the slot before the output, which is the slot's, has been compared. Errors are the engine's.
func unevenRun(ctx context.Context, e engine.Engine, limits engine.Limits, want engine.Outputs, t Tables, wanted []int) (engine.Output, error) {
	var lengths []int
	for total, i := 0, 0; i < len(wanted) && i < limits.MaxSequences; i++ {
		n := min(wanted[i], limits.MaxLength, limits.MaxTokens-total)
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
