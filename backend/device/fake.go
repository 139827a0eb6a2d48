package device

import (
	"fmt"
	"sync"
)

// Fake is a Monitor that says what a test tells it to. All methods may be called from any goroutine.
type Fake struct {
	mu      sync.Mutex // guards what follows
	devices []Device
	health  error
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

// SetHealth sets what Health returns.
func (f *Fake) SetHealth(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health = err
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

// Health returns the scripted error; nil once closed.
func (f *Fake) Health() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	return f.health
}

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
