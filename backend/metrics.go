package backend

import (
	"bytes"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/manifest"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// metrics are a backend's own, beside the pipeline's, in a registry of their own.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	items    *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bei_calls_total", Help: "Calls, by function and status."}, []string{"call", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "bei_call_seconds", Help: "Time of a call, entry to return.",
			Buckets: pipeline.DurationBuckets}, []string{"call"}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "bei_items_total", Help: "Items of calls, by status."}, []string{"status"}),
	}
	m.registry.MustRegister(m.calls, m.seconds, m.items, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "bei_log_dropped_total", Help: "Log lines dropped because the log callback was slow; of the process."},
			func() float64 { return float64(LogDropped()) }))
	return m
}

// watch adds the metrics that are read from an open backend.
func (m *metrics) watch(b *Backend) {
	i := b.engine.Info()
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "bei_info", Help: "Constant 1, with what runs.", ConstLabels: prometheus.Labels{
		"version": Version, "engine": i.Name, "engine_version": i.Version, "device": i.Device, "dtype": i.Precision}})
	info.Set(1)
	slots := prometheus.NewGauge(prometheus.GaugeOpts{Name: "bei_slots", Help: "Engine runs that can be in flight."})
	slots.Set(float64(b.info.Slots))
	m.registry.MustRegister(info, slots, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "bei_healthy", Help: "1 when the cheap health check passes."},
		func() float64 {
			if b.health() == nil {
				return 1
			}
			return 0
		}), deviceCollector{b.monitor})
	if reporter, ok := b.engine.(engine.Reporter); ok {
		m.registry.MustRegister(engineCollector{reporter})
	}
}

// watchParity adds what the start's check of the outputs found.
func (m *metrics) watchParity(r *manifest.Report) {
	gauge := func(name, help string, value float64) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		g.Set(value)
		m.registry.MustRegister(g)
	}
	gauge("bei_parity_items", "Reference items that were compared at the start.", float64(r.Items-r.Skipped))
	gauge("bei_parity_worst_error", "Largest error of their outputs, relative to the reference's largest magnitude where that is above 1.", r.WorstError)
	if r.WorstCosine != nil {
		gauge("bei_parity_worst_cosine", "Least cosine of their vectors to the references.", *r.WorstCosine)
	}
}

func (m *metrics) observeCall(name string, start time.Time, err error) {
	m.calls.WithLabelValues(name, status.CodeOf(err).String()).Inc()
	m.seconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
}

// Metrics gives all metrics in Prometheus' text format.
func (b *Backend) Metrics() ([]byte, error) {
	families, err := b.metrics.registry.Gather()
	if err != nil {
		return nil, status.Errorf(status.Internal, "metrics: %w", err)
	}
	var text bytes.Buffer
	encoder := expfmt.NewEncoder(&text, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := encoder.Encode(f); err != nil {
			return nil, status.Errorf(status.Internal, "metrics: %w", err)
		}
	}
	return text.Bytes(), nil
}
