// Package calibration has the file bei-fp8.json: the largest magnitude that each quantised input of a model takes over a text
// file. `bei calibrate` measures them with the CPU engine; engines that multiply in FP8 read them and scale by them.
package calibration

import (
	"math"
	"slices"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/document"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// FileName is the file's name, beside the model's config.json.
const FileName = "bei-fp8.json"

// EmbeddingProjection is the key of the input of arch.Embeddings.Projection.
const EmbeddingProjection = "embeddings.projection"

// AttentionQKV is the key of the one input of a layer's query, key and value maps; layers count from 0.
func AttentionQKV(layer int) string { return layerKey(layer, "attention.qkv") }

// AttentionOut is the key of the input of a layer's output projection: what attention gives.
func AttentionOut(layer int) string { return layerKey(layer, "attention.out") }

// MLPUp is the key of the input of a layer's up map, and of its gate.
func MLPUp(layer int) string { return layerKey(layer, "mlp.up") }

// MLPDown is the key of the input of a layer's down map.
func MLPDown(layer int) string { return layerKey(layer, "mlp.down") }

// Head is the key of the input of an arch.Dense of the head's chain.
func Head(dense int) string { return "head." + strconv.Itoa(dense) }

// TokenHead is the key of the one input of arch.TokenHead's maps.
const TokenHead = "head.tokens"

func layerKey(layer int, name string) string { return "layers." + strconv.Itoa(layer) + "." + name }

// Keys returns the keys of a model's linear maps in the order of computation: one for each input, so that maps of one input share it.
func Keys(m *arch.Model) []string {
	var keys []string
	if m.Embeddings.Projection != nil {
		keys = append(keys, EmbeddingProjection)
	}
	for i := range m.Layers {
		keys = append(keys, AttentionQKV(i), AttentionOut(i), MLPUp(i), MLPDown(i))
	}
	for i := range m.Head.Chain {
		if !m.Head.Chain[i].Linear.Absent() {
			keys = append(keys, Head(i))
		}
	}
	if m.Head.Tokens != nil {
		keys = append(keys, TokenHead)
	}
	return keys
}

// Scales is the content of the file. It is immutable.
type Scales struct {
	Fingerprint string // of the weights that the numbers belong to: weights.Set.Fingerprint
	Texts       int    // how many were run, at least 1
	Tokens      int64  // of all of them, special ones included, at least 1

	keys []string
	amax map[string]float32
}

// New makes Scales of measured maxima: one for each of keys, which are Keys of the model, and no others. Errors are status.Start; they
// name the key whose maximum cannot scale anything: it is zero, infinite or NaN.
func New(fingerprint string, texts int, tokens int64, keys []string, amax map[string]float32) (*Scales, error) {
	s := &Scales{Fingerprint: fingerprint, Texts: texts, Tokens: tokens, keys: slices.Clone(keys), amax: make(map[string]float32, len(amax))}
	if texts < 1 || tokens < 1 {
		return nil, status.Errorf(status.Start, "calibration over %d texts of %d tokens: there must be some", texts, tokens)
	}
	for _, key := range keys {
		v, ok := amax[key]
		if !ok {
			return nil, status.Errorf(status.Start, "amax has no key %q of the model", key)
		}
		if !(v > 0) || math.IsInf(float64(v), 0) {
			return nil, status.Errorf(status.Start, "amax of %q is %g; it must be above 0 and finite", key, v)
		}
		s.amax[key] = v
	}
	for key := range amax {
		if _, ok := s.amax[key]; !ok {
			return nil, status.Errorf(status.Start, "amax has the key %s, which the model has not", document.Quote(key))
		}
	}
	return s, nil
}

// Amax returns the largest magnitude of a key's input, above 0 and finite. An unknown key is status.Internal: an engine asks for what
// Keys does not have.
func (s *Scales) Amax(key string) (float32, error) {
	v, ok := s.amax[key]
	if !ok {
		return 0, status.Errorf(status.Internal, "%s has no key %q", FileName, key)
	}
	return v, nil
}

// Keys returns the keys in their order.
func (s *Scales) Keys() []string { return slices.Clone(s.keys) }
