package arch

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

const (
	modulesFile = "modules.json"
	maxModules  = 64
)

// module is one entry of modules.json: a class of sentence-transformers and the folder of its files.
type module struct{ class, folder string }

// modules is a sentence-transformers pipeline, in its order; nil: the folder is a plain transformers one.
type modules []module

// readModules reads modules.json. Class paths differ between versions, so only the last part counts; but a class of another package is
// code that came with the model, which is refused unless it is the transformer of that name, which the family knows.
func readModules(fsys fs.FS, transformer string) (modules, error) {
	raw, err := readFile(fsys, modulesFile)
	if raw == nil || err != nil {
		return nil, err
	}
	var list []struct {
		Type string `json:"type"`
		Path string `json:"path"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", modulesFile, brief(err))
	}
	if len(list) == 0 || len(list) > maxModules {
		return nil, fmt.Errorf("%s lists %d modules; it must list 1 to %d", modulesFile, len(list), maxModules)
	}
	var mods modules
	for i, l := range list {
		class, ours := strings.CutPrefix(l.Type, "sentence_transformers.")
		ours = ours || (transformer != "" && l.Type == transformer)
		class = class[strings.LastIndexByte(class, '.')+1:]
		switch class {
		case "Transformer", "MLMTransformer", "Pooling", "SpladePooling", "Dense", "LayerNorm", "Normalize", "Dropout", scoreModule:
		default:
			ours = false
		}
		if !ours {
			return nil, status.Errorf(status.Unsupported, "%s: type %s of module %d is not supported; supported of sentence_transformers: "+
				"Transformer, Pooling, SpladePooling, Dense, LayerNorm, Normalize, Dropout, LogitScore", modulesFile, quote(l.Type), i)
		}
		if l.Path != "" && !(fs.ValidPath(l.Path) && l.Path != "." && !strings.Contains(l.Path, `\`)) {
			return nil, fmt.Errorf("%s: path %s of module %d leaves the folder or is not plain", modulesFile, quote(l.Path), i)
		}
		mods = append(mods, module{class, l.Path})
	}
	if first := mods[0]; !strings.HasSuffix(first.class, "Transformer") {
		return nil, status.Errorf(status.Unsupported, "%s: the first module is %s; it must be Transformer", modulesFile, first.class)
	} else if first.folder != "" {
		return nil, status.Errorf(status.Unsupported, "%s: the Transformer lies in %s; supported: in the model folder itself (path \"\")", modulesFile, quote(first.folder))
	}
	return mods, nil
}

func (mods modules) has(class string) bool {
	for _, mod := range mods {
		if mod.class == class {
			return true
		}
	}
	return false
}

func (mods modules) outOfOrder(i int) error {
	return status.Errorf(status.Unsupported, "%s: %s as module %d is not supported; supported: Transformer, Pooling, any Dense and LayerNorm, Normalize; "+
		"Transformer, SpladePooling; or Transformer, LogitScore", modulesFile, mods[i].class, i)
}

// transformerOnly refuses modules that a model without pooling could not use.
func (mods modules) transformerOnly() error {
	for i, mod := range mods {
		if i > 0 && mod.class != "Dropout" {
			return mods.outOfOrder(i)
		}
	}
	return nil
}

// embedding reads Transformer, Pooling, any Dense and LayerNorm, Normalize into m.Head. Dropout does nothing outside training. A normalisation that
// is not last would change what the Dense after it sees, so it is refused rather than moved.
func (mods modules) embedding(fsys fs.FS, t *tensors, m *Model, want asked) (err error) {
	h := &m.Head
	pooled := false
	for i, mod := range mods[1:] {
		switch {
		case mod.class == "Dropout":
		case mod.class == "Pooling" && !pooled:
			pooled = true
			h.Pooling, err = readPooling(fsys, mod.folder, m.HiddenSize)
		case mod.class == "Dense" && pooled && !h.Normalize:
			var d Dense
			if d, err = readDense(fsys, t, mod.folder); err == nil {
				h.Chain = append(h.Chain, d)
			}
		case mod.class == "LayerNorm" && pooled && !h.Normalize:
			var d Dense
			if d, err = readLayerNorm(fsys, t, mod.folder); err == nil {
				h.Chain = append(h.Chain, d)
			}
		case mod.class == "Normalize" && pooled:
			h.Normalize = true
			err = readNormalize(fsys, mod.folder)
		default:
			err = mods.outOfOrder(i + 1)
		}
		if err != nil {
			return err
		}
	}
	if !pooled && want.modes == nil {
		return status.Errorf(status.Unsupported, "%s has no Pooling module, and no pooling was asked for", modulesFile)
	}
	return nil
}

// sparse reads Transformer, SpladePooling.
func (mods modules) sparse(fsys fs.FS, vocab int) error {
	for i, mod := range mods[1:] {
		switch {
		case mod.class == "Dropout":
		case mod.class == "SpladePooling" && i == 0:
			if err := checkSplade(fsys, mod.folder, vocab); err != nil {
				return err
			}
		default:
			return mods.outOfOrder(i + 1)
		}
	}
	return nil
}

// checkSplade refuses a SpladePooling module of another form than HeadSparse. Without a file it has the library's defaults, which are that form.
func checkSplade(fsys fs.FS, folder string, vocab int) error {
	c, err := moduleConfig(fsys, folder)
	if c == nil || err != nil {
		return err
	}
	if s := c.text("pooling_strategy", "max"); s != "max" {
		c.fail(status.Unsupported, "pooling_strategy %s is not supported; supported: max", quote(s))
	}
	if s := c.text("activation_function", "relu"); s != "relu" {
		c.fail(status.Unsupported, "activation_function %s is not supported; supported: relu", quote(s))
	}
	for _, key := range []string{"embedding_dimension", "word_embedding_dimension"} {
		if n := c.integer(key, vocab, 1, maxTable); c.err == nil && n != vocab {
			c.fail(status.Start, "%s is %d, but vocab_size is %d", key, n, vocab)
		}
	}
	return c.err
}

// readDense reads a Dense module: its config.json, and the names of its weights in its own safetensors file.
func readDense(fsys fs.FS, t *tensors, folder string) (Dense, error) {
	c, err := moduleConfig(fsys, folder)
	if err != nil {
		return Dense{}, err
	}
	if c == nil {
		return Dense{}, status.Errorf(status.Start, "%s is missing", configOf(folder))
	}
	for _, key := range []string{"in_features", "out_features"} {
		if !c.present(key) {
			c.fail(status.Start, "%s is missing", key)
		}
	}
	in, out := c.integer("in_features", 1, 1, maxWide), c.integer("out_features", 1, 1, maxWide)
	d := Dense{Activation: c.torchActivation("activation_function", "torch.nn.modules.activation.Tanh")}
	bias := c.boolean("bias", true)
	if c.boolean("use_residual", false) {
		c.fail(status.Unsupported, "use_residual true is not supported")
	}
	c.sentenceEmbedding()
	if c.err != nil {
		return Dense{}, c.err
	}
	d.Linear = Linear{Weight: t.need(folder+"/linear.weight", out, in), In: in, Out: out}
	if bias {
		d.Linear.Bias = t.need(folder+"/linear.bias", out)
	}
	if t.err == nil {
		decide(fsys, "dense", fmt.Sprintf("%d -> %d, %s", in, out, d.Activation), c.file, "in_features")
	}
	return d, t.err
}

// readLayerNorm reads a LayerNorm module, whose eps is that of torch: it is no choice.
func readLayerNorm(fsys fs.FS, t *tensors, folder string) (Dense, error) {
	const torchEps = 1e-5
	c, err := moduleConfig(fsys, folder)
	if err != nil {
		return Dense{}, err
	}
	if c == nil {
		return Dense{}, status.Errorf(status.Start, "%s is missing", configOf(folder))
	}
	if !c.present("dimension") {
		c.fail(status.Start, "dimension is missing")
	}
	width := c.integer("dimension", 1, 1, maxWide)
	if c.err != nil {
		return Dense{}, c.err
	}
	return Dense{Norm: t.layerNorm(folder+"/norm", width, torchEps)}, t.err
}

func readNormalize(fsys fs.FS, folder string) error {
	c, err := moduleConfig(fsys, folder)
	if c == nil || err != nil { // older versions write no file
		return err
	}
	c.sentenceEmbedding()
	return c.err
}

// sentenceEmbedding refuses modules that work on anything but the pooled vector.
func (o *object) sentenceEmbedding() {
	for _, key := range []string{"module_input_name", "module_output_name"} {
		if name := o.text(key, "sentence_embedding"); name != "sentence_embedding" {
			o.fail(status.Unsupported, "%s %s is not supported; supported: sentence_embedding", key, quote(name))
		}
	}
}

func configOf(folder string) string { return path.Join(folder, "config.json") }

// moduleConfig reads a module's config.json; nil where there is none.
func moduleConfig(fsys fs.FS, folder string) (*object, error) {
	if folder == "" { // its config.json would be the transformer's
		return nil, nil
	}
	return readObject(fsys, configOf(folder))
}
