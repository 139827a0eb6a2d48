// Package weights reads safetensors files by tensor name: mapped, never copied unless the dtype demands it.
//
// Caveats: tensors are views of file mappings. They end with Set.Close. A file must not be truncated or overwritten in place while
// it is open (replace it by rename, as every saver does): the operating system answers a read beyond the new end with SIGBUS, which no
// program can turn into an error. Set.Tensor notices a file that has shrunk before; it cannot notice one that shrinks later.
package weights

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Set is the tensors of a model folder by name. All methods may be called from any goroutine; Close waits for none of the views.
type Set struct {
	dir         string
	files       []*file
	tensors     map[string]located
	names       []string // sorted
	bytes       int64
	fingerprint string

	mu     sync.RWMutex // held for reading while a mapping is used here, so that Close cannot unmap it
	closed bool
}

type located struct {
	entry
	file *file
}

// file is an open, mapped file of safetensors, or of torch.save.
type file struct {
	name    string // base name, for messages
	f       *os.File
	data    []byte // the whole file
	header  []byte
	entries []entry
}

// Open maps the safetensors files of a model folder: model.safetensors, or the shards of model.safetensors.index.json. Where the folder has
// modules.json (sentence-transformers), the folders of its modules are opened as well, and a tensor there is named
// "<folder>/<tensor>", such as "2_Dense/linear.weight". The heads that bge-m3 has in files of their own, as safetensors or as torch saves
// them, are opened too: tensors of sparse_linear.pt are named "sparse_linear.<tensor>".
//
// Errors are *status.Error: WeightsNotFound for missing files and tensors, Start for damaged ones.
func Open(dir string) (*Set, error) {
	s := &Set{dir: dir, tensors: make(map[string]located)}
	if err := s.open(); err != nil {
		s.Close()
		code := status.Start
		if e := (*status.Error)(nil); errors.As(err, &e) {
			code = e.Code
		}
		return nil, status.Errorf(code, "weights in %q: %w", dir, err)
	}
	return s, nil
}

func (s *Set) open() error {
	if info, err := os.Stat(s.dir); err != nil {
		return status.Errorf(status.WeightsNotFound, "%w", err)
	} else if !info.IsDir() {
		return status.Errorf(status.WeightsNotFound, "not a folder")
	}
	folders, err := Folders(s.dir)
	if err != nil {
		return err
	}
	for i, folder := range folders {
		found, err := s.openFolder(folder)
		if err != nil {
			return err
		}
		if i == 0 && !found {
			return noWeights(folder, s.otherFormats(folder))
		}
	}
	for _, name := range headFiles {
		if err := s.openHead(name); err != nil {
			return err
		}
	}
	s.names = sortedKeys(s.tensors)
	s.fingerprint, err = s.digest()
	return err
}

// otherFormats says which weights of formats that are not read lie in a folder.
func (s *Set) otherFormats(folder string) string {
	for _, name := range []string{"pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "model.onnx", "flax_model.msgpack"} {
		if _, err := os.Stat(filepath.Join(s.dir, folder, name)); err == nil {
			return fmt.Sprintf(" (there is %s: save the model as safetensors)", name)
		}
	}
	return ""
}

// openFile maps a safetensors file and reads its header. Errors other than fs.ErrNotExist name the file.
func openFile(path string) (*file, error) { return mapFile(path, "safetensors", parse) }

// mapFile maps a file of a format whose header parse reads.
func mapFile(path, format string, parse func(file []byte) ([]entry, []byte, error)) (*file, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*file, error) {
		f.Close()
		return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if size := info.Size(); size < 8 || size > math.MaxInt { // an empty file cannot be mapped
		return fail(fmt.Errorf("file of %d bytes is too short for a %s header (8 bytes and more)", size, format))
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fail(fmt.Errorf("mmap of %d bytes: %w", info.Size(), err))
	}
	entries, header, err := parse(data)
	if err != nil {
		_ = unix.Munmap(data)
		return fail(err)
	}
	return &file{name: filepath.Base(path), f: f, data: data, header: header, entries: entries}, nil
}

// add takes ownership of f and adds its tensors: those that only names, or all of them where it is nil.
func (s *Set) add(f *file, prefix string, only []string) error {
	f.name = prefix + f.name
	s.files = append(s.files, f)
	own := make(map[string]entry, len(f.entries))
	for _, e := range f.entries {
		own[e.name] = e
		if only == nil {
			if err := s.put(prefix+e.name, located{e, f}); err != nil {
				return err
			}
		}
	}
	for _, name := range only {
		e, ok := own[name]
		if !ok {
			return status.Errorf(status.WeightsNotFound, "tensor %s is not in %s, where %s places it", quote(name), f.name, IndexFile)
		}
		if err := s.put(prefix+name, located{e, f}); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) put(name string, l located) error {
	if other, dup := s.tensors[name]; dup {
		return fmt.Errorf("tensor %s is in both %s and %s", quote(name), other.file.name, l.file.name)
	}
	s.tensors[name] = l
	s.bytes += l.end - l.begin
	return nil
}

// Shape returns the shape of a tensor of any dtype, a copy; false: there is no such tensor.
func (s *Set) Shape(name string) ([]int, bool) {
	l, ok := s.tensors[name]
	return slices.Clone(l.shape), ok
}

// Usable refuses (Unsupported) a tensor that is there in another dtype than F32, F16 and BF16.
func (s *Set) Usable(name string) error {
	if l, ok := s.tensors[name]; ok && !l.dtype.usable() {
		return status.Errorf(status.Unsupported, "tensor %s in %q has dtype %s; supported: F32, F16, BF16", quote(name), s.dir, quote(string(l.dtype)))
	}
	return nil
}

// Tensor returns a view of a tensor. Errors: WeightsNotFound with near names, Unsupported for dtypes other than F32, F16 and
// BF16, Start where the file has become shorter, ShutDown after Close.
func (s *Set) Tensor(name string) (Tensor, error) {
	l, ok := s.tensors[name]
	if !ok {
		return Tensor{}, status.Errorf(status.WeightsNotFound, "weights in %q have no tensor %s%s", s.dir, quote(name), s.didYouMean(name))
	}
	if err := s.Usable(name); err != nil {
		return Tensor{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return Tensor{}, status.Errorf(status.ShutDown, "weights in %q are closed", s.dir)
	}
	if info, err := l.file.f.Stat(); err != nil {
		return Tensor{}, status.Errorf(status.Start, "%s in %q: %w", l.file.name, s.dir, err)
	} else if info.Size() < int64(len(l.file.data)) {
		return Tensor{}, status.Errorf(status.Start, "%s in %q was truncated from %d to %d bytes while open", l.file.name, s.dir, len(l.file.data), info.Size())
	}
	return Tensor{Name: name, DType: l.dtype, Shape: slices.Clone(l.shape), data: l.file.data[l.begin:l.end:l.end]}, nil
}

// Release tells the operating system that a tensor's bytes are not needed in memory for now: whole pages within it leave the
// resident set. The view stays valid; a later read brings them back from the file.
func (s *Set) Release(t Tensor) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed || len(t.data) == 0 {
		return
	}
	page := os.Getpagesize()
	first := -int(uintptr(unsafe.Pointer(&t.data[0]))) & (page - 1) // bytes before the first whole page
	if whole := (len(t.data) - first) &^ (page - 1); whole > 0 {
		_ = unix.Madvise(t.data[first:first+whole], unix.MADV_DONTNEED) // advice: a refusal costs memory only
	}
}

// Names returns the names of all tensors, sorted.
func (s *Set) Names() []string { return slices.Clone(s.names) }

// Files returns the names of the files, in the order of their folders.
func (s *Set) Files() []string {
	names := make([]string, len(s.files))
	for i, f := range s.files {
		names[i] = f.name
	}
	return names
}

// TotalBytes is the size of all tensors as they are stored.
func (s *Set) TotalBytes() int64 { return s.bytes }

// Fingerprint is a SHA-256, in hexadecimal, of each file's name, size and header and of 4 KiB in the middle of each tensor. It does not
// depend on the folder's place or on file times. Different fingerprints prove different weights. Equal ones prove equal names, dtypes, shapes
// and samples, which tells fine-tuned siblings apart; they do not prove that no other byte differs. It costs a small read for each tensor.
func (s *Set) Fingerprint() string { return s.fingerprint }

func (s *Set) digest() (string, error) {
	h := sha256.New()
	buf := make([]byte, 4096)
	for _, f := range s.files { // in the order of Open: folders as listed, shards by name
		frame(h, []byte(f.name))
		frame(h, f.header)
		frame(h, binary.LittleEndian.AppendUint64(nil, uint64(len(f.data))))
		for _, e := range f.entries {
			n := min(e.end-e.begin, int64(len(buf)))
			// Read, not mapped: sampling should leave no pages resident.
			if _, err := f.f.ReadAt(buf[:n], e.begin+(e.end-e.begin-n)/2); err != nil {
				return "", fmt.Errorf("%s: %w", f.name, err)
			}
			frame(h, buf[:n])
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// frame hashes a length before the bytes, so that no two lists of parts hash alike.
func frame(h hash.Hash, part []byte) {
	h.Write(binary.LittleEndian.AppendUint64(nil, uint64(len(part))))
	h.Write(part)
}

// Close unmaps the files. All views are invalid afterwards; names, shapes and the fingerprint stay. Calling it twice is harmless.
func (s *Set) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var errs []error
	for _, f := range s.files {
		errs = append(errs, unix.Munmap(f.data), f.f.Close())
		f.data, f.header = nil, nil
	}
	return errors.Join(errs...)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
