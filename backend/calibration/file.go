package calibration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/document"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// What the file says of itself. A version that this package does not know is refused.
const (
	format  = "bei-fp8"
	version = 1
)

const (
	maxFile = 16 << 20 // bytes; a model of a thousand layers has some 200 KB
	howTo   = "make it with 'bei calibrate FOLDER --texts FILE'"
)

// Read reads the file of a model folder for m, whose weights have that fingerprint. Errors are status.Start and name the file, the key,
// its value and the fix; a missing file is fs.ErrNotExist, too.
func Read(dir string, m *arch.Model, fingerprint string) (*Scales, error) {
	path := filepath.Join(dir, FileName)
	raw, err := document.Read(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(status.Start, "%s is missing; %s: %w", path, howTo, fs.ErrNotExist)
	}
	if err != nil {
		return nil, status.Errorf(status.Start, "%s: %w", path, err)
	}
	s, err := parse(raw, Keys(m))
	if err != nil {
		return nil, status.Errorf(status.Start, "%s: %w; %s", path, err, howTo)
	}
	if s.Fingerprint != fingerprint {
		return nil, status.Errorf(status.Start, "%s: weights_fingerprint is %s, but the weights here have %s: it belongs to others; %s",
			path, document.Quote(s.Fingerprint), document.Quote(fingerprint), howTo)
	}
	return s, nil
}

// member is one key of an object with its value.
type member struct {
	key   string
	value json.RawMessage
}

// members returns an object's, in order. A key that comes twice is refused: readers would differ in which one they take.
func members(raw []byte) ([]member, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil {
		return nil, document.Brief(err)
	} else if t != json.Delim('{') {
		return nil, fmt.Errorf("holds %s; it must be an object", document.Quote(string(raw)))
	}
	var list []member
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, document.Brief(err)
		}
		m := member{key: t.(string)} // in an object the decoder lets nothing else pass
		if seen[m.key] {
			return nil, fmt.Errorf("has the key %s twice", document.Quote(m.key))
		}
		seen[m.key] = true
		if err := d.Decode(&m.value); err != nil {
			return nil, document.Brief(err)
		}
		list = append(list, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, document.Brief(err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("has more behind its object")
	}
	return list, nil
}

// parse reads the file's bytes. Everything in them must be known, and everything known in them.
func parse(raw []byte, keys []string) (*Scales, error) {
	list, err := members(raw)
	if err != nil {
		return nil, err
	}
	var (
		name, fingerprint       string
		versionOf, texts, count int64
		amax                    []member
	)
	fields := map[string]func(json.RawMessage) error{
		"format":              func(v json.RawMessage) error { return decode(v, "a string", &name) },
		"version":             func(v json.RawMessage) error { return decode(v, "a whole number", &versionOf) },
		"weights_fingerprint": func(v json.RawMessage) error { return decode(v, "a string", &fingerprint) },
		"texts":               func(v json.RawMessage) error { return decode(v, "a whole number", &texts) },
		"tokens":              func(v json.RawMessage) error { return decode(v, "a whole number", &count) },
		"amax":                func(v json.RawMessage) (err error) { amax, err = members(v); return err },
	}
	for _, m := range list {
		read, ok := fields[m.key]
		if !ok {
			return nil, fmt.Errorf("has an unknown key %s", document.Quote(m.key))
		}
		if err := read(m.value); err != nil {
			return nil, fmt.Errorf("%s %w", m.key, err)
		}
		delete(fields, m.key)
	}
	for _, key := range []string{"format", "version", "weights_fingerprint", "texts", "tokens", "amax"} {
		if fields[key] != nil {
			return nil, fmt.Errorf("%s is missing", key)
		}
	}
	if name != format || versionOf != version {
		return nil, fmt.Errorf("format is %s, version %d; known: %q, version %d", document.Quote(name), versionOf, format, version)
	}
	if texts > math.MaxInt32 {
		return nil, fmt.Errorf("texts is %d; the limit is %d", texts, math.MaxInt32)
	}
	numbers := make(map[string]float32, len(amax))
	for _, m := range amax {
		if numbers[m.key], err = number(m.value); err != nil {
			return nil, fmt.Errorf("amax of %s %w", document.Quote(m.key), err)
		}
	}
	return New(fingerprint, int(texts), count, keys, numbers)
}

func decode(raw json.RawMessage, want string, into any) error {
	if string(raw) == "null" || json.Unmarshal(raw, into) != nil {
		return fmt.Errorf("is %s; it must be %s", document.Quote(string(raw)), want)
	}
	return nil
}

// number reads a float32. One that rounds to zero or infinity is left to New's checks.
func number(raw json.RawMessage) (float32, error) {
	if c := raw[0]; c != '-' && (c < '0' || c > '9') {
		return 0, fmt.Errorf("is %s; it must be a number", document.Quote(string(raw)))
	}
	f, err := strconv.ParseFloat(string(raw), 32)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("is %s; it must be a number", document.Quote(string(raw)))
	}
	return float32(f), nil
}

// encode returns the file's bytes, with the keys in their order.
func (s *Scales) encode() ([]byte, error) {
	fingerprint, err := json.Marshal(s.Fingerprint)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n  \"format\": %q,\n  \"version\": %d,\n  \"weights_fingerprint\": %s,\n  \"texts\": %d,\n  \"tokens\": %d,\n  \"amax\": {",
		format, version, fingerprint, s.Texts, s.Tokens)
	for i, key := range s.keys {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "\n    %q: %s", key, strconv.FormatFloat(float64(s.amax[key]), 'g', -1, 32))
	}
	b.WriteString("\n  }\n}\n")
	return b.Bytes(), nil
}

// Write writes the file at path, whole or not at all: under another name beside it first, which then takes its place.
func (s *Scales) Write(path string) error {
	raw, err := s.encode()
	if err != nil {
		return err
	}
	return document.Write(path, raw)
}
