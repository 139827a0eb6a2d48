package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/tokenize"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// Explanation is what a model folder is by its files, without an engine: each decision with the file that makes it, up to where a file
// cannot be read, and everything that keeps the folder from being served.
type Explanation struct {
	Model     string          `json:"model"`
	Decisions []arch.Decision `json:"decisions"`
	Problems  []string        `json:"problems,omitempty"` // empty: an engine can be tried
}

// Explain reads the files of c.Model, which ctx bounds where they must be fetched.
func Explain(ctx context.Context, c Config) Explanation {
	b := &Backend{config: c, log: zap.NewNop()}
	e := Explanation{Model: c.Model, Decisions: []arch.Decision{}}
	note := func(err error) bool {
		if err != nil {
			e.Problems = append(e.Problems, err.Error())
		}
		return err == nil
	}
	if !note(b.findFolder(ctx)) || b.folder == "" {
		return e
	}
	if note(b.openTokenizer()) {
		defer b.tokenizer.Close()
	}
	var weightless bool
	if b.weights, weightless = openWeights(b.folder, note); !weightless {
		defer func() { _ = b.weights.Close() }()
	}
	e.Decisions = append(e.Decisions, b.decisions...)
	if c.Reranker != "" && b.tokenizer == nil {
		return e
	}
	options, err := b.readOptions()
	if !note(err) {
		return e
	}
	var index arch.Index = noWeights{}
	if !weightless {
		index = b.weights
		e.Decisions = append(e.Decisions, dtypesOf(b.weights))
	}
	model, decisions, err := arch.Explain(b.folder, index, options)
	e.Decisions = append(e.Decisions, decisions...)
	if weightless && status.CodeOf(err) == status.WeightsNotFound {
		return e // said already
	}
	if note(err) && b.tokenizer != nil {
		note(checkVocabulary(b.tokenizer, model.VocabSize))
	}
	return e
}

// noWeights are those of a folder whose weights cannot be opened.
type noWeights struct{}

func (noWeights) Shape(string) ([]int, bool) { return nil, false }

func openWeights(folder string, note func(error) bool) (*weights.Set, bool) {
	set, err := weights.Open(folder)
	return set, !note(err)
}

// dtypesOf says in which dtypes the weights are stored.
func dtypesOf(set *weights.Set) arch.Decision {
	dtypes := make(map[string]bool)
	for _, name := range set.Names() {
		if t, err := set.Tensor(name); err == nil {
			dtypes[string(t.DType)] = true
		}
	}
	return arch.Decision{What: "stored dtype", Value: strings.Join(slices.Sorted(maps.Keys(dtypes)), ", "), File: strings.Join(set.Files(), ", "), Key: "dtype"}
}

// Explanation is Explain's of an open backend, with what its engine decided. It has no problems.
func (b *Backend) Explanation() Explanation {
	return Explanation{Model: b.config.Model, Decisions: b.allDecisions()}
}

// allDecisions are those of the files, and the engine's.
func (b *Backend) allDecisions() []arch.Decision {
	i := b.engine.Info()
	all := slices.Clone(b.decisions)
	if b.weights != nil { // the mock engine has none
		all = append(all, dtypesOf(b.weights))
	}
	all = append(all, arch.Decision{What: "engine", Value: strings.TrimSpace(i.Name + " " + i.Version + " on " + i.Device), Key: b.choice})
	by := "default: the engine's choice"
	if b.config.precision() != "" {
		by = "option dtype"
	}
	all = append(all, arch.Decision{What: "longest text", Value: strconv.Itoa(i.Limits.MaxLength), Key: "the engine's limit, at most the model's max length"})
	return append(all, arch.Decision{What: "computed in", Value: i.Precision, Key: by})
}

// checkVocabulary refuses a tokenizer with ids that the model has no rows for.
func checkVocabulary(t *tokenize.Tokenizer, rows int) error {
	if t.VocabSize() > rows {
		return status.Errorf(status.Start, "tokenizer.json has token ids up to %d, but the model's vocabulary has %d rows: they do not belong together",
			t.VocabSize()-1, rows)
	}
	return nil
}

// Text writes an explanation as a table.
func (e Explanation) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", e.Model)
	b.WriteString(DecisionTable(e.Decisions))
	for _, problem := range e.Problems {
		fmt.Fprintf(&b, "\ncannot be served: %s\n", problem)
	}
	return b.String()
}

// DecisionTable writes decisions in columns: what, its value, and the file and key that say so, or why it is so.
func DecisionTable(decisions []arch.Decision) string {
	what, value := 0, 0
	for _, d := range decisions {
		what, value = max(what, len(d.What)), max(value, min(len(d.Value), 40))
	}
	var b strings.Builder
	for _, d := range decisions {
		from := d.Key
		if d.File != "" {
			from = d.File + ": " + d.Key
		}
		fmt.Fprintf(&b, "%-*s  %-*s  %s\n", what, d.What, value, d.Value, from)
	}
	return b.String()
}
