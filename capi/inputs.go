package main

// #include "capi.h"
import "C"

import (
	"context"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

type batchCall func(*backend.Backend, context.Context, backend.Batch, backend.CallOptions, backend.Output) error

func (o output) runBatch(handle uint64, options, batch address, call batchCall) *C.bei_error {
	return o.run(handle, options, func(b *backend.Backend, ctx context.Context, co backend.CallOptions, out backend.Output) error {
		rows, err := readBatch(batch)
		if err != nil {
			return err
		}
		return call(b, ctx, rows, co, out)
	})
}

// readBatch makes a Batch over the caller's arrays. What they hold is checked by backend.
func readBatch(p address) (b backend.Batch, err error) {
	s, err := readStruct[batchStruct]("batch", p, firstBatchSize)
	if err != nil {
		return b, err
	}
	if s.reserved != 0 {
		return b, status.Errorf(status.InvalidArgument, "batch.reserved is %d, not 0", s.reserved)
	}
	if b.CumulativeSeqLengths, err = offsetsAt("batch.cumulative_seq_lengths", s.cumulativeSeqLengths, "batch.num_sequences", s.numSequences); err != nil {
		return b, err
	}
	for _, f := range [...]struct {
		to       *[]uint32
		name     string
		at       address
		sizeName string
		size     uintptr
		optional bool
	}{
		{&b.InputIDs, "batch.input_ids", s.inputIDs, "batch.total_tokens", s.totalTokens, false},
		{&b.TokenTypeIDs, "batch.token_type_ids", s.tokenTypeIDs, "batch.total_tokens", s.totalTokens, true},
		{&b.PositionIDs, "batch.position_ids", s.positionIDs, "batch.total_tokens", s.totalTokens, true},
		{&b.PooledIndices, "batch.pooled_indices", s.pooledIndices, "batch.num_pooled", s.numPooled, false},
		{&b.RawIndices, "batch.raw_indices", s.rawIndices, "batch.num_raw", s.numRaw, false},
		{&b.SparseIndices, "batch.sparse_indices", s.sparseIndices, "batch.num_sparse", s.numSparse, false},
	} {
		if f.optional && f.at == 0 {
			continue
		}
		if *f.to, err = sliceAt[uint32](f.name, f.at, f.sizeName, f.size); err != nil {
			return b, err
		}
	}
	b.MaxLength = s.maxLength
	return b, nil
}

// offsetsAt is an array of n + 1 offsets.
func offsetsAt(name string, p address, sizeName string, n uintptr) ([]uint32, error) {
	if n > maxCount {
		return nil, status.Errorf(status.InvalidArgument, "%s is %d, the limit is %d", sizeName, n, uint64(maxCount))
	}
	if err := checkAddress(name, p, 4*(n+1), 4); err != nil {
		return nil, err
	}
	return sliceAt[uint32](name, p, sizeName, n+1)
}

type textsCall func(*backend.Backend, context.Context, []backend.Text, backend.CallOptions, backend.Output) error

func (o output) runTexts(handle uint64, options, texts address, n uintptr, call textsCall) *C.bei_error {
	return o.run(handle, options, func(b *backend.Backend, ctx context.Context, co backend.CallOptions, out backend.Output) error {
		read, err := readTexts(b, texts, n)
		if err != nil {
			return err
		}
		return call(b, ctx, read, co, out)
	})
}

// outputBits are the bits that bei_text.outputs may have.
const outputBits = C.BEI_OUTPUT_POOLED | C.BEI_OUTPUT_TOKEN_VECTORS | C.BEI_OUTPUT_SPARSE | C.BEI_OUTPUT_TOKENS

// readTexts makes Texts whose strings are the caller's bytes. Whether they are UTF-8 is for backend to say, item by item.
func readTexts(b *backend.Backend, p address, n uintptr) ([]backend.Text, error) {
	structs, err := sliceAt[textStruct]("texts", p, "n", n)
	if err != nil {
		return nil, err
	}
	if err := b.CheckItems(len(structs)); err != nil {
		return nil, err
	}
	texts := make([]backend.Text, len(structs))
	for i := range structs {
		if err := readText(&structs[i], &texts[i]); err != nil {
			return nil, status.Errorf(status.InvalidArgument, "texts[%d].%w", i, err)
		}
	}
	return texts, nil
}

func readText(s *textStruct, t *backend.Text) (err error) {
	if t.Text, err = stringAt("text", s.text, "text_size", s.textSize); err != nil {
		return err
	}
	if t.Pair, err = stringAt("pair", s.pair, "pair_size", s.pairSize); err != nil {
		return err
	}
	t.HasPair = s.pair != 0
	if s.outputs&^outputBits != 0 {
		return status.Errorf(status.InvalidArgument, "outputs is %#x, the known bits are %#x", s.outputs, outputBits)
	}
	if s.reserved != 0 {
		return status.Errorf(status.InvalidArgument, "reserved is %d, not 0", s.reserved)
	}
	t.Outputs = backend.Outputs(s.outputs)
	return nil
}
