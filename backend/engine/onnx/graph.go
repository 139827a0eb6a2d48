package onnx

import (
	"fmt"
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
)

// The sizes that differ from run to run.
var (
	tokens    = dim{name: "tokens"}
	sequences = dim{name: "sequences"}
)

// Names of inputs and outputs: ort.Packed's.
const (
	inputIDs, typeIDs, positionIDs, cuSeqLens, poolSkip = "input_ids", "type_ids", "position_ids", "cu_seqlens", "pool_skip"
	outputPooled, outputTokenVectors, outputSparse      = "pooled", "token_vectors", "sparse"
	outputMaxima                                        = "maxima"
)

// rows is a tensor [tokens or sequences, width] between nodes. The zero rows is "absent".
type rows struct {
	name  string
	count dim
	width int
	dtype ort.DataType
}

func (r rows) absent() bool { return r.name == "" }

// graph is a model under construction. Every tensor between nodes is declared with its shape, names of variable sizes
// included: only so does ONNX Runtime see that two have the same size and may share memory.
type graph struct {
	dtype        ort.DataType // of rows, unless they say otherwise
	opsets       []opset
	nodes        []node
	initializers []initializer
	inputs       []value
	outputs      []value
	values       []value
	named        int // values ever declared; outputs leave the list
}

func newGraph(dtype ort.DataType, opsets ...opset) *graph {
	return &graph{dtype: dtype, opsets: opsets}
}

// input declares an input of every run, once.
func (g *graph) input(name string, dtype ort.DataType, dims ...dim) string {
	return g.declare(value{name: name, dtype: dtype, dims: dims})
}

// shapeInput declares an input that is a shape.
func (g *graph) shapeInput(name string, shape ...dim) string {
	return g.declare(value{name, ort.Int64, []dim{{size: len(shape)}}, shape})
}

func (g *graph) declare(input value) string {
	if !slices.ContainsFunc(g.inputs, func(v value) bool { return v.name == input.name }) {
		g.inputs = append(g.inputs, input)
	}
	return input.name
}

// packedInputs declares those of ort.Packed.
func (g *graph) packedInputs() {
	for _, name := range []string{inputIDs, typeIDs, positionIDs} {
		g.input(name, ort.Int32, tokens)
	}
	g.input(cuSeqLens, ort.Int32, dim{name: "sequences_plus_one"})
	g.input(poolSkip, ort.Int32, sequences)
}

// value declares a tensor of a new name.
func (g *graph) value(dtype ort.DataType, dims ...dim) string {
	name := fmt.Sprintf("v%d", g.named)
	g.named++
	g.values = append(g.values, value{name: name, dtype: dtype, dims: dims})
	return name
}

// rows declares new rows.
func (g *graph) rows(count dim, width int) rows { return g.typedRows(g.dtype, count, width) }

func (g *graph) typedRows(dtype ort.DataType, count dim, width int) rows {
	return rows{g.value(dtype, count, dim{size: width}), count, width, dtype}
}

// add appends a node.
func (g *graph) add(domain, op string, inputs, outputs []string, attrs ...attr) {
	for len(inputs) > 0 && inputs[len(inputs)-1] == "" { // absent ones at the end are left out
		inputs = inputs[:len(inputs)-1]
	}
	g.nodes = append(g.nodes, node{domain, op, inputs, outputs, attrs})
}

// op appends a node of one output, of a shape that nothing here needs to know, and returns that.
func (g *graph) op(domain, op string, inputs []string, attrs ...attr) string {
	name := fmt.Sprintf("t%d", len(g.nodes))
	g.add(domain, op, inputs, []string{name}, attrs...)
	return name
}

// same appends a node whose output has the shape of its first input.
func (g *graph) same(domain, op string, x rows, others []string, attrs ...attr) rows {
	y := g.typedRows(x.dtype, x.count, x.width)
	g.add(domain, op, append([]string{x.name}, others...), []string{y.name}, attrs...)
	return y
}

// cast converts rows of another dtype.
func (g *graph) cast(x rows, dtype ort.DataType) rows {
	if x.dtype == dtype {
		return x
	}
	y := g.typedRows(dtype, x.count, x.width)
	g.add("", "Cast", []string{x.name}, []string{y.name}, attr{"to", int64(dtype)})
	return y
}

// sum adds rows of one shape.
func (g *graph) sum(a, b rows) rows { return g.same("", "Add", a, []string{b.name}) }

// join puts rows side by side.
func (g *graph) join(parts ...rows) rows {
	if len(parts) == 1 {
		return parts[0]
	}
	width, names := 0, []string(nil)
	for _, p := range parts {
		width += p.width
		names = append(names, p.name)
	}
	y := g.typedRows(parts[0].dtype, parts[0].count, width)
	g.add("", "Concat", names, []string{y.name}, attr{"axis", int64(1)})
	return y
}

// output makes r a float32 output of that name, by renaming it.
func (g *graph) output(r rows, name string) {
	r = g.cast(r, ort.Float32)
	for _, n := range g.nodes {
		for _, names := range [][]string{n.inputs, n.outputs} {
			for i := range names {
				if names[i] == r.name {
					names[i] = name
				}
			}
		}
	}
	g.values = slices.DeleteFunc(g.values, func(v value) bool { return v.name == r.name })
	g.outputs = append(g.outputs, value{name: name, dtype: ort.Float32, dims: []dim{r.count, {size: r.width}}})
}
