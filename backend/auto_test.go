package backend

import (
	"context"
	"encoding/json"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/device"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/auto"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// named is a mock with another name, on a device.
type named struct {
	*mock.Engine
	name, device string
	closed       int
}

func (n *named) Info() engine.Info {
	i := n.Engine.Info()
	i.Name, i.Device = n.name, n.device
	return i
}

func (n *named) Close() error { n.closed++; return nil }

// scripted opens mocks in place of engines.
type scripted struct {
	t      *testing.T
	fail   map[string]error // by name: "tensorrt", "cuda", "cpu"
	cost   map[string]mock.Config
	shares []float64 // that TensorRT was opened with
	opened map[string]*named
}

func (s *scripted) open(name, engineName, device string) (engine.Engine, error) {
	require.Nil(s.t, s.opened[name], "opened once")
	if err := s.fail[name]; err != nil {
		return nil, err
	}
	c := s.cost[name]
	c.Dimensions, c.VocabSize, c.MaxLength = 8, 100, 32
	s.opened[name] = &named{Engine: mock.Open(c, 1, engine.Limits{MaxTokens: 1024, MaxSequences: 32}), name: engineName, device: device}
	return s.opened[name], nil
}

// choose runs the policy of engine auto over the script.
func (s *scripted) choose(ctx context.Context, c Config, weightsBytes int64, devices ...device.Device) (engine.Engine, string, *observer.ObservedLogs, error) {
	s.opened = make(map[string]*named)
	core, logs := observer.New(zap.InfoLevel)
	a := automatic{weightsBytes: weightsBytes, Backend: &Backend{
		config: c, log: zap.New(core), monitor: device.NewFake(devices...), model: &arch.Model{VocabSize: 100, MaxLength: 32},
	}, open: openers{
		tensorRT: func(_ context.Context, share float64) (engine.Engine, error) {
			s.shares = append(s.shares, share)
			return s.open("tensorrt", "tensorrt", "cuda:0")
		},
		cuda: func(context.Context) (engine.Engine, error) { return s.open("cuda", "onnxruntime", "cuda:0") },
		cpu:  func(context.Context) (engine.Engine, error) { return s.open("cpu", "onnxruntime", "cpu") },
	}}
	e, choice, err := a.choose(ctx)
	return e, choice, logs, err
}

var (
	gpu0      = device.Device{UUID: "GPU-1", MemoryTotal: 1000 << 20, MemoryUsed: 200 << 20}
	noLibrary = status.Errorf(status.NoBackend, "no TensorRT library")
	noCUDA    = status.Errorf(status.Start, "no CUDA provider")
	noCPU     = status.Errorf(status.Unsupported, "no such dtype")
)

func TestAutoWithoutAGPU(t *testing.T) {
	s := &scripted{t: t}
	e, choice, logs, err := s.choose(background, Config{}, 0)
	require.NoError(t, err)
	require.Same(t, s.opened["cpu"], e)
	require.Equal(t, "no NVIDIA device (fake devices: 0): onnxruntime on the CPU", choice)
	require.Zero(t, logs.Len())

	e, choice, _, err = s.choose(background, Config{Device: "cpu"}, 0, gpu0)
	require.NoError(t, err)
	require.Same(t, s.opened["cpu"], e)
	require.Equal(t, `device "cpu" was asked for: onnxruntime on the CPU`, choice)

	s.fail = map[string]error{"cpu": noCPU}
	_, _, _, err = s.choose(background, Config{}, 0)
	require.ErrorIs(t, err, noCPU)
	require.Empty(t, s.shares)
}

func TestAutoFallsBack(t *testing.T) {
	s := &scripted{t: t, fail: map[string]error{"tensorrt": noLibrary, "cuda": noCUDA}}
	for _, c := range []Config{{}, {Device: "auto", DType: "float32"}} {
		e, choice, logs, err := s.choose(background, c, 0, gpu0)
		require.NoError(t, err)
		require.Same(t, s.opened["cpu"], e)
		require.Equal(t, "no engine opens on a GPU: onnxruntime on the CPU; tensorrt: not used: no TensorRT library; onnxruntime: not used: no CUDA provider", choice)
		require.Equal(t, 2, logs.FilterLevelExact(zap.WarnLevel).Len())
	}

	// A GPU that is asked for is no matter of taste.
	for _, c := range []Config{{Device: "cuda"}, {Devices: []int{0}}} {
		for _, devices := range [][]device.Device{nil, {gpu0}} {
			_, _, _, err := s.choose(background, c, 0, devices...)
			requireCode(t, status.Start, err, `engine "auto": no engine opens on a GPU, and the options ask for one: tensorrt: no TensorRT library`)
			require.ErrorContains(t, err, "onnxruntime: no CUDA provider")
			require.Nil(t, s.opened["cpu"])
		}
	}
	s.fail["cuda"] = noLibrary
	_, _, _, err := s.choose(background, Config{Device: "cuda"}, 0, gpu0)
	requireCode(t, status.NoBackend, err, "")

	s.fail["cpu"] = noCPU
	_, _, _, err = s.choose(background, Config{}, 0, gpu0)
	requireCode(t, status.Unsupported, err, `engine "auto": no engine opens: tensorrt: no TensorRT library`)
	require.ErrorContains(t, err, "onnxruntime on the CPU: no such dtype")
}

func TestAutoWithOneEngine(t *testing.T) {
	const alone = "tensorrt; onnxruntime: not used: "
	for _, c := range []struct {
		name, want, opened string
		config             Config
		fail               map[string]error
		weights            int64
		share              float64
	}{
		{"TensorRT is missing", "onnxruntime; tensorrt: not used: no TensorRT library", "cuda", Config{}, map[string]error{"tensorrt": noLibrary}, 0, 0.5},
		{"no CUDA provider", alone + "no CUDA provider", "tensorrt", Config{Device: "cuda"}, map[string]error{"cuda": noCUDA}, 0, 0.5},
		{"float8", alone + "dtype float8 is tensorrt's", "tensorrt", Config{DType: "float8"}, nil, 0, 0},
		{"devices", alone + "it runs on one device, not 2", "tensorrt", Config{Devices: []int{0, 1}}, nil, 0, 0},
		{"memory", alone + "two copies of the weights (201 MB each) with room for runs do not fit into the 800 MB that are free", "tensorrt", Config{}, nil, 201 << 20, 0},
		{"memory, no TensorRT", "onnxruntime; tensorrt: not used: no TensorRT library", "cuda", Config{}, map[string]error{"tensorrt": noLibrary}, 201 << 20, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := &scripted{t: t, fail: c.fail}
			e, choice, _, err := s.choose(background, c.config, c.weights, gpu0)
			require.NoError(t, err)
			require.Equal(t, c.want, choice)
			require.Same(t, s.opened[c.opened], e)
			require.Len(t, s.opened, 1)
			require.Equal(t, []float64{c.share}, s.shares)
		})
	}

	s := &scripted{t: t, fail: map[string]error{"tensorrt": noLibrary, "cpu": noCPU}}
	_, _, _, err := s.choose(background, Config{DType: "float8"}, 0, gpu0)
	requireCode(t, status.Unsupported, err, "tensorrt: no TensorRT library")
	require.Empty(t, s.opened)
}

func TestAutoMeasures(t *testing.T) {
	s := &scripted{t: t, cost: map[string]mock.Config{"tensorrt": {RunMicros: 100, TokenMicros: 100}, "cuda": {RunMicros: 30_000}}}
	e, choice, logs, err := s.choose(background, Config{}, 200<<20, gpu0)
	require.NoError(t, err)
	require.IsType(t, &auto.Pair{}, e)
	require.Regexp(t, `^tensorrt up to \d+ tokens a run, onnxruntime above \(1x32: [\d.]+ / [\d.]+ ms, 8x32: .*, 32x32: .*\)$`, choice)
	require.Equal(t, []float64{0.5}, s.shares)
	require.Equal(t, 1, logs.FilterMessage("auto: measuring engines").Len())
	require.NoError(t, e.Close())
	require.Equal(t, 1, s.opened["tensorrt"].closed)
	require.Equal(t, 1, s.opened["cuda"].closed)

	// Neither can run: as if neither had opened.
	broken := mock.Config{Faults: []mock.Fault{{Kind: mock.Error}}}
	s.cost = map[string]mock.Config{"tensorrt": broken, "cuda": broken}
	e, choice, _, err = s.choose(background, Config{}, 0, gpu0)
	require.NoError(t, err)
	require.Same(t, s.opened["cpu"], e)
	require.Contains(t, choice, "no engine opens on a GPU: onnxruntime on the CPU; not used: tensorrt: measuring a run of 1x32: mock: run 1 fails as scripted")
	require.Equal(t, 1, s.opened["tensorrt"].closed)
	require.Equal(t, 1, s.opened["cuda"].closed)
	_, _, _, err = s.choose(background, Config{Device: "cuda"}, 0, gpu0)
	requireCode(t, status.Inference, err, "measuring a run of 1x32")
}

// TestAutoIsCancelled: what was opened is closed, and nothing else is tried.
func TestAutoIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(background)
	cancel()
	s := &scripted{t: t, fail: map[string]error{"cuda": context.Canceled}}
	_, _, _, err := s.choose(ctx, Config{}, 0, gpu0)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, s.opened["tensorrt"].closed)
	require.Nil(t, s.opened["cpu"])

	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(background, 20*time.Millisecond)
		defer cancel()
		s := &scripted{t: t, cost: map[string]mock.Config{"tensorrt": {RunMicros: 5000}}}
		_, _, _, err := s.choose(ctx, Config{}, 0, gpu0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, s.opened["tensorrt"].closed)
		require.Equal(t, 1, s.opened["cuda"].closed)
		require.Nil(t, s.opened["cpu"])
	})
}

// TestAutoTellsItsChoice opens a real model.
func TestAutoTellsItsChoice(t *testing.T) {
	c := onnxConfig("bert-mean")
	c.Engine, c.Device = "auto", "cpu"
	b := open(t, c)
	text, err := b.InfoJSON()
	require.NoError(t, err)
	var info map[string]any
	require.NoError(t, json.Unmarshal(text, &info))
	require.Equal(t, `auto: device "cpu" was asked for: onnxruntime on the CPU`, info["engine_choice"])
}
