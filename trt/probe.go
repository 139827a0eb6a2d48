package trt

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// probe compares what launches compute at warm-up: a sequence must have the same numbers in every shape, alone and among others.
// TensorRT-RTX makes kernels for each shape, and where one of them is wrong it tells nobody (docs/measurements.md).
type probe struct {
	layout layout
	shapes *shapes
	warn   func(shape)
	met    map[int][]probed  // by a sequence's length, until most have been heard
	want   map[int][]float32 // by a sequence's length: what most shapes say
}

// probed is a sequence's row in a shape.
type probed struct {
	shape int
	row   []float32
}

func newProbe(l layout, s *shapes, warn func(shape)) *probe {
	return &probe{layout: l, shapes: s, warn: warn, met: make(map[int][]probed), want: make(map[int][]float32)}
}

// Rows are compared up to so many columns: a wrong kernel does not spare the first ones.
const mostCompared = 1024

// leastAgreement is the cosine below which two rows are not of one sequence: rounding makes them differ by much less, in any precision.
const leastAgreement = 0.98

// agree reports that rows differ by rounding alone. What is not finite says nothing here.
func agree(a, b []float32) bool {
	var dot, aa, bb, most, off float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		dot, aa, bb = dot+x*y, aa+x*x, bb+y*y
		most, off = max(most, math.Abs(x), math.Abs(y)), max(off, math.Abs(x-y))
	}
	switch {
	case math.IsNaN(aa+bb) || math.IsInf(aa+bb, 0):
		return true
	case len(a) < 8: // logits: a cosine of so few numbers tells little
		return off <= 0.1+0.1*most
	case aa == 0 || bb == 0:
		return aa == bb
	}
	return dot/math.Sqrt(aa*bb) >= leastAgreement
}

// lengths are those of the sequences in a launch of x: the shortest step, that all shapes hold, the step before x's, and x's own.
func (p *probe) lengths(x shape) []int {
	short, before := min(p.shapes.steps[0], x.l), p.shapes.steps[max(p.shapes.stepOf(x.l)-1, 0)]
	return slices.Compact([]int{short, before, x.l})
}

// run launches shape i with known sequences and refuses it where one has not the numbers that it has elsewhere.
func (p *probe) run(w *worker, i int) error {
	x := p.shapes.all[i]
	lengths := p.lengths(x)
	launches := [][]int{lengths}
	if x.n < len(lengths) {
		launches = launches[:0]
		for _, length := range lengths {
			launches = append(launches, []int{length})
		}
	}
	for _, lengths := range launches {
		if err := p.launch(w, x, i, lengths); err != nil {
			return err
		}
		for s := range x.n {
			if !p.hear(i, lengths[s%len(lengths)], p.row(w, x, s, lengths[s%len(lengths)])) {
				return p.refuse(i)
			}
		}
	}
	return nil
}

// hear compares a row with what is known of its length, in that shape or in all.
func (p *probe) hear(i, length int, row []float32) bool {
	if want, ok := p.want[length]; ok {
		return agree(row, want)
	}
	met := p.met[length]
	if n := len(met); n > 0 && met[n-1].shape == i {
		return agree(row, met[n-1].row)
	}
	p.met[length] = append(met, probed{i, slices.Clone(row)})
	return true
}

// settle refuses the shapes that disagree with most of the others; what these say is wanted from now on. Of two that disagree the one of
// fewer cells is believed.
func (p *probe) settle() error {
	for _, length := range slices.Sorted(maps.Keys(p.met)) { // the shortest first: all shapes have it
		met := slices.DeleteFunc(p.met[length], func(q probed) bool { return p.shapes.refused(q.shape) })
		var best []float32
		most := 0
		for _, q := range met {
			n := 0
			for _, other := range met {
				if agree(q.row, other.row) {
					n++
				}
			}
			if n > most {
				best, most = q.row, n
			}
		}
		for _, q := range met {
			if !agree(q.row, best) {
				if err := p.refuse(q.shape); err != nil {
					return err
				}
			}
		}
		if best != nil {
			p.want[length] = best
		}
	}
	p.met = nil
	return nil
}

// launch fills shape i with sequences of lengths, in turns.
func (p *probe) launch(w *worker, x shape, i int, lengths []int) error {
	planes := p.layout.planes
	tokens, sequences := w.tokens.ints()[:planes.tokens*x.cells()], w.sequences.ints()[:planes.sequences*x.n]
	clear(tokens)
	clear(sequences)
	for s := range x.n {
		length := lengths[s%len(lengths)]
		sequences[s] = int32(length)
		for t := range length {
			tokens[s*x.l+t] = int32((3 + 7*t) % p.layout.vocab)
			if planes.positions >= 0 {
				tokens[planes.positions*x.cells()+s*x.l+t] = int32(p.layout.position + t)
			}
		}
	}
	vectors := -1
	if w.bound <= bindPooled {
		vectors = 0
		if bytes := 4 * p.layout.token * x.cells(); w.vectors.bytes < bytes {
			m, err := w.lane.Stage(bindTokenVectors, bytes)
			if err != nil {
				return err
			}
			w.vectors = m
		}
	}
	making.Lock()
	defer making.Unlock()
	if _, err := w.enqueue(i, 0, 0, vectors); err != nil {
		return err
	}
	return w.lane.Wait()
}

// row is what is compared of a sequence: its vector, or its last token's where it has none.
func (p *probe) row(w *worker, x shape, s, length int) []float32 {
	rows, at, width := w.pooled, s, p.layout.pooled
	if w.bound <= bindPooled {
		rows, at, width = w.vectors, s*x.l+length-1, p.layout.token
	}
	return rows.floats()[at*width:][:min(width, mostCompared)]
}

// refuse takes shape i out of use, on all workers of the replica.
func (p *probe) refuse(i int) error {
	x := p.shapes.all[i]
	p.warn(x)
	if !p.shapes.refuse(i) {
		return status.Errorf(status.Start, "no shape for sequences of %d tokens computes what others do", p.shapes.steps[len(p.shapes.steps)-1])
	}
	return nil
}

// otherNumbers is the warning of a shape that is refused.
func (r *replica) otherNumbers(x shape) string {
	return fmt.Sprintf("%s: TensorRT computes other numbers for %d sequences of %d tokens than it does elsewhere: that shape is not used",
		r.name(), x.n, x.l)
}
