package arch

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestHostileConfig(t *testing.T) {
	for _, c := range []struct {
		config, want string
		code         status.Code
	}{
		{``, "config.json: unexpected end of JSON input", status.Start},
		{`null`, "config.json holds null", status.Start},
		{`[]`, "config.json: json: cannot unmarshal array", status.Start},
		{strings.Repeat(`{"a":`, 20000), "exceeded max depth", status.Start},
		{`{}`, `model_type "" is not supported; supported: bert`, status.Unsupported},
		{`{"model_type": "t5"}`, `model_type "t5" is not supported; supported: bert`, status.Unsupported},
		{`{"model_type": 5}`, "model_type is 5; it must be a string", status.Start},
		{`{"model_type": "` + strings.Repeat("x", 5000) + `"}`, `... (5000 bytes) is not supported`, status.Unsupported},
		{config(`"architectures": "BertModel"`), `architectures is "BertModel"; it must be a list of strings`, status.Start},
		{config(`"architectures": ["RoBertModel"]`), `architecture "RoBertModel" of model_type bert is not supported; supported: BertForMaskedLM,`, status.Unsupported},
		{config(`"quantization_config": {"bits": 4}`), "quantization_config", status.Unsupported},
		{config(`"hidden_size": -8`), "hidden_size is -8; it must be 1 to 65536", status.Start},
		{config(`"hidden_size": 0`), "hidden_size is 0; it must be 1 to 65536", status.Start},
		{config(`"hidden_size": 1000000000`), "hidden_size is 1000000000; it must be 1 to 65536", status.Start},
		{config(`"hidden_size": 1e400`), "hidden_size is 1e400; it must be 1 to 65536", status.Start},
		{config(`"hidden_size": 8.5`), "hidden_size is 8.5; it must be a whole number", status.Start},
		{config(`"hidden_size": "8"`), `hidden_size is "8"; it must be a number`, status.Start},
		{config(`"hidden_size": ""`), `hidden_size is ""; it must be a number`, status.Start},
		{config(`"hidden_size": [8]`), "hidden_size is [8]; it must be a number", status.Start},
		{config(`"hidden_size": [` + strings.Repeat("8,", 500) + `8]`), "... (1003 bytes); it must be a number", status.Start},
		{config(`"vocab_size": 100000000000`), "vocab_size is 100000000000; it must be 1 to 16777216", status.Start},
		{config(`"max_position_embeddings": 0`), "max_position_embeddings is 0", status.Start},
		{config(`"type_vocab_size": 65537`), "type_vocab_size is 65537; it must be 1 to 65536", status.Start},
		{config(`"num_hidden_layers": 1025`), "num_hidden_layers is 1025; it must be 1 to 1024", status.Start},
		{config(`"num_attention_heads": 3`), "hidden_size 8 is no multiple of num_attention_heads 3", status.Start},
		{config(`"num_attention_heads": 0`), "num_attention_heads is 0", status.Start},
		{config(`"intermediate_size": true`), "intermediate_size is true; it must be a number", status.Start},
		{config(`"layer_norm_eps": -1e-12`), "layer_norm_eps is -1e-12; it must be 0 to 1", status.Start},
		{config(`"hidden_act": "mish"`), `hidden_act "mish" is not supported; supported: gelu,`, status.Unsupported},
		{config(`"hidden_act": 1`), "hidden_act is 1; it must be a string", status.Start},
		{config(`"position_embedding_type": "relative_key"`), `position_embedding_type "relative_key" is not supported for bert`, status.Unsupported},
		{config(`"is_decoder": true`), "is_decoder true is not supported for bert: it must be an encoder", status.Unsupported},
		{config(`"is_decoder": 1`), "is_decoder is 1; it must be true or false", status.Start},
		{config(`"add_cross_attention": true`), "add_cross_attention true is not supported for bert: it must be an encoder", status.Unsupported},
		{config(`"hidden_size": 16`), `tensor "embeddings.word_embeddings.weight" has shape [30 8]; by config.json it must have [30 16]`, status.Start},
		{config(`"num_hidden_layers": 3`), `the weights have no tensor "encoder.layer.2.attention.self.query.weight" of shape [8 8]`, status.WeightsNotFound},
		{config(`"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "2": "b"}`), `id2label has 2 labels but no key "1"; its keys must be 0 to 1`, status.Start},
		{config(`"architectures": ["BertForSequenceClassification"], "id2label": {"0": null}`), `id2label["0"] is null; it must be a string`, status.Start},
		{config(`"architectures": ["BertForSequenceClassification"], "id2label": ["a"]`), `id2label is ["a"]; it must be an object of strings`, status.Start},
		{config(`"architectures": ["BertForSequenceClassification"], "num_labels": 1e9`), "num_labels is 1e9; it must be 1 to 1048576", status.Start},
		{config(`"architectures": ["BertForTokenClassification"], "num_labels": 4`), `tensor "classifier.weight" has shape [3 8]`, status.Start},
	} {
		t.Run(c.want, func(t *testing.T) {
			_, err := read(files("config.json", c.config), tiny, Options{})
			requireCode(t, c.code, err, c.want)
			require.Less(t, len(err.Error()), 1000)
		})
	}
}

func TestHostileModules(t *testing.T) {
	pooled := pipeline("Transformer", "Pooling:p")
	dense := pipeline("Transformer", "Pooling:p", "Dense:2_Dense")
	masked := config(`"architectures": ["BertForMaskedLM"]`)
	normed := pipeline("Transformer", "Pooling:p", "LayerNorm:l")
	splade := pipeline("Transformer", "SpladePooling:s")
	for _, c := range []struct {
		files []string
		want  string
		code  status.Code
	}{
		{[]string{"modules.json", `{}`}, "modules.json: json: cannot unmarshal object", status.Start},
		{[]string{"modules.json", `[]`}, "modules.json lists 0 modules; it must list 1 to 64", status.Start},
		{[]string{"modules.json", `[` + strings.Repeat(`{},`, 99) + `{}]`}, "modules.json lists 100 modules", status.Start},
		{[]string{"modules.json", pipeline("Pooling:p")}, "the first module is Pooling; it must be Transformer", status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer:0_Transformer")}, `the Transformer lies in "0_Transformer"`, status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "LSTM:l")}, `type "sentence_transformers.models.LSTM" of module 1 is not supported`, status.Unsupported},
		{[]string{"modules.json", `[{"type": "custom_st.Transformer", "path": ""}]`}, `type "custom_st.Transformer" of module 0 is not supported`, status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:../p")}, `path "../p" of module 1 leaves the folder`, status.Start},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:/etc")}, `path "/etc" of module 1 leaves the folder`, status.Start},
		{[]string{"modules.json", pipeline("Transformer", `Pooling:a\\..\\b`)}, `of module 1 leaves the folder`, status.Start},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:.")}, `of module 1 leaves the folder`, status.Start},
		{[]string{"modules.json", pipeline("Transformer")}, "has no Pooling module", status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Dense:2_Dense", "Pooling:p")}, "Dense as module 1 is not supported", status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Normalize:n", "Pooling:p")}, "Normalize as module 1 is not supported", status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:p", "Pooling:p"), "p/config.json", `{}`}, "Pooling as module 2 is not supported", status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:p", "Normalize:n", "Dense:2_Dense"), "p/config.json", `{}`}, "Dense as module 3 is not supported", status.Unsupported},
		{[]string{"modules.json", pooled}, "p/config.json is missing", status.Start},
		{[]string{"modules.json", pipeline("Transformer", "Pooling")}, "config.json is missing", status.Start},
		{[]string{"modules.json", pooled, "p/config.json", `x`}, "p/config.json: invalid character", status.Start},
		{[]string{"modules.json", pooled, "p/config.json", `{"word_embedding_dimension": 9}`}, "word_embedding_dimension is 9, but the transformer's hidden_size is 8", status.Start},
		{[]string{"modules.json", pooled, "p/config.json", `{"pooling_mode": "attention"}`}, `pooling_mode "attention" is not supported; supported: cls,`, status.Unsupported},
		{[]string{"modules.json", pooled, "p/config.json", `{"pooling_mode": []}`}, "pooling_mode is an empty list", status.Start},
		{[]string{"modules.json", pooled, "p/config.json", `{"pooling_mode": 3}`}, "pooling_mode is 3; it must be a string or a list of strings", status.Start},
		{[]string{"modules.json", pooled, "p/config.json", `{"pooling_mode": ["cls","cls","cls","cls","cls","cls","cls"]}`}, "pooling_mode has 7 modes; the limit is 6", status.Start},
		{[]string{"modules.json", pooled, "p/config.json", `{"pooling_mode_attention": true}`}, `"pooling_mode_attention" is not supported`, status.Unsupported},
		{[]string{"modules.json", pooled, "p/config.json", `{"pooling_mode_cls_token": "yes"}`}, `pooling_mode_cls_token is "yes"; it must be true or false`, status.Start},
		{[]string{"modules.json", dense, "p/config.json", `{}`}, "2_Dense/config.json is missing", status.Start},
		{[]string{"modules.json", dense, "p/config.json", `{}`, "2_Dense/config.json", `[`}, "2_Dense/config.json: unexpected end", status.Start},
		{[]string{"modules.json", dense, "p/config.json", `{}`, "2_Dense/config.json", `{"in_features": 8}`}, "2_Dense/config.json: out_features is missing", status.Start},
		{[]string{"modules.json", dense, "p/config.json", `{}`, "2_Dense/config.json", `{"in_features": 0, "out_features": 5}`}, "in_features is 0", status.Start},
		{[]string{"modules.json", dense, "p/config.json", `{}`, "2_Dense/config.json", `{"in_features": 8, "out_features": 6}`},
			`tensor "2_Dense/linear.weight" has shape [5 8]; by config.json it must have [6 8]`, status.Start},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:p", "Dense:d"), "p/config.json", `{}`, "d/config.json", `{"in_features": 8, "out_features": 6}`},
			`no tensor "d/linear.weight"`, status.WeightsNotFound},
		{[]string{"modules.json", dense, "p/config.json", `{"pooling_mode": ["cls", "mean"]}`, "2_Dense/config.json", `{"in_features": 8, "out_features": 5}`},
			"Dense module 1 (2_Dense/linear.weight) takes 8 columns, but gets 16", status.Start},
		{[]string{"modules.json", dense, "p/config.json", `{}`, "2_Dense/config.json", `{"in_features": 8, "out_features": 5, "activation_function": "torch.nn.modules.activation.Mish"}`},
			`activation_function "torch.nn.modules.activation.Mish" is not supported; supported of torch.nn: GELU,`, status.Unsupported},
		{[]string{"modules.json", dense, "p/config.json", `{}`, "2_Dense/config.json", `{"in_features": 8, "out_features": 5, "activation_function": "os.Tanh"}`},
			`activation_function "os.Tanh" is not supported`, status.Unsupported},
		{[]string{"modules.json", dense, "p/config.json", `{}`, "2_Dense/config.json", `{"in_features": 8, "out_features": 5, "use_residual": true}`}, "use_residual true", status.Unsupported},
		{[]string{"modules.json", dense, "p/config.json", `{}`, "2_Dense/config.json", `{"in_features": 8, "out_features": 5, "module_output_name": "x"}`}, `module_output_name "x"`, status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:p", "Normalize:n"), "p/config.json", `{}`, "n/config.json", `{"module_input_name": "token_embeddings"}`},
			`module_input_name "token_embeddings" is not supported`, status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:p", "Normalize:n", "LayerNorm:l"), "p/config.json", `{}`}, "LayerNorm as module 3 is not supported", status.Unsupported},
		{[]string{"modules.json", pipeline("Transformer", "Pooling:p", "LayerNorm"), "p/config.json", `{}`}, "config.json is missing", status.Start},
		{[]string{"modules.json", normed, "p/config.json", `{}`, "l/config.json", `{}`}, "l/config.json: dimension is missing", status.Start},
		{[]string{"modules.json", normed, "p/config.json", `{}`, "l/config.json", `{"dimension": 0}`}, "dimension is 0; it must be 1 to 1048576", status.Start},
		{[]string{"modules.json", normed, "p/config.json", `{}`, "l/config.json", `{"dimension": 8}`}, `no tensor "l/norm.weight" of shape [8]`, status.WeightsNotFound},
		{[]string{"modules.json", splade}, "splade pooling needs a masked-LM head", status.Unsupported},
		{[]string{"config.json", masked, "modules.json", splade, "s/config.json", `{"pooling_strategy": "sum"}`}, `pooling_strategy "sum" is not supported`, status.Unsupported},
		{[]string{"config.json", masked, "modules.json", splade, "s/config.json", `{"activation_function": "log1p_relu"}`}, `activation_function "log1p_relu"`, status.Unsupported},
		{[]string{"config.json", masked, "modules.json", splade, "s/config.json", `{"embedding_dimension": 31}`}, "embedding_dimension is 31, but vocab_size is 30", status.Start},
		{[]string{"config.json", masked, "modules.json", pipeline("Transformer", "SpladePooling:s", "Normalize:n")}, "Normalize as module 2", status.Unsupported},
		{[]string{"config.json", config(`"architectures": ["BertForTokenClassification"]`), "modules.json", pipeline("Transformer", "Normalize:n")}, "Normalize as module 1", status.Unsupported},
		{[]string{"sentence_bert_config.json", `{"max_seq_length": 0}`}, "sentence_bert_config.json: max_seq_length is 0; it must be 1 to 16777216", status.Start},
		{[]string{"sentence_bert_config.json", `{"do_lower_case": "no"}`}, `do_lower_case is "no"; it must be true or false`, status.Start},
		{[]string{"sentence_albert_config.json", `{`}, "sentence_albert_config.json: unexpected end", status.Start},
		{[]string{"tokenizer_config.json", `{"model_max_length": "512"}`}, `tokenizer_config.json: model_max_length is "512"; it must be a number`, status.Start},
		{[]string{"tokenizer_config.json", `{`}, "tokenizer_config.json: unexpected end", status.Start},
		{[]string{"config_sentence_transformers.json", `{"prompts": ["a"]}`}, `prompts is ["a"]; it must be an object of strings`, status.Start},
		{[]string{"config_sentence_transformers.json", `{"prompts": {"a": "b"}, "default_prompt_name": "c"}`}, `default_prompt_name "c" is not a key of prompts`, status.Start},
		{[]string{"config_sentence_transformers.json", `{`}, "config_sentence_transformers.json: unexpected end", status.Start},
		{[]string{"config_sentence_transformers.json", `{"truncate_dim": 4}`}, "config_sentence_transformers.json: truncate_dim 4 is not supported; supported: null", status.Unsupported},
		{[]string{"config_sentence_transformers.json", `{"max_active_dims": 4}`}, "max_active_dims 4 is not supported", status.Unsupported},
		{[]string{"modules.json", pooled, "p/config.json", `{"pooling_mode": ["mean", "cls"], "include_prompt": false}`},
			"p/config.json: include_prompt false is not supported with pooling cls", status.Unsupported},
		{[]string{"sentence_bert_config.json", `{"query_length": 32}`}, "sentence_bert_config.json: query_length 32 is not supported", status.Unsupported},
		{[]string{"sentence_bert_config.json", `{"query_expansion": {}}`}, "query_expansion {} is not supported", status.Unsupported},
		{[]string{"sentence_roberta_config.json", `{"tokenizer_args": {"truncation_side": "left"}}`},
			`sentence_roberta_config.json: tokenizer_args: truncation_side "left" is not supported`, status.Unsupported},
		{[]string{"sentence_bert_config.json", `{"model_args": {"torch_dtype": "bfloat16", "num_hidden_layers": 3}}`}, `model_args: num_hidden_layers 3 is not supported`, status.Unsupported},
		{[]string{"sentence_bert_config.json", `{"config_kwargs": {"rope_scaling": {"type": "yarn"}}}`}, `config_kwargs: rope_scaling {"type": "yarn"} is not supported`, status.Unsupported},
		{[]string{"sentence_bert_config.json", `{"processing_kwargs": {"text": {"max_length": 5}}}`}, `"max_length" 5 is not supported`, status.Unsupported},
		{[]string{"modules.json", pooled, "p/config.json", `{}`, "sentence_bert_config.json", `{"transformer_task": "fill-mask"}`},
			`transformer_task "fill-mask" is not supported; supported: feature-extraction`, status.Unsupported},
		{[]string{"modules.json", pooled, "p/config.json", `{}`, "sentence_bert_config.json", `{"module_output_name": "sentence_embedding"}`}, `module_output_name "sentence_embedding"`, status.Unsupported},
		{[]string{"modules.json", pooled, "p/config.json", `{}`, "sentence_bert_config.json", `{"modality_config": {"message": {}}}`}, `modality_config: text is missing`, status.Unsupported},
		{[]string{"modules.json", pooled, "p/config.json", `{}`, "sentence_bert_config.json", `{"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}}`},
			`modality_config: text: method_output_name "pooler_output" is not supported`, status.Unsupported},
		{[]string{"config.json", masked, "modules.json", splade, "sentence_bert_config.json", `{"transformer_task": "feature-extraction"}`}, `supported: fill-mask`, status.Unsupported},
		{[]string{"adapter_config.json", `{}`}, "adapter_config.json: adapters (LoRA and others) are not supported; merge it", status.Unsupported},
		{[]string{"config.json", config(`"quantization_config": {"quant_method": "fp4"}`)}, `config.json: quantization_config: quantised weights (quant_method "fp4") are not supported`, status.Unsupported},
		{[]string{"config.json", config(`"compression_config": {"format": "float-quantized"}`)}, `compression_config: quantised weights (quant_method "float-quantized")`, status.Unsupported},
		{[]string{"config.json", config(`"quantization": 5`)}, `quantization: quantised weights (quant_method of no known method)`, status.Unsupported},
	} {
		t.Run(c.want, func(t *testing.T) {
			_, err := read(files(c.files...), tiny, Options{})
			requireCode(t, c.code, err, c.want)
		})
	}
}

func TestHostileOptions(t *testing.T) {
	for _, c := range []struct {
		pooling string
		files   []string
		want    string
		code    status.Code
	}{
		{"average", nil, `pooling "average" is unknown; known: cls, mean,`, status.InvalidArgument},
		{"splade", nil, `splade pooling needs a masked-LM head; architecture "" has none`, status.Unsupported},
		{"mean", []string{"config.json", config(`"architectures": ["BertForSequenceClassification"]`)}, `pooling "mean" is for embedding models`, status.Unsupported},
		{"mean", []string{"config.json", config(`"architectures": ["BertForMaskedLM"]`), "modules.json", pipeline("Transformer", "SpladePooling:s")}, "the model is a sparse one", status.Unsupported},
	} {
		_, err := read(files(c.files...), tiny, Options{Pooling: c.pooling})
		requireCode(t, c.code, err, c.want)
	}
}

// TestShapes removes and bends every weight in turn: none may go unchecked.
func TestShapes(t *testing.T) {
	fsys := files("config.json", config(`"architectures": ["BertForSequenceClassification"], "num_labels": 3`))
	used := tiny.with(nil)
	for name := range used {
		if strings.HasPrefix(name, "cls.") || strings.Contains(name, "_Dense/") {
			delete(used, name)
		}
	}
	_, err := read(fsys, used, Options{})
	require.NoError(t, err)
	for name, shape := range used {
		_, err := read(fsys, used.with(shapes{name: nil}), Options{})
		requireCode(t, status.WeightsNotFound, err, `"`+name+`"`)
		_, err = read(fsys, used.with(shapes{name: append([]int{1}, shape...)}), Options{})
		requireCode(t, status.Start, err, `tensor "`+name+`" has shape [1 `)
	}
}

// nearby is an Index with suggestions, as weights.Set is.
type nearby struct {
	shapes
	names []string
}

func (n nearby) Near(string) []string { return n.names }

func TestNearNames(t *testing.T) {
	_, err := read(files(), nearby{shapes{}, []string{"a", "b"}}, Options{})
	requireCode(t, status.WeightsNotFound, err, `no tensor "embeddings.word_embeddings.weight" of shape [30 8]; near: "a", "b"`)
	_, err = read(files(), nearby{shapes{}, nil}, Options{})
	require.NotContains(t, err.Error(), "near")
}
