// Package engine declares what runs a model: the Engine interface, its limits and outputs, and (in suite) the tests that
// every engine must pass. An engine knows a Model and its weights, never text, HTTP or C.
package engine

import (
	"context"
	"sync"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Outputs says which outputs of a run are wanted, as bits.
type Outputs uint32

// The outputs of one forward pass. The numbers are those of BEI_OUTPUT_* in include/bei.h.
const (
	Pooled       Outputs = 1 // one row for each sequence: pooled vector, or class logits
	TokenVectors Outputs = 2 // one row for each token: last hidden state, or token logits
	Sparse       Outputs = 4 // one vocabulary-wide row for each sequence
)

// Limits is what one run of an engine can take. All are at least 1.
type Limits struct {
	MaxTokens    int  `json:"max_tokens"`    // rows of a run
	MaxSequences int  `json:"max_sequences"` // sequences of a run
	MaxLength    int  `json:"max_length"`    // tokens of one sequence; at most MaxTokens
	BestTokens   int  `json:"best_tokens"`   // tokens a run that are fastest per token; at most MaxTokens
	Padded       bool `json:"padded"`        // true when a run costs sequences x longest, not the sum of tokens
}

// Info describes an open engine. It does not change while the engine is open.
type Info struct {
	Name        string            // "onnxruntime", "tensorrt", "mock"
	Version     string            // of the library that runs the model
	Device      string            // "cpu", "cuda:0"
	DeviceUUIDs []string          // of the GPUs or MIG devices that run the model, as NVML has them ("GPU-..."); empty on CPU
	Precision   string            // of the computation: "float32"
	Limits      Limits            //
	Outputs     Outputs           // what it can compute for this model
	PooledWidth int               // columns of Output.Pooled: vector size, or number of labels
	TokenWidth  int               // columns of Output.TokenVectors
	SparseWidth int               // columns of Output.Sparse: vocabulary size, or 0
	Details     map[string]string // choices made, for info and logs: threads, kernels, forms
}

// Batch is the input of one run: sequences packed row after row, without padding. Its slices lie in memory of the slot
// that staging may pin; they are filled with append within their capacity (MaxTokens; MaxSequences+1 for CuSeqLens).
type Batch struct {
	InputIDs    []int32 // [T]
	TypeIDs     []int32 // [T]
	PositionIDs []int32 // [T]
	CuSeqLens   []int32 // [n+1]: first 0, last T, never falling
	PoolSkip    []int32 // [n] leading tokens that pooling leaves out: a prompt's, for models that exclude it; else 0
	MaxLength   int     // tokens of the longest sequence
	Outputs     Outputs // what the run must compute: the union over its sequences
}

// Making is held by what CUDA does not allow beside a capture of a graph in the process, and by captures: what waits for the whole device, which is
// making sessions, execution contexts and kernels, and a session's first run. Freeing them is done without it, since a device that hangs must not keep
// other engines from closing: an engine that opens in the same moment may say that a capture failed.
var Making sync.Mutex

// NewBatch returns an empty batch with room for what limits allow, in Go memory.
func NewBatch(l Limits) *Batch {
	return &Batch{
		InputIDs:    make([]int32, 0, l.MaxTokens),
		TypeIDs:     make([]int32, 0, l.MaxTokens),
		PositionIDs: make([]int32, 0, l.MaxTokens),
		CuSeqLens:   append(make([]int32, 0, l.MaxSequences+1), 0),
		PoolSkip:    make([]int32, 0, l.MaxSequences),
	}
}

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() {
	b.InputIDs, b.TypeIDs, b.PositionIDs = b.InputIDs[:0], b.TypeIDs[:0], b.PositionIDs[:0]
	b.CuSeqLens = append(b.CuSeqLens[:0], 0)
	b.PoolSkip = b.PoolSkip[:0]
	b.MaxLength, b.Outputs = 0, 0
}

// Sequences is n. Tokens is T.
func (b *Batch) Sequences() int { return len(b.CuSeqLens) - 1 }

// Tokens is T, the number of rows.
func (b *Batch) Tokens() int { return len(b.InputIDs) }

// EndSequence closes a sequence whose rows were just appended. It wants outputs, and its first poolSkip tokens are not pooled.
func (b *Batch) EndSequence(want Outputs, poolSkip int) {
	start := int(b.CuSeqLens[len(b.CuSeqLens)-1])
	b.MaxLength = max(b.MaxLength, len(b.InputIDs)-start)
	b.CuSeqLens = append(b.CuSeqLens, int32(len(b.InputIDs)))
	b.PoolSkip = append(b.PoolSkip, int32(poolSkip))
	b.Outputs |= want
}

// Output is the result of one run, row-major, in memory of the slot: valid until the slot's next Run or the engine's
// Close. What was not asked for is nil.
type Output struct {
	Pooled       []float32 // [n, PooledWidth]; after pooling and dense modules, not normalised
	TokenVectors []float32 // [T, TokenWidth]
	Sparse       []float32 // [n, SparseWidth]
}

// Slot is one of an engine's places for a run. One goroutine at a time uses a slot; slots run concurrently.
type Slot interface {
	// Batch returns the slot's staging batch, to be filled before Run. Always the same one.
	Batch() *Batch
	// Run computes the staged batch. It blocks. When ctx ends, Run returns as soon as the engine can stop. An error
	// concerns the run as a whole; with code Unhealthy it says that the engine is lost, any other that a run with
	// fewer or other sequences may succeed. Zero-token sequences are allowed and give zero rows of pooled output.
	Run(ctx context.Context) (Output, error)
}

// Engine runs one model. All methods may be called from any goroutine.
type Engine interface {
	Info() Info
	// Slots returns the slots, at least one; always the same ones.
	Slots() []Slot
	// Health reports a lost engine or device, cheaply; nil is healthy.
	Health() error
	// Close releases everything. The caller has made sure that no slot is running. Calling it twice is harmless.
	Close() error
}

// Validate checks a batch against limits and table sizes. Engines call it only in tests: the border has checked each
// item already.
func (b *Batch) Validate(l Limits, vocab, types, positions int) error {
	if b.Tokens() > l.MaxTokens || b.Sequences() > l.MaxSequences || b.MaxLength > l.MaxLength {
		return status.Errorf(status.InvalidArgument, "batch of %d tokens, %d sequences, longest %d exceeds limits %d, %d, %d",
			b.Tokens(), b.Sequences(), b.MaxLength, l.MaxTokens, l.MaxSequences, l.MaxLength)
	}
	for i, id := range b.InputIDs {
		if id < 0 || int(id) >= vocab || b.TypeIDs[i] < 0 || int(b.TypeIDs[i]) >= types ||
			b.PositionIDs[i] < 0 || int(b.PositionIDs[i]) >= positions {
			return status.Errorf(status.TokenOutOfRange, "row %d (id %d, type %d, position %d) is outside the tables (%d, %d, %d)",
				i, id, b.TypeIDs[i], b.PositionIDs[i], vocab, types, positions)
		}
	}
	return nil
}
