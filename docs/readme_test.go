// Package docs tests that the README's examples are the tested files, and run as printed.
package docs

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "put the example files into the README")

// example is a code block of the README behind a line such as "<!-- test: c, from capi/examples/embed.c -->".
type example struct {
	kind, file, code string
}

var examplePattern = regexp.MustCompile("(?s)<!-- test: (\\w+)(?:, from (\\S+))? -->\n```\\w*\n(.*?)```\n")

const readme = "../README.md"

func examples(t *testing.T, kind string) []example {
	t.Helper()
	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	var found []example
	for _, m := range examplePattern.FindAllStringSubmatch(string(text), -1) {
		if m[1] == kind {
			found = append(found, example{m[1], m[2], m[3]})
		}
	}
	require.NotEmpty(t, found, "the README has no example of kind %s", kind)
	return found
}

// root is the repository; dist and model are what the README names.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	require.NoError(t, err)
	for _, needed := range []string{"dist/libbei.so", "dist/bei-router", "dist/bei", ".deps/models/all-MiniLM-L6-v2"} {
		_, err := os.Stat(filepath.Join(dir, needed))
		require.NoError(t, err, "run `make build` first")
	}
	return dir
}

// workspace is an empty folder in which the README's relative paths work.
func workspace(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"dist", ".deps"} {
		require.NoError(t, os.Symlink(filepath.Join(root(t), name), filepath.Join(dir, name)))
	}
	return dir
}

func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BEI_LIB_DIR="+filepath.Join(root(t), "dist"), "LD_LIBRARY_PATH="+filepath.Join(root(t), "dist"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s %s\n%s%s", name, strings.Join(args, " "), out, stderr.String())
	return string(out)
}

func TestExamplesAreTheFiles(t *testing.T) {
	text, err := os.ReadFile(readme)
	require.NoError(t, err)
	updated := examplePattern.ReplaceAllStringFunc(string(text), func(block string) string {
		m := examplePattern.FindStringSubmatch(block)
		if m[2] == "" {
			return block
		}
		code, err := os.ReadFile(filepath.Join("..", m[2]))
		require.NoError(t, err)
		return block[:len(block)-len("```\n")-len(m[3])] + string(code) + "```\n"
	})
	if *update {
		require.NoError(t, os.WriteFile(readme, []byte(updated), 0o644))
		return
	}
	require.Equal(t, updated, string(text), "run `go test ./docs -update`")
}

// TestProgramsAgree compiles and runs the example of each language as the README says; all must print the same line.
func TestProgramsAgree(t *testing.T) {
	dir, repo := workspace(t), root(t)
	const model = ".deps/models/all-MiniLM-L6-v2"
	write := func(kind, name string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(examples(t, kind)[0].code), 0o600))
	}
	write("c", "embed.c")
	write("python", "embed.py")
	printed := map[string]string{}
	printed["c"] = run(t, dir, "sh", "-c", "gcc embed.c -Idist -Ldist -lbei -lm -Wl,-rpath,$PWD/dist -o embed && ./embed "+model)
	printed["python"] = run(t, dir, "python3", "embed.py", model)
	t.Setenv("BEI_ONNXRUNTIME_LIB", filepath.Join(repo, "dist", "libonnxruntime.so.1"))
	printed["go"] = run(t, repo, "go", "run", "./"+filepath.Dir(examples(t, "go")[0].file), model)
	printed["rust"] = run(t, filepath.Join(repo, "rust-example"), "cargo", "run", "-q", "--release", "--locked", "-p", "bei-backend", "--example", "embed", "--",
		filepath.Join(repo, model))
	for kind, line := range printed {
		require.Regexp(t, `^384 dimensions, cosine 0\.\d{4}\n$`, line, kind)
		require.Equal(t, printed["c"], line, kind)
	}
}

func TestCommandLine(t *testing.T) {
	dir := workspace(t)
	for _, e := range examples(t, "shell") {
		out := run(t, dir, "bash", "-e", "-c", e.code)
		require.Contains(t, out, `"dimensions": 384`)
	}
	text, err := os.ReadFile(filepath.Join(dir, "vectors.jsonl"))
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	require.Len(t, lines, 2)
	for _, line := range lines {
		var vector []float32
		require.NoError(t, json.Unmarshal([]byte(line), &vector))
		require.Len(t, vector, 384)
	}
}

// TestCurl starts the server as the README does, on a free port, and runs its curl lines against that port.
func TestCurl(t *testing.T) {
	dir := workspace(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := fmt.Sprint(listener.Addr().(*net.TCPAddr).Port)
	require.NoError(t, listener.Close())
	server := exec.Command("dist/bei-router", "--model-id", ".deps/models/all-MiniLM-L6-v2", "--hostname", "127.0.0.1", "--port", port)
	server.Dir = dir
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt)
		require.NoError(t, server.Wait(), "the server must end cleanly on SIGINT")
	})
	require.Eventually(t, func() bool {
		answer, err := http.Get("http://127.0.0.1:" + port + "/health")
		if err != nil {
			return false
		}
		_ = answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	}, time.Minute, 50*time.Millisecond)
	for _, e := range examples(t, "curl") {
		out := run(t, dir, "bash", "-e", "-c", strings.ReplaceAll(e.code, "localhost:8080", "127.0.0.1:"+port))
		require.True(t, json.Valid([]byte(out)), out)
		require.NotContains(t, out, `"error"`)
		require.Greater(t, len(out), 384, out)
	}
}
