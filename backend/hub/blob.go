package hub

import (
	"context"
	"crypto/sha1" // git names small files by it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"go.uber.org/zap"
)

// incomplete ends the name of a blob that is being fetched.
const incomplete = ".incomplete"

const (
	copyBytes = 1 << 20
	// enoughProgress bytes between two failures give a fetch all its tries again: a large file may meet many.
	enoughProgress = 16 << 20
)

var (
	errMismatch = errors.New("its hash is not what the hub told")
	errPart     = errors.New("the part that is there cannot be continued")
)

// newHash is the hash that an ETag is of: SHA-256 of large files, git's SHA-1 of others. nil: it is none.
func newHash(h head) hash.Hash {
	if _, err := hex.DecodeString(h.etag); err != nil || strings.ToLower(h.etag) != h.etag {
		return nil
	}
	switch len(h.etag) {
	case 2 * sha256.Size:
		return sha256.New()
	case 2 * sha1.Size:
		s := sha1.New()
		fmt.Fprintf(s, "blob %d\x00", h.size)
		return s
	}
	return nil
}

// fetchBlob brings a content into the cache, unless it is there. One process at a time fetches it.
func (f *fetch) fetchBlob(ctx context.Context, commit, file string, h head) error {
	path := f.cache.blob(h.etag)
	if info, err := os.Stat(path); err == nil && info.Size() == h.size {
		return nil
	}
	for _, folder := range []string{filepath.Dir(path), filepath.Dir(f.cache.lock(h.etag))} {
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return f.cache.explain(err)
		}
	}
	unlock, err := f.lock(ctx, h.etag)
	if err != nil {
		return err
	}
	defer unlock()
	if info, err := os.Stat(path); err == nil {
		if info.Size() == h.size {
			f.progress.add(h.size, 0) // another process was faster
			return nil
		}
		f.Log.Warn("a damaged file of the cache is fetched anew", zap.String("path", path), zap.Int64("bytes", info.Size()),
			zap.Int64("expected_bytes", h.size))
	}
	if info, err := os.Stat(path + incomplete); err == nil && info.Size() > 0 {
		f.Log.Info("continuing an interrupted fetch", zap.String("model", f.ID), zap.String("file", file), zap.Int64("bytes", info.Size()))
	}
	b, err := openPartial(path+incomplete, h)
	if err != nil {
		return f.cache.explain(err)
	}
	defer b.file.Close()
	resumed := b.done > 0
	address := f.client.resolve(f.ID, commit, file)
	err = f.fill(ctx, b, address)
	if errors.Is(err, errPart) || (errors.Is(err, errMismatch) && resumed) {
		f.Log.Warn("what an interrupted fetch left is of no use; fetching the file anew", zap.String("file", file), zap.Error(err))
		f.progress.expect(h.size)
		if err = b.restart(); err == nil {
			err = f.fill(ctx, b, address)
		}
	}
	if errors.Is(err, errMismatch) {
		os.Remove(path + incomplete)
		return fmt.Errorf("%w; the hub or a proxy sends another content", err)
	}
	if err != nil {
		return err
	}
	return f.cache.explain(b.publish(path))
}

// lock waits until no other process fetches the blob.
func (f *fetch) lock(ctx context.Context, etag string) (unlock func(), err error) {
	l := flock.New(f.cache.lock(etag), flock.SetPermissions(0o666))
	said := time.AfterFunc(logEvery, func() {
		f.Log.Info("waiting for another process that fetches the same file", zap.String("model", f.ID), zap.String("lock", l.Path()))
	})
	defer said.Stop()
	if _, err := l.TryLockContext(ctx, 100*time.Millisecond); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		return nil, f.cache.explain(err)
	}
	return func() { _ = l.Unlock() }, nil
}

// partial is a blob that is not complete.
type partial struct {
	head
	file *os.File
	hash hash.Hash // of the first done bytes
	done int64
}

// openPartial opens what an earlier fetch left, or begins.
func openPartial(path string, h head) (*partial, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return nil, err
	}
	b := &partial{head: h, file: file, hash: newHash(h)}
	if b.done, err = io.Copy(b.hash, io.LimitReader(file, h.size)); err != nil {
		file.Close()
		return nil, err
	}
	return b, nil
}

func (b *partial) restart() error {
	b.done, b.hash = 0, newHash(b.head)
	_, err := b.file.Seek(0, io.SeekStart)
	return err
}

// publish puts the complete blob in its place.
func (b *partial) publish(path string) error {
	if err := b.file.Truncate(b.size); err != nil {
		return err
	}
	if err := b.file.Sync(); err != nil { // a blob that is there must be whole, after a power cut too
		return err
	}
	return os.Rename(b.file.Name(), path)
}

// fill fetches the rest of a blob, over several connections where some break, and checks its hash.
func (f *fetch) fill(ctx context.Context, b *partial, address string) error {
	for {
		before := b.done
		err := f.client.again(ctx, func() error { return f.fillOnce(ctx, b, address) })
		if err == nil {
			break
		}
		var failed *failure
		if ctx.Err() != nil || !errors.As(err, &failed) || !failed.transient || b.done-before < enoughProgress {
			return err
		}
	}
	if sum := hex.EncodeToString(b.hash.Sum(nil)); sum != b.etag {
		return fmt.Errorf("%w (%s, not %s)", errMismatch, sum, b.etag)
	}
	return nil
}

// fillOnce fetches the rest over one connection.
func (f *fetch) fillOnce(ctx context.Context, b *partial, address string) error {
	if b.done == b.size {
		return nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stalled := &failure{transient: true, text: fmt.Sprintf("no byte came for %v; what came before is kept, start again to go on, "+
		"with more time (HF_HUB_DOWNLOAD_TIMEOUT, in seconds) on a slow network", f.client.timeout)}
	header := http.Header{}
	if b.done > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", b.done))
	}
	answer, err := f.client.send(ctx, http.MethodGet, address, header)
	var refused *failure
	if errors.As(err, &refused) && refused.status == http.StatusRequestedRangeNotSatisfiable {
		return fmt.Errorf("%w: %w", errPart, err)
	}
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch {
	case b.done > 0 && answer.StatusCode == http.StatusOK: // no ranges here: all of it comes
		f.progress.expect(b.done)
		if err := b.restart(); err != nil {
			return f.cache.explain(err)
		}
	case b.done > 0 && !strings.HasPrefix(answer.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.done)):
		return fmt.Errorf("%w: the hub answers the range from byte %d with %q", errPart, b.done,
			shortened(answer.Header.Get("Content-Range"), 80))
	}
	watch := time.AfterFunc(f.client.timeout, func() { cancel(stalled) })
	defer watch.Stop()
	buffer := make([]byte, min(b.size+1, copyBytes))
	for {
		n, err := answer.Body.Read(buffer)
		watch.Reset(f.client.timeout)
		if int64(n) > b.size-b.done {
			return &failure{text: fmt.Sprintf("more than the %d bytes come that the hub told; a proxy or a login page may stand between", b.size)}
		}
		if n > 0 {
			if _, err := b.file.Write(buffer[:n]); err != nil {
				return f.cache.explain(err)
			}
			b.hash.Write(buffer[:n])
			b.done += int64(n)
			f.progress.add(int64(n), 0)
		}
		if errors.Is(err, io.EOF) && b.done == b.size {
			return nil
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if cause := context.Cause(ctx); err != nil && cause != nil {
			return cause
		}
		if err != nil {
			return &failure{transient: true, text: fmt.Sprintf("the connection broke after %d of %d bytes (%v); what came is kept, "+
				"start again to go on", b.done, b.size, err)}
		}
	}
}
