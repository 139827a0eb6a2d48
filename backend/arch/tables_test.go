package arch

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestBuckets(t *testing.T) {
	// Values of transformers' MPNetEncoder.relative_position_bucket with 32 buckets and distance 128, on the borders in
	// particular.
	both := &RelativeBias{Buckets: 32, MaxDistance: 128, Bidirectional: true}
	for distance, want := range map[int]int{0: 0, -1: 1, 1: 17, -7: 7, -8: 8, -11: 8, -12: 9, -15: 9, -16: 10, 16: 26, -32: 12, -63: 13, -64: 14, -91: 15, -127: 15, -128: 15, 128: 31} {
		require.Equal(t, want, both.bucket(distance), "distance %d", distance)
	}
	left := &RelativeBias{Buckets: 32, MaxDistance: 128}
	for distance, want := range map[int]int{0: 0, 5: 0, -15: 15, -16: 16, -19: 17, -32: 21, -64: 26, -128: 31} {
		require.Equal(t, want, left.bucket(distance), "distance %d", distance)
	}
}

func TestBiasByDistance(t *testing.T) {
	r := &RelativeBias{Buckets: 4, MaxDistance: 5, Bidirectional: true}
	require.NoError(t, r.Check())
	// Of each direction, distance 0 (or 1 to the right) has a bucket; all others share the second.
	require.Equal(t, []float32{2, 2, 2, 2, 2, 1, 4, 4, 4, 4, 4, 20, 20, 20, 20, 20, 10, 40, 40, 40, 40, 40},
		r.ByDistance([]float32{1, 10, 2, 20, 3, 30, 4, 40}, 2))
	for _, r := range []RelativeBias{{Buckets: 3, MaxDistance: 128}, {Buckets: 32, MaxDistance: 32}, {Buckets: 32, MaxDistance: 1<<20 + 1}} {
		require.Equal(t, status.Unsupported, status.CodeOf(r.Check()), "%+v", r)
	}
}

func TestRopeTable(t *testing.T) {
	r := &Rope{Dim: 4, InvFreq: []float32{1, 0.1}, Factor: 2}
	table := r.Table(math.Cos, 40000)
	require.Len(t, table, 80000)
	require.Equal(t, []float32{2, 2, float32(2 * math.Cos(1)), float32(2 * math.Cos(float64(float32(0.1))))}, table[:4])
	angle := float32(39999) * float32(0.1) // rounded
	require.Equal(t, float32(2*math.Cos(float64(angle))), table[79999])
}
