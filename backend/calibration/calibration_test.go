package calibration

import (
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// model has the keys of one layer, a projection and two dense layers with a norm between them, which has none.
var model = &arch.Model{
	Embeddings: arch.Embeddings{Projection: new(arch.Linear)},
	Layers:     make([]arch.Layer, 1),
	Head: arch.Head{Chain: []arch.Dense{
		{Linear: arch.Linear{Weight: arch.Tensor{Name: "a"}}}, {Norm: new(arch.Norm)}, {Linear: arch.Linear{Weight: arch.Tensor{Name: "b"}}},
	}},
}

func maxima() map[string]float32 {
	return map[string]float32{"embeddings.projection": 1, "layers.0.attention.qkv": 3.21, "layers.0.attention.out": 1e-30,
		"layers.0.mlp.up": math.MaxFloat32, "layers.0.mlp.down": 1e10, "head.0": 0.1, "head.2": 7}
}

const file = `{
  "format": "bei-fp8",
  "version": 1,
  "weights_fingerprint": "ab\"c",
  "texts": 3,
  "tokens": 5000000000,
  "amax": {
    "embeddings.projection": 1,
    "layers.0.attention.qkv": 3.21,
    "layers.0.attention.out": 1e-30,
    "layers.0.mlp.up": 3.4028235e+38,
    "layers.0.mlp.down": 1e+10,
    "head.0": 0.1,
    "head.2": 7
  }
}
`

func TestWriteAndRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, FileName)
	s, err := New(`ab"c`, 3, 5e9, Keys(model), maxima())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	require.NoError(t, s.Write(path))
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, file, string(raw))
	names, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, names, 1)

	read, err := Read(dir, model, `ab"c`)
	require.NoError(t, err)
	require.Equal(t, s, read)
	require.Equal(t, Keys(model), read.Keys())
	for key, want := range maxima() {
		v, err := read.Amax(key)
		require.NoError(t, err)
		require.Equal(t, want, v)
	}
	_, err = read.Amax("layers.1.mlp.up")
	require.ErrorContains(t, err, `no key "layers.1.mlp.up"`)
	require.Equal(t, status.Internal, status.CodeOf(err))

	_, err = Read(dir, model, "other")
	require.ErrorContains(t, err, `weights_fingerprint is "ab\"c", but the weights here have "other"`)
	require.ErrorContains(t, err, "bei calibrate")
	require.Equal(t, status.Start, status.CodeOf(err))
}

func TestReadFaults(t *testing.T) {
	dir := t.TempDir()
	_, err := Read(dir, model, "")
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "bei-fp8.json is missing; make it with 'bei calibrate FOLDER --texts FILE'")
	path := filepath.Join(dir, FileName)
	require.NoError(t, syscall.Mkfifo(path, 0o600))
	_, err = Read(dir, model, "")
	require.ErrorContains(t, err, "is no regular file")
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, make([]byte, maxFile+1), 0o600))
	_, err = Read(dir, model, "")
	require.ErrorContains(t, err, "exceeds the limit of 16777216 bytes")

	s, err := New("a", 1, 1, Keys(model), maxima())
	require.NoError(t, err)
	require.ErrorIs(t, s.Write(filepath.Join(dir, "absent", FileName)), fs.ErrNotExist)
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.Mkdir(folder, 0o700))
	require.Error(t, s.Write(folder))
	left, err := filepath.Glob(filepath.Join(dir, ".*"))
	require.NoError(t, err)
	require.Empty(t, left, "a failed write leaves nothing behind")
}

func TestHostileFiles(t *testing.T) {
	for change, want := range map[[2]string]string{
		{"\n}\n", ""}:                                             "unexpected end of JSON input",
		{"\n}\n", "\n} x"}:                                        "has more behind its object",
		{`"bei-fp8"`, `"bei-int8"`}:                               `format is "bei-int8", version 1; known: "bei-fp8", version 1`,
		{`"bei-fp8"`, `null`}:                                     `format is "null"; it must be a string`,
		{`"version": 1`, `"version": 2`}:                          `format is "bei-fp8", version 2; known`,
		{`"version": 1`, `"version": 1.5`}:                        `version is "1.5"; it must be a whole number`,
		{`"version": 1,`, ``}:                                     "version is missing",
		{`"format"`, `"Format"`}:                                  `has an unknown key "Format"`,
		{`"texts": 3`, `"texts": 3, "texts": 3`}:                  `has the key "texts" twice`,
		{`"texts": 3`, `"texts": 0`}:                              "calibration over 0 texts of 5000000000 tokens",
		{`"texts": 3`, `"texts": -3`}:                             "calibration over -3 texts",
		{`"texts": 3`, `"texts": 3000000000`}:                     "texts is 3000000000; the limit is 2147483647",
		{`"texts": 3`, `"texts": "3"`}:                            `texts is "\"3\""; it must be a whole number`,
		{`"tokens": 5000000000`, `"tokens": 0`}:                   "of 0 tokens",
		{`"tokens": 5000000000`, `"tokens": 1e30`}:                `tokens is "1e30"; it must be a whole number`,
		{`"texts": 3`, `"texts": 3, "colour": "red"`}:             `has an unknown key "colour"`,
		{`"head.2": 7`, `"head.2": 0`}:                            `amax of "head.2" is 0; it must be above 0 and finite`,
		{`"head.2": 7`, `"head.2": -7`}:                           `amax of "head.2" is -7; it must be above 0 and finite`,
		{`"head.2": 7`, `"head.2": 1e-60`}:                        `amax of "head.2" is 0; it must be above 0 and finite`,
		{`"head.2": 7`, `"head.2": 1e60`}:                         `amax of "head.2" is +Inf; it must be above 0 and finite`,
		{`"head.2": 7`, `"head.2": "7"`}:                          `amax of "head.2" is "\"7\""; it must be a number`,
		{`"head.2": 7`, `"head.2": "NaN"`}:                        `amax of "head.2" is "\"NaN\""; it must be a number`,
		{`"head.2": 7`, `"head.2": NaN`}:                          "invalid character 'N'",
		{`"head.2": 7`, `"head.2": null`}:                         `amax of "head.2" is "null"; it must be a number`,
		{`"head.2": 7`, `"head.2": [7]`}:                          `amax of "head.2" is "[7]"; it must be a number`,
		{`"head.2": 7`, `"head.1": 7`}:                            `amax has no key "head.2" of the model`,
		{`"head.2": 7`, `"head.2": 7, "head.1": 7`}:               `amax has the key "head.1", which the model has not`,
		{`"head.2": 7`, `"head.2": 7, "head.2": 7`}:               `amax has the key "head.2" twice`,
		{`"head.2": 7`, `"` + strings.Repeat("x", 5000) + `": 7`}: `amax has no key "head.2" of the model`,
		{`"amax": {`, `"amax": 5, "b": {`}:                        `amax holds "5"; it must be an object`,
	} {
		raw := strings.Replace(file, change[0], change[1], 1)
		require.NotEqual(t, file, raw)
		_, err := parse([]byte(raw), Keys(model))
		require.ErrorContains(t, err, want)
		require.Less(t, len(err.Error()), 500)
	}
	for _, raw := range []string{"", "null", "[]", "{", `{"amax": {`, strings.Repeat(`{"amax":`, 20000), "\xff\xfe"} {
		_, err := parse([]byte(raw), Keys(model))
		require.Error(t, err)
	}
}

func TestNewFaults(t *testing.T) {
	for _, v := range []float32{0, -1, float32(math.NaN()), float32(math.Inf(1))} {
		amax := maxima()
		amax["head.0"] = v
		_, err := New("a", 1, 1, Keys(model), amax)
		require.ErrorContains(t, err, `amax of "head.0" is `)
	}
}

// FuzzParse: what is accepted comes back the same from what is written of it.
func FuzzParse(f *testing.F) {
	f.Add([]byte(file))
	f.Add([]byte(`{"format": "bei-fp8", "version": 1, "weights_fingerprint": "", "texts": 1, "tokens": 1, "amax": {"head.0": 1e-45}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := parse(raw, Keys(model))
		if err != nil {
			require.Nil(t, s)
			require.Less(t, len(err.Error()), 2000)
			return
		}
		written, err := s.encode()
		require.NoError(t, err)
		again, err := parse(written, Keys(model))
		require.NoError(t, err)
		require.Equal(t, s, again)
	})
}
