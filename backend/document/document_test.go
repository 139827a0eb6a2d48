package document

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWalk(t *testing.T) {
	for _, doc := range []string{`1`, `"a"`, `{}`, `[]`, ` [1, {"a": [], "b": {"a": null}}, "a"] `} {
		require.NoError(t, Walk([]byte(doc), 100, 4), doc)
	}
	for doc, want := range map[string]string{
		``: "unexpected end", `{`: "unexpected end", `[1,`: "unexpected end", `{"a": {"b": 1, "b": 2}}`: `has the key "b" twice`, `1 2`: "has more behind its value",
		`{} x`: "has more behind its value", `[[[[[1]]]]]`: "nests deeper than 4 levels", "[" + strings.Repeat("1,", 100) + "1]": "has more than 100 values", `{1: 2}`: "invalid",
	} {
		require.ErrorContains(t, Walk([]byte(doc), 100, 4), want, doc)
	}
}

func TestFilesAreReadWithALimitAndWrittenWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.json")
	_, err := Read(path, 10)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, Write(path, []byte("0123456789")))
	raw, err := Read(path, 10)
	require.NoError(t, err)
	require.Equal(t, "0123456789", string(raw))
	_, err = Read(path, 9)
	require.ErrorContains(t, err, "exceeds the limit of 9 bytes")
	require.Error(t, Write(filepath.Join(path, "below"), nil))
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1)
}

func TestSchemaFaults(t *testing.T) {
	s := NewSchema("s.json", `{"type": "object", "properties": {"a": {"type": "array", "items": {"maximum": 3}}}}`)
	require.NoError(t, s.Compile())
	require.NoError(t, s.Validate([]byte(`{"a": [1, 2]}`)))
	require.EqualError(t, s.Validate([]byte(`{"a": [1, 4]}`)), "a.1: maximum: got 4, want 3")
	require.ErrorContains(t, s.Validate([]byte(`{}{}`)), "not one JSON document")
	require.Error(t, NewSchema("s.json", `{"type": 5}`).Compile())
	require.Error(t, NewSchema("s.json", `{`).Compile())
}
