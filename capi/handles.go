package main

import (
	"sync"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// A handle is kind<<kindShift | number. Numbers start at 1 and are never used again.
const kindShift = 56

// kind says what a handle stands for.
type kind uint64

const (
	kindBackend kind = 1 + iota
	kindResult
	kindCancel
)

func (k kind) String() string {
	switch k {
	case kindBackend:
		return "backend"
	case kindResult:
		return "result"
	case kindCancel:
		return "cancel token"
	}
	return "handle"
}

// table maps the handles of one kind to what they stand for. Its methods may be called from any goroutine.
type table[T any] struct {
	kind kind

	mu     sync.RWMutex // guards what follows
	last   uint64
	values map[uint64]T
}

func newTable[T any](k kind) *table[T] { return &table[T]{kind: k, values: map[uint64]T{}} }

// add gives value a handle.
func (t *table[T]) add(value T) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	handle := uint64(t.kind)<<kindShift | t.last
	t.values[handle] = value
	return handle
}

// get looks a handle up. The error is *status.Error with InvalidHandle.
func (t *table[T]) get(handle uint64) (T, error) {
	t.mu.RLock()
	value, ok := t.values[handle]
	t.mu.RUnlock()
	if !ok {
		return value, t.missing(handle)
	}
	return value, nil
}

// take looks a handle up and makes it stale; of several takers one gets the value.
func (t *table[T]) take(handle uint64) (T, error) {
	t.mu.Lock()
	value, ok := t.values[handle]
	delete(t.values, handle)
	t.mu.Unlock()
	if !ok {
		return value, t.missing(handle)
	}
	return value, nil
}

// size is the number of handles that are not stale.
func (t *table[T]) size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.values)
}

func (t *table[T]) missing(handle uint64) error {
	switch k := kind(handle >> kindShift); {
	case handle == 0:
		return status.Errorf(status.InvalidHandle, "the %s handle is 0", t.kind)
	case k != t.kind && k >= kindBackend && k <= kindCancel:
		return status.Errorf(status.InvalidHandle, "handle %#x is a %s, not a %s", handle, k, t.kind)
	}
	return status.Errorf(status.InvalidHandle, "%s handle %#x is stale or was never given out", t.kind, handle)
}
