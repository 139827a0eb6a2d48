package device

import (
	"fmt"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// unhealthyXids are the Xid errors after which a device counts as unhealthy, with what they say. They are those for which NVIDIA's
// catalog (https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html) names a reset of the GPU, the VM or the machine as the
// immediate action (48: a workflow that ends in one), and 94, after which the application that met the error has to restart: this
// process may be it. Left out, and only counted, are those of NVLink (74, 136, 144 to 150, 155: no engine here crosses it), 109 (a
// context switch timed out: most often an application's kernel that runs for long, which NVIDIA's device plugin for Kubernetes ignores
// too), 63 (a row was marked for remapping, which the catalog says to ignore) and whatever an application causes (13, 31, 43, 45, ...).
var unhealthyXids = map[uint64]string{
	46:  "GPU stopped processing",
	48:  "double-bit ECC error",
	62:  "internal micro-controller halt",
	64:  "row remapping or page retirement failed",
	79:  "GPU has fallen off the bus",
	94:  "contained memory error",
	95:  "uncontained memory error",
	110: "security fault",
	119: "GSP RPC timeout",
	120: "GSP error",
	140: "unrecovered ECC error",
	143: "GPU initialization failure",
	151: "key rotation error",
	156: "resource retirement event",
	158: "GPU fatal timeout",
}

// eventWait bounds how long a wait for events keeps Close waiting.
const eventWait = 250 * time.Millisecond

// anyInstance is in an event that concerns the whole GPU, not one MIG device.
const anyInstance = 0xFFFFFFFF

// xids are the Xid errors of a device since Open.
type xids struct {
	count, last uint64
	// critical is the first of unhealthyXids, or 0. It stays: a GPU is reset only when no process uses it, this one included.
	critical uint64
}

func (x *xids) add(code uint64) {
	x.count++
	x.last = code
	if _, ok := unhealthyXids[code]; ok && x.critical == 0 {
		x.critical = code
	}
}

// trouble is Device.Trouble for x.
func (x *xids) trouble() string {
	if x.critical == 0 {
		return ""
	}
	return fmt.Sprintf("Xid error %d (%s): end this process, then do what NVIDIA's Xid catalog says of it", x.critical, unhealthyXids[x.critical])
}

// registerXids makes the event set. Devices whose events cannot be watched are named in the summary.
func (m *monitor) registerXids() {
	events, ret := m.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		m.summary += fmt.Sprintf(", Xid errors are not watched: %v", ret)
		return
	}
	watched := 0
	for i := range m.gpus {
		g := &m.gpus[i]
		if g.parent >= 0 {
			continue // events are reported of GPUs only, with the instance in them
		}
		types, ret := g.handle.GetSupportedEventTypes()
		if ret == nvml.SUCCESS && types&nvml.EventTypeXidCriticalError == 0 {
			ret = nvml.ERROR_NOT_SUPPORTED
		}
		if ret == nvml.SUCCESS {
			ret = g.handle.RegisterEvents(nvml.EventTypeXidCriticalError, events)
		}
		if ret != nvml.SUCCESS {
			m.summary += fmt.Sprintf(", Xid errors of device %d are not watched: %v", g.static.Index, ret)
			continue
		}
		watched++
	}
	if watched == 0 {
		_ = events.Free() // nothing was registered in it
		return
	}
	m.events, m.eventsDone = events, make(chan struct{})
	go m.waitXids()
}

// waitXids counts Xid errors until Close. It is the only user of m.events meanwhile.
func (m *monitor) waitXids() {
	defer close(m.eventsDone)
	for {
		select {
		case <-m.stop:
			return
		default:
		}
		event, ret := m.events.Wait(uint32(eventWait.Milliseconds()))
		switch ret {
		case nvml.SUCCESS:
			if event.EventType == nvml.EventTypeXidCriticalError {
				m.countXid(event)
			}
		case nvml.ERROR_TIMEOUT:
		default: // such as a lost GPU, which samples tell; it may answer at once, again and again
			select {
			case <-m.stop:
			case <-time.After(eventWait):
			}
		}
	}
}

// countXid counts an event in its GPU, and in those MIG devices of it that it concerns.
func (m *monitor) countXid(e nvml.EventData) {
	from := slices.IndexFunc(m.gpus, func(g gpu) bool { return g.handle == e.Device })
	if from < 0 {
		if uuid, ret := e.Device.GetUUID(); ret == nvml.SUCCESS {
			from = slices.IndexFunc(m.gpus, func(g gpu) bool { return g.static.UUID == uuid })
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.gpus {
		g := &m.gpus[i]
		concerned := from < 0 || // whose it is cannot be told: rather every device's than none's
			from == i || from == g.parent &&
			(e.GpuInstanceId == anyInstance || e.GpuInstanceId == g.gpuInstance) &&
			(e.ComputeInstanceId == anyInstance || e.ComputeInstanceId == g.computeInstance)
		if concerned {
			m.xids[i].add(e.EventData)
		}
	}
}
