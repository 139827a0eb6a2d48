package main

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestTable(t *testing.T) {
	texts := newTable[string](kindResult)
	a, b := texts.add("a"), texts.add("b")
	require.NotEqual(t, a, b)
	require.NotZero(t, a)
	require.Equal(t, "a", must(texts.get(a)))
	require.Equal(t, "b", must(texts.take(b)))
	require.Equal(t, 1, texts.size())
	_, err := texts.take(b)
	require.EqualError(t, err, "result handle 0x200000000000002 is stale or was never given out")
	require.NotContains(t, []uint64{a, b}, texts.add("c"), "numbers are not reused")

	for _, c := range []struct {
		handle uint64
		text   string
	}{
		{0, "the result handle is 0"},
		{b, "result handle 0x200000000000002 is stale or was never given out"},
		{uint64(kindBackend)<<kindShift | 1, "handle 0x100000000000001 is a backend, not a result"},
		{uint64(kindCancel)<<kindShift | 9, "handle 0x300000000000009 is a cancel token, not a result"},
		{1, "result handle 0x1 is stale or was never given out"},
		{1<<64 - 1, "result handle 0xffffffffffffffff is stale or was never given out"},
	} {
		_, err := texts.get(c.handle)
		require.EqualError(t, err, c.text)
		require.Equal(t, status.InvalidHandle, status.CodeOf(err))
		_, err = texts.take(c.handle)
		require.EqualError(t, err, c.text)
	}
}

// TestTableTakers: of many that take one handle, one gets the value, and the table ends empty.
func TestTableTakers(t *testing.T) {
	numbers := newTable[int](kindCancel)
	var wg sync.WaitGroup
	for i := range 100 {
		handle := numbers.add(i)
		got := make(chan int, 8)
		for range 8 {
			wg.Go(func() {
				if v, err := numbers.take(handle); err == nil {
					got <- v
				}
				_, _ = numbers.get(handle)
			})
		}
		require.Equal(t, i, <-got)
		wg.Wait()
		require.Empty(t, got)
	}
	require.Zero(t, numbers.size())
}
