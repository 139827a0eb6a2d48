package arch

import (
	"io/fs"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// readHead decides what the model computes, from the strongest voice to the weakest: the caller's pooling, the modules of
// sentence-transformers, the architecture of config.json.
func readHead(fsys fs.FS, c *object, t *tensors, m *Model, a architecture, want asked) error {
	mods, err := readModules(fsys, a.transformer)
	if err != nil {
		return err
	}
	classifier := a.kind == HeadClassifier || a.kind == HeadTokenClassifier
	switch {
	case want.reranker != nil || mods.has(scoreModule):
		err = rerankerHead(fsys, c, t, m, a, mods, want)
	case want.sparse || mods.has("SpladePooling"):
		err = sparseHead(fsys, c, t, m, a, mods, want)
	case classifier && !mods.has("Pooling"):
		err = classifierHead(fsys, c, t, m, a, mods, want)
	default:
		err = embeddingHead(fsys, t, m, a, mods, want)
	}
	if err = firstOf(err, c.err, t.err); err == nil {
		decideHead(fsys, c, m, a, mods, want)
	}
	return err
}

func sparseHead(fsys fs.FS, c *object, t *tensors, m *Model, a architecture, mods modules, want asked) error {
	if want.modes != nil {
		return status.Errorf(status.Unsupported, "pooling %q: the model is a sparse one, by SpladePooling in %s", want.name, modulesFile)
	}
	if a.kind != HeadSparse {
		return status.Errorf(status.Unsupported, "splade pooling needs a masked-LM head; architecture %s has none", quote(m.Architecture))
	}
	if !want.sparse {
		if err := firstOf(checkTask(fsys, "fill-mask"), mods.sparse(fsys, m.VocabSize)); err != nil {
			return err
		}
	}
	m.Head.Kind = HeadSparse
	m.Head.Chain = a.chain(c, t, m)
	return nil
}

func classifierHead(fsys fs.FS, c *object, t *tensors, m *Model, a architecture, mods modules, want asked) error {
	if want.modes != nil {
		return status.Errorf(status.Unsupported, "pooling %q is for embedding models; architecture %s is a classifier", want.name, m.Architecture)
	}
	if err := mods.transformerOnly(); err != nil {
		return err
	}
	m.Head.Kind = a.kind
	if a.kind == HeadClassifier {
		m.Head.Pooling.Modes = []PoolMode{a.pooling}
		var err error
		if mods != nil {
			m.Text.Template, err = readTemplate(fsys, taskClassification, taskClassification)
		} else {
			m.Text.Template, err = readPlainTemplate(fsys)
		}
		if err != nil {
			return err
		}
	}
	m.Head.Chain = a.chain(c, t, m)
	return nil
}

func embeddingHead(fsys fs.FS, t *tensors, m *Model, a architecture, mods modules, want asked) error {
	m.Head = Head{Kind: HeadEmbedding, Pooling: Pooling{Modes: []PoolMode{PoolMean}}}
	if a.causalLM && m.Layers[0].Attention.Causal {
		m.Head.Pooling.Modes[0] = PoolLastToken
	}
	if mods != nil {
		if err := firstOf(checkTask(fsys, "feature-extraction"), mods.embedding(fsys, t, m, want)); err != nil {
			return err
		}
	}
	if want.modes != nil {
		m.Head.Pooling.Modes = want.modes
	}
	if err := checkChain(m); err != nil {
		return err
	}
	var err error
	m.Head.Tokens, err = tokenHead(fsys, t, m)
	return err
}

// checkChain checks that each layer takes what the one before gives.
func checkChain(m *Model) error {
	width := m.HiddenSize * len(m.Head.Pooling.Modes)
	for i, d := range m.Head.Chain {
		if d.Linear.Absent() {
			if n := d.Norm.Weight.Shape[0]; n != width {
				return status.Errorf(status.Start, "LayerNorm module (%s) takes %d columns, but gets %d", d.Norm.Weight.Name, n, width)
			}
			continue
		}
		if d.Linear.In != width {
			return status.Errorf(status.Start, "Dense module %d (%s) takes %d columns, but gets %d", i+1, d.Linear.Weight.Name, d.Linear.In, width)
		}
		width = d.Linear.Out
	}
	return nil
}
