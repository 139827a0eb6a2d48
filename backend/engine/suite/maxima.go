package suite

import (
	"testing"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
)

// Maxima returns the largest magnitude of each linear map's input over a case's sequences, by the keys of package calibration, as the
// reference computes it. No two maps of the case may share a weight.
func Maxima(t testing.TB, c *Case) map[string]float64 {
	r := newReference(t, c)
	var sequences []Sequence
	for _, q := range c.Sequences {
		sequences = append(sequences, Sequence{IDs: q.IDs, Types: q.Types, Positions: q.Positions, Skip: q.Skip})
	}
	r.fill(sequences)
	found := make(map[string]float64)
	see := func(key string, l arch.Linear) { found[key] = r.seen[l.Weight.Name] }
	if p := c.Model.Embeddings.Projection; p != nil {
		see(calibration.EmbeddingProjection, *p)
	}
	for i := range c.Model.Layers {
		a, m := &c.Model.Layers[i].Attention, &c.Model.Layers[i].MLP
		see(calibration.AttentionQKV(i), a.QKV[0])
		see(calibration.AttentionOut(i), a.Out)
		see(calibration.MLPDown(i), m.Down)
		if m.GateUp.Out > 0 {
			see(calibration.MLPUp(i), m.GateUp)
		} else {
			see(calibration.MLPUp(i), m.Up)
		}
	}
	for i := range c.Model.Head.Chain {
		if l := c.Model.Head.Chain[i].Linear; !l.Absent() {
			see(calibration.Head(i), l)
		}
	}
	if h := c.Model.Head.Tokens; h != nil {
		see(calibration.TokenHead, h.Vector)
	}
	return found
}
