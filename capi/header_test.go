package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// header is bei.h without comments.
func header(t *testing.T) string {
	text, err := os.ReadFile(filepath.Join(root, "include", "bei.h"))
	require.NoError(t, err)
	return regexp.MustCompile(`(?s)/\*.*?\*/`).ReplaceAllString(string(text), "")
}

// TestHeaderCompiles: alone, and included twice, in every dialect that callers use.
func TestHeaderCompiles(t *testing.T) {
	dir := t.TempDir()
	const inits = "bei_batch b = BEI_BATCH_INIT; bei_call_options o = BEI_CALL_OPTIONS_INIT; bei_info i = BEI_INFO_INIT;\n" +
		"bei_tokens k = BEI_TOKENS_INIT; bei_stats s = BEI_STATS_INIT;\n"
	for name, source := range map[string]string{
		"alone":  "#include \"bei.h\"\n",
		"twice":  "#include \"bei.h\"\n#include \"bei.h\"\n",
		"macros": "#include \"bei.h\"\n" + inits,
	} {
		for _, ext := range []string{".c", ".cc"} {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name+ext), []byte(source), 0o600))
		}
	}
	for compiler, dialects := range map[string][]string{
		"gcc": {"c99", "c11", "c17"}, "g++": {"c++17", "c++20"}, "clang": {"c99", "c17"}, "clang++": {"c++17"},
	} {
		// Users need gcc only. CI has g++, too: there the C++ dialects are not passed over.
		if _, err := exec.LookPath(compiler); err != nil && compiler != "gcc" && (compiler != "g++" || os.Getenv("CI") == "") {
			t.Run(compiler, func(t *testing.T) { t.Skipf("no %s here: install it to check the header with it", compiler) })
			continue
		}
		ext := ".c"
		if strings.HasSuffix(compiler, "++") {
			ext = ".cc"
		}
		for _, dialect := range dialects {
			for _, name := range []string{"alone", "twice", "macros"} {
				t.Run(compiler+"/"+dialect+"/"+name, func(t *testing.T) {
					run(t, nil, compiler, "-std="+dialect, "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-fsyntax-only",
						"-I"+filepath.Join(root, "include"), filepath.Join(dir, name+ext))
				})
			}
		}
	}
}

// TestSymbols: libbei.so shows the functions of the header and no others, and needs only what it says.
func TestSymbols(t *testing.T) {
	var declared, exported []string
	for _, m := range regexp.MustCompile(`\b(bei_\w+)\(`).FindAllStringSubmatch(header(t), -1) {
		declared = append(declared, m[1])
	}
	for line := range strings.Lines(run(t, nil, "nm", "-D", "--defined-only", library())) {
		exported = append(exported, strings.Fields(line)[2])
	}
	slices.Sort(declared)
	slices.Sort(exported)
	require.Len(t, declared, 35)
	require.Equal(t, declared, exported)

	dynamic := run(t, nil, "readelf", "-dW", library())
	require.Contains(t, dynamic, "Library soname: [libbei.so]")
	require.Regexp(t, `FLAGS_1.*NODELETE`, dynamic)
	for _, m := range regexp.MustCompile(`NEEDED.*\[(.*)\]`).FindAllStringSubmatch(dynamic, -1) {
		require.Regexp(t, `^(libc\.so\.6|libm\.so\.6|libdl\.so\.2|libpthread\.so\.0|ld-linux-[\w-]+\.so\.\d)$`, m[1])
	}
}

// TestLink: a program links with -lbei and no other flag, and starts with every symbol bound.
func TestLink(t *testing.T) {
	dir := t.TempDir()
	source, program := filepath.Join(dir, "x.c"), filepath.Join(dir, "x")
	require.NoError(t, os.WriteFile(source, []byte("#include \"bei.h\"\nint main(void) { return bei_api_version() != BEI_API_VERSION; }\n"), 0o600))
	run(t, nil, "gcc", source, "-I"+filepath.Join(root, "include"), "-L"+dist, "-lbei", "-o", program)
	run(t, []string{libraryPath(), "LD_BIND_NOW=1"}, program)
	run(t, nil, "python3", "-c", "import ctypes, os, sys; ctypes.CDLL(sys.argv[1], os.RTLD_NOW).bei_api_version", library())
}

// TestStatusCodes: the header's list of codes is Go's list; that names and numbers agree is checked at compile time (structs.go).
func TestStatusCodes(t *testing.T) {
	list := regexp.MustCompile(`(?s)enum \{\s*BEI_OK.*?\}`).FindString(header(t))
	codes := regexp.MustCompile(`BEI_(\w+) = (\d+)`).FindAllStringSubmatch(list, -1)
	known := map[int]bool{}
	for _, c := range codes {
		n := must(strconv.Atoi(c[2]))
		known[n] = true
		require.Equal(t, c[1], status.Code(n).String())
	}
	require.Len(t, known, 23)
	for n := range 256 {
		require.Equal(t, known[n], status.Code(n).String() != "UNKNOWN", "code %d", n)
	}
}

// TestOptionsSchema: what bei_options_schema gives out is what the header says of it.
func TestOptionsSchema(t *testing.T) {
	require.Contains(t, backend.Schema(), "https://json-schema.org/draft/2020-12/schema")
}
