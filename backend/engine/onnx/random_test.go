package onnx_test

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// randomModels is the property. change is what the engine gets wrong; nil: nothing.
func randomModels(t testing.TB, change func(m *arch.Model)) func(t *rapid.T) {
	o := options(t)
	return suite.RandomModels(func(m *arch.Model, w *weights.Set) (engine.Engine, error) {
		if change != nil {
			wrong := *m
			wrong.Layers = slices.Clone(m.Layers)
			change(&wrong)
			m = &wrong
		}
		return onnx.Open(context.Background(), m, w, o)
	})
}

// setRapid sets rapid's flags, unless the environment does.
func setRapid(t *testing.T, flags map[string]string) {
	for name, value := range flags {
		if os.Getenv("RAPID_"+strings.ToUpper(name)) == "" {
			require.NoError(t, flag.Set("rapid."+name, value))
		}
	}
}

// TestRandomModels tries the same models in each run, unless RAPID_SEED says others; RAPID_CHECKS says how many.
func TestRandomModels(t *testing.T) {
	setRapid(t, map[string]string{"seed": "1", "checks": "1000", "nofailfile": "true"})
	rapid.Check(t, randomModels(t, nil))
}

// verdict is a test that may fail.
type verdict struct {
	rapid.TB
	text string
}

func (v *verdict) Logf(format string, args ...any)   { v.text += fmt.Sprintf(format, args...) }
func (v *verdict) Errorf(format string, args ...any) { v.Logf(format, args...) }
func (v *verdict) FailNow()                          {}

// TestRandomModelsSeeMistakes: an engine that gets one choice wrong fails, and the Model is told.
func TestRandomModelsSeeMistakes(t *testing.T) {
	setRapid(t, map[string]string{"seed": "1", "checks": "1000", "nofailfile": "true", "shrinktime": "2s"})
	for name, bad := range map[string]struct {
		change func(m *arch.Model)
		says   string
	}{
		"softcap forgotten": {func(m *arch.Model) {
			for i := range m.Layers {
				m.Layers[i].Attention.Softcap = 0
			}
		}, "Softcap: "},
		"window to the right wider by one": {func(m *arch.Model) {
			for i := range m.Layers {
				if w := &m.Layers[i].Attention.WindowRight; *w >= 0 {
					*w++
				}
			}
		}, "WindowRight: 0"},
		"wrong gelu": {func(m *arch.Model) {
			for i := range m.Layers {
				if act := &m.Layers[i].MLP.Activation; *act == arch.GELU {
					*act = arch.GELUTanh
				}
			}
		}, "Activation: gelu\n"},
		"prompt pooled": {func(m *arch.Model) { m.Head.Pooling.ExcludePrompt = false }, "ExcludePrompt: true"},
	} {
		t.Run(name, func(t *testing.T) {
			v := &verdict{TB: t}
			rapid.Check(v, randomModels(t, bad.change))
			require.Contains(t, v.text, "sequence ")
			require.Contains(t, v.text, bad.says)
		})
	}
}

// FuzzRandomModels starts from bytes that last for whole models: a choice takes eight or more.
func FuzzRandomModels(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 1))
	for range 16 {
		var seed []byte
		for range 1024 {
			seed = binary.LittleEndian.AppendUint64(seed, random.Uint64())
		}
		f.Add(seed)
	}
	f.Fuzz(rapid.MakeFuzz(randomModels(f, nil)))
}
