package suite

import (
	"math"

	"github.com/basetenlabs/bei-runtime/backend/arch"
)

// placing is what a query of head h and a key say of their distance (query minus key).
type placing func(query, key []float64, h, distance int) float64

func (r *reference) disentangled(d *arch.Disentangled, headDim int) placing {
	if d == nil {
		return func(_, _ []float64, _, _ int) float64 { return 0 }
	}
	e := r.norm(d.Norm, split(r.tensor(d.Embeddings), d.Embeddings.Shape[1]))
	var keys, queries vectors
	if d.Key != nil {
		keys = r.product(*d.Key, e)
	}
	if d.Query != nil {
		queries = r.product(*d.Query, e)
	}
	return func(query, key []float64, h, distance int) (sum float64) {
		row := disentangledRow(d, distance)
		for c := range headDim {
			if keys != nil {
				sum += query[c] * keys[row][h*headDim+c]
			}
			if queries != nil {
				sum += key[c] * queries[row][h*headDim+c]
			}
		}
		return sum
	}
}

// disentangledRow is the row of a distance as DeBERTa's papers tell it (https://arxiv.org/abs/2006.03654, equation 3, and
// https://arxiv.org/abs/2111.09543, whose code has the logarithmic steps).
func disentangledRow(d *arch.Disentangled, distance int) int {
	half := d.Buckets / 2
	place := max(distance, -distance)
	if d.Buckets > 0 && place > half {
		steps := math.Log(float64(place)/float64(half)) / math.Log(float64(d.MaxDistance-1)/float64(half))
		place = half + int(math.Ceil(steps*float64(half-1)))
	}
	if distance < 0 {
		return max(d.Span-place, 0)
	}
	return min(d.Span+place, 2*d.Span-1)
}
