// Package kernels holds the CPU kernels of the ONNX Runtime engine: varlen attention, activations, norms and pooling
// on packed fp32 rows. They are C (kernels.h is their manual), called from the engine's custom ops on ONNX Runtime's
// threads; Go only chooses the instruction set.
package kernels

// gnu11, since under c11 GCC does not contract a * b + c to an FMA. -O3 comes after cgo's own -O2.

// #cgo CFLAGS: -std=gnu11 -O3 -Wall -Wextra
// #cgo LDFLAGS: -lm
// #include "kernels.h"
import "C"

import (
	"os"
	"sync"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// LevelVariable names the environment variable that UseEnvironment reads.
const LevelVariable = "BEI_CPU_LEVEL"

var levels = map[string]C.bk_level{
	"auto":   C.BK_LEVEL_AUTO,
	"scalar": C.BK_LEVEL_SCALAR,
	"vec128": C.BK_LEVEL_VEC128,
	"avx2":   C.BK_LEVEL_AVX2,
}

// SetLevel chooses the instruction set of all later kernel calls in the process: "auto" (the best one that this CPU
// runs, the default), "scalar" (the reference), "vec128" (SSE2 or NEON) or "avx2". It fails, changing nothing, with
// InvalidArgument for another name and Unsupported where the CPU lacks the level. Safe from any goroutine.
func SetLevel(name string) error {
	level, ok := levels[name]
	if !ok {
		return status.Errorf(status.InvalidArgument, "CPU level %q is not one of auto, scalar, vec128, avx2", name)
	}
	if C.bk_set_level(level) != 0 {
		return status.Errorf(status.Unsupported, "CPU level %q: this CPU does not have it; use auto", name)
	}
	return nil
}

// Level returns the instruction set in use, never "auto".
func Level() string {
	return C.GoString(C.bk_level_name())
}

// UseEnvironment applies BEI_CPU_LEVEL, if it is set, on the first call; later calls return what the first one did.
var UseEnvironment = sync.OnceValue(func() error {
	name := os.Getenv(LevelVariable)
	if name == "" {
		return nil
	}
	if err := SetLevel(name); err != nil {
		return status.Errorf(status.InvalidArgument, "%s: %w", LevelVariable, err)
	}
	return nil
})
