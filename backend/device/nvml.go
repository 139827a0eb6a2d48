package device

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

const (
	libraryName = "libnvidia-ml.so.1"
	sampleEvery = time.Second
)

// monitor is the Monitor over NVML.
type monitor struct {
	lib     nvml.Interface
	now     func() time.Time
	summary string

	mu      sync.Mutex // guards what follows, and keeps NVML's calls one at a time
	gpus    []gpu
	sampled time.Time
	health  error
	closed  bool
}

// gpu is a device with its last readings.
type gpu struct {
	handle nvml.Device
	Device
}

// empty is the Monitor of a machine without devices or driver.
type empty string

func (empty) Devices() []Device  { return nil }
func (empty) Health() error      { return nil }
func (e empty) Describe() string { return string(e) }
func (empty) Close() error       { return nil }

// Open starts to watch. Where there is nothing to watch (no driver, no devices, or a driver that does not answer, such as one
// whose kernel module is of another version) the Monitor is empty and says why: that is no reason not to serve on the CPU, and an
// engine that needs the driver fails by itself.
func Open() Monitor { return watch(nvml.New(), loadError, time.Now) }

func watch(lib nvml.Interface, loadError func() error, now func() time.Time) Monitor {
	m, err := open(lib, loadError, now)
	if err != nil {
		return empty(err.Error())
	}
	return m
}

// loadError tries to load NVML only for the loader's message, which go-nvml drops.
func loadError() error {
	lib := dl.New(libraryName, dl.RTLD_LAZY)
	if err := lib.Open(); err != nil {
		return err
	}
	return lib.Close()
}

func open(lib nvml.Interface, loadError func() error, now func() time.Time) (Monitor, error) {
	switch ret := lib.Init(); ret {
	case nvml.SUCCESS:
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		if err := loadError(); err != nil {
			return empty(fmt.Sprintf("no NVIDIA driver (%s not found): %v", libraryName, err)), nil
		}
		return empty("no NVIDIA driver (" + libraryName + " not found)"), nil
	case nvml.ERROR_DRIVER_NOT_LOADED: // the library came with a container image, the kernel module did not
		return empty("no NVIDIA driver (" + libraryName + " found, kernel module not loaded)"), nil
	default:
		return nil, status.Errorf(status.Start, "NVML: init: %v", ret)
	}
	m := &monitor{lib: lib, now: now}
	if err := m.list(); err != nil {
		_ = lib.Shutdown() // the first failure is the one to tell
		return nil, err
	}
	if len(m.gpus) == 0 {
		_ = lib.Shutdown() // nothing is watched
		return empty(m.summary), nil
	}
	return m, nil
}

// list asks for what does not change.
func (m *monitor) list() error {
	driver, ret := m.lib.SystemGetDriverVersion()
	if ret != nvml.SUCCESS {
		return status.Errorf(status.Start, "NVML: driver version: %v", ret)
	}
	cuda := ""
	if v, ret := m.lib.SystemGetCudaDriverVersion(); ret == nvml.SUCCESS {
		cuda = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
	}
	n, ret := m.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		return status.Errorf(status.Start, "NVML: device count: %v", ret)
	}
	m.summary = fmt.Sprintf("NVIDIA devices: %d, driver %s, CUDA %s", n, driver, cuda)
	for i := range n {
		handle, ret := m.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			return status.Errorf(status.Start, "NVML: device %d: %v", i, ret)
		}
		g := gpu{handle: handle, Device: Device{Index: i, Driver: driver, CUDA: cuda}}
		if g.UUID, ret = handle.GetUUID(); ret != nvml.SUCCESS {
			return status.Errorf(status.Start, "NVML: UUID of device %d: %v", i, ret)
		}
		if g.Name, ret = handle.GetName(); ret != nvml.SUCCESS {
			return status.Errorf(status.Start, "NVML: name of device %d: %v", i, ret)
		}
		m.gpus = append(m.gpus, g)
	}
	return nil
}

func (m *monitor) Devices() []Device {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.sample()
	devices := make([]Device, len(m.gpus))
	for i, g := range m.gpus {
		devices[i] = g.Device
	}
	return cloneDevices(devices)
}

func (m *monitor) Health() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.sample()
	return m.health
}

func (m *monitor) Describe() string { return m.summary }

func (m *monitor) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	if ret := m.lib.Shutdown(); ret != nvml.SUCCESS {
		return status.Errorf(status.Internal, "NVML: shutdown: %v", ret)
	}
	return nil
}

// sample reads all devices, unless the last sample is fresh. m.mu is held.
func (m *monitor) sample() {
	now := m.now()
	if !m.sampled.IsZero() && now.Sub(m.sampled) < sampleEvery {
		return
	}
	m.sampled = now
	var lost []error
	for i := range m.gpus {
		g := &m.gpus[i]
		if ret := g.read(); ret != nvml.SUCCESS {
			lost = append(lost, status.Errorf(status.Unhealthy, "device %d (%s, %s): %v", g.Index, g.Name, g.UUID, ret))
		}
	}
	m.health = nil
	if len(lost) > 0 {
		m.health = status.Errorf(status.Unhealthy, "NVML: %w", errors.Join(lost...))
	}
}

// read takes one device's readings. It returns what says that the device itself is lost; a reading that the device does not offer,
// or not to this process (MIG, integrated memory, containers), is none.
func (g *gpu) read() nvml.Return {
	lost := nvml.SUCCESS
	got := func(ret nvml.Return) bool {
		switch ret {
		case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_UNINITIALIZED, nvml.ERROR_UNKNOWN:
			lost = ret
		}
		return ret == nvml.SUCCESS
	}
	if memory, ret := g.handle.GetMemoryInfo(); got(ret) {
		g.MemoryTotal, g.MemoryUsed = memory.Total, memory.Used
	}
	g.TemperatureC, g.PowerW, g.Utilization = math.NaN(), math.NaN(), math.NaN()
	if t, ret := g.handle.GetTemperature(nvml.TEMPERATURE_GPU); got(ret) {
		g.TemperatureC = float64(t)
	}
	if milliwatts, ret := g.handle.GetPowerUsage(); got(ret) {
		g.PowerW = float64(milliwatts) / 1000
	}
	if u, ret := g.handle.GetUtilizationRates(); got(ret) {
		g.Utilization = float64(u.Gpu) / 100
	}
	if n, ret := g.handle.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC); got(ret) {
		g.ECCUncorrected = n
	}
	g.ThrottleReasons = nil
	// By the older of its two names: a driver that lacks the newer one would end the process at the lazy binding.
	if bits, ret := g.handle.GetCurrentClocksThrottleReasons(); got(ret) {
		g.ThrottleReasons = throttleReasons(bits)
	}
	return lost
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

func throttleReasons(bits uint64) []string {
	var names []string
	for _, r := range reasons {
		if bits&r.bit != 0 {
			names = append(names, r.name)
		}
	}
	return names
}
