package hub

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

const (
	configFile = "config.json"
	// inParallel files are fetched at once: one connection seldom fills a network.
	inParallel = 4
)

// fetchAll brings what a model is read from into the cache: its small files, those of its modules, and its weights. Which there are, the
// files before tell.
func (f *fetch) fetchAll(ctx context.Context, r repo) error {
	if !r.files[configFile] {
		return fmt.Errorf("it has no %s: is it a model?", configFile)
	}
	small := slices.Concat(f.Files, []string{configFile, weights.ModulesFile, weights.IndexFile})
	if err := f.fetchFiles(ctx, r, small); err != nil {
		return err
	}
	for _, name := range small {
		if r.files[name] {
			continue
		}
		// It tells who comes offline that nothing is missing. That one may do without: the cache may be read-only.
		if err := f.cache.markNoSuch(r.Commit, name); err != nil {
			f.Log.Debug("cannot mark what a model lacks", zap.String("file", name), zap.Error(err))
			break
		}
	}
	folder := f.cache.snapshot(r.Commit)
	folders, err := weights.Folders(folder)
	if err != nil {
		return err
	}
	var modules []string
	for _, module := range folders {
		if module == "" {
			continue
		}
		for _, name := range small {
			modules = append(modules, path.Join(module, name))
		}
	}
	if err := f.fetchFiles(ctx, r, modules); err != nil {
		return err
	}
	files, err := weights.Files(folder, func(name string) bool { return r.files[name] })
	if status.CodeOf(err) == status.WeightsNotFound {
		return fmt.Errorf("it has %w%s", err, otherWeights(r))
	}
	if err != nil {
		return err
	}
	for _, name := range files {
		if !r.files[name] {
			return fmt.Errorf("it has no %s, which an index of its names", name)
		}
	}
	return f.fetchFiles(ctx, r, files)
}

// otherWeights says which weights of other formats a model has.
func otherWeights(r repo) string {
	for _, name := range slices.Sorted(maps.Keys(r.files)) {
		for _, end := range []string{".bin", ".onnx", ".h5", ".msgpack", ".gguf", ".safetensors"} {
			if strings.HasSuffix(name, end) {
				return fmt.Sprintf(" (it has %q): save it with save_pretrained, and give that folder or upload it", shortened(name, 100))
			}
		}
	}
	return ""
}

// fetchFiles brings those of names that the model has and the snapshot has not.
func (f *fetch) fetchFiles(ctx context.Context, r repo, names []string) error {
	var missing []string
	for _, name := range names {
		if r.files[name] && !f.cache.has(r.Commit, name) && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	heads := make([]head, len(missing))
	err := each(ctx, len(missing), func(ctx context.Context, i int) (err error) {
		heads[i], err = f.client.head(ctx, f.ID, r.Commit, missing[i])
		return named(missing[i], err)
	})
	if err != nil {
		return err
	}
	var needed int64
	for _, h := range heads {
		needed += f.unfetched(h)
	}
	if err := f.checkSpace(needed); err != nil {
		return err
	}
	f.progress.expect(needed)
	return each(ctx, len(missing), func(ctx context.Context, i int) error {
		err := f.fetchBlob(ctx, r.Commit, missing[i], heads[i])
		if err == nil {
			err = f.cache.link(r.Commit, missing[i], heads[i].etag)
		}
		return named(missing[i], err)
	})
}

func named(file string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("file %s: %w", file, err)
}

// each calls do for 0 to n-1, some at once, up to the first error.
func each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inParallel)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// unfetched is how many bytes of a blob are not there.
func (f *fetch) unfetched(h head) int64 {
	for _, path := range []string{f.cache.blob(h.etag), f.cache.blob(h.etag) + incomplete} {
		if info, err := os.Stat(path); err == nil {
			return max(h.size-info.Size(), 0)
		}
	}
	return h.size
}

// checkSpace refuses what the disk cannot hold before hours are spent on it.
func (f *fetch) checkSpace(needed int64) error {
	if needed == 0 {
		return nil
	}
	blobs := f.cache.blob("")
	if err := os.MkdirAll(blobs, 0o777); err != nil {
		return f.cache.explain(err)
	}
	var s unix.Statfs_t
	if err := unix.Statfs(blobs, &s); err != nil {
		return nil // a file system that does not tell: writing will
	}
	if free := int64(s.Bavail) * s.Bsize; s.Blocks > 0 && free < needed {
		return f.cache.explain(fmt.Errorf("%s has %d MB free, and %d MB are needed", f.Cache, free>>20, (needed+1<<20-1)>>20))
	}
	return nil
}
