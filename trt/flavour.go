package trt

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/install"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// Environment variables of the search for libraries.
const (
	LibraryVariable = "BEI_TENSORRT_LIB" // TensorRT's library, or a folder with it
	ShimVariable    = "BEI_TRT_SHIM_DIR" // folder of libbei_trt_<flavour>.so
	RootVariable    = "TENSORRT_ROOT"    // TensorRT as NVIDIA's archive unpacks: lib/ has the library
	besideShim      = "tensorrt"         // folder beside the shim that may have TensorRT's library
	pinnedPackage   = "tensorrt-rtx-cu13-libs==1.6.1.120"
	pinnedLibrary   = "libtensorrt_rtx.so.1"
)

// flavour is a major version of TensorRT, which has its own shim and library.
type flavour struct{ name, soname string }

func (f flavour) shim() string { return "libbei_trt_" + f.name + ".so" }

// flavours in the order of the search: a TensorRT that someone has installed was built for that machine's GPUs.
var flavours = []flavour{{"11", "libnvinfer.so.11"}, {"10", "libnvinfer.so.10"}, {"rtx1", pinnedLibrary}}

// LibraryOptions of openLibrary. Zero values leave the choice to the search.
type LibraryOptions struct {
	Library string // path of TensorRT's library, or of a folder with it
	Flavour string // "11", "10" or "rtx1"
}

// openLibrary finds and opens a flavour's shim and TensorRT through it; of several flavours that work, the first of 11, 10, rtx1.
//
// Shims are looked for in $BEI_TRT_SHIM_DIR, or else beside libbei.so (or the executable that holds this code). TensorRT's library
// is the one that o.Library names, or else $BEI_TENSORRT_LIB: falling back from a library that was named would hide a mistake.
// Where neither is set, it is looked for in tensorrt/ beside the shim, in $TENSORRT_ROOT/lib, and by its name wherever the loader
// looks. Python's folders are not searched.
//
// Errors: InvalidArgument for an unknown flavour; NoBackend, which lists what was tried and how to get what is missing.
func openLibrary(o LibraryOptions) (*nvinfer.Library, error) {
	wanted := flavours
	if o.Flavour != "" {
		i := slices.IndexFunc(flavours, func(f flavour) bool { return f.name == o.Flavour })
		if i < 0 {
			return nil, status.Errorf(status.InvalidArgument, "TensorRT flavour %q is unknown; use \"11\", \"10\" or \"rtx1\", or none for the first that is there", o.Flavour)
		}
		wanted = flavours[i : i+1]
	}
	folder := os.Getenv(ShimVariable)
	if folder == "" {
		folder = install.Folder()
	}
	var tried []string
	found := false
	for _, f := range wanted {
		shim := filepath.Join(folder, f.shim())
		if _, err := os.Stat(shim); err != nil {
			tried = append(tried, shim+": "+reason(err))
			continue
		}
		found = true
		l, failures := f.open(shim, f.candidates(folder, o.Library))
		if l != nil {
			return l, nil
		}
		tried = append(tried, f.shim()+" is there, but no library for it: "+strings.Join(failures, "; "))
	}
	fix := "Install TensorRT, such as with `pip install " + pinnedPackage + "` (or `make setup_tensorrt`), and set " + LibraryVariable + " to " + pinnedLibrary +
		" or its folder"
	if !found {
		fix = "Build the shim with `make build_trt` and put it beside libbei.so, or set " + ShimVariable + " to its folder. " + fix
	}
	return nil, status.Errorf(status.NoBackend, "no usable TensorRT. Tried: %s. %s", strings.Join(tried, ". "), fix)
}

// candidates lists what may be TensorRT's library: paths, and names without "/", which the loader looks up.
func (f flavour) candidates(shimFolder, named string) []string {
	if named == "" {
		named = os.Getenv(LibraryVariable)
	}
	if named != "" {
		if info, err := os.Stat(named); err == nil && info.IsDir() {
			named = filepath.Join(named, f.soname)
		}
		return []string{named}
	}
	list := []string{filepath.Join(shimFolder, besideShim, f.soname)}
	if root := os.Getenv(RootVariable); root != "" {
		list = append(list, filepath.Join(root, "lib", f.soname))
	}
	return append(list, f.soname)
}

// open returns the first candidate that opens, or why each did not.
func (f flavour) open(shim string, candidates []string) (l *nvinfer.Library, failures []string) {
	for _, path := range candidates {
		if strings.Contains(path, "/") {
			if _, err := os.Stat(path); err != nil { // the loader's own words are longer, and it may look elsewhere for what a library needs
				failures = append(failures, path+": "+reason(err))
				continue
			}
		}
		l, err := nvinfer.Open(shim, path)
		if err == nil {
			return l, nil
		}
		text := strings.TrimSuffix(err.Error(), ".")
		if !slices.Contains(failures, text) { // a shim that does not load says so for each
			failures = append(failures, text)
		}
	}
	return nil, failures
}

// reason is what an error of os.Stat says without its path.
func reason(err error) string {
	var pathError *os.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}
