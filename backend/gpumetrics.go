package backend

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/basetenlabs/bei-runtime/backend/device"
)

// deviceCollector gives a monitor's readings as metrics when they are asked for.
type deviceCollector struct{ monitor device.Monitor }

var deviceGauges = []struct {
	desc  *prometheus.Desc
	value func(device.Device) float64
}{
	{deviceDesc("bei_gpu_memory_total_bytes", "Memory of the device."), func(d device.Device) float64 { return float64(d.MemoryTotal) }},
	{deviceDesc("bei_gpu_memory_used_bytes", "Memory of the device in use, by all processes."), func(d device.Device) float64 { return float64(d.MemoryUsed) }},
	{deviceDesc("bei_gpu_temperature_celsius", "Temperature of the device."), func(d device.Device) float64 { return d.TemperatureC }},
	{deviceDesc("bei_gpu_power_watts", "Power that the device draws."), func(d device.Device) float64 { return d.PowerW }},
	{deviceDesc("bei_gpu_utilization_ratio", "Share of time with a kernel running."), func(d device.Device) float64 { return d.Utilization }},
	{deviceDesc("bei_gpu_ecc_uncorrected", "Uncorrected memory errors since the driver was loaded."), func(d device.Device) float64 { return float64(d.ECCUncorrected) }},
	{deviceDesc("bei_gpu_throttle_reasons", "Number of reasons that slow the clocks now."), func(d device.Device) float64 { return float64(len(d.ThrottleReasons)) }},
}

func deviceDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{"uuid", "name"}, nil)
}

// Describe is prometheus.Collector's.
func (c deviceCollector) Describe(out chan<- *prometheus.Desc) {
	for _, g := range deviceGauges {
		out <- g.desc
	}
}

// Collect is prometheus.Collector's. Readings that a device does not offer are left out.
func (c deviceCollector) Collect(out chan<- prometheus.Metric) {
	for _, d := range c.monitor.Devices() {
		for _, g := range deviceGauges {
			if v := g.value(d); !math.IsNaN(v) {
				out <- prometheus.MustNewConstMetric(g.desc, prometheus.GaugeValue, v, d.UUID, d.Name)
			}
		}
	}
}
