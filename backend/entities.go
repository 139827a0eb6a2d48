package backend

import (
	"math"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/tokenize"
)

// Aggregation is how the tokens of a text are joined to entities: the numbers of BEI_AGGREGATE_*.
type Aggregation int32

// The aggregations, as transformers' TokenClassificationPipeline has them.
const (
	AggregateNone    Aggregation = 0 // each token is one
	AggregateSimple  Aggregation = 1 // neighbours of one tag
	AggregateFirst   Aggregation = 2 // words of one tag; a word's is that of its first token
	AggregateAverage Aggregation = 3 // ... of the mean of its tokens' scores
	AggregateMax     Aggregation = 4 // ... of its token with the highest score
)

// outside is the label of what is no entity, as the pipeline's ignore_labels.
const outside = "O"

// tagger names the entities of texts.
type tagger struct {
	words  tokenize.Words
	labels []label
}

// label is what a label's name says.
type label struct {
	tag     string // without B- or I-
	begins  bool   // B-: it never continues an entity
	ignored bool   // for single tokens
	group   string // the name of entities that are joined
}

// newLabel reads a name as get_tag and group_sub_entities in transformers' pipelines/token_classification.py.
func newLabel(name string) label {
	l := label{tag: name, ignored: name == outside, group: name}
	if rest, ok := strings.CutPrefix(name, "B-"); ok {
		l.tag, l.begins = rest, true
	} else if rest, ok := strings.CutPrefix(name, "I-"); ok {
		l.tag = rest
	}
	if _, rest, ok := strings.Cut(name, "-"); ok {
		l.group = rest
	}
	return l
}

// openTagger makes the tagger of a token classifier with a tokenizer.
func (b *Backend) openTagger() error {
	if b.info.ModelType != ModelTokenClassifier || b.tokenizer == nil {
		return nil
	}
	unknown, named, err := arch.UnknownToken(b.folder)
	if err != nil {
		return err
	}
	b.tagger = &tagger{words: b.tokenizer.Words(nil)}
	if named {
		b.tagger.words = b.tokenizer.Words(&unknown)
	}
	for _, name := range b.labels() {
		b.tagger.labels = append(b.tagger.labels, newLabel(name))
	}
	return nil
}

// groups are the names of joined entities, by label.
func (t *tagger) groups() []string {
	names := make([]string, len(t.labels))
	for i, l := range t.labels {
		names[i] = l.group
	}
	return names
}

// entities names the entities of text, of which enc was made with offsets. logits are [tokens x labels].
func (t *tagger) entities(text string, enc *tokenize.Encoding, logits []float32, a Aggregation) []Entity {
	tokens, scores := t.tokens(enc, logits)
	if a == AggregateNone {
		return t.withoutIgnored(tokens)
	}
	if a != AggregateSimple {
		tokens = t.joinWords(tokens, t.words.Inside(text, enc, nil), scores, a)
	}
	return t.group(tokens)
}

// tokens are the tokens that are not special, each with its most likely label, and the softmax of all tokens' logits.
func (t *tagger) tokens(enc *tokenize.Encoding, logits []float32) (tokens []Entity, scores []float32) {
	width := len(t.labels)
	scores = make([]float32, len(logits))
	for k := range enc.IDs {
		row := scores[k*width : (k+1)*width]
		softmax(row, logits[k*width:(k+1)*width])
		if enc.Special[k] != 0 {
			continue
		}
		best := argmax(row)
		tokens = append(tokens, Entity{Label: uint32(best), Score: row[best], Start: enc.Starts[k], End: enc.Ends[k], Token: uint32(k)})
	}
	return tokens, scores
}

func (t *tagger) withoutIgnored(tokens []Entity) []Entity {
	var kept []Entity
	for _, e := range tokens {
		if !t.labels[e.Label].ignored {
			kept = append(kept, e)
		}
	}
	return kept
}

// joinWords makes one of the tokens of each word. inside is for all tokens of the text.
func (t *tagger) joinWords(tokens []Entity, inside []bool, scores []float32, a Aggregation) []Entity {
	var words []Entity
	for first := 0; first < len(tokens); {
		after := first + 1
		for after < len(tokens) && inside[tokens[after].Token] {
			after++
		}
		word := tokens[first]
		switch a {
		case AggregateMax:
			for _, e := range tokens[first+1 : after] {
				if e.Score > word.Score {
					word.Label, word.Score = e.Label, e.Score
				}
			}
		case AggregateAverage:
			word.Label, word.Score = t.average(tokens[first:after], scores)
		}
		word.End = tokens[after-1].End
		words = append(words, word)
		first = after
	}
	return words
}

// average is the most likely label by the mean of the tokens' scores, and that mean.
func (t *tagger) average(tokens []Entity, scores []float32) (label uint32, score float32) {
	width := len(t.labels)
	mean := make([]float32, width)
	for _, e := range tokens {
		for k, s := range scores[int(e.Token)*width : (int(e.Token)+1)*width] {
			mean[k] += s
		}
	}
	best := argmax(mean)
	return uint32(best), mean[best] / float32(len(tokens))
}

// group joins neighbours of one tag, unless the later one begins an entity. What lies outside all entities is left out.
func (t *tagger) group(parts []Entity) []Entity {
	var groups []Entity
	for first := 0; first < len(parts); {
		joined := parts[first]
		after := first + 1
		for ; after < len(parts); after++ {
			l := t.labels[parts[after].Label]
			if l.begins || l.tag != t.labels[parts[after-1].Label].tag {
				break
			}
			joined.Score += parts[after].Score
		}
		if t.labels[joined.Label].group != outside {
			joined.Score /= float32(after - first)
			joined.End = parts[after-1].End
			groups = append(groups, joined)
		}
		first = after
	}
	return groups
}

func softmax(out, logits []float32) {
	highest := logits[argmax(logits)]
	var sum float64
	for k, x := range logits {
		e := math.Exp(float64(x - highest))
		out[k] = float32(e)
		sum += e
	}
	for k := range out {
		out[k] = float32(float64(out[k]) / sum)
	}
}

// argmax is the first index of the highest value. There is at least one.
func argmax(values []float32) int {
	best := 0
	for k, v := range values {
		if v > values[best] {
			best = k
		}
	}
	return best
}

// entityBytes is what one entity takes in a result.
const entityBytes = 24

// takeEntities keeps item i's entities in the result. Its token vectors are there already.
func (w *textWork) takeEntities(i int) error {
	logits := w.out.Result.Items[i].TokenVectors
	found := w.tagger.entities(w.encoder.prompt+w.texts[i].Text, w.encodings[i], logits, w.aggregation)
	if err := w.take(i, entityBytes*len(found)); err != nil {
		return err
	}
	w.out.Result.Items[i].Entities = found
	return nil
}

// checkTagged checks what concerns texts whose entities are wanted.
func checkTagged(texts []Text, a Aggregation) error {
	if a < AggregateNone || a > AggregateMax {
		return status.Errorf(status.InvalidArgument, "aggregation is %d; it must be %d to %d", a, AggregateNone, AggregateMax)
	}
	for i, t := range texts {
		if t.HasPair {
			return status.Errorf(status.InvalidArgument, "item %d is a pair: entities are named in single texts", i)
		}
	}
	return nil
}
