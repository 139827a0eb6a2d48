package trt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// names lists a folder's files with this suffix.
func names(t *testing.T, folder, suffix string) []string {
	paths, err := filepath.Glob(filepath.Join(folder, "*"+suffix))
	require.NoError(t, err)
	for i, p := range paths {
		paths[i] = filepath.Base(p)
	}
	return paths
}

func TestCacheKeeps(t *testing.T) {
	c := cache{filepath.Join(t.TempDir(), "bei", "plans"), 1 << 20}
	require.Nil(t, c.load("a.plan"))
	require.NoError(t, c.store("a.plan", []byte("first "), []byte("second")))
	require.Equal(t, "first second", string(c.load("a.plan")))
	require.NoError(t, c.store("a.plan", []byte("other")))
	require.Equal(t, "other", string(c.load("a.plan")))
	require.NoError(t, c.store("empty.plan"))
	require.NotNil(t, c.load("empty.plan"))
	require.Empty(t, c.load("empty.plan"))
	require.Equal(t, []string{"a.plan", "empty.plan"}, names(t, c.folder, ""))

	none := cache{}
	require.NoError(t, none.store("a.plan", []byte("x")))
	require.Nil(t, none.load("a.plan"))
}

// TestDamagedFiles: every byte and every length but the right one counts.
func TestDamagedFiles(t *testing.T) {
	c := cache{t.TempDir(), 1 << 20}
	require.NoError(t, c.store("a.plan", []byte("a plan")))
	path := filepath.Join(c.folder, "a.plan")
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Len(t, whole, cacheHeader+6)
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 1
		require.NoError(t, os.WriteFile(path, damaged, 0o644))
		require.Nil(t, c.load("a.plan"), "byte %d", i)
		require.NoError(t, os.WriteFile(path, whole[:i], 0o644))
		require.Nil(t, c.load("a.plan"), "cut at %d", i)
	}
	require.NoError(t, os.WriteFile(path, append(bytes.Clone(whole), 0), 0o644))
	require.Nil(t, c.load("a.plan"))
	require.NoError(t, os.WriteFile(path, whole, 0o644))
	require.Equal(t, "a plan", string(c.load("a.plan")))
}

// TestEviction: what was not used for longest goes first; what was just stored, other people's files and locks stay.
func TestEviction(t *testing.T) {
	c := cache{t.TempDir(), int64(3*cacheHeader + 3000)}
	age := func(name string, hours int) {
		when := time.Now().Add(-time.Duration(hours) * time.Hour)
		require.NoError(t, os.Chtimes(filepath.Join(c.folder, name), when, when))
	}
	own := func(letter, suffix string) string { return strings.Repeat(letter, 32) + suffix }
	kilobyte := make([]byte, 1000)
	for i, name := range []string{own("a", planSuffix), own("b", kernelSuffix), own("c", planSuffix)} {
		require.NoError(t, c.store(name, kilobyte))
		age(name, 9-i)
	}
	others := []string{"engine.plan", "notes.txt", "old.new-1", "x.lock"}
	for _, name := range append([]string{own("a", ".plan.new-1"), own("b", ".plan.new-2")}, others...) {
		require.NoError(t, os.WriteFile(filepath.Join(c.folder, name), kilobyte, 0o644))
		age(name, 48)
	}
	age(own("b", ".plan.new-2"), 0)
	require.NoError(t, os.Mkdir(filepath.Join(c.folder, own("d", planSuffix)), 0o755))
	require.NotNil(t, c.load(own("a", planSuffix)), "and now it was used last")
	require.NoError(t, c.store(own("e", planSuffix), kilobyte))
	left := append([]string{own("a", planSuffix), own("b", ".plan.new-2"), own("c", planSuffix), own("d", planSuffix), own("e", planSuffix)}, others...)
	require.ElementsMatch(t, left, names(t, c.folder, ""),
		"the kernels were not used for longest, nobody writes the first part any more, and the others are not the cache's")

	c.limit = 1
	require.NoError(t, c.store(own("f", planSuffix), kilobyte))
	require.Equal(t, []string{own("d", planSuffix), "engine.plan", own("f", planSuffix)}, names(t, c.folder, planSuffix),
		"larger than the limit by itself, but in use")
}

// TestNoPartialFiles: a store that fails leaves nothing.
func TestNoPartialFiles(t *testing.T) {
	c := cache{t.TempDir(), 1 << 20}
	require.NoError(t, os.Mkdir(filepath.Join(c.folder, "a.plan"), 0o755)) // cannot be replaced by a file
	err := c.store("a.plan", []byte("a plan"))
	require.Equal(t, status.Start, status.CodeOf(err))
	require.ErrorContains(t, err, "set tensorrt.cache to a folder that can be written to")
	require.Equal(t, []string{"a.plan"}, names(t, c.folder, ""))
}

// TestStoresAtOnce: readers see one whole file or the other.
func TestStoresAtOnce(t *testing.T) {
	c := cache{t.TempDir(), 1 << 30}
	texts := [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 150_000)}
	require.NoError(t, c.store("a.plan", texts[0]))
	var all sync.WaitGroup
	for _, text := range texts {
		all.Go(func() {
			for range 30 {
				if err := c.store("a.plan", text); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range 100 {
				if got := c.load("a.plan"); !bytes.Equal(got, texts[0]) && !bytes.Equal(got, texts[1]) {
					t.Errorf("read %d bytes", len(got))
				}
			}
		})
	}
	all.Wait()
	require.Equal(t, []string{"a.plan"}, names(t, c.folder, ""))
}

// TestLock: one at a time for a name, and who waits may leave.
func TestLock(t *testing.T) {
	c := cache{t.TempDir(), 1 << 20}
	var inside atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			other := cache{c.folder, 1 << 20}
			if err := other.locked(t.Context(), "a", func() error {
				defer inside.Add(-1)
				if n := inside.Add(1); n != 1 {
					t.Errorf("%d at once", n)
				}
				time.Sleep(time.Millisecond)
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	require.ErrorContains(t, c.locked(t.Context(), "a", func() error {
		require.NoError(t, c.locked(t.Context(), "b", func() error { return nil }), "another name is another lock")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("the caller left"))
		err := c.locked(ctx, "a", func() error { t.Error("inside"); return nil })
		require.Equal(t, status.Cancelled, status.CodeOf(err))
		return err
	}), "waiting for another process that builds the plan: the caller left")
}

// TestLockOfAForkedProcess: a child that was forked while a plan was built has the lock's descriptor, and may live on.
func TestLockOfAForkedProcess(t *testing.T) {
	c := cache{t.TempDir(), 1 << 20}
	path := filepath.Join(c.folder, "a"+lockSuffix)
	inherited := -1
	require.NoError(t, c.locked(t.Context(), "a", func() error {
		descriptors, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		for _, d := range descriptors {
			if to, err := os.Readlink("/proc/self/fd/" + d.Name()); err == nil && to == path {
				number, err := strconv.Atoi(d.Name())
				require.NoError(t, err)
				inherited, err = unix.Dup(number)
				require.NoError(t, err)
			}
		}
		return nil
	}))
	require.GreaterOrEqual(t, inherited, 0)
	defer func() { require.NoError(t, unix.Close(inherited)) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, c.locked(ctx, "a", func() error { return nil }))
}

// cached are options with a cache in a folder.
func (f *fake) cached(folder string) Options {
	o := f.options()
	o.Cache = folder
	return o
}

// start opens an engine and closes it.
func (f *fake) start(o Options) (plan string) {
	e, err := f.open(o)
	require.NoError(f.t, err)
	require.NoError(f.t, e.Close())
	return e.Info().Details["plan"]
}

// TestPlanCache: a plan is built once for all that decides it, and its kernels are kept.
func TestPlanCache(t *testing.T) {
	f := newFake(t, 1)
	f.kernels = []byte("kernels of a plan")
	o := f.cached(t.TempDir())
	require.Contains(t, f.start(o), "built in ")
	require.Equal(t, "from "+o.Cache, f.start(o))
	require.Equal(t, 1, f.count("build", 0))
	require.Equal(t, [][]byte{nil, f.kernels}, f.given)
	require.Len(t, names(t, o.Cache, planSuffix), 1)
	require.Len(t, names(t, o.Cache, kernelSuffix), 1)
	require.Empty(t, names(t, o.Cache, ".new-*"))

	// Another limit, precision or device's name is another plan; another driver makes its own kernels of the same one.
	other := o
	other.Limits.MaxSequences = 4
	f.start(other)
	other = o
	other.Precision = "float32"
	f.start(other)
	require.Equal(t, 3, f.count("build", 0))
	f.devices[0].Driver = 13000
	f.start(o)
	require.Equal(t, 3, f.count("build", 0))
	require.Len(t, names(t, o.Cache, kernelSuffix), 4)
	f.devices[0].Name = "Another GPU"
	f.start(o)
	require.Equal(t, 4, f.count("build", 0))
}

// TestPlansOfNoUse: one that is damaged, foreign to the library, or not what the runtime wrote, is built again and replaced.
func TestPlansOfNoUse(t *testing.T) {
	f := newFake(t, 1)
	o := f.cached(t.TempDir())
	f.start(o)
	plan := names(t, o.Cache, planSuffix)[0]
	c := cache{o.Cache, o.CacheBytes}
	whole := c.load(plan)
	c.limit = 1 << 20
	description := whole[:bytes.Index(whole, []byte(planOf))]
	for name, spoil := range map[string]func(){
		"damaged": func() {
			require.NoError(t, os.WriteFile(filepath.Join(c.folder, plan), []byte("BEIPLAN1 and nothing"), 0o644))
		},
		"gone":         func() { require.NoError(t, os.Remove(filepath.Join(c.folder, plan))) },
		"of a library": func() { require.NoError(t, c.store(plan, description, []byte("of another library"))) },
		"of other limits": func() {
			require.NoError(t, c.store(plan, description, f.plan(engine.Limits{MaxTokens: 1, MaxSequences: 1, MaxLength: 1})))
		},
		"without a plan":  func() { require.NoError(t, c.store(plan, description)) },
		"empty":           func() { require.NoError(t, c.store(plan)) },
		"too long a head": func() { require.NoError(t, c.store(plan, []byte{255, 255, 255, 255, '{', '}'})) },
		"no JSON":         func() { require.NoError(t, c.store(plan, []byte{2, 0, 0, 0, 'x', '}'})) },
		"no columns":      func() { require.NoError(t, c.store(plan, []byte{2, 0, 0, 0, '{', '}'})) },
		"kernels only":    func() { require.NoError(t, c.store(plan, []byte("kernels"))) },
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, "from "+o.Cache, f.start(o))
			builds := f.count("build", 0)
			spoil()
			require.Contains(t, f.start(o), "built in ")
			require.Equal(t, builds+1, f.count("build", 0))
			require.Equal(t, "from "+o.Cache, f.start(o), "it was replaced")
		})
	}
	require.NotEmpty(t, f.logged("is of no use"))
}

// TestPlanThatIsBadWhenNew: it is not built again and again.
func TestPlanThatIsBadWhenNew(t *testing.T) {
	f := newFake(t, 1)
	f.script = func(c call) error {
		if c.op == "load" {
			return status.Errorf(status.Start, "%w: of no use", nvinfer.ErrBadPlan)
		}
		return nil
	}
	o := f.cached(t.TempDir())
	_, err := f.open(o)
	require.ErrorIs(t, err, nvinfer.ErrBadPlan)
	require.Equal(t, 1, f.count("build", 0))
	_, err = f.open(o)
	require.ErrorIs(t, err, nvinfer.ErrBadPlan)
	require.Equal(t, 2, f.count("build", 0))
}

// TestProcessesAtOnce: processes that start together build their plan once. It starts itself as such processes.
func TestProcessesAtOnce(t *testing.T) {
	const folder, result = "BEI_TEST_PLAN_FOLDER", "plans built here:"
	if dir := os.Getenv(folder); dir != "" {
		f := newFake(t, 1)
		f.script = func(c call) error {
			if c.op == "build" {
				time.Sleep(time.Second) // the others are there before it ends
			}
			return nil
		}
		f.start(f.cached(dir))
		fmt.Println(result, f.count("build", 0))
		return
	}
	dir := t.TempDir()
	outputs := make([][]byte, 3)
	var all sync.WaitGroup
	for i := range outputs {
		all.Go(func() {
			c := exec.Command(os.Args[0], "-test.run=^TestProcessesAtOnce$")
			c.Env = append(os.Environ(), folder+"="+dir, "BEI_PLANS=")
			var err error
			if outputs[i], err = c.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, outputs[i])
			}
		})
	}
	all.Wait()
	text := string(bytes.Join(outputs, nil))
	require.Equal(t, 1, strings.Count(text, result+" 1\n"), text)
	require.Equal(t, 2, strings.Count(text, result+" 0\n"), text)
}

// TestBuildsAtOnce: engines of one process that start together build their plan once.
func TestBuildsAtOnce(t *testing.T) {
	f := newFake(t, 1)
	o := f.cached(t.TempDir())
	f.script = func(c call) error {
		if c.op == "build" {
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	}
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() { f.start(o) })
	}
	all.Wait()
	require.Equal(t, 1, f.count("build", 0))
}

// TestFolderThatCannotBeWritten is worth a warning, not an end.
func TestFolderThatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	f := newFake(t, 1)
	f.kernels = []byte("kernels")
	require.Contains(t, f.start(f.cached(filepath.Join(file, "plans"))), "built in ")
	require.Len(t, f.logged("keeping a plan: mkdir "+file), 2, "the plan and its kernels")
	require.Contains(t, f.start(f.cached("/proc/self")), "built in ") // is there, and not even root may write to it
	require.Len(t, f.logged("keeping a plan: open /proc/self"), 2)

	if os.Getuid() == 0 {
		t.Log("root may write to any folder of a disk: a read-only one is read by other users only")
		return
	}
	o := f.cached(t.TempDir())
	f.start(o)
	require.NoError(t, os.Chmod(o.Cache, 0o555))
	defer func() { require.NoError(t, os.Chmod(o.Cache, 0o755)) }()
	require.Equal(t, "from "+o.Cache, f.start(o), "it can still be read")
	o.Limits.MaxSequences = 4
	require.Contains(t, f.start(o), "built in ")
	require.NotEmpty(t, f.logged("keeping a plan: open "+o.Cache))
}

// TestBuildThatIsCancelled: who has left needs no plan.
func TestBuildThatIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(t, 1)
		b := &builder{driver: f, library: &nvinfer.Library{}, log: func(nvinfer.Severity, string) {}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := b.plan(ctx)
		require.Equal(t, status.Cancelled, status.CodeOf(err))
		require.Zero(t, f.count("build", 0))
	})
}

func TestBuildThatFails(t *testing.T) {
	f := newFake(t, 1)
	f.script = func(c call) error {
		if c.op == "build" {
			return status.Errorf(status.Start, "no such layer")
		}
		return nil
	}
	o := f.cached(t.TempDir())
	_, err := f.open(o)
	require.EqualError(t, err, "no such layer")
	require.Empty(t, names(t, o.Cache, planSuffix))
}
