package onnx_test

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

// residentBytes is the memory of this process that is in RAM now, but for that of files with code: how much of a library is there depends on
// the page cache.
func residentBytes(t testing.TB) int {
	smaps, err := os.ReadFile("/proc/self/smaps") // proc_pid_smaps(5)
	require.NoError(t, err)
	type file struct{ device, inode string }
	kilobytes, code := make(map[file]int), make(map[file]bool)
	var of file
	for line := range strings.Lines(string(smaps)) {
		fields := strings.Fields(line)
		switch {
		case !strings.HasSuffix(fields[0], ":"): // range, flags, offset, device, inode, path
			of = file{fields[3], fields[4]}
			code[of] = code[of] || strings.Contains(fields[1], "x") && of.inode != "0"
		case fields[0] == "Rss:":
			n, err := strconv.Atoi(fields[1])
			require.NoError(t, err)
			kilobytes[of] += n
		}
	}
	sum := 0
	for of, n := range kilobytes {
		if !code[of] {
			sum += n << 10
		}
	}
	return sum
}

// workload is 256 sequences of random words, 8 to 256 tokens long.
func workload() []suite.Sequence {
	random := rand.New(rand.NewPCG(7, 7))
	sequences := make([]suite.Sequence, 256)
	for i := range sequences {
		sequences[i] = words(random, 8+random.IntN(249))
	}
	return sequences
}

func words(random *rand.Rand, n int) suite.Sequence {
	q := suite.Sequence{IDs: make([]int32, n), Types: make([]int32, n), Positions: make([]int32, n)}
	for i := range q.IDs {
		q.IDs[i], q.Positions[i] = 1000+random.Int32N(28000), int32(i)
	}
	q.IDs[0], q.IDs[n-1] = 101, 102
	return q
}

// pass runs sequences in arrival order, at most best tokens a run, and returns their tokens.
func pass(tb testing.TB, s engine.Slot, sequences []suite.Sequence, best int) (tokens int) {
	b := s.Batch()
	flush := func() {
		tokens += b.Tokens()
		_, err := s.Run(context.Background())
		require.NoError(tb, err)
		b.Reset()
	}
	b.Reset()
	for _, q := range sequences {
		if b.Tokens() > 0 && b.Tokens()+len(q.IDs) > best {
			flush()
		}
		b.InputIDs, b.TypeIDs, b.PositionIDs = append(b.InputIDs, q.IDs...), append(b.TypeIDs, q.Types...), append(b.PositionIDs, q.Positions...)
		b.EndSequence(engine.Pooled, 0)
	}
	flush()
	return tokens
}

func openMiniLM(b *testing.B, o onnx.Options) engine.Engine {
	c := suite.MiniLM(b)
	e, err := onnx.Open(b.Context(), c.Model, c.Weights, o)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, e.Close()) })
	return e
}

// BenchmarkThroughput reports the best pass: other work on the machine only ever slows one down.
func BenchmarkThroughput(b *testing.B) {
	sequences := workload()
	for _, best := range []int{256, 512, 768, 1024, 1536, 2048} {
		b.Run(strconv.Itoa(best), func(b *testing.B) {
			e := openMiniLM(b, options(b))
			fastest := 0.0
			for b.Loop() {
				start := time.Now()
				tokens := pass(b, e.Slots()[0], sequences, best)
				fastest = max(fastest, float64(tokens)/time.Since(start).Seconds())
			}
			b.ReportMetric(fastest, "tokens/s")
		})
	}
}

// BenchmarkLatency is one sequence of 19 tokens.
func BenchmarkLatency(b *testing.B) {
	e := openMiniLM(b, options(b))
	q := []suite.Sequence{words(rand.New(rand.NewPCG(1, 1)), 19)}
	fastest := time.Hour
	for b.Loop() {
		start := time.Now()
		pass(b, e.Slots()[0], q, 19)
		fastest = min(fastest, time.Since(start))
	}
	b.ReportMetric(float64(fastest.Microseconds())/1000, "ms-min")
}

// BenchmarkMemory reports what opening, and then running, adds to residentBytes. It must be the only one in its process.
func BenchmarkMemory(b *testing.B) {
	sequences := workload()
	before := residentBytes(b)
	e := openMiniLM(b, options(b))
	opened := residentBytes(b)
	for range 10 {
		pass(b, e.Slots()[0], sequences[:64], 1024)
	}
	ran := residentBytes(b)
	for b.Loop() {
		pass(b, e.Slots()[0], sequences[:1], 1024)
	}
	b.ReportMetric(float64(opened-before)/1e6, "MB-open")
	b.ReportMetric(float64(ran-before)/1e6, "MB-ran")
}
