// Package device watches NVIDIA devices through NVML. A machine without a driver is normal: Open then returns a Monitor of no
// devices that says why. Fake is a scripted Monitor for tests.
package device

import (
	"errors"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Device is one GPU or one MIG device, as last sampled. Readings that a device does not offer are NaN (floats), zero (counts) or false.
// A MIG device has its own name, UUID, memory and Xid errors; the rest is its GPU's.
type Device struct {
	Index             int    // NVML's, which is the PCI order; CUDA_VISIBLE_DEVICES may order otherwise: match by UUID
	UUID              string // "GPU-...", "MIG-..."
	Parent            string // UUID of the GPU that a MIG device is part of; empty for a GPU
	Name              string
	Driver            string // version, such as "550.54.15"
	CUDA              string // newest CUDA version that the driver serves, such as "12.4"
	PCIBusID          string // such as "00000000:3B:00.0"; empty: not offered
	ComputeCapability string // such as "9.0"; empty: not offered

	MemoryTotal       uint64 // bytes
	MemoryUsed        uint64 // bytes, of all processes
	TemperatureC      float64
	PowerW            float64
	PowerLimitW       float64 // that the driver enforces now
	Utilization       float64 // share of the last sample period in which a kernel ran, 0 to 1
	MemoryUtilization float64 // share of the last sample period in which device memory was read or written, 0 to 1
	SMClockHz         float64
	MemoryClockHz     float64

	ECCCorrected        uint64 // corrected memory errors since the driver was loaded
	ECCUncorrected      uint64 // uncorrected memory errors since the driver was loaded
	RemappedRows        uint64 // memory rows replaced by spare ones in the life of the device; Ampere and newer
	RowRemapPending     bool   // a row waits for a reset of the GPU to be replaced; until then it is kept out of use
	RowRemapFailed      bool   // a row could not be replaced, at some time in the life of the device
	RetiredPagesPending bool   // a memory page waits for a reset of the GPU to be retired; before Ampere

	XidErrors uint64 // Xid errors since Open, those that applications cause included
	LastXid   uint64 // the code of the last one; 0: none
	// ThrottleReasons says what slows the clocks now, such as "sw_power_cap", in the order of ThrottleReasons(); idling and clocks that
	// a user set are none.
	ThrottleReasons []string
	// Trouble says why the device is unhealthy: it is lost, does not answer, or had an Xid error that only a reset mends. Empty: healthy.
	Trouble string
}

// Monitor watches the devices of this machine. All methods may be called from any goroutine and are cheap: a sample serves all calls
// of at least one second. A driver that hangs holds Devices and Health up for two seconds, all callers together: then they tell what
// was last known, with the hanging as every device's trouble, until the driver answers.
type Monitor interface {
	// Devices returns a copy of the last sample, by index, a GPU before its MIG devices. Empty: no device, no driver, or closed.
	Devices() []Device
	// Health returns an error of code Unhealthy where one of the devices with these UUIDs is in trouble; nil where there are no devices.
	// "GPU-" and "MIG-" in front may be missing or wrong (CUDA tells UUIDs as bytes). Without UUIDs, or with one that is not listed
	// (it cannot be told which device it is), all devices count.
	Health(uuids ...string) error
	// Describe says in a sentence what is watched, or why nothing is.
	Describe() string
	// Close ends the watch, within a quarter of a second unless the driver hangs. Calling it twice is harmless.
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

// health is Monitor.Health over a sample.
func health(devices []Device, uuids []string) error {
	all := len(uuids) == 0
	for _, uuid := range uuids {
		all = all || !slices.ContainsFunc(devices, func(d Device) bool { return sameUUID(uuid, d.UUID) })
	}
	var troubles []error
	for _, d := range devices {
		if d.Trouble != "" && (all || slices.ContainsFunc(uuids, func(uuid string) bool { return sameUUID(uuid, d.UUID) })) {
			troubles = append(troubles, status.Errorf(status.Unhealthy, "device %d (%s, %s): %s", d.Index, d.Name, d.UUID, d.Trouble))
		}
	}
	if len(troubles) == 0 {
		return nil
	}
	return status.Errorf(status.Unhealthy, "NVML: %w", errors.Join(troubles...))
}

// sameUUID compares what follows the kind of device.
func sameUUID(a, b string) bool { return strings.EqualFold(bareUUID(a), bareUUID(b)) }

func bareUUID(uuid string) string {
	return strings.TrimPrefix(strings.TrimPrefix(uuid, "GPU-"), "MIG-")
}
