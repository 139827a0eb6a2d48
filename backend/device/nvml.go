package device

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

const (
	libraryName = "libnvidia-ml.so.1"
	sampleEvery = time.Second
	// patience is how long the driver may take for a sample, or to let go, before it counts as hanging. A sample takes milliseconds.
	patience = 2 * time.Second
)

// monitor is the Monitor over NVML. NVML may be asked from several goroutines: one that takes a sample, and one that waits for events.
type monitor struct {
	lib      nvml.Interface
	now      func() time.Time
	patience time.Duration
	summary  string
	gpus     []gpu // each GPU before its MIG devices

	events     nvml.EventSet // nil: no device has any
	stop       chan struct{} // closed by Close, to end waitXids
	eventsDone chan struct{} // closed when waitXids has ended; nil without events

	mu       sync.Mutex // guards what follows; never held while NVML is asked
	devices  []Device   // as last sampled
	lost     []string   // why a device is lost, or empty
	xids     []xids
	sampled  time.Time // when the last sample was started; zero: never
	sampling *sampling // the sample under way, or nil
	closed   bool
}

type sampling struct {
	since time.Time
	done  chan struct{} // closed at its end
}

// empty is the Monitor of a machine without devices or driver.
type empty string

func (empty) Devices() []Device      { return nil }
func (empty) Health(...string) error { return nil }
func (e empty) Describe() string     { return string(e) }
func (empty) Close() error           { return nil }

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
	m := &monitor{lib: lib, now: now, patience: patience, stop: make(chan struct{})}
	if err := m.list(); err != nil {
		_ = lib.Shutdown() // the first failure is the one to tell
		return nil, err
	}
	if len(m.gpus) == 0 {
		_ = lib.Shutdown() // nothing is watched
		return empty(m.summary), nil
	}
	m.lost, m.xids = make([]string, len(m.gpus)), make([]xids, len(m.gpus))
	for i := range m.gpus {
		m.devices = append(m.devices, m.gpus[i].unread())
	}
	m.registerXids()
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
		g := gpu{handle: handle, static: Device{Index: i, Driver: driver, CUDA: cuda}, parent: -1, remaps: m.has("nvmlDeviceGetRemappedRows")}
		if err := g.name(); err != nil {
			return err
		}
		if pci, ret := handle.GetPciInfo(); ret == nvml.SUCCESS {
			g.static.PCIBusID = text(pci.BusId[:])
		}
		if major, minor, ret := handle.GetCudaComputeCapability(); ret == nvml.SUCCESS {
			g.static.ComputeCapability = fmt.Sprintf("%d.%d", major, minor)
		}
		m.gpus = append(m.gpus, g)
		if m.has("nvmlDeviceGetMigMode") {
			if err := m.listMIG(len(m.gpus) - 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// listMIG adds the MIG devices that m.gpus[parent] is cut into now. Such as are made later are not watched, but their GPU is.
func (m *monitor) listMIG(parent int) error {
	whole := m.gpus[parent]
	mode, _, ret := whole.handle.GetMigMode()
	if ret != nvml.SUCCESS || mode != nvml.DEVICE_MIG_ENABLE {
		return nil // most GPUs cannot be cut
	}
	n, ret := whole.handle.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return status.Errorf(status.Start, "NVML: MIG devices of device %d: %v", whole.static.Index, ret)
	}
	count := 0
	for i := range n {
		handle, ret := whole.handle.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue // places may be empty, and the devices of others may be hidden from this container
		}
		g := gpu{handle: handle, static: whole.static, parent: parent}
		g.static.Parent = whole.static.UUID
		if err := g.name(); err != nil {
			return err
		}
		gpuInstance, ret := handle.GetGpuInstanceId()
		if ret != nvml.SUCCESS {
			return status.Errorf(status.Start, "NVML: GPU instance of %s: %v", g.static.UUID, ret)
		}
		computeInstance, ret := handle.GetComputeInstanceId()
		if ret != nvml.SUCCESS {
			return status.Errorf(status.Start, "NVML: compute instance of %s: %v", g.static.UUID, ret)
		}
		g.gpuInstance, g.computeInstance = uint32(gpuInstance), uint32(computeInstance)
		m.gpus = append(m.gpus, g)
		count++
	}
	m.summary += fmt.Sprintf(", MIG devices of device %d: %d", whole.static.Index, count)
	return nil
}

// name asks for the device's UUID and name.
func (g *gpu) name() error {
	var ret nvml.Return
	if g.static.UUID, ret = g.handle.GetUUID(); ret != nvml.SUCCESS {
		return status.Errorf(status.Start, "NVML: UUID of device %d: %v", g.static.Index, ret)
	}
	if g.static.Name, ret = g.handle.GetName(); ret != nvml.SUCCESS {
		return status.Errorf(status.Start, "NVML: name of device %d: %v", g.static.Index, ret)
	}
	return nil
}

// has reports whether the driver knows a function: what is newer than driver 450 would end the process at the lazy binding otherwise.
func (m *monitor) has(function string) bool { return m.lib.Extensions().LookupSymbol(function) == nil }

// text is a C string in an array.
func text(chars []int8) string {
	var b []byte
	for _, c := range chars {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}

func (m *monitor) Devices() []Device {
	m.refresh()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	hangs := ""
	if s := m.sampling; s != nil {
		if since := time.Since(s.since); since >= m.patience {
			hangs = fmt.Sprintf("the driver has not answered for %s", since.Round(time.Millisecond))
		}
	}
	devices := cloneDevices(m.devices)
	for i := range devices {
		x := &m.xids[i]
		d := &devices[i]
		d.XidErrors, d.LastXid = x.count, x.last
		d.Trouble = cmp.Or(m.lost[i], x.trouble(), hangs)
	}
	return devices
}

func (m *monitor) Health(uuids ...string) error { return health(m.Devices(), uuids) }

func (m *monitor) Describe() string { return m.summary }

func (m *monitor) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	var ends []chan struct{}
	if m.sampling != nil {
		ends = append(ends, m.sampling.done)
	}
	m.mu.Unlock()
	close(m.stop)
	if m.eventsDone != nil {
		ends = append(ends, m.eventsDone)
	}
	deadline := time.After(m.patience)
	for _, end := range ends {
		select {
		case <-end:
		case <-deadline:
			return status.Errorf(status.Internal, "NVML: shutdown: the driver has not answered for %s; its library stays open", m.patience)
		}
	}
	if m.events != nil {
		_ = m.events.Free() // the shutdown frees what is left
	}
	if ret := m.lib.Shutdown(); ret != nvml.SUCCESS {
		return status.Errorf(status.Internal, "NVML: shutdown: %v", ret)
	}
	return nil
}

// refresh takes a sample unless the last one is fresh. It waits for one under way until that is m.patience old.
func (m *monitor) refresh() {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return
	}
	if m.sampling == nil {
		now := m.now()
		if !m.sampled.IsZero() && now.Sub(m.sampled) < sampleEvery {
			m.mu.Unlock()
			return
		}
		m.sampled, m.sampling = now, &sampling{time.Now(), make(chan struct{})}
		go m.sample()
	}
	s := m.sampling
	m.mu.Unlock()
	wait := time.NewTimer(m.patience - time.Since(s.since))
	defer wait.Stop()
	select {
	case <-s.done:
	case <-wait.C:
	}
}

// sample reads all devices and ends m.sampling.
func (m *monitor) sample() {
	devices, lost := make([]Device, len(m.gpus)), make([]string, len(m.gpus))
	for i := range m.gpus {
		g := &m.gpus[i]
		if g.parent >= 0 {
			devices[i], lost[i] = g.readMIG(devices[g.parent]), lost[g.parent]
			continue
		}
		var ret nvml.Return
		if devices[i], ret = g.read(); ret != nvml.SUCCESS {
			lost[i] = ret.Error()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.devices, m.lost = devices, lost
	close(m.sampling.done)
	m.sampling = nil
}
