package manifest

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"

	"github.com/basetenlabs/bei-runtime/backend/document"
)

// Floats are numbers as base64 of float32, little endian: a third of the size of digits, and exact.
type Floats []float32

// MarshalJSON implements json.Marshaler.
func (f Floats) MarshalJSON() ([]byte, error) {
	words := make([]uint32, len(f))
	for i, x := range f {
		words[i] = math.Float32bits(x)
	}
	return Uints(words).MarshalJSON()
}

// UnmarshalJSON implements json.Unmarshaler. Numbers that are not finite are refused.
func (f *Floats) UnmarshalJSON(raw []byte) error {
	var words Uints
	if err := words.UnmarshalJSON(raw); err != nil {
		return err
	}
	*f = make(Floats, len(words))
	for i, w := range words {
		x := math.Float32frombits(w)
		if !finite(x) {
			return fmt.Errorf("number %d is %g; it must be finite", i, x)
		}
		(*f)[i] = x
	}
	return nil
}

// Uints are whole numbers as base64 of uint32, little endian.
type Uints []uint32

// MarshalJSON implements json.Marshaler.
func (u Uints) MarshalJSON() ([]byte, error) {
	raw := make([]byte, 0, 4*len(u))
	for _, x := range u {
		raw = binary.LittleEndian.AppendUint32(raw, x)
	}
	return json.Marshal(raw) // base64
}

// UnmarshalJSON implements json.Unmarshaler.
func (u *Uints) UnmarshalJSON(text []byte) error {
	var encoded string
	if err := json.Unmarshal(text, &encoded); err != nil {
		return document.Brief(err)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return err
	}
	if len(raw)%4 != 0 {
		return fmt.Errorf("%d bytes are no numbers of 4", len(raw))
	}
	*u = make(Uints, len(raw)/4)
	for i := range *u {
		(*u)[i] = binary.LittleEndian.Uint32(raw[4*i:])
	}
	return nil
}

func finite(x float32) bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }
