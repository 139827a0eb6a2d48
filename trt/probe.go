package trt

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// probe compares what launches compute at warm-up: a sequence must have the same numbers in every shape, alone and among others, at once
// and when all other shapes have been made. TensorRT-RTX makes kernels for each shape, and where one of them is wrong it tells nobody
// (docs/measurements.md).
type probe struct {
	layout layout
	shapes *shapes
	warn   func(shape, float64)
	least  float64                // cosine of two rows of one sequence
	met    map[sequence][]probed  // until most have been heard
	want   map[sequence][]float32 // what most shapes say
}

// sequence is what is known of one: its length, and which of so many texts it is. Neighbours are different texts: where one reads
// the other's rows, its numbers change.
type sequence struct{ length, text int }

const probeTexts = 5

// probed is a sequence's row in a shape.
type probed struct {
	shape int
	row   []float32
}

func newProbe(l layout, s *shapes, warn func(shape, float64)) *probe {
	return &probe{layout: l, shapes: s, warn: warn, least: leastAgreement[l.precision], met: make(map[sequence][]probed),
		want: make(map[sequence][]float32)}
}

const mostCompared = 1024

// leastAgreement is the cosine below which two rows are not of one sequence, by precision: rounding alone makes them differ by less.
var leastAgreement = map[string]float64{"float32": 0.9999, "float16": 0.9995, "bfloat16": 0.99, "float8": 0.98}

// agreement is the cosine of two rows, of which at most mostCompared columns count, spread over all. Where a direction tells little, because
// there are few columns (logits) or most of them are zeros (sparse weights), it is 1 or 0: whether all are near. Rows that are not finite
// agree among themselves.
func (p *probe) agreement(a, b []float32) float64 {
	var dot, aa, bb, most, off float64
	for i := 0; i < len(a); i += (len(a)-1)/mostCompared + 1 {
		x, y := float64(a[i]), float64(b[i])
		dot, aa, bb = dot+x*y, aa+x*x, bb+y*y
		most, off = max(most, math.Abs(x), math.Abs(y)), max(off, math.Abs(x-y))
	}
	finite := func(x float64) bool { return !math.IsNaN(x) && !math.IsInf(x, 0) }
	directed := len(a) >= 8 && p.layout.outputs&engine.Sparse == 0
	near := off <= 0.1+0.1*most
	switch {
	case !finite(aa) || !finite(bb):
		near = finite(aa) == finite(bb)
	case directed && aa > 0 && bb > 0:
		return dot / math.Sqrt(aa*bb)
	case directed:
		near = aa == bb
	}
	if near {
		return 1
	}
	return 0
}

// lengths are those of the sequences in a launch of x: the shortest step, that all shapes hold, the step before x's, an odd one between
// that and x's, and x's own.
func (p *probe) lengths(x shape) []int {
	step := p.shapes.stepOf(x.l)
	short, before := min(p.shapes.steps[0], x.l), p.shapes.steps[max(step-1, 0)]
	if step == 0 {
		before = 0
	}
	lengths := []int{short, before, (before+x.l)/2 | 1, x.l}
	lengths = slices.DeleteFunc(lengths, func(l int) bool { return l < 1 || l > x.l })
	slices.Sort(lengths)
	return slices.Compact(lengths)
}

// leastTurns is how often a shape is launched at the least: its cost is the least time of them.
const leastTurns = 3

// all launches shape i with known sequences, of which each place has each length, and sets its cost; or refuses it where a sequence has not the
// numbers that it has elsewhere. A launch takes as long whatever the lengths in it are: all places are computed, and masks are added.
func (p *probe) all(ctx context.Context, w *worker, i int) error {
	least := math.Inf(1)
	for turn := range max(len(p.lengths(p.shapes.all[i])), leastTurns) {
		if err := ended(ctx); err != nil {
			return err
		}
		ok, took, err := p.turn(w, i, turn)
		if !ok {
			return err
		}
		least = min(least, float64(took)/float64(time.Microsecond))
	}
	p.shapes.cost[i] = least
	return nil
}

// turn launches shape i once. It reports whether the shape may be used, and how long the launch took.
func (p *probe) turn(w *worker, i, turn int) (ok bool, took time.Duration, err error) {
	x := p.shapes.all[i]
	lengths := p.lengths(x)
	in := func(place int) sequence { return sequence{lengths[(place+turn)%len(lengths)], place % probeTexts} }
	if _, took, err = p.launch(w, i, in); err != nil {
		return false, took, err
	}
	for place := range x.n {
		if c := p.hear(i, in(place), p.row(w, x, place, in(place).length)); c < p.least {
			return false, took, p.refuse(i, c)
		}
	}
	return true, took, nil
}

// hear returns how a row agrees with what is known of its sequence: in all shapes, or in that one.
func (p *probe) hear(i int, q sequence, row []float32) float64 {
	if want, ok := p.want[q]; ok {
		return p.agreement(row, want)
	}
	met := p.met[q]
	if n := len(met); n > 0 && met[n-1].shape == i {
		return p.agreement(row, met[n-1].row)
	}
	p.met[q] = append(met, probed{i, slices.Clone(row)})
	return 1
}

// settle refuses the shapes that disagree with most of the others; what these say is wanted from now on. Of two that disagree the one of
// fewer cells is believed.
func (p *probe) settle() error {
	// The shortest first: all shapes have it.
	order := func(a, b sequence) int { return cmp.Or(a.length-b.length, a.text-b.text) }
	for _, known := range slices.SortedFunc(maps.Keys(p.met), order) {
		met := slices.DeleteFunc(p.met[known], func(q probed) bool { return p.shapes.refused(q.shape) })
		var best []float32
		most := 0
		for _, q := range met {
			n := 0
			for _, other := range met {
				if p.agreement(q.row, other.row) >= p.least {
					n++
				}
			}
			if n > most {
				best, most = q.row, n
			}
		}
		for _, q := range met {
			if c := p.agreement(q.row, best); c < p.least {
				if err := p.refuse(q.shape, c); err != nil {
					return err
				}
			}
		}
		if best != nil {
			p.want[known] = best
		}
	}
	p.met = nil
	return nil
}

// launch fills shape i with sequences, by their places, and runs it, which takes so long.
func (p *probe) launch(w *worker, i int, in func(place int) sequence) (kind nvinfer.LaunchKind, took time.Duration, err error) {
	x, planes := p.shapes.all[i], p.layout.planes
	tokens, sequences := w.tokens.ints()[:planes.tokens*x.cells()], w.sequences.ints()[:planes.sequences*x.n]
	clear(tokens)
	clear(sequences)
	for s := range x.n {
		q := in(s)
		sequences[s] = int32(q.length)
		for t := range q.length {
			tokens[s*x.l+t] = int32((3 + 7*t + q.text*(p.layout.vocab/probeTexts|1)) % p.layout.vocab)
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
				return nvinfer.Plain, 0, err
			}
			w.vectors = m
		}
	}
	engine.Making.Lock()
	defer engine.Making.Unlock()
	begin := time.Now()
	if kind, err = w.enqueue(i, 0, 0, vectors); err == nil {
		err = w.lane.Wait()
	}
	return kind, time.Since(begin), err
}

// row is what is compared of a sequence: its vector, or its last token's where it has none.
func (p *probe) row(w *worker, x shape, s, length int) []float32 {
	rows, at, width := w.pooled, s, p.layout.pooled
	if w.bound <= bindPooled {
		rows, at, width = w.vectors, s*x.l+length-1, p.layout.token
	}
	return rows.floats()[at*width:][:width]
}

// refuse takes shape i out of use, on all workers of the replica.
func (p *probe) refuse(i int, agreement float64) error {
	x := p.shapes.all[i]
	p.warn(x, agreement)
	if !p.shapes.refuse(i) {
		return status.Errorf(status.Start, "no shape for sequences of %d tokens computes what others do", p.shapes.steps[len(p.shapes.steps)-1])
	}
	return nil
}

// otherNumbers is the warning of a shape that is refused.
func (r *replica) otherNumbers(x shape, agreement float64) string {
	return fmt.Sprintf("%s: TensorRT computes other numbers for %d sequences of %d tokens than it does elsewhere (cosine %.6f): that shape is not used",
		r.name(), x.n, x.l, agreement)
}
