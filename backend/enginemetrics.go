package backend

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// engineCollector gives an engine's Stats as metrics when they are asked for.
type engineCollector struct{ reporter engine.Reporter }

var (
	engineRuns          = engineDesc("bei_engine_runs_total", "Runs, by engine; one repeated on another device counts again.")
	engineLaunches      = engineDesc("bei_engine_launches_total", "Launches of the model's program, by engine. A run may need several.")
	engineTokens        = engineDesc("bei_engine_tokens_total", "Tokens of launches, by engine.")
	enginePaddingTokens = engineDesc("bei_engine_padding_tokens_total", "Padding of launches, in tokens, by engine.")
	engineGraphReplays  = engineDesc("bei_engine_graph_replays_total", "Launches that replayed a CUDA graph, by engine.")
	engineGraphCaptures = engineDesc("bei_engine_graph_captures_total", "Launches that captured a CUDA graph, by engine: none after warm-up.")
	engineReplicas      = engineDesc("bei_engine_replicas", "Replicas that the options ask for, by engine: one for each device.")
	engineServing       = engineDesc("bei_engine_replicas_serving", "Replicas that take runs, by engine: not lost, not being rebuilt.")
	engineWeightsBytes  = engineDesc("bei_engine_weights_bytes", "Device memory that a replica's weights take while it serves.", "device")
	engineRunBytes      = engineDesc("bei_engine_run_bytes", "Device memory that a replica keeps for each run in flight.", "device")
)

func engineDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"engine"}, labels...), nil)
}

// Describe is prometheus.Collector's.
func (c engineCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		engineRuns, engineLaunches, engineTokens, enginePaddingTokens, engineGraphReplays, engineGraphCaptures,
		engineReplicas, engineServing, engineWeightsBytes, engineRunBytes,
	} {
		out <- d
	}
}

// Collect is prometheus.Collector's. What an engine does not have or know is left out.
func (c engineCollector) Collect(out chan<- prometheus.Metric) {
	for _, s := range c.reporter.Stats() {
		give := func(desc *prometheus.Desc, kind prometheus.ValueType, value uint64, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, kind, float64(value), append([]string{s.Engine}, labels...)...)
		}
		give(engineRuns, counter, s.Runs)
		give(engineLaunches, counter, s.Launches)
		give(engineTokens, counter, s.Tokens)
		give(enginePaddingTokens, counter, s.PaddingTokens)
		if s.Graphs != nil {
			give(engineGraphReplays, counter, s.Graphs.Replays)
			give(engineGraphCaptures, counter, s.Graphs.Captures)
		}
		serving := uint64(0)
		for _, r := range s.Replicas {
			if r.Serving {
				serving++
			}
			if r.WeightsBytes > 0 {
				give(engineWeightsBytes, gauge, r.WeightsBytes, r.Device)
			}
			if r.RunBytes > 0 {
				give(engineRunBytes, gauge, r.RunBytes, r.Device)
			}
		}
		give(engineReplicas, gauge, uint64(len(s.Replicas)))
		give(engineServing, gauge, serving)
	}
}
