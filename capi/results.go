package main

// #include "capi.h"
import "C"

import (
	"runtime"
	"sync"
	"unsafe"

	"github.com/basetenlabs/bei-runtime/backend"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// result is what a bei_result stands for. Its memory is Go's: what an accessor hands out is pinned first, until the result is
// freed.
type result struct {
	backend.Result
	hasTexts bool // of a call whose items are texts

	mu     sync.Mutex // guards what follows
	freed  bool
	pinner runtime.Pinner
	pinned map[unsafe.Pointer]struct{}
	// What C wants in another form than Result has it, by item: made at first sight.
	texts    map[int][]byte
	messages map[int][]byte
	entities map[int][]C.bei_entity
}

var results = newTable[*result](kindResult)

// emptyText is "" for C.
var emptyText [1]byte

func newTextResult(text string) *result {
	return &result{Result: backend.Result{Items: []backend.Item{{Text: text}}}, hasTexts: true}
}

// free unpins everything.
func (r *result) free() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.freed = true
	r.pinner.Unpin()
}

// item is item i of a result, locked; nil where there is none. After a result that is not nil, unlock must be called.
func lockItem(handle uint64, i uintptr) (*result, *backend.Item) {
	r, err := results.get(handle)
	if err != nil {
		return nil, nil
	}
	r.mu.Lock()
	if r.freed || i >= uintptr(len(r.Items)) {
		r.mu.Unlock()
		return nil, nil
	}
	return r, &r.Items[i]
}

// pin hands a slice to C: the address of its first element, 0 for an empty one. The caller holds r.mu.
func pin[T any](r *result, values []T) address {
	if len(values) == 0 {
		return 0
	}
	p := unsafe.Pointer(unsafe.SliceData(values))
	if _, ok := r.pinned[p]; !ok {
		if r.pinned == nil {
			r.pinned = map[unsafe.Pointer]struct{}{}
		}
		r.pinner.Pin(p)
		r.pinned[p] = struct{}{}
	}
	return address(p)
}

// terminated is item i's entry of texts, made from text at first sight. The caller holds r.mu.
func terminated(texts *map[int][]byte, i int, text string) []byte {
	if t, ok := (*texts)[i]; ok {
		return t
	}
	if *texts == nil {
		*texts = map[int][]byte{}
	}
	t := append(make([]byte, 0, len(text)+1), text...)
	t = append(t, 0)
	(*texts)[i] = t
	return t
}

// store writes an out-argument of an accessor, which may be NULL.
func store(p address, value uintptr) {
	if out, err := target[uintptr]("", p); err == nil {
		*out = value
	}
}

//export goResultCount
func goResultCount(handle uint64) (n uintptr) {
	guardAccessor(func() {
		if r, err := results.get(handle); err == nil {
			n = uintptr(len(r.Items))
		}
	})
	return n
}

//export goResultItemMessage
func goResultItemMessage(handle uint64, i uintptr) (text uintptr) {
	guardAccessor(func() {
		r, item := lockItem(handle, i)
		if r == nil {
			return
		}
		defer r.mu.Unlock()
		if item.Message == "" {
			text = address(unsafe.Pointer(&emptyText))
			return
		}
		text = pin(r, terminated(&r.messages, int(i), cText(item.Message)))
	})
	return text
}

//export goResultTokenVectors
func goResultTokenVectors(handle uint64, i, rows, columns uintptr) (values uintptr) {
	guardAccessor(func() {
		r, item := lockItem(handle, i)
		if r == nil {
			return
		}
		defer r.mu.Unlock()
		if len(item.TokenVectors) == 0 {
			return
		}
		values = pin(r, item.TokenVectors)
		store(rows, uintptr(len(item.TokenVectors)/item.Columns))
		store(columns, uintptr(item.Columns))
	})
	return values
}

//export goResultSparse
func goResultSparse(handle uint64, i, ids, count uintptr) (values uintptr) {
	guardAccessor(func() {
		r, item := lockItem(handle, i)
		if r == nil {
			return
		}
		defer r.mu.Unlock()
		values = pin(r, item.Sparse)
		store(ids, pin(r, item.SparseIDs))
		store(count, uintptr(len(item.Sparse)))
	})
	return values
}

//export goResultTokens
func goResultTokens(handle uint64, i, tokens uintptr) *C.bei_error {
	return guard(func() error {
		if err := writeStruct("tokens", tokens, firstTokensSize, tokensStruct{}); err != nil {
			return err
		}
		r, err := results.get(handle)
		if err != nil {
			return err
		}
		n := len(r.Items)
		r, item := lockItem(handle, i)
		switch {
		case r == nil:
			return status.Errorf(status.InvalidArgument, "i is %d, but the result has %d items", i, n)
		case item.Tokens == nil:
			r.mu.Unlock()
			return status.Errorf(status.InvalidArgument, "item %d has no tokens: it failed, or they were not asked for", i)
		}
		defer r.mu.Unlock()
		t := item.Tokens
		return writeStruct("tokens", tokens, firstTokensSize, tokensStruct{
			count:        uintptr(len(t.IDs)),
			ids:          pin(r, t.IDs),
			typeIDs:      pin(r, t.TypeIDs),
			special:      pin(r, t.Special),
			sequence:     pin(r, t.Sequence),
			starts:       pin(r, t.Starts),
			ends:         pin(r, t.Ends),
			pieces:       pin(r, t.Pieces),
			pieceOffsets: pin(r, t.PieceOffsets),
		})
	})
}

//export goResultEntities
func goResultEntities(handle uint64, i, count uintptr) (values uintptr) {
	guardAccessor(func() {
		r, item := lockItem(handle, i)
		if r == nil {
			return
		}
		defer r.mu.Unlock()
		entities, ok := r.entities[int(i)]
		if !ok {
			for _, e := range item.Entities {
				entities = append(entities, C.bei_entity{label: C.uint32_t(e.Label), score: C.float(e.Score), start: C.uint32_t(e.Start),
					end: C.uint32_t(e.End), token: C.uint32_t(e.Token)})
			}
			if r.entities == nil {
				r.entities = map[int][]C.bei_entity{}
			}
			r.entities[int(i)] = entities
		}
		values = pin(r, entities)
		store(count, uintptr(len(entities)))
	})
	return values
}

//export goResultText
func goResultText(handle uint64, i, size uintptr) (text uintptr) {
	guardAccessor(func() {
		r, item := lockItem(handle, i)
		if r == nil {
			return
		}
		defer r.mu.Unlock()
		if !r.hasTexts || item.Message != "" {
			return
		}
		text = pin(r, terminated(&r.texts, int(i), item.Text))
		store(size, uintptr(len(item.Text)))
	})
	return text
}

//export goResultStats
func goResultStats(handle uint64, stats uintptr) *C.bei_error {
	return guard(func() error {
		r, err := results.get(handle)
		if err != nil {
			return err
		}
		return writeStruct("stats", stats, firstStatsSize, C.bei_stats{
			total_ns:        C.uint64_t(r.Stats.Total.Nanoseconds()),
			tokenization_ns: C.uint64_t(r.Stats.Prepare.Nanoseconds()),
			queue_ns:        C.uint64_t(r.Stats.Queue.Nanoseconds()),
			inference_ns:    C.uint64_t(r.Stats.Inference.Nanoseconds()),
			tokens:          C.uint64_t(r.Stats.Tokens),
			runs:            C.uint64_t(r.Stats.Runs),
		})
	})
}

//export goResultFree
func goResultFree(handle uint64) {
	guardAccessor(func() {
		if r, err := results.take(handle); err == nil {
			r.free()
		}
	})
}
