package device

import (
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// TestMain checks that every Close ends what waits for events.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machine scripts NVML through go-nvml's mock: what each question is answered with, by a field of its own.
type machine struct {
	mock.Interface
	gpus                                                    []*mock.Device
	init, driver, cuda, count, handle, uuid, name, shutdown nvml.Return
	memory, ecc, power, eventSet, eventTypes, register      nvml.Return
	throttle, types                                         uint64
	clock                                                   time.Time
	old                                                     bool                // the driver lacks what came with 450
	events                                                  chan nvml.EventData // what Wait gives
	waits                                                   nvml.Return         // what Wait gives instead, unless SUCCESS
	set                                                     *mock.EventSet
}

func newMachine(n int) *machine {
	m := &machine{clock: time.Unix(1000, 0), types: nvml.EventTypeXidCriticalError | nvml.EventTypePState, events: make(chan nvml.EventData)}
	m.InitFunc = func() nvml.Return { return m.init }
	m.ShutdownFunc = func() nvml.Return { return m.shutdown }
	m.SystemGetDriverVersionFunc = func() (string, nvml.Return) { return "550.54.15", m.driver }
	m.SystemGetCudaDriverVersionFunc = func() (int, nvml.Return) { return 12040, m.cuda }
	m.DeviceGetCountFunc = func() (int, nvml.Return) { return len(m.gpus), m.count }
	m.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) { return m.gpus[i], m.handle }
	m.ExtensionsFunc = func() nvml.ExtendedInterface {
		return &mock.ExtendedInterface{LookupSymbolFunc: func(name string) error {
			if m.old {
				return errors.New(name + ": undefined symbol")
			}
			return nil
		}}
	}
	m.set = &mock.EventSet{FreeFunc: func() nvml.Return { return nvml.SUCCESS }, WaitFunc: m.wait}
	m.EventSetCreateFunc = func() (nvml.EventSet, nvml.Return) { return m.set, m.eventSet }
	for i := range n {
		m.gpus = append(m.gpus, m.newGPU(i))
	}
	return m
}

func (m *machine) newGPU(i int) *mock.Device {
	return &mock.Device{
		GetUUIDFunc: func() (string, nvml.Return) { return fmt.Sprintf("GPU-%d", i), m.uuid },
		GetNameFunc: func() (string, nvml.Return) { return "NVIDIA H100", m.name },
		GetPciInfoFunc: func() (nvml.PciInfo, nvml.Return) {
			info := nvml.PciInfo{}
			for k, c := range fmt.Sprintf("00000000:%dB:00.0", i) {
				info.BusId[k] = int8(c)
			}
			return info, nvml.SUCCESS
		},
		GetCudaComputeCapabilityFunc: func() (int, int, nvml.Return) { return 9, 0, nvml.SUCCESS },
		GetMigModeFunc:               func() (int, int, nvml.Return) { return 0, 0, nvml.ERROR_NOT_SUPPORTED },
		GetMemoryInfoFunc:            func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 80 << 30, Used: 3 << 30}, m.memory },
		GetTemperatureFunc:           func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 45, nvml.SUCCESS },
		GetPowerUsageFunc:            func() (uint32, nvml.Return) { return 350_500, m.power },
		GetEnforcedPowerLimitFunc:    func() (uint32, nvml.Return) { return 700_000, m.power },
		GetUtilizationRatesFunc:      func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{Gpu: 25, Memory: 10}, nvml.SUCCESS },
		GetClockInfoFunc: func(clock nvml.ClockType) (uint32, nvml.Return) {
			return map[nvml.ClockType]uint32{nvml.CLOCK_SM: 1980, nvml.CLOCK_MEM: 2619}[clock], nvml.SUCCESS
		},
		GetTotalEccErrorsFunc: func(kind nvml.MemoryErrorType, since nvml.EccCounterType) (uint64, nvml.Return) {
			if since != nvml.VOLATILE_ECC {
				return 0, nvml.ERROR_INVALID_ARGUMENT
			}
			return map[nvml.MemoryErrorType]uint64{nvml.MEMORY_ERROR_TYPE_CORRECTED: 7, nvml.MEMORY_ERROR_TYPE_UNCORRECTED: 2}[kind], m.ecc
		},
		GetRemappedRowsFunc:                 func() (int, int, bool, bool, nvml.Return) { return 3, 1, true, true, m.ecc },
		GetRetiredPagesPendingStatusFunc:    func() (nvml.EnableState, nvml.Return) { return nvml.FEATURE_ENABLED, m.ecc },
		GetCurrentClocksThrottleReasonsFunc: func() (uint64, nvml.Return) { return m.throttle, nvml.SUCCESS },
		GetSupportedEventTypesFunc:          func() (uint64, nvml.Return) { return m.types, m.eventTypes },
		RegisterEventsFunc:                  func(uint64, nvml.EventSet) nvml.Return { return m.register },
	}
}

// cut makes GPU i one of two MIG devices, in GPU instances 1 and 2, with an empty place between them.
func (m *machine) cut(i int) (migs [3]*mock.Device) {
	for k := range migs {
		migs[k] = &mock.Device{
			GetUUIDFunc:              func() (string, nvml.Return) { return fmt.Sprintf("MIG-%d-%d", i, k), m.uuid },
			GetNameFunc:              func() (string, nvml.Return) { return "NVIDIA H100 MIG 3g.40gb", m.name },
			GetMemoryInfoFunc:        func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 40 << 30, Used: 1 << 30}, m.memory },
			GetGpuInstanceIdFunc:     func() (int, nvml.Return) { return k, nvml.SUCCESS },
			GetComputeInstanceIdFunc: func() (int, nvml.Return) { return 0, nvml.SUCCESS },
		}
	}
	m.gpus[i].GetMigModeFunc = func() (int, int, nvml.Return) { return nvml.DEVICE_MIG_ENABLE, nvml.DEVICE_MIG_ENABLE, nvml.SUCCESS }
	m.gpus[i].GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return len(migs), nvml.SUCCESS }
	m.gpus[i].GetMigDeviceHandleByIndexFunc = func(k int) (nvml.Device, nvml.Return) {
		if k == 1 {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return migs[k], nvml.SUCCESS
	}
	return migs
}

func (m *machine) wait(ms uint32) (nvml.EventData, nvml.Return) {
	if m.waits != nvml.SUCCESS {
		return nvml.EventData{}, m.waits
	}
	select {
	case e := <-m.events:
		return e, nvml.SUCCESS
	case <-time.After(time.Duration(ms) * time.Millisecond / 10): // a test has less time
		return nvml.EventData{}, nvml.ERROR_TIMEOUT
	}
}

// xid reports an error of the whole of device d, unless instances say otherwise, and returns once it is counted.
func (m *machine) xid(d nvml.Device, code uint64, instances ...uint32) {
	e := nvml.EventData{Device: d, EventType: nvml.EventTypeXidCriticalError, EventData: code, GpuInstanceId: anyInstance, ComputeInstanceId: anyInstance}
	if len(instances) > 0 {
		e.GpuInstanceId, e.ComputeInstanceId = instances[0], instances[1]
	}
	m.events <- e
	m.events <- nvml.EventData{EventType: nvml.EventTypePState} // is taken when e has been counted
}

// open returns a monitor that the test's end closes.
func (m *machine) open(t *testing.T) (Monitor, error) {
	mon, err := open(m, func() error { return errors.New("the loader's reason") }, func() time.Time { return m.clock })
	if err == nil {
		t.Cleanup(func() { _ = mon.Close() })
	}
	return mon, err
}

// samples is how often device i was read.
func (m *machine) samples(i int) int { return len(m.gpus[i].GetMemoryInfoCalls()) }

func TestDevices(t *testing.T) {
	m := newMachine(2)
	m.throttle = nvml.ClocksThrottleReasonGpuIdle | nvml.ClocksThrottleReasonSwPowerCap | nvml.ClocksThrottleReasonHwThermalSlowdown
	mon, err := m.open(t)
	require.NoError(t, err)
	require.Equal(t, "NVIDIA devices: 2, driver 550.54.15, CUDA 12.4", mon.Describe())
	devices := mon.Devices()
	require.Len(t, devices, 2)
	require.Equal(t, Device{
		Index: 1, UUID: "GPU-1", Name: "NVIDIA H100", Driver: "550.54.15", CUDA: "12.4", PCIBusID: "00000000:1B:00.0", ComputeCapability: "9.0",
		MemoryTotal: 80 << 30, MemoryUsed: 3 << 30, TemperatureC: 45, PowerW: 350.5, PowerLimitW: 700, Utilization: 0.25, MemoryUtilization: 0.1,
		SMClockHz: 1.98e9, MemoryClockHz: 2.619e9, ECCCorrected: 7, ECCUncorrected: 2,
		RemappedRows: 4, RowRemapPending: true, RowRemapFailed: true, RetiredPagesPending: true,
		ThrottleReasons: []string{"sw_power_cap", "hw_thermal_slowdown"},
	}, devices[1])
	require.NoError(t, mon.Health())

	devices[0].ThrottleReasons[0] = "changed by the caller"
	require.Equal(t, "sw_power_cap", mon.Devices()[0].ThrottleReasons[0])
}

func TestSamplesAreShared(t *testing.T) {
	m := newMachine(1)
	mon, err := m.open(t)
	require.NoError(t, err)
	require.Zero(t, m.samples(0), "opening reads nothing that changes")
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			mon.Devices()
			_ = mon.Health()
		})
	}
	wait.Wait()
	require.Equal(t, 1, m.samples(0))
	m.clock = m.clock.Add(sampleEvery - time.Nanosecond)
	mon.Devices()
	require.Equal(t, 1, m.samples(0))
	m.clock = m.clock.Add(time.Nanosecond)
	mon.Devices()
	require.Equal(t, 2, m.samples(0))
}

func TestMissingReadings(t *testing.T) {
	m := newMachine(1)
	m.memory, m.power, m.ecc = nvml.ERROR_NO_PERMISSION, nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_NOT_SUPPORTED
	mon, err := m.open(t)
	require.NoError(t, err)
	d := mon.Devices()[0]
	require.Zero(t, d.MemoryTotal)
	require.True(t, math.IsNaN(d.PowerW))
	require.True(t, math.IsNaN(d.PowerLimitW))
	require.Zero(t, d.ECCCorrected+d.ECCUncorrected+d.RemappedRows)
	require.False(t, d.RowRemapPending || d.RowRemapFailed || d.RetiredPagesPending)
	require.Equal(t, 45.0, d.TemperatureC)
	require.NoError(t, mon.Health())
}

func TestLostDevice(t *testing.T) {
	for _, ret := range []nvml.Return{nvml.ERROR_GPU_IS_LOST, nvml.ERROR_RESET_REQUIRED, nvml.ERROR_UNKNOWN} {
		m := newMachine(2)
		mon, err := m.open(t)
		require.NoError(t, err)
		require.NoError(t, mon.Health())
		m.gpus[1].GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, ret }
		m.clock = m.clock.Add(sampleEvery)
		err = mon.Health()
		require.Equal(t, status.Unhealthy, status.CodeOf(err))
		require.ErrorContains(t, err, "device 1 (NVIDIA H100, GPU-1): "+ret.Error())
		require.NotContains(t, err.Error(), "device 0")
		require.NoError(t, mon.Health("GPU-0"), "that device is not used")
		require.Equal(t, err, mon.Health("GPU-0", "GPU-1"))
		require.Len(t, mon.Devices(), 2, "a lost device is still listed")

		m.gpus[1].GetPowerUsageFunc = m.gpus[0].GetPowerUsageFunc
		m.clock = m.clock.Add(sampleEvery)
		require.NoError(t, mon.Health(), "a device that was reset is healthy again")
	}
}

func TestClose(t *testing.T) {
	m := newMachine(1)
	mon, err := m.open(t)
	require.NoError(t, err)
	require.NoError(t, mon.Close())
	require.NoError(t, mon.Close())
	require.Len(t, m.ShutdownCalls(), 1)
	require.Empty(t, mon.Devices())
	require.NoError(t, mon.Health())
	require.Zero(t, m.samples(0))
	require.Len(t, m.set.FreeCalls(), 1)

	m = newMachine(1)
	m.shutdown = nvml.ERROR_UNKNOWN
	mon, err = m.open(t)
	require.NoError(t, err)
	require.ErrorContains(t, mon.Close(), "shutdown")
}

func TestOpenEmpty(t *testing.T) {
	for _, c := range []struct {
		name, want string
		gpus       int
		ret        nvml.Return
		ends       int // calls of Shutdown
	}{
		{"no library", "no NVIDIA driver (libnvidia-ml.so.1 not found): the loader's reason", 1, nvml.ERROR_LIBRARY_NOT_FOUND, 0},
		{"no kernel module", "no NVIDIA driver (libnvidia-ml.so.1 found, kernel module not loaded)", 1, nvml.ERROR_DRIVER_NOT_LOADED, 0},
		{"no devices", "NVIDIA devices: 0, driver 550.54.15, CUDA 12.4", 0, nvml.SUCCESS, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(c.gpus)
			m.init = c.ret
			mon, err := m.open(t)
			require.NoError(t, err)
			require.Equal(t, c.want, mon.Describe())
			require.Empty(t, mon.Devices())
			require.NoError(t, mon.Health())
			require.NoError(t, mon.Close())
			require.Len(t, m.ShutdownCalls(), c.ends)
		})
	}
	mon, err := open(&mock.Interface{InitFunc: func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }}, func() error { return nil }, time.Now)
	require.NoError(t, err)
	require.Equal(t, "no NVIDIA driver (libnvidia-ml.so.1 not found)", mon.Describe())
}

func TestOpenFails(t *testing.T) {
	for want, set := range map[string]func(*machine){
		"NVML: init: ":            func(m *machine) { m.init = nvml.ERROR_LIB_RM_VERSION_MISMATCH },
		"NVML: driver version: ":  func(m *machine) { m.driver = nvml.ERROR_UNKNOWN },
		"NVML: device count: ":    func(m *machine) { m.count = nvml.ERROR_UNKNOWN },
		"NVML: device 0: ":        func(m *machine) { m.handle = nvml.ERROR_UNKNOWN },
		"NVML: UUID of device 0":  func(m *machine) { m.uuid = nvml.ERROR_UNKNOWN },
		"NVML: name of device 0:": func(m *machine) { m.name = nvml.ERROR_UNKNOWN },
	} {
		m := newMachine(1)
		set(m)
		_, err := m.open(t)
		require.ErrorContains(t, err, want)
		require.Equal(t, status.Start, status.CodeOf(err))
		if m.init == nvml.SUCCESS {
			require.Len(t, m.ShutdownCalls(), 1, "%s must not leak NVML", want)
		}
		broken := watch(m, nil, time.Now)
		require.Contains(t, broken.Describe(), want)
		require.Empty(t, broken.Devices())
		require.NoError(t, broken.Health())
	}
}

// TestOpen runs on the machine as it is: with a driver its devices must have the readings that every GPU offers, without one
// the description must have the loader's reason.
func TestOpen(t *testing.T) {
	mon := Open()
	t.Log(mon.Describe())
	if len(mon.Devices()) == 0 {
		require.Contains(t, mon.Describe(), libraryName)
	}
	for _, d := range mon.Devices() {
		t.Logf("%+v", d)
		require.NotEmpty(t, d.UUID)
		require.NotEmpty(t, d.Name)
		require.NotEmpty(t, d.Driver)
		require.NotEmpty(t, d.PCIBusID)
		require.NotEmpty(t, d.ComputeCapability)
		require.Empty(t, d.Trouble)
		require.False(t, d.Utilization < 0 || d.Utilization > 1)
	}
	require.NoError(t, mon.Health())
	require.NoError(t, mon.Close())
}

func TestFake(t *testing.T) {
	f := NewFake(Device{Name: "a", ThrottleReasons: []string{"x"}})
	require.Equal(t, "fake devices: 1", f.Describe())
	f.Devices()[0].ThrottleReasons[0] = "changed by the caller"
	require.Equal(t, []Device{{Name: "a", ThrottleReasons: []string{"x"}}}, f.Devices())
	require.NoError(t, f.Health())
	f.SetDevices(Device{UUID: "GPU-1", Name: "a"}, Device{Index: 1, UUID: "GPU-2", Name: "b"})
	f.SetXid("GPU-2", 13)
	require.NoError(t, f.Health())
	f.SetXid("GPU-2", 79)
	require.EqualError(t, f.Health(), "NVML: device 1 (b, GPU-2): Xid error 79 (GPU has fallen off the bus): end this process, "+
		"then do what NVIDIA's Xid catalog says of it")
	require.NoError(t, f.Health("GPU-1"))
	require.Equal(t, uint64(2), f.Devices()[1].XidErrors)
	require.Equal(t, uint64(79), f.Devices()[1].LastXid)
	f.SetTrouble("GPU-2", "")
	f.SetTrouble("GPU-1", "lost")
	require.EqualError(t, f.Health(), "NVML: device 0 (a, GPU-1): lost")
	require.Panics(t, func() { f.SetXid("GPU-3", 79) })
	require.NoError(t, f.Close())
	require.True(t, f.Closed())
	require.NoError(t, f.Health())
	require.Empty(t, f.Devices())
}
