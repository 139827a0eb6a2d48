package weights

import (
	"cmp"
	"slices"
	"strings"
)

// Near returns up to three names that are most like name, for messages. It looks at the first 5000 names only.
func (s *Set) Near(name string) []string {
	if len(name) > 200 {
		return nil
	}
	type candidate struct {
		name     string
		distance int
	}
	var found []candidate
	for _, other := range s.names[:min(len(s.names), 5000)] {
		if len(other) > 200 {
			continue
		}
		if d := editDistance(name, other); d <= max(6, len(name)/3) {
			found = append(found, candidate{other, d})
		}
	}
	slices.SortStableFunc(found, func(a, b candidate) int { return cmp.Compare(a.distance, b.distance) })
	names := make([]string, 0, 3)
	for _, c := range found[:min(len(found), 3)] {
		names = append(names, c.name)
	}
	return names
}

func (s *Set) didYouMean(name string) string {
	near := s.Near(name)
	if len(near) == 0 {
		return ""
	}
	for i := range near {
		near[i] = quote(near[i])
	}
	return "; near: " + strings.Join(near, ", ")
}

// editDistance is Levenshtein's, over bytes, with one row of the table.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
