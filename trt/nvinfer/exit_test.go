package nvinfer

import (
	"bufio"
	"context"
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

const (
	exitShim    = "BEI_TEST_EXIT_SHIM"
	exitRelease = "BEI_TEST_EXIT_RELEASE" // a file for which the run waits
)

func TestMain(m *testing.M) {
	if shim := os.Getenv(exitShim); shim != "" {
		fmt.Println("failed:", exitDuringARun(shim))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// exitDuringARun returns only what went wrong: the process ends by exit(), once a line has come on standard input.
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
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	for {
		_, err := l.DeviceCount() // a thread of the library's calls exit() at the first
		if err == nil {
			time.Sleep(time.Millisecond)
			continue
		}
		p.Free() // does nothing, instead of calling a function that the table lacks
		fmt.Println("refused:", err, status.CodeOf(err))
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
	shim, release := filepath.Join(t.TempDir(), "libbei_trt_exit.so"), filepath.Join(t.TempDir(), "release")
	build := exec.Command(cc[0], append(cc[1:], "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", shim, "testdata/exitshim.c")...)
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0])
	child.Env = append(os.Environ(), exitShim+"="+shim, exitRelease+"="+release)
	stdin, err := child.StdinPipe()
	require.NoError(t, err)
	stdout, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	lines := bufio.NewScanner(stdout)
	next := func() string { lines.Scan(); return lines.Text() }
	require.Equal(t, "inside", next())
	_, err = stdin.Write([]byte("\n"))
	require.NoError(t, err)
	require.Equal(t, "refused: the process is exiting SHUT_DOWN", next())
	require.NoError(t, os.WriteFile(release, nil, 0o600))
	require.Equal(t, "left", next())
	// The run's own thread and the one that exits go on at the same time.
	said := []string{}
	for line := next(); line != ""; line = next() {
		said = append(said, line)
	}
	require.Contains(t, said, "destroyed")
	require.Subset(t, []string{"destroyed", "ran: the process is exiting SHUT_DOWN"}, said)
	var exit *exec.ExitError
	require.ErrorAs(t, child.Wait(), &exit)
	require.Equal(t, 7, exit.ExitCode())
}
