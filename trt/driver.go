package trt

import (
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// driver is what the runtime needs of a flavour and its devices. Tests have a scripted one.
type driver interface {
	DeviceCount() (int, error)
	// Device describes a device, which costs it a context for a moment.
	Device(index int) (nvinfer.Device, error)
	// Build makes a plan. It needs no device.
	Build(d *design, w *weights.Set) (*plan, error)
	// Load puts a plan on a device.
	Load(plan []byte, o nvinfer.ProgramOptions) (program, error)
}

// program is *nvinfer.Program.
type program interface {
	Tensors() ([]nvinfer.TensorInfo, error)
	Memory() (weights, context uint64, err error)
	Cache() ([]byte, error)
	Lane(bindings []nvinfer.Binding, inputs int) (lane, error)
	Free()
}

// lane is *nvinfer.Lane.
type lane interface {
	Needs(dims [][]int) (uint64, error)
	Reserve(dims [][]int) error
	Stage(binding, bytes int) (memory, error)
	Enqueue(l *nvinfer.Launch) (nvinfer.LaunchKind, error)
	Wait() error
	Free()
}

// library is the driver over TensorRT.
type library struct{ *nvinfer.Library }

func (l library) Build(d *design, w *weights.Set) (*plan, error) { return d.build(l.Library, w) }

func (l library) Load(plan []byte, o nvinfer.ProgramOptions) (program, error) {
	p, err := l.NewProgram(plan, o)
	if err != nil {
		return nil, err
	}
	return loaded{p}, nil
}

type loaded struct{ *nvinfer.Program }

func (p loaded) Lane(bindings []nvinfer.Binding, inputs int) (lane, error) {
	l, err := p.NewLane(bindings, inputs)
	if err != nil {
		return nil, err
	}
	return stream{l}, nil
}

type stream struct{ *nvinfer.Lane }

func (s stream) Stage(binding, bytes int) (memory, error) {
	host, err := s.Lane.Stage(binding, bytes)
	return memory{host, bytes}, err
}
