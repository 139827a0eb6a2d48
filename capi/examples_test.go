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
	require.Contains(t, run(t, []string{libraryPath()}, program, model(t)), "cosine 0.6971")
	require.Contains(t, run(t, nil, "python3", "examples/embed.py", library(), model(t)), "cosine 0.6971")
}
