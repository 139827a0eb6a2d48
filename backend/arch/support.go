package arch

import "slices"

// Support is what a family's models can do.
type Support struct {
	Family string // model_type
	Format string // Model.Format
	// Embeddings of texts, logits of texts, scores of pairs, logits of tokens, and a weight for each word of the vocabulary.
	Embeds, Classifies, Reranks, ClassifiesTokens, Sparse bool
}

// Supported lists what there are readers for, by family: its own format, then those of code on the hub.
func Supported() []Support {
	var all []Support
	for _, name := range Families() {
		f := families[name]
		for _, format := range append([]*family{&f}, f.formats...) {
			s := Support{Family: name, Format: format.format}
			for _, a := range format.architectures {
				s.add(a)
			}
			all = append(all, s)
		}
	}
	return all
}

func (s *Support) add(a architecture) {
	switch a.kind {
	case HeadEmbedding:
		s.Embeds = true
	case HeadSparse: // serves as an embedding model too
		s.Embeds, s.Sparse = true, true
	case HeadClassifier: // of one label is a reranker
		s.Classifies, s.Reranks = true, true
	case HeadTokenClassifier:
		s.ClassifiesTokens = true
	}
	s.Reranks = s.Reranks || a.vocabulary != nil
}

// Show notes what a model that was read shows of its family.
func (s *Support) Show(m *Model) {
	switch m.Head.Kind {
	case HeadEmbedding:
		s.Embeds = true
	case HeadSparse:
		s.Sparse = true
	case HeadTokenClassifier:
		s.ClassifiesTokens = true
	case HeadClassifier:
		scored := slices.ContainsFunc(m.Head.Chain, func(d Dense) bool { return d.Linear.Score != nil })
		s.Classifies = s.Classifies || !scored
		s.Reranks = s.Reranks || len(m.Head.Labels) == 1
	}
}
