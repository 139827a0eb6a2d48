package arch

import "slices"

// Files are the names of the files that Read, ReadText and ReadTokenizer look for, in a model's folder or in those of its modules.
// Weights are not among them.
func Files() []string {
	return slices.Concat(limitFiles, []string{"config.json", modulesFile, "config_sentence_transformers.json", tokenizerConfigFile, specialTokensFile, addedTokensFile,
		adapterFile, "chat_template.jinja"})
}
