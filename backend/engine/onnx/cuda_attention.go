package onnx

import (
	"fmt"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
)

// attentionForm is an operator, or a group of them, that attention becomes on CUDA.
type attentionForm string

// The forms. All but the last are fused and never hold scores in memory.
const (
	formPacked   attentionForm = "PackedMultiHeadAttention" // packed rows; as many key heads as query heads; both directions
	formPaged    attentionForm = "PagedAttention"           // packed rows; grouped heads; causal or not
	formGrouped  attentionForm = "GroupQueryAttention"      // padded rows; grouped heads; causal
	formMulti    attentionForm = "MultiHeadAttention"       // padded rows; windows and biases, held in memory as one
	formProducts attentionForm = "products"                 // padded rows; everything
)

const maxFusedHeadDim = 256

// expresses reports that a form can express a. The kernels of fused forms take 16-bit numbers and heads of multiples of 8;
// where a form is forced, by tests, its kernel for the CPU may take float32.
func (c *cudaOperators) expresses(form attentionForm, a *arch.Attention) bool {
	if form == formProducts {
		return true
	}
	if a.Disentangled != nil {
		return false
	}
	if a.HeadDim%8 != 0 || a.HeadDim > maxFusedHeadDim || c.l.g.dtype == ort.Float32 && form != c.force {
		return false
	}
	window := c.reaches(a.WindowLeft) || c.reaches(a.WindowRight) && !a.Causal
	plain := !window && a.AlibiSlopes == nil && a.RelativeBias == nil
	switch form {
	case formPacked:
		return plain && !a.Causal && a.KVHeads == a.Heads && a.Softcap == 0 && c.l.g.dtype == ort.Float16
	case formPaged:
		return plain && c.l.g.dtype != ort.Float32
	case formGrouped:
		return plain && a.Causal
	case formMulti:
		return a.Softcap == 0
	}
	return false
}

// reaches reports that a window hides anything from any sequence.
func (c *cudaOperators) reaches(window int) bool { return window >= 0 && window < c.l.positions-1 }

// form chooses the best form for a; the forced one where that can express it.
func (c *cudaOperators) form(a *arch.Attention) attentionForm {
	if c.force != "" && c.expresses(c.force, a) {
		return c.force
	}
	for _, f := range []attentionForm{formPacked, formPaged, formMulti} {
		if c.expresses(f, a) {
			return f
		}
	}
	return formProducts
}

func (c *cudaOperators) attend(x rows, a *arch.Attention) (rows, error) {
	form := c.form(a)
	c.forms[string(form)] = true
	switch form {
	case formPacked:
		return c.packed(x, a)
	case formPaged:
		return c.paged(x, a)
	}
	c.padded = true
	h, err := c.heads(x, a)
	if err != nil {
		return x, err
	}
	switch form {
	case formGrouped:
		return c.grouped(h, a), nil
	case formMulti:
		return c.multi(h, a)
	}
	planes := a.Heads
	if a.Disentangled != nil {
		planes *= 3 // scores, and before and after their places are picked, numbers by row
	}
	c.scores = max(c.scores, planes)
	return c.products(h, a)
}

// heads are rows of query, key and value heads, ready for the product: normalised, with rope.
type heads struct{ q, k, v rows }

func (c *cudaOperators) heads(x rows, a *arch.Attention) (heads, error) {
	if c.splits(a) {
		return c.split(x, a, caches{})
	}
	keys := a.KVHeads * a.HeadDim
	parts, biases, err := c.apart(x, a.QKV, a.Heads*a.HeadDim, keys, keys)
	if err != nil {
		return heads{}, err
	}
	for i := range parts {
		parts[i] = c.activate(parts[i], biases[i], arch.Identity)
	}
	h := heads{parts[0], parts[1], parts[2]}
	var q, k *arch.Norm
	if a.QKNorm != nil {
		q, k = &a.QKNorm.Q, &a.QKNorm.K
	}
	if h.q, err = c.prepare(h.q, q, a); err == nil {
		h.k, err = c.prepare(h.k, k, a)
	}
	return h, err
}

// splits reports that Heads can do all that is between the joined projection and attention. It has no kernel on the CPU.
func (c *cudaOperators) splits(a *arch.Attention) bool {
	const numbersOfALane = 8
	if n := a.QKNorm; n != nil && (n.FullWidth || !alike(n)) {
		return false
	}
	return !c.onCPU && a.HeadDim <= maxFusedHeadDim && a.HeadDim%numbersOfALane == 0 && (a.Rope == nil || a.Rope.Dim%numbersOfALane == 0)
}

// caches are pages for keys and values, [pages, rows, heads, dim], and the row of theirs that a row has.
type caches struct{ keys, values, slots string }

// split is one product and Heads: the bias, the norm of each head, and rope by the row's position id. Where there are caches keys and values go
// there, and are not among what it returns.
func (c *cudaOperators) split(x rows, a *arch.Attention, to caches) (heads, error) {
	g := c.l.g
	qkv, bias, err := c.l.linear(x, a.QKV...)
	if err != nil {
		return heads{}, err
	}
	inputs := []string{qkv.name, "", bias, "", "", "", "", "", "", to.slots, to.keys, to.values}
	attrs := []attr{{"num_heads", int64(a.Heads)}, {"num_kv_heads", int64(a.KVHeads)}, {"head_dim", int64(a.HeadDim)}}
	if attrs, err = c.qkNorm(attrs, inputs[3:7], a.QKNorm); err != nil {
		return heads{}, err
	}
	if attrs, err = c.ropeInputs(attrs, inputs[7:9], a.Rope); err != nil {
		return heads{}, err
	}
	if a.Rope != nil {
		inputs[1] = g.input(positionIDs, ort.Int32, tokens)
	}
	query, keys := a.Heads*a.HeadDim, a.KVHeads*a.HeadDim
	h := heads{q: g.typedRows(qkv.dtype, qkv.count, query)}
	outputs := []string{h.q.name}
	if to.slots == "" {
		h.k, h.v = g.typedRows(qkv.dtype, qkv.count, keys), g.typedRows(qkv.dtype, qkv.count, keys)
		outputs = append(outputs, h.k.name, h.v.name)
	}
	g.add(domainOnCUDA(qkv.dtype), "Heads", inputs, outputs, attrs...)
	return h, nil
}

// prepare normalises whole rows of heads, or each head by itself, and rotates them. The operators want shapes of their own.
func (c *cudaOperators) prepare(x rows, n *arch.Norm, a *arch.Attention) (rows, error) {
	var err error
	if n != nil && a.QKNorm.FullWidth {
		if x, err = c.norm(x, "", n, rows{}, nil); err != nil {
			return x, err
		}
		n = nil
	}
	shaped := x.name
	if n != nil {
		each := rows{c.reshape(x.name, -1, a.HeadDim), dim{name: fmt.Sprint("heads_of_", x.width, "_by_", a.HeadDim)}, a.HeadDim, x.dtype}
		if each, err = c.norm(each, "", n, rows{}, nil); err != nil {
			return x, err
		}
		shaped = each.name
	}
	if a.Rope != nil {
		if shaped, err = c.rope(c.reshape(shaped, -1, 1, x.width), a, x); err != nil {
			return x, err
		}
	}
	if shaped == x.name {
		return x, nil
	}
	y := c.l.g.typedRows(x.dtype, x.count, x.width)
	c.l.g.add("", "Reshape", []string{shaped, c.shape(-1, x.width)}, []string{y.name})
	return y, nil
}

// rope rotates x [rows, 1, heads * head_dim], the heads of like, each row by its position id. The operator computes in the
// dtype of the rows and wants its tables in it, as transformers has them: these are rounded once, after cos and sin, so
// that they are as exact at great positions as at small ones. Rotating in float32 would cost four more passes over query
// and key. Each row is a batch of its own to the operator, which on the CPU refuses sequences longer than its tables.
func (c *cudaOperators) rope(x string, a *arch.Attention, like rows) (string, error) {
	g, r := c.l.g, a.Rope
	if r.Kind != arch.RopeHalf && r.Kind != arch.RopeInterleaved {
		c.l.refuse("rope kind %d on cuda", r.Kind)
	}
	cos, sin, err := c.l.ropeTables(r, like.dtype)
	if err != nil {
		return "", err
	}
	positions := c.shared("rope positions", func() string {
		return c.reshape(g.op("", "Cast", []string{g.input(positionIDs, ort.Int32, tokens)}, attr{"to", int64(ort.Int64)}), -1, 1)
	})
	return g.op(domainOfMicrosoft, "RotaryEmbedding", []string{x, positions, cos, sin}, attr{"interleaved", flag(r.Kind == arch.RopeInterleaved)},
		attr{"num_heads", int64(like.width / a.HeadDim)}, attr{"rotary_embedding_dim", int64(r.Dim)}), nil
}

// ---- Fused forms over packed rows ----

// packed is PackedMultiHeadAttention. Given query, key and value apart and without a bias, it takes the flash kernel at any length.
func (c *cudaOperators) packed(x rows, a *arch.Attention) (rows, error) {
	g := c.l.g
	h, err := c.heads(x, a)
	if err != nil {
		return x, err
	}
	inputs := []string{h.q.name, h.k.name, h.v.name, "", g.input(tokenOffset, ort.Int32, filled, longest),
		g.input(filledCuSeqLens, ort.Int32, dim{name: "filled_plus_one"})}
	y := g.rows(x.count, a.Heads*a.HeadDim)
	g.add(domainOfMicrosoft, "PackedMultiHeadAttention", inputs, []string{y.name}, attr{"num_heads", int64(a.Heads)}, attr{"scale", a.Scale})
	return y, nil
}

// pageRows is the least page of a cache that the flash kernel of PagedAttention reads, by the size of heads.
func pageRows(headDim int) int {
	switch {
	case headDim <= 64:
		return 256
	case headDim <= 128:
		return 128
	}
	return 64
}

// paged is PagedAttention over a cache that lives for one run: each sequence has pages of its own, with nothing in them
// before. All layers use the same one in turn, since they run in order on one stream. The operator could do rope, but by
// positions that it counts from 0 in each sequence, not by position ids; and it could write to the cache, but slowly: Heads does, and
// the operator, told of no slots, does not read the keys and values that it must be given all the same.
func (c *cudaOperators) paged(x rows, a *arch.Attention) (rows, error) {
	l, g := c.l, c.l.g
	attrs := []attr{
		{"num_heads", int64(a.Heads)}, {"kv_num_heads", int64(a.KVHeads)}, {"scale", a.Scale}, {"softcap", a.Softcap}, {"is_causal", flag(a.Causal)},
	}
	cache := func(kind string) string {
		return c.shared(fmt.Sprint(kind, a.KVHeads, " ", a.HeadDim), func() string {
			shape := g.shapeInput(fmt.Sprintf("cache_%d_%d", a.KVHeads, a.HeadDim), pages, pageSize, dim{size: a.KVHeads}, dim{size: a.HeadDim})
			return g.op("", "Expand", []string{l.b.scalar(0), shape})
		})
	}
	to := caches{keys: cache("key cache "), values: cache("value cache ")}
	var h heads
	var slots string
	var err error
	if c.splits(a) {
		to.slots, slots = g.input(cacheSlots, ort.Int32, tokens), g.input(noSlots, ort.Int32, tokens)
		if h, err = c.split(x, a, to); err != nil {
			return x, err
		}
		width := a.KVHeads * a.HeadDim
		h.k.name = c.shared(fmt.Sprint("unread rows of ", width), func() string {
			return g.op("", "Expand", []string{l.b.scalar(0), g.shapeInput(fmt.Sprint("rows_", width), tokens, dim{size: width})})
		})
		h.v = h.k
	} else {
		h, err = c.heads(x, a)
	}
	if err != nil {
		return x, err
	}
	inputs := []string{h.q.name, h.k.name, h.v.name, to.keys, to.values,
		g.input(filledCuSeqLens, ort.Int32, dim{name: "filled_plus_one"}), g.input(pastLengths, ort.Int32, filled),
		g.input(blockTable, ort.Int32, filled, dim{name: "blocks"}), "", "", slots, "", "", "", "", "",
		g.input(attentionMetadata, ort.Int32, dim{size: 3})}
	y := g.rows(x.count, a.Heads*a.HeadDim)
	g.add(domainOfMicrosoft, "PagedAttention", inputs, []string{y.name}, attrs...)
	return y, nil
}
