package backend

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	dto "github.com/prometheus/client_model/go"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestDimensionsAndNormalize(t *testing.T) {
	b := openMock(t, nil)
	ids := []uint32{5, 6, 7}
	full := reference(t, b, ids).Pooled
	for _, dimensions := range []int{0, 1, 3, 8} {
		for _, normalize := range []Switch{Default, On, Off} {
			width := dimensions
			if width == 0 {
				width = 8
			}
			want := normalized(full, width)
			if normalize == Off {
				for i := range want {
					want[i] = float64(full[i])
				}
			}
			rows := []float32{-99, -99, -99, -99, -99, -99, -99, -99, -99, -99, -99, -99, -99, -99, -99, -99, -99}
			require.NoError(t, b.Embed(background, packed(ids, ids), CallOptions{Dimensions: dimensions, Normalize: normalize}, Output{Rows: rows}))
			requireClose(t, want, rows[:width], 1e-7)
			require.Equal(t, rows[:width], rows[width:2*width])
			for _, v := range rows[2*width:] {
				require.EqualValues(t, -99, v)
			}
		}
	}
	for _, dimensions := range []int{-1, 9} {
		requireCode(t, status.InvalidArgument, b.Embed(background, packed(ids), CallOptions{Dimensions: dimensions}, Output{Rows: rowsFor(b, 1)}), "the limit is 8")
	}
}

func TestZerosAreNotNormalised(t *testing.T) {
	b := openMock(t, nil)
	deliver := func(o CallOptions, pooled []float32) ([]float32, error) {
		rows := []float32{-1, -1, -1, -1, -1, -1, -1, -1}
		r, err := b.newResults(Output{Rows: rows}, o, engine.Pooled)
		require.NoError(t, err)
		require.NoError(t, r.prepareStatus(1))
		return rows, r.deliver(0, itemRows{Rows: pipeline.Rows{Pooled: pooled}})
	}
	untouched, err := deliver(CallOptions{Normalize: On}, make([]float32, 8))
	requireCode(t, status.NonFinite, err, "item 0: a vector of zeros cannot be normalised")
	require.Equal(t, []float32{-1, -1, -1, -1, -1, -1, -1, -1}, untouched)
	_, err = deliver(CallOptions{Normalize: On, Dimensions: 4}, []float32{0, 0, 0, 0, 1, 0, 0, 0})
	requireCode(t, status.NonFinite, err, "item 0: a vector of zeros cannot be normalised")

	rows, err := deliver(CallOptions{Normalize: On}, []float32{0, 0, 0, 0, 0, 0, 3, -4})
	require.NoError(t, err)
	require.Equal(t, []float32{0, 0, 0, 0, 0, 0, 0.6, -0.8}, rows)
	rows, err = deliver(CallOptions{Normalize: Off}, make([]float32, 8))
	require.NoError(t, err)
	require.Equal(t, make([]float32, 8), rows)
}

func TestAllOutputsOfOneRun(t *testing.T) {
	b := openMock(t, nil)
	batch := packed([]uint32{5, 6, 7}, []uint32{9})
	batch.RawIndices, batch.SparseIndices, batch.PooledIndices = []uint32{0, 1}, []uint32{0}, []uint32{1}
	rows, result := rowsFor(b, 2), &Result{}
	require.NoError(t, b.Embed(background, batch, CallOptions{Normalize: Off}, Output{Rows: rows, Result: result}))
	first, second := reference(t, b, []uint32{5, 6, 7}), reference(t, b, []uint32{9})
	require.Equal(t, second.Pooled, rows[8:])
	require.Equal(t, first.TokenVectors, result.Items[0].TokenVectors, "token vectors are not normalised")
	require.Equal(t, second.TokenVectors, result.Items[1].TokenVectors)
	require.Equal(t, []uint32{5, 6, 7}, result.Items[0].SparseIDs)
	for k, id := range result.Items[0].SparseIDs {
		require.Equal(t, first.Sparse[id], result.Items[0].Sparse[k])
	}
	require.Nil(t, result.Items[1].SparseIDs)
	require.Equal(t, 1, result.Stats.Runs)
	require.Equal(t, 4, result.Stats.Tokens)
}

func TestPredict(t *testing.T) {
	b := openMock(t, func(c *Config) { c.Mock.Kind = mock.Classifier })
	rows := rowsFor(b, 2)
	require.NoError(t, b.Predict(background, packed([]uint32{1}, []uint32{2, 3}), CallOptions{}, Output{Rows: rows}))
	require.Equal(t, reference(t, b, []uint32{1}).Pooled, rows[:3], "raw logits")
	require.Equal(t, reference(t, b, []uint32{2, 3}).Pooled, rows[3:])

	b = openMock(t, func(c *Config) { c.Mock.Kind = mock.TokenClassifier })
	batch, result := packed([]uint32{2, 3}), &Result{}
	batch.RawIndices, batch.PooledIndices = batch.PooledIndices, nil
	require.NoError(t, b.PredictTokens(background, batch, CallOptions{}, Output{Result: result}))
	require.Equal(t, reference(t, b, []uint32{2, 3}).TokenVectors, result.Items[0].TokenVectors)
	require.Equal(t, 3, result.Items[0].Columns)
}

func TestBuffersTooSmall(t *testing.T) {
	b := openMock(t, nil)
	batch := packed([]uint32{1}, []uint32{2})
	requireCode(t, status.BufferTooSmall, b.Embed(background, batch, CallOptions{}, Output{Rows: make([]float32, 15)}),
		"the output buffer has 15 floats, 2 items x 8 need 16")
	requireCode(t, status.BufferTooSmall, b.Embed(background, batch, CallOptions{}, Output{}), "has 0 floats")
	requireCode(t, status.BufferTooSmall, b.Embed(background, batch, CallOptions{}, Output{Rows: make([]float32, 16), Status: make([]status.Code, 1)}),
		"item_status has room for 1 items, the call has 2")
	require.NoError(t, b.Embed(background, batch, CallOptions{Dimensions: 7}, Output{Rows: make([]float32, 15)}))
}

func TestNaNIsTheItems(t *testing.T) {
	bad := int32(13)
	b := openMock(t, withFaults(mock.Fault{Kind: mock.NaN, TokenID: &bad}))
	batch := packed([]uint32{1}, []uint32{2, 13}, []uint32{3})
	batch.RawIndices = []uint32{1, 2}
	rows, codes, result := rowsFor(b, 3), make([]status.Code, 3), &Result{}
	require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Rows: rows, Status: codes, Result: result}))
	require.Equal(t, []status.Code{status.OK, status.NonFinite, status.OK}, codes)
	require.Equal(t, "item 1: the model's output holds NaN or infinity", result.Items[1].Message)
	require.Nil(t, result.Items[1].TokenVectors, "withheld")
	require.NotContains(t, rows[:8], float32(-99))
	require.Equal(t, slices.Repeat([]float32{-99}, 8), rows[8:16])
	requireCode(t, status.NonFinite, b.Embed(background, batch, CallOptions{}, Output{Rows: rows, Result: result}), "item 1: the model's output")
}

func TestFaultsReachTheCaller(t *testing.T) {
	bad := int32(13)
	batch := packed([]uint32{1}, []uint32{2, 13}, []uint32{3})
	for _, c := range []struct {
		fault mock.Fault
		want  []status.Code
		text  string
	}{
		{mock.Fault{Kind: mock.BadItem, TokenID: &bad}, []status.Code{0, status.Inference, 0}, "item 1: mock: a sequence holds token 13"},
		{mock.Fault{Kind: mock.Error, From: 3}, slices.Repeat([]status.Code{status.Inference}, 3), "fails as scripted"},
		{mock.Fault{Kind: mock.Panic, From: 3}, slices.Repeat([]status.Code{status.Internal}, 3), "panic in the engine"},
		{mock.Fault{Kind: mock.Lost, From: 3, Count: 1}, slices.Repeat([]status.Code{status.Unhealthy}, 3), "the engine was lost in run 3"},
	} {
		b := openMock(t, withFaults(c.fault))
		codes := make([]status.Code, 3)
		require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Rows: rowsFor(b, 3), Status: codes}))
		require.Equal(t, c.want, codes, c.fault.Kind)
		err := b.Embed(background, batch, CallOptions{}, Output{Rows: rowsFor(b, 3)})
		requireCode(t, slices.Max(c.want), err, "item ")
		if c.fault.Kind != mock.Lost {
			require.ErrorContains(t, err, c.text)
		}
		if c.fault.Kind == mock.Lost {
			requireCode(t, status.Unhealthy, b.Health(background, false, CallOptions{}), c.text)
		} else {
			require.NoError(t, b.Health(background, false, CallOptions{}))
		}
	}
}

func TestOpenFailsWithTheWarmUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, kind := range []string{mock.Error, mock.NaN, mock.Lost, mock.Panic} {
			for run := 1; run <= 2; run++ {
				c := mockConfig()
				c.Mock.Faults = []mock.Fault{{Kind: kind, From: run}}
				_, err := Open(background, c)
				requireCode(t, status.Start, err, "warm-up: item 0")
			}
		}
		c := mockConfig()
		c.Mock.Faults = []mock.Fault{{Kind: mock.Hung}}
		ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
		defer cancel()
		_, err := Open(ctx, c)
		requireCode(t, status.Timeout, err, "warm-up: not done")
	})
}

func TestTimeoutAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openMock(t, withFaults(mock.Fault{Kind: mock.Slow, From: 3, DelayMS: 300}))
		batch, out := packed([]uint32{1}), Output{Rows: rowsFor(b, 1), Status: make([]status.Code, 1)}
		requireCode(t, status.Timeout, b.Embed(background, batch, CallOptions{Timeout: 100 * time.Millisecond}, out), "timeout")
		requireCode(t, status.Overloaded, b.Embed(background, batch, CallOptions{Timeout: time.Millisecond}, out), "no slot came free within the call's timeout")
		ctx, cancel := context.WithCancelCause(background)
		cancel(status.Errorf(status.Cancelled, "by its token"))
		requireCode(t, status.Cancelled, b.Embed(ctx, batch, CallOptions{}, out), "by its token")
		require.NoError(t, b.Embed(background, batch, CallOptions{Priority: 1}, out))
	})
}

// TestDeepHealthSeesAHungSlot: that another slot runs a token does not make the backend healthy.
func TestDeepHealthSeesAHungSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openMock(t, func(c *Config) {
			c.Slots, c.RunTimeoutMS = 2, 50
			c.Mock.Faults = []mock.Fault{{Kind: mock.Stuck, From: 3, Count: 1, DelayMS: 1500}}
		})
		requireCode(t, status.Unhealthy, b.Embed(background, packed([]uint32{1}), CallOptions{}, Output{Rows: rowsFor(b, 1)}), "hung")
		for _, deep := range []bool{false, true} {
			requireCode(t, status.Unhealthy, b.Health(background, deep, CallOptions{}), "1 of 2 slots hung")
		}
		time.Sleep(1500 * time.Millisecond)
		require.NoError(t, b.Health(background, true, CallOptions{}), "it came back")
	})
}

func TestHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := openMock(t, func(c *Config) {
			c.Mock.Faults = []mock.Fault{{Kind: mock.NaN, From: 4, Count: 1}, {Kind: mock.Slow, From: 5, Count: 1, DelayMS: 300}}
		})
		require.NoError(t, b.Health(background, false, CallOptions{}))
		require.NoError(t, b.Health(background, true, CallOptions{}))
		requireCode(t, status.Unhealthy, b.Health(background, true, CallOptions{}), "one token did not run: item 0: the model's output holds NaN")
		requireCode(t, status.Timeout, b.Health(background, true, CallOptions{Timeout: 100 * time.Millisecond}), "")
		require.NoError(t, b.Health(background, true, CallOptions{}))

		for _, kind := range []string{mock.Classifier, mock.TokenClassifier} {
			b := openMock(t, func(c *Config) { c.Mock.Kind = kind })
			require.NoError(t, b.Health(background, true, CallOptions{}))
		}
	})
}

// families parses metrics with Prometheus' own parser.
func families(t *testing.T, b *Backend) map[string]*dto.MetricFamily {
	text, err := b.Metrics()
	require.NoError(t, err)
	parser := expfmt.NewTextParser(model.UTF8Validation)
	found, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	require.NoError(t, err)
	return found
}

func TestMetrics(t *testing.T) {
	bad := int32(13)
	b := openMock(t, func(c *Config) { c.Slots, c.Mock.Faults = 3, []mock.Fault{{Kind: mock.NaN, TokenID: &bad}} })
	require.NoError(t, b.Embed(background, packed([]uint32{1}, []uint32{2, 13}), CallOptions{}, Output{Rows: rowsFor(b, 2), Status: make([]status.Code, 2)}))
	require.Error(t, b.Embed(background, Batch{}, CallOptions{}, Output{}))
	require.Error(t, b.Predict(background, Batch{}, CallOptions{}, Output{}))
	require.Error(t, b.Decode(background, nil, nil, CallOptions{}, Output{Result: &Result{}}))
	require.NoError(t, b.Health(background, true, CallOptions{}))
	m := families(t, b)
	for _, name := range []string{"bei_calls_total", "bei_call_seconds", "bei_items_total", "bei_log_dropped_total", "bei_info", "bei_slots", "bei_healthy",
		"bei_tokenization_seconds", "bei_queue_seconds", "bei_run_seconds", "bei_run_tokens", "bei_run_sequences", "bei_run_fill_ratio",
		"bei_tokens_total", "bei_runs_total", "bei_isolation_runs_total", "bei_slots_busy", "bei_queue_tokens",
		"bei_admitted_items", "go_goroutines", "process_resident_memory_bytes"} {
		require.Contains(t, m, name)
		require.NotEmpty(t, m[name].GetHelp(), name)
	}
	require.Equal(t, 3.0, m["bei_slots"].Metric[0].Gauge.GetValue())
	require.Equal(t, 1.0, m["bei_healthy"].Metric[0].Gauge.GetValue())
	counts := func(family string) map[string]float64 {
		values := map[string]float64{}
		for _, metric := range m[family].Metric {
			var labels []string
			for _, l := range metric.Label {
				labels = append(labels, l.GetValue())
			}
			values[strings.Join(labels, " ")] = metric.Counter.GetValue()
		}
		return values
	}
	require.Equal(t, map[string]float64{"warm_up OK": 2, "embed OK": 1, "embed INVALID_ARGUMENT": 1, "health OK": 1,
		"predict UNSUPPORTED": 1, "decode INVALID_ARGUMENT": 1}, counts("bei_calls_total"))
	require.Equal(t, 1.0, counts("bei_items_total")["NON_FINITE"])
	require.Equal(t, map[string]string{"version": Version, "engine": "mock", "engine_version": "1", "device": "cpu", "dtype": "float32"},
		labelsOf(m["bei_info"].Metric[0]))
}

// TestClose: in a bubble, the run ends only once all four wait.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mockConfig()
		c.Mock.Faults = []mock.Fault{{Kind: mock.Slow, From: 3, DelayMS: 20}}
		b, err := Open(background, c)
		require.NoError(t, err)
		var calls, closes sync.WaitGroup
		calls.Go(func() {
			require.NoError(t, b.Embed(background, packed([]uint32{1}), CallOptions{}, Output{Rows: rowsFor(b, 1)}), "a call under way may finish")
		})
		synctest.Wait()
		require.Equal(t, 1.0, families(t, b)["bei_admitted_items"].Metric[0].Gauge.GetValue())
		for range 4 {
			closes.Go(func() { require.NoError(t, b.Close(background)) })
		}
		closes.Wait()
		calls.Wait()
		requireShutDown(t, b)
	})
}

// requireShutDown calls everything of a closed backend.
func requireShutDown(t *testing.T, b *Backend) {
	t.Helper()
	batch, out := packed([]uint32{1}), Output{Rows: rowsFor(b, 1), Result: &Result{}}
	requireCode(t, status.ShutDown, b.Embed(background, batch, CallOptions{}, out), "")
	requireCode(t, status.ShutDown, b.Embed(background, Batch{CumulativeSeqLengths: []uint32{0}}, CallOptions{}, out), "")
	requireCode(t, status.ShutDown, b.Health(background, false, CallOptions{}), "")
	requireCode(t, status.ShutDown, b.Health(background, true, CallOptions{}), "")
	requireCode(t, status.ShutDown, b.Tokenize(background, []Text{{Text: "a"}}, CallOptions{}, out), "")
	requireCode(t, status.ShutDown, b.Decode(background, nil, []uint32{0}, CallOptions{}, out), "")
	require.Zero(t, families(t, b)["bei_healthy"].Metric[0].Gauge.GetValue())
	_, err := b.InfoJSON()
	require.NoError(t, err)
	require.NotZero(t, b.Info().MaxLength)
	require.NoError(t, b.Close(background))
}

func TestCloseCutsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := mockConfig()
		c.Mock.Faults = []mock.Fault{{Kind: mock.Hung, From: 3}}
		b, err := Open(background, c)
		require.NoError(t, err)
		done := make(chan error, 1)
		go func() { done <- b.Embed(background, packed([]uint32{1}), CallOptions{}, Output{Rows: rowsFor(b, 1)}) }()
		synctest.Wait()
		require.Equal(t, 1.0, families(t, b)["bei_slots_busy"].Metric[0].Gauge.GetValue())
		ctx, cancel := context.WithTimeout(background, 5*time.Millisecond)
		defer cancel()
		requireCode(t, status.Timeout, b.Close(ctx), "1 calls were cut off")
		requireCode(t, status.ShutDown, <-done, "")
		requireShutDown(t, b)
	})
}

// closeFails is an engine that cannot be closed.
type closeFails struct{ *mock.Engine }

func (closeFails) Close() error { return status.Errorf(status.Internal, "it will not go") }

func TestCloseReportsTheEngine(t *testing.T) {
	b, err := Open(background, mockConfig())
	require.NoError(t, err)
	b.engine = closeFails{b.engine.(*mock.Engine)}
	requireCode(t, status.Internal, b.Close(background), "closing: it will not go")
}

func TestConcurrentBackends(t *testing.T) {
	var opens sync.WaitGroup
	for i := range 8 {
		opens.Go(func() {
			c := mockConfig()
			c.Mock.Dimensions = 4 + i
			b, err := Open(background, c)
			require.NoError(t, err)
			for range 20 {
				rows := rowsFor(b, 2)
				require.NoError(t, b.Embed(background, packed([]uint32{1}, []uint32{2, 3}), CallOptions{}, Output{Rows: rows}))
				requireClose(t, normalized(reference(t, b, []uint32{2, 3}).Pooled, 4+i), rows[4+i:], 1e-7)
			}
			require.NoError(t, b.Close(background))
		})
	}
	opens.Wait()
}

// TestOneBackendManyCallers mixes calls of one backend; each has its own rows.
func TestOneBackendManyCallers(t *testing.T) {
	b := openMock(t, func(c *Config) { c.Slots, c.BestTokens = 2, 64 })
	var calls sync.WaitGroup
	for caller := range 32 {
		calls.Go(func() {
			for round := range 20 {
				ids := []uint32{uint32(caller), uint32(round)}
				rows := rowsFor(b, 3)
				require.NoError(t, b.Embed(background, packed([]uint32{1, 2, 3}, ids, ids[:1]), CallOptions{Priority: caller%3 - 1}, Output{Rows: rows}))
				requireClose(t, normalized(reference(t, b, ids).Pooled, 8), rows[8:16], 1e-7)
			}
		})
	}
	calls.Wait()
}

func BenchmarkEmbedOneItem(b *testing.B) {
	be := openMock(b, nil)
	batch, rows := packed(make([]uint32, 16)), rowsFor(be, 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := be.Embed(background, batch, CallOptions{}, Output{Rows: rows}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestAllocations bounds what a call of one item allocates: garbage is latency.
func TestAllocations(t *testing.T) {
	b := openMock(t, nil)
	batch, rows := packed(make([]uint32, 16)), rowsFor(b, 1)
	allocs := testing.AllocsPerRun(200, func() {
		if err := b.Embed(background, batch, CallOptions{}, Output{Rows: rows}); err != nil {
			panic(err)
		}
	})
	t.Logf("%.0f allocations a call", allocs)
	require.LessOrEqual(t, allocs, 30.0)
}

func TestResultMemoryIsBounded(t *testing.T) {
	// Two items of 4 tokens x 8 numbers are 256 bytes of token vectors.
	b := openMock(t, func(c *Config) { c.Queue.MaxResultBytes = 200 })
	batch := Batch{InputIDs: make([]uint32, 8), CumulativeSeqLengths: []uint32{0, 4, 8}, RawIndices: []uint32{0, 1}}
	codes := make([]status.Code, 2)
	var result Result
	require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Status: codes, Result: &result}))
	require.ElementsMatch(t, []status.Code{status.OK, status.Overloaded}, codes)
	failed := 0
	if codes[1] != status.OK {
		failed = 1
	}
	require.Contains(t, result.Items[failed].Message, "would make the call's result 256 bytes, the limit is 200 (queue.max_result_bytes)")
	require.Len(t, result.Items[1-failed].TokenVectors, 32)
}
