package onnx

import (
	"sync/atomic"

	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// counters are engine.Stats in the making. A run is one launch of the graph.
type counters struct {
	runs, tokens, padding, replays atomic.Uint64
	graphs                         atomic.Int64 // that were captured, by all slots
}

var _ engine.Reporter = (*Engine)(nil)

// Stats implements engine.Reporter. ONNX Runtime does not tell what device memory its weights and runs take.
func (e *Engine) Stats() []engine.Stats {
	c := &e.stats
	runs := c.runs.Load()
	s := engine.Stats{
		Engine: e.info.Name, Runs: runs, Launches: runs, Tokens: c.tokens.Load(), PaddingTokens: c.padding.Load(),
		Replicas: []engine.Replica{{Device: e.info.Device, Serving: e.Health() == nil}},
	}
	if c.graphs.Load() > 0 {
		s.Graphs = &engine.Graphs{Replays: c.replays.Load()}
	}
	return []engine.Stats{s}
}

// reset forgets the runs of opening.
func (c *counters) reset() {
	for _, n := range []*atomic.Uint64{&c.runs, &c.tokens, &c.padding, &c.replays} {
		n.Store(0)
	}
}

func (c *counters) launched(tokens, padding int) {
	c.runs.Add(1)
	c.tokens.Add(uint64(tokens))
	c.padding.Add(uint64(padding))
}

// padding is the number of rows beside those of tokens where attention pads, as Limits.Padded tells.
func (l *layout) padding() int {
	return l.sizes[filled.name]*l.sizes[longest.name] - l.sizes[tokens.name]
}
