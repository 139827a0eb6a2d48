package kernels_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestSetLevel(t *testing.T) {
	before := kernels.Level()
	defer func() { require.NoError(t, kernels.SetLevel(before)) }()

	require.NoError(t, kernels.SetLevel("scalar"))
	require.Equal(t, "scalar", kernels.Level())
	err := kernels.SetLevel("avx1024")
	require.ErrorIs(t, err, &status.Error{Code: status.InvalidArgument})
	require.ErrorContains(t, err, `"avx1024"`)
	require.Equal(t, "scalar", kernels.Level(), "a failed call changes nothing")
	require.NoError(t, kernels.SetLevel("auto"))
	require.Contains(t, []string{"vec128", "avx2"}, kernels.Level())
}

// The variable is read once a process, so a process of its own sees it.
func TestUseEnvironment(t *testing.T) {
	if os.Getenv("KERNELS_TEST_CHILD") != "" {
		err := kernels.UseEnvironment()
		require.Equal(t, err, kernels.UseEnvironment())
		if err != nil {
			t.Log(err)
		}
		t.Logf("level=%s", kernels.Level())
		return
	}
	t.Setenv(kernels.LevelVariable, "fast")
	require.ErrorIs(t, kernels.UseEnvironment(), &status.Error{Code: status.InvalidArgument})
	for value, want := range map[string]string{
		"scalar": "level=scalar",
		"vec128": "level=vec128",
		"":       "level=" + kernels.Level(),
		"fast":   `BEI_CPU_LEVEL: CPU level "fast" is not one of`,
	} {
		command := exec.Command(os.Args[0], "-test.run=^TestUseEnvironment$", "-test.v")
		command.Env = append(os.Environ(), "KERNELS_TEST_CHILD=1", kernels.LevelVariable+"="+value)
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), want)
	}
}

// The C compiles without a warning, optimised or not, and the header alone as C++ too.
func TestNoWarnings(t *testing.T) {
	sources, err := filepath.Glob("*.c")
	require.NoError(t, err)
	require.NotEmpty(t, sources)
	compile := func(args ...string) {
		args = append([]string{"-Wall", "-Wextra", "-Wpedantic", "-Werror"}, args...)
		out, err := exec.Command("gcc", args...).CombinedOutput()
		require.NoError(t, err, "%v\n%s", args, out)
	}
	for _, source := range sources {
		for _, level := range []string{"-O0", "-O3"} {
			compile("-std=gnu11", level, "-c", source, "-o", filepath.Join(t.TempDir(), "o"))
		}
	}
	compile("-std=c11", "-fsyntax-only", "-x", "c", "kernels.h")
	compile("-std=c++17", "-fsyntax-only", "-x", "c++", "kernels.h")
}
