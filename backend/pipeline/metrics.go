package pipeline

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Metrics are a pipeline's Prometheus metrics.
type Metrics struct {
	prepareSeconds prometheus.Histogram
	queueSeconds   prometheus.Histogram
	runSeconds     prometheus.Histogram
	runTokens      prometheus.Histogram
	runSequences   prometheus.Histogram
	runFill        prometheus.Histogram
	tokens         prometheus.Counter
	runs           *prometheus.CounterVec
	isolationRuns  prometheus.Counter
	reruns         *prometheus.CounterVec
	slotsBusy      prometheus.Gauge
	queueTokens    prometheus.Gauge
	admittedItems  prometheus.Gauge
}

// DurationBuckets are the bounds, in seconds, of all duration histograms: 20 us to 84 s, doubling.
var DurationBuckets = prometheus.ExponentialBuckets(20e-6, 2, 23)

// NewMetrics registers a pipeline's metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		reg.MustRegister(h)
		return h
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	m := &Metrics{
		prepareSeconds: histogram("bei_tokenization_seconds", "Time to tokenize one item.", DurationBuckets),
		queueSeconds:   histogram("bei_queue_seconds", "Time of an item from ready to the start of its run.", DurationBuckets),
		runSeconds:     histogram("bei_run_seconds", "Time of one engine run.", DurationBuckets),
		runTokens:      histogram("bei_run_tokens", "Tokens of one engine run.", prometheus.ExponentialBuckets(1, 2, 21)),
		runSequences:   histogram("bei_run_sequences", "Sequences of one engine run.", prometheus.ExponentialBuckets(1, 2, 13)),
		runFill:        histogram("bei_run_fill_ratio", "Tokens of one engine run over the best number of tokens.", prometheus.LinearBuckets(0.1, 0.1, 10)),
		tokens:         counter("bei_tokens_total", "Tokens computed."),
		runs:           prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bei_runs_total", Help: "Engine runs, by status."}, []string{"status"}),
		isolationRuns:  counter("bei_isolation_runs_total", "Runs repeated to find the item that makes a run fail."),
		reruns: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bei_reruns_total",
			Help: "Items run again on another engine, in a higher precision, since their outputs were not finite; by their status then."}, []string{"status"}),
		slotsBusy:     gauge("bei_slots_busy", "Slots with a run under way."),
		queueTokens:   gauge("bei_queue_tokens", "Tokens of items that are ready and wait for a run."),
		admittedItems: gauge("bei_admitted_items", "Items of calls under way."),
	}
	reg.MustRegister(m.runs, m.reruns)
	return m
}

func (m *Metrics) observeRun(b *engine.Batch, l engine.Limits, took time.Duration, failure *status.Error) {
	code := status.OK
	if failure != nil {
		code = failure.Code
	}
	m.runs.WithLabelValues(code.String()).Inc()
	if failure != nil {
		return
	}
	tokens := b.Tokens()
	m.runSeconds.Observe(took.Seconds())
	m.runTokens.Observe(float64(tokens))
	m.runSequences.Observe(float64(b.Sequences()))
	m.runFill.Observe(float64(tokens) / float64(l.BestTokens))
	m.tokens.Add(float64(tokens))
}
