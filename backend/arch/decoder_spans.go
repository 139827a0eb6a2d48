package arch

import (
	"slices"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// span is which keys a layer's queries see: WindowLeft and WindowRight of Attention.
type span struct {
	left, right int
	causal      bool
	slides      bool // a layer of sliding attention, as its type says
}

// windowRule is how a family's config tells which layers have the window, and which keys it reads for that.
type windowRule int

const (
	windowNone      windowRule = iota // none has one
	windowAll                         // all layers: mistral's sliding_window
	windowFromLayer                   // qwen's use_sliding_window, sliding_window, and layer_types or max_window_layers
	windowPattern2                    // gemma2's sliding_window, and layer_types, or all layers but each second
	windowPattern                     // gemma3's: all but each sliding_window_pattern-th
)

// spans reads who sees whom. A causal window of n holds the query's own key and n-1 before it; with is_causal false it has n on either
// side (create_causal_mask and its siblings in transformers' masking_utils.py). gemma3's use_bidirectional_attention makes of n a window
// of n/2 + 1 first, which then holds n/2 on either side.
func (d *decoder) spans(o *object, family string, layers int) []span {
	if o.present("per_layer_config") {
		o.fail(status.Unsupported, "per_layer_config is not supported for %s: its layers must be alike", family)
	}
	causal, both := d.direction(o, family)
	size, slides := d.slidingLayers(o, layers)
	if o.err != nil {
		return nil
	}
	if both && size > 0 {
		size = size/2 + 1
	}
	full := span{left: -1, right: -1, causal: causal && !both}
	sliding := full
	sliding.slides = true
	switch {
	case size == 0:
	case !causal:
		sliding.left, sliding.right = size, size
	case both:
		sliding.left, sliding.right = size-1, size-1
	default:
		sliding.left = size - 1
	}
	spans := make([]span, layers)
	for i := range spans {
		if spans[i] = full; slides[i] {
			spans[i] = sliding
		}
	}
	return spans
}

// direction reads is_causal, which transformers' masks obey in all families, and use_bidirectional_attention, which only gemma3 obeys
// (both): elsewhere a file that asks for it, and not by is_causal, contradicts what transformers computes (gemma's depends on
// the attention kernel and on padding).
func (d *decoder) direction(o *object, family string) (causal, both bool) {
	if o.null("is_causal") {
		o.fail(status.Start, "is_causal is null; it must be true or false")
	}
	causal = o.boolean("is_causal", true)
	both = o.boolean("use_bidirectional_attention", false)
	if d.twoWay {
		return causal, both
	}
	if both && causal {
		o.fail(status.Unsupported, "use_bidirectional_attention true is not supported for %s by itself: transformers ignores it there; "+
			"supported: is_causal false", family)
	}
	return causal, false
}

// slidingLayers returns the window, 0 for none, and which layers have it.
func (d *decoder) slidingLayers(o *object, layers int) (size int, slides []bool) {
	if d.windows != windowNone && !o.null("sliding_window") {
		size = o.integer("sliding_window", 4096, 1, maxTable)
	}
	if d.windows == windowFromLayer && !o.boolean("use_sliding_window", false) {
		size = 0
	}
	rule := d.windowByRule(o, size)
	typed := o.layerTypes(layers)
	slides = make([]bool, layers)
	for i := range slides {
		slides[i] = rule(i)
		if o.err != nil || typed == nil || typed[i] == slides[i] {
			continue
		}
		if d.windows == windowNone || d.windows == windowAll {
			o.fail(status.Unsupported, "layer_types[%d] is not supported here: transformers does not read it, and all layers are of one type",
				i)
		}
		slides[i] = typed[i]
	}
	if i := slices.Index(slides, true); o.err == nil && i >= 0 && size == 0 {
		o.fail(status.Start, "layer %d is of sliding attention (layer_types), but there is no window: sliding_window must be a number%s", i,
			map[bool]string{true: " and use_sliding_window true"}[d.windows == windowFromLayer])
	}
	return size, slides
}

// windowByRule tells which layers slide where there are no layer_types.
func (d *decoder) windowByRule(o *object, size int) func(layer int) bool {
	switch d.windows {
	case windowAll:
		return func(int) bool { return size > 0 }
	case windowFromLayer:
		first := o.integer("max_window_layers", 28, 0, maxTable)
		return func(i int) bool { return size > 0 && i >= first }
	case windowPattern2:
		return func(i int) bool { return (i+1)%2 != 0 }
	case windowPattern:
		pattern := o.integer("sliding_window_pattern", 6, 1, maxTable)
		return func(i int) bool { return (i+1)%pattern != 0 }
	}
	return func(int) bool { return false }
}

// layerTypes tells which layers slide by layer_types; nil: it is not there.
func (o *object) layerTypes(layers int) []bool {
	kinds := o.texts("layer_types")
	if o.err != nil || !o.present("layer_types") {
		return nil
	}
	if len(kinds) != layers {
		o.fail(status.Start, "layer_types has %d entries; num_hidden_layers is %d", len(kinds), layers)
		return nil
	}
	slides := make([]bool, layers)
	for i, kind := range kinds {
		slides[i] = kind == "sliding_attention"
		if !slides[i] && kind != "full_attention" {
			o.fail(status.Unsupported, "layer_types[%d] %s is not supported; supported: full_attention, sliding_attention", i, quote(kind))
		}
	}
	return slides
}
