package weights

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
)

// Limits of what a file may claim. maxHeader is that of the safetensors reference implementation.
const (
	maxHeader = 100_000_000 // bytes of JSON
	maxRank   = 16
	maxDim    = 1 << 40
)

// DType is the safetensors name of an element type, such as "F32".
type DType string

// The dtypes that can be used. Files may hold tensors of others, which Tensor refuses.
const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
)

// dtypeBits has the bits of an element. A dtype that is not here is left to whoever added it: its size cannot be checked.
var dtypeBits = map[DType]int{
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
	"I16": 16, "U16": 16, F16: 16, BF16: 16,
	"I32": 32, "U32": 32, F32: 32,
	"I64": 64, "U64": 64, "F64": 64, "C64": 64,
}

func (d DType) bits() int { return dtypeBits[d] }

func (d DType) usable() bool { return d == F32 || d == F16 || d == BF16 }

// entry is one tensor of a header. begin and end are offsets into the file.
type entry struct {
	name       string
	dtype      DType
	shape      []int
	begin, end int64
}

// parse reads the header of a whole safetensors file and returns its tensors in the order of their data, and the header's JSON. Format:
// u64 little-endian n, n bytes of JSON, data (https://github.com/huggingface/safetensors, "Format"). As that document demands, tensors
// must follow each other and fill the file: no overlap, no hole, so that no byte is read twice and none is hidden.
func parse(file []byte) (entries []entry, header []byte, err error) {
	if len(file) < 8 {
		return nil, nil, fmt.Errorf("file of %d bytes is too short for a safetensors header (8 bytes and more)", len(file))
	}
	n, room := binary.LittleEndian.Uint64(file), uint64(len(file)-8)
	if n > maxHeader {
		return nil, nil, fmt.Errorf("header length %d exceeds the limit of %d bytes", n, maxHeader)
	}
	if n > room {
		return nil, nil, fmt.Errorf("header length %d exceeds the %d bytes that follow it: the file is truncated or no safetensors file", n, room)
	}
	header = file[8 : 8+n]
	if entries, err = parseJSON(header); err != nil {
		return nil, nil, err
	}
	if err := layOut(entries, int64(room-n)); err != nil {
		return nil, nil, err
	}
	for i := range entries {
		entries[i].begin += int64(8 + n)
		entries[i].end += int64(8 + n)
	}
	return entries, header, nil
}

// parseJSON reads the header's tensors. It walks the object's keys itself, since a map would hide duplicate names.
func parseJSON(header []byte) ([]entry, error) {
	dec := json.NewDecoder(bytes.NewReader(header))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("header is not a JSON object")
	}
	var entries []entry
	seen := make(map[string]struct{})
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("header JSON at byte %d: %w", dec.InputOffset(), brief(err))
		}
		name, _ := t.(string) // Token returns nothing else where a key stands
		if _, dup := seen[name]; dup {
			return nil, fmt.Errorf("tensor %s is there twice", quote(name))
		}
		seen[name] = struct{}{}
		if name == "__metadata__" {
			var skipped json.RawMessage
			err = dec.Decode(&skipped)
		} else {
			var e entry
			if e, err = decodeEntry(dec, name); err == nil {
				entries = append(entries, e)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("tensor %s: %w", quote(name), brief(err))
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("header JSON at byte %d: %w", dec.InputOffset(), brief(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("header has something after its JSON object, at byte %d", dec.InputOffset())
	}
	return entries, nil
}

func decodeEntry(dec *json.Decoder, name string) (entry, error) {
	var raw struct {
		DType   *string  `json:"dtype"`
		Shape   []uint64 `json:"shape"`
		Offsets []uint64 `json:"data_offsets"`
	}
	if err := dec.Decode(&raw); err != nil {
		return entry{}, err
	}
	switch {
	case raw.DType == nil:
		return entry{}, errors.New("dtype is missing")
	case len(*raw.DType) > 32:
		return entry{}, fmt.Errorf("dtype %s is longer than 32 bytes", quote(*raw.DType))
	case raw.Shape == nil:
		return entry{}, errors.New("shape is missing")
	case len(raw.Shape) > maxRank:
		return entry{}, fmt.Errorf("shape has %d dimensions; the limit is %d", len(raw.Shape), maxRank)
	case len(raw.Offsets) != 2:
		return entry{}, fmt.Errorf("data_offsets has %d numbers; it must have 2", len(raw.Offsets))
	case raw.Offsets[0] > raw.Offsets[1]:
		return entry{}, fmt.Errorf("data_offsets [%d, %d] fall", raw.Offsets[0], raw.Offsets[1])
	case raw.Offsets[1] > 1<<62:
		return entry{}, fmt.Errorf("data_offsets [%d, %d] exceed any file", raw.Offsets[0], raw.Offsets[1])
	}
	e := entry{name: name, dtype: DType(*raw.DType), shape: make([]int, len(raw.Shape)), begin: int64(raw.Offsets[0]), end: int64(raw.Offsets[1])}
	elements := uint64(1)
	for i, d := range raw.Shape {
		if d > maxDim {
			return entry{}, fmt.Errorf("shape %v: dimension %d exceeds the limit of %d", raw.Shape, d, maxDim)
		}
		high, low := bits.Mul64(elements, d)
		if high != 0 || low > 1<<56 { // so that the number of bits cannot overflow either
			return entry{}, fmt.Errorf("shape %v: the number of elements overflows", raw.Shape)
		}
		elements, e.shape[i] = low, int(d)
	}
	if width := e.dtype.bits(); width > 0 && elements*uint64(width) != uint64(e.end-e.begin)*8 {
		return entry{}, fmt.Errorf("%s with shape %v needs %d bits, data_offsets [%d, %d] hold %d bytes",
			e.dtype, raw.Shape, elements*uint64(width), e.begin, e.end, e.end-e.begin)
	}
	return e, nil
}

// layOut sorts entries by offset and checks that they fill size bytes.
func layOut(entries []entry, size int64) error {
	slices.SortFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end), cmp.Compare(a.name, b.name))
	})
	at := int64(0)
	for _, e := range entries {
		switch {
		case e.end > size:
			return fmt.Errorf("tensor %s: data_offsets [%d, %d] exceed the %d bytes of data: the file is truncated or damaged", quote(e.name), e.begin, e.end, size)
		case e.begin < at:
			return fmt.Errorf("tensor %s: data_offsets [%d, %d] overlap the tensor before, which ends at %d", quote(e.name), e.begin, e.end, at)
		case e.begin > at:
			return fmt.Errorf("tensor %s: data_offsets [%d, %d] leave a hole after byte %d", quote(e.name), e.begin, e.end, at)
		}
		at = e.end
	}
	if at != size {
		return fmt.Errorf("tensors end at byte %d of %d bytes of data", at, size)
	}
	return nil
}

// quote quotes foreign text and cuts it to a length that suits a message.
func quote(s string) string {
	const limit = 120
	if len(s) <= limit {
		return fmt.Sprintf("%q", s)
	}
	return fmt.Sprintf("%q... (%d bytes)", s[:limit], len(s))
}

// brief cuts a decoder's message, which may quote megabytes of the file.
func brief(err error) error {
	if msg := err.Error(); len(msg) > 400 {
		return errors.New(msg[:400] + "...")
	}
	return err
}
