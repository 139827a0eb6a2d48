package onnx

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
)

func bucketsOf(l engine.Limits) (all []bucket) {
	for _, to := range steps(l) {
		all = append(all, to.buckets...)
	}
	return all
}

// TestBuckets: a batch that is no larger than buckets are has one, and what fills it up fits it.
func TestBuckets(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for _, l := range []engine.Limits{{MaxTokens: 32768, MaxSequences: 1024, MaxLength: 512}, {MaxTokens: 300, MaxSequences: 6, MaxLength: 17}} {
		list := bucketsOf(l)
		require.NotEmpty(t, list)
		require.True(t, slices.IsSortedFunc(list, func(a, b bucket) int { return cmp.Compare(a.tokens, b.tokens) }), "%v", list)
		none := engine.NewBatch(engine.Limits{})
		for _, k := range list {
			filled := engine.NewBatch(engine.Limits{MaxTokens: 2064, MaxSequences: 33})
			k.fill(filled, none, 0)
			require.Equal(t, []int{k.tokens, k.sequences}, []int{filled.Tokens(), filled.Sequences()}, "what a graph is captured with")
		}
		b, filled := engine.NewBatch(l), engine.NewBatch(engine.Limits{MaxTokens: 2064, MaxSequences: 33})
		used := make(map[bucket]int)
		for range 3000 {
			b.Reset()
			most := 0
			for range 1 + random.IntN(min(32, l.MaxSequences-1)) {
				n := 1 + random.IntN(1+random.IntN(min(l.MaxLength, 90)))
				most = max(most, n)
				for i := range n {
					b.InputIDs, b.TypeIDs, b.PositionIDs = append(b.InputIDs, int32(i)), append(b.TypeIDs, 1), append(b.PositionIDs, int32(2+i))
				}
				b.EndSequence(engine.Pooled, 1)
			}
			d := &deviceRun{}
			for _, k := range list {
				d.graphs = append(d.graphs, &captured{bucket: k})
			}
			c := d.graphFor(b)
			if c == nil {
				require.Greater(t, b.Tokens()+17, list[len(list)-1].tokens, "%d tokens in %d sequences", b.Tokens(), b.Sequences())
				continue
			}
			used[c.bucket]++
			c.fill(filled, b, 2)
			require.Equal(t, []int{c.tokens, c.sequences}, []int{filled.Tokens(), filled.Sequences()})
			require.Equal(t, b.InputIDs, filled.InputIDs[:b.Tokens()])
			require.Equal(t, b.CuSeqLens, filled.CuSeqLens[:b.Sequences()+1])
			require.Len(t, filled.PoolSkip, c.sequences)
			blocks := 0
			for i := range filled.Sequences() {
				n := int(filled.CuSeqLens[i+1] - filled.CuSeqLens[i])
				require.True(t, n > 0 && n <= c.longest, "%d of %d", n, c.longest)
				blocks += (n + 15) / 16
			}
			g := &deviceGraph{block: 16, align: 1, positions: 514}
			require.NoError(t, g.check(filled))
			laid := c.lay(filled, g)
			require.GreaterOrEqual(t, laid.sizes[pages.name], blocks)
			// Where keys are written is where they are read.
			slots, table := make([]int32, filled.Tokens()), make([]int32, filled.Sequences()*laid.sizes["blocks"])
			laid.writeRows(cacheSlots, slots)
			laid.writeRows(blockTable, table)
			laid.each(func(i, start, length int) {
				for k := range length {
					page := int(table[i*laid.sizes["blocks"]+k/g.block])
					require.Equal(t, page*g.block+k%g.block, int(slots[start+k]))
					require.Less(t, page, laid.sizes[pages.name])
				}
			})
		}
		require.Greater(t, len(used), len(list)/5)
	}
	d := &deviceRun{}
	for _, k := range bucketsOf(engine.Limits{MaxTokens: 32768, MaxSequences: 1024, MaxLength: 512}) {
		d.graphs = append(d.graphs, &captured{bucket: k})
	}
	for _, size := range [][3]int{{1, 32, 1}, {1, 512, 1}, {4, 128, 2}, {8, 128, 4}, {32, 32, 16}, {5, 32, 36}} {
		b := engine.NewBatch(engine.Limits{MaxTokens: 2048, MaxSequences: 64})
		for range size[0] {
			b.InputIDs = append(b.InputIDs, make([]int32, size[1])...)
			b.EndSequence(engine.Pooled, 0)
		}
		require.LessOrEqual(t, d.graphFor(b).tokens-b.Tokens(), size[2], "%d x %d", size[0], size[1])
	}
	d = &deviceRun{graphs: []*captured{{bucket: bucket{32, 2, 31}}}}
	b := engine.NewBatch(engine.Limits{MaxTokens: 8, MaxSequences: 2})
	b.InputIDs = append(b.InputIDs, 1)
	b.EndSequence(engine.Pooled, 0)
	require.NotNil(t, d.graphFor(b))
	b.EndSequence(engine.Pooled, 0)
	require.Nil(t, d.graphFor(b), "a sequence without tokens")
	b.Reset()
	b.InputIDs = append(b.InputIDs, 1)
	b.EndSequence(engine.TokenVectors, 0)
	require.Nil(t, d.graphFor(b), "rows of tokens")
	b.Reset()
	b.InputIDs = append(b.InputIDs, 1, 2)
	b.EndSequence(engine.Pooled, 0)
	d.graphs[0].from = 2
	require.NotNil(t, d.graphFor(b))
	d.graphs[0].from = 3
	require.Nil(t, d.graphFor(b), "a plain run takes less time")
}

func TestCrossing(t *testing.T) {
	for _, c := range []struct {
		graph, few, many float64
		want             int
		ok               bool
	}{
		{1.9, 2, 2, 0, true},    // launching takes the same time for any number
		{2, 2, 2, 0, true},      // as much
		{3, 2, 4, 115, true},    // half way from 101 to 128, rounded up
		{4, 2, 4, 128, true},    // for the most only
		{4.1, 2, 4, 0, false},   // never
		{2, 2.5, 1.9, 0, false}, // others used the device meanwhile
	} {
		got, ok := crossing(c.graph, c.few, c.many, 101, 128)
		require.Equal(t, c.want, got, "%+v", c)
		require.Equal(t, c.ok, ok, "%+v", c)
	}
}

// TestKeeping: graphs end with two steps in vain, and graphs after one in vain are for more tokens than that step.
func TestKeeping(t *testing.T) {
	var k keeping
	for _, c := range []struct {
		tokens, from int
		worth        bool
		fewest       int
		more         bool
	}{
		{256, 0, true, 0, true},
		{384, 300, true, 300, true},
		{512, 0, false, 0, true},
		{640, 0, true, 513, true},
		{768, 700, true, 700, true},
		{896, 0, false, 0, true},
		{1024, 0, false, 0, false},
	} {
		fewest, more := k.judge(step{tokens: c.tokens}, c.from, c.worth)
		require.Equal(t, c.fewest, fewest, "%+v", c)
		require.Equal(t, c.more, more, "%+v", c)
		require.Equal(t, c.tokens, k.before)
	}
}

// TestFilledRuns: sequences have the same vectors in a batch that is filled up to a bucket. (The fused forms of attention have no kernels on the CPU.)
func TestFilledRuns(t *testing.T) {
	for _, c := range suite.Golden(t, arch.HeadEmbedding) {
		if c.Name != "bert-mean" && c.Name != "qwen3-embedding" && c.Name != "xlm-roberta-cls" && c.Name != "llama-lasttoken" {
			continue
		}
		for _, form := range []attentionForm{formProducts, formMulti} {
			t.Run(c.Name+" "+string(form), func(t *testing.T) {
				o := Options{Device: CUDA, Precision: Float32, emulate: true, attention: form, Library: os.Getenv(ort.LibraryVariable)}
				if o.Library == "" {
					o.Library = suite.Dependency(t, "onnxruntime/libonnxruntime.so.1")
				}
				opened, err := Open(t.Context(), c.Model, c.Weights, o)
				require.NoError(t, err)
				e := opened.(*Engine)
				defer func() { require.NoError(t, e.Close()) }()
				s := e.slots[1].(*slot)
				want, err := suite.Compute(t.Context(), s, e.info, c.Sequences, engine.Pooled)
				require.NoError(t, err)
				b, d := s.batch, s.device
				k := bucket{tokens: b.Tokens() + 70, sequences: b.Sequences() + 4, longest: (e.info.Limits.MaxLength + 7) / 8 * 8}
				d.filled = engine.NewBatch(engine.Limits{MaxTokens: k.tokens, MaxSequences: k.sequences})
				k.fill(d.filled, b, e.graph.firstPosition)
				require.NoError(t, d.graph.check(d.filled))
				l := k.lay(d.filled, d.graph)
				out := []ort.Tensor{{Name: outputPooled, Type: ort.Float32, Dims: []int{k.sequences, e.info.PooledWidth}}}
				d.do(func() { err = d.run(t.Context(), l, out) })
				require.NoError(t, err)
				rows := view[float32](out[0].Data)
				for i, r := range want {
					for j, x := range r.Pooled {
						require.InDelta(t, x, rows[i*e.info.PooledWidth+j], 1e-5, "sequence %d", i)
					}
				}
			})
		}
	}
}

// TestCUDAReplays compares runs by graphs with plain ones, on both slots at once: the real MiniLM in float16, and a causal model with a paged
// cache in bfloat16.
func TestCUDAReplays(t *testing.T) {
	if suite.GPUs() == 0 {
		t.Skip("needs a CUDA device: set BEI_GPU_TESTS=1")
	}
	t.Run("MiniLM", func(t *testing.T) {
		replay(t, suite.MiniLM(t), Float16, suite.Bounds{MinCosine: 0.99999, MaxError: 0.01})
	})
	c := suite.Named(t, "qwen3-multiples-of-16")
	t.Run(c.Name, func(t *testing.T) { replay(t, c, BFloat16, suite.Bounds{MinCosine: 0.999, MaxError: 0.1}) })
}

func replay(t *testing.T, c suite.Case, precision string, bounds suite.Bounds) {
	o := Options{Device: CUDA, Precision: precision, Library: suite.Dependency(t, "gpu/onnxruntime/libonnxruntime.so.1")}
	o.Logger = func(severity ort.Severity, message string) {
		t.Log(severity, message)
		if severity > ort.Warning || strings.Contains(message, "CUDA graphs") {
			t.Error("no message of that kind is expected")
		}
	}
	t.Cleanup(func() { ort.SetLogger(nil) })
	opened, err := Open(t.Context(), c.Model, c.Weights, o)
	require.NoError(t, err)
	e := opened.(*Engine)
	defer func() { require.NoError(t, e.Close()) }()
	t.Log(e.info.Details)
	var tests errgroup.Group
	for number, s := range e.slots {
		tests.Go(func() error {
			s := s.(*slot)
			random := rand.New(rand.NewPCG(5, uint64(number)))
			used := make(map[bucket]int)
			for range 500 {
				var batch []suite.Sequence
				for range 1 + random.IntN(1+random.IntN(32)) {
					q := c.Sequences[random.IntN(len(c.Sequences))]
					n := 1 + random.IntN(len(q.IDs))
					batch = append(batch, suite.Sequence{IDs: q.IDs[:n], Types: q.Types[:n], Positions: q.Positions[:n]})
				}
				replayed, err := suite.Compute(t.Context(), s, e.info, batch, engine.Pooled)
				if err != nil {
					return err
				}
				if g := s.device.graphFor(s.batch); g != nil {
					used[g.bucket]++
				}
				graphs := s.device.graphs
				s.device.graphs = nil
				plain, err := suite.Compute(t.Context(), s, e.info, batch, engine.Pooled)
				s.device.graphs = graphs
				if err != nil {
					return err
				}
				for i := range batch {
					want := make([]float64, len(plain[i].Pooled))
					for k, x := range plain[i].Pooled {
						want[k] = float64(x)
					}
					if err := bounds.Compare(replayed[i].Pooled, want); err != nil {
						return fmt.Errorf("sequence %d of %d, %d tokens, in a run of %d: %w", i, len(batch), len(batch[i].IDs), s.batch.Tokens(), err)
					}
				}
			}
			if len(used) == 0 || len(used) < min(10, len(s.device.graphs)) {
				return fmt.Errorf("%d of %d graphs were used", len(used), len(s.device.graphs))
			}
			return nil
		})
	}
	require.NoError(t, tests.Wait())
	stats := e.Stats()[0]
	t.Logf("%+v, %+v", stats, *stats.Graphs)
	require.Positive(t, stats.Graphs.Replays)
}
