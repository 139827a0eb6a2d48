package arch

import (
	"encoding/json"
	"io/fs"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// poolModes by sentence-transformers' names.
var poolModes = map[string]PoolMode{
	"cls": PoolCLS, "mean": PoolMean, "max": PoolMax,
	"mean_sqrt_len_tokens": PoolMeanSqrtLen, "weightedmean": PoolWeightedMean, "lasttoken": PoolLastToken,
}

const poolModeNames = "cls, mean, max, mean_sqrt_len_tokens, weightedmean, lasttoken"

// poolKeys are the booleans of older pooling configurations, in the order in which their vectors are joined.
var poolKeys = []struct {
	key  string
	mode PoolMode
}{
	{"pooling_mode_cls_token", PoolCLS}, {"pooling_mode_max_tokens", PoolMax}, {"pooling_mode_mean_tokens", PoolMean},
	{"pooling_mode_mean_sqrt_len_tokens", PoolMeanSqrtLen}, {"pooling_mode_weightedmean_tokens", PoolWeightedMean},
	{"pooling_mode_lasttoken", PoolLastToken},
}

// asked is a caller's wish: no pooling where modes is nil and sparse false, no reranker where that is nil.
type asked struct {
	name     string
	modes    []PoolMode
	sparse   bool
	reranker *Reranker
}

// parsePooling reads Options.Pooling.
func parsePooling(name string) (asked, error) {
	switch name {
	case "":
		return asked{}, nil
	case "splade":
		return asked{name: name, sparse: true}, nil
	case "last-token", "last_token": // text-embeddings-inference's spelling
		return asked{name: name, modes: []PoolMode{PoolLastToken}}, nil
	}
	mode, ok := poolModes[name]
	if !ok {
		return asked{}, status.Errorf(status.InvalidArgument, "pooling %s is unknown; known: %s, last-token, splade", quote(name), poolModeNames)
	}
	return asked{name: name, modes: []PoolMode{mode}}, nil
}

// readPooling reads the config.json of a Pooling module for vectors of width columns.
func readPooling(fsys fs.FS, folder string, width int) (Pooling, error) {
	c, err := moduleConfig(fsys, folder)
	if err != nil {
		return Pooling{}, err
	}
	if c == nil {
		return Pooling{}, status.Errorf(status.Start, "%s is missing", configOf(folder))
	}
	for _, key := range []string{"embedding_dimension", "word_embedding_dimension"} {
		if n := c.integer(key, width, 1, maxTable); c.err == nil && n != width {
			c.fail(status.Start, "%s is %d, but the transformer's hidden_size is %d", key, n, width)
		}
	}
	p := Pooling{Modes: c.poolModes(), ExcludePrompt: !c.boolean("include_prompt", true)}
	if p.ExcludePrompt && slices.Contains(p.Modes, PoolCLS) { // it would be the first token after the prompt
		c.fail(status.Unsupported, "include_prompt false is not supported with pooling cls")
	}
	if c.err != nil {
		return Pooling{}, c.err
	}
	p.decideOn(fsys, c)
	return p, nil
}

// poolModes reads pooling_mode (a name, or a list of names), else the booleans, else mean.
func (o *object) poolModes() []PoolMode {
	if o.present("pooling_mode") {
		names := []string{""}
		if json.Unmarshal(o.values["pooling_mode"], &names[0]) != nil {
			names = nil
			if o.get("pooling_mode", "a string or a list of strings", &names); o.err == nil && len(names) == 0 {
				o.fail(status.Start, "pooling_mode is an empty list")
			}
		}
		if len(names) > len(poolModes) {
			o.fail(status.Start, "pooling_mode has %d modes; the limit is %d", len(names), len(poolModes))
			return nil
		}
		var modes []PoolMode
		for _, name := range names {
			mode, ok := poolModes[name]
			if !ok {
				o.fail(status.Unsupported, "pooling_mode %s is not supported; supported: %s", quote(name), poolModeNames)
			}
			modes = append(modes, mode)
		}
		return modes
	}
	var modes []PoolMode
	known := make([]string, 0, len(poolKeys))
	for _, k := range poolKeys {
		known = append(known, k.key)
		if o.boolean(k.key, false) {
			modes = append(modes, k.mode)
		}
	}
	for key, raw := range o.values {
		if strings.HasPrefix(key, "pooling_mode_") && string(raw) == "true" && !slices.Contains(known, key) {
			o.fail(status.Unsupported, "%s is not supported; supported: %s", quote(key), strings.Join(known, ", "))
		}
	}
	if modes == nil {
		modes = []PoolMode{PoolMean}
	}
	return modes
}
