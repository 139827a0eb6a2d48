// Package device watches NVIDIA devices through NVML. A machine without a driver is normal: Open then returns a Monitor of no
// devices that says why. Fake is a scripted Monitor for tests.
package device

import "slices"

// Device is one GPU, as last sampled. Readings that a device does not offer are NaN (floats) or zero (counts).
type Device struct {
	Index          int    // NVML's, which is the PCI order; CUDA_VISIBLE_DEVICES may order otherwise: match by UUID
	UUID           string // "GPU-..."
	Name           string
	Driver         string // version, such as "550.54.15"
	CUDA           string // newest CUDA version that the driver serves, such as "12.4"
	MemoryTotal    uint64 // bytes
	MemoryUsed     uint64 // bytes, of all processes
	TemperatureC   float64
	PowerW         float64
	Utilization    float64 // share of the last sample period in which a kernel ran, 0 to 1
	ECCUncorrected uint64  // uncorrected memory errors since the driver was loaded
	// ThrottleReasons says what slows the clocks now, such as "sw_power_cap"; idling and clocks that a user set are none.
	ThrottleReasons []string
}

// Monitor watches the devices of this machine. All methods may be called from any goroutine and are cheap: a sample serves all calls
// of at least one second.
type Monitor interface {
	// Devices returns a copy of the last sample, by index. Empty: no device, no driver, or closed.
	Devices() []Device
	// Health returns an error of code Unhealthy where a device is lost or cannot be asked any more; nil where there are no devices.
	Health() error
	// Describe says in a sentence what is watched, or why nothing is.
	Describe() string
	// Close ends the watch. Calling it twice is harmless.
	Close() error
}

// cloneDevices shares no memory with devices, so that a caller may change what it got.
func cloneDevices(devices []Device) []Device {
	clone := slices.Clone(devices)
	for i := range clone {
		clone[i].ThrottleReasons = slices.Clone(clone[i].ThrottleReasons)
	}
	return clone
}
