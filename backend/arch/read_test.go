package arch

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// shapes is an Index of a map.
type shapes map[string][]int

func (s shapes) Shape(name string) ([]int, bool) {
	shape, ok := s[name]
	return shape, ok
}

// with returns a copy with more tensors, or with fewer: nil removes.
func (s shapes) with(more shapes) shapes {
	all := maps.Clone(s)
	for name, shape := range more {
		if all[name] = shape; shape == nil {
			delete(all, name)
		}
	}
	return all
}

func (s shapes) linear(name string, in, out int) {
	s[name+".weight"], s[name+".bias"] = []int{out, in}, []int{out}
}

func (s shapes) norm(name, weight, bias string) {
	s[name+"."+weight], s[name+"."+bias] = []int{8}, []int{8}
}

// tinyConfig has every size different, so that no two can be confused.
const tinyConfig = `{"model_type": "bert", "hidden_size": 8, "vocab_size": 30, "max_position_embeddings": 20, "type_vocab_size": 3,
	"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 12`

// tinyShapes are the weights of tinyConfig, with all heads.
func tinyShapes(prefix, weight, bias string) shapes {
	s := shapes{
		prefix + "embeddings.word_embeddings.weight":       {30, 8},
		prefix + "embeddings.position_embeddings.weight":   {20, 8},
		prefix + "embeddings.token_type_embeddings.weight": {3, 8},
	}
	s.norm(prefix+"embeddings.LayerNorm", weight, bias)
	for i := range 2 {
		l := fmt.Sprintf("%sencoder.layer.%d.", prefix, i)
		for _, name := range []string{"attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"} {
			s.linear(l+name, 8, 8)
		}
		s.linear(l+"intermediate.dense", 8, 12)
		s.linear(l+"output.dense", 12, 8)
		s.norm(l+"attention.output.LayerNorm", weight, bias)
		s.norm(l+"output.LayerNorm", weight, bias)
	}
	s.linear(prefix+"pooler.dense", 8, 8)
	s.linear("classifier", 8, 3)
	s.linear("cls.predictions.transform.dense", 8, 8)
	s.norm("cls.predictions.transform.LayerNorm", weight, bias)
	s["cls.predictions.bias"] = []int{30}
	s["2_Dense/linear.weight"], s["2_Dense/linear.bias"] = []int{5, 8}, []int{5}
	s["3_Dense/linear.weight"] = []int{4, 5}
	return s
}

var tiny = tinyShapes("", "weight", "bias")

// config is tinyConfig with more keys.
func config(more string) string {
	if more != "" {
		more = ", " + more
	}
	return tinyConfig + more + "}"
}

// files makes a folder of the tiny model from names and contents.
func files(pairs ...string) fstest.MapFS {
	fsys := fstest.MapFS{"config.json": {Data: []byte(config(""))}}
	for i := 0; i < len(pairs); i += 2 {
		fsys[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1])}
	}
	return fsys
}

// pipeline makes modules.json of "Class" or "Class:folder".
func pipeline(modules ...string) string {
	var list []string
	for _, m := range modules {
		class, folder, _ := strings.Cut(m, ":")
		list = append(list, fmt.Sprintf(`{"type": "sentence_transformers.models.%s", "path": "%s"}`, class, folder))
	}
	return "[" + strings.Join(list, ",") + "]"
}

func requireCode(t *testing.T, want status.Code, err error, text string) {
	t.Helper()
	require.ErrorContains(t, err, text)
	require.Equal(t, want, status.Of(err, status.Start).Code, "%v", err)
}

func TestBERT(t *testing.T) {
	m, err := read(files("config.json", config(`"architectures": ["BertModel"], "hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "unknown": [1]`)), tiny, Options{})
	require.NoError(t, err)
	tensor := func(name string) Tensor { return Tensor{name, tiny[name]} }
	linear := func(name string, in, out int) Linear {
		return Linear{Weight: tensor(name + ".weight"), Bias: tensor(name + ".bias"), In: in, Out: out}
	}
	norm := func(name string) *Norm {
		return &Norm{Weight: tensor(name + ".weight"), Bias: tensor(name + ".bias"), Eps: 1e-5}
	}
	layer := func(l string) Layer {
		return Layer{
			Attention: Attention{
				Heads: 4, KVHeads: 4, HeadDim: 2, Scale: 0.70710677,
				QKV:        []Linear{linear(l+"attention.self.query", 8, 8), linear(l+"attention.self.key", 8, 8), linear(l+"attention.self.value", 8, 8)},
				Out:        linear(l+"attention.output.dense", 8, 8),
				WindowLeft: -1, WindowRight: -1,
			},
			AttentionNorms: BlockNorms{Residual: norm(l + "attention.output.LayerNorm")},
			MLP:            MLP{Activation: GELUTanh, Up: linear(l+"intermediate.dense", 8, 12), Down: linear(l+"output.dense", 12, 8), Intermediate: 12},
			MLPNorms:       BlockNorms{Residual: norm(l + "output.LayerNorm")},
		}
	}
	require.Equal(t, &Model{
		Family: "bert", Architecture: "BertModel", HiddenSize: 8, VocabSize: 30, MaxPositions: 20, MaxLength: 20,
		Embeddings: Embeddings{
			Word: tensor("embeddings.word_embeddings.weight"), Position: tensor("embeddings.position_embeddings.weight"),
			Type: tensor("embeddings.token_type_embeddings.weight"), TypeVocabSize: 3, Scale: 1, Norm: norm("embeddings.LayerNorm"),
		},
		Layers: []Layer{layer("encoder.layer.0."), layer("encoder.layer.1.")},
		Head:   Head{Kind: HeadEmbedding, Pooling: Pooling{Modes: []PoolMode{PoolMean}}},
	}, m)
	require.False(t, m.Layers[0].MLP.Gated())
	require.False(t, m.Layers[0].MLP.Up.Bias.Absent())
	require.True(t, m.Layers[0].MLP.Gate.Weight.Absent())
}

func TestBERTNames(t *testing.T) {
	m, err := read(files(), tinyShapes("bert.", "gamma", "beta"), Options{})
	require.NoError(t, err)
	require.Equal(t, "bert.embeddings.LayerNorm.gamma", m.Embeddings.Norm.Weight.Name)
	require.Equal(t, "bert.encoder.layer.1.output.LayerNorm.beta", m.Layers[1].MLPNorms.Residual.Bias.Name)
}

func TestActivations(t *testing.T) {
	for name, want := range map[string]Activation{
		"gelu": GELU, "gelu_python": GELU, "gelu_new": GELUTanh, "gelu_fast": GELUTanh, "gelu_pytorch_tanh": GELUTanh, "quick_gelu": QuickGELU,
		"relu": ReLU, "silu": SiLU, "swish": SiLU, "tanh": Tanh, "linear": Identity,
	} {
		m, err := read(files("config.json", config(`"hidden_act": "`+name+`"`)), tiny, Options{})
		require.NoError(t, err)
		require.Equal(t, want, m.Layers[1].MLP.Activation, name)
	}
}

func TestHeads(t *testing.T) {
	sequence := config(`"architectures": ["BertForSequenceClassification"], "id2label": {"1": "b", "0": "a", "2": "c"}`)
	m, err := read(files("config.json", sequence), tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, HeadClassifier, m.Head.Kind)
	require.Equal(t, []string{"a", "b", "c"}, m.Head.Labels)
	require.Equal(t, []PoolMode{PoolCLS}, m.Head.Pooling.Modes)
	require.Equal(t, "pooler.dense.weight", m.Head.Chain[0].Linear.Weight.Name)
	require.Equal(t, Tanh, m.Head.Chain[0].Activation)
	require.Equal(t, Tensor{"classifier.weight", []int{3, 8}}, m.Head.Chain[1].Linear.Weight)
	require.Equal(t, Identity, m.Head.Chain[1].Activation)

	m, err = read(files("config.json", config(`"architectures": ["BertForTokenClassification"], "num_labels": 3.0`)), tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, HeadTokenClassifier, m.Head.Kind)
	require.Equal(t, []string{"LABEL_0", "LABEL_1", "LABEL_2"}, m.Head.Labels)
	require.Empty(t, m.Head.Pooling.Modes)
	require.Len(t, m.Head.Chain, 1)

	masked := files("config.json", config(`"architectures": ["BertForMaskedLM"], "hidden_act": "relu"`))
	m, err = read(masked, tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, Head{Kind: HeadEmbedding, Pooling: Pooling{Modes: []PoolMode{PoolMean}}}, m.Head)
	m, err = read(masked, tiny, Options{Pooling: "splade"})
	require.NoError(t, err)
	require.Equal(t, HeadSparse, m.Head.Kind)
	require.Equal(t, ReLU, m.Head.Chain[0].Activation)
	require.Equal(t, "cls.predictions.transform.LayerNorm.weight", m.Head.Chain[0].Norm.Weight.Name)
	require.Equal(t, "embeddings.word_embeddings.weight", m.Head.Chain[1].Linear.Weight.Name)
	require.Equal(t, "cls.predictions.bias", m.Head.Chain[1].Linear.Bias.Name)

	untied := tiny.with(shapes{"cls.predictions.bias": nil, "cls.predictions.decoder.bias": {30}, "cls.predictions.decoder.weight": {30, 8}})
	m, err = read(files("config.json", config(`"architectures": ["BertForMaskedLM"], "tie_word_embeddings": false`)), untied, Options{Pooling: "splade"})
	require.NoError(t, err)
	require.Equal(t, "cls.predictions.decoder.weight", m.Head.Chain[1].Linear.Weight.Name)
	require.Equal(t, "cls.predictions.decoder.bias", m.Head.Chain[1].Linear.Bias.Name)
}

// TestModulesDecideHead: with a Pooling module a classifier's trunk is an embedding model, as for sentence-transformers.
func TestModulesDecideHead(t *testing.T) {
	fsys := files("config.json", config(`"architectures": ["BertForSequenceClassification"]`),
		"modules.json", pipeline("Transformer", "Pooling:1_Pooling"), "1_Pooling/config.json", `{}`)
	m, err := read(fsys, tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, HeadEmbedding, m.Head.Kind)

	// A cross-encoder saved by sentence-transformers has a Transformer only.
	fsys["modules.json"] = &fstest.MapFile{Data: []byte(pipeline("Transformer"))}
	m, err = read(fsys, tiny.with(shapes{"classifier.weight": {2, 8}, "classifier.bias": {2}}), Options{})
	require.NoError(t, err)
	require.Equal(t, HeadClassifier, m.Head.Kind)
	require.Len(t, m.Head.Labels, 2)
}

func TestPooling(t *testing.T) {
	for _, c := range []struct {
		name, config, override string
		want                   []PoolMode
	}{
		{"one boolean", `{"word_embedding_dimension": 8, "pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}`, "", []PoolMode{PoolCLS}},
		{"all booleans, in the library's order", `{"pooling_mode_lasttoken": true, "pooling_mode_weightedmean_tokens": true, "pooling_mode_mean_sqrt_len_tokens": true,
			"pooling_mode_mean_tokens": true, "pooling_mode_max_tokens": true, "pooling_mode_cls_token": true}`, "",
			[]PoolMode{PoolCLS, PoolMax, PoolMean, PoolMeanSqrtLen, PoolWeightedMean, PoolLastToken}},
		{"no boolean set", `{"pooling_mode_cls_token": false}`, "", []PoolMode{PoolMean}},
		{"name", `{"embedding_dimension": 8, "pooling_mode": "lasttoken"}`, "", []PoolMode{PoolLastToken}},
		{"names, in their order", `{"pooling_mode": ["mean_sqrt_len_tokens", "max"]}`, "", []PoolMode{PoolMeanSqrtLen, PoolMax}},
		{"name before booleans", `{"pooling_mode": "weightedmean", "pooling_mode_cls_token": true}`, "", []PoolMode{PoolWeightedMean}},
		{"override", `{"pooling_mode": "max"}`, "cls", []PoolMode{PoolCLS}},
		{"override in the family's spelling", `{}`, "last-token", []PoolMode{PoolLastToken}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := read(files("modules.json", pipeline("Transformer", "Pooling:1_Pooling"), "1_Pooling/config.json", c.config), tiny, Options{Pooling: c.override})
			require.NoError(t, err)
			require.Equal(t, c.want, m.Head.Pooling.Modes)
			require.False(t, m.Head.Pooling.ExcludePrompt)
			require.False(t, m.Head.Normalize)
		})
	}
	m, err := read(files("modules.json", pipeline("Transformer", "Normalize:2_Normalize"), "1_Pooling/config.json", `{"include_prompt": false}`), tiny, Options{Pooling: "mean"})
	require.Error(t, err)
	require.Nil(t, m)
	m, err = read(files("modules.json", pipeline("Transformer", "Pooling:p"), "p/config.json", `{"include_prompt": false}`), tiny, Options{})
	require.NoError(t, err)
	require.True(t, m.Head.Pooling.ExcludePrompt)
	m, err = read(files("modules.json", pipeline("Transformer")), tiny, Options{Pooling: "max"})
	require.NoError(t, err)
	require.Equal(t, []PoolMode{PoolMax}, m.Head.Pooling.Modes)
}

func TestModules(t *testing.T) {
	fsys := files(
		"modules.json", pipeline("Transformer", "Dropout:d", "Pooling:1_Pooling", "Dense:2_Dense", "Dense:3_Dense", "Normalize:4_Normalize"),
		"1_Pooling/config.json", `{}`,
		"2_Dense/config.json", `{"in_features": 8, "out_features": 5, "bias": true, "activation_function": "torch.nn.modules.activation.GELU"}`,
		"3_Dense/config.json", `{"in_features": 5, "out_features": 4, "bias": false, "activation_function": "torch.nn.modules.linear.Identity"}`,
		"4_Normalize/config.json", `{"module_input_name": "sentence_embedding"}`,
	)
	m, err := read(fsys, tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, []Dense{
		{Linear: Linear{Weight: Tensor{"2_Dense/linear.weight", []int{5, 8}}, Bias: Tensor{"2_Dense/linear.bias", []int{5}}, In: 8, Out: 5}, Activation: GELU},
		{Linear: Linear{Weight: Tensor{"3_Dense/linear.weight", []int{4, 5}}, In: 5, Out: 4}},
	}, m.Head.Chain)
	require.True(t, m.Head.Normalize)

	fsys["2_Dense/config.json"].Data = []byte(`{"in_features": 8, "out_features": 5}`)
	m, err = read(fsys, tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, Tanh, m.Head.Chain[0].Activation, "the library's default")

	splade := files("config.json", config(`"architectures": ["BertForMaskedLM"]`), "modules.json", pipeline("MLMTransformer", "SpladePooling:1_SpladePooling"),
		"1_SpladePooling/config.json", `{"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": 30}`)
	m, err = read(splade, tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, HeadSparse, m.Head.Kind)
	m, err = read(splade, tiny, Options{Pooling: "splade"})
	require.NoError(t, err)
	require.Equal(t, HeadSparse, m.Head.Kind)
}

func TestTextFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		files []string
		want  int
	}{
		{"none", nil, 20},
		{"max_seq_length", []string{"sentence_bert_config.json", `{"max_seq_length": 7}`, "tokenizer_config.json", `{"model_max_length": 5}`}, 7},
		{"above the table", []string{"sentence_bert_config.json", `{"max_seq_length": 512}`}, 20},
		{"older name", []string{"sentence_xlnet_config.json", `{"max_seq_length": 9}`}, 9},
		{"an empty one is passed over", []string{"sentence_bert_config.json", `{}`, "sentence_roberta_config.json", `{"max_seq_length": 8}`}, 8},
		{"null", []string{"sentence_bert_config.json", `{"max_seq_length": null}`, "tokenizer_config.json", `{"model_max_length": 11}`}, 11},
		{"tokenizer", []string{"tokenizer_config.json", `{"model_max_length": 12.0}`}, 12},
		{"tokenizer says none", []string{"tokenizer_config.json", `{"model_max_length": 1000000000000000019884624838656}`}, 20},
		{"tokenizer says infinity", []string{"tokenizer_config.json", `{"model_max_length": 1e999}`}, 20},
		{"tokenizer says nothing", []string{"tokenizer_config.json", `{}`}, 20},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := read(files(c.files...), tiny, Options{})
			require.NoError(t, err)
			require.Equal(t, c.want, m.MaxLength)
		})
	}
	m, err := read(files("sentence_bert_config.json", `{"do_lower_case": true}`,
		"config_sentence_transformers.json", `{"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "query", "__version__": {}}`), tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, Text{Prompts: map[string]string{"query": "q: ", "document": ""}, DefaultPrompt: "query", LowerCase: true}, m.Text)
	m, err = read(files("config_sentence_transformers.json", `{"prompts": null, "default_prompt_name": null}`), tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, Text{}, m.Text)
}

// TestNoTable: a model without a position table is limited by its files alone.
func TestNoTable(t *testing.T) {
	n, err := readMaxLength(files("tokenizer_config.json", `{"model_max_length": 8192}`), 0)
	require.NoError(t, err)
	require.Equal(t, 8192, n)
	n, err = readMaxLength(files(), 0)
	require.NoError(t, err)
	require.Zero(t, n)
}

func TestRead(t *testing.T) {
	require.Subset(t, Families(), []string{"bert", "qwen3"})
	require.IsIncreasing(t, Families())
	dir := t.TempDir()
	_, err := Read(dir, tiny, Options{})
	requireCode(t, status.Start, err, "config.json is missing")
	require.ErrorContains(t, err, dir)
	_, err = Read(filepath.Join(dir, "absent"), tiny, Options{})
	requireCode(t, status.Start, err, "absent")

	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(config("")), 0o600))
	m, err := Read(dir, tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, 8, m.HiddenSize)

	// A pipe would block the open for ever, a folder cannot be read, a link out of the folder (as in a hub cache) is followed.
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "modules.json"), 0o600))
	_, err = Read(dir, tiny, Options{})
	requireCode(t, status.Start, err, "modules.json is no regular file")
	require.NoError(t, os.Remove(filepath.Join(dir, "modules.json")))
	target := filepath.Join(t.TempDir(), "blob")
	require.NoError(t, os.WriteFile(target, []byte(`{"max_seq_length": 6}`), 0o600))
	require.NoError(t, os.Symlink(target, filepath.Join(dir, "sentence_bert_config.json")))
	m, err = Read(dir, tiny, Options{})
	require.NoError(t, err)
	require.Equal(t, 6, m.MaxLength)
}

// faulty is a file system in which everything fails.
type faulty struct{ fs.FS }

func (faulty) Open(string) (fs.File, error) { return nil, fs.ErrPermission }

func TestReadFaults(t *testing.T) {
	_, err := read(faulty{}, tiny, Options{})
	requireCode(t, status.Start, err, "config.json: permission denied")
	_, err = read(fstest.MapFS{"config.json": {Mode: fs.ModeDir}}, tiny, Options{})
	requireCode(t, status.Start, err, "config.json is no regular file")
	_, err = read(files("config.json", strings.Repeat(" ", maxFile)+"{}"), tiny, Options{})
	requireCode(t, status.Start, err, "config.json has 16777218 bytes; the limit is 16777216")
	require.NotEmpty(t, slices.Sorted(maps.Keys(tiny)))
}
