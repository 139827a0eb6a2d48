package suite

import (
	"math"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/weights"
)

// reference is a transformer in float64, written from arch.Model's comments as loops over single sequences. It shares
// no code with any engine and is made to be read, not to be fast.
type reference struct {
	t       require.TestingT
	m       *arch.Model
	weights *weights.Set
	cache   map[string][]float64
	seen    map[string]float64 // largest magnitude of a linear map's input, by its weight
}

type vectors [][]float64

func newReference(t require.TestingT, c *Case) *reference {
	return &reference{t: t, m: c.Model, weights: c.Weights, cache: make(map[string][]float64), seen: make(map[string]float64)}
}

// tensor returns a weight, row after row; nil where it is absent.
func (r *reference) tensor(t arch.Tensor) []float64 {
	if t.Absent() {
		return nil
	}
	if r.cache[t.Name] == nil {
		stored, err := r.weights.Tensor(t.Name)
		require.NoError(r.t, err)
		r.cache[t.Name] = float64s(stored.AppendFloat32(nil))
	}
	return r.cache[t.Name]
}

// fill computes what the sequences must give.
func (r *reference) fill(sequences []Sequence) {
	for i := range sequences {
		q := &sequences[i]
		rows := r.hidden(q)
		switch r.m.Head.Kind {
		case arch.HeadSparse:
			q.Sparse = splade(r.chain(rows))
		case arch.HeadTokenClassifier:
			rows = r.chain(rows)
		default:
			q.Pooled = r.chain(vectors{r.pool(rows, q.Skip)})[0]
			rows = r.tokenRows(rows)
		}
		for _, row := range rows {
			q.TokenVectors = append(q.TokenVectors, row...)
		}
	}
}

// splade is the largest log(1 + relu(logit)) of each column.
func splade(logits vectors) []float64 {
	y := make([]float64, len(logits[0]))
	for _, row := range logits {
		for c, x := range row {
			y[c] = max(y[c], math.Log1p(max(x, 0)))
		}
	}
	return y
}

func (r *reference) hidden(q *Sequence) vectors {
	e := &r.m.Embeddings
	x := make(vectors, len(q.IDs))
	width := e.Word.Shape[1]
	for t := range x {
		x[t] = make([]float64, width)
		for c := range x[t] {
			x[t][c] = float64(e.Scale) * r.tensor(e.Word)[int(q.IDs[t])*width+c]
			if !e.Position.Absent() {
				x[t][c] += r.tensor(e.Position)[int(q.Positions[t])*width+c]
			}
			if !e.Type.Absent() {
				x[t][c] += r.tensor(e.Type)[int(q.Types[t])*width+c]
			}
		}
	}
	x = r.norm(e.Norm, x)
	if e.Projection != nil {
		x = r.linear(*e.Projection, x)
	}
	for i := range r.m.Layers {
		l := &r.m.Layers[i]
		x = r.block(l.AttentionNorms, x, func(x vectors) vectors { return r.attention(&l.Attention, q, x) })
		x = r.block(l.MLPNorms, x, func(x vectors) vectors { return r.mlp(&l.MLP, x) })
	}
	return r.norm(r.m.FinalNorm, x)
}

func (r *reference) block(n arch.BlockNorms, x vectors, f func(vectors) vectors) vectors {
	y := r.norm(n.After, f(r.norm(n.Before, x)))
	if n.Inner != nil {
		y = r.norm(n.Inner, add(x, y))
	}
	return r.norm(n.Residual, add(x, y))
}

func add(x, y vectors) vectors {
	sum := make(vectors, len(x))
	for t := range x {
		for c := range x[t] {
			sum[t] = append(sum[t], x[t][c]+y[t][c])
		}
	}
	return sum
}

func (r *reference) linear(l arch.Linear, x vectors) vectors {
	for t := range x {
		for _, v := range x[t] {
			r.seen[l.Weight.Name] = max(r.seen[l.Weight.Name], math.Abs(v))
		}
	}
	return r.product(l, x)
}

func (r *reference) product(l arch.Linear, x vectors) vectors {
	w, bias := r.tensor(l.Weight), r.tensor(l.Bias)
	if l.Score != nil {
		w = r.scoreRow(l, w)
	}
	y := make(vectors, len(x))
	for t := range x {
		for o := range l.Out {
			sum := 0.0
			if bias != nil {
				sum = bias[o]
			}
			for i := range l.In {
				if l.Transposed {
					sum += x[t][i] * w[i*l.Out+o]
				} else {
					sum += x[t][i] * w[o*l.In+i]
				}
			}
			y[t] = append(y[t], sum)
		}
	}
	return y
}

// scoreRow is the row of one token less that of another.
func (r *reference) scoreRow(l arch.Linear, table []float64) []float64 {
	row := append([]float64(nil), table[l.Score.True*l.In:(l.Score.True+1)*l.In]...)
	for i := range row {
		if l.Score.False >= 0 {
			row[i] -= table[l.Score.False*l.In+i]
		}
	}
	return row
}

func (r *reference) norm(n *arch.Norm, x vectors) vectors {
	if n == nil {
		return x
	}
	y := make(vectors, len(x))
	for t := range x {
		y[t] = r.normRow(n, x[t])
	}
	return y
}

func (r *reference) normRow(n *arch.Norm, x []float64) []float64 {
	mean, square := 0.0, 0.0
	if n.Kind == arch.LayerNorm {
		for _, v := range x {
			mean += v / float64(len(x))
		}
	}
	for _, v := range x {
		square += (v - mean) * (v - mean) / float64(len(x))
	}
	w, b := r.tensor(n.Weight), r.tensor(n.Bias)
	y := make([]float64, len(x))
	for c, v := range x {
		y[c] = (v - mean) / math.Sqrt(square+float64(n.Eps))
		if w != nil && n.OnePlusWeight {
			y[c] *= 1 + w[c]
		} else if w != nil {
			y[c] *= w[c]
		}
		if b != nil {
			y[c] += b[c]
		}
	}
	return y
}

func activate(a arch.Activation, x float64) float64 {
	switch a {
	case arch.GELU:
		return x * 0.5 * math.Erfc(-x/math.Sqrt2)
	case arch.GELUTanh:
		return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
	case arch.QuickGELU:
		return x / (1 + math.Exp(-1.702*x))
	case arch.ReLU:
		return max(x, 0)
	case arch.SiLU:
		return x / (1 + math.Exp(-x))
	case arch.Tanh:
		return math.Tanh(x)
	}
	return x
}

func (r *reference) mlp(m *arch.MLP, x vectors) vectors {
	var up, gate vectors
	switch {
	case m.GateUp.Out > 0:
		for _, row := range r.linear(m.GateUp, x) {
			first, second := row[:len(row)/2], row[len(row)/2:]
			if m.UpFirst {
				first, second = second, first
			}
			gate, up = append(gate, first), append(up, second)
		}
	case m.Gate.Out > 0:
		gate, up = r.linear(m.Gate, x), r.linear(m.Up, x)
	default:
		up = r.linear(m.Up, x)
	}
	for t := range up {
		for c := range up[t] {
			if gate != nil {
				up[t][c] *= activate(m.Activation, gate[t][c])
			} else {
				up[t][c] = activate(m.Activation, up[t][c])
			}
		}
	}
	return r.linear(m.Down, up)
}

func (r *reference) attention(a *arch.Attention, q *Sequence, x vectors) vectors {
	joined := make(vectors, len(x))
	for _, l := range a.QKV {
		for t, row := range r.linear(l, x) {
			joined[t] = append(joined[t], row...)
		}
	}
	heads := make([][]vectors, len(x)) // [token][query, key, value][head]
	for t, row := range joined {
		query, rest := row[:a.Heads*a.HeadDim], row[a.Heads*a.HeadDim:]
		key, val := rest[:a.KVHeads*a.HeadDim], rest[a.KVHeads*a.HeadDim:]
		if n := a.QKNorm; n != nil && n.FullWidth {
			query, key = r.normRow(&n.Q, query), r.normRow(&n.K, key)
		}
		heads[t] = []vectors{split(query, a.HeadDim), split(key, a.HeadDim), split(val, a.HeadDim)}
		for h := range heads[t][0] {
			heads[t][0][h] = r.prepare(a, heads[t][0][h], false, q.Positions[t])
		}
		for h := range heads[t][1] {
			heads[t][1][h] = r.prepare(a, heads[t][1][h], true, q.Positions[t])
		}
	}
	place := r.disentangled(a.Disentangled, a.HeadDim)
	out := make(vectors, len(x))
	for i := range x {
		for h := range a.Heads {
			out[i] = append(out[i], r.attend(a, heads, place, i, h)...)
		}
	}
	return r.linear(a.Out, out)
}

// prepare normalises a head's query or key and rotates it.
func (r *reference) prepare(a *arch.Attention, v []float64, key bool, position int32) []float64 {
	if n := a.QKNorm; n != nil && !n.FullWidth {
		if key {
			v = r.normRow(&n.K, v)
		} else {
			v = r.normRow(&n.Q, v)
		}
	}
	if a.Rope == nil {
		return v
	}
	y := append([]float64(nil), v...)
	for i, freq := range a.Rope.InvFreq {
		first, second := i, i+a.Rope.Dim/2
		if a.Rope.Kind == arch.RopeInterleaved {
			first, second = 2*i, 2*i+1
		}
		sin, cos := math.Sincos(float64(position) * float64(freq))
		sin, cos = sin*float64(a.Rope.Factor), cos*float64(a.Rope.Factor)
		y[first] = v[first]*cos - v[second]*sin
		y[second] = v[second]*cos + v[first]*sin
	}
	return y
}

// attend is the output of query head h of token i.
func (r *reference) attend(a *arch.Attention, heads [][]vectors, place placing, i, h int) []float64 {
	kv := h / (a.Heads / a.KVHeads)
	scores, most := make(map[int]float64), math.Inf(-1)
	for j := range heads {
		if (a.WindowLeft >= 0 && j < i-a.WindowLeft) || (a.WindowRight >= 0 && j > i+a.WindowRight) || (a.Causal && j > i) {
			continue
		}
		scores[j] = r.score(a, heads[i][0][h], heads[j][1][kv], place, h, i-j)
		most = max(most, scores[j])
	}
	out, total := make([]float64, a.HeadDim), 0.0
	for j := range heads { // in order, so that sums are the same each time
		s, seen := scores[j]
		if !seen {
			continue
		}
		p := math.Exp(s - most)
		total += p
		for c := range out {
			out[c] += p * heads[j][2][kv][c]
		}
	}
	for c := range out {
		out[c] /= total
	}
	return out
}

// score is what a query of head h gives a key at that distance (query minus key).
func (r *reference) score(a *arch.Attention, query, key []float64, place placing, h, distance int) float64 {
	s := place(query, key, h, distance)
	for c := range a.HeadDim {
		s += query[c] * key[c]
	}
	s *= float64(a.Scale)
	if a.Softcap > 0 {
		s = float64(a.Softcap) * math.Tanh(s/float64(a.Softcap))
	}
	if a.AlibiSlopes != nil {
		s -= float64(a.AlibiSlopes[h]) * math.Abs(float64(distance))
	}
	if a.RelativeBias != nil {
		s += r.tensor(a.RelativeBias.Weight)[relativeBucket(a.RelativeBias, -distance)*a.Heads+h]
	}
	return s
}

// relativeBucket is the bucket of a key's distance from the query, as T5's paper tells it
// (https://arxiv.org/abs/1910.10683, section 2.1): each small distance has its own bucket, larger ones share buckets
// whose sizes grow exponentially up to MaxDistance.
func relativeBucket(b *arch.RelativeBias, distance int) int {
	buckets, first := b.Buckets, 0
	if b.Bidirectional {
		buckets /= 2
		if distance > 0 {
			first = buckets
		}
		distance = max(distance, -distance)
	} else {
		distance = max(0, -distance)
	}
	exact := buckets / 2
	for bucket := range exact {
		if distance == bucket {
			return first + bucket
		}
	}
	for bucket := exact; bucket < buckets-1; bucket++ {
		end := float64(exact) * math.Pow(float64(b.MaxDistance)/float64(exact), float64(bucket+1-exact)/float64(buckets-exact))
		if float64(distance) < end {
			return first + bucket
		}
	}
	return first + buckets - 1
}

func split(row []float64, width int) vectors {
	var parts vectors
	for ; len(row) > 0; row = row[width:] {
		parts = append(parts, row[:width])
	}
	return parts
}

func (r *reference) chain(x vectors) vectors {
	for i := range r.m.Head.Chain {
		d := &r.m.Head.Chain[i]
		y := x
		if !d.Linear.Absent() {
			y = r.linear(d.Linear, x)
		}
		for t := range y {
			for c := range y[t] {
				y[t][c] = activate(d.Activation, y[t][c])
			}
		}
		x = r.norm(d.Norm, y)
	}
	return x
}

// tokenRows are the columns of a token head's maps, side by side.
func (r *reference) tokenRows(rows vectors) vectors {
	h := r.m.Head.Tokens
	if h == nil {
		return rows
	}
	y := r.linear(h.Vector, rows)
	for t, weight := range r.linear(h.Weight, rows) {
		y[t] = append(y[t], weight...)
	}
	return y
}

func (r *reference) pool(rows vectors, skip int) []float64 {
	if !r.m.Head.Pooling.ExcludePrompt {
		skip = 0
	}
	var joined []float64
	for _, mode := range r.m.Head.Pooling.Modes {
		y := make([]float64, len(rows[0]))
		for c := range y {
			sum, weights, largest := 0.0, 0.0, math.Inf(-1)
			for t := skip; t < len(rows); t++ {
				w := 1.0
				if mode == arch.PoolWeightedMean {
					w = float64(t + 1)
				}
				sum, weights, largest = sum+w*rows[t][c], weights+w, max(largest, rows[t][c])
			}
			switch mode {
			case arch.PoolCLS:
				y[c] = rows[0][c]
			case arch.PoolLastToken:
				y[c] = rows[len(rows)-1][c]
			case arch.PoolMax:
				y[c] = largest
			case arch.PoolMeanSqrtLen:
				y[c] = sum / math.Sqrt(weights)
			default:
				y[c] = sum / weights
			}
		}
		joined = append(joined, y...)
	}
	return joined
}
