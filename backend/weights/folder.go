package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Names of files, as transformers and sentence-transformers write them.
const (
	singleFile  = "model.safetensors"
	indexFile   = "model.safetensors.index.json"
	modulesFile = "modules.json"
)

const (
	maxIndex  = 100_000_000 // bytes of an index or modules.json
	maxShards = 1024        // each costs a file descriptor and a mapping
)

// moduleFolders returns the folders of dir that can have weights: those of modules.json in its order, or dir itself ("").
func moduleFolders(dir string) ([]string, error) {
	raw, err := readJSON(filepath.Join(dir, modulesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return []string{""}, nil
	}
	if err != nil {
		return nil, err
	}
	var modules []struct {
		Path string `json:"path"`
	}
	if err := json.Unmarshal(raw, &modules); err != nil {
		return nil, fmt.Errorf("%s: %w", modulesFile, brief(err))
	}
	if len(modules) == 0 {
		return nil, fmt.Errorf("%s lists no modules", modulesFile)
	}
	var folders []string
	for i, m := range modules {
		if m.Path != "" && !(fs.ValidPath(m.Path) && m.Path != "." && !strings.Contains(m.Path, `\`)) {
			return nil, fmt.Errorf("%s: path %s of module %d leaves the folder or is not plain", modulesFile, quote(m.Path), i)
		}
		if !slices.Contains(folders, m.Path) {
			folders = append(folders, m.Path)
		}
	}
	if len(folders) > maxShards {
		return nil, fmt.Errorf("%s has %d folders; the limit is %d", modulesFile, len(folders), maxShards)
	}
	return folders, nil
}

// readIndex returns the weight_map of a sharded checkpoint: file by tensor. nil: there is no index.
func readIndex(path string) (map[string]string, error) {
	raw, err := readJSON(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, brief(err))
	}
	if len(index.WeightMap) == 0 {
		return nil, fmt.Errorf("%s: weight_map is missing or empty", indexFile)
	}
	for tensor, file := range index.WeightMap {
		if file == "" || file == "." || file == ".." || strings.ContainsAny(file, "/\\\x00") {
			return nil, fmt.Errorf("%s: tensor %s lies in %s, which is not a plain file name in the same folder", indexFile, quote(tensor), quote(file))
		}
	}
	return index.WeightMap, nil
}

// openFolder adds the tensors of one folder: of its single file or, where there is none, of the shards that its index names. It
// returns false where it has neither.
func (s *Set) openFolder(folder string) (bool, error) {
	dir := filepath.Join(s.dir, folder)
	prefix := ""
	if folder != "" {
		prefix = folder + "/"
	}
	f, err := openFile(filepath.Join(dir, singleFile))
	if err == nil {
		return true, s.add(f, prefix, nil)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	index, err := readIndex(filepath.Join(dir, indexFile))
	if index == nil || err != nil {
		return false, err
	}
	shards := make(map[string][]string) // tensors by file
	for tensor, file := range index {
		shards[file] = append(shards[file], tensor)
	}
	if len(shards) > maxShards {
		return false, fmt.Errorf("%s names %d files; the limit is %d", indexFile, len(shards), maxShards)
	}
	for _, name := range sortedKeys(shards) {
		f, err := openFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return false, status.Errorf(status.WeightsNotFound, "shard %s is missing; %s names it for %d tensors", quote(name), indexFile, len(shards[name]))
		}
		if err != nil {
			return false, err
		}
		if err := s.add(f, prefix, shards[name]); err != nil {
			return false, err
		}
	}
	return true, nil
}

// readJSON reads a whole small file. Errors are fs.ErrNotExist or name the file.
func readJSON(path string) ([]byte, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxIndex {
		return nil, fmt.Errorf("%s has %d bytes; the limit is %d", filepath.Base(path), info.Size(), maxIndex)
	}
	return io.ReadAll(io.LimitReader(f, maxIndex))
}

// openRegular opens a regular file; opening a pipe or a device could block for ever.
func openRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", filepath.Base(path))
	}
	return os.Open(path)
}
