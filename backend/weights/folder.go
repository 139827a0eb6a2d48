package weights

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Names of files, as transformers and sentence-transformers write them.
const (
	SingleFile  = "model.safetensors"
	IndexFile   = "model.safetensors.index.json"
	ModulesFile = "modules.json"
)

const (
	maxIndex  = 100_000_000 // bytes of an index or modules.json
	maxShards = 1024        // each costs a file descriptor and a mapping
)

// Folders returns the folders of dir that can have weights: those of modules.json in its order, or dir itself ("").
func Folders(dir string) ([]string, error) {
	raw, err := readJSON(filepath.Join(dir, ModulesFile))
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
		return nil, fmt.Errorf("%s: %w", ModulesFile, brief(err))
	}
	if len(modules) == 0 {
		return nil, fmt.Errorf("%s lists no modules", ModulesFile)
	}
	var folders []string
	for i, m := range modules {
		if m.Path != "" && !(fs.ValidPath(m.Path) && m.Path != "." && !strings.Contains(m.Path, `\`)) {
			return nil, fmt.Errorf("%s: path %s of module %d leaves the folder or is not plain", ModulesFile, quote(m.Path), i)
		}
		if !slices.Contains(folders, m.Path) {
			folders = append(folders, m.Path)
		}
	}
	if len(folders) > maxShards {
		return nil, fmt.Errorf("%s has %d folders; the limit is %d", ModulesFile, len(folders), maxShards)
	}
	return folders, nil
}

// Files returns the paths of the weights of dir, relative to it: of each module's folder its single file or, where exists says that
// there is none, the shards that its index names; modules without parameters have neither. modules.json and the indices must be in dir,
// the weights need not. An error of status.WeightsNotFound says that the transformer's folder has no weights.
func Files(dir string, exists func(name string) bool) ([]string, error) {
	folders, err := Folders(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for i, folder := range folders {
		if single := path.Join(folder, SingleFile); exists(single) {
			files = append(files, single)
			continue
		}
		index, err := readIndex(filepath.Join(dir, folder, IndexFile))
		if err != nil {
			return nil, err
		}
		if i == 0 && index == nil {
			return nil, noWeights(folder, "")
		}
		shards := make(map[string]struct{})
		for _, file := range index {
			shards[path.Join(folder, file)] = struct{}{}
		}
		if len(shards) > maxShards {
			return nil, fmt.Errorf("%s names %d files; the limit is %d", path.Join(folder, IndexFile), len(shards), maxShards)
		}
		files = append(files, sortedKeys(shards)...)
	}
	return append(files, heads(exists)...), nil
}

// heads are the files of heads beside the model that there are: of each the one that is read.
func heads(exists func(name string) bool) []string {
	var files []string
	for _, head := range headFiles {
		for _, suffix := range []string{".safetensors", ".pt"} {
			if exists(head + suffix) {
				files = append(files, head+suffix)
				break
			}
		}
	}
	return files
}

// noWeights says that the transformer's folder has none; poolings and normalisations may lack them. instead tells what lies there.
func noWeights(folder, instead string) error {
	return status.Errorf(status.WeightsNotFound, "neither %s nor %s%s", filepath.Join(folder, SingleFile), IndexFile, instead)
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
		return nil, fmt.Errorf("%s: %w", IndexFile, brief(err))
	}
	if len(index.WeightMap) == 0 {
		return nil, fmt.Errorf("%s: weight_map is missing or empty", IndexFile)
	}
	for tensor, file := range index.WeightMap {
		if file == "" || file == "." || file == ".." || strings.ContainsAny(file, "/\\\x00") {
			return nil, fmt.Errorf("%s: tensor %s lies in %s, which is not a plain file name in the same folder", IndexFile, quote(tensor), quote(file))
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
	f, err := openFile(filepath.Join(dir, SingleFile))
	if err == nil {
		return true, s.add(f, prefix, nil)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	index, err := readIndex(filepath.Join(dir, IndexFile))
	if index == nil || err != nil {
		return false, err
	}
	shards := make(map[string][]string) // tensors by file
	for tensor, file := range index {
		shards[file] = append(shards[file], tensor)
	}
	if len(shards) > maxShards {
		return false, fmt.Errorf("%s names %d files; the limit is %d", IndexFile, len(shards), maxShards)
	}
	for _, name := range sortedKeys(shards) {
		f, err := openFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return false, status.Errorf(status.WeightsNotFound, "shard %s is missing; %s names it for %d tensors", quote(name), IndexFile, len(shards[name]))
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
