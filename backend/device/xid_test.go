package device

import (
	"errors"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestXids(t *testing.T) {
	for _, c := range []struct {
		name     string
		codes    []uint64
		critical string // the trouble's begin; empty: healthy
	}{
		{"an application's", []uint64{13, 31, 43, 45, 109}, ""},
		{"row marked for remapping", []uint64{63}, ""},
		{"NVLink", []uint64{74}, ""},
		{"unknown", []uint64{999}, ""},
		{"double-bit", []uint64{48}, "Xid error 48 (double-bit ECC error)"},
		{"remapping failed", []uint64{64}, "Xid error 64 (row remapping or page retirement failed)"},
		{"contained", []uint64{94}, "Xid error 94 (contained memory error)"},
		{"uncontained", []uint64{95}, "Xid error 95 (uncontained memory error)"},
		{"firmware", []uint64{119, 120}, "Xid error 119 (GSP RPC timeout)"},
		{"the first critical one stays", []uint64{31, 79, 62, 45}, "Xid error 79 (GPU has fallen off the bus)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(2)
			mon, err := m.open(t)
			require.NoError(t, err)
			require.NoError(t, mon.Health())
			for _, code := range c.codes {
				m.xid(m.gpus[1], code)
			}
			devices := mon.Devices()
			require.Equal(t, uint64(len(c.codes)), devices[1].XidErrors)
			require.Equal(t, c.codes[len(c.codes)-1], devices[1].LastXid)
			require.Zero(t, devices[0].XidErrors)
			require.Empty(t, devices[0].Trouble)
			require.NoError(t, mon.Health("GPU-0"))
			if c.critical == "" {
				require.NoError(t, mon.Health())
				return
			}
			require.Equal(t, status.Unhealthy, status.CodeOf(mon.Health("GPU-1")))
			require.ErrorContains(t, mon.Health(), "NVML: device 1 (NVIDIA H100, GPU-1): "+c.critical)
			m.clock = m.clock.Add(sampleEvery)
			require.Error(t, mon.Health(), "a new sample does not mend it")
		})
	}
}

// TestXidOrigin: the handle in an event need not be the one that was listed.
func TestXidOrigin(t *testing.T) {
	m := newMachine(3)
	mon, err := m.open(t)
	require.NoError(t, err)
	counts := func() (n []uint64) {
		for _, d := range mon.Devices() {
			n = append(n, d.XidErrors)
		}
		return n
	}
	m.xid(&mock.Device{GetUUIDFunc: func() (string, nvml.Return) { return "GPU-2", nvml.SUCCESS }}, 13)
	require.Equal(t, []uint64{0, 0, 1}, counts())
	m.xid(&mock.Device{GetUUIDFunc: func() (string, nvml.Return) { return "", nvml.ERROR_GPU_IS_LOST }}, 79)
	require.Equal(t, []uint64{1, 1, 2}, counts(), "whose it is cannot be told")
	require.Error(t, mon.Health("GPU-0"))
}

func TestXidsNotWatched(t *testing.T) {
	for _, c := range []struct {
		set  func(*machine)
		whom string
		why  nvml.Return
	}{
		{func(m *machine) { m.eventSet = nvml.ERROR_UNKNOWN }, "", nvml.ERROR_UNKNOWN},
		{func(m *machine) { m.register = nvml.ERROR_NO_PERMISSION }, " of device 0", nvml.ERROR_NO_PERMISSION},
		{func(m *machine) { m.eventTypes = nvml.ERROR_GPU_IS_LOST }, " of device 1", nvml.ERROR_GPU_IS_LOST},
		{func(m *machine) { m.types = nvml.EventTypePState }, " of device 1", nvml.ERROR_NOT_SUPPORTED},
	} {
		m := newMachine(2)
		c.set(m)
		mon, err := m.open(t)
		require.NoError(t, err)
		require.Contains(t, mon.Describe(), ", Xid errors"+c.whom+" are not watched: "+c.why.Error())
		require.Len(t, mon.Devices(), 2)
		require.NoError(t, mon.Health())
		require.NoError(t, mon.Close())
		require.Empty(t, m.set.WaitCalls())
	}
}

// TestWaitFails: a wait that fails at once does not spin, and Close ends it.
func TestWaitFails(t *testing.T) {
	m := newMachine(1)
	m.waits = nvml.ERROR_GPU_IS_LOST
	mon, err := m.open(t)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(m.set.WaitCalls()) > 0 }, 5*time.Second, time.Millisecond)
	require.NoError(t, mon.Close())
	require.Len(t, m.set.WaitCalls(), 1)
}

func TestMIG(t *testing.T) {
	m := newMachine(2)
	migs := m.cut(1)
	m.gpus[1].GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED }
	mon, err := m.open(t)
	require.NoError(t, err)
	require.Equal(t, "NVIDIA devices: 2, driver 550.54.15, CUDA 12.4, MIG devices of device 1: 2", mon.Describe())
	devices := mon.Devices()
	require.Len(t, devices, 4)
	for i, want := range []string{"GPU-0", "GPU-1", "MIG-1-0", "MIG-1-2"} {
		require.Equal(t, want, devices[i].UUID)
	}
	d := devices[3]
	require.Equal(t, "GPU-1", d.Parent)
	require.Equal(t, 1, d.Index)
	require.Equal(t, "NVIDIA H100 MIG 3g.40gb", d.Name)
	require.Equal(t, uint64(40<<30), d.MemoryTotal)
	require.Equal(t, "00000000:1B:00.0", d.PCIBusID)
	require.Equal(t, "9.0", d.ComputeCapability)
	require.Equal(t, 350.5, d.PowerW)
	require.Equal(t, uint64(2), d.ECCUncorrected)
	require.True(t, math.IsNaN(d.Utilization))

	m.xid(m.gpus[1], 94, 2, 0)
	require.NoError(t, mon.Health("GPU-0", "MIG-1-0"))
	require.ErrorContains(t, mon.Health("MIG-1-2"), "device 1 (NVIDIA H100 MIG 3g.40gb, MIG-1-2): Xid error 94")
	require.ErrorContains(t, mon.Health("GPU-1-2"), "MIG-1-2", "an engine need not know that it runs on a MIG device")
	require.Error(t, mon.Health("GPU-1"))
	m.xid(m.gpus[1], 79)
	require.Error(t, mon.Health("MIG-1-0"), "the whole GPU is concerned")
	require.NoError(t, mon.Health("GPU-0"))

	migs[2].GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{}, nvml.ERROR_UNKNOWN }
	m.clock = m.clock.Add(sampleEvery)
	require.Zero(t, mon.Devices()[3].MemoryTotal, "it was destroyed")
}

func TestMIGFails(t *testing.T) {
	for want, set := range map[string]func(*machine, *mock.Device){
		"NVML: MIG devices of device 0: ": func(m *machine, _ *mock.Device) {
			m.gpus[0].GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
		},
		"NVML: UUID of device 0: ": func(_ *machine, d *mock.Device) {
			d.GetUUIDFunc = func() (string, nvml.Return) { return "", nvml.ERROR_UNKNOWN }
		},
		"NVML: GPU instance of MIG-0-0: ": func(_ *machine, d *mock.Device) {
			d.GetGpuInstanceIdFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
		},
		"NVML: compute instance of MIG-0-0: ": func(_ *machine, d *mock.Device) {
			d.GetComputeInstanceIdFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
		},
	} {
		m := newMachine(1)
		set(m, m.cut(0)[0])
		_, err := m.open(t)
		require.ErrorContains(t, err, want)
	}
}

// TestOldDriver: what an old driver lacks is never called.
func TestOldDriver(t *testing.T) {
	m := newMachine(1)
	m.old = true
	mon, err := m.open(t)
	require.NoError(t, err)
	d := mon.Devices()[0]
	require.Zero(t, d.RemappedRows)
	require.Equal(t, uint64(7), d.ECCCorrected)
	require.Empty(t, m.gpus[0].GetRemappedRowsCalls())
	require.Empty(t, m.gpus[0].GetMigModeCalls())
}

func TestUnknownUUID(t *testing.T) {
	f := NewFake(Device{UUID: "GPU-1", Trouble: "lost"}, Device{UUID: "GPU-2"})
	require.NoError(t, f.Health("GPU-2"))
	require.NoError(t, f.Health("2"))
	require.Error(t, f.Health("GPU-2", "GPU-3"), "GPU-3 may be the lost one")
	require.Error(t, f.Health("GPU-3"))
}

// hang makes the driver hang in GPU 0's power reading until the returned function is called.
func (m *machine) hang() (release func()) {
	hung := make(chan struct{})
	m.gpus[0].GetPowerUsageFunc = func() (uint32, nvml.Return) { <-hung; return 0, nvml.SUCCESS }
	return sync.OnceFunc(func() { close(hung) })
}

func TestHangingDriver(t *testing.T) {
	m := newMachine(1)
	release := m.hang()
	defer release()
	mon, err := m.open(t)
	require.NoError(t, err)
	mon.(*monitor).patience = 50 * time.Millisecond
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			err := mon.Health()
			if status.CodeOf(err) != status.Unhealthy {
				t.Errorf("a driver that hangs: %v", err)
			}
		})
	}
	wait.Wait()
	start := time.Now()
	for range 100 {
		require.ErrorContains(t, mon.Health(), "device 0 (NVIDIA H100, GPU-0): the driver has not answered for ")
	}
	require.Less(t, time.Since(start), 40*time.Millisecond*100, "only the first calls wait")
	d := mon.Devices()[0]
	require.Equal(t, "00000000:0B:00.0", d.PCIBusID)
	require.True(t, math.IsNaN(d.TemperatureC), "never read")
	release()
	require.Eventually(t, func() bool { return mon.Health() == nil }, 5*time.Second, time.Millisecond, "it answers again")
	require.Equal(t, 45.0, mon.Devices()[0].TemperatureC)
}

func TestCloseOfAHangingDriver(t *testing.T) {
	m := newMachine(1)
	release := m.hang()
	mon, err := m.open(t)
	require.NoError(t, err)
	mon.(*monitor).patience = 20 * time.Millisecond
	require.Error(t, mon.Health())
	require.ErrorContains(t, mon.Close(), "NVML: shutdown: the driver has not answered for 20ms")
	require.Empty(t, m.ShutdownCalls())
	require.NoError(t, mon.Close())
	release()
}

func TestErrorsOfHealthAreJoined(t *testing.T) {
	f := NewFake(Device{UUID: "GPU-1", Name: "a"}, Device{Index: 1, UUID: "GPU-2", Name: "b"})
	f.SetTrouble("GPU-1", "lost")
	f.SetXid("GPU-2", 46)
	err := f.Health()
	require.ErrorContains(t, err, "device 0 (a, GPU-1): lost")
	require.ErrorContains(t, err, "device 1 (b, GPU-2): Xid error 46 (GPU stopped processing)")
	var s *status.Error
	require.True(t, errors.As(err, &s))
}
