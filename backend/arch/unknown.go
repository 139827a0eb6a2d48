package arch

import (
	"io/fs"
	"os"
)

// UnknownToken reads which token stands for what the vocabulary lacks, as transformers does: unk_token of special_tokens_map.json, which
// counts only where tokenizer_config.json has no added_tokens_decoder, then of tokenizer_config.json; "" is none. named is false where
// no file says so: then it is the tokenizer's own. Errors are *status.Error.
func UnknownToken(dir string) (token string, named bool, err error) {
	if token, named, err = readUnknownToken(os.DirFS(dir)); err != nil {
		return "", false, inFolder(dir, err)
	}
	return token, named, nil
}

func readUnknownToken(fsys fs.FS) (token string, named bool, err error) {
	const key = "unk_token"
	config, err := readObject(fsys, "tokenizer_config.json")
	if err != nil {
		return "", false, err
	}
	special, err := readObject(fsys, "special_tokens_map.json")
	if err != nil {
		return "", false, err
	}
	if config != nil && config.present("added_tokens_decoder") {
		special = nil
	}
	for _, c := range []*object{special, config} {
		if c == nil {
			continue
		}
		if _, there := c.values[key]; there {
			return c.token(key), true, c.err
		}
	}
	if config == nil {
		return "", false, nil
	}
	// These classes have no special token but those that files name.
	class := config.text("tokenizer_class", "")
	return "", class == "PreTrainedTokenizerFast" || class == "TokenizersBackend", config.err
}
