package cuda

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestKernels compares each kernel, compiled for the CPU, with double precision: testdata/emulated.cpp. It needs g++ (or CXX), so that
// `make test_tensorrt` runs it.
func TestKernels(t *testing.T) {
	if os.Getenv("BEI_KERNEL_TESTS") == "" {
		t.Skip("make test_tensorrt runs it")
	}
	compiler := strings.Fields(os.Getenv("CXX"))
	if len(compiler) == 0 {
		compiler = []string{"g++"}
	}
	program := filepath.Join(t.TempDir(), "emulated")
	arguments := append(compiler[1:], "-std=c++20", "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-pthread",
		"testdata/emulated.cpp", "-o", program)
	out, err := exec.CommandContext(t.Context(), compiler[0], arguments...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.CommandContext(t.Context(), program).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "ok\n", string(out))
}

// TestIsCurrent: the PTX that setup_kernels has made is of this source; another one is refused.
func TestIsCurrent(t *testing.T) {
	require.False(t, IsCurrent([]byte(".version 9.0\n")))
	if os.Getenv("BEI_KERNEL_TESTS") == "" {
		t.Skip("make test_tensorrt, which makes the PTX, runs the rest")
	}
	ptx, err := os.ReadFile("../../../../.deps/gpu/onnxruntime/bei_cuda.ptx")
	require.NoError(t, err)
	require.True(t, IsCurrent(ptx))
	for _, kernel := range []string{"bias_activation", "gated_activation", "residual_norm", "pool"} {
		for _, dtype := range []string{"float32", "float16", "bfloat16"} {
			for _, width := range []string{"wide", "narrow"} {
				require.Contains(t, string(ptx), ".entry "+kernel+"_"+dtype+"_"+width+"(")
			}
		}
	}
	require.Contains(t, string(ptx), ".entry heads_bfloat16(")
}
