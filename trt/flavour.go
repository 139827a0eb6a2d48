package trt

import (
	"os"
	"path/filepath"

	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// LibraryOptions say which TensorRT is used.
type LibraryOptions struct {
	Library string
	Flavour string
}

func openLibrary(o LibraryOptions) (*nvinfer.Library, error) {
	return nvinfer.Open(filepath.Join(os.Getenv("BEI_DIST"), "libbei_trt_rtx1.so"), os.Getenv("BEI_TENSORRT_LIB"))
}
