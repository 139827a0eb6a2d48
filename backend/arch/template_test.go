package arch

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

const (
	querySlot    = `{{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}`
	documentSlot = `{{ (messages | selectattr('role', 'equalto', 'document') | first).content }}`
	systemSlot   = "{{\nmessages\n| selectattr(\"role\", \"==\", \"system\")\n| map(attribute=\"content\") | first | default('Find it.')}}"
)

// rerankerFiles is a folder of a CrossEncoder; "" takes a file away.
func rerankerFiles(changes ...string) map[string]string {
	all := map[string]string{
		"config.json":              decoderConfig("llama", `"architectures": ["LlamaForCausalLM"]`),
		"modules.json":             pipeline("Transformer", "LogitScore:1_LogitScore"),
		"1_LogitScore/config.json": `{"true_token_id": 7, "false_token_id": 3}`,
		"sentence_bert_config.json": `{"transformer_task": "text-generation", "modality_config": {"text": {}, "message": {"format": "flat"}},
			"processing_kwargs": {"chat_template": {"add_generation_prompt": true}}}`,
		"chat_template.jinja": "<s>" + systemSlot + "\nQ: " + querySlot + "\nD: " + documentSlot + "</s>\n\n",
	}
	for i := 0; i < len(changes); i += 2 {
		if all[changes[i]] = changes[i+1]; changes[i+1] == "" {
			delete(all, changes[i])
		}
	}
	return all
}

func readReranker(opts Options, changes ...string) (*Model, error) {
	var pairs []string
	folder := rerankerFiles(changes...)
	for _, name := range slices.Sorted(maps.Keys(folder)) {
		pairs = append(pairs, name, folder[name])
	}
	return read(files(pairs...), decoderShapes(""), opts)
}

func TestReranker(t *testing.T) {
	m, err := readReranker(Options{})
	require.NoError(t, err)
	linear := Linear{Weight: Tensor{"lm_head.weight", []int{30, 12}}, Score: &TokenScore{7, 3}, In: 12, Out: 1}
	head := Head{Kind: HeadClassifier, Pooling: Pooling{Modes: []PoolMode{PoolLastToken}}, Chain: []Dense{{Linear: linear}}, Labels: []string{"LABEL_0"}}
	require.Equal(t, head, m.Head)
	require.Equal(t, &PairTemplate{
		Parts:       []TemplatePart{{"<s>", SlotInstruction}, {"\nQ: ", SlotQuery}, {"\nD: ", SlotDocument}},
		Suffix:      "</s>\n", // Jinja drops one line end
		Instruction: "Find it.",
	}, m.Text.Template)

	// The raw logit of one token, by the word table, and pairs as the tokenizer joins them.
	m, err = readReranker(Options{}, "1_LogitScore/config.json", `{"true_token_id": 29, "false_token_id": null}`,
		"config.json", decoderConfig("gemma", `"architectures": ["GemmaForCausalLM"]`),
		"sentence_bert_config.json", `{"transformer_task": "text-generation", "modality_config": {"text": {}}}`)
	require.NoError(t, err)
	require.Equal(t, &TokenScore{29, -1}, m.Head.Chain[0].Linear.Score)
	require.Equal(t, "lm_head.weight", m.Head.Chain[0].Linear.Weight.Name) // it is there: transformers ties only what is not
	require.Nil(t, m.Text.Template)

	// A template in tokenizer_config.json counts where the settings say nothing of modalities.
	m, err = readReranker(Options{}, "chat_template.jinja", "", "sentence_bert_config.json", `{"transformer_task": "text-generation"}`,
		"tokenizer_config.json", `{"chat_template": "`+strings.ReplaceAll(querySlot, `"`, `\"`)+documentSlot+`"}`)
	require.NoError(t, err)
	require.Equal(t, []TemplatePart{{"", SlotQuery}, {"", SlotDocument}}, m.Text.Template.Parts)
	m, err = readReranker(Options{}, "chat_template.jinja", "", "sentence_bert_config.json", `{"transformer_task": "text-generation"}`)
	require.NoError(t, err)
	require.Nil(t, m.Text.Template)

	// The caller is stronger than the folder.
	m, err = readReranker(Options{Reranker: &Reranker{Score: TokenScore{1, 2}, Template: Qwen3Reranker}}, "1_LogitScore/config.json", "")
	require.NoError(t, err)
	require.Equal(t, &TokenScore{1, 2}, m.Head.Chain[0].Linear.Score)
	require.Equal(t, Qwen3Reranker, m.Text.Template)
}

// TestTemplateOfClassifiers: sentence-transformers asks a classifier by its template, too. A plain folder's is for chats, but where it has
// both roles.
func TestTemplateOfClassifiers(t *testing.T) {
	config := []string{"config.json", decoderConfig("llama", `"architectures": ["LlamaForSequenceClassification"]`)}
	m, err := readReranker(Options{}, append(config, "modules.json", pipeline("Transformer"),
		"sentence_bert_config.json", `{"transformer_task": "sequence-classification", "modality_config": {"message": {"format": "flat"}}}`)...)
	require.NoError(t, err)
	require.Len(t, m.Text.Template.Parts, 3)
	_, err = readReranker(Options{}, append(config, "modules.json", pipeline("Transformer"), "chat_template.jinja", "{% if x %}",
		"sentence_bert_config.json", "")...)
	requireCode(t, status.Unsupported, err, `chat_template.jinja: the chat template has "{%"`)
	_, err = readReranker(Options{}, append(config, "modules.json", pipeline("Transformer"))...)
	requireCode(t, status.Start, err, `transformer_task is "text-generation"; the model and its modules need "sequence-classification"`)

	m, err = readReranker(Options{}, append(config, "modules.json", "")...)
	require.NoError(t, err)
	require.Len(t, m.Text.Template.Parts, 3)
	m, err = readReranker(Options{}, append(config, "modules.json", "", "chat_template.jinja", `{% for m in messages if m["role"] == "user" %}`)...)
	require.NoError(t, err)
	require.Nil(t, m.Text.Template)
	_, err = readReranker(Options{}, append(config, "modules.json", "", "chat_template.jinja", `{% if "query" != "document" %}`)...)
	requireCode(t, status.Unsupported, err, `the chat template has "{%"`)
}

func TestVocabularyOfReranker(t *testing.T) {
	for _, c := range []struct{ family, class, config, want string }{
		{"gemma", "Gemma", ``, "embed_tokens.weight"},
		{"gemma3_text", "Gemma3", ``, "embed_tokens.weight"},
		{"gemma2", "Gemma2", `, "final_logit_softcapping": null`, "embed_tokens.weight"},
		{"llama", "Llama", `, "tie_word_embeddings": true`, "embed_tokens.weight"},
		{"llama", "Llama", ``, ""},
	} {
		config := decoderConfig(c.family, `"architectures": ["`+c.class+`ForCausalLM"]`+c.config)
		m, err := read(files("config.json", config), decoderShapes("").with(shapes{"lm_head.weight": nil}), Options{Reranker: &Reranker{Score: TokenScore{1, 2}}})
		if c.want == "" {
			requireCode(t, status.WeightsNotFound, err, `"lm_head.weight"`)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, m.Head.Chain[0].Linear.Weight.Name)
	}
}

func TestHostileRerankers(t *testing.T) {
	template := func(text string) []string { return []string{"chat_template.jinja", text} }
	settings := func(text string) []string { return []string{"sentence_bert_config.json", text} }
	score := func(text string) []string { return []string{"1_LogitScore/config.json", text} }
	for _, c := range []struct {
		changes []string
		want    string
		code    status.Code
	}{
		{[]string{"config.json", decoderConfig("llama", `"architectures": ["LlamaModel"]`)}, `needs a causal language model; architecture "LlamaModel" is none`, status.Unsupported},
		{[]string{"config.json", decoderConfig("gemma2", `"architectures": ["Gemma2ForCausalLM"]`)}, "final_logit_softcapping is not supported for a reranker; supported: null", status.Unsupported},
		{[]string{"config.json", decoderConfig("gemma3_text", `"architectures": ["Gemma3ForCausalLM"], "final_logit_softcapping": 30`)}, "final_logit_softcapping is not supported", status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:p", "LogitScore:1_LogitScore")}, "Pooling as module 1 is not supported", status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "LogitScore:1_LogitScore", "Normalize:n")}, "Normalize as module 2 is not supported", status.Unsupported},
		{score(""), "1_LogitScore/config.json is missing", status.Start},
		{score(`{}`), "1_LogitScore/config.json: true_token_id is missing", status.Start},
		{score(`{"true_token_id": -1}`), "true_token_id is -1; it must be 0 to 16777216", status.Start},
		{score(`{"true_token_id": 30}`), `weight "lm_head.weight" has 30 rows; the score takes rows 30 and -1`, status.Start},
		{score(`{"true_token_id": 1, "false_token_id": 30}`), "the score takes rows 1 and 30", status.Start},
		{score(`{"true_token_id": 1, "module_input_name": "logits"}`), `module_input_name "logits" is not supported`, status.Unsupported},
		{settings(""), `transformer_task is "feature-extraction"; the model and its modules need "text-generation"`, status.Start},
		{settings(`{"transformer_task": "text-generation", "modality_config": {"message": {"format": "structured"}}}`), `modality_config: message: format "structured" is not supported; supported: flat`, status.Unsupported},
		{settings(`{"transformer_task": "text-generation", "processing_kwargs": {"text": {"max_length": 9}}}`), `processing_kwargs: text: "max_length" 9 is not supported`, status.Unsupported},
		{settings(`{"transformer_task": "text-generation", "processing_kwargs": {"text": 9}}`), `processing_kwargs: text is 9; it must be an object`, status.Start},
		{template(""), `modality_config has "message", but there is no chat template`, status.Start},
		{template("{% for m in messages %}"), `chat_template.jinja: the chat template has "{%"; supported: literal text, and`, status.Unsupported},
		{template(querySlot + "{{ bos_token }}" + documentSlot), `the chat template has {{" bos_token "}}`, status.Unsupported},
		{template(querySlot + "{{ messages"), `the chat template has {{" messages"}}`, status.Unsupported},
		{template(querySlot + querySlot), `the chat template has the role "query", or has it twice`, status.Unsupported},
		{template(strings.Replace(querySlot, "query", "user", 1)), `the chat template has the role "user"`, status.Unsupported},
		{template(querySlot), "the chat template does not hold both query and document", status.Unsupported},
		{template("a\r\n" + querySlot + documentSlot), "the chat template has a carriage return", status.Unsupported},
		{[]string{"chat_template.jinja", "", "tokenizer_config.json", `{"chat_template": [{"name": "default", "template": "x"}]}`}, "tokenizer_config.json: chat_template is [", status.Start},
	} {
		t.Run(c.want, func(t *testing.T) {
			_, err := readReranker(Options{}, c.changes...)
			requireCode(t, c.code, err, c.want)
			require.Less(t, len(err.Error()), 1000)
		})
	}
	_, err := readReranker(Options{Pooling: "mean"})
	requireCode(t, status.Unsupported, err, `pooling "mean" is for embedding models; this one is a reranker`)
}

// FuzzTemplate: what is read of a chat template holds what it was made of.
func FuzzTemplate(f *testing.F) {
	f.Add(rerankerFiles()["chat_template.jinja"])
	f.Add(querySlot + documentSlot)
	f.Add("{{ messages }}" + documentSlot)
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parseTemplate("chat_template.jinja", text)
		if err != nil {
			require.Nil(t, p)
			return
		}
		require.LessOrEqual(t, len(p.Parts), len(slots))
		for _, part := range p.Parts {
			require.Contains(t, text, part.Text)
			require.NotContains(t, part.Text, "{{")
		}
		require.Contains(t, text, p.Suffix)
	})
}
