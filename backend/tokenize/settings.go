package tokenize

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/arch"
)

const (
	typeBertNormalizer   = "BertNormalizer"
	typeBertPreTokenizer = "BertPreTokenizer"
	typePunctuation      = "Punctuation"
	typeMetaspace        = "Metaspace"
	keyUnk               = "unk_token"
)

// classes are the tokenizer classes of transformers 5.23 that make their own of tokenizer.json, by settings of tokenizer_config.json
// (models/*/tokenization_*.py). Others take it as it stands.
var classes = map[string]func(f *file, c *arch.TokenizerConfig) error{
	"BertTokenizer":       bertClass("[CLS]", "[SEP]", templateProcessing),
	"DistilBertTokenizer": bertClass("[CLS]", "[SEP]", templateProcessing),
	"MPNetTokenizer": bertClass("<s>", "</s>", func(cls, sep special) any {
		return robertaProcessing(cls, sep, true, false)
	}),
	"RobertaTokenizer":    robertaClass,
	"DebertaV2Tokenizer":  debertaClass,
	"XLMRobertaTokenizer": (*file).checkPrefixSpace,
	"CamembertTokenizer":  (*file).checkPrefixSpace,
	"Qwen2Tokenizer":      (*file).checkPrefixSpace,
	"LlamaTokenizer":      llamaClass,
	"GemmaTokenizer":      gemmaClass,
}

// apply makes of tokenizer.json what transformers makes of it by the files beside it.
func (f *file) apply(c *arch.TokenizerConfig) error {
	for _, t := range c.Added {
		if err := f.applyAdded(t); err != nil {
			return err
		}
	}
	if class := classes[c.Class]; class != nil {
		if err := class(f, c); err != nil {
			return fmt.Errorf("tokenizer_class %s of tokenizer_config.json: %w", c.Class, err)
		}
	}
	return nil
}

// applyAdded adds a token of the model's vocabulary, or gives an added one the flags that go with its id.
func (f *file) applyAdded(t arch.AddedToken) error {
	if t.Content == "" {
		return nil
	}
	i := slices.IndexFunc(f.added, func(a addedToken) bool { return *a.Content == t.Content })
	if i >= 0 && t.ID < 0 {
		return nil
	}
	if i < 0 {
		id, ok := f.model.ids[t.Content]
		if !ok {
			return fmt.Errorf("%s names the token %.80q, which is not in it: save the tokenizer again, with all its tokens", t.From, t.Content)
		}
		if i = len(f.added); i >= maxAddedTokens {
			return fmt.Errorf("%s names more than %d added tokens", t.From, maxAddedTokens)
		}
		no, isSpecial := false, t.IsSpecial != nil && *t.IsSpecial
		normalized := !isSpecial
		f.added = append(f.added, addedToken{ID: &id, Content: &t.Content, SingleWord: &no, LStrip: &no, RStrip: &no, Normalized: &normalized, Special: &isSpecial})
	}
	token := &f.added[i]
	if t.ID >= 0 && int64(t.ID) != int64(*token.ID) {
		return fmt.Errorf("%s gives the token %.80q the id %d; it has the id %d", t.From, t.Content, t.ID, *token.ID)
	}
	for _, flag := range []struct{ said, of **bool }{
		{&t.SingleWord, &token.SingleWord}, {&t.LStrip, &token.LStrip}, {&t.RStrip, &token.RStrip}, {&t.Normalized, &token.Normalized},
		{&t.IsSpecial, &token.Special},
	} {
		if *flag.said != nil {
			*flag.of = *flag.said
		}
	}
	return nil
}

// truncationSide is that of tokenizer_config.json or else of tokenizer.json.
func (f *file) truncationSide(c *arch.TokenizerConfig) Side {
	if c.TruncationSide == "left" || c.TruncationSide == "" && f.truncation.Direction == "Left" {
		return Left
	}
	return Right
}

func is(b *bool, fallback bool) bool {
	if b == nil {
		return fallback
	}
	return *b
}

// special is a token with its id.
type special struct {
	token string
	id    uint32
}

// named is the token of that name, or the class's own.
func (f *file) named(name, own string) (special, error) {
	if name == "" {
		name = own
	}
	if id, ok := f.model.ids[name]; ok {
		return special{name, id}, nil
	}
	for _, a := range f.added {
		if *a.Content == name {
			return special{name, *a.ID}, nil
		}
	}
	return special{}, fmt.Errorf("the token %.80q, which it puts round a text, is not in tokenizer.json", name)
}

// setProcessor sets what puts the special tokens of a class round a text.
func (f *file) setProcessor(c *arch.TokenizerConfig, ownCLS, ownSEP string, processor func(cls, sep special) any) error {
	cls, err := f.named(c.Special["cls_token"], ownCLS)
	if err != nil {
		return err
	}
	sep, err := f.named(c.Special["sep_token"], ownSEP)
	if err != nil {
		return err
	}
	f.postProcessor, err = json.Marshal(processor(cls, sep))
	return err
}

func (f *file) wantModel(kind string) error {
	if f.model.Type == nil || *f.model.Type == kind {
		return nil
	}
	return fmt.Errorf("it needs a model of type %s; tokenizer.json has %.80q", kind, *f.model.Type)
}

func bertClass(cls, sep string, processor func(cls, sep special) any) func(f *file, c *arch.TokenizerConfig) error {
	return func(f *file, c *arch.TokenizerConfig) error {
		if err := f.wantModel("WordPiece"); err != nil {
			return err
		}
		var accents any // null: as lowercase
		if c.StripAccents != nil {
			accents = *c.StripAccents
		}
		f.normalizer = map[string]any{"type": typeBertNormalizer, "clean_text": true, "handle_chinese_chars": is(c.ChineseChars, true),
			"strip_accents": accents, "lowercase": is(c.LowerCase, true)}
		f.preTokenizer = map[string]any{"type": typeBertPreTokenizer}
		return f.setProcessor(c, cls, sep, processor)
	}
}

func robertaClass(f *file, c *arch.TokenizerConfig) error {
	if err := f.wantModel("BPE"); err != nil {
		return err
	}
	prefix := is(c.AddPrefixSpace, false)
	f.normalizer = nil
	f.preTokenizer = map[string]any{"type": typeByteLevel, "add_prefix_space": prefix, "trim_offsets": true, "use_regex": true}
	return f.setProcessor(c, "<s>", "</s>", func(cls, sep special) any { return robertaProcessing(cls, sep, is(c.TrimOffsets, true), prefix) })
}

// llamaClass leaves byte-level files as they stand, as AutoTokenizer does: those of Llama 3 name this class, too.
func llamaClass(f *file, c *arch.TokenizerConfig) error {
	if f.isByteLevel {
		return nil
	}
	if err := f.setByteFallback(); err != nil {
		return err
	}
	scheme := "first"
	switch {
	case !is(c.AddPrefixSpace, true):
		scheme = "never"
	case is(c.Legacy, false):
		scheme = "always"
	}
	f.normalizer = nil
	f.preTokenizer = map[string]any{"type": typeMetaspace, "replacement": "▁", "prepend_scheme": scheme, "split": false}
	return f.addOwn(c, []ownToken{{keyUnk, "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}})
}

func gemmaClass(f *file, c *arch.TokenizerConfig) error {
	if err := f.setByteFallback(); err != nil {
		return err
	}
	own := []ownToken{{keyUnk, "<unk>"}, {"bos_token", "<bos>"}, {"eos_token", "<eos>"}, {"pad_token", "<pad>"}, {"mask_token", "<mask>"}}
	if err := f.addOwn(c, own); err != nil {
		return err
	}
	unk, err := f.named(c.Special[keyUnk], "<unk>")
	if err != nil {
		return err
	}
	f.model.UnkToken = &unk.token
	space := map[string]any{"String": " "}
	f.normalizer = map[string]any{"type": "Replace", "pattern": space, "content": "▁"}
	f.preTokenizer = map[string]any{"type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": false}
	return nil
}

// ownToken is a special token that a class has where the files do not say its key.
type ownToken struct{ key, content string }

func (f *file) addOwn(c *arch.TokenizerConfig, own []ownToken) error {
	isSpecial := true
	for _, t := range own {
		if _, said := c.Special[t.key]; said {
			continue
		}
		if err := f.applyAdded(arch.AddedToken{Content: t.content, ID: -1, IsSpecial: &isSpecial, From: "its own " + t.key}); err != nil {
			return err
		}
	}
	return nil
}

// setByteFallback makes the model BPE that takes bytes for what its vocabulary lacks; of tokenizer.json it keeps vocabulary and
// merges, and no token for what is unknown.
func (f *file) setByteFallback() error {
	const kind = "BPE"
	if err := f.wantModel(kind); err != nil {
		return err
	}
	name, yes := kind, true
	f.model = model{Type: &name, FuseUnk: &yes, ByteFallback: &yes, Vocab: f.model.Vocab, Merges: f.model.Merges,
		ids: f.model.ids, pieces: f.model.pieces}
	return nil
}

// debertaClass lowers texts by do_lower_case; tokenizer.json must agree with the rest.
func debertaClass(f *file, c *arch.TokenizerConfig) error {
	switch lowers := has(f.normalizer, typeLowercase); {
	case is(c.LowerCase, false):
		f.lowerCase()
	case lowers:
		return fmt.Errorf("do_lower_case is not true, but the normalizer of tokenizer.json has %s", typeLowercase)
	}
	if splits := has(f.preTokenizer, typePunctuation); splits != is(c.SplitByPunct, false) {
		return fmt.Errorf("split_by_punct is %t, but %s is in the pre_tokenizer of tokenizer.json: %t", is(c.SplitByPunct, false), typePunctuation, splits)
	}
	return f.checkPrefixSpace(c)
}

// checkPrefixSpace refuses an add_prefix_space that tokenizer.json contradicts.
func (f *file) checkPrefixSpace(c *arch.TokenizerConfig) error {
	if c.AddPrefixSpace == nil {
		return nil
	}
	for _, step := range sectionSteps(f.preTokenizer) {
		added := *c.AddPrefixSpace
		switch step["type"] {
		case typeByteLevel:
			added, _ = step["add_prefix_space"].(bool)
		case typeMetaspace:
			scheme, said := step["prepend_scheme"].(string)
			added = !said && step["add_prefix_space"] != false || strings.EqualFold(scheme, "always") || scheme == "first"
		}
		if added != *c.AddPrefixSpace {
			return fmt.Errorf("add_prefix_space is %t, but the pre_tokenizer %v of tokenizer.json does otherwise", *c.AddPrefixSpace, step["type"])
		}
	}
	return nil
}

// has tells that a section, or one in its sequence, has that type.
func has(section any, kind string) bool {
	return slices.ContainsFunc(sectionSteps(section), func(step map[string]any) bool { return step["type"] == kind })
}

// sectionSteps are the sections of a sequence, or the section alone.
func sectionSteps(section any) (all []map[string]any) {
	one, ok := section.(map[string]any)
	if !ok {
		return nil
	}
	if one["type"] != typeSequence {
		return []map[string]any{one}
	}
	for _, key := range []string{"normalizers", "pretokenizers"} {
		list, _ := one[key].([]any)
		for _, step := range list {
			all = append(all, sectionSteps(step)...)
		}
	}
	return all
}

// templateProcessing is [CLS] A [SEP], or [CLS] A [SEP] B [SEP] with types.
func templateProcessing(cls, sep special) any {
	token := func(s special, kind int) any {
		return map[string]any{"SpecialToken": map[string]any{"id": s.token, "type_id": kind}}
	}
	sequence := func(id string, kind int) any {
		return map[string]any{"Sequence": map[string]any{"id": id, "type_id": kind}}
	}
	single := []any{token(cls, 0), sequence("A", 0), token(sep, 0)}
	entry := func(s special) any {
		return map[string]any{"id": s.token, "ids": []uint32{s.id}, "tokens": []string{s.token}}
	}
	return map[string]any{"type": "TemplateProcessing", "single": single, "pair": append(slices.Clone(single), sequence("B", 1), token(sep, 1)),
		"special_tokens": map[string]any{cls.token: entry(cls), sep.token: entry(sep)}}
}

// robertaProcessing is <s> A </s>, or <s> A </s> </s> B </s>.
func robertaProcessing(cls, sep special, trim, prefix bool) any {
	return map[string]any{"type": "RobertaProcessing", "sep": []any{sep.token, sep.id}, "cls": []any{cls.token, cls.id},
		"trim_offsets": trim, "add_prefix_space": prefix}
}
