package onnx_test

import (
	"context"
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

func randomModels(t testing.TB) func(t *rapid.T) {
	o := options(t)
	return suite.RandomModels(func(m *arch.Model, w *weights.Set) (engine.Engine, error) {
		return onnx.Open(context.Background(), m, w, o)
	})
}

// TestRandomModels tries the same models in each run, unless RAPID_SEED says others; RAPID_CHECKS says how many.
func TestRandomModels(t *testing.T) {
	for _, f := range []struct{ variable, name, value string }{
		{"RAPID_SEED", "rapid.seed", "1"}, {"RAPID_CHECKS", "rapid.checks", "1000"}, {"RAPID_NOFAILFILE", "rapid.nofailfile", "true"},
	} {
		if os.Getenv(f.variable) == "" {
			require.NoError(t, flag.Set(f.name, f.value))
		}
	}
	rapid.Check(t, randomModels(t))
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
	f.Fuzz(rapid.MakeFuzz(randomModels(f)))
}
