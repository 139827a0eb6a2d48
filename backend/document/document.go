// Package document reads and writes the small JSON files that lie beside a model, and checks JSON against schemas. What it reads is
// foreign: sizes and counts are bounded before memory is taken.
package document

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// Read returns a regular file of at most limit bytes. A missing one is fs.ErrNotExist.
func Read(path string, limit int) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // opening a pipe could block for ever
		return nil, errors.New("is no regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err == nil && len(raw) > limit {
		err = fmt.Errorf("exceeds the limit of %d bytes", limit)
	}
	return raw, err
}

// Write writes the file at path, whole or not at all: under another name beside it first, which then takes its place.
func Write(path string, raw []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error counts
		}
	}()
	_, err = f.Write(raw)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Quote quotes foreign text and cuts it to a length that suits a message.
func Quote(s string) string {
	const limit = 120
	if len(s) <= limit {
		return strconv.Quote(s)
	}
	return fmt.Sprintf("%q... (%d bytes)", s[:limit], len(s))
}

// Brief cuts a decoder's message, which may quote much of the file.
func Brief(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("unexpected end of JSON input")
	}
	if msg := err.Error(); len(msg) > 300 {
		return errors.New(msg[:300] + "...")
	}
	return err
}

// Walk reads a document token by token and refuses what would make a tree of it costly or ambiguous: more than values values, more than
// depth levels, a key that comes twice in an object, more than one document.
func Walk(raw []byte, values, depth int) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	type level struct {
		keys map[string]struct{} // nil: an array
		key  bool                // the next token is a key
	}
	var levels []level
	for count := 0; ; {
		token, err := d.Token()
		if err != nil {
			return Brief(err)
		}
		top := len(levels) - 1
		switch delim, is := token.(json.Delim); {
		case is && (delim == '}' || delim == ']'):
			levels = levels[:top]
		case top >= 0 && levels[top].key:
			key := token.(string) // in an object the decoder lets nothing else pass
			if _, twice := levels[top].keys[key]; twice {
				return fmt.Errorf("has the key %s twice", Quote(key))
			}
			levels[top].keys[key] = struct{}{}
			levels[top].key = false
			continue
		default:
			if count++; count > values {
				return fmt.Errorf("has more than %d values", values)
			}
			if is {
				if len(levels) == depth {
					return fmt.Errorf("nests deeper than %d levels", depth)
				}
				l := level{}
				if delim == '{' {
					l.keys = make(map[string]struct{})
				}
				if top >= 0 && levels[top].keys != nil {
					levels[top].key = true // after this value
				}
				levels = append(levels, l)
				if delim == '{' {
					levels[len(levels)-1].key = true
				}
				continue
			}
		}
		if len(levels) == 0 {
			if _, err := d.Token(); err != io.EOF {
				return errors.New("has more behind its value")
			}
			return nil
		}
		if top := len(levels) - 1; levels[top].keys != nil {
			levels[top].key = true
		}
	}
}
