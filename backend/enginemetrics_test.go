package backend

import (
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
)

// values are a family's, by engine and, where it has one, device.
func values(f *dto.MetricFamily) map[string]float64 {
	found := make(map[string]float64)
	for _, m := range f.GetMetric() {
		l := labelsOf(m)
		key := l["engine"]
		if device, ok := l["device"]; ok {
			key += " " + device
		}
		found[key] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return found
}

// reports is a mock with Stats of others.
type reports struct {
	*mock.Engine
	stats []engine.Stats
}

func (e reports) Stats() []engine.Stats { return e.stats }

// TestEngineMetrics: what several engines report stands beside each other; what one of them does not know is left out.
func TestEngineMetrics(t *testing.T) {
	b := openMock(t, nil)
	metrics := newMetrics()
	e := reports{b.engine.(*mock.Engine), []engine.Stats{
		{Engine: "tensorrt", Runs: 5, Launches: 9, Tokens: 100, PaddingTokens: 28, Graphs: &engine.Graphs{Replays: 7, Captures: 1},
			Replicas: []engine.Replica{
				{Device: "cuda:0", Serving: true, WeightsBytes: 1000, RunBytes: 50},
				{Device: "cuda:1", WeightsBytes: 1000, RunBytes: 50},
			}},
		{Engine: "onnxruntime", Runs: 2, Launches: 2, Tokens: 64, Replicas: []engine.Replica{{Device: "cuda:0", Serving: true}}},
	}}
	other := &Backend{engine: e, pipe: b.pipe, info: b.info, monitor: b.monitor, metrics: metrics}
	metrics.watch(other)
	m := families(t, other)
	for name, want := range map[string]map[string]float64{
		"bei_engine_runs_total":           {"tensorrt": 5, "onnxruntime": 2},
		"bei_engine_launches_total":       {"tensorrt": 9, "onnxruntime": 2},
		"bei_engine_tokens_total":         {"tensorrt": 100, "onnxruntime": 64},
		"bei_engine_padding_tokens_total": {"tensorrt": 28, "onnxruntime": 0},
		"bei_engine_graph_replays_total":  {"tensorrt": 7},
		"bei_engine_graph_captures_total": {"tensorrt": 1},
		"bei_engine_replicas":             {"tensorrt": 2, "onnxruntime": 1},
		"bei_engine_replicas_serving":     {"tensorrt": 1, "onnxruntime": 1},
		"bei_engine_weights_bytes":        {"tensorrt cuda:0": 1000, "tensorrt cuda:1": 1000},
		"bei_engine_run_bytes":            {"tensorrt cuda:0": 50, "tensorrt cuda:1": 50},
	} {
		require.Equal(t, want, values(m[name]), name)
		require.NotEmpty(t, m[name].GetHelp(), name)
		kind := dto.MetricType_GAUGE
		if strings.HasSuffix(name, "_total") {
			kind = dto.MetricType_COUNTER
		}
		require.Equal(t, kind, m[name].GetType(), name)
	}

	// An engine that reports nothing has none.
	mute := &Backend{engine: struct{ engine.Engine }{b.engine}, pipe: b.pipe, info: b.info, monitor: b.monitor, metrics: newMetrics()}
	mute.metrics.watch(mute)
	for name := range families(t, mute) {
		require.NotContains(t, name, "bei_engine_")
	}
}

// TestEngineMetricsOfRuns: counts follow the runs, and a lost engine is out of service, as a closed one is.
func TestEngineMetricsOfRuns(t *testing.T) {
	c := mockConfig()
	c.Mock.Padded, c.Mock.Faults = true, []mock.Fault{{Kind: mock.Lost, From: 4}}
	b := open(t, c)
	before := families(t, b)
	require.Equal(t, map[string]float64{"mock": 2}, values(before["bei_engine_runs_total"]), "the backend's warm-up")
	require.NoError(t, b.Embed(background, packed([]uint32{1}, []uint32{2, 3, 4}), CallOptions{}, Output{Rows: rowsFor(b, 2)}))
	m := families(t, b)
	for name, more := range map[string]float64{
		"bei_engine_runs_total": 1, "bei_engine_launches_total": 1, "bei_engine_tokens_total": 4, "bei_engine_padding_tokens_total": 2,
	} {
		require.Equal(t, values(before[name])["mock"]+more, values(m[name])["mock"], name)
	}
	require.Equal(t, map[string]float64{"mock": 1}, values(m["bei_engine_replicas_serving"]))
	require.Error(t, b.Embed(background, packed([]uint32{1}), CallOptions{}, Output{Rows: rowsFor(b, 1)}))
	m = families(t, b)
	require.Equal(t, map[string]float64{"mock": 0}, values(m["bei_engine_replicas_serving"]))
	require.Equal(t, map[string]float64{"mock": 1}, values(m["bei_engine_replicas"]))
}
