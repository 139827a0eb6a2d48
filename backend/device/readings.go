package device

import (
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// gpu is a GPU or MIG device as it was listed. It does not change.
type gpu struct {
	handle nvml.Device
	static Device // what does not change
	parent int    // of a MIG device: the place of its GPU in the list; -1 for a GPU
	// The MIG device's GPU instance and compute instance.
	gpuInstance, computeInstance uint32
	remaps                       bool // the driver knows nvmlDeviceGetRemappedRows
}

// unread is the device without any reading.
func (g *gpu) unread() Device {
	d := g.static
	nan := math.NaN()
	d.TemperatureC, d.PowerW, d.PowerLimitW, d.Utilization, d.MemoryUtilization, d.SMClockHz, d.MemoryClockHz = nan, nan, nan, nan, nan, nan, nan
	return d
}

// reader takes one device's readings. A reading that the device does not offer, or not to this process (MIG, integrated memory,
// containers), is none.
type reader struct {
	handle nvml.Device
	lost   nvml.Return // what says that the device itself is lost; else SUCCESS
}

func (r *reader) got(ret nvml.Return) bool {
	switch ret {
	case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_UNINITIALIZED, nvml.ERROR_UNKNOWN:
		r.lost = ret
	}
	return ret == nvml.SUCCESS
}

// read takes a GPU's readings. The return says whether the device is lost; else it is SUCCESS.
func (g *gpu) read() (Device, nvml.Return) {
	d, r := g.unread(), &reader{handle: g.handle}
	r.memory(&d)
	if t, ret := g.handle.GetTemperature(nvml.TEMPERATURE_GPU); r.got(ret) {
		d.TemperatureC = float64(t)
	}
	if milliwatts, ret := g.handle.GetPowerUsage(); r.got(ret) {
		d.PowerW = float64(milliwatts) / 1000
	}
	if milliwatts, ret := g.handle.GetEnforcedPowerLimit(); r.got(ret) {
		d.PowerLimitW = float64(milliwatts) / 1000
	}
	if u, ret := g.handle.GetUtilizationRates(); r.got(ret) {
		d.Utilization, d.MemoryUtilization = float64(u.Gpu)/100, float64(u.Memory)/100
	}
	if mhz, ret := g.handle.GetClockInfo(nvml.CLOCK_SM); r.got(ret) {
		d.SMClockHz = float64(mhz) * 1e6
	}
	if mhz, ret := g.handle.GetClockInfo(nvml.CLOCK_MEM); r.got(ret) {
		d.MemoryClockHz = float64(mhz) * 1e6
	}
	// By the older of its two names: a driver that lacks the newer one would end the process at the lazy binding.
	if bits, ret := g.handle.GetCurrentClocksThrottleReasons(); r.got(ret) {
		d.ThrottleReasons = throttleReasons(bits)
	}
	r.errors(&d, g.remaps)
	return d, r.lost
}

// readMIG takes a MIG device's readings: its own memory, and the rest of its GPU.
func (g *gpu) readMIG(parent Device) Device {
	d := parent
	s := &g.static
	d.UUID, d.Name, d.Parent, d.MemoryTotal, d.MemoryUsed = s.UUID, s.Name, s.Parent, 0, 0
	// A MIG device that was destroyed gives errors that say nothing of the GPU.
	(&reader{handle: g.handle}).memory(&d)
	return d
}

func (r *reader) memory(d *Device) {
	if memory, ret := r.handle.GetMemoryInfo(); r.got(ret) {
		d.MemoryTotal, d.MemoryUsed = memory.Total, memory.Used
	}
}

// errors reads what is known of the memory's errors and repairs.
func (r *reader) errors(d *Device, remaps bool) {
	for kind, count := range map[nvml.MemoryErrorType]*uint64{
		nvml.MEMORY_ERROR_TYPE_CORRECTED: &d.ECCCorrected, nvml.MEMORY_ERROR_TYPE_UNCORRECTED: &d.ECCUncorrected,
	} {
		if n, ret := r.handle.GetTotalEccErrors(kind, nvml.VOLATILE_ECC); r.got(ret) {
			*count = n
		}
	}
	if remaps {
		if corrected, uncorrected, pending, failed, ret := r.handle.GetRemappedRows(); r.got(ret) {
			d.RemappedRows, d.RowRemapPending, d.RowRemapFailed = uint64(corrected+uncorrected), pending, failed
		}
	}
	if pending, ret := r.handle.GetRetiredPagesPendingStatus(); r.got(ret) {
		d.RetiredPagesPending = pending == nvml.FEATURE_ENABLED
	}
}

// reasons by NVML's bits, without idling (1) and the clocks that a user (2) or a display (256) asked for: those are no trouble.
var reasons = []struct {
	bit  uint64
	name string
}{
	{nvml.ClocksThrottleReasonSwPowerCap, "sw_power_cap"},
	{nvml.ClocksThrottleReasonHwSlowdown, "hw_slowdown"},
	{nvml.ClocksThrottleReasonSyncBoost, "sync_boost"},
	{nvml.ClocksThrottleReasonSwThermalSlowdown, "sw_thermal_slowdown"},
	{nvml.ClocksThrottleReasonHwThermalSlowdown, "hw_thermal_slowdown"},
	{nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, "hw_power_brake"},
	{nvml.ClocksEventReasonBoardLimit, "board_limit"},
	{nvml.ClocksEventReasonReliability, "reliability"},
}

// ThrottleReasons lists what Device.ThrottleReasons may hold.
func ThrottleReasons() []string { return throttleReasons(^uint64(0)) }

func throttleReasons(bits uint64) []string {
	var names []string
	for _, r := range reasons {
		if bits&r.bit != 0 {
			names = append(names, r.name)
		}
	}
	return names
}
