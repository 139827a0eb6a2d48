package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/document"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

const howTo = "make it with 'bei verify --write FOLDER'"

// Read reads the file of a model folder. Errors are status.Start and name the file, the key, its value and the fix; a missing file is
// fs.ErrNotExist, too.
func Read(dir string) (*Manifest, error) {
	at := filepath.Join(dir, FileName)
	raw, err := document.Read(at, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(status.Start, "%s is missing; %s: %w", at, howTo, fs.ErrNotExist)
	}
	if err != nil {
		return nil, status.Errorf(status.Start, "%s: %w", at, err)
	}
	m, err := parse(raw)
	if err != nil {
		return nil, status.Errorf(status.Start, "%s: %w; %s", at, err, howTo)
	}
	return m, nil
}

// parse reads the file's bytes. The schema knows all keys and most limits; what it cannot say is checked after it.
func parse(raw []byte) (*Manifest, error) {
	if err := document.Walk(raw, maxValues, maxDepth); err != nil {
		return nil, err
	}
	if err := schema.Validate(raw); err != nil {
		return nil, document.Brief(err)
	}
	m := new(Manifest)
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, document.Brief(err)
	}
	return m, m.check()
}

// check checks what a schema cannot say.
func (m *Manifest) check() error {
	if types := outputsOf[m.Model.Type]; !slices.Contains(types, m.Model.Output) {
		return fmt.Errorf("model.output is %q; a model of type %q has %v", m.Model.Output, m.Model.Type, types)
	}
	seen := make(map[string]bool)
	for i, f := range m.Files {
		if !fs.ValidPath(f.Name) || path.Clean(f.Name) != f.Name || f.Name == "." || strings.ContainsAny(f.Name, "\\\x00") {
			return fmt.Errorf("files.%d.name is %s; it must be a plain path in the folder", i, document.Quote(f.Name))
		}
		if seen[f.Name] {
			return fmt.Errorf("files.%d.name is %s for the second time", i, document.Quote(f.Name))
		}
		seen[f.Name] = true
	}
	for i := range m.Items {
		if err := m.checkItem(&m.Items[i]); err != nil {
			return fmt.Errorf("items.%d: %w", i, err)
		}
	}
	for i, r := range m.Rankings {
		if err := m.checkRanking(r); err != nil {
			return fmt.Errorf("rankings.%d: %w", i, err)
		}
	}
	return nil
}

var outputsOf = map[string][]Output{"embedding": {Pooled, Sparse}, "classifier": {Logits}, "token_classifier": {TokenLogits}}

func (m *Manifest) checkItem(it *Item) error {
	switch {
	case (it.Text == nil) == (it.InputIDs == nil):
		return errors.New("it must have either text or input_ids")
	case it.Text == nil && (it.Pair != nil || it.PromptName != ""):
		return errors.New("pair and prompt_name are for texts; it has input_ids")
	case it.Text != nil && it.TokenTypeIDs != nil:
		return errors.New("token_type_ids are for input_ids; it has a text")
	case it.TokenTypeIDs != nil && len(it.TokenTypeIDs) != len(it.InputIDs):
		return fmt.Errorf("token_type_ids has %d values, input_ids has %d", len(it.TokenTypeIDs), len(it.InputIDs))
	case it.Pair != nil && m.Model.Output == TokenLogits:
		return errors.New("pair: a token classifier takes single texts")
	}
	n, width := len(it.Values), m.Model.Width
	switch m.Model.Output {
	case Sparse:
		if len(it.Indices) != n {
			return fmt.Errorf("indices has %d numbers, reference has %d", len(it.Indices), n)
		}
		for k, id := range it.Indices {
			if int64(id) >= int64(width) || k > 0 && id <= it.Indices[k-1] {
				return fmt.Errorf("indices: number %d is %d; they must ascend and be below the width of %d", k, id, width)
			}
		}
		return nil
	case TokenLogits:
		if n == 0 || n%width != 0 {
			return fmt.Errorf("reference has %d numbers; it must be a multiple of the width, %d", n, width)
		}
		if it.InputIDs != nil && n != len(it.InputIDs)*width {
			return fmt.Errorf("reference has %d numbers; %d tokens of width %d need %d", n, len(it.InputIDs), width, len(it.InputIDs)*width)
		}
	default:
		if n != width {
			return fmt.Errorf("reference has %d numbers; the width is %d", n, width)
		}
	}
	if it.Indices != nil {
		return fmt.Errorf("indices are for output %q; this is %q", Sparse, m.Model.Output)
	}
	return nil
}

func (m *Manifest) checkRanking(r Ranking) error {
	byCosine := m.Model.Output == Pooled || m.Model.Output == Sparse
	switch {
	case byCosine && r.Query == nil:
		return errors.New("query is missing: items of an embedding model are ranked by their cosine to one")
	case !byCosine && r.Query != nil:
		return fmt.Errorf("query is for embedding models; this is a %s", m.Model.Type)
	case !byCosine && (m.Model.Output != Logits || m.Model.Width != 1):
		return fmt.Errorf("a %s of width %d ranks nothing: it takes a reranker, which has one logit", m.Model.Type, m.Model.Width)
	case byCosine && *r.Query >= len(m.Items):
		return fmt.Errorf("query is %d, but there are %d items", *r.Query, len(m.Items))
	}
	seen := make(map[int]bool, len(r.Order))
	for k, i := range r.Order {
		if i >= len(m.Items) || seen[i] || byCosine && i == *r.Query {
			return fmt.Errorf("order.%d is %d; it must be an item below %d, once, and not the query", k, i, len(m.Items))
		}
		seen[i] = true
	}
	scores := m.scores(r, func(i int) Result { return Result{Values: m.Items[i].Values, Indices: m.Items[i].Indices} })
	for k := 1; k < len(scores); k++ {
		if scores[k] > scores[k-1] {
			return fmt.Errorf("order.%d: item %d has the reference score %g, above %g of item %d before it", k, r.Order[k], scores[k], scores[k-1], r.Order[k-1])
		}
	}
	return nil
}

// Write writes the file at path, whole or not at all, in the form that Read takes.
func (m *Manifest) Write(at string) error {
	m.Format, m.Version = format, version
	raw, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	if len(raw) > maxFile {
		return status.Errorf(status.InvalidArgument, "%s would have %d bytes; the limit is %d: use fewer items", at, len(raw), maxFile)
	}
	if _, err := parse(raw); err != nil {
		return status.Errorf(status.InvalidArgument, "%s: %w", at, err)
	}
	return document.Write(at, append(raw, '\n'))
}
