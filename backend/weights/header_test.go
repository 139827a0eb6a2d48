package weights

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// safetensors makes a file of a header and data.
func safetensors(header string, data []byte) []byte {
	raw := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(raw, header...), data...)
}

// stored is a tensor to be written.
type stored struct {
	name  string
	dtype DType
	shape []int
	data  []byte
}

// encode writes a file as the format's own writer does, but pad bytes of blanks make the header any length.
func encode(pad int, tensors ...stored) []byte {
	var parts []string
	var data []byte
	for _, s := range tensors {
		shape := strings.ReplaceAll(fmt.Sprint(s.shape), " ", ",")
		parts = append(parts, fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":[%d,%d]}`, s.name, s.dtype, shape, len(data), len(data)+len(s.data)))
		data = append(data, s.data...)
	}
	return safetensors("{"+strings.Join(parts, ",")+"}"+strings.Repeat(" ", pad), data)
}

func TestParse(t *testing.T) {
	file := safetensors(`{"__metadata__":{"format":"pt"},
		"b":{"dtype":"BF16","shape":[2,2],"data_offsets":[4,12]},
		"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"extra":1},
		"zero":{"dtype":"F32","shape":[0,3],"data_offsets":[12,12]},
		"half":{"dtype":"F4","shape":[4],"data_offsets":[12,14]},
		"odd":{"dtype":"Q3","shape":[7],"data_offsets":[14,15]}}  `, make([]byte, 15))
	entries, header, err := parse(file)
	require.NoError(t, err)
	start := int64(8 + len(header))
	require.Equal(t, []entry{
		{"a", F32, []int{}, start, start + 4},
		{"b", BF16, []int{2, 2}, start + 4, start + 12},
		{"zero", F32, []int{0, 3}, start + 12, start + 12},
		{"half", "F4", []int{4}, start + 12, start + 14},
		{"odd", "Q3", []int{7}, start + 14, start + 15},
	}, entries)

	entries, _, err = parse(safetensors("{}", nil))
	require.NoError(t, err)
	require.Empty(t, entries)
}

func TestHostileHeader(t *testing.T) {
	one := func(entry string) []byte { return safetensors(`{"t":`+entry+`}`, make([]byte, 8)) }
	length := func(n uint64) []byte { return append(binary.LittleEndian.AppendUint64(nil, n), "{}"...) }
	for _, c := range []struct {
		name string
		file []byte
		want string
	}{
		{"empty", nil, "file of 0 bytes is too short"},
		{"seven bytes", make([]byte, 7), "file of 7 bytes is too short"},
		{"length beyond the file", length(3), "header length 3 exceeds the 2 bytes that follow it"},
		{"absurd length", length(1 << 63), "header length 9223372036854775808 exceeds the limit of 100000000 bytes"},
		{"one above the limit", length(maxHeader + 1), "header length 100000001 exceeds the limit of 100000000 bytes"},
		{"no header", safetensors("", nil), "header is not a JSON object"},
		{"a list", safetensors("[]", nil), "header is not a JSON object"},
		{"zeros", safetensors("\x00\x00\x00\x00", nil), "header is not a JSON object"},
		{"blanks in front only", safetensors("   ", nil), "header is not a JSON object"},
		{"no end", safetensors(`{"t":{"dtype":"F32"`, nil), `tensor "t": unexpected EOF`},
		{"no colon", safetensors(`{"t" 1}`, nil), `tensor "t": `},
		{"key is no string", safetensors(`{1:2}`, nil), "header JSON at byte"},
		{"end missing", safetensors(`{"__metadata__":{}`, nil), "header JSON at byte"},
		{"something after", safetensors(`{} {}`, nil), "header has something after its JSON object"},
		{"entry is no object", one(`5`), `tensor "t": json: cannot unmarshal number`},
		{"entry is null", one(`null`), `tensor "t": dtype is missing`},
		{"deep", one(strings.Repeat(`[`, 50000)), `tensor "t": `},
		{"deep metadata", safetensors(`{"__metadata__":`+strings.Repeat(`{"a":`, 50000), nil), `exceeded max depth`},
		{"no dtype", one(`{"shape":[2],"data_offsets":[0,8]}`), `tensor "t": dtype is missing`},
		{"long dtype", one(`{"dtype":"` + strings.Repeat("F", 500) + `","shape":[2],"data_offsets":[0,8]}`), "is longer than 32 bytes"},
		{"no shape", one(`{"dtype":"F32","data_offsets":[0,8]}`), `tensor "t": shape is missing`},
		{"negative dimension", one(`{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}`), "cannot unmarshal number -2"},
		{"fraction", one(`{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}`), "cannot unmarshal number 2.5"},
		{"huge number", one(`{"dtype":"F32","shape":[` + strings.Repeat("9", 100000) + `],"data_offsets":[0,8]}`), "cannot unmarshal number 999"},
		{"too many dimensions", one(`{"dtype":"F32","shape":[1` + strings.Repeat(",1", 16) + `],"data_offsets":[0,8]}`), "shape has 17 dimensions; the limit is 16"},
		{"large dimension", one(`{"dtype":"F32","shape":[1099511627777],"data_offsets":[0,8]}`), "dimension 1099511627777 exceeds the limit of 1099511627776"},
		{"product overflows to 0", one(`{"dtype":"F32","shape":[1099511627776,1099511627776,65536],"data_offsets":[0,0]}`), "the number of elements overflows"},
		{"bytes overflow", one(`{"dtype":"F64","shape":[1099511627776,131072],"data_offsets":[0,8]}`), "the number of elements overflows"},
		{"one offset", one(`{"dtype":"F32","shape":[2],"data_offsets":[8]}`), "data_offsets has 1 numbers; it must have 2"},
		{"three offsets", one(`{"dtype":"F32","shape":[2],"data_offsets":[0,4,8]}`), "data_offsets has 3 numbers"},
		{"falling offsets", one(`{"dtype":"F32","shape":[2],"data_offsets":[8,0]}`), "data_offsets [8, 0] fall"},
		{"absurd offsets", one(`{"dtype":"Q3","shape":[2],"data_offsets":[0,18446744073709551615]}`), "exceed any file"},
		{"size and shape differ", one(`{"dtype":"F32","shape":[3],"data_offsets":[0,8]}`), `F32 with shape [3] needs 96 bits, data_offsets [0, 8] hold 8 bytes`},
		{"half a byte", one(`{"dtype":"F4","shape":[3],"data_offsets":[0,2]}`), "F4 with shape [3] needs 12 bits"},
		{"beyond the data", one(`{"dtype":"F32","shape":[4],"data_offsets":[0,16]}`), "data_offsets [0, 16] exceed the 8 bytes of data"},
		{"hole in front", one(`{"dtype":"F32","shape":[1],"data_offsets":[4,8]}`), "data_offsets [4, 8] leave a hole after byte 0"},
		{"data left over", one(`{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`), "tensors end at byte 4 of 8 bytes of data"},
		{"overlap", safetensors(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, make([]byte, 8)),
			`tensor "b": data_offsets [4, 8] overlap the tensor before, which ends at 8`},
		{"twice", safetensors(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`, make([]byte, 8)), `tensor "a" is there twice`},
		{"twice, escaped", safetensors(`{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\u0061":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`, make([]byte, 8)), `tensor "a" is there twice`},
		{"long name", safetensors(`{"`+strings.Repeat("x", 1<<20)+`":5}`, nil), `"... (1048576 bytes)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			entries, _, err := parse(c.file)
			require.ErrorContains(t, err, c.want)
			require.Nil(t, entries)
			require.Less(t, len(err.Error()), 1000)
		})
	}
}

// FuzzHeader reads foreign bytes as a file: what is accepted must tile the data exactly, and memory must stay in
// proportion to the file, whatever sizes it claims.
func FuzzHeader(f *testing.F) {
	f.Add(encode(0))
	f.Add(encode(3, stored{"a", F32, []int{2}, make([]byte, 8)}, stored{"b", F16, []int{1, 3}, make([]byte, 6)}))
	f.Add(encode(0, stored{"zero", BF16, []int{0}, nil}, stored{"i", "I64", []int{}, make([]byte, 8)}, stored{"q", "Q3", []int{9}, make([]byte, 3)}))
	f.Add(safetensors(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,0]}}`, nil))
	f.Add(safetensors(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"a":{}}`, make([]byte, 8)))
	f.Add(append(binary.LittleEndian.AppendUint64(nil, 1<<62), "{}"...))
	f.Fuzz(func(t *testing.T, file []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		entries, header, err := parse(file)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20+256*len(file)))
		if err != nil {
			require.Less(t, len(err.Error()), 4000)
			return
		}
		at := int64(8 + len(header))
		names := make([]string, 0, len(entries))
		for _, e := range entries {
			require.Equal(t, at, e.begin)
			require.LessOrEqual(t, e.begin, e.end)
			elements := 1
			for _, d := range e.shape {
				require.GreaterOrEqual(t, d, 0)
				elements *= d
			}
			if width := e.dtype.bits(); width > 0 {
				require.Equal(t, int64(elements*width), 8*(e.end-e.begin))
			}
			at = e.end
			names = append(names, e.name)
		}
		require.Equal(t, int64(len(file)), at)
		slices.Sort(names)
		require.Len(t, slices.Compact(names), len(entries))
	})
}
