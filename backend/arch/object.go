package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// maxFile is the size limit of a configuration file; the largest known (tokenizer_config.json with many added tokens) has about 1 MB.
const maxFile = 16 << 20

// object is a JSON object of a configuration file. Its getters return the fallback for keys that are absent or null, and for every
// key once one was wrong: err has the first fault, so that a reader can get all that it needs and then look once.
type object struct {
	file   string
	values map[string]json.RawMessage
	used   map[string]bool // keys that were asked for
	err    error
}

// readFile returns a small regular file; nil where there is none.
func readFile(fsys fs.FS, name string) ([]byte, error) {
	info, err := fs.Stat(fsys, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if !info.Mode().IsRegular() { // opening a pipe could block for ever
		return nil, fmt.Errorf("%s is no regular file", name)
	}
	f, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%s has %d bytes; the limit is %d", name, info.Size(), maxFile)
	}
	raw := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	if _, err := raw.ReadFrom(io.LimitReader(f, maxFile)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return raw.Bytes(), nil
}

// readObject returns the object in a file; nil where there is no file.
func readObject(fsys fs.FS, name string) (*object, error) {
	raw, err := readFile(fsys, name)
	if raw == nil || err != nil {
		return nil, err
	}
	o := &object{file: name, used: make(map[string]bool)}
	if err := json.Unmarshal(raw, &o.values); err != nil {
		return nil, fmt.Errorf("%s: %w", name, brief(err))
	}
	if o.values == nil {
		return nil, fmt.Errorf("%s holds null; it must hold an object", name)
	}
	return o, nil
}

func (o *object) fail(code status.Code, format string, args ...any) {
	if o.err == nil {
		o.err = status.Errorf(code, "%s: %s", o.file, fmt.Sprintf(format, args...))
	}
}

func (o *object) present(key string) bool {
	if o.used != nil {
		o.used[key] = true
	}
	raw, ok := o.values[key]
	return ok && string(raw) != "null"
}

// null tells that the key is there and holds null, where that means something else than its absence.
func (o *object) null(key string) bool {
	return string(o.values[key]) == "null"
}

// either is the one of two names of a key that is there; the first where neither is. Values that differ are a fault.
func (o *object) either(first, second string) string {
	switch {
	case !o.present(second):
		return first
	case o.present(first) && string(o.values[first]) != string(o.values[second]):
		o.fail(status.Start, "%s is %s, but %s is %s: they name one thing", first, quoteJSON(o.values[first]), second, quoteJSON(o.values[second]))
	}
	return second
}

// get decodes a value; false where there is none, or it is of another type than into.
func (o *object) get(key, want string, into any) bool {
	if o.err != nil || !o.present(key) {
		return false
	}
	if err := json.Unmarshal(o.values[key], into); err != nil {
		o.fail(status.Start, "%s is %s; it must be %s", key, quoteJSON(o.values[key]), want)
		return false
	}
	return true
}

func (o *object) text(key, fallback string) string {
	var s string
	if !o.get(key, "a string", &s) {
		return fallback
	}
	return s
}

func (o *object) texts(key string) []string {
	var list []string
	o.get(key, "a list of strings", &list)
	return list
}

func (o *object) boolean(key string, fallback bool) bool {
	var b bool
	if !o.get(key, "true or false", &b) {
		return fallback
	}
	return b
}

// object returns an object of its own, whose faults name the key; nil where there is none.
func (o *object) object(key string) *object {
	inner := &object{file: o.file + ": " + key}
	if !o.get(key, "an object", &inner.values) {
		return nil
	}
	return inner
}

// number returns a number from lo to hi.
func (o *object) number(key string, fallback, lo, hi float64) float64 {
	var n json.Number
	if !o.get(key, "a number", &n) {
		return fallback
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if raw := o.values[key]; raw[0] == '"' || n == "" || (err != nil && !math.IsInf(f, 0)) { // json.Number takes strings too
		o.fail(status.Start, "%s is %s; it must be a number", key, quoteJSON(raw))
		return fallback
	}
	if !(f >= lo && f <= hi) {
		o.fail(status.Start, "%s is %s; it must be %s to %s", key, quoteJSON(o.values[key]), plain(lo), plain(hi))
		return fallback
	}
	return f
}

// integer returns a whole number from lo to hi, which may be written as a float (512.0).
func (o *object) integer(key string, fallback, lo, hi int) int {
	f := o.number(key, float64(fallback), float64(lo), float64(hi))
	if f != math.Trunc(f) {
		o.fail(status.Start, "%s is %s; it must be a whole number", key, quoteJSON(o.values[key]))
		return fallback
	}
	return int(f)
}

// plain writes a limit as people would: whole numbers without an exponent.
func plain(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// quote quotes foreign text and cuts it to a length that suits a message.
func quote(s string) string {
	const limit = 120
	if len(s) <= limit {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%q... (%d bytes)", s[:limit], len(s))
}

// quoteJSON shows a value as the file has it: strings quoted, all else bare.
func quoteJSON(raw json.RawMessage) string {
	var s string
	if raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
		return quote(s)
	}
	if len(raw) > 120 {
		return fmt.Sprintf("%s... (%d bytes)", raw[:120], len(raw))
	}
	return string(raw)
}

// brief cuts a decoder's message, which may quote megabytes of the file.
func brief(err error) error {
	if msg := err.Error(); len(msg) > 300 {
		return errors.New(msg[:300] + "...")
	}
	return err
}
