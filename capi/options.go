package main

// #include "capi.h"
import "C"

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// readOptions reads a bei_call_options; NULL is all defaults. The context ends when the cancel token is triggered; the
// timeout is in the options.
func readOptions(p address) (context.Context, backend.CallOptions, error) {
	ctx, options := context.Background(), backend.CallOptions{}
	if p == 0 {
		return ctx, options, nil
	}
	s, err := readStruct[callOptionsStruct]("options", p, firstCallOptionsSize)
	if err != nil {
		return nil, options, err
	}
	for _, f := range [...]struct {
		name       string
		value      int32
		least, top int32
	}{
		{"truncate", s.truncate, C.BEI_DEFAULT, C.BEI_OFF},
		{"truncation_side", s.truncationSide, C.BEI_SIDE_DEFAULT, C.BEI_SIDE_LEFT},
		{"normalize", s.normalize, C.BEI_DEFAULT, C.BEI_OFF},
		{"priority", s.priority, C.BEI_PRIORITY_LOW, C.BEI_PRIORITY_HIGH},
		{"add_special_tokens", s.addSpecialTokens, C.BEI_DEFAULT, C.BEI_OFF},
		{"skip_special_tokens", s.skipSpecialTokens, C.BEI_DEFAULT, C.BEI_OFF},
		{"aggregation", s.aggregation, C.BEI_AGGREGATE_NONE, C.BEI_AGGREGATE_MAX},
		{"dynamic_batching", s.dynamicBatching, C.BEI_DEFAULT, C.BEI_OFF},
		{"caller_runs", s.callerRuns, C.BEI_DEFAULT, C.BEI_OFF},
	} {
		if f.value < f.least || f.value > f.top {
			return nil, options, status.Errorf(status.InvalidArgument, "options.%s is %d, the limits are %d and %d", f.name, f.value, f.least, f.top)
		}
	}
	prompt, err := stringAt("options.prompt_name", s.promptName, "options.prompt_name_size", s.promptNameSize)
	if err != nil {
		return nil, options, err
	}
	if s.cancel != 0 {
		token, err := cancels.get(s.cancel)
		if err != nil {
			return nil, options, err
		}
		ctx = token.ctx
	}
	return ctx, backend.CallOptions{
		Timeout:           microseconds(s.timeoutUS),
		PromptName:        strings.Clone(prompt),
		Truncate:          backend.Switch(s.truncate),
		TruncationSide:    backend.Side(s.truncationSide),
		Dimensions:        int(s.dimensions),
		Normalize:         backend.Switch(s.normalize),
		Priority:          int(s.priority),
		AddSpecialTokens:  backend.Switch(s.addSpecialTokens),
		SkipSpecialTokens: backend.Switch(s.skipSpecialTokens),
		Aggregation:       backend.Aggregation(s.aggregation),
		DynamicBatching:   backend.Switch(s.dynamicBatching),
		CallerRuns:        backend.Switch(s.callerRuns),
	}, nil
}

// microseconds is n microseconds, or the longest duration where that is too long: nearly 300 years.
func microseconds(n uint64) time.Duration {
	if n > math.MaxInt64/uint64(time.Microsecond) {
		return math.MaxInt64
	}
	return time.Duration(n) * time.Microsecond
}
