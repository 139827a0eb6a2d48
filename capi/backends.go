package main

// #include "capi.h"
import "C"

import (
	"context"
	"math"
	"time"
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// A Backend's own methods wait for each other as Close needs it, so the table only makes handles stale.
var backends = newTable[*backend.Backend](kindBackend)

//export goInit
func goInit(options, optionsSize, handle uintptr) *C.bei_error {
	return guard(func() error {
		out, err := target[uint64]("backend", handle)
		if err != nil {
			return err
		}
		text, err := sliceAt[byte]("options", options, "options_size", optionsSize)
		if err != nil {
			return err
		}
		config, err := backend.ParseConfig(text)
		if err != nil {
			return err
		}
		b, err := backend.Open(context.Background(), config)
		if err != nil {
			return err
		}
		*out = backends.add(b)
		return nil
	})
}

//export goShutdown
func goShutdown(handle uint64, timeoutMS uint64) *C.bei_error {
	return guard(func() error {
		b, err := backends.take(handle)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), milliseconds(timeoutMS))
		defer cancel()
		return b.Close(ctx)
	})
}

// milliseconds is n milliseconds, or the longest duration where that is too long.
func milliseconds(n uint64) time.Duration {
	if n > math.MaxInt64/uint64(time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(n) * time.Millisecond
}

//export goGetInfo
func goGetInfo(handle uint64, info uintptr) *C.bei_error {
	return guard(func() error {
		b, err := backends.get(handle)
		if err != nil {
			return err
		}
		i := b.Info()
		return writeStruct("info", info, firstInfoSize, C.bei_info{
			api_version:      C.BEI_API_VERSION,
			model_type:       C.uint32_t(i.ModelType),
			pooling:          C.uint32_t(i.Pooling),
			dimensions:       C.uint32_t(i.Dimensions),
			token_dimensions: C.uint32_t(i.TokenDimensions),
			labels:           C.uint32_t(i.Labels),
			vocab_size:       C.uint32_t(i.VocabSize),
			type_vocab_size:  C.uint32_t(i.TypeVocabSize),
			position_offset:  C.uint32_t(i.PositionOffset),
			max_length:       C.uint32_t(i.MaxLength),
			max_tokens:       C.uint32_t(i.MaxTokens),
			max_sequences:    C.uint32_t(i.MaxSequences),
			best_tokens:      C.uint32_t(i.BestTokens),
			slots:            C.uint32_t(i.Slots),
			is_padded:        flag(i.Padded),
			has_tokenizer:    flag(i.HasTokenizer),
			normalizes:       flag(i.Normalizes),
		})
	})
}

func flag(b bool) C.uint32_t {
	if b {
		return 1
	}
	return 0
}

//export goInfoJSON
func goInfoJSON(handle uint64, result uintptr) *C.bei_error {
	return textCall(handle, result, (*backend.Backend).InfoJSON)
}

//export goMetrics
func goMetrics(handle uint64, result uintptr) *C.bei_error {
	return textCall(handle, result, (*backend.Backend).Metrics)
}

// textCall gives one text as a result.
func textCall(handle uint64, resultAt address, read func(*backend.Backend) ([]byte, error)) *C.bei_error {
	return guard(func() error {
		out, err := target[uint64]("result", resultAt)
		if err != nil {
			return err
		}
		b, err := backends.get(handle)
		if err != nil {
			return err
		}
		text, err := read(b)
		if err != nil {
			return err
		}
		*out = results.add(newTextResult(string(text)))
		return nil
	})
}

//export goHealth
func goHealth(handle uint64, deep int32, options uintptr) *C.bei_error {
	return guard(func() error {
		b, err := backends.get(handle)
		if err != nil {
			return err
		}
		if deep != 0 && deep != 1 {
			return status.Errorf(status.InvalidArgument, "deep is %d, the limits are 0 and 1", deep)
		}
		ctx, o, err := readOptions(options)
		if err != nil {
			return err
		}
		return b.Health(ctx, deep == 1, o)
	})
}

//export goSetLogCallback
func goSetLogCallback(fn, user uintptr) *C.bei_error {
	return guard(func() error {
		if fn == 0 {
			backend.SetLogSink(nil)
			return nil
		}
		backend.SetLogSink(func(level int32, line []byte) {
			C.capi_call_log(C.uintptr_t(fn), C.uintptr_t(user), C.int32_t(level), (*C.char)(unsafe.Pointer(unsafe.SliceData(line))), C.size_t(len(line)))
		})
		return nil
	})
}
