package arch

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Index tells the shapes of the stored weights by name; *weights.Set is one. It may have Usable, which refuses a dtype, and Near, which
// suggests other names.
type Index interface {
	Shape(name string) ([]int, bool)
}

// Options are a caller's wishes that a folder cannot know.
type Options struct {
	// Pooling overrides the folder's: cls, mean, max, mean_sqrt_len_tokens, weightedmean, lasttoken (or last-token, last_token), or
	// splade for a masked-LM model as a sparse one. "": as the folder says.
	Pooling string
	// Reranker makes a reranker of a causal language model. nil: as the folder says.
	Reranker *Reranker
}

// Reranker is a causal language model's answer as a score, and how it is asked.
type Reranker struct {
	Score    TokenScore
	Template *PairTemplate // nil: the tokenizer joins pairs
}

// family is a model_type: how to read its trunk, and its architectures by the name in config.json. The name "" stands for a config
// that names none.
type family struct {
	trunk         func(c *object, t *tensors, m *Model)
	architectures map[string]architecture
	// hub returns the family of a folder that has this model_type, but is in the format of code of its own on the hub; nil: it is in
	// transformers' format.
	hub     func(c *object, t *tensors, architecture string) *family
	formats []*family // that hub can return
	format  string    // of these: the code's name, for people
}

// or is the family with another format beside its own.
func (f family) or(format *family, hub func(c *object, t *tensors, architecture string) *family) family {
	f.hub, f.formats = hub, []*family{format}
	return f
}

// architecture is a trunk with a head. kind is what the head is by itself: HeadSparse for masked-LM heads, which serve as
// embeddings unless sparse vectors are asked for. chain reads the head's own layers; nil: it has none.
type architecture struct {
	kind    HeadKind
	pooling PoolMode // of classifiers
	chain   func(c *object, t *tensors, m *Model) []Dense
	// transformer is what modules.json may call the model beside sentence-transformers' own classes: "" is nothing else.
	transformer string
	causalLM    bool // a language model: without modules.json it pools the last token, as long as its attention is causal
	// vocabulary is the table [VocabSize, HiddenSize] of a language model's logits.
	vocabulary func(c *object, t *tensors, m *Model) Tensor
}

// families by model_type.
var families = map[string]family{
	"bert":               bert,
	"camembert":          camembert,
	"deberta-v2":         debertaV2,
	"distilbert":         distilbert,
	"gemma":              gemma,
	"gemma2":             gemma2,
	"gemma3_text":        gemma3,
	"gte":                gte,
	"jina_embeddings_v3": jinaV3,
	"llama":              llama,
	"mistral":            mistral,
	"modernbert":         modernBert,
	"mpnet":              mpnet,
	"new":                gteNew,
	"nomic_bert":         nomicBert,
	"qwen2":              qwen2,
	"qwen3":              qwen3,
	"roberta":            roberta,
	"xlm-roberta":        xlmRoberta,
}

// Families returns the supported values of model_type, sorted.
func Families() []string { return slices.Sorted(maps.Keys(families)) }

// Read reads what the model in folder dir is, and checks that tensors has every weight of it in the right shape.
//
// config.json tells the transformer. modules.json and its folders, where present, tell pooling, dense modules and normalisation; without it
// classifiers are what config.json says and all others are embedding models without normalisation, with mean pooling or, for causal
// language models, that of the last token, as sentence-transformers treats a plain transformers folder. A weight of a module in folder F is named "F/name".
//
// Errors are *status.Error: Unsupported names what this package does not know; WeightsNotFound a missing tensor; InvalidArgument a
// wrong option; Start everything else that is wrong with the folder, by file, key, value and limit.
func Read(dir string, tensors Index, opts Options) (*Model, error) {
	m, _, err := Explain(dir, tensors, opts)
	return m, err
}

func inFolder(dir string, err error) error {
	return status.Errorf(status.Of(err, status.Start).Code, "model folder %q: %w", dir, err)
}

func read(fsys fs.FS, index Index, opts Options) (*Model, error) {
	asked, err := parsePooling(opts.Pooling)
	if err != nil {
		return nil, err
	}
	asked.reranker = opts.Reranker
	c, err := readObject(fsys, "config.json")
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, status.Errorf(status.Start, "config.json is missing: this is no model folder")
	}
	m := &Model{Family: c.text("model_type", "")}
	names := c.texts("architectures")
	if len(names) > 0 {
		m.Architecture = names[0]
	}
	if c.err != nil {
		return nil, c.err
	}
	c.decideBy(fsys, "family", m.Family, "model_type")
	c.decideBy(fsys, "architecture", m.Architecture, "architectures")
	f, ok := families[m.Family]
	if !ok {
		return nil, status.Errorf(status.Unsupported, "config.json: model_type %s is not supported; supported: %s", quote(m.Family), strings.Join(Families(), ", "))
	}
	t := &tensors{index: index}
	if f.hub != nil {
		if own := f.hub(c, t, m.Architecture); own != nil {
			f, m.Format = *own, own.format
			decide(fsys, "format", "that of "+m.Format, c.file, "architectures, position_embedding_type and names of weights")
		}
	}
	a, ok := f.architectures[m.Architecture]
	if !ok {
		return nil, status.Errorf(status.Unsupported, "config.json: architecture %s of model_type %s is not supported; supported: %s",
			quote(m.Architecture), m.Family, strings.TrimPrefix(strings.Join(slices.Sorted(maps.Keys(f.architectures)), ", "), ", "))
	}
	if err := checkWeightsAlone(fsys, c); err != nil {
		return nil, err
	}
	if f.trunk(c, t, m); c.err != nil || t.err != nil {
		return nil, firstOf(c.err, t.err)
	}
	c.decideTrunk(fsys, m)
	if m.Text, err = readText(fsys); err != nil {
		return nil, err
	}
	if err := readHead(fsys, c, t, m, a, asked); err != nil {
		return nil, err
	}
	if m.MaxLength, err = readMaxLength(fsys, m.MaxPositions-m.Embeddings.PositionOffset); err != nil {
		return nil, err
	}
	return m, nil
}

// adapterFile makes of a folder's weights a part of a model's.
const adapterFile = "adapter_config.json"

// checkWeightsAlone refuses what makes other weights of those in the files.
func checkWeightsAlone(fsys fs.FS, c *object) error {
	for _, key := range []string{"quantization_config", "compression_config", "quantization"} {
		if c.present(key) {
			method := "of no known method"
			if q := (&object{values: c.values}).object(key); q != nil {
				method = quote(q.text("quant_method", q.text("format", "")))
			}
			c.fail(status.Unsupported, "%s: quantised weights (quant_method %s) are not supported; supported: float32, float16 and bfloat16", key, method)
			return c.err
		}
	}
	switch _, err := fs.Stat(fsys, adapterFile); {
	case err == nil:
		return status.Errorf(status.Unsupported, "%s: adapters (LoRA and others) are not supported; merge it into the weights with peft's merge_and_unload", adapterFile)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", adapterFile, err)
	}
	return nil
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
