package backend

import (
	"encoding/json"
	"math"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/device"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// onGPU is a mock that says it runs on these devices.
type onGPU struct {
	*mock.Engine
	uuids []string
}

func (e onGPU) Info() engine.Info {
	i := e.Engine.Info()
	i.Device, i.DeviceUUIDs = "cuda:0", e.uuids
	return i
}

// TestDeviceHealth: only the devices that the engine uses make the backend unhealthy.
func TestDeviceHealth(t *testing.T) {
	b := openMock(t, func(*Config) {})
	require.NoError(t, b.monitor.Close()) // of this machine's GPUs, if it has any
	fake := device.NewFake(device.Device{Index: 0, UUID: "GPU-1", Name: "a GPU", PowerW: math.NaN(), MemoryTotal: 5},
		device.Device{Index: 1, UUID: "GPU-2", Name: "another"})
	b.monitor = fake
	fake.SetTrouble("GPU-1", "lost")
	require.NoError(t, b.Health(background, false, CallOptions{}), "on CPU no device is used")
	cpu := b.engine.(*mock.Engine)
	b.engine = onGPU{cpu, []string{"GPU-2"}}
	require.NoError(t, b.Health(background, false, CallOptions{}), "another is used")
	fake.SetXid("GPU-2", 31)
	require.NoError(t, b.Health(background, false, CallOptions{}), "an application did that")
	b.engine = onGPU{cpu, nil}
	requireCode(t, status.Unhealthy, b.Health(background, false, CallOptions{}), "device 0 (a GPU, GPU-1): lost")
	b.engine = onGPU{cpu, []string{"GPU-1", "GPU-2"}}
	fake.SetTrouble("GPU-1", "")
	require.NoError(t, b.Health(background, false, CallOptions{}))
	fake.SetXid("GPU-2", 79)
	for _, deep := range []bool{false, true} {
		requireCode(t, status.Unhealthy, b.Health(background, deep, CallOptions{}), "device 1 (another, GPU-2): Xid error 79 (GPU has fallen off the bus)")
	}
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, l := range m.Label {
		labels[l.GetName()] = l.GetValue()
	}
	return labels
}

// TestDeviceMetrics: readings that are missing are left out, a sick device makes the backend sick, and a MIG device gives only its own.
func TestDeviceMetrics(t *testing.T) {
	b := openMock(t, func(*Config) {})
	fake := device.NewFake(device.Device{UUID: "GPU-1", Name: "a", MemoryTotal: 5, TemperatureC: 40, PowerW: math.NaN(),
		PowerLimitW: 700, MemoryUtilization: 0.5, SMClockHz: 1e9, MemoryClockHz: 2e9, ECCCorrected: 3, ECCUncorrected: 4, RemappedRows: 5,
		RowRemapPending: true, RowRemapFailed: true, RetiredPagesPending: true, ThrottleReasons: []string{"sw_power_cap", "sync_boost"}},
		device.Device{UUID: "GPU-2", Index: 1, Name: "b", PowerW: 300, PCIBusID: "00000000:3B:00.0", ComputeCapability: "9.0", Driver: "550", CUDA: "12.4"},
		device.Device{UUID: "MIG-1", Index: 1, Name: "b MIG", Parent: "GPU-2", PowerW: 300, MemoryTotal: 7})
	fake.SetXid("GPU-1", 31)
	fake.SetXid("GPU-1", 79)
	metrics := newMetrics()
	sick := &Backend{engine: onGPU{b.engine.(*mock.Engine), nil}, pipe: b.pipe, info: b.info, monitor: fake, metrics: metrics}
	metrics.watch(sick)
	m := families(t, sick)
	require.Zero(t, m["bei_healthy"].Metric[0].Gauge.GetValue())
	require.Len(t, m["bei_gpu_power_watts"].Metric, 1)
	require.Equal(t, 300.0, m["bei_gpu_power_watts"].Metric[0].Gauge.GetValue())
	require.Len(t, m["bei_gpu_memory_total_bytes"].Metric, 3)
	for name, want := range map[string]float64{
		"bei_gpu_throttle_reasons": 2, "bei_gpu_healthy": 0, "bei_gpu_last_xid": 79, "bei_gpu_power_limit_watts": 700,
		"bei_gpu_memory_utilization_ratio": 0.5, "bei_gpu_sm_clock_hertz": 1e9, "bei_gpu_memory_clock_hertz": 2e9, "bei_gpu_ecc_uncorrected": 4,
		"bei_gpu_remapped_rows": 5, "bei_gpu_row_remap_pending": 1, "bei_gpu_row_remap_failed": 1, "bei_gpu_retired_pages_pending": 1,
	} {
		require.Contains(t, m, name)
		require.Equal(t, want, m[name].Metric[0].Gauge.GetValue(), name)
	}
	for name, want := range map[string]float64{"bei_gpu_xid_errors_total": 2, "bei_gpu_ecc_uncorrected_total": 4, "bei_gpu_ecc_corrected_total": 3} {
		require.Contains(t, m, name)
		require.Equal(t, want, m[name].Metric[0].Counter.GetValue(), name)
	}
	require.Equal(t, 1.0, m["bei_gpu_healthy"].Metric[1].Gauge.GetValue())
	slow := map[string]float64{}
	for _, metric := range m["bei_gpu_throttle_reason"].Metric {
		if l := labelsOf(metric); l["uuid"] == "GPU-1" {
			slow[l["reason"]] = metric.Gauge.GetValue()
		}
	}
	require.Equal(t, map[string]float64{"sw_power_cap": 1, "sync_boost": 1, "hw_slowdown": 0, "sw_thermal_slowdown": 0, "hw_thermal_slowdown": 0,
		"hw_power_brake": 0, "board_limit": 0, "reliability": 0}, slow)
	var infos []map[string]string
	for _, metric := range m["bei_gpu_info"].Metric {
		infos = append(infos, labelsOf(metric))
	}
	require.Len(t, infos, 3)
	require.Contains(t, infos, map[string]string{"uuid": "GPU-2", "name": "b", "index": "1", "parent_uuid": "", "pci_bus_id": "00000000:3B:00.0",
		"compute_capability": "9.0", "driver": "550", "cuda": "12.4"})

	fake.SetDevices(device.Device{UUID: "GPU-1"}, device.Device{UUID: "GPU-1"})
	_, err := sick.Metrics()
	requireCode(t, status.Internal, err, "metrics: ")
}

func TestDeviceInfo(t *testing.T) {
	b := openMock(t, func(*Config) {})
	b.engine = onGPU{b.engine.(*mock.Engine), []string{"MIG-1"}}
	require.NoError(t, b.monitor.Close()) // of this machine's GPUs, if it has any
	b.monitor = device.NewFake(device.Device{Index: 1, UUID: "GPU-2", Name: "b", Driver: "550", CUDA: "12.4", PCIBusID: "00000000:3B:00.0",
		ComputeCapability: "9.0", MemoryTotal: 8, PowerLimitW: 700}, device.Device{Index: 1, UUID: "MIG-1", Name: "c", Parent: "GPU-2", PowerLimitW: math.NaN()})
	text, err := b.InfoJSON()
	require.NoError(t, err)
	var document struct {
		GPUs  json.RawMessage `json:"gpus"`
		UUIDs []string        `json:"device_uuids"`
	}
	require.NoError(t, json.Unmarshal(text, &document))
	require.Equal(t, []string{"MIG-1"}, document.UUIDs)
	require.JSONEq(t, `[{"index": 1, "uuid": "GPU-2", "name": "b", "driver": "550", "cuda": "12.4", "pci_bus_id": "00000000:3B:00.0",
		"compute_capability": "9.0", "memory_total_bytes": 8, "power_limit_watts": 700},
		{"index": 1, "uuid": "MIG-1", "parent_uuid": "GPU-2", "name": "c", "driver": "", "cuda": "", "memory_total_bytes": 0}]`, string(document.GPUs))
}
