package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// repoCache is a model's part of the cache. The umask alone bounds who may use what it makes, as with huggingface_hub: caches are shared.
type repoCache struct {
	root   string // the cache
	folder string // models--ORG--NAME
}

func newRepoCache(root, id string) repoCache {
	return repoCache{root: root, folder: "models--" + strings.ReplaceAll(id, "/", "--")}
}

func (c repoCache) path(parts ...string) string {
	return filepath.Join(append([]string{c.root, c.folder}, parts...)...)
}

func (c repoCache) snapshot(commit string) string { return c.path("snapshots", commit) }
func (c repoCache) blob(etag string) string       { return c.path("blobs", etag) }
func (c repoCache) lock(etag string) string {
	return filepath.Join(c.root, ".locks", c.folder, etag+".lock")
}
func (c repoCache) ref(revision string) string { return c.path("refs", filepath.FromSlash(revision)) }
func (c repoCache) file(commit, file string) string {
	return filepath.Join(c.snapshot(commit), filepath.FromSlash(file))
}
func (c repoCache) noExist(commit, file string) string {
	return c.path(".no_exist", commit, filepath.FromSlash(file))
}
func (c repoCache) has(commit, file string) bool         { return exists(c.file(commit, file)) }
func (c repoCache) knowsNoSuch(commit, file string) bool { return exists(c.noExist(commit, file)) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// readRef returns the commit that a revision was at. ok is false where the cache does not know.
func (c repoCache) readRef(revision string) (commit string, ok bool) {
	if commitPattern.MatchString(revision) {
		return revision, true
	}
	if info, err := os.Stat(c.ref(revision)); err != nil || !info.Mode().IsRegular() || info.Size() > 100 {
		return "", false
	}
	text, err := os.ReadFile(c.ref(revision))
	commit = strings.TrimSpace(string(text))
	return commit, err == nil && commitPattern.MatchString(commit)
}

// writeRef keeps the commit of a revision. A ref that says so already is left alone: the cache may be read-only.
func (c repoCache) writeRef(revision, commit string) error {
	if known, ok := c.readRef(revision); ok && known == commit {
		return nil
	}
	return c.replace(c.ref(revision), func(path string) error { return os.WriteFile(path, []byte(commit), 0o666) })
}

// link makes file of a snapshot point to a blob.
func (c repoCache) link(commit, file, etag string) error {
	path := c.file(commit, file)
	target, err := filepath.Rel(filepath.Dir(path), c.blob(etag))
	if err != nil {
		return err
	}
	return c.replace(path, func(path string) error { return os.Symlink(target, path) })
}

// markNoSuch keeps that a commit has no such file.
func (c repoCache) markNoSuch(commit, file string) error {
	if c.knowsNoSuch(commit, file) {
		return nil
	}
	return c.replace(c.noExist(commit, file), func(path string) error { return os.WriteFile(path, nil, 0o666) })
}

// replace puts at path, in one step, what create makes.
func (c repoCache) replace(path string, create func(path string) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return c.explain(err)
	}
	scratch, err := os.MkdirTemp(filepath.Dir(path), ".bei-")
	if err != nil {
		return c.explain(err)
	}
	defer os.RemoveAll(scratch)
	made := filepath.Join(scratch, "new")
	if err := create(made); err != nil {
		return c.explain(err)
	}
	// A relative link is made for where it will be: a rename does not change it.
	return c.explain(os.Rename(made, path))
}

// explain adds to an error of the file system what can be done.
func (c repoCache) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the cache: %w; free space or set permissions there, or name another folder (HF_HUB_CACHE)", err)
}

// cached is the snapshot of f's revision as the cache has it, or what is missing there.
func (f *fetch) cached() (Snapshot, error) {
	commit, ok := f.cache.readRef(f.Revision)
	if !ok {
		return Snapshot{}, f.notCached("it has no such revision")
	}
	if !f.cache.has(commit, configFile) {
		return Snapshot{}, f.notCached("its commit " + commit + " has no " + configFile)
	}
	// Whoever fetched every file got .gitattributes, which every model has; whoever asked for single ones left marks.
	whole := f.cache.has(commit, ".gitattributes")
	if !whole && !f.cache.has(commit, weights.ModulesFile) && !f.cache.knowsNoSuch(commit, weights.ModulesFile) {
		return Snapshot{}, f.notCached("it does not tell whether the model has " + weights.ModulesFile + ", which would change its vectors")
	}
	folder := f.cache.snapshot(commit)
	files, err := weights.Files(folder, func(name string) bool { return f.cache.has(commit, name) })
	if err != nil {
		return Snapshot{}, f.notCached(err.Error())
	}
	for _, name := range files {
		if !f.cache.has(commit, name) {
			return Snapshot{}, f.notCached("it lacks " + name)
		}
	}
	return Snapshot{Folder: folder, Commit: commit}, nil
}

func (f *fetch) notCached(why string) error {
	hint := "fetch it once"
	if f.Offline {
		hint = "fetch it once without HF_HUB_OFFLINE"
	}
	err := fmt.Errorf("the cache %s is not enough: %s; %s", f.Cache, why, hint)
	if _, missing := os.Stat(f.Cache); errors.Is(missing, fs.ErrNotExist) {
		err = fmt.Errorf("the cache %s does not exist; %s, or set HF_HOME or HF_HUB_CACHE", f.Cache, hint)
	}
	return err
}
