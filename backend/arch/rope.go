package arch

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Limits of rope's numbers.
const (
	maxRopeTheta     = 1e12
	maxRopeFactor    = 1e6
	defaultRopeTheta = 10000
)

// originalPositions is the key with the positions that a scaled model was first trained for.
const originalPositions = "original_max_position_embeddings"

// scaling is a variant of rope: the keys that it takes beside those of all, and what it makes of the frequencies.
type scaling struct {
	keys  []string
	scale func(c *object, r *Rope, theta float64, original int)
}

// scalings by transformers' rope_type (modeling_rope_utils.py), whose float32 arithmetic they follow.
var scalings = map[string]scaling{
	"default": {scale: func(*object, *Rope, float64, int) {}},
	"linear":  {[]string{"factor"}, linearRope},
	"llama3":  {[]string{"factor", "low_freq_factor", "high_freq_factor"}, llama3Rope},
	"yarn":    {[]string{"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}, yarnRope},
}

// rope reads rope_theta with rope_scaling, or rope_parameters with both in one as transformers 5 writes them, into a rotation of whole
// heads. positions is max_position_embeddings, theta the base where none is given.
func (o *object) rope(dim, positions int, theta float64) *Rope {
	theta = o.number("rope_theta", theta, 1, maxRopeTheta)
	p := o.object("rope_scaling") // the older name; where it says anything, transformers does not look at the other
	if p == nil || len(p.values) == 0 {
		p = o.object("rope_parameters")
	}
	if p == nil {
		p = &object{file: o.file}
	}
	if original := o.integer(originalPositions, 0, 1, maxTable); original != 0 { // the stronger of two
		p = p.with(originalPositions, o.values[originalPositions])
	}
	return o.rotation(p, dim, theta, positions)
}

// layerBase is where older files have the base of one kind of layer, with its default, and whether rope_scaling is for it.
type layerBase struct {
	key    string
	theta  float64
	scaled bool
}

// layerRopes reads a rotation for full and one for sliding attention: rope_parameters by the type of layer or, in older files, a base for each
// and rope_scaling (convert_rope_params_to_dict of Gemma3TextConfig and ModernBertConfig).
func (o *object) layerRopes(dim, positions int, fullBase, slidingBase layerBase) (full, sliding *Rope) {
	byType := o.object("rope_parameters")
	if byType == nil {
		byType = &object{file: o.file}
	}
	for _, key := range slices.Sorted(maps.Keys(byType.values)) {
		if key != "full_attention" && key != "sliding_attention" {
			byType.fail(status.Unsupported, "%s is not supported here; supported: full_attention, sliding_attention", quote(key))
		}
	}
	parameters := func(kind string) *object {
		if p := byType.object(kind); p != nil {
			return p
		}
		return &object{file: o.file}
	}
	whole, local := parameters("full_attention"), parameters("sliding_attention")
	if scaling := o.object("rope_scaling"); scaling != nil {
		for _, of := range []struct {
			base layerBase
			p    **object
		}{{fullBase, &whole}, {slidingBase, &local}} {
			if !of.base.scaled {
				continue
			}
			for key, raw := range scaling.values {
				*of.p = (*of.p).with(key, raw)
			}
			(*of.p).file = scaling.file
		}
		if scaling.present("type") && !scaling.present("rope_type") {
			scaling.fail(status.Unsupported, "type %s is not supported here: transformers does not read it; supported: rope_type", quoteJSON(scaling.values["type"]))
		}
		o.err = firstOf(o.err, scaling.err)
	}
	o.err = firstOf(o.err, byType.err)
	full = o.rotation(whole, dim, o.number(fullBase.key, fullBase.theta, 1, maxRopeTheta), positions)
	sliding = o.rotation(local, dim, o.number(slidingBase.key, slidingBase.theta, 1, maxRopeTheta), positions)
	return full, sliding
}

// with returns a copy of the object with one more value.
func (o *object) with(key string, raw json.RawMessage) *object {
	values := map[string]json.RawMessage{key: raw}
	for k, v := range o.values {
		if k != key {
			values[k] = v
		}
	}
	return &object{file: o.file, values: values, err: o.err}
}

// rotation makes the rotation of whole heads that p describes. theta and positions are what p means where it does not have them. Faults
// are o's.
func (o *object) rotation(p *object, dim int, theta float64, positions int) *Rope {
	o.checkRotations("max_position_embeddings", positions, dim)
	if f := o.number("partial_rotary_factor", 1, 0, 1); f != 1 {
		o.fail(status.Unsupported, "partial_rotary_factor %s is not supported; supported: 1", quoteJSON(o.values["partial_rotary_factor"]))
	}
	theta = p.number("rope_theta", theta, 1, maxRopeTheta)
	kind := p.text("rope_type", p.text("type", "default"))
	s, ok := scalings[kind]
	if !ok {
		p.fail(status.Unsupported, "rope_type %s is not supported; supported: %s", quote(kind), strings.Join(slices.Sorted(maps.Keys(scalings)), ", "))
	}
	for _, key := range slices.Sorted(maps.Keys(p.values)) {
		switch {
		case key == "rope_type" || key == "type" || key == "rope_theta" || key == originalPositions || slices.Contains(s.keys, key):
		case key == "partial_rotary_factor":
			if f := p.number(key, 1, 0, 1); f != 1 {
				p.fail(status.Unsupported, "%s %s is not supported; supported: 1", key, quoteJSON(p.values[key]))
			}
		case p.present(key):
			p.fail(status.Unsupported, "%s %s is not supported for rope_type %s", quote(key), quoteJSON(p.values[key]), quote(kind))
		}
	}
	original := p.integer(originalPositions, positions, 1, maxTable)
	if o.err = firstOf(o.err, p.err); o.err != nil {
		return nil
	}
	r := plainRope(dim, theta)
	s.scale(p, r, theta, original)
	for i, f := range append([]float32{r.Factor}, r.InvFreq...) {
		if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
			p.fail(status.Start, "its numbers make frequency %d not finite", i-1)
		}
	}
	o.err = p.err
	return r
}

// plainRope has the frequencies theta^(-2i/dim), in the models' float32.
func plainRope(dim int, theta float64) *Rope {
	r := &Rope{Kind: RopeHalf, Dim: dim, InvFreq: make([]float32, dim/2), Factor: 1}
	for i := range r.InvFreq {
		exponent := float32(2*i) / float32(dim)
		r.InvFreq[i] = 1 / float32(math.Pow(float64(float32(theta)), float64(exponent)))
	}
	return r
}

// maxRotations bounds positions times dimensions: an engine may keep the cosine and sine of each.
const maxRotations = 1 << 28

// checkRotations refuses a rotation of heads of dim numbers that has no meaning, or whose tables would be too large. key has the positions.
func (o *object) checkRotations(key string, positions, dim int) {
	if dim%2 != 0 {
		o.fail(status.Start, "head_dim is %d; rope needs an even one", dim)
	}
	if o.err == nil && positions*dim > maxRotations {
		o.fail(status.Start, "%s %d times head_dim %d exceeds the limit of %d", key, positions, dim, maxRotations)
	}
}

// factor is a scaling's factor, which it must have.
func (o *object) factor() float32 {
	if !o.present("factor") {
		o.fail(status.Start, "factor is missing")
	}
	return float32(o.number("factor", 1, 1, maxRopeFactor))
}

func linearRope(c *object, r *Rope, _ float64, _ int) {
	factor := c.factor()
	for i := range r.InvFreq {
		r.InvFreq[i] /= factor
	}
}

// llama3Rope divides the frequencies of long waves, leaves those of short ones, and blends between.
func llama3Rope(c *object, r *Rope, _ float64, original int) {
	factor := c.factor()
	for _, key := range []string{"low_freq_factor", "high_freq_factor"} {
		if !c.present(key) {
			c.fail(status.Start, "%s is missing", key)
		}
	}
	low, high := c.number("low_freq_factor", 1, 1e-3, maxRopeFactor), c.number("high_freq_factor", 4, 1e-3, maxRopeFactor)
	if c.err == nil && high <= low {
		c.fail(status.Start, "high_freq_factor %g must be above low_freq_factor %g", high, low)
	}
	for i, f := range r.InvFreq {
		length := 2 * math.Pi / float64(f)
		switch {
		case length < float64(original)/high:
		case length > float64(original)/low:
			r.InvFreq[i] = f / factor
		default:
			smooth := float32((float64(original)/length - low) / (high - low))
			r.InvFreq[i] = (1-smooth)*f/factor + smooth*f
		}
	}
}

// yarnRope is YaRN (https://arxiv.org/abs/2309.00071): frequencies that turn less than beta_slow times in the original length are
// divided, those that turn more than beta_fast times are left, and a ramp lies between; cosine and sine are scaled.
func yarnRope(c *object, r *Rope, theta float64, original int) {
	factor := c.factor()
	fast, slow := c.number("beta_fast", 32, 0, maxRopeFactor), c.number("beta_slow", 1, 0, maxRopeFactor)
	if fast == 0 { // as in transformers, 0 stands for the default
		fast = 32
	}
	if slow == 0 {
		slow = 1
	}
	mscale := func(scale float64) float64 {
		if factor <= 1 {
			return 1
		}
		return 0.1*scale*math.Log(float64(factor)) + 1
	}
	attention := mscale(1)
	if all, some := c.number("mscale_all_dim", 0, 0, maxRopeFactor), c.number("mscale", 0, 0, maxRopeFactor); all != 0 && some != 0 {
		attention = mscale(some) / mscale(all)
	}
	r.Factor = float32(c.number("attention_factor", attention, 0, maxRopeFactor))

	dim := float64(r.Dim)
	at := func(rotations float64) float64 { // the number of a frequency that turns so often
		return dim * math.Log(float64(original)/(rotations*2*math.Pi)) / (2 * math.Log(theta))
	}
	low, high := at(fast), at(slow)
	if c.boolean("truncate", true) {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, dim-1)
	if low == high {
		high += 0.001
	}
	for i, f := range r.InvFreq {
		kept := 1 - float32(min(max((float64(i)-low)/(high-low), 0), 1))
		r.InvFreq[i] = f/factor*(1-kept) + f*kept
	}
}
