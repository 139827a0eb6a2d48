// Package hub brings models of the Hugging Face hub to this machine. It keeps them in the cache of Python's huggingface_hub, in its
// layout and under its locks, so that either uses what the other fetched:
//
//	HUB_CACHE/models--ORG--NAME/refs/REVISION              the commit that a branch or tag was at
//	HUB_CACHE/models--ORG--NAME/snapshots/COMMIT/FILE      links to blobs: a model's folder
//	HUB_CACHE/models--ORG--NAME/blobs/ETAG                 contents, named by their hash: SHA-256, or git's SHA-1 of small files
//	HUB_CACHE/models--ORG--NAME/.no_exist/COMMIT/FILE      empty: this commit has no such file
//	HUB_CACHE/.locks/models--ORG--NAME/ETAG.lock           held (flock) while a blob is fetched
//
// Only the files that a model is read from are fetched. A blob appears once its size and hash are what the hub said; what an interrupted
// fetch leaves, blobs/ETAG.incomplete, is continued by the next. The hub is not trusted: no name that it sends becomes a path unless
// it is a plain one.
//
// Environment variables are huggingface_hub's: HF_ENDPOINT, HF_HOME, HF_HUB_CACHE (HUGGINGFACE_HUB_CACHE), HF_TOKEN, HF_TOKEN_PATH,
// HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_HUB_OFFLINE (TRANSFORMERS_OFFLINE), HF_HUB_DOWNLOAD_TIMEOUT; and those of proxies.
package hub

import (
	"context"
	"errors"
	"regexp"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Request names a model of a hub. What is empty is taken from the environment.
type Request struct {
	ID       string // ORG/NAME, or NAME
	Revision string // branch, tag or commit; "": main
	Endpoint string // the hub's URL
	Token    string
	Cache    string // folder
	Offline  bool   // never ask the hub: use what the cache has
	// Files are the names that are fetched where the model has them, from its folder and from those of its modules; weights come on top.
	Files []string
	// Progress is told of bytes of files, now and then, from one goroutine at a time; nil: it is logged every two seconds.
	Progress func(Progress)
	Log      *zap.Logger
}

// Progress is how far the fetching of a model's files is. Total grows when the small files have told which further ones there are.
type Progress struct {
	Done, Total int64 // bytes
}

// Snapshot is a model in the cache.
type Snapshot struct {
	Folder string
	Commit string // 40 hexadecimal digits
}

// DefaultRevision is the branch that is taken where none is named.
const DefaultRevision = "main"

const maxID = 96 // bytes, as in huggingface_hub

var (
	idPattern     = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?(/[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?)?$`)
	commitPattern = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// A revision is a path below refs/, too.
	revisionPattern = regexp.MustCompile(`^[A-Za-z0-9_+@=][A-Za-z0-9_.+@=-]*(/[A-Za-z0-9_+@=][A-Za-z0-9_.+@=-]*)*$`)
)

// IsID tells whether name can be a model's id on a hub: the rules of huggingface_hub.
func IsID(name string) bool {
	return len(name) <= maxID && idPattern.MatchString(name) && !strings.Contains(name, "--") && !strings.Contains(name, "..")
}

// Fetch returns the model's folder in the cache, after fetching what is missing there. Where the commit is told and the cache has it,
// or r or the environment say offline, the hub is not asked; where the hub cannot be reached and the cache has the revision, that is
// used, with a warning. Errors are *status.Error (status.Start, or status.InvalidArgument for r) and name id, revision and file.
func Fetch(ctx context.Context, r Request) (Snapshot, error) {
	if r.Log == nil {
		r.Log = zap.NewNop()
	}
	if r.Revision == "" {
		r.Revision = DefaultRevision
	}
	if !IsID(r.ID) {
		return Snapshot{}, status.Errorf(status.InvalidArgument, "%q is no id of a hub: ORG/NAME of letters, digits, '-', '_' and '.'", r.ID)
	}
	if len(r.Revision) > 255 || !revisionPattern.MatchString(r.Revision) {
		return Snapshot{}, status.Errorf(status.InvalidArgument, "model %q: revision %q is no name of a branch, tag or commit", r.ID, r.Revision)
	}
	f, err := newFetch(r)
	if err != nil {
		return Snapshot{}, status.Errorf(status.InvalidArgument, "model %q of the hub: %w", r.ID, err)
	}
	defer f.client.close()
	s, err := f.snapshot(ctx)
	if err != nil {
		return Snapshot{}, status.Errorf(status.Of(err, status.Start).Code, "model %q at revision %q of the hub %s: %w",
			r.ID, r.Revision, f.client.endpoint, err)
	}
	return s, nil
}

// fetch is one call of Fetch.
type fetch struct {
	Request
	client   *client
	cache    repoCache
	progress progress
}

func newFetch(r Request) (*fetch, error) {
	e := readEnvironment()
	if r.Endpoint == "" {
		r.Endpoint = e.endpoint
	}
	if r.Cache == "" {
		r.Cache = e.cache
	}
	if r.Cache == "" {
		return nil, errors.New("there is no folder to keep it in: set HF_HUB_CACHE, HF_HOME or HOME")
	}
	if r.Token == "" {
		r.Token = e.token
	}
	r.Offline = r.Offline || e.offline
	c, err := newClient(r.Endpoint, strings.TrimSpace(r.Token), e.timeout)
	if err != nil {
		return nil, err
	}
	f := &fetch{Request: r, client: c, cache: newRepoCache(r.Cache, r.ID)}
	f.client.retrying = func(err error, wait time.Duration) {
		f.Log.Warn("the hub failed; trying again", zap.String("model", f.ID), zap.Error(err), zap.Duration("wait", wait))
	}
	f.progress.report = r.Progress
	if f.progress.report == nil {
		f.progress.report = f.logged()
	}
	return f, nil
}

func (f *fetch) snapshot(ctx context.Context) (Snapshot, error) {
	known, missing := f.cached()
	if f.Offline || (missing == nil && commitPattern.MatchString(f.Revision)) {
		return known, missing
	}
	if missing == nil {
		f.client.tries = impatient
	}
	repo, err := f.client.repo(ctx, f.ID, f.Revision)
	var failed *failure
	if errors.As(err, &failed) && failed.transient && missing == nil && ctx.Err() == nil {
		f.Log.Warn("the hub cannot be reached; using what the cache has", zap.String("model", f.ID), zap.String("commit", known.Commit),
			zap.Error(err))
		return known, nil
	}
	if err != nil {
		return Snapshot{}, err
	}
	f.client.tries = maxTries
	if err := f.fetchAll(ctx, repo); err != nil {
		return Snapshot{}, err
	}
	if !commitPattern.MatchString(f.Revision) {
		// Last, so that a revision that is there offline is there in whole.
		if err := f.cache.writeRef(f.Revision, repo.Commit); err != nil {
			return Snapshot{}, err
		}
	}
	return Snapshot{Folder: f.cache.snapshot(repo.Commit), Commit: repo.Commit}, nil
}
