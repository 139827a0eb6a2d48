package arch

import (
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

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
func readText(fsys fs.FS) (text Text, err error) {
	settings, err := readSettings(fsys)
	if err != nil {
		return Text{}, err
	}
	if settings != nil {
		text.LowerCase = settings.boolean("do_lower_case", false)
		settings.checkSettings()
		if settings.err != nil {
			return Text{}, settings.err
		}
		settings.decideBy(fsys, "texts are lowered first", text.LowerCase, "do_lower_case")
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
	c.refusePresent("truncate_dim")
	c.refusePresent("max_active_dims")
	if c.err != nil {
		return Text{}, c.err
	}
	if len(text.Prompts) > 0 {
		c.decideBy(fsys, "prompts", strings.Join(slices.Sorted(maps.Keys(text.Prompts)), ", "), "prompts")
		c.decideBy(fsys, "default prompt", quote(text.DefaultPrompt), "default_prompt_name")
	}
	return text, nil
}

// harmless are arguments for transformers' from_pretrained, in the settings of a Transformer module, that change no number of a text's
// vector in float32.
var harmless = []string{
	"trust_remote_code", "torch_dtype", "dtype", "attn_implementation", "add_pooling_layer", "device_map", "low_cpu_mem_usage", "use_safetensors",
	"revision", "code_revision", "use_cache", "unpad_inputs", "use_memory_efficient_attention", "use_flash_attn", "padding_side", "use_fast",
	"clean_up_tokenization_spaces",
}

// checkSettings refuses settings of a Transformer module that would change vectors.
func (o *object) checkSettings() {
	for _, key := range []string{"query_length", "document_length", "query_expansion"} {
		o.refusePresent(key)
	}
	for _, key := range []string{"model_args", "model_kwargs", "tokenizer_args", "processor_kwargs", "config_args", "config_kwargs"} {
		inner := o.object(key)
		if inner == nil {
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(inner.values)) {
			if inner.present(name) && !slices.Contains(harmless, name) {
				inner.fail(status.Unsupported, "%s %s is not supported", name, quoteJSON(inner.values[name]))
			}
		}
		o.err = firstOf(o.err, inner.err)
	}
	o.checkProcessing()
}

// checkTask refuses a Transformer module of another task, and one whose output is not the task's own of a text.
func checkTask(fsys fs.FS, task string) error {
	o, err := readSettings(fsys)
	if o == nil || err != nil {
		return err
	}
	o.oneOf("transformer_task", task)
	if name := o.text("module_output_name", "token_embeddings"); name != "token_embeddings" {
		o.fail(status.Unsupported, "module_output_name %s is not supported; supported: token_embeddings", quote(name))
	}
	if modalities := o.object("modality_config"); modalities != nil {
		text := modalities.object("text")
		if text == nil {
			modalities.fail(status.Unsupported, "text is missing: the model does not take plain texts")
		} else {
			text.oneOf("method", "forward")
			text.oneOf("method_output_name", "last_hidden_state", "logits")
			modalities.err = firstOf(modalities.err, text.err)
		}
		o.err = firstOf(o.err, modalities.err)
	}
	return o.err
}

// readMaxLength returns the longest sequence: max_seq_length of sentence-transformers or, where it is not set, the tokenizer's
// model_max_length where it is a sane number (transformers writes 1e30 for "none"); at most table, the positions that the model has (0: any).
// 0: nothing limits it.
func readMaxLength(fsys fs.FS, table int) (limit int, err error) {
	by := Decision{Key: "default: no file limits it"}
	defer func() {
		if err == nil {
			decide(fsys, "max length", limit, by.File, by.Key)
		}
	}()
	settings, err := readSettings(fsys)
	if err != nil {
		return 0, err
	}
	if settings != nil && settings.present("max_seq_length") {
		limit, by = settings.integer("max_seq_length", 0, 1, maxTable), Decision{File: settings.file, Key: "max_seq_length"}
		if settings.err != nil {
			return 0, settings.err
		}
	} else {
		c, err := readObject(fsys, tokenizerConfigFile)
		if err != nil {
			return 0, err
		}
		if c != nil {
			n := c.number("model_max_length", 0, math.Inf(-1), math.Inf(1))
			if c.err != nil {
				return 0, c.err
			}
			if n >= 1 && n <= maxTable {
				limit, by = int(n), Decision{File: c.file, Key: "model_max_length"}
			}
		}
	}
	if table > 0 && (limit == 0 || limit > table) {
		limit, by = table, Decision{File: "config.json", Key: "max_position_embeddings"}
	}
	return limit, nil
}
