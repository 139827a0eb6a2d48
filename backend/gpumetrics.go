package backend

import (
	"math"
	"slices"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/basetenlabs/bei-runtime/backend/device"
)

// deviceCollector gives a monitor's readings as metrics when they are asked for.
type deviceCollector struct{ monitor device.Monitor }

type deviceMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(device.Device) float64
}

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

// ownMetrics are what a MIG device has of its own. gpuMetrics are its GPU's, and given once, so that sums are right.
var (
	ownMetrics = []deviceMetric{
		{deviceDesc("bei_gpu_memory_total_bytes", "Memory of the device."), gauge, func(d device.Device) float64 { return float64(d.MemoryTotal) }},
		{deviceDesc("bei_gpu_memory_used_bytes", "Memory of the device in use, by all processes."), gauge, func(d device.Device) float64 { return float64(d.MemoryUsed) }},
		{deviceDesc("bei_gpu_healthy", "0 when the device is lost, does not answer or had an Xid error that only a reset mends."), gauge, func(d device.Device) float64 { return oneIf(d.Trouble == "") }},
		{deviceDesc("bei_gpu_xid_errors_total", "Xid errors since the backend was opened, those that applications cause included."), counter, func(d device.Device) float64 { return float64(d.XidErrors) }},
		{deviceDesc("bei_gpu_last_xid", "Code of the last Xid error since the backend was opened; 0: none."), gauge, func(d device.Device) float64 { return float64(d.LastXid) }},
	}
	gpuMetrics = []deviceMetric{
		{deviceDesc("bei_gpu_temperature_celsius", "Temperature of the device."), gauge, func(d device.Device) float64 { return d.TemperatureC }},
		{deviceDesc("bei_gpu_power_watts", "Power that the device draws."), gauge, func(d device.Device) float64 { return d.PowerW }},
		{deviceDesc("bei_gpu_power_limit_watts", "Power that the device may draw."), gauge, func(d device.Device) float64 { return d.PowerLimitW }},
		{deviceDesc("bei_gpu_utilization_ratio", "Share of time with a kernel running."), gauge, func(d device.Device) float64 { return d.Utilization }},
		{deviceDesc("bei_gpu_memory_utilization_ratio", "Share of time with device memory being read or written."), gauge, func(d device.Device) float64 { return d.MemoryUtilization }},
		{deviceDesc("bei_gpu_sm_clock_hertz", "Clock of the multiprocessors."), gauge, func(d device.Device) float64 { return d.SMClockHz }},
		{deviceDesc("bei_gpu_memory_clock_hertz", "Clock of the device's memory."), gauge, func(d device.Device) float64 { return d.MemoryClockHz }},
		{deviceDesc("bei_gpu_ecc_uncorrected", "As bei_gpu_ecc_uncorrected_total, its older name."), gauge, func(d device.Device) float64 { return float64(d.ECCUncorrected) }},
		{deviceDesc("bei_gpu_ecc_uncorrected_total", "Uncorrected memory errors since the driver was loaded."), counter, func(d device.Device) float64 { return float64(d.ECCUncorrected) }},
		{deviceDesc("bei_gpu_ecc_corrected_total", "Corrected memory errors since the driver was loaded."), counter, func(d device.Device) float64 { return float64(d.ECCCorrected) }},
		{deviceDesc("bei_gpu_remapped_rows", "Memory rows replaced by spare ones in the life of the device."), gauge, func(d device.Device) float64 { return float64(d.RemappedRows) }},
		{deviceDesc("bei_gpu_row_remap_pending", "1 when a memory row waits for a reset to be replaced."), gauge, func(d device.Device) float64 { return oneIf(d.RowRemapPending) }},
		{deviceDesc("bei_gpu_row_remap_failed", "1 when a memory row could not be replaced, ever in the life of the device."), gauge, func(d device.Device) float64 { return oneIf(d.RowRemapFailed) }},
		{deviceDesc("bei_gpu_retired_pages_pending", "1 when a memory page waits for a reset to be retired."), gauge, func(d device.Device) float64 { return oneIf(d.RetiredPagesPending) }},
		{deviceDesc("bei_gpu_throttle_reasons", "Number of reasons that slow the clocks now."), gauge, func(d device.Device) float64 { return float64(len(d.ThrottleReasons)) }},
	}
	throttleDesc = deviceDesc("bei_gpu_throttle_reason", "1 when the reason slows the clocks now.", "reason")
	gpuInfoDesc  = deviceDesc("bei_gpu_info", "Constant 1, with what the device is. index is NVML's; parent_uuid is a MIG device's GPU.",
		"index", "parent_uuid", "pci_bus_id", "compute_capability", "driver", "cuda")
)

func deviceDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append([]string{"uuid", "name"}, labels...), nil)
}

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Describe is prometheus.Collector's.
func (c deviceCollector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range slices.Concat(ownMetrics, gpuMetrics) {
		out <- m.desc
	}
	out <- throttleDesc
	out <- gpuInfoDesc
}

// Collect is prometheus.Collector's. Readings that a device does not offer are left out; counts are then 0.
func (c deviceCollector) Collect(out chan<- prometheus.Metric) {
	for _, d := range c.monitor.Devices() {
		give := func(m deviceMetric) {
			if v := m.value(d); !math.IsNaN(v) {
				out <- prometheus.MustNewConstMetric(m.desc, m.kind, v, d.UUID, d.Name)
			}
		}
		for _, m := range ownMetrics {
			give(m)
		}
		out <- prometheus.MustNewConstMetric(gpuInfoDesc, gauge, 1, d.UUID, d.Name,
			strconv.Itoa(d.Index), d.Parent, d.PCIBusID, d.ComputeCapability, d.Driver, d.CUDA)
		if d.Parent != "" {
			continue
		}
		for _, m := range gpuMetrics {
			give(m)
		}
		for _, reason := range device.ThrottleReasons() {
			out <- prometheus.MustNewConstMetric(throttleDesc, gauge, oneIf(slices.Contains(d.ThrottleReasons, reason)), d.UUID, d.Name, reason)
		}
	}
}
