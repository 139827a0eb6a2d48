package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFolder(t *testing.T) {
	if os.Getenv("BEI_TEST_FOLDER") != "" {
		_, err := os.Stdout.WriteString(Folder() + "\n")
		require.NoError(t, err)
		return
	}
	executable, err := os.Executable()
	require.NoError(t, err)
	executable, err = filepath.EvalSymlinks(executable)
	require.NoError(t, err)
	require.Equal(t, filepath.Dir(executable), Folder())

	// Through a symbolic link, and by a name without a folder, as a shell finds it on PATH.
	links := t.TempDir()
	require.NoError(t, os.Symlink(executable, filepath.Join(links, "program")))
	for _, name := range []string{filepath.Join(links, "program"), "program"} {
		command := exec.Command(filepath.Join(links, "program"), "-test.run=TestFolder")
		command.Args[0] = name
		command.Env = append(os.Environ(), "BEI_TEST_FOLDER=1")
		out, err := command.Output()
		require.NoError(t, err)
		require.Contains(t, string(out), filepath.Dir(executable)+"\n")
	}
}
