// Package manifest has the file bei-manifest.json: what a model's outputs must be. It names the files of the model's folder with their
// hashes, and holds reference items with reference outputs. Open holds an engine to it before anybody is served; `bei verify` does so at
// will and writes the file. docs/manifest.md tells the format, manifest.schema.json checks it.
package manifest

import (
	_ "embed" // the schema

	"github.com/basetenlabs/bei-runtime/backend/document"
)

// FileName is the file's name, beside the model's config.json.
const FileName = "bei-manifest.json"

// What the file says of itself. A version that this package does not know is refused.
const (
	format  = "bei-manifest"
	version = 1
)

// Limits of the file. The schema has the others.
const (
	maxFile   = 16 << 20 // bytes; a hundred vectors of 4096 numbers take 2.2 MB
	maxValues = 1 << 18  // JSON values, token ids included
	maxDepth  = 6
)

//go:embed manifest.schema.json
var schemaText string

// Schema returns the JSON Schema (draft 2020-12) of the file.
func Schema() string { return schemaText }

var schema = document.NewSchema("manifest.schema.json", schemaText)

// Output is what the references are.
type Output string

// The outputs, by what the model is.
const (
	Pooled      Output = "pooled"       // a vector of an embedding model, as it gives it by default
	Sparse      Output = "sparse"       // vocabulary weights of an embedding model
	Logits      Output = "logits"       // of a classifier or a reranker
	TokenLogits Output = "token_logits" // of a token classifier, token after token
)

// Manifest is the content of the file.
type Manifest struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	Model   Model  `json:"model"`
	// WeightsFingerprint is weights.Set.Fingerprint; "": not told.
	WeightsFingerprint string              `json:"weights_fingerprint,omitempty"`
	Files              []File              `json:"files,omitempty"`
	Reference          *Identity           `json:"reference,omitempty"`
	Thresholds         map[string]Override `json:"thresholds,omitempty"` // by precision
	Items              []Item              `json:"items"`
	Rankings           []Ranking           `json:"rankings,omitempty"`
}

// Model is what the references belong to.
type Model struct {
	Type    string   `json:"type"`   // backend.ModelType's name
	Output  Output   `json:"output"` //
	Width   int      `json:"width"`  // of a vector, of a row of logits, of the vocabulary
	Pooling []string `json:"pooling,omitempty"`
}

// File is a file of the model's folder.
type File struct {
	Name   string `json:"name"` // relative to the folder, with slashes
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Identity tells what computed the references.
type Identity struct {
	Library       string `json:"library,omitempty"`
	Engine        string `json:"engine,omitempty"`
	EngineVersion string `json:"engine_version,omitempty"`
	Device        string `json:"device,omitempty"`
	Precision     string `json:"precision,omitempty"`
}

// Item is one input and the output that it must have: a text, or a pair, or token ids.
type Item struct {
	Text         *string  `json:"text,omitempty"`
	Pair         *string  `json:"pair,omitempty"`
	PromptName   string   `json:"prompt_name,omitempty"` // "": the model's own default prompt
	InputIDs     []uint32 `json:"input_ids,omitempty"`
	TokenTypeIDs []uint32 `json:"token_type_ids,omitempty"`
	Values       Floats   `json:"reference"`
	Indices      Uints    `json:"indices,omitempty"` // of Values, ascending; Sparse only
}

// Ranking is an order of items: by cosine to the query, or, of a reranker, by logit.
type Ranking struct {
	Query *int  `json:"query,omitempty"` // an item; nil: a reranker's
	Order []int `json:"order"`           // items, best first
}

// Result is what a run gave for an item.
type Result struct {
	Values  []float32
	Indices []uint32 // Sparse only
	TooLong bool     // the options cut max_length below the item's length, so that it was not run
}
