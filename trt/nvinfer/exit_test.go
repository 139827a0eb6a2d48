package nvinfer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

const exitShim = "BEI_TEST_EXIT_SHIM"

func TestMain(m *testing.M) {
	if shim := os.Getenv(exitShim); shim != "" {
		fmt.Println("failed:", exitDuringARun(shim))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// exitDuringARun returns only what went wrong: the process ends by exit().
func exitDuringARun(shim string) error {
	l, err := Open(shim, "libnvinfer.so")
	if err != nil {
		return err
	}
	p, err := l.NewProgram([]byte("a plan"), ProgramOptions{})
	if err != nil {
		return err
	}
	lane, err := p.NewLane(make([]Binding, 1), 1)
	if err != nil {
		return err
	}
	if err := lane.Wait(); err != nil { // makes the statics
		return err
	}
	ran := make(chan error)
	go func() { ran <- lane.Wait() }()
	time.Sleep(100 * time.Millisecond) // into Wait; comes it later, it is refused, which the parent sees
	for {
		_, err := l.DeviceCount() // a thread of the library's calls exit() at the first
		if err == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		fmt.Println("refused:", err, status.CodeOf(err))
		p.Free() // does nothing, instead of calling a function that the table lacks
		err = <-ran
		fmt.Println("ran:", err, status.CodeOf(err))
		select {}
	}
}

// TestExitDuringARun has exit() come during a run: the library's destructors wait for it, and nothing new is begun.
func TestExitDuringARun(t *testing.T) {
	cc := strings.Fields(os.Getenv("CC"))
	if len(cc) == 0 {
		cc = []string{"cc"}
	}
	shim := filepath.Join(t.TempDir(), "libbei_trt_exit.so")
	build := exec.Command(cc[0], append(cc[1:], "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", shim, "testdata/exitshim.c")...)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), exitShim+"="+shim)
	said, err := child.CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, "%s", said)
	require.Equal(t, 7, exit.ExitCode(), "%s", said)
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	require.Equal(t, []string{"inside", "refused: the process is exiting SHUT_DOWN", "left"}, lines[:3], "%s", said)
	// The run's own thread and the one that exits go on at the same time.
	require.Contains(t, lines, "destroyed")
	for _, line := range lines[3:] {
		require.Contains(t, []string{"destroyed", "ran: the process is exiting SHUT_DOWN"}, line)
	}
}
