package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Hash returns what a File says of a file of dir.
func Hash(ctx context.Context, dir, name string) (File, error) {
	f, err := openRegular(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h, buffer, total := sha256.New(), make([]byte, 1<<20), int64(0)
	for {
		if err := context.Cause(ctx); err != nil {
			return File{}, err
		}
		n, err := f.Read(buffer)
		h.Write(buffer[:n])
		total += int64(n)
		if err == io.EOF {
			return File{Name: name, Bytes: total, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
		}
		if err != nil {
			return File{}, err
		}
	}
}

func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe could block for ever
		return nil, errors.New("is no regular file")
	}
	return os.Open(path)
}

// CheckFiles compares the files of dir with the manifest's: their sizes, and the hashes of those for which hash is true. Errors are
// status.Start, or ctx's.
func (m *Manifest) CheckFiles(ctx context.Context, dir string, hash func(name string) bool) error {
	for _, want := range m.Files {
		if err := want.check(ctx, dir, hash(want.Name)); err != nil {
			if ctx.Err() != nil {
				return err
			}
			return status.Errorf(status.Start, "%s: %s %w: the manifest belongs to another version of the model; restore the file, or %s",
				filepath.Join(dir, FileName), want.Name, err, howTo)
		}
	}
	return nil
}

func (want *File) check(ctx context.Context, dir string, hash bool) error {
	info, err := os.Stat(filepath.Join(dir, filepath.FromSlash(want.Name)))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("is missing")
	case err != nil:
		return err
	case info.Size() != want.Bytes:
		return fmt.Errorf("has %d bytes, not %d", info.Size(), want.Bytes)
	case !hash:
		return nil
	}
	got, err := Hash(ctx, dir, want.Name)
	if err == nil && got.SHA256 != want.SHA256 {
		err = fmt.Errorf("has the SHA-256 %s, not %s", got.SHA256, want.SHA256)
	}
	return err
}
