package arch

import (
	"math"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Table returns f of each angle, times Factor: [positions, Dim / 2], row-major. f is math.Cos or math.Sin.
//
// The angle is rounded to float32, as in the models' own code: at high positions that is seen in the result.
func (r *Rope) Table(f func(float64) float64, positions int) []float32 {
	table := make([]float32, 0, positions*len(r.InvFreq))
	for p := range positions {
		for _, freq := range r.InvFreq {
			table = append(table, float32(f(float64(float32(p)*freq))*float64(r.Factor)))
		}
	}
	return table
}

// maxRelativeDistance bounds the tables by distance.
const maxRelativeDistance = 1 << 20

// Check refuses numbers for which the buckets have no meaning.
func (r *RelativeBias) Check() error {
	if r.Buckets < 4 || r.MaxDistance <= r.Buckets || r.MaxDistance > maxRelativeDistance {
		return status.Errorf(status.Unsupported, "relative bias of %d buckets up to distance %d", r.Buckets, r.MaxDistance)
	}
	return nil
}

// ByDistance lays the bias out by distance (key minus query): [heads, 2 * MaxDistance + 1] from the table [Buckets, heads]. From
// MaxDistance on every distance is in the last bucket. Check must have passed.
func (r *RelativeBias) ByDistance(table []float32, heads int) []float32 {
	width := 2*r.MaxDistance + 1
	all := make([]float32, 0, heads*width)
	for h := range heads {
		for i := range width {
			all = append(all, table[r.bucket(i-r.MaxDistance)*heads+h])
		}
	}
	return all
}

// bucket is T5's: half of the buckets for exact distances, the rest in logarithmic steps (relative_position_bucket in
// https://github.com/google-research/text-to-text-transfer-transformer and its copies). distance: key minus query. In
// float32, as there: on the borders between buckets rounding decides.
func (r *RelativeBias) bucket(distance int) int {
	buckets, first := r.Buckets, 0
	if r.Bidirectional {
		buckets /= 2
		if distance > 0 {
			first = buckets
		} else {
			distance = -distance
		}
	} else {
		distance = max(-distance, 0)
	}
	exact := buckets / 2
	if distance < exact {
		return first + distance
	}
	ratio := float32(math.Log(float64(float32(distance) / float32(exact))))
	steps := ratio / float32(math.Log(float64(r.MaxDistance)/float64(exact))) * float32(buckets-exact)
	return first + min(exact+int(steps), buckets-1)
}
