package onnx

import (
	"slices"
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// More sizes that differ from run to run. Sequences without tokens are none for attention: the others are "filled".
var (
	filled   = dim{name: "filled"}
	longest  = dim{name: "longest"}
	pages    = dim{name: "pages"} // of all sequences
	pageSize = dim{name: "page_size"}
)

// Names of inputs that the host computes for graphs on CUDA, with what they hold. Padded rows are [filled, longest].
const (
	filledCuSeqLens   = "filled_cu_seqlens"  // [filled + 1]
	starts            = "starts"             // [filled] first row of each sequence
	lastPositions     = "last_positions"     // [filled] tokens of each sequence, less one
	padPositions      = "pad_positions"      // [longest] 0, 1, ...
	unpaddedRows      = "unpadded_rows"      // [tokens] the padded row of each row
	tokenOffset       = "token_offset"       // [filled, longest] the padded rows of tokens, then those of none
	longestLength     = "longest_length"     // a number
	pastLengths       = "past_lengths"       // [filled] zeros
	blockTable        = "block_table"        // [filled, blocks] pages of each sequence
	cacheSlots        = "cache_slots"        // [tokens] the row of the pages that a row has
	noSlots           = "no_slots"           // [tokens] -1: rows that are not to be written
	attentionMetadata = "attention_metadata" // bounds of lengths
)

// layout is how the rows of one batch lie.
type layout struct {
	*engine.Batch
	block int // rows of a page
	sizes map[string]int
}

// check refuses a batch with cumulative lengths, on which everything else relies, or position ids that are wrong: on CUDA rope reads its tables
// there whatever they are.
func (g *deviceGraph) check(b *engine.Batch) error {
	if b.CuSeqLens[0] != 0 {
		return status.Errorf(status.Inference, "cu_seqlens starts at %d, not at 0", b.CuSeqLens[0])
	}
	for i, end := range b.CuSeqLens[1:] {
		if end < b.CuSeqLens[i] || int(end) > b.Tokens() || b.PoolSkip[i] < 0 {
			return status.Errorf(status.Inference, "cu_seqlens[%d] is %d, after %d, with %d tokens and %d to skip", i+1, end, b.CuSeqLens[i], b.Tokens(), b.PoolSkip[i])
		}
	}
	if last := b.CuSeqLens[b.Sequences()]; int(last) != b.Tokens() {
		return status.Errorf(status.Inference, "cu_seqlens ends at %d with %d tokens", last, b.Tokens())
	}
	if g.positions > 0 {
		row := slices.IndexFunc(b.PositionIDs, func(p int32) bool { return p < 0 || int(p) >= g.positions })
		if row >= 0 {
			return status.Errorf(status.Inference, "position id %d of row %d is outside [0, %d)", b.PositionIDs[row], row, g.positions)
		}
	}
	return nil
}

// lay counts the rows of a batch that check has nothing against.
func lay(b *engine.Batch, g *deviceGraph) *layout {
	l := &layout{Batch: b, block: max(g.block, 1)}
	n, most, used := 0, 0, 0 // sequences, tokens, pages
	for i, end := range b.CuSeqLens[1:] {
		length := int(end - b.CuSeqLens[i])
		if length > 0 {
			n++
		}
		most = max(most, length)
		used += (length + l.block - 1) / l.block
	}
	most = (most + g.align - 1) / g.align * g.align
	l.sizes = map[string]int{
		tokens.name: b.Tokens(), sequences.name: b.Sequences(), "sequences_plus_one": b.Sequences() + 1,
		filled.name: n, "filled_plus_one": n + 1, longest.name: most, "blocks": (most + l.block - 1) / l.block,
		pages.name: used, pageSize.name: l.block,
	}
	return l
}

// dims are those of an input.
func (l *layout) dims(v value) []int {
	dims := make([]int, len(v.dims))
	for i, d := range v.dims {
		dims[i] = l.size(d)
	}
	return dims
}

func (l *layout) size(d dim) int {
	if d.name != "" {
		return l.sizes[d.name]
	}
	return d.size
}

func view[T any](memory []byte) []T {
	var zero T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(memory))), len(memory)/int(unsafe.Sizeof(zero)))
}

// write fills the memory of an input.
func (l *layout) write(v value, memory []byte) {
	if v.shape == nil {
		l.writeRows(v.name, view[int32](memory))
		return
	}
	for i, d := range v.shape {
		view[int64](memory)[i] = int64(l.size(d))
	}
}

// each calls f for the sequences that have tokens: their number among these, first row and length.
func (l *layout) each(f func(i, start, length int)) {
	n := 0
	for i := range l.Sequences() {
		if start, end := l.CuSeqLens[i], l.CuSeqLens[i+1]; end > start {
			f(n, int(start), int(end-start))
			n++
		}
	}
}

func (l *layout) writeRows(name string, dst []int32) {
	most := l.sizes[longest.name]
	switch name {
	case inputIDs:
		copy(dst, l.InputIDs)
	case typeIDs:
		copy(dst, l.TypeIDs)
	case positionIDs:
		copy(dst, l.PositionIDs)
	case filledCuSeqLens:
		dst[0] = 0
		l.each(func(i, start, length int) { dst[i+1] = int32(start + length) })
	case starts:
		l.each(func(i, start, _ int) { dst[i] = int32(start) })
	case lastPositions:
		l.each(func(i, _, length int) { dst[i] = int32(length - 1) })
	case cuSeqLens:
		copy(dst, l.CuSeqLens)
	case poolSkip:
		copy(dst, l.PoolSkip)
	case padPositions:
		for i := range dst {
			dst[i] = int32(i)
		}
	case unpaddedRows:
		l.each(func(i, start, length int) { count(dst[start:start+length], i*most) })
	case tokenOffset:
		padding := l.Tokens()
		l.each(func(i, start, length int) {
			count(dst[start:start+length], i*most)
			count(dst[padding:padding+most-length], i*most+length)
			padding += most - length
		})
	case longestLength:
		dst[0] = int32(most)
	case attentionMetadata:
		for i := range dst {
			dst[i] = int32(most)
		}
	case blockTable:
		width, next := l.sizes["blocks"], 0
		clear(dst)
		l.each(func(i, _, length int) {
			pages := (length + l.block - 1) / l.block
			count(dst[i*width:i*width+pages], next)
			next += pages
		})
	case cacheSlots:
		next := 0
		l.each(func(_, start, length int) {
			count(dst[start:start+length], next*l.block)
			next += (length + l.block - 1) / l.block
		})
	case noSlots:
		for i := range dst {
			dst[i] = -1
		}
	case pastLengths:
		clear(dst)
	default:
		panic("no input is named " + name)
	}
}

// count writes from, from + 1, ...
func count(dst []int32, from int) {
	for i := range dst {
		dst[i] = int32(from + i)
	}
}
