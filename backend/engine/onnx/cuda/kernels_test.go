// Package cuda_test runs the CUDA kernels on the CPU.
package cuda_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestKernels compares each kernel with double precision: testdata/emulated.cpp. It needs g++ (or CXX), so that `make test_tensorrt` runs it.
func TestKernels(t *testing.T) {
	if os.Getenv("BEI_KERNEL_TESTS") == "" {
		t.Skip("make test_tensorrt runs it")
	}
	compiler := strings.Fields(os.Getenv("CXX"))
	if len(compiler) == 0 {
		compiler = []string{"g++"}
	}
	program := filepath.Join(t.TempDir(), "emulated")
	arguments := append(compiler[1:], "-std=c++20", "-O1", "-Wall", "-Werror", "-Wno-unknown-pragmas", "-pthread", "testdata/emulated.cpp", "-o", program)
	out, err := exec.CommandContext(t.Context(), compiler[0], arguments...).CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.CommandContext(t.Context(), program).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "ok\n", string(out))
}
