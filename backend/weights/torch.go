package weights

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"path/filepath"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// headFiles are the heads that FlagEmbedding saves in files of their own beside the model: bge-m3's. Published folders have them as
// <name>.pt, by torch.save.
var headFiles = []string{"colbert_linear", "sparse_linear"}

// openHead adds the tensors of a head's file, where there is one: <name>.safetensors before <name>.pt.
func (s *Set) openHead(name string) error {
	f, err := openFile(filepath.Join(s.dir, name+".safetensors"))
	if errors.Is(err, fs.ErrNotExist) {
		f, err = mapFile(filepath.Join(s.dir, name+".pt"), "torch", parseTorch)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for i := range f.entries {
		f.entries[i].name = name + "." + f.entries[i].name
	}
	return s.add(f, "", nil)
}

const maxPickle = 1 << 20 // bytes; a head of two tensors has some 500

// parseTorch reads what torch.save (1.6 and later) makes of a state dict: a zip file that has a pickle of the tensors' names and shapes,
// and their bytes as they are, uncompressed (https://docs.pytorch.org/docs/stable/notes/serialization.html). It returns the tensors, as
// places in the file, and the pickle. The pickle is interpreted, never run: see unpickler.
func parseTorch(file []byte) (entries []entry, header []byte, err error) {
	z, err := zip.NewReader(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		return nil, nil, fmt.Errorf("no zip file as torch.save writes it since 1.6 (%w): save the head as safetensors", err)
	}
	archive := torchArchive{size: int64(len(file)), parts: make(map[string]*zip.File)}
	for _, f := range z.File {
		_, part, ok := strings.Cut(f.Name, "/") // all lie in one folder, whose name is free
		if _, dup := archive.parts[part]; !ok || dup {
			return nil, nil, fmt.Errorf("zip entry %s is there twice or in no folder", quote(f.Name))
		}
		archive.parts[part] = f
	}
	if order, err := archive.read("byteorder"); err == nil && string(order) != "little" {
		return nil, nil, status.Errorf(status.Unsupported, "byteorder is %s; supported: little", quote(string(order)))
	}
	if header, err = archive.read("data.pkl"); err != nil {
		return nil, nil, err
	}
	tensors, err := unpickle(header)
	if err != nil {
		return nil, nil, fmt.Errorf("data.pkl: %w", err)
	}
	for _, t := range tensors {
		e, err := archive.place(t)
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %s: %w", quote(t.name), err)
		}
		entries = append(entries, e)
	}
	return entries, header, nil
}

type torchArchive struct {
	size  int64
	parts map[string]*zip.File // by the name within the archive's folder
}

// read returns a small part.
func (a *torchArchive) read(name string) ([]byte, error) {
	f, ok := a.parts[name]
	if !ok {
		return nil, fmt.Errorf("zip entry %s is missing: torch.save did not write this file", name)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("zip entry %s: %w", name, err)
	}
	defer r.Close()
	content, err := io.ReadAll(io.LimitReader(r, maxPickle+1))
	if err != nil {
		return nil, fmt.Errorf("zip entry %s: %w", name, err)
	}
	if len(content) > maxPickle {
		return nil, fmt.Errorf("zip entry %s exceeds the limit of %d bytes", name, maxPickle)
	}
	return content, nil
}

// place finds a tensor's bytes in the file. They must be row after row: a transposed view is none.
func (a *torchArchive) place(t torchTensor) (entry, error) {
	elements, stride := uint64(1), int64(1)
	for i := len(t.shape) - 1; i >= 0; i-- {
		d := t.shape[i]
		if d < 1 || d > maxDim {
			return entry{}, fmt.Errorf("shape %v: dimension %d is outside 1 to %d", t.shape, d, int64(maxDim))
		}
		if d > 1 && t.strides[i] != stride {
			return entry{}, status.Errorf(status.Unsupported, "shape %v has strides %v; it must be contiguous", t.shape, t.strides)
		}
		high, low := bits.Mul64(elements, uint64(d))
		if high != 0 || low > 1<<56 {
			return entry{}, fmt.Errorf("shape %v: the number of elements overflows", t.shape)
		}
		elements, stride = low, int64(low)
	}
	width := uint64(t.storage.dtype.bits() / 8)
	f, ok := a.parts["data/"+t.storage.key]
	switch {
	case !ok:
		return entry{}, fmt.Errorf("zip entry data/%s is missing", quote(t.storage.key))
	case f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64:
		return entry{}, fmt.Errorf("zip entry data/%s is compressed; torch.save stores it as it is", quote(t.storage.key))
	case t.offset < 0 || uint64(t.offset) > 1<<56 || (uint64(t.offset)+elements)*width > f.UncompressedSize64:
		return entry{}, fmt.Errorf("offset %d and %d elements of %s exceed the %d bytes of data/%s", t.offset, elements, t.storage.dtype, f.UncompressedSize64, quote(t.storage.key))
	}
	start, err := f.DataOffset()
	if err != nil {
		return entry{}, err
	}
	e := entry{name: t.name, dtype: t.storage.dtype, shape: make([]int, len(t.shape)), begin: start + t.offset*int64(width)}
	if e.end = e.begin + int64(elements*width); start < 0 || e.end > a.size {
		return entry{}, fmt.Errorf("its bytes [%d, %d) exceed the %d of the file", e.begin, e.end, a.size)
	}
	for i, d := range t.shape {
		e.shape[i] = int(d)
	}
	return e, nil
}
