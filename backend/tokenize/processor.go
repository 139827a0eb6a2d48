package tokenize

import (
	"encoding/json"
	"fmt"
)

// Sequences of a template part.
const (
	sequenceA = 0
	sequenceB = 1
)

// part is one element of a template: the tokens of a sequence, or special tokens.
type part struct {
	sequence uint8    // sequenceA, sequenceB, or NoSequence for special tokens
	ids      []uint32 // of special tokens
	typeID   uint32
}

// template says how an encoding is put together.
type template struct {
	parts   []part
	special int // tokens that it adds
}

// processor is the post-processor of tokenizer.json: what is done to the tokens after truncation.
type processor struct {
	single, pair template
	trims        []trim
}

// trim takes white space off the offsets, as ByteLevel and RobertaProcessing with trim_offsets do.
type trim struct{ addPrefixSpace bool }

func newTemplate(parts ...part) template {
	t := template{parts: parts}
	for _, p := range parts {
		t.special += len(p.ids)
	}
	return t
}

func sequencePart(sequence uint8, typeID uint32) part {
	return part{sequence: sequence, typeID: typeID}
}

func specialPart(typeID uint32, ids ...uint32) part {
	return part{sequence: NoSequence, ids: ids, typeID: typeID}
}

// tokenAndID is ["[SEP]", 102].
type tokenAndID struct {
	token string
	id    uint32
}

func (t *tokenAndID) UnmarshalJSON(data []byte) error {
	var entry []json.RawMessage
	if err := json.Unmarshal(data, &entry); err != nil {
		return err
	}
	if len(entry) != 2 {
		return fmt.Errorf("has %d parts, must be [token, id]", len(entry))
	}
	if err := json.Unmarshal(entry[0], &t.token); err != nil {
		return err
	}
	return json.Unmarshal(entry[1], &t.id)
}

// postProcessor has the fields of all kinds; kind tells which are needed.
type postProcessor struct {
	Kind           *string                   `json:"type"`
	Sep            *tokenAndID               `json:"sep"`
	Cls            *tokenAndID               `json:"cls"`
	TrimOffsets    *bool                     `json:"trim_offsets"`
	AddPrefixSpace *bool                     `json:"add_prefix_space"`
	Single         []templatePart            `json:"single"`
	Pair           []templatePart            `json:"pair"`
	SpecialTokens  map[string]templateTokens `json:"special_tokens"`
	Processors     []json.RawMessage         `json:"processors"`
}

// templatePart is {"SpecialToken": {"id", "type_id"}} or {"Sequence": {"id": "A" or "B", "type_id"}}.
type templatePart struct {
	SpecialToken *templateRef `json:"SpecialToken"`
	Sequence     *templateRef `json:"Sequence"`
}

type templateRef struct {
	ID     string `json:"id"`
	TypeID uint32 `json:"type_id"`
}

type templateTokens struct {
	IDs []uint32 `json:"ids"`
}

// parseProcessor reads the post_processor section. vocab bounds the ids.
func parseProcessor(raw json.RawMessage, vocab int) (*processor, error) {
	p := &processor{
		single: newTemplate(sequencePart(sequenceA, 0)),
		pair:   newTemplate(sequencePart(sequenceA, 0), sequencePart(sequenceB, 1)),
	}
	templates := 0
	if err := p.add(raw, "post_processor", vocab, &templates, 0); err != nil {
		return nil, err
	}
	return p, nil
}

// add applies one section. Whether trimming stands before or behind a template makes no difference, because it leaves the
// offsets of special tokens at zero. templates counts those that put tokens together: two of them nested have no meaning upstream.
func (p *processor) add(raw json.RawMessage, path string, vocab int, templates *int, depth int) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if depth > maxSectionDepth {
		return fmt.Errorf("%.80s… is nested deeper than %d", path, maxSectionDepth)
	}
	var section postProcessor
	if err := json.Unmarshal(raw, &section); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if section.Kind == nil {
		return fmt.Errorf("%s.type is missing", path)
	}
	var err error
	switch *section.Kind {
	case "BertProcessing":
		*templates++
		err = p.addBert(&section, vocab)
	case "RobertaProcessing":
		*templates++
		err = p.addRoberta(&section, vocab)
	case "TemplateProcessing":
		*templates++
		err = p.addTemplate(&section, vocab)
	case "ByteLevel":
		err = p.addTrim(&section)
	case typeSequence:
		for i, inner := range section.Processors {
			if err := p.add(inner, fmt.Sprintf("%s.processors[%d]", path, i), vocab, templates, depth+1); err != nil {
				return err
			}
		}
	default:
		return fmt.Errorf("%s.type is %.80q, supported: BertProcessing, RobertaProcessing, TemplateProcessing, ByteLevel, Sequence", path, *section.Kind)
	}
	if err != nil {
		return fmt.Errorf("%s (%s): %w", path, *section.Kind, err)
	}
	if *templates > 1 {
		return fmt.Errorf("%s (%s): adds special tokens to a sequence that has them already", path, *section.Kind)
	}
	return nil
}

func (p *processor) addTrim(section *postProcessor) error {
	if section.TrimOffsets == nil || section.AddPrefixSpace == nil {
		return fmt.Errorf("trim_offsets or add_prefix_space is missing")
	}
	if *section.TrimOffsets {
		p.trims = append(p.trims, trim{addPrefixSpace: *section.AddPrefixSpace})
	}
	return nil
}

// separators returns cls and sep of BertProcessing and RobertaProcessing.
func (section *postProcessor) separators(vocab int) (cls, sep uint32, err error) {
	if section.Cls == nil || section.Sep == nil {
		return 0, 0, fmt.Errorf("cls or sep is missing")
	}
	for _, t := range []*tokenAndID{section.Cls, section.Sep} {
		if err := checkSpecialID(t.token, t.id, vocab); err != nil {
			return 0, 0, err
		}
	}
	return section.Cls.id, section.Sep.id, nil
}

func (p *processor) addBert(section *postProcessor, vocab int) error {
	cls, sep, err := section.separators(vocab)
	if err != nil {
		return err
	}
	p.single = newTemplate(specialPart(0, cls), sequencePart(sequenceA, 0), specialPart(0, sep))
	p.pair = newTemplate(append(p.single.parts[:3:3], sequencePart(sequenceB, 1), specialPart(1, sep))...)
	return nil
}

// addRoberta: all type ids are 0, and two separators stand between the sequences.
func (p *processor) addRoberta(section *postProcessor, vocab int) error {
	cls, sep, err := section.separators(vocab)
	if err != nil {
		return err
	}
	p.single = newTemplate(specialPart(0, cls), sequencePart(sequenceA, 0), specialPart(0, sep))
	p.pair = newTemplate(append(p.single.parts[:3:3], specialPart(0, sep), sequencePart(sequenceB, 0), specialPart(0, sep))...)
	return p.addTrim(section)
}

func (p *processor) addTemplate(section *postProcessor, vocab int) error {
	var err error
	if p.single, err = section.template(section.Single, false, vocab); err != nil {
		return fmt.Errorf("single: %w", err)
	}
	if p.pair, err = section.template(section.Pair, true, vocab); err != nil {
		return fmt.Errorf("pair: %w", err)
	}
	return nil
}

func (section *postProcessor) template(source []templatePart, pair bool, vocab int) (template, error) {
	if source == nil {
		return template{}, fmt.Errorf("is missing")
	}
	var parts []part
	seen := map[string]bool{}
	for i, p := range source {
		switch {
		case p.Sequence != nil && p.SpecialToken == nil:
			name := p.Sequence.ID
			if name != "A" && (name != "B" || !pair) {
				return template{}, fmt.Errorf("part %d: there is no sequence %.80q", i, name)
			}
			if seen[name] {
				return template{}, fmt.Errorf("part %d: sequence %s stands twice, supported: once", i, name)
			}
			seen[name] = true
			parts = append(parts, sequencePart(name[0]-'A', p.Sequence.TypeID))
		case p.SpecialToken != nil && p.Sequence == nil:
			tokens, ok := section.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return template{}, fmt.Errorf("part %d: special token %.80q is not in special_tokens", i, p.SpecialToken.ID)
			}
			for _, id := range tokens.IDs {
				if err := checkSpecialID(p.SpecialToken.ID, id, vocab); err != nil {
					return template{}, fmt.Errorf("part %d: %w", i, err)
				}
			}
			parts = append(parts, specialPart(p.SpecialToken.TypeID, tokens.IDs...))
		default:
			return template{}, fmt.Errorf("part %d must have either SpecialToken or Sequence", i)
		}
	}
	return newTemplate(parts...), nil
}

func checkSpecialID(token string, id uint32, vocab int) error {
	if int64(id) >= int64(vocab) {
		return fmt.Errorf("special token %.80q has the id %d, the vocabulary has %d", token, id, vocab)
	}
	return nil
}
