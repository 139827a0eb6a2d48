package trt

import (
	"maps"
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/suite"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// TestLowering computes the network of every case, node by node, and holds it to the truth: with attention layers and with products and a softmax,
// and in 16 and 8 bits, where each node rounds. What TensorRT makes of the network is not looked at: TestGPU does that.
func TestLowering(t *testing.T) {
	if testing.Short() {
		t.Skip("a short run: it takes minutes under the race detector")
	}
	forms := map[string]form{"fused": {fused: true}, "lengths": {fused: true, lengths: true}, "written out": {}}
	for _, c := range planCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			for _, name := range slices.Sorted(maps.Keys(forms)) {
				checkLowering(t, &c, "float32", forms[name], c.Sequences)
				checkLowering(t, &c, "float32", forms[name], c.Sequences[:1])
			}
			checkLowering(t, &c, "float16", forms["fused"], c.Sequences)
			checkLowering(t, &c, "bfloat16", forms["fused"], c.Sequences)
			checkLowering(t, &c, "float8", forms["fused"], c.Sequences)
		})
	}
}

func checkLowering(t *testing.T, c *suite.Case, precision string, f form, sequences []suite.Sequence) {
	sequences = slices.DeleteFunc(slices.Clone(sequences), func(q suite.Sequence) bool { return len(q.IDs) == 0 })
	longest := 0
	for _, q := range sequences {
		longest = max(longest, len(q.IDs))
	}
	p, n := planesOf(c.Model), len(sequences)
	tokens := newValue(nvinfer.Int32, []int{p.tokens, n, longest})
	perSequence := newValue(nvinfer.Int32, []int{p.sequences, n})
	for i, q := range sequences {
		for plane, numbers := range map[int][]int32{0: q.IDs, p.types: q.Types, p.positions: q.Positions} {
			for k, x := range numbers {
				if plane >= 0 {
					tokens.n[(plane*n+i)*longest+k] = float64(x)
				}
			}
		}
		perSequence.n[i] = float64(len(q.IDs))
		if p.skip >= 0 {
			perSequence.n[p.skip*n+i] = float64(q.Skip)
		}
	}
	net := &evaluator{inputs: map[string]value{inputTokens: tokens, inputSequences: perSequence}, outputs: make(map[string]value)}
	l := &lowering{
		g: newGraph(net), m: c.Model, weights: c.Weights, form: f, dtype: precisions[precision], notes: make(map[string]int),
		limits: engine.Limits{MaxTokens: 2048, MaxSequences: 64, MaxLength: c.Model.MaxLength, BestTokens: 512},
	}
	bounds := suite.Precisions[precision]
	if precision == "float8" { // four bits of each number, whatever its scale
		l.amax = func(string) (float32, bool) { return 32, true }
		bounds = suite.Bounds{MinCosine: 0.95, MaxError: 1}
	}
	require.NoError(t, l.lower(), "%s %+v", precision, f)
	for i, q := range sequences {
		check := func(what, output string, from, count int, truth []float64, unit bool) {
			if truth == nil {
				return
			}
			got := net.outputs[output].n[from:][:count]
			squares := 0.0
			for _, x := range got {
				squares += x * x
			}
			rows := make([]float32, count)
			for k, x := range got {
				if rows[k] = float32(x); unit {
					rows[k] = float32(x / math.Sqrt(squares))
				}
			}
			require.NoError(t, bounds.Compare(rows, truth), "%s %+v: %s of sequence %d of %d", precision, f, what, i, n)
		}
		if l.outputs&engine.TokenVectors != 0 {
			check("token vectors", outputTokenVectors, i*longest*l.token, len(q.IDs)*l.token, q.TokenVectors, false)
		}
		if l.outputs&engine.Pooled != 0 {
			check("pooled", outputPooled, i*l.pooled, l.pooled, q.Pooled, c.Normalize)
		}
		if l.outputs&engine.Sparse != 0 {
			check("sparse", outputPooled, i*l.pooled, l.pooled, q.Sparse, false)
		}
	}
}
