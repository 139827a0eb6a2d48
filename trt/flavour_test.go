package trt

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// search makes the search see these variables only.
func search(t *testing.T, shims, library, root string) {
	t.Setenv(ShimVariable, shims)
	t.Setenv(LibraryVariable, library)
	t.Setenv(RootVariable, root)
}

// noBackend opens the options, which must fail with these texts in the message.
func noBackend(t *testing.T, o LibraryOptions, texts ...string) {
	_, err := openLibrary(o)
	require.Error(t, err)
	require.Equal(t, status.NoBackend, status.CodeOf(err))
	for _, text := range texts {
		require.Contains(t, err.Error(), text)
	}
}

func TestNothingFound(t *testing.T) {
	empty := t.TempDir()
	search(t, empty, "", "")
	noBackend(t, LibraryOptions{}, empty+"/libbei_trt_11.so: no such file", "libbei_trt_10.so", "libbei_trt_rtx1.so",
		"make build_trt", "pip install tensorrt-rtx-cu13-libs==1.6.1.120", "make setup_tensorrt", LibraryVariable, ShimVariable)

	// Without the variable: beside the test's executable.
	search(t, "", "", "")
	executable, err := os.Executable()
	require.NoError(t, err)
	noBackend(t, LibraryOptions{Flavour: "11"}, filepath.Dir(executable)+"/libbei_trt_11.so: no such file")
}

func TestUnknownFlavour(t *testing.T) {
	_, err := openLibrary(LibraryOptions{Flavour: "12"})
	require.Equal(t, status.InvalidArgument, status.CodeOf(err))
	require.ErrorContains(t, err, `flavour "12" is unknown`)
}

func TestShimThatIsNone(t *testing.T) {
	dir := t.TempDir()
	search(t, dir, "", "")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "libbei_trt_11.so"), []byte("text"), 0o644))
	noBackend(t, LibraryOptions{Flavour: "11"}, dir+"/libbei_trt_11.so: file too short")
}

func TestNoTensorRT(t *testing.T) {
	shims, root := filepath.Dir(shimPath(t, "11")), t.TempDir()
	search(t, shims, "", root)
	noBackend(t, LibraryOptions{Flavour: "11"}, "libbei_trt_11.so is there, but no library for it",
		shims+"/tensorrt/libnvinfer.so.11: no such file", root+"/lib/libnvinfer.so.11: no such file",
		"libnvinfer.so.11: cannot open shared object file", "set "+LibraryVariable)
}

func TestNamedLibraryIsTheOnlyOne(t *testing.T) {
	shim, folder := shimPath(t, "rtx1"), t.TempDir()
	search(t, filepath.Dir(shim), fetched(t, "lib/libtensorrt_rtx.so.1"), "")
	text := filepath.Join(folder, "text.so")
	require.NoError(t, os.WriteFile(text, []byte("no library at all, only some words that are longer than an ELF file's header"), 0o644))
	noBackend(t, LibraryOptions{Flavour: "rtx1", Library: text}, text+": invalid ELF header")
	noBackend(t, LibraryOptions{Flavour: "rtx1", Library: folder}, folder+"/libtensorrt_rtx.so.1: no such file")
	noBackend(t, LibraryOptions{Flavour: "rtx1", Library: "libno_such.so.1"}, "libno_such.so.1: cannot open shared object file")
	noBackend(t, LibraryOptions{Flavour: "rtx1", Library: shim}, "is no TensorRT library", "getInferLibMajorVersion")
}

func TestOtherMajorVersion(t *testing.T) {
	library := fetched(t, "lib/libtensorrt_rtx.so.1")
	search(t, filepath.Dir(shimPath(t, "11")), library, "")
	noBackend(t, LibraryOptions{Flavour: "11"}, library+" is version 1.6.1.120; libbei_trt_11.so needs 11.x")
}

func TestLeanRuntime(t *testing.T) {
	library := fetched(t, "lean/libnvinfer_lean.so.11")
	search(t, filepath.Dir(shimPath(t, "11")), library, "")
	noBackend(t, LibraryOptions{Flavour: "11"}, library+" is no TensorRT library, or one that cannot build engines")

	// Its version is checked before that.
	search(t, filepath.Dir(shimPath(t, "rtx1")), library, "")
	noBackend(t, LibraryOptions{Flavour: "rtx1"}, "is version 11.4.0.106; libbei_trt_rtx1.so needs 1.x")
}

func TestShimOfAnotherBuild(t *testing.T) {
	dir := t.TempDir()
	compiler := os.Getenv("CC")
	if compiler == "" {
		compiler = "cc"
	}
	if _, err := exec.LookPath(compiler); err != nil && os.Getenv("BEI_TENSORRT_TESTS") == "" {
		t.Skipf("%v: set CC to a C compiler", err)
	}
	out, err := exec.Command(compiler, "-shared", "-fPIC", `-DREAL_SHIM="`+shimPath(t, "rtx1")+`"`, "-o", filepath.Join(dir, "libbei_trt_rtx1.so"),
		"testdata/wrong_abi.c", "-ldl").CombinedOutput()
	require.NoError(t, err, string(out))
	search(t, dir, fetched(t, "lib/libtensorrt_rtx.so.1"), "")
	noBackend(t, LibraryOptions{Flavour: "rtx1"}, "libbei_trt_rtx1.so speaks version", "of different builds")
}

func TestOpenLibrary(t *testing.T) {
	shims, library := filepath.Dir(shimPath(t, "rtx1")), fetched(t, "lib/libtensorrt_rtx.so.1")
	check := func(l *nvinfer.Library, err error) {
		require.NoError(t, err)
		require.Equal(t, "rtx1", l.Flavour)
		require.Equal(t, "1.6.1.120", l.Version)
		require.True(t, filepath.IsAbs(l.Path))
		require.Equal(t, "libtensorrt_rtx.so.1", filepath.Base(l.Path))
		require.NotZero(t, l.Features&nvinfer.HasAttention)
		require.NotZero(t, l.Features&nvinfer.HasRuntimeCache)
	}
	// Named by the options: a file, its folder, and for any flavour; by the variable; in TENSORRT_ROOT; beside the shim.
	search(t, shims, "", "")
	for _, o := range []LibraryOptions{{Library: library}, {Library: filepath.Dir(library)}, {Library: library, Flavour: "rtx1"}} {
		check(openLibrary(o))
	}
	search(t, shims, filepath.Dir(library), "")
	check(openLibrary(LibraryOptions{}))
	search(t, shims, "", filepath.Dir(filepath.Dir(library)))
	check(openLibrary(LibraryOptions{Flavour: "rtx1"}))

	dir := t.TempDir()
	require.NoError(t, os.Symlink(filepath.Join(shims, "libbei_trt_rtx1.so"), filepath.Join(dir, "libbei_trt_rtx1.so")))
	require.NoError(t, os.Symlink(filepath.Dir(library), filepath.Join(dir, "tensorrt")))
	search(t, dir, "", "")
	check(openLibrary(LibraryOptions{}))
}

// TestPlan builds the least plan there is, which needs no GPU.
func TestPlan(t *testing.T) {
	n, err := rtx(t).NewNetwork()
	require.NoError(t, err)
	defer n.Free()
	x, err := n.Input("x", nvinfer.Float32, 4)
	require.NoError(t, err)
	y, err := n.Add(nvinfer.Node{Kind: nvinfer.Unary, Inputs: []nvinfer.Tensor{x}, Ints: []int{nvinfer.Exp}})
	require.NoError(t, err)
	require.NoError(t, n.Output(y, "y"))
	plan, err := n.Build(nvinfer.BuildOptions{})
	require.NoError(t, err)
	require.NotEmpty(t, plan)
	plansBuilt.Add(1)
}
