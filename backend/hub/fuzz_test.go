package hub

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzList feeds answers of the API to their reader.
func FuzzList(f *testing.F) {
	for _, s := range []string{"", "{}", "<html>", `{"sha": "0123456789abcdef0123456789abcdef01234567", "siblings": [{"rfilename": "../x"}, {}, null]}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var r repo
		if err := r.decode(body, "application/json"); err == nil {
			require.Regexp(t, "^[0-9a-f]{40}$", r.Commit)
			require.LessOrEqual(t, len(r.files), len(r.Siblings))
		}
	})
}

// FuzzHead feeds headers of files to their reader: what becomes a path must be a hash.
func FuzzHead(f *testing.F) {
	f.Add(`"0123456789abcdef0123456789abcdef01234567"`, "", "", int64(5))
	f.Add("", `W/"../../x"`, "-1", int64(-1))
	f.Fuzz(func(t *testing.T, etag, linkedETag, linkedSize string, length int64) {
		header := http.Header{}
		header.Set("ETag", etag)
		header.Set("X-Linked-Etag", linkedETag)
		header.Set("X-Linked-Size", linkedSize)
		if h, err := readHead(header, length); err == nil {
			require.Regexp(t, "^([0-9a-f]{40}|[0-9a-f]{64})$", h.etag)
			require.GreaterOrEqual(t, h.size, int64(0))
		}
	})
}
