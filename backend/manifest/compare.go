package manifest

import (
	"fmt"
	"math"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/document"
)

// Report is how outputs compare with the references.
type Report struct {
	File        string    `json:"file"`
	Precision   string    `json:"precision"`
	Threshold   Threshold `json:"threshold"`
	Items       int       `json:"items"`
	Skipped     int       `json:"skipped"`                // items that are longer than the options' max_length
	WorstCosine *float64  `json:"worst_cosine,omitempty"` // of vectors
	WorstError  float64   `json:"worst_error"`
	WorstItem   int       `json:"worst_item"` // that WorstError is of
	Rankings    int       `json:"rankings"`
	Seconds     float64   `json:"seconds"`
	Reference   *Identity `json:"reference,omitempty"`
	Rows        []Row     `json:"-"`
	Failures    []string  `json:"failures,omitempty"` // empty: parity
}

// Row is one item of a Report.
type Row struct {
	Label          string
	Skipped        bool
	Alone, InBatch Distance
	Failed         bool
}

// Distance is how far an output is from its reference.
type Distance struct {
	Cosine float64 // 1 for logits
	Error  float64 // relative to the reference's largest magnitude where that is above 1
}

// Label names an item: what it begins with.
func (it *Item) Label() string {
	const most = 32
	switch {
	case it.Text == nil:
		return fmt.Sprintf("%d token ids", len(it.InputIDs))
	case len([]rune(*it.Text)) > most:
		return fmt.Sprintf("%q...", string([]rune(*it.Text)[:most]))
	}
	return fmt.Sprintf("%q", *it.Text)
}

// Compare holds the outputs of all items, run alone and run together, to the references.
func (m *Manifest) Compare(precision string, alone, together []Result) *Report {
	r := &Report{File: FileName, Precision: precision, Threshold: m.Threshold(precision), Items: len(m.Items), Rankings: len(m.Rankings), Reference: m.Reference}
	worst := math.Inf(1)
	for i := range m.Items {
		it := &m.Items[i]
		row := Row{Label: it.Label(), Skipped: alone[i].TooLong || together[i].TooLong}
		if row.Skipped {
			r.Skipped++
			r.Rows = append(r.Rows, row)
			continue
		}
		for _, run := range []struct {
			how string
			got Result
			d   *Distance
		}{{"alone", alone[i], &row.Alone}, {"in a batch", together[i], &row.InBatch}} {
			var fault string
			if *run.d, fault = m.distance(it, run.got, r.Threshold); fault != "" {
				row.Failed = true
				r.Failures = append(r.Failures, fmt.Sprintf("items.%d (%s) %s: %s", i, document.Quote(row.Label), run.how, fault))
			}
			worst = min(worst, run.d.Cosine)
			if run.d.Error > r.WorstError {
				r.WorstError, r.WorstItem = run.d.Error, i
			}
		}
		r.Rows = append(r.Rows, row)
	}
	if m.vectors() && r.Skipped < len(m.Items) {
		r.WorstCosine = &worst
	}
	for i, ranking := range m.Rankings {
		if fault := m.rankFault(ranking, alone, r.Threshold); fault != "" {
			r.Failures = append(r.Failures, fmt.Sprintf("rankings.%d: %s", i, fault))
		}
	}
	return r
}

// vectors tells that outputs have a direction; a few logits near zero have none that would mean anything.
func (m *Manifest) vectors() bool { return m.Model.Output == Pooled || m.Model.Output == Sparse }

// distance compares one output. fault is "" within the threshold.
func (m *Manifest) distance(it *Item, got Result, t Threshold) (d Distance, fault string) {
	a, b := []float32(it.Values), got.Values
	if m.Model.Output == Sparse {
		a, b = union(it.Indices, it.Values, got.Indices, got.Values)
	}
	if len(a) != len(b) {
		return Distance{Cosine: 0, Error: 1}, fmt.Sprintf("the output has %d numbers, the reference has %d: the tokens or the model differ", len(b), len(a))
	}
	d = Distance{Cosine: 1, Error: relativeError(a, b)}
	if m.vectors() {
		d.Cosine = cosine(a, b)
		if !(d.Cosine >= t.MinCosine) { // NaN is a fault, too
			return d, fmt.Sprintf("cosine %.7f is below min_cosine %g", d.Cosine, t.MinCosine)
		}
	}
	if !(d.Error <= t.MaxError) {
		return d, fmt.Sprintf("error %.3g is above max_error %g", d.Error, t.MaxError)
	}
	return d, ""
}

// rankFault says which items changed places further than the margin; "": none.
func (m *Manifest) rankFault(r Ranking, got []Result, t Threshold) string {
	items := r.Order
	if r.Query != nil {
		items = append([]int{*r.Query}, items...)
	}
	if slices.ContainsFunc(items, func(i int) bool { return got[i].TooLong }) {
		return "" // counted as skipped
	}
	reference := m.scores(r, func(i int) Result { return Result{Values: m.Items[i].Values, Indices: m.Items[i].Indices} })
	scores := m.scores(r, func(i int) Result { return got[i] })
	margin := t.RankMargin
	if !m.vectors() {
		for _, s := range reference {
			margin = max(margin, t.RankMargin*math.Abs(s))
		}
	}
	for k := range scores {
		for j := range k {
			if !(scores[k] <= scores[j]) && reference[j]-reference[k] > margin {
				return fmt.Sprintf("item %d (score %.6g) comes before item %d (%.6g), where the references have %.6g and %.6g, further apart than rank_margin %g",
					r.Order[k], scores[k], r.Order[j], scores[j], reference[k], reference[j], margin)
			}
		}
	}
	return ""
}

// scores are those of a ranking's items, in its order.
func (m *Manifest) scores(r Ranking, of func(int) Result) []float64 {
	scores := make([]float64, len(r.Order))
	for k, i := range r.Order {
		a := of(i)
		if r.Query == nil {
			if scores[k] = math.NaN(); len(a.Values) > 0 {
				scores[k] = float64(a.Values[0])
			}
			continue
		}
		q := of(*r.Query)
		x, y := q.Values, a.Values
		if m.Model.Output == Sparse {
			x, y = union(q.Indices, q.Values, a.Indices, a.Values)
		}
		if scores[k] = math.NaN(); len(x) == len(y) {
			scores[k] = cosine(x, y)
		}
	}
	return scores
}

// Rank adds the rankings that the references themselves have: of an embedding model all items by their cosine to the first, of a
// reranker all items by logit. Other models, and fewer than three items, have none.
func (m *Manifest) Rank() {
	if m.Rankings = nil; len(m.Items) < 3 {
		return
	}
	var r Ranking
	first := 0
	switch {
	case m.vectors():
		r.Query, first = new(int), 1
	case m.Model.Output != Logits || m.Model.Width != 1:
		return
	}
	for i := first; i < len(m.Items); i++ {
		r.Order = append(r.Order, i)
	}
	scores := m.scores(r, func(i int) Result { return Result{Values: m.Items[i].Values, Indices: m.Items[i].Indices} })
	slices.SortStableFunc(r.Order, func(a, b int) int {
		switch x, y := scores[a-first], scores[b-first]; {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	m.Rankings = []Ranking{r}
}

// union lays two sparse vectors over the indices of both.
func union(ai []uint32, av []float32, bi []uint32, bv []float32) (a, b []float32) {
	for len(ai) > 0 || len(bi) > 0 {
		var x, y float32
		takeA := len(bi) == 0 || len(ai) > 0 && ai[0] <= bi[0]
		takeB := len(ai) == 0 || len(bi) > 0 && bi[0] <= ai[0]
		if takeA {
			x, ai, av = av[0], ai[1:], av[1:]
		}
		if takeB {
			y, bi, bv = bv[0], bi[1:], bv[1:]
		}
		a, b = append(a, x), append(b, y)
	}
	return a, b
}

// cosine of two vectors; of two of zeros it is 1, of one 0.
func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	switch {
	case aa == 0 && bb == 0:
		return 1
	case aa == 0 || bb == 0:
		return 0
	}
	return ab / math.Sqrt(aa) / math.Sqrt(bb)
}

// relativeError is the largest difference of b from a, as a part of a's largest magnitude where that is above 1. NaN where b has one.
func relativeError(a, b []float32) float64 {
	worst, scale := 0.0, 1.0
	for i := range a {
		scale = max(scale, math.Abs(float64(a[i])))
		worst = max(worst, math.Abs(float64(a[i])-float64(b[i]))) // max keeps NaN
	}
	return worst / scale
}
