package arch

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// TokenizerConfig is what changes tokens beside tokenizer.json, as transformers 5.23 reads it from tokenizer_config.json and its older
// siblings. Its classes with settings of their own make normalizer, pre-tokenizer and special tokens of these, whatever tokenizer.json
// says. nil: the file does not say.
type TokenizerConfig struct {
	Class          string // tokenizer_class without "Fast", else the one of model_type; "": tokenizer.json stands as it is
	LowerCase      *bool  // do_lower_case
	ChineseChars   *bool  // tokenize_chinese_chars
	StripAccents   *bool  // strip_accents
	AddPrefixSpace *bool  // add_prefix_space
	TrimOffsets    *bool  // trim_offsets
	SplitByPunct   *bool  // split_by_punct
	TruncationSide string // "left", "right"; "": as tokenizer.json says
	CLS, SEP       string // the tokens that classes put round a text; "": their own
	Added          []AddedToken
}

// AddedToken is a token that is found in texts before anything else happens to them. nil flags: as tokenizer.json has the token.
type AddedToken struct {
	Content                                           string
	ID                                                int // -1: not said
	SingleWord, LStrip, RStrip, Normalized, IsSpecial *bool
	From                                              string // file and key, for messages
}

const (
	tokenizerConfigFile = "tokenizer_config.json"
	specialTokensFile   = "special_tokens_map.json"
	addedTokensFile     = "added_tokens.json"
	maxAdded            = 1 << 16
)

// namedTokens are the keys of single special tokens.
var namedTokens = []string{"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}

// tokenizerClasses by model_type are those of folders that name none.
var tokenizerClasses = map[string]string{
	"bert": "BertTokenizer", "distilbert": "BertTokenizer", "nomic_bert": "BertTokenizer", "mpnet": "MPNetTokenizer",
	"roberta": "RobertaTokenizer", "deberta-v2": "DebertaV2Tokenizer", "camembert": "CamembertTokenizer",
	"xlm-roberta": "XLMRobertaTokenizer", "gte": "XLMRobertaTokenizer", "jina_embeddings_v3": "XLMRobertaTokenizer",
}

// takesAnyTokenizer are values of model_type for which tokenizer.json stands as it is, whatever class is named.
var takesAnyTokenizer = []string{"modernbert", "mistral"}

// ReadTokenizer reads what changes the tokens of the model in folder dir, and tells what its files decided. Errors are *status.Error, as
// Read's.
func ReadTokenizer(dir string) (TokenizerConfig, []Decision, error) {
	f := &folder{FS: os.DirFS(dir)}
	c, err := readTokenizerConfig(f)
	if err != nil {
		return TokenizerConfig{}, f.decisions, inFolder(dir, err)
	}
	return c, f.decisions, nil
}

// readTokenizerConfig reads tokenizer_config.json, special_tokens_map.json and added_tokens.json.
func readTokenizerConfig(fsys fs.FS) (TokenizerConfig, error) {
	model, err := readObject(fsys, "config.json")
	if err != nil {
		return TokenizerConfig{}, err
	}
	if model == nil {
		model = &object{file: "config.json"}
	}
	c, err := readObject(fsys, tokenizerConfigFile)
	if err != nil {
		return TokenizerConfig{}, err
	}
	if c == nil {
		c = &object{file: tokenizerConfigFile}
	}
	t := TokenizerConfig{Class: c.tokenizerClass(model)}
	if c.boolean("split_special_tokens", false) {
		c.fail(status.Unsupported, "split_special_tokens true is not supported: special tokens in a text are tokens")
	}
	for key, flag := range map[string]**bool{
		"do_lower_case": &t.LowerCase, "tokenize_chinese_chars": &t.ChineseChars, "strip_accents": &t.StripAccents,
		"add_prefix_space": &t.AddPrefixSpace, "trim_offsets": &t.TrimOffsets, "split_by_punct": &t.SplitByPunct,
	} {
		*flag = c.maybe(key)
	}
	if c.present("truncation_side") {
		t.TruncationSide = c.oneOf("truncation_side", "right", "left")
	}
	if err := firstOf(model.err, c.err); err != nil {
		return t, err
	}
	if err := t.readAdded(fsys, c); err != nil {
		return t, err
	}
	t.decideOn(fsys, c, model)
	return t, nil
}

// decideOn notes what tokens are made by.
func (t *TokenizerConfig) decideOn(fsys fs.FS, c, model *object) {
	from, value := c, t.Class
	if !c.present("tokenizer_class") && model.present("tokenizer_class") {
		from = model
	}
	if value == "" {
		value = "none of its own: tokenizer.json stands as it is"
	}
	from.decideBy(fsys, "tokenizer class", value, "tokenizer_class")
	for key, flag := range map[string]*bool{"do_lower_case": t.LowerCase, "add_prefix_space": t.AddPrefixSpace} {
		if flag != nil {
			c.decideBy(fsys, "tokenizer's "+key, *flag, key)
		}
	}
	if t.TruncationSide != "" {
		c.decideBy(fsys, "truncation side", t.TruncationSide, "truncation_side")
	} else {
		decide(fsys, "truncation side", "as tokenizer.json says", "", "default: "+c.file+" has no truncation_side")
	}
}

// tokenizerClass is tokenizer_class, of tokenizer_config.json or else of config.json, or the one of the model's type.
func (o *object) tokenizerClass(model *object) string {
	family := model.text("model_type", "")
	if slices.Contains(takesAnyTokenizer, family) {
		return ""
	}
	class := o.text("tokenizer_class", model.text("tokenizer_class", tokenizerClasses[family]))
	return strings.TrimSuffix(class, "Fast")
}

// maybe is a boolean; nil where there is none.
func (o *object) maybe(key string) *bool {
	if !o.present(key) {
		return nil
	}
	b := o.boolean(key, false)
	return &b
}

// readAdded reads the added tokens: added_tokens_decoder or, in older folders, special_tokens_map.json and added_tokens.json; and special
// tokens by name.
func (t *TokenizerConfig) readAdded(fsys fs.FS, c *object) error {
	decoder := c.object("added_tokens_decoder")
	if decoder == nil {
		if err := t.readOldAdded(fsys); err != nil {
			return err
		}
	} else {
		for _, id := range decoder.keys() {
			token := decoder.addedToken(id)
			n, err := strconv.Atoi(id)
			if err != nil || n < 0 || n >= maxTable {
				decoder.fail(status.Start, "%s is no token id", quote(id))
			}
			token.ID = n
			t.Added = append(t.Added, token)
		}
		c.err = firstOf(c.err, decoder.err)
	}
	t.readNamed(c)
	return c.err
}

func (t *TokenizerConfig) readOldAdded(fsys fs.FS) error {
	for _, name := range []string{specialTokensFile, addedTokensFile} {
		o, err := readObject(fsys, name)
		if err != nil {
			return err
		}
		if o == nil {
			continue
		}
		if name == specialTokensFile {
			t.readNamed(o)
		} else {
			for _, content := range o.keys() {
				t.Added = append(t.Added, AddedToken{Content: content, ID: o.integer(content, 0, 0, maxTable), From: name + ": " + quote(content)})
			}
		}
		if o.err != nil {
			return o.err
		}
	}
	return nil
}

// readNamed reads special tokens by name, and lists of more.
func (t *TokenizerConfig) readNamed(o *object) {
	add := func(token AddedToken) {
		if known := slices.ContainsFunc(t.Added, func(a AddedToken) bool { return a.Content == token.Content }); !known && token.Content != "" {
			t.Added = append(t.Added, token)
		}
	}
	for _, key := range namedTokens {
		if !o.present(key) {
			continue
		}
		token := o.addedToken(key)
		switch { // the older file's, read first, stands
		case key == "cls_token" && t.CLS == "":
			t.CLS = token.Content
		case key == "sep_token" && t.SEP == "":
			t.SEP = token.Content
		}
		add(token)
	}
	for _, key := range []string{"extra_special_tokens", "additional_special_tokens"} {
		for _, token := range o.addedTokens(key) {
			add(token)
		}
	}
}

// addedTokens is a list of tokens, or an object of them by name.
func (o *object) addedTokens(key string) (tokens []AddedToken) {
	raw := o.values[key]
	if !o.present(key) {
		return nil
	}
	inner := &object{file: o.file + ": " + key}
	if raw[0] == '{' {
		o.get(key, "an object of tokens", &inner.values)
	} else {
		var list []json.RawMessage
		o.get(key, "a list of tokens", &list)
		inner.values = make(map[string]json.RawMessage, len(list))
		for i, token := range list {
			inner.values[strconv.Itoa(i)] = token
		}
	}
	for _, name := range inner.keys() {
		if inner.present(name) {
			tokens = append(tokens, inner.addedToken(name))
		}
	}
	o.err = firstOf(o.err, inner.err)
	return tokens
}

// addedToken is a token: its text, or an object with flags.
func (o *object) addedToken(key string) AddedToken {
	special := true
	token := AddedToken{ID: -1, From: o.file + ": " + key}
	switch raw := string(o.values[key]); {
	case strings.HasPrefix(raw, `"`):
		token.Content, token.IsSpecial = o.text(key, ""), &special
		return token
	case !strings.HasPrefix(raw, "{"):
		o.fail(status.Start, "%s is neither a string nor an object with content", key)
		return token
	}
	inner := o.object(key)
	if inner == nil {
		return token
	}
	if !inner.present("content") {
		inner.fail(status.Start, "content is missing")
	}
	token.Content = inner.text("content", "")
	token.SingleWord, token.LStrip, token.RStrip = inner.maybe("single_word"), inner.maybe("lstrip"), inner.maybe("rstrip")
	token.Normalized, token.IsSpecial = inner.maybe("normalized"), inner.maybe("special")
	o.err = firstOf(o.err, inner.err)
	return token
}

// keys are the object's keys, sorted; more than a tokenizer may have are a fault.
func (o *object) keys() []string {
	if len(o.values) > maxAdded {
		o.fail(status.Start, "it has %d tokens; the limit is %d", len(o.values), maxAdded)
		return nil
	}
	return slices.Sorted(maps.Keys(o.values))
}
