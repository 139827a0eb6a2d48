package trt

import (
	"strconv"
	"sync/atomic"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// counters are engine.Stats in the making.
type counters struct{ runs, launches, tokens, padding, replays, captures atomic.Uint64 }

var _ engine.Reporter = (*Engine)(nil)

// Stats implements engine.Reporter.
func (e *Engine) Stats() []engine.Stats {
	c := &e.stats
	s := engine.Stats{
		Engine: e.info.Name, Runs: c.runs.Load(), Launches: c.launches.Load(), Tokens: c.tokens.Load(), PaddingTokens: c.padding.Load(),
		Graphs: &engine.Graphs{Replays: c.replays.Load(), Captures: c.captures.Load()},
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.replicas {
		s.Replicas = append(s.Replicas, engine.Replica{
			Device: r.deviceName(), Serving: r.lost == nil && !e.closed, WeightsBytes: r.weightsBytes, RunBytes: r.runBytes(e.layout),
		})
	}
	return []engine.Stats{s}
}

// launched counts a launch of shape x, whose sequences have tokens tokens.
func (c *counters) launched(x shape, tokens int, kind nvinfer.LaunchKind) {
	c.launches.Add(1)
	c.tokens.Add(uint64(tokens))
	c.padding.Add(uint64(x.cells() - tokens))
	switch kind {
	case nvinfer.Captured:
		c.captures.Add(1)
	case nvinfer.Replayed:
		c.replays.Add(1)
	}
}

// deviceName is CUDA's name of the replica's device.
func (r *replica) deviceName() string { return "cuda:" + strconv.Itoa(r.device.Index) }

// runBytes is the device memory of a worker: of its context, and of inputs and outputs of the largest shapes.
func (r *replica) runBytes(l layout) uint64 {
	need := room{context: r.contextBytes}
	for _, x := range r.shapes.all {
		need = need.with(x, 0)
	}
	return need.bytes(l)
}
