package device

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
)

// Fake is a Monitor that says what a test tells it to. All methods may be called from any goroutine.
type Fake struct {
	mu      sync.Mutex // guards what follows
	devices []Device
	closed  bool
}

var _ Monitor = (*Fake)(nil)

// NewFake returns a healthy Fake with these devices.
func NewFake(devices ...Device) *Fake {
	f := &Fake{}
	f.SetDevices(devices...)
	return f
}

// SetDevices replaces what Devices returns.
func (f *Fake) SetDevices(devices ...Device) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.devices = cloneDevices(devices)
}

// SetTrouble makes the device with this UUID unhealthy, or healthy again with an empty trouble.
func (f *Fake) SetTrouble(uuid, trouble string) {
	f.change(uuid, func(d *Device) { d.Trouble = trouble })
}

// SetXid gives the device with this UUID an Xid error, with the same consequences as a real one.
func (f *Fake) SetXid(uuid string, code uint64) {
	f.change(uuid, func(d *Device) {
		x := xids{count: d.XidErrors, last: d.LastXid}
		x.add(code)
		d.XidErrors, d.LastXid, d.Trouble = x.count, x.last, cmp.Or(d.Trouble, x.trouble())
	})
}

// change panics where no device has the UUID: the test is wrong.
func (f *Fake) change(uuid string, set func(*Device)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i := slices.IndexFunc(f.devices, func(d Device) bool { return d.UUID == uuid })
	if i < 0 {
		panic(fmt.Sprintf("device.Fake: no device %q", uuid))
	}
	set(&f.devices[i])
}

// Closed reports whether Close was called.
func (f *Fake) Closed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// Devices returns a copy of the scripted devices; none once closed.
func (f *Fake) Devices() []Device {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	return cloneDevices(f.devices)
}

// Health tells the devices' troubles, as Monitor has it; nil once closed.
func (f *Fake) Health(uuids ...string) error { return health(f.Devices(), uuids) }

// Describe says how many devices are scripted.
func (f *Fake) Describe() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return fmt.Sprintf("fake devices: %d", len(f.devices))
}

// Close ends the watch.
func (f *Fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}
