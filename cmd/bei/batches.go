package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend"
)

// What a batch of "mixedN" has where it names no lengths.
const shortestMixed, longestMixed = 16, 512

// maxBenchTokens bounds a batch, so that a slip of the keyboard does not fill the memory.
const maxBenchTokens = 1 << 24

// Streams of mix, one for each thing that is drawn.
const (
	lengthStream = 1
	idStream     = 2
)

// mix is number i of a stream of seeded numbers (splitmix64). bench/gpu/batches.py has the same, so that other programs get the
// same batches.
func mix(stream, i uint64) uint64 {
	z := stream + (i+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// parseLengths reads the name of a batch: "32x512", "mixed64", "mixed8:2-16" or "16+40+300".
func parseLengths(name string) ([]int, error) {
	bad := func() ([]int, error) {
		return nil, fmt.Errorf("batch %q: it is COUNTxLENGTH, mixedCOUNT, mixedCOUNT:SHORTEST-LONGEST or LENGTH+LENGTH..., of at most %d tokens, each length at least 1",
			name, maxBenchTokens)
	}
	var lengths []int
	total := 0
	add := func(n int) bool {
		lengths, total = append(lengths, n), total+n
		return n >= 1 && n <= maxBenchTokens && total <= maxBenchTokens
	}
	if rest, ok := strings.CutPrefix(name, "mixed"); ok {
		count, span, given := strings.Cut(rest, ":")
		shortest, longest := shortestMixed, longestMixed
		if given {
			var ok bool
			if shortest, longest, ok = twoNumbers(span, "-"); !ok || shortest < 1 || longest < shortest {
				return bad()
			}
		}
		n, ok := number(count)
		if !ok {
			return bad()
		}
		for i := range n {
			if !add(shortest + int(mix(lengthStream, uint64(i))%uint64(longest-shortest+1))) {
				return bad()
			}
		}
	} else if n, length, ok := twoNumbers(name, "x"); ok {
		for range n {
			if !add(length) {
				return bad()
			}
		}
	} else {
		for part := range strings.SplitSeq(name, "+") {
			if n, ok := number(part); !ok || !add(n) {
				return bad()
			}
		}
	}
	if len(lengths) == 0 {
		return bad()
	}
	return lengths, nil
}

// number reads a decimal number without a sign.
func number(text string) (int, bool) {
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err == nil
}

func twoNumbers(text, separator string) (a, b int, ok bool) {
	first, second, found := strings.Cut(text, separator)
	a, okA := number(first)
	b, okB := number(second)
	return a, b, found && okA && okB
}

// tokenBatch makes the batch of that name for a model: seeded ids below its vocabulary's size, all items pooled.
func tokenBatch(name string, info backend.Info) (backend.Batch, error) {
	lengths, err := parseLengths(name)
	if err != nil {
		return backend.Batch{}, err
	}
	b := backend.Batch{CumulativeSeqLengths: []uint32{0}}
	for i, n := range lengths {
		if n > int(info.MaxLength) {
			return b, fmt.Errorf("batch %q: item %d has %d tokens; this model's limit is %d (max_length)", name, i, n, info.MaxLength)
		}
		for range n {
			b.InputIDs = append(b.InputIDs, uint32(mix(idStream, uint64(len(b.InputIDs)))%uint64(info.VocabSize)))
		}
		b.CumulativeSeqLengths = append(b.CumulativeSeqLengths, uint32(len(b.InputIDs)))
		b.PooledIndices = append(b.PooledIndices, uint32(i))
	}
	return b, nil
}
