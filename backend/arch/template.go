package arch

import (
	"io/fs"
	"regexp"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// PairTemplate is how a language model is asked about a pair: of each part its text, then what stands in its slot; then the suffix.
type PairTemplate struct {
	Parts       []TemplatePart
	Suffix      string // what the model answers to: truncation leaves it
	Instruction string // what stands in SlotInstruction where a call names no prompt
}

// TemplatePart is literal text before a slot.
type TemplatePart struct {
	Text string
	Slot Slot
}

// Slot is what a template is filled with.
type Slot int

// The slots of a PairTemplate.
const (
	SlotInstruction Slot = iota
	SlotQuery
	SlotDocument
)

// slots by the role of a message in sentence-transformers' CrossEncoder.
var slots = map[string]Slot{"system": SlotInstruction, "query": SlotQuery, "document": SlotDocument}

// Qwen3Reranker is the template of the model cards of Qwen3-Reranker (https://huggingface.co/Qwen/Qwen3-Reranker-0.6B).
var Qwen3Reranker = &PairTemplate{
	Parts: []TemplatePart{
		{"<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. " +
			"Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n<Instruct>: ", SlotInstruction},
		{"\n<Query>: ", SlotQuery},
		{"\n<Document>: ", SlotDocument},
	},
	Suffix:      "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
	Instruction: "Given a web search query, retrieve relevant passages that answer the query",
}

// templateSlot is the one expression of Jinja that is read here: the content of the first message with a role, as rerankers for
// sentence-transformers have it, for plain contents. Groups 1 and 2 have the role, 3 a default in quotes.
var templateSlot = regexp.MustCompile(`^\s*(?:` +
	messagesWith(`\w+`) + `\|\s*map\(\s*attribute\s*=\s*["']content["']\s*\)\s*\|\s*first|` +
	`\(\s*` + messagesWith(`query|document`) + `\|\s*first\s*\)\s*\.\s*content)` +
	`(?:\s*\|\s*default\(\s*("[^"\\]*"|'[^'\\]*')\s*\))?\s*$`)

func messagesWith(role string) string {
	return `messages\s*\|\s*selectattr\(\s*["']role["']\s*,\s*["'](?:eq|equalto|==)["']\s*,\s*["'](` + role + `)["']\s*\)\s*`
}

const templateExample = `messages | selectattr("role", "eq", "query") | map(attribute="content") | first`

// parseTemplate reads a chat template of literal text and such expressions. file is for messages.
func parseTemplate(file, text string) (*PairTemplate, error) {
	fail := func(format string, args ...any) (*PairTemplate, error) {
		o := &object{file: file}
		o.fail(status.Unsupported, format, args...)
		return nil, o.err
	}
	if strings.ContainsAny(text, "\r\x00") {
		return fail("the chat template has a carriage return or a NUL")
	}
	for _, tag := range []string{"{%", "{#", "{{-", "-}}", "{{+"} {
		if strings.Contains(text, tag) {
			return fail("the chat template has %q; supported: literal text, and {{ "+templateExample+" }} for query, document and system", tag)
		}
	}
	t := &PairTemplate{}
	rest, seen := strings.TrimSuffix(text, "\n"), map[Slot]bool{} // Jinja drops one at the end
	for {
		literal, after, more := strings.Cut(rest, "{{")
		if !more {
			t.Suffix = literal
			break
		}
		expression, next, closed := strings.Cut(after, "}}")
		match := templateSlot.FindStringSubmatch(expression)
		if !closed || match == nil {
			return fail("the chat template has {{%s}}; supported: "+templateExample+", for query, document and system", quote(expression))
		}
		slot, known := slots[match[1]+match[2]]
		if !known || seen[slot] {
			return fail("the chat template has the role %s, or has it twice; supported: query, document and system, each once",
				quote(match[1]+match[2]))
		}
		if match[3] != "" && slot == SlotInstruction {
			t.Instruction = match[3][1 : len(match[3])-1]
		}
		seen[slot] = true
		t.Parts = append(t.Parts, TemplatePart{literal, slot})
		rest = next
	}
	if !seen[SlotQuery] || !seen[SlotDocument] {
		return fail("the chat template does not hold both query and document")
	}
	return t, nil
}

// The tasks of sentence-transformers' Transformer module in a CrossEncoder.
const (
	taskGeneration     = "text-generation"
	taskClassification = "sequence-classification"
)

// readTemplate reads how the CrossEncoder of modules.json makes one text of a pair: by its chat template where its settings have the
// modality "message" or, without modality_config, where there is one. nil: it gives the tokenizer the pair. missing is what
// transformer_task means where it is not there.
func readTemplate(fsys fs.FS, task, missing string) (*PairTemplate, error) {
	settings, err := readSettings(fsys)
	if err != nil {
		return nil, err
	}
	if settings == nil {
		settings = &object{file: limitFiles[0]}
	}
	if found := settings.text("transformer_task", missing); found != task {
		settings.fail(status.Start, "transformer_task is %s; the model and its modules need %q", quote(found), task)
	}
	modalities := settings.object("modality_config")
	if settings.err != nil {
		return nil, settings.err
	}
	if modalities != nil {
		message := modalities.object("message")
		if message == nil {
			return nil, modalities.err
		}
		if format := message.text("format", "auto"); format != "flat" && format != "auto" {
			message.fail(status.Unsupported, "format %s is not supported; supported: flat", quote(format))
		}
		if message.err != nil {
			return nil, message.err
		}
	}
	file, text, err := readChatTemplate(fsys)
	if err != nil {
		return nil, err
	}
	if text == "" {
		if modalities != nil {
			settings.fail(status.Start, "modality_config has \"message\", but there is no chat template")
		}
		return nil, settings.err
	}
	return decidedTemplate(fsys, file, text)
}

// decidedTemplate is parseTemplate that notes where the template comes from.
func decidedTemplate(fsys fs.FS, file, text string) (*PairTemplate, error) {
	t, err := parseTemplate(file, text)
	if err == nil {
		decide(fsys, "pairs", "by a template", file, "chat_template")
	}
	return t, err
}

// readPlainTemplate is for a folder without modules.json: transformers gives the tokenizer the pair, and chat templates are for chats;
// but one that places a query and a document is how the model is asked.
func readPlainTemplate(fsys fs.FS) (*PairTemplate, error) {
	file, text, err := readChatTemplate(fsys)
	if err != nil || !pairRoles.MatchString(text) {
		return nil, err
	}
	return decidedTemplate(fsys, file, text)
}

var pairRoles = regexp.MustCompile(`(?s)["']query["'].*["']document["']|["']document["'].*["']query["']`)

// checkProcessing refuses processing_kwargs that would change the tokens. add_generation_prompt is for templates that ask for it.
func (o *object) checkProcessing() {
	kwargs := o.object("processing_kwargs")
	if kwargs == nil {
		return
	}
	for name := range kwargs.values {
		if inner := kwargs.object(name); inner != nil {
			for key, raw := range inner.values {
				if name != "chat_template" || key != "add_generation_prompt" {
					inner.fail(status.Unsupported, "%s %s is not supported; supported: chat_template.add_generation_prompt",
						quote(key), quoteJSON(raw))
				}
			}
			kwargs.err = firstOf(kwargs.err, inner.err)
		}
	}
	o.err = firstOf(o.err, kwargs.err)
}

// readChatTemplate returns chat_template.jinja, else chat_template of tokenizer_config.json, with the name of its file; "": there is none.
func readChatTemplate(fsys fs.FS) (file, text string, err error) {
	const own, other = "chat_template.jinja", tokenizerConfigFile
	raw, err := readFile(fsys, own)
	if raw != nil || err != nil {
		return own, string(raw), err
	}
	c, err := readObject(fsys, other)
	if c == nil || err != nil {
		return other, "", err
	}
	text = c.text("chat_template", "")
	return other, text, c.err
}
