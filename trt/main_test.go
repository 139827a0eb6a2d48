package trt

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// Plans that the tests have built: a test adds to it for each. `make test_tensorrt` reports the sum.
var plansBuilt atomic.Int64

func TestMain(m *testing.M) {
	code := m.Run()
	if path := os.Getenv("BEI_PLANS"); path != "" && code == 0 {
		if err := addLine(path, plansBuilt.Load()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func addLine(path string, number int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(file, number)
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// built returns the path of a file that `make test_tensorrt` has fetched or built. Without it the test is skipped, but where
// BEI_TENSORRT_TESTS is set, as that target does, it fails. Short runs (`make test_race`) skip it in any case: what such tests do under
// the race detector takes minutes and is TensorRT's work.
func built(t testing.TB, path string) string {
	if testing.Short() {
		t.Skip("a short run: `make test_tensorrt` runs it")
	}
	_, err := os.Stat(path)
	if err != nil && os.Getenv("BEI_TENSORRT_TESTS") == "" {
		t.Skipf("%v: run `make test_tensorrt`, or `make build_trt` first", err)
	}
	require.NoError(t, err)
	return path
}

// shimFolder is where `make build_trt` leaves the shims.
func shimFolder(t testing.TB) string {
	if dir := os.Getenv("BEI_DIST"); dir != "" {
		return dir
	}
	return filepath.Join(suite.Root(t), "dist")
}

func shimPath(t testing.TB, flavour string) string {
	return built(t, filepath.Join(shimFolder(t), "libbei_trt_"+flavour+".so"))
}

func fetched(t testing.TB, path string) string {
	return built(t, filepath.Join(suite.Root(t), ".deps/tensorrt", path))
}

// rtx opens TensorRT-RTX.
func rtx(t testing.TB) *nvinfer.Library {
	l, err := nvinfer.Open(shimPath(t, "rtx1"), fetched(t, "lib/libtensorrt_rtx.so.1"))
	require.NoError(t, err)
	return l
}
