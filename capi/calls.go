package main

// #include "capi.h"
import "C"

import (
	"context"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// output is where one call's results go, as C gave it.
type output struct {
	rowsName      string // "pooled" or "logits"
	rows          address
	rowsSize      uintptr
	status        address
	statusSize    uintptr
	result        address
	resultNeeded  bool
	textsInResult bool
}

// run is the one way of a call: it reads what all calls have in common, calls, and gives the result out.
func (o output) run(handle uint64, options address, call func(*backend.Backend, context.Context, backend.CallOptions, backend.Output) error) *C.bei_error {
	return guard(func() error {
		b, err := backends.get(handle)
		if err != nil {
			return err
		}
		ctx, callOptions, err := readOptions(options)
		if err != nil {
			return err
		}
		var out backend.Output
		if out.Rows, err = sliceAt[float32](o.rowsName, o.rows, o.rowsName+"_size", o.rowsSize); err != nil {
			return err
		}
		if out.Status, err = sliceAt[status.Code]("item_status", o.status, "item_status_size", o.statusSize); err != nil {
			return err
		}
		if o.result == 0 && !o.resultNeeded {
			return call(b, ctx, callOptions, out)
		}
		resultOut, err := target[uint64]("result", o.result)
		if err != nil {
			return err
		}
		r := &result{hasTexts: o.textsInResult}
		out.Result = &r.Result
		if err := call(b, ctx, callOptions, out); err != nil {
			return err
		}
		*resultOut = results.add(r)
		return nil
	})
}

//export goEmbed
func goEmbed(handle uint64, batch, options, pooled, pooledSize, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{rowsName: "pooled", rows: pooled, rowsSize: pooledSize, status: itemStatus, statusSize: statusSize, result: result}
	return o.runBatch(handle, options, batch, (*backend.Backend).Embed)
}

//export goPredict
func goPredict(handle uint64, batch, options, logits, logitsSize, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{rowsName: "logits", rows: logits, rowsSize: logitsSize, status: itemStatus, statusSize: statusSize, result: result}
	return o.runBatch(handle, options, batch, (*backend.Backend).Predict)
}

//export goPredictTokens
func goPredictTokens(handle uint64, batch, options, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{status: itemStatus, statusSize: statusSize, result: result}
	return o.runBatch(handle, options, batch, (*backend.Backend).PredictTokens)
}

//export goEmbedTexts
func goEmbedTexts(handle uint64, texts, n, options, pooled, pooledSize, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{rowsName: "pooled", rows: pooled, rowsSize: pooledSize, status: itemStatus, statusSize: statusSize, result: result}
	return o.runTexts(handle, options, texts, n, (*backend.Backend).EmbedTexts)
}

//export goEmbedSpans
func goEmbedSpans(handle uint64, texts, n, spans, numSpans, cumulativeSpans, options, vectors, vectorsSize, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{rowsName: "vectors", rows: vectors, rowsSize: vectorsSize, status: itemStatus, statusSize: statusSize, result: result}
	return o.run(handle, options, func(b *backend.Backend, ctx context.Context, co backend.CallOptions, out backend.Output) error {
		read, err := readTexts(b, texts, n)
		if err != nil {
			return err
		}
		parts, err := sliceAt[backend.Span]("spans", spans, "num_spans", numSpans)
		if err != nil {
			return err
		}
		cumulative, err := offsetsAt("cumulative_spans", cumulativeSpans, "n", n)
		if err != nil {
			return err
		}
		return b.EmbedSpans(ctx, read, parts, cumulative, co, out)
	})
}

//export goPredictTexts
func goPredictTexts(handle uint64, texts, n, options, logits, logitsSize, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{rowsName: "logits", rows: logits, rowsSize: logitsSize, status: itemStatus, statusSize: statusSize, result: result}
	return o.runTexts(handle, options, texts, n, (*backend.Backend).PredictTexts)
}

//export goPredictTokensTexts
func goPredictTokensTexts(handle uint64, texts, n, options, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{status: itemStatus, statusSize: statusSize, result: result, resultNeeded: true}
	return o.runTexts(handle, options, texts, n, (*backend.Backend).PredictTokensTexts)
}

//export goTokenize
func goTokenize(handle uint64, texts, n, options, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{status: itemStatus, statusSize: statusSize, result: result, resultNeeded: true}
	return o.runTexts(handle, options, texts, n, (*backend.Backend).Tokenize)
}

//export goDecode
func goDecode(handle uint64, ids, idsSize, cumulativeLengths, n, options, itemStatus, statusSize, result uintptr) *C.bei_error {
	o := output{status: itemStatus, statusSize: statusSize, result: result, resultNeeded: true, textsInResult: true}
	return o.run(handle, options, func(b *backend.Backend, ctx context.Context, co backend.CallOptions, out backend.Output) error {
		rows, err := sliceAt[uint32]("ids", ids, "ids_size", idsSize)
		if err != nil {
			return err
		}
		lengths, err := offsetsAt("cumulative_lengths", cumulativeLengths, "n", n)
		if err != nil {
			return err
		}
		return b.Decode(ctx, rows, lengths, co, out)
	})
}
