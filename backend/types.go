package backend

import (
	"time"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/pipeline"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Batch is a batch of token sequences, packed without padding: bei_batch of include/bei.h, field by field. T tokens, n
// items; item i has tokens CumulativeSeqLengths[i] to CumulativeSeqLengths[i+1]. Its slices are the caller's and must not change
// during the call.
type Batch struct {
	InputIDs             []uint32 // [T]
	TokenTypeIDs         []uint32 // [T], or nil: zeros
	PositionIDs          []uint32 // [T], or nil: counted from Info.PositionOffset in each item
	CumulativeSeqLengths []uint32 // [n+1]: first 0, last T, never falling
	MaxLength            uint32   // tokens of the longest item; 0: counted here
	PooledIndices        []uint32 // items that want one vector; strictly ascending, as the next two
	RawIndices           []uint32 // items that want every token's vector
	SparseIndices        []uint32 // items that want vocabulary weights
}

// Outputs are bits of engine.Outputs, and TokensOutput.
type Outputs = engine.Outputs

// Text is a text or a pair of texts, UTF-8, and the outputs that are wanted of it; 0 means engine.Pooled.
type Text struct {
	Text    string
	Pair    string
	HasPair bool
	Outputs engine.Outputs
}

// Tokens as an output of a text: the item's Tokens are kept in the result.
const TokensOutput engine.Outputs = 8

// Switch is a three-valued option: Default leaves the choice to the model and the config.
type Switch int32

// The values of a Switch.
const (
	Default Switch = 0
	On      Switch = 1
	Off     Switch = 2
)

// Side is the side that truncation cuts off.
type Side int32

// The values of a Side.
const (
	SideDefault Side = 0
	SideRight   Side = 1
	SideLeft    Side = 2
)

// CallOptions are the options of one call; the zero value means all defaults. bei_call_options tells their meanings.
type CallOptions struct {
	Timeout           time.Duration // from entry to return; 0: Config.Queue.TimeoutMS
	PromptName        string        // "": the default
	Truncate          Switch
	TruncationSide    Side
	Dimensions        int
	Normalize         Switch
	Priority          int // -1, 0, 1
	AddSpecialTokens  Switch
	SkipSpecialTokens Switch
	Aggregation       Aggregation // of PredictTokensTexts
	DynamicBatching   Switch
	CallerRuns        Switch // default Off; see pipeline.Options
}

func (o CallOptions) pipeline() pipeline.Options {
	return pipeline.Options{Priority: o.Priority, Alone: o.DynamicBatching == Off, CallerRuns: o.CallerRuns == On}
}

// Output is where a call's results go. Its slices are the caller's; nothing touches them after the call.
type Output struct {
	// Rows receives pooled vectors [n x dimensions] or logits [n x labels]: row i is item i's. Rows of items that failed or did not
	// ask are not written. May be nil where no item asks for one.
	Rows []float32
	// Status receives each item's code, [n] or longer. nil: the first failed item fails the call.
	Status []status.Code
	// Result receives what has no fixed size, messages and stats. May be nil where no item asks for such.
	Result *Result
}

// Result holds the outputs of unknown size of one call.
type Result struct {
	Items []Item
	Stats pipeline.Stats
}

// Item is one item's part of a Result.
type Item struct {
	Message      string    // why it failed; "" for an item that is ok
	TokenVectors []float32 // [tokens x Columns]
	Columns      int
	SparseIDs    []uint32  // ascending
	Sparse       []float32 // the weight of each of SparseIDs
	Tokens       *Tokens
	Entities     []Entity
	Text         string
}

// Tokens are the tokens of one item: bei_tokens of include/bei.h.
type Tokens struct {
	IDs, TypeIDs      []uint32
	Special, Sequence []uint8
	Starts, Ends      []uint32
	Pieces            []byte   // the vocabulary's spellings, joined
	PieceOffsets      []uint32 // [count+1]
}

// Entity is a span that a token classifier named: bei_entity.
type Entity struct {
	Label      uint32  // of its first token or word
	Score      float32 // 0 to 1; of joined ones the mean
	Start, End uint32  // code points of prompt + text
	Token      uint32  // its first
}
