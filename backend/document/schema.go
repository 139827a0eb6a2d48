package document

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// Schema is a JSON Schema (draft 2020-12), compiled at its first use.
type Schema struct {
	compiled func() (*jsonschema.Schema, error)
}

// NewSchema makes a Schema of its text. name is the one that its own errors have.
func NewSchema(name, text string) *Schema {
	return &Schema{sync.OnceValues(func() (*jsonschema.Schema, error) {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c := jsonschema.NewCompiler()
		if err := c.AddResource(name, doc); err != nil {
			return nil, err
		}
		return c.Compile(name)
	})}
}

// Compile reports a fault of the schema itself, which is a defect of this library.
func (s *Schema) Compile() error {
	_, err := s.compiled()
	return err
}

// Validate checks a document. The error names the first fault in one line: "queue.max_items: minimum: got -1, want 0".
func (s *Schema) Validate(raw []byte) error {
	schema, err := s.compiled()
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		return fmt.Errorf("not one JSON document: %w", err)
	}
	if err := schema.Validate(doc); err != nil {
		return errors.New(fault(err))
	}
	return nil
}

// fault says the first leaf of a validation error.
func fault(err error) string {
	var v *jsonschema.ValidationError
	if !errors.As(err, &v) {
		return err.Error()
	}
	for len(v.Causes) > 0 {
		v = v.Causes[0]
	}
	where := strings.Join(v.InstanceLocation, ".")
	what := v.ErrorKind.LocalizedString(message.NewPrinter(language.English))
	if where == "" {
		return what
	}
	return where + ": " + what
}
