package weights

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Digest is a SHA-256, in hexadecimal, of Fingerprint and of every byte of every tensor: equal ones are of equal weights. It reads all
// files, on all CPUs that Go may use. Errors: Cancelled when ctx ends, Start where a file cannot be read.
func (s *Set) Digest(ctx context.Context) (string, error) {
	total := 0
	for _, f := range s.files {
		total += len(f.entries)
	}
	sums := make([][sha256.Size]byte, total)
	group, within := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	i := 0
	for _, f := range s.files {
		for _, e := range f.entries {
			sum := &sums[i]
			i++
			group.Go(func() (err error) {
				if *sum, err = f.sum(within, e); err != nil {
					return fmt.Errorf("%s in %q: %w", f.name, s.dir, err)
				}
				return nil
			})
		}
	}
	err := group.Wait()
	switch {
	case ctx.Err() != nil:
		return "", status.Errorf(status.Cancelled, "reading the weights: %w", context.Cause(ctx))
	case err != nil:
		return "", status.Errorf(status.Start, "%w", err)
	}
	all := sha256.New()
	frame(all, []byte(s.fingerprint))
	for i := range sums {
		all.Write(sums[i][:])
	}
	return hex.EncodeToString(all.Sum(nil)), nil
}

// sum is the SHA-256 of a tensor's bytes. Read, not mapped: this should leave no pages resident.
func (f *file) sum(ctx context.Context, e entry) (sum [sha256.Size]byte, err error) {
	h, buffer := sha256.New(), make([]byte, min(e.end-e.begin, 1<<20))
	for at := e.begin; at < e.end; {
		if ctx.Err() != nil {
			return sum, ctx.Err()
		}
		n := min(e.end-at, int64(len(buffer)))
		if _, err := f.f.ReadAt(buffer[:n], at); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return sum, err
		}
		h.Write(buffer[:n])
		at += n
	}
	h.Sum(sum[:0])
	return sum, nil
}
