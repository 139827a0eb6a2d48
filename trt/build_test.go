package trt

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

func TestBuildAll(t *testing.T) {
	root := suite.Root(t)
	lib, err := nvinfer.Open(filepath.Join(root, "dist/libbei_trt_rtx1.so"), filepath.Join(root, ".deps/tensorrt/lib/libtensorrt_rtx.so.1"))
	require.NoError(t, err)
	cases := append(suite.Golden(t, arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier), suite.Synthetic(t)...)
	for _, c := range cases {
		for _, precision := range []string{"float32", "float16", "bfloat16"} {
			for _, f := range []form{formOf(lib.Features), {}} {
				t.Run(fmt.Sprintf("%s/%s/%v", c.Name, precision, f), func(t *testing.T) {
					d := design{model: c.Model, precision: precision, limits: engine.Limits{MaxTokens: 2048, MaxSequences: 64, MaxLength: c.Model.MaxLength, BestTokens: 512}, form: f}
					p, err := d.build(lib, c.Weights)
					require.NoError(t, err)
					t.Log(len(p.bytes), p.took, p.notes)
				})
			}
		}
	}
}
