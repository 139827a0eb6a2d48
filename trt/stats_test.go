package trt

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

func TestStats(t *testing.T) {
	on := func(device int, lost error) *replica {
		s := &shapes{all: []shape{{1, 512}, {16, 16}}}
		return &replica{device: nvinfer.Device{Index: device}, shapes: s, lost: lost, weightsBytes: 1 << 20, contextBytes: 1000}
	}
	e := &Engine{info: engine.Info{Name: "tensorrt"}, layout: layout{planes: planes{tokens: 2, sequences: 1}, pooled: 8, token: 10},
		replicas: []*replica{on(0, nil), on(3, errors.New("lost"))}}
	e.slots = []engine.Slot{newSlot(e)}
	s := e.slots[0].(*slot)
	s.lengths = []int32{3, 5, 500}
	w := &worker{shapes: e.replicas[0].shapes}
	s.count(w, group{shape: 0, from: 2, to: 3}, nvinfer.Captured)
	s.count(w, group{shape: 0, from: 2, to: 3}, nvinfer.Replayed)
	s.count(w, group{shape: 1, from: 0, to: 2}, nvinfer.Plain)

	bytes := uint64(1000 + 4*512*(2+10) + 4*16*(1+8))
	require.Equal(t, []engine.Stats{{
		Engine: "tensorrt", Launches: 3, Tokens: 2*500 + 8, PaddingTokens: 2*12 + 256 - 8, Graphs: &engine.Graphs{Replays: 1, Captures: 1},
		Replicas: []engine.Replica{
			{Device: "cuda:0", Serving: true, WeightsBytes: 1 << 20, RunBytes: bytes},
			{Device: "cuda:3", WeightsBytes: 1 << 20, RunBytes: bytes},
		},
	}}, e.Stats())
}
