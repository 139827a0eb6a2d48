package main

// #include "capi.h"
import "C"

import (
	"context"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// cancelToken is the parent context of the calls that use it, so that a call costs no goroutine and is forgotten when it ends.
type cancelToken struct {
	ctx     context.Context
	trigger context.CancelCauseFunc
}

var cancels = newTable[*cancelToken](kindCancel)

//export goCancelNew
func goCancelNew(cancel uintptr) *C.bei_error {
	return guard(func() error {
		out, err := target[uint64]("cancel", cancel)
		if err != nil {
			return err
		}
		ctx, trigger := context.WithCancelCause(context.Background())
		*out = cancels.add(&cancelToken{ctx, trigger})
		return nil
	})
}

//export goCancelTrigger
func goCancelTrigger(cancel uint64) *C.bei_error {
	return guard(func() error {
		token, err := cancels.get(cancel)
		if err != nil {
			return err
		}
		token.trigger(status.Errorf(status.Cancelled, "the call's cancel token was triggered"))
		return nil
	})
}

// goCancelFree leaves calls that use the token alone: nobody can trigger it any more.
//
//export goCancelFree
func goCancelFree(cancel uint64) {
	guardAccessor(func() { _, _ = cancels.take(cancel) })
}
