package onnx

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// batchOf has sequences of those lengths; the first of pooled tokens is skip.
func batchOf(skip int, lengths ...int) *engine.Batch {
	b := engine.NewBatch(engine.Limits{MaxTokens: 100, MaxSequences: 10})
	for _, n := range lengths {
		for i := range n {
			b.InputIDs, b.TypeIDs, b.PositionIDs = append(b.InputIDs, int32(10+i)), append(b.TypeIDs, 1), append(b.PositionIDs, int32(i+2))
		}
		b.EndSequence(engine.Pooled, skip)
	}
	return b
}

func TestPlan(t *testing.T) {
	g, b := &deviceGraph{block: 2, align: 1}, batchOf(2, 3, 0, 1, 5)
	require.NoError(t, g.check(b))
	l := lay(b, g)
	dimOf := func(name string) dim { return dim{name: name} }
	for name, c := range map[string]struct {
		dims []dim
		want []int32
	}{
		inputIDs:          {[]dim{tokens}, []int32{10, 11, 12, 10, 10, 11, 12, 13, 14}},
		typeIDs:           {[]dim{tokens}, []int32{1, 1, 1, 1, 1, 1, 1, 1, 1}},
		positionIDs:       {[]dim{tokens}, []int32{2, 3, 4, 2, 2, 3, 4, 5, 6}},
		filledCuSeqLens:   {[]dim{dimOf("filled_plus_one")}, []int32{0, 3, 4, 9}},
		starts:            {[]dim{filled}, []int32{0, 3, 4}},
		lastPositions:     {[]dim{filled}, []int32{2, 0, 4}},
		cuSeqLens:         {[]dim{dimOf("sequences_plus_one")}, []int32{0, 3, 3, 4, 9}},
		poolSkip:          {[]dim{sequences}, []int32{2, 2, 2, 2}},
		padPositions:      {[]dim{longest}, []int32{0, 1, 2, 3, 4}},
		unpaddedRows:      {[]dim{tokens}, []int32{0, 1, 2, 5, 10, 11, 12, 13, 14}},
		tokenOffset:       {[]dim{filled, longest}, []int32{0, 1, 2, 5, 10, 11, 12, 13, 14, 3, 4, 6, 7, 8, 9}},
		longestLength:     {nil, []int32{5}},
		pastLengths:       {[]dim{filled}, []int32{0, 0, 0}},
		blockTable:        {[]dim{filled, dimOf("blocks")}, []int32{0, 1, 0, 2, 0, 0, 3, 4, 5}},
		cacheSlots:        {[]dim{tokens}, []int32{0, 1, 2, 4, 6, 7, 8, 9, 10}},
		noSlots:           {[]dim{tokens}, []int32{-1, -1, -1, -1, -1, -1, -1, -1, -1}},
		attentionMetadata: {[]dim{{size: 3}}, []int32{5, 5, 5}},
	} {
		v := value{name: name, dtype: ort.Int32, dims: c.dims}
		bytes, _ := alignedBytes(v.dtype, l.dims(v))
		memory := make([]byte, bytes)
		for i := range memory {
			memory[i] = 0xee // what an earlier run left
		}
		l.write(v, memory)
		require.Equal(t, c.want, view[int32](memory), name)
	}
	memory := make([]byte, 32)
	l.write(value{"cache", ort.Int64, []dim{{size: 4}}, []dim{pages, pageSize, {size: 7}, {size: 16}}}, memory)
	require.Equal(t, []int64{6, 2, 7, 16}, view[int64](memory))
	l.write(value{"rows", ort.Int64, []dim{{size: 2}}, []dim{tokens, {size: 24}}}, memory[:16])
	require.Equal(t, []int64{9, 24}, view[int64](memory[:16]))
	g, b = &deviceGraph{align: 8}, batchOf(0, 3, 9)
	require.NoError(t, g.check(b))
	l = lay(b, g)
	require.Equal(t, 16, l.sizes[longest.name])
	require.Panics(t, func() { l.writeRows("unheard of", make([]int32, 9)) })
}

func TestPlanRefuses(t *testing.T) {
	for want, change := range map[string]func(b *engine.Batch){
		"cu_seqlens starts at 1":                                    func(b *engine.Batch) { b.CuSeqLens[0] = 1 },
		"cu_seqlens[1] is -1, after 0":                              func(b *engine.Batch) { b.CuSeqLens[1] = -1 },
		"cu_seqlens[1] is 9, after 0, with 5 tokens":                func(b *engine.Batch) { b.CuSeqLens[1] = 9 },
		"cu_seqlens[2] is 5, after 3, with 5 tokens and -2 to skip": func(b *engine.Batch) { b.PoolSkip[1] = -2 },
		"cu_seqlens ends at 4 with 5 tokens":                        func(b *engine.Batch) { b.CuSeqLens[2] = 4 },
		"position id 7 of row 4 is outside [0, 7)":                  func(b *engine.Batch) { b.PositionIDs[4] = 7 },
		"position id -1 of row 0 is outside [0, 7)":                 func(b *engine.Batch) { b.PositionIDs[0] = -1 },
	} {
		b := batchOf(0, 3, 2)
		change(b)
		err := (&deviceGraph{align: 1, positions: 7}).check(b)
		require.Equal(t, status.Inference, status.CodeOf(err), want)
		require.ErrorContains(t, err, want)
	}
}
