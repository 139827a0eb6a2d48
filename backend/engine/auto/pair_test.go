package auto

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestContract(t *testing.T) {
	var sequences []suite.Sequence
	for _, n := range []int{1, 4, 7} {
		q := suite.Sequence{}
		for i := range n {
			q.IDs, q.Types, q.Positions = append(q.IDs, int32(7*n+i)), append(q.Types, 0), append(q.Positions, int32(i))
		}
		sequences = append(sequences, q)
	}
	suite.Contract(t, func(t *testing.T, l engine.Limits) engine.Engine {
		return pairOf(watch(mock.Config{}, 2, l), watch(mock.Config{}, 3, l), 7)
	}, sequences, suite.Exact)
}

// limitsOf abbreviates.
func limitsOf(tokens, sequences, length, best int, padded bool) engine.Limits {
	return engine.Limits{MaxTokens: tokens, MaxSequences: sequences, MaxLength: length, BestTokens: best, Padded: padded}
}

func TestLimits(t *testing.T) {
	a, b := limitsOf(16384, 256, 512, 2048, false), limitsOf(32768, 1024, 512, 16384, false)
	require.Equal(t, b, limits(a, b))
	require.Equal(t, limitsOf(32768, 1024, 512, 2048, false), limits(b, a), "how full runs should be says the one for large ones")
	short := limitsOf(65536, 64, 256, 40000, false)
	require.Equal(t, limitsOf(16384, 256, 512, 16384, false), limits(a, short), "no item is refused that one of them takes")
	padded := limitsOf(65536, 1024, 1024, 8192, true)
	require.Equal(t, limitsOf(16384, 256, 512, 8192, true), limits(a, padded))
	require.Equal(t, a, limits(padded, a))
}

// TestOnlyOneTakes: what is beyond the limits of the engine that its size is for goes to the other one.
func TestOnlyOneTakes(t *testing.T) {
	a, b := watch(mock.Config{}, 1, engine.Limits{MaxTokens: 100, MaxSequences: 4}), watch(mock.Config{}, 1, engine.Limits{MaxTokens: 400, MaxSequences: 8})
	p := pairOf(a, b, 200)
	s := p.Slots()[0]
	for _, c := range []struct {
		lengths []int
		first   bool
	}{{[]int{10}, true}, {[]int{100}, true}, {[]int{101}, false}, {[]int{1, 1, 1, 1}, true}, {[]int{1, 1, 1, 1, 1}, false}, {[]int{201}, false}} {
		before := a.runs.Load()
		fillWith(s.Batch(), c.lengths...)
		_, err := s.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, c.first, a.runs.Load() > before, c.lengths)
	}
	fillWith(s.Batch(), lengths(9, 1)...)
	_, err := s.Run(t.Context())
	require.Equal(t, status.InvalidArgument, status.CodeOf(err))
	require.ErrorContains(t, err, "batch of 9 tokens, 9 sequences, longest 1 exceeds limits 400, 8, 256")

	// An engine that pads is spared what padding blows up, and no more.
	padded := watch(mock.Config{Padded: true}, 1, fourK)
	p = pairOf(padded, watch(mock.Config{}, 1, fourK), 1000)
	s = p.Slots()[0]
	for _, c := range []struct {
		lengths []int
		padded  bool
	}{{[]int{100, 100}, true}, {[]int{100, 1}, true}, {append(lengths(20, 1), 100), false}} {
		before := padded.runs.Load()
		fillWith(s.Batch(), c.lengths...)
		_, err := s.Run(t.Context())
		require.NoError(t, err)
		require.Equal(t, c.padded, padded.runs.Load() > before, c.lengths)
	}
}

func TestLost(t *testing.T) {
	a := watch(mock.Config{}, 2, engine.Limits{MaxTokens: 100})
	b := watch(mock.Config{Faults: []mock.Fault{{Kind: mock.Lost, From: 2}}}, 2, engine.Limits{MaxTokens: 200})
	var logged []string
	p := newPair([2]Candidate{{"a", a}, {"b", b}}, 50, func(m string) { logged = append(logged, m) })
	s := p.Slots()[0]
	for range 3 {
		fillWith(s.Batch(), 60)
		out, err := s.Run(t.Context())
		require.NoError(t, err)
		require.Len(t, out.Pooled, 8)
	}
	require.EqualValues(t, 2, a.runs.Load())
	require.EqualValues(t, 2, b.runs.Load(), "a lost engine gets no more runs")
	require.Equal(t, []string{"engine b is lost; from now on a runs what it can take: mock: the engine was lost in run 2"}, logged)
	err := p.Health()
	require.Equal(t, status.Unhealthy, status.CodeOf(err))
	require.EqualError(t, err, "b: mock: the engine was lost in run 2; a serves the runs that it can take")

	fillWith(s.Batch(), 60, 60)
	_, err = s.Run(t.Context())
	require.Equal(t, status.Inference, status.CodeOf(err), "halves of it can be run")
	require.ErrorContains(t, err, "batch of 120 tokens, 2 sequences, longest 60 exceeds limits 100, 100, 100 of a, the engine that is left: mock: the engine was lost")
	fillWith(s.Batch(), 120)
	_, err = s.Run(t.Context())
	require.Equal(t, status.Unhealthy, status.CodeOf(err))

	both := pairOf(watch(mock.Config{Faults: []mock.Fault{{Kind: mock.Lost}}}, 1, fourK), b, 50)
	fillWith(both.Slots()[0].Batch(), 10)
	_, err = both.Slots()[0].Run(t.Context())
	require.Equal(t, status.Unhealthy, status.CodeOf(err))
	require.Equal(t, 2, strings.Count(err.Error(), "was lost"))
	require.Equal(t, status.Unhealthy, status.CodeOf(both.Health()))
	require.Equal(t, 2, strings.Count(both.Health().Error(), "was lost"))
}

// TestErrors: a failed run is no lost engine.
func TestErrors(t *testing.T) {
	p := pairOf(watch(mock.Config{Faults: []mock.Fault{{Kind: mock.Error, Count: 1}}}, 1, fourK), watch(mock.Config{}, 1, fourK), 50)
	s := p.Slots()[0]
	fillWith(s.Batch(), 10)
	_, err := s.Run(t.Context())
	require.EqualError(t, err, "mock: run 1 fails as scripted")
	require.NoError(t, p.Health())
	_, err = s.Run(t.Context())
	require.NoError(t, err)
}

// TestManyGoroutines: each slot's results are its own until its next run, whatever the others run, also while an engine gets lost.
func TestManyGoroutines(t *testing.T) {
	truth := watch(mock.Config{}, 1, fourK).Slots()[0]
	want := map[int][]float32{}
	for n := 1; n <= 200; n++ {
		fillWith(truth.Batch(), n)
		out, err := truth.Run(t.Context())
		require.NoError(t, err)
		want[n] = append([]float32(nil), out.Pooled...)
	}
	p := pairOf(watch(mock.Config{Faults: []mock.Fault{{Kind: mock.Lost, From: 500}}}, 8, fourK), watch(mock.Config{}, 8, fourK), 100)
	var group sync.WaitGroup
	for k, s := range p.Slots() {
		group.Go(func() {
			random := rand.New(rand.NewPCG(uint64(k), 5))
			for range 200 {
				n := 1 + random.IntN(200)
				fillWith(s.Batch(), n)
				out, err := s.Run(t.Context())
				_ = p.Health()
				if err != nil || len(out.Pooled) != 8 {
					t.Errorf("slot %d: %d numbers, %v", k, len(out.Pooled), err)
					return
				}
				for i, x := range out.Pooled {
					if x != want[n][i] {
						t.Errorf("slot %d: sequence of %d has %v, not %v", k, n, out.Pooled, want[n])
						return
					}
				}
			}
		})
	}
	group.Wait()
	require.Equal(t, status.Unhealthy, status.CodeOf(p.Health()))
}

func TestRunsDoNotAllocate(t *testing.T) {
	a, b := watch(mock.Config{}, 1, fourK), watch(mock.Config{}, 1, fourK)
	p := pairOf(a, b, 50)
	run := func(s engine.Slot) float64 {
		return testing.AllocsPerRun(100, func() {
			fillWith(s.Batch(), 20)
			_, _ = s.Run(context.Background())
			fillWith(s.Batch(), 60)
			_, _ = s.Run(context.Background())
		})
	}
	bare := run(a.Slots()[0])
	require.Equal(t, bare, run(p.Slots()[0]), "no more than the engine itself")
}

func TestInfo(t *testing.T) {
	a, b := watch(mock.Config{}, 1, fourK), watch(mock.Config{}, 1, fourK)
	a.info.Device, b.info.Device = "cuda:0", "cuda:0"
	a.info.DeviceUUIDs, b.info.DeviceUUIDs = []string{"GPU-1"}, []string{"GPU-1", "GPU-2"}
	a.info.Details, b.info.Details = map[string]string{"plan": "x"}, map[string]string{"threads": "1"}
	info := pairOf(a, b, 50).Info()
	require.Equal(t, engine.Info{Name: "a+b", Version: "1+1", Device: "cuda:0", DeviceUUIDs: []string{"GPU-1", "GPU-2"}, Precision: "float32",
		Limits: b.info.Limits, Outputs: a.info.Outputs, PooledWidth: 8, TokenWidth: 8, SparseWidth: 100,
		Details: map[string]string{"a.plan": "x", "b.threads": "1"}}, info)
}

// mute reports no Stats.
type mute struct{ engine.Engine }

func TestStats(t *testing.T) {
	a := watch(mock.Config{}, 1, fourK)
	b := watch(mock.Config{Padded: true, Faults: []mock.Fault{{Kind: mock.Lost, From: 2}}}, 1, fourK)
	p := pairOf(a, b, 50)
	run := func(lengths ...int) {
		fillWith(p.Slots()[0].Batch(), lengths...)
		_, err := p.Slots()[0].Run(t.Context())
		require.NoError(t, err)
	}
	run(10)
	run(40, 30)
	serving := []engine.Replica{{Device: "cpu", Serving: true}}
	require.Equal(t, []engine.Stats{{Engine: "a", Runs: 1, Launches: 1, Tokens: 10, Replicas: serving},
		{Engine: "b", Runs: 1, Launches: 1, Tokens: 70, PaddingTokens: 10, Replicas: serving}}, p.Stats())

	run(60) // b is lost and a runs it
	p.members[0].Engine = mute{a}
	require.Equal(t, []engine.Stats{{Engine: "b", Runs: 1, Launches: 1, Tokens: 70, PaddingTokens: 10, Replicas: []engine.Replica{{Device: "cpu"}}}}, p.Stats())
	p = pairOf(watch(mock.Config{}, 1, fourK), watch(mock.Config{}, 1, fourK), 50)
	p.lose(1, status.Errorf(status.Unhealthy, "lost"))
	require.False(t, p.Stats()[1].Replicas[0].Serving, "it is healthy, but gets no runs")
}
