package backend

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/mock"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestBatchIsRefused(t *testing.T) {
	b := openMock(t, nil)
	fine := func() Batch { return packed([]uint32{1, 2}, []uint32{3}) }
	for want, change := range map[string]func(*Batch){
		"cumulative_seq_lengths is empty":                                 func(b *Batch) { b.CumulativeSeqLengths = nil },
		"cumulative_seq_lengths[0] is 1, not 0":                           func(b *Batch) { b.CumulativeSeqLengths[0] = 1 },
		"cumulative_seq_lengths[2] is 1, below the value before it, 2":    func(b *Batch) { b.CumulativeSeqLengths[2] = 1 },
		"cumulative_seq_lengths[2] is 4, but total_tokens is 3":           func(b *Batch) { b.CumulativeSeqLengths[2] = 4 },
		"cumulative_seq_lengths[2] is 4294967295, but total_tokens is 3":  func(b *Batch) { b.CumulativeSeqLengths[2] = 1<<32 - 1 },
		"cumulative_seq_lengths[2] is 3, but total_tokens is 0":           func(b *Batch) { b.InputIDs = nil },
		"token_type_ids has 2 values, input_ids has 3":                    func(b *Batch) { b.TokenTypeIDs = make([]uint32, 2) },
		"position_ids has 0 values, input_ids has 3":                      func(b *Batch) { b.PositionIDs = []uint32{} },
		"max_length is 3, but the longest item has 2 tokens":              func(b *Batch) { b.MaxLength = 3 },
		"pooled_indices[1] is 2, but the batch has 2 items":               func(b *Batch) { b.PooledIndices[1] = 2 },
		"pooled_indices[1] is 0, not above the value before it, 0":        func(b *Batch) { b.PooledIndices[1] = 0 },
		"raw_indices[1] is 0, not above the value before it, 1":           func(b *Batch) { b.RawIndices = []uint32{1, 0} },
		"sparse_indices[0] is 4294967295, but the batch has 2 items":      func(b *Batch) { b.SparseIndices = []uint32{1<<32 - 1} },
		"a result is needed: items want outputs of unknown size":          func(b *Batch) { b.RawIndices = []uint32{0} },
		"a result is needed: items want outputs of unknown size ":         func(b *Batch) { b.SparseIndices = []uint32{0} },
		"65537 items are more than one call may have: the limit is 65536": func(b *Batch) { b.CumulativeSeqLengths = make([]uint32, 65538) },
	} {
		batch := fine()
		change(&batch)
		codes := []status.Code{99, 99}
		err := b.Embed(background, batch, CallOptions{}, Output{Rows: rowsFor(b, 2), Status: codes})
		requireCode(t, status.InvalidArgument, err, strings.TrimSpace(want))
		require.Equal(t, []status.Code{99, 99}, codes, "a call that is refused tells no items")
	}
}

func TestBatchItems(t *testing.T) {
	b := openMock(t, nil) // 100 ids, 2 types, 16 tokens
	result := &Result{}
	batch := Batch{CumulativeSeqLengths: []uint32{0}}
	var want []status.Code
	var messages []string
	add := func(code status.Code, message string, pooled, raw bool, position uint32, types uint32, ids ...uint32) {
		i := uint32(len(want))
		batch.InputIDs = append(batch.InputIDs, ids...)
		for range ids {
			batch.PositionIDs, batch.TokenTypeIDs = append(batch.PositionIDs, position), append(batch.TokenTypeIDs, types)
		}
		batch.CumulativeSeqLengths = append(batch.CumulativeSeqLengths, uint32(len(batch.InputIDs)))
		if pooled {
			batch.PooledIndices = append(batch.PooledIndices, i)
		}
		if raw {
			batch.RawIndices = append(batch.RawIndices, i)
		}
		want, messages = append(want, code), append(messages, message)
	}
	add(status.OK, "", true, false, 0, 0, 1, 2, 3)
	add(status.InvalidArgument, "item 1 is in none of pooled_indices, raw_indices, sparse_indices", false, false, 0, 0, 1)
	add(status.Empty, "item 2 has no tokens, so there is nothing to pool", true, false, 0, 0)
	add(status.Empty, "item 3 has no tokens, so there is nothing to pool", true, true, 0, 0)
	add(status.OK, "", false, true, 0, 0)
	add(status.TooLong, "item 5 has 17 tokens, the limit is 16 (max_length)", true, false, 0, 0, make([]uint32, 17)...)
	add(status.OK, "", true, false, 0, 1, make([]uint32, 16)...)
	add(status.TokenOutOfRange, "item 7: input_ids[38] is 100, the limit is 99 (vocab_size)", true, false, 0, 0, 99, 100, 1<<32-1)
	add(status.TokenOutOfRange, "item 8: token_type_ids[40] is 2, the limit is 1 (type_vocab_size)", true, true, 0, 2, 5)
	add(status.TokenOutOfRange, "item 9: position_ids[41] is 2147483647, the limit is 2147483646 (max_position_embeddings)", true, false, 1<<31-1, 0, 5)
	add(status.OK, "", true, true, 1<<31-2, 0, 7, 8)
	rows, codes := rowsFor(b, len(want)), make([]status.Code, len(want)+1)
	codes[len(want)] = 99
	batch.MaxLength = 17
	require.NoError(t, b.Embed(background, batch, CallOptions{}, Output{Rows: rows, Status: codes, Result: result}))
	require.Equal(t, append(want, 99), codes)
	require.Len(t, result.Items, len(want))
	for i, item := range result.Items {
		require.Equal(t, messages[i], item.Message)
		row := rows[i*8 : (i+1)*8]
		if want[i] == status.OK && i != 4 {
			require.NotContains(t, row, float32(-99))
		} else {
			for _, v := range row {
				require.EqualValues(t, -99, v, "rows of items that failed or did not ask are not written")
			}
		}
	}
	require.Empty(t, result.Items[4].TokenVectors)
	require.Len(t, result.Items[10].TokenVectors, 2*8)
	require.Equal(t, 8, result.Items[10].Columns)
	require.Nil(t, result.Items[0].TokenVectors)
	require.Equal(t, 3+16+2, result.Stats.Tokens)

	// Without item_status the first failed item fails the call.
	err := b.Embed(background, batch, CallOptions{}, Output{Rows: rows, Result: result})
	requireCode(t, status.InvalidArgument, err, "item 1 is in none")
}

func TestNoItems(t *testing.T) {
	b := openMock(t, nil)
	require.NoError(t, b.Embed(background, Batch{CumulativeSeqLengths: []uint32{0}}, CallOptions{}, Output{}))
}

// TestBatchAboveARun: a batch of any size is split.
func TestBatchAboveARun(t *testing.T) {
	b := openMock(t, func(c *Config) { c.BestTokens, c.MaxSequences, c.Slots = 20, 3, 2 })
	const n = 2000
	var sequences [][]uint32
	for i := range n {
		sequences = append(sequences, []uint32{uint32(i % 100), uint32(i / 100), 3})
	}
	rows, result := rowsFor(b, n), &Result{}
	require.NoError(t, b.Embed(background, packed(sequences...), CallOptions{}, Output{Rows: rows, Result: result}))
	require.GreaterOrEqual(t, result.Stats.Runs, n/3)
	for _, i := range []int{0, 1, 777, n - 1} {
		requireClose(t, normalized(reference(t, b, sequences[i]).Pooled, 8), rows[i*8:(i+1)*8], 1e-7)
	}
}

// FuzzBatch feeds arbitrary batches: each call must return nil or a *status.Error, and with nil every item has a valid code.
func FuzzBatch(f *testing.F) {
	c := mockConfig()
	c.Mock.Dimensions, c.Mock.VocabSize = 2, 20
	b := open(f, c)
	words := func(data ...uint32) (out []byte) {
		for _, v := range data {
			out = binary.LittleEndian.AppendUint32(out, v)
		}
		return out
	}
	f.Add(words(1, 2, 3), words(), words(), words(0, 2, 3), words(0, 1), words(1), words(), uint32(2), uint8(0))
	f.Add(words(), words(), words(), words(0, 0), words(), words(0), words(), uint32(0), uint8(1))
	f.Add(words(1<<31, 1), words(1, 1), words(9, 1<<32-1), words(0, 1, 1<<32-1), words(0, 1, 2), words(), words(5), uint32(1), uint8(7))
	f.Fuzz(func(t *testing.T, ids, types, positions, cu, pooled, raw, sparse []byte, longest uint32, mode uint8) {
		numbers := func(data []byte) (out []uint32) {
			for len(data) >= 4 && len(out) < 4096 {
				out, data = append(out, binary.LittleEndian.Uint32(data)), data[4:]
			}
			return out
		}
		batch := Batch{InputIDs: numbers(ids), TokenTypeIDs: numbers(types), PositionIDs: numbers(positions), CumulativeSeqLengths: numbers(cu),
			MaxLength: longest, PooledIndices: numbers(pooled), RawIndices: numbers(raw), SparseIndices: numbers(sparse)}
		n := max(len(batch.CumulativeSeqLengths)-1, 0)
		out := Output{Rows: make([]float32, 2*n)}
		if mode&1 != 0 {
			out.Result = &Result{}
		}
		if mode&2 != 0 {
			out.Status = make([]status.Code, n)
			for i := range out.Status {
				out.Status[i] = -1
			}
		}
		if mode&4 != 0 {
			out.Rows = out.Rows[:n]
		}
		err := b.Embed(background, batch, CallOptions{}, out)
		if err != nil {
			requireCode(t, status.CodeOf(err), err, "")
			require.NotEqual(t, status.Internal, status.CodeOf(err), "%v", err)
			return
		}
		for _, code := range out.Status {
			require.NotEqual(t, status.Code(-1), code)
			require.NotEqual(t, "UNKNOWN", code.String())
		}
	})
}

func TestOutputsThatTheModelHasNot(t *testing.T) {
	batch := packed([]uint32{1})
	raw := Batch{InputIDs: []uint32{1}, CumulativeSeqLengths: []uint32{0, 1}, RawIndices: []uint32{0}}
	out := func(b *Backend) Output { return Output{Rows: rowsFor(b, 1), Result: &Result{}} }

	b := openMock(t, func(c *Config) { c.Mock.Kind = mock.Classifier })
	require.NoError(t, b.Predict(background, batch, CallOptions{}, out(b)))
	requireCode(t, status.InvalidArgument, b.Predict(background, raw, CallOptions{}, out(b)), `output "token vectors" cannot be asked for in this call`)
	requireCode(t, status.Unsupported, b.Embed(background, batch, CallOptions{}, out(b)), "embed needs a model of type embedding, this one is of type classifier")
	requireCode(t, status.Unsupported, b.EmbedTexts(background, nil, CallOptions{}, out(b)), "embed_texts needs")
	requireCode(t, status.Unsupported, b.PredictTokens(background, raw, CallOptions{}, out(b)), "predict_tokens needs a model of type token_classifier")
	requireCode(t, status.Unsupported, b.PredictTokensTexts(background, nil, CallOptions{}, out(b)), "predict_tokens_texts needs")
	requireCode(t, status.InvalidArgument, b.Predict(background, batch, CallOptions{Dimensions: 2}, out(b)), "dimensions and normalize are for embedding models")
	requireCode(t, status.InvalidArgument, b.Predict(background, batch, CallOptions{Normalize: On}, out(b)), "dimensions and normalize are for embedding models")

	b = openMock(t, func(c *Config) { c.Mock.Kind = mock.TokenClassifier })
	require.NoError(t, b.PredictTokens(background, raw, CallOptions{}, out(b)))
	requireCode(t, status.InvalidArgument, b.PredictTokens(background, batch, CallOptions{}, out(b)), `output "pooled" cannot be asked for`)
	requireCode(t, status.Unsupported, b.Predict(background, batch, CallOptions{}, out(b)), "predict needs")
	requireCode(t, status.Unsupported, b.PredictTexts(background, nil, CallOptions{}, out(b)), "predict_texts needs")
	requireCode(t, status.Unsupported, b.PredictTokensTexts(background, nil, CallOptions{}, out(b)), "this backend has no tokenizer")

	b = openMock(t, nil)
	r, err := b.newResults(out(b), CallOptions{}, engine.Pooled)
	require.NoError(t, err)
	requireCode(t, status.InvalidArgument, r.checkOutputs(1, []engine.Outputs{engine.Sparse}), `output "sparse" cannot be asked for in this call`)
	requireCode(t, status.InvalidArgument, r.checkOutputs(1, []engine.Outputs{engine.Pooled | 0x40}), "outputs has unknown bits: 0x40")
}
