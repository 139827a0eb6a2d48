package trt

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// TestPlans builds a plan for every case in float32 and float16, and for one of each architecture in the other precisions and in the form
// of flavours without attention layers.
func TestPlans(t *testing.T) {
	lib := rtx(t)
	seen := make(map[string]bool)
	for _, c := range planCases(t) {
		first := !seen[c.Model.Architecture] || c.Model.Architecture == "" // synthetic models have none
		seen[c.Model.Architecture] = true
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			for _, precision := range slices.Sorted(maps.Keys(precisions)) {
				if first || precision == "float32" || precision == "float16" {
					checkPlan(t, lib, c, precision, formOf(lib.Features))
				}
			}
			if first {
				checkPlan(t, lib, c, "float32", form{})
			}
		})
	}
}

func planCases(t *testing.T) []suite.Case {
	return append(suite.Golden(t, arch.HeadEmbedding, arch.HeadClassifier, arch.HeadTokenClassifier, arch.HeadSparse), suite.Synthetic(t)...)
}

func checkPlan(t *testing.T, lib *nvinfer.Library, c suite.Case, precision string, f form) {
	about := fmt.Sprintf("%s %s %+v", c.Name, precision, f)
	d := design{
		model: c.Model, precision: precision, form: f,
		limits: engine.Limits{MaxTokens: 2048, MaxSequences: 64, MaxLength: c.Model.MaxLength, BestTokens: 512},
	}
	if precision == "float8" {
		d.amax = func(string) (float32, bool) { return 4, true }
	}
	p, err := d.build(lib, c.Weights)
	require.NoError(t, err, about)
	plansBuilt.Add(1)
	if precision == "float8" && allMultiples(c.Model, float8Step) {
		require.Equal(t, len(calibration.Keys(c.Model)), p.notes["float8 products"], about)
	}
	require.ElementsMatch(t, wantedTensors(&d, p), p.tensors, about)
	require.True(t, bytes.Contains(p.bytes, []byte("\nmain {")), "%s: it has no program", about)
	// A plan holds its program as text. Sizes that it copies from host memory are what CUDA graphs must keep (Graph in shim/lane.cpp).
	require.False(t, bytes.Contains(p.bytes, []byte(`copy={ name="copy_h2d`)), "%s: it copies sizes from the host", about)
	found := productsOf(p.bytes)
	if dtype := map[string]string{"float16": "half", "bfloat16": "bf16"}[precision]; dtype != "" {
		require.Positive(t, found[dtype+" summed as 2"], "%s: %v", about, found)
		// TensorRT writes the attention layers of some tiny models out, in two products of its own.
		require.LessOrEqual(t, found[dtype+" summed as 0"]+found[dtype+" summed as 1"], 2*len(c.Model.Layers), "%s: products do not sum in float32: %v", about, found)
	}
	if precision == "float8" && allMultiples(c.Model, float8Step) {
		require.Equal(t, len(calibration.Keys(c.Model)), found["fp8_e4m3 summed as 0"], "%s: %v", about, found)
	}
}

// allMultiples reports that every product of the model's trunk has dimensions that are multiples of n.
func allMultiples(m *arch.Model, n int) bool {
	for _, l := range m.Layers {
		for _, x := range append(slices.Clone(l.Attention.QKV), l.Attention.Out, l.MLP.Up, l.MLP.Gate, l.MLP.GateUp, l.MLP.Down) {
			if x.In%n != 0 || x.Out%n != 0 {
				return false
			}
		}
	}
	return m.Embeddings.Projection == nil
}

// wantedTensors are the inputs and outputs of a plan, with the ranges of its profile, from the model alone.
func wantedTensors(d *design, p *plan) []nvinfer.TensorInfo {
	m, limits := d.model, d.limits
	tokenPlanes, sequencePlanes := 1, 1
	if !m.Embeddings.Type.Absent() {
		tokenPlanes++
	}
	if !m.Embeddings.Position.Absent() || m.Layers[0].Attention.Rope != nil {
		tokenPlanes++
	}
	if m.Head.Pooling.ExcludePrompt && len(m.Head.Pooling.Modes) > 0 {
		sequencePlanes++
	}
	tensors := []nvinfer.TensorInfo{
		{Name: "tokens", IsInput: true, DType: nvinfer.Int32, Dims: []int{tokenPlanes, -1, -1},
			Least: []int{tokenPlanes, 1, 1}, Most: []int{tokenPlanes, limits.MaxSequences, limits.MaxLength}},
		{Name: "sequences", IsInput: true, DType: nvinfer.Int32, Dims: []int{sequencePlanes, -1},
			Least: []int{sequencePlanes, 1}, Most: []int{sequencePlanes, limits.MaxSequences}},
		{Name: "token_vectors", DType: nvinfer.Float32, Dims: []int{-1, p.token}, Least: []int{}, Most: []int{}},
	}
	if m.Head.Kind != arch.HeadTokenClassifier {
		tensors = append(tensors, nvinfer.TensorInfo{Name: "pooled", DType: nvinfer.Float32, Dims: []int{-1, p.pooled}, Least: []int{}, Most: []int{}})
	}
	return tensors
}

var (
	tensorsOfProgram  = regexp.MustCompile(`(?m)^ *(?:sub_)?tensor=\{.* name="([^"]*)".* type=(\w+)`)
	productsOfProgram = regexp.MustCompile(`(?m)^ *fully_connected=\{.* input=\{"([^"]*)".* accumulation_type=(\d)`)
)

// productsOf counts the products of a plan's program by the type of what they multiply and by what they sum in: 0 is as TensorRT likes, 1 float16,
// 2 float32.
func productsOf(plan []byte) map[string]int {
	types, count := make(map[string]string), make(map[string]int)
	for _, m := range tensorsOfProgram.FindAllSubmatch(plan, -1) {
		types[string(m[1])] = string(m[2])
	}
	for _, m := range productsOfProgram.FindAllSubmatch(plan, -1) {
		count[fmt.Sprintf("%s summed as %s", types[string(m[1])], m[2])]++
	}
	return count
}
