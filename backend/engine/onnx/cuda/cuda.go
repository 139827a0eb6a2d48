// Package cuda holds the source of our CUDA kernels. scripts/ptx.py compiles it.
package cuda

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"fmt"
)

//go:embed kernels.cu
var source []byte

// IsCurrent reports whether PTX was compiled from the source that this program was built with: launches rely on the kernels' arguments.
func IsCurrent(ptx []byte) bool {
	return bytes.HasSuffix(ptx, fmt.Appendf(nil, "\n// sha256 of the source: %x\n", sha256.Sum256(source)))
}
