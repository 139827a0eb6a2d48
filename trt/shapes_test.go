package trt

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLengthSteps(t *testing.T) {
	require.Equal(t, []int{1}, lengthSteps(1))
	require.Equal(t, []int{16}, lengthSteps(16))
	require.Equal(t, []int{16, 17}, lengthSteps(17))
	for _, most := range []int{1, 5, 16, 40, 512, 513, 640, 641, 1000, 8192, 32768, maxTokens} {
		steps := lengthSteps(most)
		require.Equal(t, most, steps[len(steps)-1])
		require.True(t, slices.IsSorted(steps))
		require.Len(t, slices.Compact(slices.Clone(steps)), len(steps), "%d: %v", most, steps)
		require.Less(t, len(steps), 36, "%d: %v", most, steps)
	}
}

// TestGrid: every length that is allowed has a shape, no shape beyond the limits but those of one sequence.
func TestGrid(t *testing.T) {
	for _, l := range [][3]int{{1, 1, 1}, {16, 3, 16}, {64, 8, 40}, {4096, 64, 512}, {512, 4096, 512}, {32768, 256, 32768}} {
		s := newShapes(l[0], l[1], l[2])
		require.True(t, slices.IsSortedFunc(s.all, func(a, b shape) int { return a.cells() - b.cells() }))
		for i, x := range s.all {
			require.LessOrEqual(t, x.n, l[1])
			require.LessOrEqual(t, x.l, l[2])
			require.True(t, x.n == 1 || x.cells() <= l[0], "%v", x)
			require.Equal(t, i, s.index[slices.Index(s.counts, x.n)][slices.Index(s.steps, x.l)])
		}
		for length := 1; length <= l[2]; length++ {
			if step := s.step[length]; s.steps[step] < length || step > 0 && s.steps[step-1] >= length || s.index[0][step] < 0 {
				t.Fatalf("limits %v, length %d: step %d of %v", l, length, step, s.steps)
			}
		}
	}
}

// TestKeep: without some shapes the next larger ones serve.
func TestKeep(t *testing.T) {
	s := newShapes(256, 4, 64)
	s.keep(func(x shape) bool { return x.l != 16 && x.l != 48 && x != shape{2, 32} })
	require.NotContains(t, s.all, shape{1, 16})
	for length, step := range map[int]int{1: 32, 16: 32, 32: 32, 33: 64, 48: 64, 64: 64} {
		require.Equal(t, step, s.steps[s.step[length]], "length %d", length)
	}
	s.check(t, []int32{3, 9, 16, 20, 33, 48, 49})
}

// check partitions ascending lengths, requires that each sequence is in one group and fits it, and returns the cost.
func (s *shapes) check(t *testing.T, lengths []int32) (cost float64) {
	n := len(lengths)
	groups := s.partition(lengths, nil, make([]float64, n+1), make([]group, n+1))
	next := 0
	for _, g := range groups {
		x := s.all[g.shape]
		require.Equal(t, next, g.from)
		require.Greater(t, g.to, g.from)
		require.LessOrEqual(t, g.to-g.from, x.n)
		require.LessOrEqual(t, int(lengths[g.to-1]), x.l)
		next, cost = g.to, cost+s.cost[g.shape]
	}
	require.Equal(t, n, next)
	return cost
}

// cheapest tries every way to cut lengths into launches of any shape that fits.
func (s *shapes) cheapest(lengths []int32) float64 {
	best := make([]float64, len(lengths)+1) // of the lengths from there on
	for from := len(lengths) - 1; from >= 0; from-- {
		best[from] = math.Inf(1)
		for to := from + 1; to <= len(lengths); to++ {
			for i, x := range s.all {
				if x.n >= to-from && x.l >= int(lengths[to-1]) {
					best[from] = min(best[from], s.cost[i]+best[to])
				}
			}
		}
	}
	return best[0]
}

// TestPartition compares with all partitions. Costs are random, but for the sense in them that more cells cost no less.
func TestPartition(t *testing.T) {
	random := rand.New(rand.NewPCG(19, 20))
	for range 300 {
		maxLength := 1 + random.IntN(100)
		s := newShapes(maxLength+random.IntN(400), 1+random.IntN(9), maxLength)
		for i := range s.cost {
			s.cost[i] = random.Float64() * 100
		}
		slices.Sort(s.cost)
		lengths := make([]int32, random.IntN(9))
		for i := range lengths {
			lengths[i] = 1 + random.Int32N(int32(maxLength))
		}
		slices.Sort(lengths)
		require.InDelta(t, s.cheapest(lengths), s.check(t, lengths), 1e-9)
	}
}

func TestPartitionOfLargeRuns(t *testing.T) {
	random := rand.New(rand.NewPCG(21, 22))
	s := newShapes(16384, 256, 512)
	for _, n := range []int{0, 1, 2, 255, 256} {
		lengths := make([]int32, n)
		for i := range lengths {
			lengths[i] = 1 + random.Int32N(512)
		}
		slices.Sort(lengths)
		s.check(t, lengths)
	}
	lengths := slices.Repeat([]int32{7, 300}, 128)
	slices.Sort(lengths)
	groups, costs, cuts := make([]group, 0, 256), make([]float64, 257), make([]group, 257)
	require.Zero(t, testing.AllocsPerRun(20, func() { groups = s.partition(lengths, groups[:0], costs, cuts) }))
}

func TestBestTokens(t *testing.T) {
	s := newShapes(64, 4, 16)
	require.Equal(t, []shape{{1, 16}, {2, 16}, {4, 16}}, s.all)
	copy(s.cost, []float64{10, 12, 23.5})
	require.Equal(t, 32, s.bestTokens(64), "2.72 tokens for a unit of cost is hardly better than 2.67")
	copy(s.cost, []float64{10, 12, 15})
	require.Equal(t, 64, s.bestTokens(64))
	require.Equal(t, 50, s.bestTokens(50))
}
