package onnx

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
)

// Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), those that graphs of ours use.
const (
	modelIRVersion, modelProducer, modelGraph, modelOpsetImport = 1, 2, 7, 8
	opsetDomain, opsetVersion                                   = 1, 2
	graphNode, graphName, graphInitializer                      = 1, 2, 5
	graphInput, graphOutput, graphValueInfo                     = 11, 12, 13
	nodeInput, nodeOutput, nodeOpType, nodeAttribute            = 1, 2, 4, 5
	nodeDomain                                                  = 7
	attrName, attrF, attrI, attrInts, attrType                  = 1, 2, 3, 8, 20
	tensorDims, tensorDataType, tensorName, tensorRaw           = 1, 2, 8, 9
	tensorExternal, tensorLocation                              = 13, 14
	entryKey, entryValue                                        = 1, 2
	valueName, valueType                                        = 1, 2
	typeTensor, typeElem, typeShape, shapeDim                   = 1, 1, 2, 1
	dimValue, dimParam                                          = 1, 2
)

// Values of the enums AttributeProto.AttributeType and TensorProto.DataLocation.
const (
	attrTypeFloat, attrTypeInt, attrTypeInts = 1, 2, 7
	locationExternal                         = 1
)

// Versions: the IR of ONNX 1.12.
const (
	irVersion    = 8
	externalFile = "weights" // a name is needed; no such file is ever read
)

// opset is a version of a domain's operators.
type opset struct {
	domain  string
	version int64
}

// Domains besides ONNX's own, which is "".
const (
	domainOfBei       = "bei"
	domainOfFloat32   = "bei.float32" // ours on CUDA, by the dtype of rows
	domainOfFloat16   = "bei.float16"
	domainOfBFloat16  = "bei.bfloat16"
	domainOfMicrosoft = "com.microsoft" // contributed operators of ONNX Runtime
)

// The operator sets of graphs: as old as the operators' forms used here allow.
var (
	opsetsOfCPU  = []opset{{"", 13}, {domainOfBei, 1}}
	opsetsOfCUDA = []opset{{"", 17}, {domainOfMicrosoft, 1}, {domainOfBei, 1}, {domainOfFloat32, 1}, {domainOfFloat16, 1}, {domainOfBFloat16, 1}}
)

func putString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func putMessage(b []byte, field protowire.Number, message []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), message)
}

func putInt(b []byte, field protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}

// attr is one attribute of a node: an int, a float32 or a list of ints.
type attr struct {
	name  string
	value any // int64, float32 or []int64
}

func (a attr) encode() []byte {
	b := putString(nil, attrName, a.name)
	switch v := a.value.(type) {
	case int64:
		return putInt(putInt(b, attrI, v), attrType, attrTypeInt)
	case float32:
		b = protowire.AppendFixed32(protowire.AppendTag(b, attrF, protowire.Fixed32Type), math.Float32bits(v))
		return putInt(b, attrType, attrTypeFloat)
	case []int64:
		for _, n := range v {
			b = putInt(b, attrInts, n)
		}
		return putInt(b, attrType, attrTypeInts)
	}
	panic("attribute " + a.name + " has a type that no operator uses")
}

// node is one operator. An empty input is an absent optional one.
type node struct {
	domain, op      string
	inputs, outputs []string
	attrs           []attr
}

func (n node) encode() []byte {
	var b []byte
	for _, name := range n.inputs {
		b = putString(b, nodeInput, name)
	}
	for _, name := range n.outputs {
		b = putString(b, nodeOutput, name)
	}
	b = putString(b, nodeOpType, n.op)
	for _, a := range n.attrs {
		b = putMessage(b, nodeAttribute, a.encode())
	}
	return putString(b, nodeDomain, n.domain)
}

// dim is a fixed size, or the name of one that only runs know.
type dim struct {
	name string
	size int
}

// value is a tensor between nodes.
type value struct {
	name  string
	dtype ort.DataType
	dims  []dim
	shape []dim // of an input that is a shape: what it says
}

func (v value) encode() []byte {
	var shape []byte
	for _, d := range v.dims {
		if d.name != "" {
			shape = putMessage(shape, shapeDim, putString(nil, dimParam, d.name))
		} else {
			shape = putMessage(shape, shapeDim, putInt(nil, dimValue, int64(d.size)))
		}
	}
	tensor := putMessage(putInt(nil, typeElem, int64(v.dtype)), typeShape, shape)
	return putMessage(putString(nil, valueName, v.name), valueType, putMessage(nil, typeTensor, tensor))
}

// initializer is a constant tensor: external, its memory bound to the session by name, or with its bytes here.
type initializer struct {
	name  string
	dtype ort.DataType
	dims  []int64
	raw   []byte // little-endian; nil: external
}

func (t initializer) encode() []byte {
	var b []byte
	for _, d := range t.dims {
		b = putInt(b, tensorDims, d)
	}
	b = putString(putInt(b, tensorDataType, int64(t.dtype)), tensorName, t.name)
	if t.raw != nil {
		return putMessage(b, tensorRaw, t.raw)
	}
	entry := putString(putString(nil, entryKey, "location"), entryValue, externalFile)
	return putInt(putMessage(b, tensorExternal, entry), tensorLocation, locationExternal)
}

// encode returns the ModelProto of a graph.
func (g *graph) encode() []byte {
	b := putString(nil, graphName, "bei")
	for _, n := range g.nodes {
		b = putMessage(b, graphNode, n.encode())
	}
	for _, t := range g.initializers {
		b = putMessage(b, graphInitializer, t.encode())
	}
	for _, v := range g.inputs {
		b = putMessage(b, graphInput, v.encode())
	}
	for _, v := range g.outputs {
		b = putMessage(b, graphOutput, v.encode())
	}
	for _, v := range g.values {
		b = putMessage(b, graphValueInfo, v.encode())
	}
	model := putString(putInt(nil, modelIRVersion, irVersion), modelProducer, "bei-runtime")
	model = putMessage(model, modelGraph, b)
	for _, o := range g.opsets {
		model = putMessage(model, modelOpsetImport, putInt(putString(nil, opsetDomain, o.domain), opsetVersion, o.version))
	}
	return model
}
