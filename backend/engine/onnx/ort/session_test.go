package ort

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOnEnd(t *testing.T) {
	var called bool // no lock: f is not under way when off has returned, which the race detector sees
	for i := range 1000 {
		ctx, cancel := context.WithCancel(t.Context())
		called = false
		off := onEnd(ctx, func() { called = true })
		if i%2 == 0 {
			cancel()
			require.True(t, off())
			require.True(t, called)
		} else {
			go cancel()
			require.Equal(t, off(), called)
		}
	}

	off := onEnd(t.Context(), func() { t.Error("f is called though ctx goes on") })
	require.False(t, off())
}
