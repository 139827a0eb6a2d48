// Package install says where this code's own shared library or executable lies: other libraries are looked for beside it.
package install

// #cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra
// #cgo LDFLAGS: -ldl
// const char *bei_install_object(void);
import "C"

import (
	"os"
	"path/filepath"
	"strings"
)

// Folder returns the folder of libbei.so, or of the executable that holds this code, with symbolic links resolved; "" where the
// system does not say.
func Folder() string {
	object := C.bei_install_object()
	if object == nil {
		return ""
	}
	path := C.GoString(object)
	if !strings.Contains(path, "/") { // an executable that the shell has found on PATH
		found, err := os.Executable()
		if err != nil {
			return ""
		}
		path = found
	}
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	return filepath.Dir(file)
}
