package suite

import "github.com/basetenlabs/bei-runtime/backend/arch"

// mistake is one that a family's reader could make. bad applies it to a copy of the model and its layers; false: the model has nothing
// that it could be made with.
type mistake struct {
	name string
	bad  func(m *arch.Model) bool
}

// inLayers makes a mistake in each layer's attention that can have it.
func inLayers(bad func(a *arch.Attention) bool) func(m *arch.Model) bool {
	return func(m *arch.Model) bool {
		any := false
		for i := range m.Layers {
			any = bad(&m.Layers[i].Attention) || any
		}
		return any
	}
}

var mistakes = []mistake{
	{"causal or not", inLayers(func(a *arch.Attention) bool {
		a.Causal = !a.Causal
		return true
	})},
	{"rope base", inLayers(func(a *arch.Attention) bool {
		if a.Rope == nil {
			return false
		}
		r := *a.Rope
		r.InvFreq = append([]float32(nil), r.InvFreq...)
		for i := range r.InvFreq {
			r.InvFreq[i] *= 1 + float32(i)/20
		}
		a.Rope = &r
		return true
	})},
	{"rope kind", inLayers(func(a *arch.Attention) bool {
		if a.Rope == nil || a.Rope.Dim == 2 { // one pair is the same in both
			return false
		}
		r := *a.Rope
		r.Kind = arch.RopeHalf + arch.RopeInterleaved - r.Kind
		a.Rope = &r
		return true
	})},
	{"slopes of alibi", inLayers(func(a *arch.Attention) bool {
		slopes := append([]float32(nil), a.AlibiSlopes...)
		for h := range slopes {
			slopes[h] *= 1.05
		}
		a.AlibiSlopes = slopes
		return len(slopes) > 0
	})},
	{"gate and up exchanged", func(m *arch.Model) bool {
		gated := false
		for i := range m.Layers {
			mlp := &m.Layers[i].MLP
			if mlp.Gated() {
				mlp.Gate, mlp.Up, mlp.UpFirst = mlp.Up, mlp.Gate, !mlp.UpFirst
				gated = true
			}
		}
		return gated
	}},
	{"eps of the layers", func(m *arch.Model) bool {
		seen := false
		for i := range m.Layers {
			for _, n := range []**arch.Norm{&m.Layers[i].MLPNorms.Before, &m.Layers[i].MLPNorms.Residual} {
				if *n != nil && (*n).Eps >= 1e-3 { // smaller ones do not show
					*n = withEps(*n, 2*(*n).Eps)
					seen = true
				}
			}
		}
		return seen
	}},
	{"norm of the sum inside a block", func(m *arch.Model) bool {
		normed := m.Layers[0].AttentionNorms.Inner != nil
		m.Layers[0].AttentionNorms.Inner = nil
		return normed
	}},
	{"rope of the other layers", func(m *arch.Model) bool {
		for i := range m.Layers {
			if r := m.Layers[i].Attention.Rope; r != m.Layers[0].Attention.Rope {
				m.Layers[0].Attention.Rope = r
				return true
			}
		}
		return false
	}},
	{"window wider", inLayers(func(a *arch.Attention) bool {
		if a.WindowLeft < 0 {
			return false
		}
		a.WindowLeft++
		return true
	})},
	{"window narrower to the right", inLayers(func(a *arch.Attention) bool {
		if a.WindowRight < 1 || a.Causal {
			return false
		}
		a.WindowRight--
		return true
	})},
	{"window on the other layers", func(m *arch.Model) bool {
		for i := range m.Layers {
			if a, first := &m.Layers[i].Attention, &m.Layers[0].Attention; a.WindowLeft != first.WindowLeft {
				a.WindowLeft, first.WindowLeft, a.WindowRight, first.WindowRight = first.WindowLeft, a.WindowLeft, first.WindowRight, a.WindowRight
				return true
			}
		}
		return false
	}},
	{"softcap", inLayers(func(a *arch.Attention) bool {
		capped := a.Softcap != 0
		a.Softcap = 0
		return capped
	})},
	{"scale by the head's size", inLayers(func(a *arch.Attention) bool {
		a.Scale *= 1.05
		return true
	})},
	{"query and key norm", inLayers(func(a *arch.Attention) bool {
		normed := a.QKNorm != nil
		a.QKNorm = nil
		return normed
	})},
	{"one plus the weight", func(m *arch.Model) bool {
		if m.FinalNorm == nil || !m.FinalNorm.OnePlusWeight {
			return false
		}
		n := *m.FinalNorm
		n.OnePlusWeight = false
		m.FinalNorm = &n
		return true
	}},
	{"norm after a block", func(m *arch.Model) bool {
		normed := m.Layers[0].MLPNorms.After != nil
		m.Layers[0].MLPNorms.After = nil
		return normed
	}},
	{"scale of the embeddings", func(m *arch.Model) bool {
		scaled := m.Embeddings.Scale != 1
		m.Embeddings.Scale = 1
		return scaled
	}},
	{"the other tokens' score", func(m *arch.Model) bool {
		if len(m.Head.Chain) == 0 || m.Head.Chain[0].Linear.Score == nil {
			return false
		}
		d := m.Head.Chain[0]
		d.Linear.Score = &arch.TokenScore{True: d.Linear.Score.True, False: 3}
		m.Head.Chain = []arch.Dense{d}
		return true
	}},
}

// mutationsOf are those of the mistakes that could be made with a golden case, which must see each.
func mutationsOf(c *Case) []mutation {
	var mutations []mutation
	for _, m := range mistakes {
		if m.bad(copied(c.Model)) {
			mutations = append(mutations, mutation{m.name, c.Name, func(wrong *arch.Model) { m.bad(wrong) }})
		}
	}
	return mutations
}
