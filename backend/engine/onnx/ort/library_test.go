package ort

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// fake compiles a shared library from C.
func fake(t *testing.T, source string) string {
	file := filepath.Join(t.TempDir(), "libonnxruntime.so.1")
	c := filepath.Join(t.TempDir(), "fake.c")
	require.NoError(t, os.WriteFile(c, []byte(source), 0o600))
	out, err := exec.Command("gcc", "-shared", "-fPIC", "-o", file, c).CombinedOutput()
	require.NoError(t, err, "%s", out)
	return file
}

func TestLoadNamesWhatItTried(t *testing.T) {
	t.Setenv(LibraryVariable, "")
	old := fake(t, `
static const void *get_api(unsigned version) { return (void *)0; }
static const char *get_version(void) { return "1.17.3"; }
static struct { const void *(*api)(unsigned); const char *(*version)(void); } base = {get_api, get_version};
const void *OrtGetApiBase(void) { return &base; }`)
	other := fake(t, "int nothing;")
	text := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(text, []byte("no library"), 0o600))
	for name, c := range map[string]struct {
		path string
		want []string
	}{
		"missing":              {"/nowhere/libonnxruntime.so.1", []string{"/nowhere/libonnxruntime.so.1", "No such file", LibraryVariable, "1.24 or later"}},
		"no library":           {text, []string{text, "file too short"}},
		"another library":      {other, []string{other, "OrtGetApiBase"}},
		"an old ONNX Runtime":  {old, []string{old, "1.17.3 is too old"}},
		"none in usual places": {"", []string{filepath.Join(filepath.Dir(os.Args[0]), soname), "; " + soname + ": ", "beside libbei.so"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Load(c.path, false)
			require.Equal(t, status.NoBackend, status.CodeOf(err), "%v", err)
			for _, part := range c.want {
				require.ErrorContains(t, err, part)
			}
		})
	}

	t.Setenv(LibraryVariable, "/from/the/environment")
	require.Equal(t, []string{"/from/the/environment"}, candidates("", false))
	require.Equal(t, []string{"/from/the/options"}, candidates("/from/the/options", true))

	t.Setenv(LibraryVariable, "")
	beside := filepath.Dir(os.Args[0])
	require.Equal(t, []string{filepath.Join(beside, folderOfGPU, soname), filepath.Join(beside, soname), soname}, candidates("", true))
	_, err := Load("/nowhere/"+soname, true)
	require.Equal(t, status.NoBackend, status.CodeOf(err), "%v", err)
	require.ErrorContains(t, err, "make setup_gpu")

	path := suite.Dependency(t, "onnxruntime/"+soname)
	version, err := Load(path, false)
	require.NoError(t, err)
	require.Regexp(t, `^1\.\d+\.\d+`, version)
	again, err := Load("", false)
	require.NoError(t, err)
	require.Equal(t, version, again)
	_, err = Load(other, false)
	require.Equal(t, status.InvalidArgument, status.CodeOf(err))
	require.ErrorContains(t, err, path)
	_, err = Load("", true)
	require.Equal(t, status.NoBackend, status.CodeOf(err), "%v", err)
	for _, part := range []string{path, "no CUDA provider", "make setup_gpu", folderOfGPU} {
		require.ErrorContains(t, err, part)
	}
}

func TestMessagesReachTheLogger(t *testing.T) {
	defer SetLogger(nil)
	beiOrtLog(3, nil, nil) // without a logger
	var got []string
	SetLogger(func(s Severity, message string) {
		require.Equal(t, Error, s)
		got = append(got, message)
		panic("a logger that fails")
	})
	beiOrtLog(3, nil, nil)
	require.Equal(t, []string{": "}, got)
}
