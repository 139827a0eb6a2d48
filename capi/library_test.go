package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests run the built libbei.so: in BEI_DIST, or ../dist, where one that is missing or older than its sources is built.
var (
	root = must(filepath.Abs(".."))
	dist = filepath.Join(root, "dist")
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestMain(m *testing.M) {
	if d := os.Getenv("BEI_DIST"); d != "" {
		dist = must(filepath.Abs(d))
	}
	if err := buildLibrary(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func library() string { return filepath.Join(dist, "libbei.so") }

func buildLibrary() error {
	changed, err := lastChange()
	if err != nil {
		return err
	}
	if info, err := os.Stat(library()); err == nil && !info.ModTime().Before(changed) {
		return nil
	}
	make := exec.Command("make", "-C", root, "build_lib", "DIST="+dist)
	if out, err := make.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", make, err, out)
	}
	return nil
}

// lastChange is when a source of the library was changed last.
func lastChange() (last time.Time, err error) {
	for _, dir := range []string{"backend", "capi", "trt", "include", "go.mod"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				if name := d.Name(); name == "ctest" || name == "testdata" || name == "examples" {
					return filepath.SkipDir
				}
				return nil
			}
			switch filepath.Ext(path) {
			case ".go", ".c", ".h", ".map", ".json", ".mod":
			default:
				return nil
			}
			if strings.HasSuffix(path, "_test.go") {
				return nil
			}
			info, err := d.Info()
			if err == nil && info.ModTime().After(last) {
				last = info.ModTime()
			}
			return err
		})
		if err != nil {
			return last, err
		}
	}
	return last, nil
}

// run runs a command to success and returns its output.
func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), env...)
	out, err := c.CombinedOutput()
	require.NoError(t, err, "%s\n%s", c, out)
	return string(out)
}

// libraryPath lets a program find libbei.so.
func libraryPath() string { return "LD_LIBRARY_PATH=" + dist }

// model is the real all-MiniLM-L6-v2, which `make setup` fetches.
func model(t *testing.T) string {
	t.Helper()
	path := filepath.Join(root, ".deps", "models", "all-MiniLM-L6-v2")
	require.DirExists(t, path, "run `make setup`")
	return path
}
