package status

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCodesAreTheHeaders reads the codes out of include/bei.h: names and numbers must agree, and none may be missing.
func TestCodesAreTheHeaders(t *testing.T) {
	header, err := os.ReadFile(filepath.Join("..", "..", "include", "bei.h"))
	require.NoError(t, err)
	enum := regexp.MustCompile(`(?s)BEI_OK = 0.*?}`).Find(header)
	require.NotEmpty(t, enum)
	found := map[Code]string{}
	for _, m := range regexp.MustCompile(`BEI_(\w+) = (\d+)`).FindAllSubmatch(enum, -1) {
		n, err := strconv.Atoi(string(m[2]))
		require.NoError(t, err)
		found[Code(n)] = string(m[1])
	}
	require.Equal(t, found, names)
	for code, name := range names {
		require.Equal(t, name, code.String())
	}
	require.Equal(t, "UNKNOWN", Code(999).String())
	require.Equal(t, "UNKNOWN", Code(-1).String())
}

func TestErrorf(t *testing.T) {
	err := Errorf(TooLong, "item %d has %d tokens", 3, 900)
	require.EqualError(t, err, "item 3 has 900 tokens")
	require.NoError(t, err.Unwrap())
	wrapped := Errorf(Internal, "read: %w", io.ErrUnexpectedEOF)
	require.ErrorIs(t, wrapped, io.ErrUnexpectedEOF)
	require.EqualError(t, wrapped, "read: unexpected EOF")
}

func TestIs(t *testing.T) {
	err := fmt.Errorf("around: %w", Errorf(Timeout, "late"))
	require.ErrorIs(t, err, &Error{Code: Timeout})
	require.ErrorIs(t, err, &Error{Code: Timeout, Msg: "late"})
	require.NotErrorIs(t, err, &Error{Code: Timeout, Msg: "early"})
	require.NotErrorIs(t, err, &Error{Code: Cancelled})
	require.NotErrorIs(t, err, io.EOF)
}

func TestOf(t *testing.T) {
	require.Nil(t, Of(nil, Internal))
	typed := Errorf(Empty, "no text")
	require.Same(t, typed, Of(typed, Internal))
	around := Of(fmt.Errorf("item 3: %w", typed), Internal)
	require.Equal(t, Empty, around.Code)
	require.EqualError(t, around, "item 3: no text")
	require.ErrorIs(t, around, typed)
	plain := Of(io.EOF, Tokenization)
	require.Equal(t, Tokenization, plain.Code)
	require.EqualError(t, plain, "EOF")
	require.ErrorIs(t, plain, io.EOF)
	joined := Of(errors.Join(io.EOF, typed), Internal)
	require.Equal(t, Empty, joined.Code)
	require.EqualError(t, joined, "EOF\nno text")
}

func TestCodeOf(t *testing.T) {
	require.Equal(t, OK, CodeOf(nil))
	require.Equal(t, Internal, CodeOf(io.EOF))
	require.Equal(t, NulByte, CodeOf(fmt.Errorf("a: %w", Errorf(NulByte, "b"))))
}
