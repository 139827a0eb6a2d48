package trt

import (
	"math"
	"slices"
)

// shape is the padded size of a launch: n sequences of l tokens.
type shape struct{ n, l int }

func (s shape) cells() int { return s.n * s.l }

// shapes are those that launches may have, each prepared at warm-up: kernels made, CUDA graph captured, time measured. Their number is
// bounded by steps: of lengths, which keep padding at about a tenth, and of counts.
type shapes struct {
	all    []shape   // ascending by cells
	cost   []float64 // microseconds of each
	counts []int
	steps  []int   // of lengths
	step   []int   // [longest + 1]: the index in steps of the least step with shapes that holds a length
	index  [][]int // [count][step] -> index in all, or -1
}

// lengthSteps goes up by a quarter of each power of two, from 16; coarser where sequences are short enough to be cheap, and where they
// are so long that few are met.
func lengthSteps(most int) []int {
	var steps []int
	for _, s := range []int{16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512} {
		if s < most {
			steps = append(steps, s)
		}
	}
	for s := 640; s < most; {
		steps = append(steps, s)
		if s&(s-1) == 0 {
			s += s / 2
		} else {
			s = 1 << (bitsOf(s))
		}
	}
	return append(steps, most)
}

func bitsOf(n int) int { return int(math.Floor(math.Log2(float64(n)))) + 1 }

// newShapes lists the shapes of up to maxCells cells, and of one sequence of every length.
func newShapes(maxCells, maxSequences, maxLength int) *shapes {
	s := &shapes{steps: lengthSteps(maxLength)}
	for n := 1; n < maxSequences; n *= 2 {
		s.counts = append(s.counts, n)
	}
	s.counts = append(s.counts, maxSequences)
	s.step = make([]int, maxLength+1)
	for _, n := range s.counts {
		for _, l := range s.steps {
			if n == 1 || n*l <= maxCells {
				s.all = append(s.all, shape{n, l})
			}
		}
	}
	s.reindex()
	return s
}

// keep drops the shapes that do not fit, which are asked about in their order. One of the longest sequences must be left.
func (s *shapes) keep(fits func(shape) bool) {
	s.all = slices.DeleteFunc(s.all, func(x shape) bool { return !fits(x) })
	s.reindex()
}

func (s *shapes) reindex() {
	slices.SortFunc(s.all, func(a, b shape) int {
		if a.cells() != b.cells() {
			return a.cells() - b.cells()
		}
		return a.n - b.n
	})
	s.cost = make([]float64, len(s.all))
	s.index = make([][]int, len(s.counts))
	for c := range s.counts {
		s.index[c] = slices.Repeat([]int{-1}, len(s.steps))
	}
	for i, x := range s.all {
		// Until it is measured: what a launch costs, and then by cells.
		s.cost[i] = 300 + float64(x.cells())
		s.index[s.countOf(x.n)][s.stepOf(x.l)] = i
	}
	s.restep()
}

// restep looks up again which step holds each length. It reports whether there is one for all.
func (s *shapes) restep() bool {
	at := 0
	has := func(row []int) bool { return row[at] >= 0 }
	for l := range s.step {
		for at < len(s.steps)-1 && (s.steps[at] < l || !slices.ContainsFunc(s.index, has)) {
			at++
		}
		s.step[l] = at
	}
	return slices.ContainsFunc(s.index, has)
}

// refuse takes shape i out of use. It reports whether there is one left for every length.
func (s *shapes) refuse(i int) bool {
	s.cost[i] = math.Inf(1)
	s.index[s.countOf(s.all[i].n)][s.stepOf(s.all[i].l)] = -1
	return s.restep()
}

// refused reports that shape i is out of use.
func (s *shapes) refused(i int) bool { return math.IsInf(s.cost[i], 1) }

func (s *shapes) countOf(n int) int { return slices.Index(s.counts, n) }
func (s *shapes) stepOf(l int) int  { return slices.Index(s.steps, l) }

// bestTokens is where more tokens in a run bring no more than a twentieth of throughput.
func (s *shapes) bestTokens(maxTokens int) int {
	best := 0.0
	for i, x := range s.all {
		best = max(best, float64(x.cells())/s.cost[i])
	}
	for i, x := range s.all {
		if float64(x.cells())/s.cost[i] >= 0.95*best {
			return min(x.cells(), maxTokens)
		}
	}
	return maxTokens
}

// group is a launch: sequences [from, to) of those sorted by length.
type group struct{ shape, from, to int }

// partition cuts sequences into launches of least cost in all. lengths ascend; none is 0. It appends to groups. costs and cuts are
// scratch memory.
func (s *shapes) partition(lengths []int32, groups []group, costs []float64, cuts []group) []group {
	n := len(lengths)
	costs, cuts = costs[:n+1], cuts[:n+1]
	costs[0] = 0
	for i := 1; i <= n; i++ {
		costs[i] = math.Inf(1)
		step := s.step[lengths[i-1]]
		for c, count := range s.counts {
			x := s.index[c][step]
			if x < 0 {
				continue
			}
			from := max(0, i-count)
			if total := costs[from] + s.cost[x]; total < costs[i] {
				costs[i], cuts[i] = total, group{x, from, i}
			}
			if from == 0 {
				break
			}
		}
	}
	first := len(groups)
	for i := n; i > 0; i = cuts[i].from {
		groups = append(groups, cuts[i])
	}
	slices.Reverse(groups[first:])
	return groups
}
