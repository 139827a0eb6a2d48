package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestExamples runs what the README prints. The cosine is that of sentence-transformers' vectors.
func TestExamples(t *testing.T) {
	program := filepath.Join(t.TempDir(), "embed")
	run(t, nil, "gcc", "-Wall", "-Wextra", "-Werror", "examples/embed.c", "-I"+filepath.Join(root, "include"), "-L"+dist, "-lbei", "-lm", "-o", program)
	const want = "384 dimensions, cosine 0.6971\n"
	require.Equal(t, want, run(t, []string{libraryPath()}, program, model(t)))
	require.Equal(t, want, run(t, []string{"BEI_LIBRARY=" + library()}, "python3", "examples/embed.py", model(t)))
}
