package auto

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// measurement is what a run of a shape takes on each of two engines. None is zero.
type measurement struct {
	shape Shape
	times [2]time.Duration
}

// rule says which of two engines runs what: small those of up to tokens tokens, the other one those of more. With alone, small runs all.
type rule struct {
	small  int
	tokens int
	alone  bool
}

// gain is how much faster an engine must be in some size for a second copy of the model to be worth its memory.
const gain = 1.05

// choose finds the rule that loses the least to the faster engine of each measurement, as a product of ratios, so that a size that is
// run in microseconds counts as much as one that is run in milliseconds; and the engine that loses the least by itself. The
// measurements are ordered by tokens.
func choose(all []measurement) (best rule, single int) {
	// loss of giving one size to an engine
	loss := func(i, e int) float64 {
		t := all[i].times
		return math.Log(float64(t[e]) / float64(min(t[0], t[1])))
	}
	least := math.Inf(1)
	for e := range 2 {
		sum := 0.0
		for i := range all {
			sum += loss(i, e)
		}
		if sum < least {
			best, single, least = rule{small: e, alone: true}, e, sum
		}
	}
	for small := range 2 {
		for cut := 1; cut < len(all); cut++ {
			if all[cut].shape.Tokens() == all[cut-1].shape.Tokens() || !gains(all[:cut], small) || !gains(all[cut:], 1-small) {
				continue
			}
			sum := 0.0
			for i := range all {
				if i < cut {
					sum += loss(i, small)
				} else {
					sum += loss(i, 1-small)
				}
			}
			if sum < least {
				best, least = rule{small: small, tokens: crossing(all, cut, small)}, sum
			}
		}
	}
	return best, single
}

// gains tells whether engine e is clearly faster in one of the sizes.
func gains(all []measurement, e int) bool {
	for _, m := range all {
		if float64(m.times[1-e]) >= gain*float64(m.times[e]) {
			return true
		}
	}
	return false
}

// crossing is where, between the sizes before and from cut on, both engines take the same time, if times are linear in between.
func crossing(all []measurement, cut, small int) int {
	// mean lead of engine small over the other in the sizes of as many tokens as size i
	lead := func(i int) float64 {
		var sum, n float64
		for _, m := range all {
			if m.shape.Tokens() == all[i].shape.Tokens() {
				sum, n = sum+float64(m.times[1-small]-m.times[small]), n+1
			}
		}
		return sum / n
	}
	from, to := all[cut-1].shape.Tokens(), all[cut].shape.Tokens()
	before, after := max(lead(cut-1), 0), max(-lead(cut), 0)
	if before+after == 0 {
		return from
	}
	return min(from+int(float64(to-from)*before/(before+after)), to-1)
}

// table tells times: "1x32: 0.61 / 1.81 ms, ...", those of engine first before those of the other.
func table(all []measurement, first int) string {
	var lines []string
	for _, m := range all {
		lines = append(lines, fmt.Sprintf("%s: %s / %s ms", m.shape, milliseconds(m.times[first]), milliseconds(m.times[1-first])))
	}
	return strings.Join(lines, ", ")
}

// milliseconds of t to three digits.
func milliseconds(t time.Duration) string {
	ms := float64(t) / float64(time.Millisecond)
	switch {
	case ms >= 100:
		return fmt.Sprintf("%.0f", ms)
	case ms >= 10:
		return fmt.Sprintf("%.1f", ms)
	case ms >= 0.1:
		return fmt.Sprintf("%.2f", ms)
	}
	return fmt.Sprintf("%.2g", ms)
}
