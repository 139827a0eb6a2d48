package suite

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
)

// mistake is one that a reader of any family could make. make puts it into the first layer that can have it; false: it cannot be made there.
type mistake struct {
	name string
	make func(l *arch.Layer) bool
}

var mistakes = []mistake{
	{"gate and up exchanged", func(l *arch.Layer) bool {
		if !l.MLP.Gated() {
			return false
		}
		l.MLP.Gate, l.MLP.Up, l.MLP.UpFirst = l.MLP.Up, l.MLP.Gate, !l.MLP.UpFirst
		return true
	}},
	{"window wider by one", func(l *arch.Layer) bool {
		l.Attention.WindowLeft++
		return l.Attention.WindowLeft > 0
	}},
	{"rope base", func(l *arch.Layer) bool {
		return changeRope(l, func(r *arch.Rope) {
			for i := range r.InvFreq {
				r.InvFreq[i] *= 1 + 0.02*float32(i)
			}
		}) && len(l.Attention.Rope.InvFreq) > 1
	}},
	{"rope kind", func(l *arch.Layer) bool {
		return changeRope(l, func(r *arch.Rope) { r.Kind = arch.RopeHalf + arch.RopeInterleaved - r.Kind }) && l.Attention.Rope.Dim > 2
	}},
	{"rope forgotten", func(l *arch.Layer) bool {
		had := l.Attention.Rope != nil
		l.Attention.Rope = nil
		return had
	}},
	{"slopes of alibi", func(l *arch.Layer) bool {
		l.Attention.AlibiSlopes = slices.Clone(l.Attention.AlibiSlopes)
		for h := range l.Attention.AlibiSlopes {
			l.Attention.AlibiSlopes[h] *= 1.05
		}
		return l.Attention.AlibiSlopes != nil
	}},
	{"norms of query and key forgotten", func(l *arch.Layer) bool {
		had := l.Attention.QKNorm != nil
		l.Attention.QKNorm = nil
		return had
	}},
	{"norm inside the sum forgotten", func(l *arch.Layer) bool {
		had := l.AttentionNorms.Inner != nil
		l.AttentionNorms.Inner = nil
		return had
	}},
	{"eps", func(l *arch.Layer) bool {
		for _, n := range []**arch.Norm{&l.MLPNorms.Before, &l.MLPNorms.Residual} {
			if *n != nil && (*n).Eps >= 1e-3 { // smaller ones are not seen
				*n = withEps(*n, 2*(*n).Eps)
				return true
			}
		}
		return false
	}},
}

func changeRope(l *arch.Layer, change func(*arch.Rope)) bool {
	if l.Attention.Rope == nil {
		return false
	}
	r := *l.Attention.Rope
	r.InvFreq = slices.Clone(r.InvFreq)
	change(&r)
	l.Attention.Rope = &r
	return true
}

// Mistakes proves that the cases see mistakes of a reader: each of mistakes, made in a model that passes, makes it fail.
func Mistakes(t *testing.T, open Opener, cases []Case) {
	for i := range cases {
		c := &cases[i]
		t.Run(c.Name, func(t *testing.T) {
			for _, bad := range mistakes {
				wrong := *c.Model
				wrong.Layers = slices.Clone(c.Model.Layers)
				for k := range wrong.Layers {
					layer := wrong.Layers[k]
					if !bad.make(&layer) {
						continue
					}
					wrong.Layers[k] = layer
					e := open(t, &wrong, c.Weights, engine.Limits{})
					require.Error(t, Verify(e, c, Exact), "%s in layer %d", bad.name, k)
					require.NoError(t, e.Close())
					break
				}
			}
		})
	}
}
