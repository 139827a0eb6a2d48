package trt

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// cache keeps plans, and the kernels that a flavour makes from them, in a folder. Processes may share it.
//
// A file is a magic number, the SHA-256 of its payload, its length, and the payload. One that does not check out is made again. Names are
// digests of all that decides the content, so that nothing is ever out of date; what was not used for longest goes when the folder
// becomes larger than its limit. Files of other names are somebody else's, whatever they end in, and stay.
//
// The checksum finds damage, not malice: TensorRT trusts a plan, so that the folder's writers must be trusted.
type cache struct {
	folder string // "": keep nothing
	limit  int64  // bytes
}

const (
	cacheMagic   = "BEIPLAN1"
	cacheHeader  = len(cacheMagic) + sha256.Size + 8
	planSuffix   = ".plan"
	kernelSuffix = ".kernels"
	lockSuffix   = ".lock"

	defaultCacheBytes = 20 << 30
)

// cacheFolder is where plans lie if the options do not say.
func cacheFolder() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", status.Errorf(status.Start, "no folder for plans: %w; set tensorrt.cache, or \"off\" to keep none", err)
	}
	return filepath.Join(base, "bei", "plans"), nil
}

// key digests parts into a file name.
func key(parts ...any) (string, error) {
	text, err := json.Marshal(parts)
	if err != nil {
		return "", status.Errorf(status.Internal, "plan key: %w", err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16]), nil
}

// ownName matches files that store writes, and what it left of one when it was killed: names of key's.
var ownName = regexp.MustCompile(`^[0-9a-f]{32}\.(plan|kernels)(\.new-\d+)?$`)

// load returns the content of a file; nil where there is none that is whole.
func (c *cache) load(name string) []byte {
	if c.folder == "" {
		return nil
	}
	path := filepath.Join(c.folder, name)
	raw, err := os.ReadFile(path)
	if err != nil || len(raw) < cacheHeader || string(raw[:len(cacheMagic)]) != cacheMagic {
		return nil
	}
	sum, size, payload := raw[len(cacheMagic):][:sha256.Size], binary.LittleEndian.Uint64(raw[cacheHeader-8:]), raw[cacheHeader:]
	if size != uint64(len(payload)) || sha256.Sum256(payload) != [sha256.Size]byte(sum) {
		return nil
	}
	now := time.Now()
	_ = os.Chtimes(path, now, now) // it was used; a folder that may not be written to keeps its order
	return payload
}

// store writes a file, whole or not at all, and lets others go if the folder has become too large.
func (c *cache) store(name string, payload ...[]byte) error {
	if c.folder == "" {
		return nil
	}
	sum, size := sha256.New(), 0
	for _, part := range payload {
		_, _ = sum.Write(part) // a hash does not fail
		size += len(part)
	}
	header := sum.Sum([]byte(cacheMagic))
	header = binary.LittleEndian.AppendUint64(header, uint64(size))
	err := os.MkdirAll(c.folder, 0o755)
	if err == nil {
		err = writeAtomically(filepath.Join(c.folder, name), append([][]byte{header}, payload...)...)
	}
	if err != nil {
		return status.Errorf(status.Start, "keeping a plan: %w; set tensorrt.cache to a folder that can be written to, or \"off\"", err)
	}
	c.evict(name)
	return nil
}

func writeAtomically(path string, parts ...[]byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	for _, part := range parts {
		if _, err := f.Write(part); err != nil {
			return err
		}
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return f.Close()
}

// evict deletes what was not used for longest until the folder is within its limit. The file named stays. Parts that a killed process
// left go after an hour.
func (c *cache) evict(keep string) {
	entries, err := os.ReadDir(c.folder)
	if err != nil {
		return
	}
	type file struct {
		name string
		info fs.FileInfo
	}
	var files []file
	total := int64(0)
	for _, e := range entries {
		own := ownName.FindStringSubmatch(e.Name())
		if own == nil {
			continue
		}
		info, err := e.Info()
		switch part := own[2] != ""; {
		case err != nil || !info.Mode().IsRegular():
		case !part:
			files, total = append(files, file{e.Name(), info}), total+info.Size()
		case time.Since(info.ModTime()) > time.Hour:
			_ = os.Remove(filepath.Join(c.folder, e.Name())) // another process may have been quicker
		}
	}
	slices.SortFunc(files, func(a, b file) int {
		return cmp.Or(a.info.ModTime().Compare(b.info.ModTime()), strings.Compare(a.name, b.name))
	})
	for _, f := range files {
		if total <= c.limit {
			return
		}
		if f.name != keep && os.Remove(filepath.Join(c.folder, f.name)) == nil {
			total -= f.info.Size()
		}
	}
}

// lockPoll is how often a wait for another process's build looks again.
const lockPoll = 100 * time.Millisecond

// locked runs f while no other process that shares the folder runs one for the same name: two that start together build a plan once.
func (c *cache) locked(ctx context.Context, name string, f func() error) error {
	if c.folder == "" {
		return f()
	}
	if err := os.MkdirAll(c.folder, 0o755); err != nil {
		return f() // store says what is wrong
	}
	lock := flock.New(filepath.Join(c.folder, name+lockSuffix), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	defer func() { _ = lock.Close() }() // which unlocks it, also for children that were forked meanwhile and have its descriptor
	if _, err := lock.TryLockContext(ctx, lockPoll); err != nil && ctx.Err() != nil {
		return status.Errorf(status.Cancelled, "waiting for another process that builds the plan: %w", context.Cause(ctx))
	}
	return f() // on file systems without locks the worst is a second build
}
