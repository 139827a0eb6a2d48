package arch

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Decision is one thing that a model folder decides, for people: what, its value, and which file and key say so.
type Decision struct {
	What  string `json:"what"`
	Value string `json:"value"`
	File  string `json:"file,omitempty"` // "": no file says it
	Key   string `json:"key,omitempty"`  // of the file; or, where no file says it, why it is so
}

// folder is a model folder that notes what its files decide.
type folder struct {
	fs.FS
	decisions []Decision
}

// Stat is fs.Stat of the folder itself: opening a pipe to ask what it is would block.
func (f *folder) Stat(name string) (fs.FileInfo, error) { return fs.Stat(f.FS, name) }

// decide notes a decision where the folder takes notes.
func decide(fsys fs.FS, what string, value any, file, key string) {
	if f, ok := fsys.(*folder); ok {
		f.decisions = append(f.decisions, Decision{what, fmt.Sprint(value), file, key})
	}
}

// decideBy notes a decision of the first of keys that the object has, or else of what its absence means.
func (o *object) decideBy(fsys fs.FS, what string, value any, keys ...string) {
	i := slices.IndexFunc(keys, func(key string) bool { return o.used[key] && o.present(key) })
	if i >= 0 {
		decide(fsys, what, value, o.file, keys[i])
		return
	}
	decide(fsys, what, value, "", "default: "+o.file+" has no "+keys[0])
}

// Explain is Read that tells what the files decided, also where it fails: then up to there. The model is nil then.
func Explain(dir string, tensors Index, opts Options) (*Model, []Decision, error) {
	f := &folder{FS: os.DirFS(dir)}
	m, err := read(f, tensors, opts)
	if err != nil {
		return nil, f.decisions, inFolder(dir, err)
	}
	return m, f.decisions, nil
}

// trunkFacts are what config.json decides of a trunk, and the keys that families have for it, the strongest first.
var trunkFacts = []struct {
	what  string
	value func(m *Model) any
	keys  []string
}{
	{"layers", func(m *Model) any { return len(m.Layers) }, []string{"num_hidden_layers", "n_layers", "n_layer"}},
	{"hidden size", func(m *Model) any { return m.HiddenSize }, []string{"hidden_size", "dim", "n_embd"}},
	{"vocabulary", func(m *Model) any { return m.VocabSize }, []string{"vocab_size"}},
	{"positions", positionsFact, []string{"max_position_embeddings", "n_positions", "rotary_emb_base", "rope_theta", "rope_parameters"}},
	{"rope", ropeFact, []string{"rope_parameters", "rope_scaling", "rope_theta", "rotary_emb_base", "global_rope_theta", "rotary_emb_fraction"}},
	{"heads", headsFact, []string{"num_attention_heads", "n_heads", "n_head"}},
	{"key and value heads", func(m *Model) any { return m.Layers[0].Attention.KVHeads }, []string{"num_key_value_heads"}},
	{"causal", func(m *Model) any { return m.Layers[0].Attention.Causal }, []string{"is_causal", "use_bidirectional_attention"}},
	{"windows", windowsFact, []string{"sliding_window", "local_attention", "layer_types"}},
	{"activation", activationFact, []string{"hidden_activation", "hidden_act", "activation_function", "activation", "feed_forward_type"}},
}

func positionsFact(m *Model) any {
	if m.MaxPositions == 0 {
		return "no limit"
	}
	return fmt.Sprintf("%d, from %d on", m.MaxPositions-m.Embeddings.PositionOffset, m.Embeddings.PositionOffset)
}

func ropeFact(m *Model) any {
	r := m.Layers[0].Attention.Rope
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%s, %d numbers", r.Kind, r.Dim)
}

func headsFact(m *Model) any {
	a := &m.Layers[0].Attention
	return fmt.Sprintf("%d of %d", a.Heads, a.HeadDim)
}

// windowsFact counts the layers with a window.
func windowsFact(m *Model) any {
	n, size := 0, ""
	for i := range m.Layers {
		if a := &m.Layers[i].Attention; a.WindowLeft >= 0 || a.WindowRight >= 0 {
			n, size = n+1, fmt.Sprintf(", %d keys before a token and %d after it", a.WindowLeft, max(a.WindowRight, 0))
		}
	}
	if n == 0 {
		return "none"
	}
	return strconv.Itoa(n) + " layers" + size
}

func activationFact(m *Model) any {
	mlp := &m.Layers[0].MLP
	if mlp.Gated() {
		return mlp.Activation.String() + ", gated"
	}
	return mlp.Activation
}

// decideTrunk notes what config.json decided of a trunk that was read.
func (o *object) decideTrunk(fsys fs.FS, m *Model) {
	for _, fact := range trunkFacts {
		o.decideBy(fsys, fact.what, fact.value(m), fact.keys...)
	}
}

// decideHead notes what the head that was read is, and by what.
func decideHead(fsys fs.FS, c *object, m *Model, a architecture, mods modules, want asked) {
	what := m.Head.Kind.String()
	if m.Head.Kind == HeadClassifier && len(m.Head.Labels) == 1 {
		what = "reranker"
	}
	file, key := "config.json", "architectures"
	classifier := a.kind == HeadClassifier || a.kind == HeadTokenClassifier
	switch {
	case want.reranker != nil:
		file, key = "", "option reranker"
	case want.sparse:
		file, key = "", "option pooling"
	case mods.has(scoreModule) || mods.has("SpladePooling") || mods.has("Pooling"):
		file, key = modulesFile, "type"
	case !classifier && mods == nil:
		file, key = "", "default: there is no "+modulesFile+", and the architecture is no classifier"
	}
	decide(fsys, "serves", what, file, key)
	if want.modes != nil {
		decide(fsys, "pooling", m.Head.Pooling.String(), "", "option pooling")
	} else if !mods.has("Pooling") && len(m.Head.Pooling.Modes) > 0 {
		decide(fsys, "pooling", m.Head.Pooling.String(), "", "of the architecture, as there is no Pooling module")
	}
	if m.Head.Kind == HeadEmbedding {
		if i := slices.IndexFunc(mods, func(mod module) bool { return mod.class == "Normalize" }); i >= 0 {
			decide(fsys, "normalize", true, modulesFile, "type of module "+strconv.Itoa(i))
		} else {
			decide(fsys, "normalize", false, "", "default: there is no Normalize module")
		}
	}
	if len(m.Head.Labels) > 0 && c.used["id2label"] {
		c.decideBy(fsys, "labels", strings.Join(m.Head.Labels[:min(len(m.Head.Labels), 20)], ", "), "id2label", "num_labels")
	}
}

// String lists the modes.
func (p Pooling) String() string {
	names := make([]string, len(p.Modes))
	for i, mode := range p.Modes {
		names[i] = mode.String()
	}
	return strings.Join(names, ", ")
}

// decideOn notes the mode of a Pooling module.
func (p Pooling) decideOn(fsys fs.FS, c *object) {
	keys := []string{"pooling_mode"}
	for _, k := range poolKeys {
		if slices.Contains(p.Modes, k.mode) {
			keys = append(keys, k.key)
		}
	}
	c.decideBy(fsys, "pooling", p.String(), keys...)
	c.decideBy(fsys, "prompt is pooled", !p.ExcludePrompt, "include_prompt")
}
