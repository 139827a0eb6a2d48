package main

// #include "capi.h"
import "C"

import (
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// The structs of bei.h that hold pointers, with addresses in their place.

// batchStruct is bei_batch.
type batchStruct struct {
	structSize           uintptr
	inputIDs             address
	tokenTypeIDs         address
	positionIDs          address
	totalTokens          uintptr
	cumulativeSeqLengths address
	numSequences         uintptr
	pooledIndices        address
	numPooled            uintptr
	rawIndices           address
	numRaw               uintptr
	sparseIndices        address
	numSparse            uintptr
	maxLength            uint32
	reserved             uint32
}

// textStruct is bei_text.
type textStruct struct {
	text     address
	textSize uintptr
	pair     address
	pairSize uintptr
	outputs  uint32
	reserved uint32
}

// callOptionsStruct is bei_call_options.
type callOptionsStruct struct {
	structSize        uintptr
	timeoutUS         uint64
	cancel            uint64
	promptName        address
	promptNameSize    uintptr
	truncate          int32
	truncationSide    int32
	dimensions        uint32
	normalize         int32
	priority          int32
	addSpecialTokens  int32
	skipSpecialTokens int32
	aggregation       int32
	dynamicBatching   int32
	callerRuns        int32
}

// tokensStruct is bei_tokens.
type tokensStruct struct {
	structSize   uintptr
	count        uintptr
	ids          address
	typeIDs      address
	special      address
	sequence     address
	starts       address
	ends         address
	pieces       address
	pieceOffsets address
}

// Sizes in version 1: no caller has smaller ones.
const (
	firstBatchSize       = 112
	firstCallOptionsSize = 80
	firstInfoSize        = 80
	firstTokensSize      = 80
	firstStatsSize       = 56
)

// The compiler checks here that Go and C mean the same: two array types are the same only when their lengths are.
// layout.c fixes the numbers of C's side.
var (
	_ [unsafe.Sizeof(batchStruct{})]struct{}                        = [C.sizeof_bei_batch]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.structSize)]struct{}           = [unsafe.Offsetof(C.bei_batch{}.struct_size)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.inputIDs)]struct{}             = [unsafe.Offsetof(C.bei_batch{}.input_ids)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.tokenTypeIDs)]struct{}         = [unsafe.Offsetof(C.bei_batch{}.token_type_ids)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.positionIDs)]struct{}          = [unsafe.Offsetof(C.bei_batch{}.position_ids)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.totalTokens)]struct{}          = [unsafe.Offsetof(C.bei_batch{}.total_tokens)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.cumulativeSeqLengths)]struct{} = [unsafe.Offsetof(C.bei_batch{}.cumulative_seq_lengths)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.numSequences)]struct{}         = [unsafe.Offsetof(C.bei_batch{}.num_sequences)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.pooledIndices)]struct{}        = [unsafe.Offsetof(C.bei_batch{}.pooled_indices)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.numPooled)]struct{}            = [unsafe.Offsetof(C.bei_batch{}.num_pooled)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.rawIndices)]struct{}           = [unsafe.Offsetof(C.bei_batch{}.raw_indices)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.numRaw)]struct{}               = [unsafe.Offsetof(C.bei_batch{}.num_raw)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.sparseIndices)]struct{}        = [unsafe.Offsetof(C.bei_batch{}.sparse_indices)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.numSparse)]struct{}            = [unsafe.Offsetof(C.bei_batch{}.num_sparse)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.maxLength)]struct{}            = [unsafe.Offsetof(C.bei_batch{}.max_length)]struct{}{}
	_ [unsafe.Offsetof(batchStruct{}.reserved)]struct{}             = [unsafe.Offsetof(C.bei_batch{}.reserved)]struct{}{}

	_ [unsafe.Sizeof(textStruct{})]struct{}            = [C.sizeof_bei_text]struct{}{}
	_ [unsafe.Offsetof(textStruct{}.text)]struct{}     = [unsafe.Offsetof(C.bei_text{}.text)]struct{}{}
	_ [unsafe.Offsetof(textStruct{}.textSize)]struct{} = [unsafe.Offsetof(C.bei_text{}.text_size)]struct{}{}
	_ [unsafe.Offsetof(textStruct{}.pair)]struct{}     = [unsafe.Offsetof(C.bei_text{}.pair)]struct{}{}
	_ [unsafe.Offsetof(textStruct{}.pairSize)]struct{} = [unsafe.Offsetof(C.bei_text{}.pair_size)]struct{}{}
	_ [unsafe.Offsetof(textStruct{}.outputs)]struct{}  = [unsafe.Offsetof(C.bei_text{}.outputs)]struct{}{}
	_ [unsafe.Offsetof(textStruct{}.reserved)]struct{} = [unsafe.Offsetof(C.bei_text{}.reserved)]struct{}{}

	_ [unsafe.Sizeof(backend.Span{})]struct{}         = [C.sizeof_bei_span]struct{}{}
	_ [unsafe.Offsetof(backend.Span{}.Start)]struct{} = [unsafe.Offsetof(C.bei_span{}.start)]struct{}{}
	_ [unsafe.Offsetof(backend.Span{}.End)]struct{}   = [unsafe.Offsetof(C.bei_span{}.end)]struct{}{}

	_ [unsafe.Sizeof(callOptionsStruct{})]struct{}                     = [C.sizeof_bei_call_options]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.structSize)]struct{}        = [unsafe.Offsetof(C.bei_call_options{}.struct_size)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.timeoutUS)]struct{}         = [unsafe.Offsetof(C.bei_call_options{}.timeout_us)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.cancel)]struct{}            = [unsafe.Offsetof(C.bei_call_options{}.cancel)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.promptName)]struct{}        = [unsafe.Offsetof(C.bei_call_options{}.prompt_name)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.promptNameSize)]struct{}    = [unsafe.Offsetof(C.bei_call_options{}.prompt_name_size)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.truncate)]struct{}          = [unsafe.Offsetof(C.bei_call_options{}.truncate)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.truncationSide)]struct{}    = [unsafe.Offsetof(C.bei_call_options{}.truncation_side)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.dimensions)]struct{}        = [unsafe.Offsetof(C.bei_call_options{}.dimensions)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.normalize)]struct{}         = [unsafe.Offsetof(C.bei_call_options{}.normalize)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.priority)]struct{}          = [unsafe.Offsetof(C.bei_call_options{}.priority)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.addSpecialTokens)]struct{}  = [unsafe.Offsetof(C.bei_call_options{}.add_special_tokens)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.skipSpecialTokens)]struct{} = [unsafe.Offsetof(C.bei_call_options{}.skip_special_tokens)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.aggregation)]struct{}       = [unsafe.Offsetof(C.bei_call_options{}.aggregation)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.dynamicBatching)]struct{}   = [unsafe.Offsetof(C.bei_call_options{}.dynamic_batching)]struct{}{}
	_ [unsafe.Offsetof(callOptionsStruct{}.callerRuns)]struct{}        = [unsafe.Offsetof(C.bei_call_options{}.caller_runs)]struct{}{}

	_ [unsafe.Sizeof(tokensStruct{})]struct{}                = [C.sizeof_bei_tokens]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.structSize)]struct{}   = [unsafe.Offsetof(C.bei_tokens{}.struct_size)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.count)]struct{}        = [unsafe.Offsetof(C.bei_tokens{}.count)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.ids)]struct{}          = [unsafe.Offsetof(C.bei_tokens{}.ids)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.typeIDs)]struct{}      = [unsafe.Offsetof(C.bei_tokens{}.type_ids)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.special)]struct{}      = [unsafe.Offsetof(C.bei_tokens{}.special)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.sequence)]struct{}     = [unsafe.Offsetof(C.bei_tokens{}.sequence)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.starts)]struct{}       = [unsafe.Offsetof(C.bei_tokens{}.starts)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.ends)]struct{}         = [unsafe.Offsetof(C.bei_tokens{}.ends)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.pieces)]struct{}       = [unsafe.Offsetof(C.bei_tokens{}.pieces)]struct{}{}
	_ [unsafe.Offsetof(tokensStruct{}.pieceOffsets)]struct{} = [unsafe.Offsetof(C.bei_tokens{}.piece_offsets)]struct{}{}

	_ [unsafe.Sizeof(status.OK)]struct{}                              = [C.sizeof_int32_t]struct{}{}
	_ [1 + C.BEI_OK - status.OK]struct{}                              = [1]struct{}{}
	_ [1 + C.BEI_INVALID_ARGUMENT - status.InvalidArgument]struct{}   = [1]struct{}{}
	_ [1 + C.BEI_INVALID_HANDLE - status.InvalidHandle]struct{}       = [1]struct{}{}
	_ [1 + C.BEI_UNSUPPORTED - status.Unsupported]struct{}            = [1]struct{}{}
	_ [1 + C.BEI_NO_BACKEND - status.NoBackend]struct{}               = [1]struct{}{}
	_ [1 + C.BEI_START - status.Start]struct{}                        = [1]struct{}{}
	_ [1 + C.BEI_WEIGHTS_NOT_FOUND - status.WeightsNotFound]struct{}  = [1]struct{}{}
	_ [1 + C.BEI_INFERENCE - status.Inference]struct{}                = [1]struct{}{}
	_ [1 + C.BEI_UNHEALTHY - status.Unhealthy]struct{}                = [1]struct{}{}
	_ [1 + C.BEI_OVERLOADED - status.Overloaded]struct{}              = [1]struct{}{}
	_ [1 + C.BEI_TIMEOUT - status.Timeout]struct{}                    = [1]struct{}{}
	_ [1 + C.BEI_CANCELLED - status.Cancelled]struct{}                = [1]struct{}{}
	_ [1 + C.BEI_SHUT_DOWN - status.ShutDown]struct{}                 = [1]struct{}{}
	_ [1 + C.BEI_FORKED - status.Forked]struct{}                      = [1]struct{}{}
	_ [1 + C.BEI_INTERNAL - status.Internal]struct{}                  = [1]struct{}{}
	_ [1 + C.BEI_BUFFER_TOO_SMALL - status.BufferTooSmall]struct{}    = [1]struct{}{}
	_ [1 + C.BEI_EMPTY - status.Empty]struct{}                        = [1]struct{}{}
	_ [1 + C.BEI_TOO_LONG - status.TooLong]struct{}                   = [1]struct{}{}
	_ [1 + C.BEI_INVALID_UTF8 - status.InvalidUTF8]struct{}           = [1]struct{}{}
	_ [1 + C.BEI_TOKEN_OUT_OF_RANGE - status.TokenOutOfRange]struct{} = [1]struct{}{}
	_ [1 + C.BEI_NON_FINITE - status.NonFinite]struct{}               = [1]struct{}{}
	_ [1 + C.BEI_TOKENIZATION - status.Tokenization]struct{}          = [1]struct{}{}
	_ [1 + C.BEI_NUL_BYTE - status.NulByte]struct{}                   = [1]struct{}{}

	_ [1 + C.BEI_DEFAULT - backend.Default]struct{}                             = [1]struct{}{}
	_ [1 + C.BEI_ON - backend.On]struct{}                                       = [1]struct{}{}
	_ [1 + C.BEI_OFF - backend.Off]struct{}                                     = [1]struct{}{}
	_ [1 + C.BEI_SIDE_DEFAULT - backend.SideDefault]struct{}                    = [1]struct{}{}
	_ [1 + C.BEI_SIDE_RIGHT - backend.SideRight]struct{}                        = [1]struct{}{}
	_ [1 + C.BEI_SIDE_LEFT - backend.SideLeft]struct{}                          = [1]struct{}{}
	_ [1 + C.BEI_OUTPUT_TOKENS - backend.TokensOutput]struct{}                  = [1]struct{}{}
	_ [1 + C.BEI_MODEL_EMBEDDING - backend.ModelEmbedding]struct{}              = [1]struct{}{}
	_ [1 + C.BEI_MODEL_CLASSIFIER - backend.ModelClassifier]struct{}            = [1]struct{}{}
	_ [1 + C.BEI_MODEL_TOKEN_CLASSIFIER - backend.ModelTokenClassifier]struct{} = [1]struct{}{}
	_ [1 + C.BEI_POOLING_NONE - backend.PoolingNone]struct{}                    = [1]struct{}{}
	_ [1 + C.BEI_POOLING_CLS - backend.PoolingCLS]struct{}                      = [1]struct{}{}
	_ [1 + C.BEI_POOLING_MEAN - backend.PoolingMean]struct{}                    = [1]struct{}{}
	_ [1 + C.BEI_POOLING_SPLADE - backend.PoolingSplade]struct{}                = [1]struct{}{}
	_ [1 + C.BEI_POOLING_LAST_TOKEN - backend.PoolingLastToken]struct{}         = [1]struct{}{}
	_ [1 + C.BEI_POOLING_OTHER - backend.PoolingOther]struct{}                  = [1]struct{}{}
)
