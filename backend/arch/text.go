package arch

import (
	"io/fs"
	"math"
	"os"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// limitFiles are the names that sentence-transformers has given the Transformer module's settings, newest first.
var limitFiles = []string{
	"sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json", "sentence_camembert_config.json",
	"sentence_albert_config.json", "sentence_xlm-roberta_config.json", "sentence_xlnet_config.json",
}

// readSettings returns the first of limitFiles that holds any key; nil: none does.
func readSettings(fsys fs.FS) (*object, error) {
	for _, name := range limitFiles {
		c, err := readObject(fsys, name)
		if err != nil {
			return nil, err
		}
		if c != nil && len(c.values) > 0 {
			return c, nil
		}
	}
	return nil, nil
}

// ReadText reads what the sentence-transformers files of folder dir say about text; without them the zero Text. Errors are
// *status.Error, as Read's.
func ReadText(dir string) (Text, error) {
	text, err := readText(os.DirFS(dir))
	if err != nil {
		return Text{}, inFolder(dir, err)
	}
	return text, nil
}

// readText reads prompts and lower-casing.
func readText(fsys fs.FS) (Text, error) {
	var text Text
	settings, err := readSettings(fsys)
	if err != nil {
		return Text{}, err
	}
	if settings != nil {
		text.LowerCase = settings.boolean("do_lower_case", false)
		if settings.err != nil {
			return Text{}, settings.err
		}
	}
	c, err := readObject(fsys, "config_sentence_transformers.json")
	if c == nil || err != nil {
		return text, err
	}
	c.get("prompts", "an object of strings", &text.Prompts)
	text.DefaultPrompt = c.text("default_prompt_name", "")
	if _, ok := text.Prompts[text.DefaultPrompt]; text.DefaultPrompt != "" && !ok {
		c.fail(status.Start, "default_prompt_name %s is not a key of prompts", quote(text.DefaultPrompt))
	}
	if c.err != nil {
		return Text{}, c.err
	}
	return text, nil
}

// readMaxLength returns the longest sequence: max_seq_length of sentence-transformers or, where it is not set, the tokenizer's
// model_max_length where it is a sane number (transformers writes 1e30 for "none"); at most table, the positions that the model has (0: any).
// 0: nothing limits it.
func readMaxLength(fsys fs.FS, table int) (int, error) {
	limit := 0
	settings, err := readSettings(fsys)
	if err != nil {
		return 0, err
	}
	if settings != nil && settings.present("max_seq_length") {
		limit = settings.integer("max_seq_length", 0, 1, maxTable)
		if settings.err != nil {
			return 0, settings.err
		}
	} else {
		c, err := readObject(fsys, "tokenizer_config.json")
		if err != nil {
			return 0, err
		}
		if c != nil {
			n := c.number("model_max_length", 0, math.Inf(-1), math.Inf(1))
			if c.err != nil {
				return 0, c.err
			}
			if n >= 1 && n <= maxTable {
				limit = int(n)
			}
		}
	}
	if table > 0 && (limit == 0 || limit > table) {
		limit = table
	}
	return limit, nil
}
