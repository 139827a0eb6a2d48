package manifest

// TF32 is the precision of float32 on a GPU, where products may be rounded to 10 bits.
const TF32 = "tf32"

// Threshold is how far outputs may be from the references.
type Threshold struct {
	MinCosine  float64 `json:"min_cosine"`  // of vectors; logits are held to MaxError only
	MaxError   float64 `json:"max_error"`   // largest difference, as a part of the reference's largest magnitude where that is above 1
	RankMargin float64 `json:"rank_margin"` // scores nearer than this may change places
}

// Override is what a manifest says of a Threshold; nil: the default.
type Override struct {
	MinCosine  *float64 `json:"min_cosine,omitempty"`
	MaxError   *float64 `json:"max_error,omitempty"`
	RankMargin *float64 `json:"rank_margin,omitempty"`
}

// defaults by precision. Rounding alone costs less on every model of the tests; a wrong activation, position or pooling more.
var defaults = map[string]Threshold{
	"float32":  {MinCosine: 0.99999, MaxError: 1e-3, RankMargin: 1e-4},
	TF32:       {MinCosine: 0.9999, MaxError: 5e-3, RankMargin: 1e-3},
	"float16":  {MinCosine: 0.9995, MaxError: 2e-2, RankMargin: 5e-3},
	"bfloat16": {MinCosine: 0.995, MaxError: 0.15, RankMargin: 2e-2},
	"float8":   {MinCosine: 0.98, MaxError: 0.3, RankMargin: 5e-2},
}

// Precision is the name by which thresholds are looked up for an engine that computes in precision on device.
func Precision(precision, device string) string {
	if precision == "float32" && device != "cpu" {
		return TF32
	}
	return precision
}

// Threshold is that of a precision: the default, with what the manifest says otherwise. Of an unknown one it is float8's.
func (m *Manifest) Threshold(precision string) Threshold {
	t, known := defaults[precision]
	if !known {
		t = defaults["float8"]
	}
	o := m.Thresholds[precision]
	for _, f := range []struct {
		from *float64
		to   *float64
	}{{o.MinCosine, &t.MinCosine}, {o.MaxError, &t.MaxError}, {o.RankMargin, &t.RankMargin}} {
		if f.from != nil {
			*f.to = *f.from
		}
	}
	return t
}
