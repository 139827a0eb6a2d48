package suite

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Patched is a copy of a model folder with other numbers in some of its float32 tensors: change is called with the index and the value of
// each.
func Patched(t testing.TB, folder string, tensors []string, change func(i int, x float32) float32) string {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(folder)))
	file := filepath.Join(dir, "model.safetensors")
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	data := 8 + int(binary.LittleEndian.Uint64(raw))
	var header map[string]struct {
		DType   string
		Offsets [2]int `json:"data_offsets"`
	}
	require.NoError(t, json.Unmarshal(raw[8:data], &header))
	for _, tensor := range tensors {
		entry := header[tensor]
		require.Equal(t, "F32", entry.DType, tensor)
		numbers := raw[data+entry.Offsets[0] : data+entry.Offsets[1]]
		for i := range len(numbers) / 4 {
			x := math.Float32frombits(binary.LittleEndian.Uint32(numbers[4*i:]))
			binary.LittleEndian.PutUint32(numbers[4*i:], math.Float32bits(change(i, x)))
		}
	}
	require.NoError(t, os.WriteFile(file, raw, 0o600))
	return dir
}
