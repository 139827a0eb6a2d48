package arch

import (
	"math"
	"runtime"
	"sync"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Check refuses numbers for which the rows have no meaning, and terms that do not fit heads of that number and size.
func (d *Disentangled) Check(heads, kvHeads, headDim int) error {
	if d.Span < 1 || d.Span > maxRelativeDistance || len(d.Embeddings.Shape) != 2 || d.Embeddings.Shape[0] != 2*d.Span {
		return status.Errorf(status.Unsupported, "disentangled attention of span %d with embeddings of shape %v", d.Span, d.Embeddings.Shape)
	}
	if d.Buckets != 0 && (d.Buckets < 2 || d.MaxDistance-1 <= d.Buckets/2 || d.MaxDistance > maxRelativeDistance) {
		return status.Errorf(status.Unsupported, "disentangled attention of %d buckets up to distance %d", d.Buckets, d.MaxDistance)
	}
	if kvHeads != heads {
		return status.Errorf(status.Unsupported, "disentangled attention with %d query heads but %d key heads", heads, kvHeads)
	}
	if d.Key == nil && d.Query == nil {
		return status.Errorf(status.Unsupported, "disentangled attention without a map for keys or queries")
	}
	for _, l := range []*Linear{d.Key, d.Query} {
		if l != nil && (l.Transposed || l.In != d.Embeddings.Shape[1] || l.Out != heads*headDim) {
			return status.Errorf(status.Unsupported, "disentangled attention: weight %q maps %d columns to %d; the embeddings have %d, the heads %d",
				l.Weight.Name, l.In, l.Out, d.Embeddings.Shape[1], heads*headDim)
		}
	}
	return nil
}

// Name tells embeddings of distances apart, by their weights.
func (d *Disentangled) Name() string {
	if d.Norm == nil {
		return d.Embeddings.Name
	}
	return d.Embeddings.Name + " normalised by " + d.Norm.Weight.Name
}

// Rows returns the row of each distance i - j from -most to most: [2 * most + 1]. Larger distances, in sequences of up to longest tokens,
// have the rows of the ends. Check must have passed.
func (d *Disentangled) Rows(longest int) []int32 {
	most := 1
	for most < longest-1 && (d.row(most) < 2*d.Span-1 || d.row(-most) > 0) {
		most++
	}
	rows := make([]int32, 0, 2*most+1)
	for distance := -most; distance <= most; distance++ {
		rows = append(rows, int32(d.row(distance)))
	}
	return rows
}

// row is make_log_bucket_position of transformers' modeling_deberta_v2.py, moved to count from 0. In float32, as there: on the borders between
// rows rounding decides.
func (d *Disentangled) row(distance int) int {
	middle := d.Buckets / 2
	bucket, far := distance, max(distance, -distance)
	if d.Buckets > 0 && far > middle {
		log := func(x float32) float32 { return float32(math.Log(float64(x))) }
		steps := log(float32(far)/float32(middle)) / log(float32(float64(d.MaxDistance-1)/float64(middle))) * float32(middle-1)
		bucket = int(math.Ceil(float64(steps))) + middle
		if distance < 0 {
			bucket = -bucket
		}
	}
	return min(max(bucket+d.Span, 0), 2*d.Span-1)
}

// Tables returns Key(e) and Query(e) for all rows e of the embeddings: [2 * Span, Heads * HeadDim] each, nil where the term is. They depend on
// weights alone, so an engine makes them once. read returns a weight's numbers. Check must have passed.
func (d *Disentangled) Tables(read func(Tensor) ([]float32, error)) (keys, queries []float32, err error) {
	e, err := read(d.Embeddings)
	if err != nil {
		return nil, nil, err
	}
	if d.Norm != nil {
		if e, err = d.normalised(e, read); err != nil {
			return nil, nil, err
		}
	}
	for _, term := range []struct {
		linear *Linear
		table  *[]float32
	}{{d.Key, &keys}, {d.Query, &queries}} {
		if term.linear == nil {
			continue
		}
		weight, err := read(term.linear.Weight)
		if err != nil {
			return nil, nil, err
		}
		var bias []float32
		if !term.linear.Bias.Absent() {
			if bias, err = read(term.linear.Bias); err != nil {
				return nil, nil, err
			}
		}
		*term.table = project(e, weight, bias, term.linear.In, term.linear.Out)
	}
	return keys, queries, nil
}

// normalised is a LayerNorm with weight and bias, which is the only norm of embeddings that there is.
func (d *Disentangled) normalised(e []float32, read func(Tensor) ([]float32, error)) ([]float32, error) {
	if d.Norm.Kind != LayerNorm || d.Norm.OnePlusWeight || d.Norm.Weight.Absent() || d.Norm.Bias.Absent() {
		return nil, status.Errorf(status.Unsupported, "disentangled attention: a norm of the embeddings that is not LayerNorm with weight and bias")
	}
	weight, err := read(d.Norm.Weight)
	if err != nil {
		return nil, err
	}
	bias, err := read(d.Norm.Bias)
	if err != nil {
		return nil, err
	}
	width := len(weight)
	all := make([]float32, len(e))
	for r := 0; r < len(e); r += width {
		row, mean, square := e[r:r+width], 0.0, 0.0
		for _, x := range row {
			mean += float64(x)
		}
		mean /= float64(width)
		for _, x := range row {
			square += (float64(x) - mean) * (float64(x) - mean)
		}
		factor := 1 / math.Sqrt(square/float64(width)+float64(d.Norm.Eps))
		for c, x := range row {
			all[r+c] = float32((float64(x)-mean)*factor)*weight[c] + bias[c]
		}
	}
	return all, nil
}

// project is x W^T + b with x [rows, in] and W [out, in], on all cores: a large model has some 10^10 products here.
func project(x, weight, bias []float32, in, out int) []float32 {
	rows := len(x) / in
	y := make([]float32, rows*out)
	var group sync.WaitGroup
	share := (rows + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0)
	for first := 0; first < rows; first += share {
		group.Go(func() {
			last := min(first+share, rows)
			for r := first; r < last; r += 2 { // the last row may be done twice
				second := min(r+1, last-1)
				projectRows(y[r*out:(r+1)*out], y[second*out:(second+1)*out], x[r*in:(r+1)*in], x[second*in:(second+1)*in], weight)
			}
			for r := first; r < last; r++ {
				for o, b := range bias {
					y[r*out+o] += b
				}
			}
		})
	}
	group.Wait()
	return y
}

// projectRows has eight sums at a time, so that few numbers are loaded for each product and additions need not wait for each other.
func projectRows(y, z, x, u, weight []float32) {
	in, o := len(x), 0
	u = u[:in]
	for ; o+4 <= len(y); o += 4 {
		w0, w1, w2, w3 := weight[o*in:][:in], weight[(o+1)*in:][:in], weight[(o+2)*in:][:in], weight[(o+3)*in:][:in]
		var a0, a1, a2, a3, b0, b1, b2, b3 float32
		for i, a := range x {
			b, c, d, e, f := u[i], w0[i], w1[i], w2[i], w3[i]
			a0, a1, a2, a3 = a0+a*c, a1+a*d, a2+a*e, a3+a*f
			b0, b1, b2, b3 = b0+b*c, b1+b*d, b2+b*e, b3+b*f
		}
		y[o], y[o+1], y[o+2], y[o+3] = a0, a1, a2, a3
		z[o], z[o+1], z[o+2], z[o+3] = b0, b1, b2, b3
	}
	for ; o < len(y); o++ {
		var a, b float32
		for i, c := range weight[o*in:][:in] {
			a, b = a+x[i]*c, b+u[i]*c
		}
		y[o], z[o] = a, b
	}
}
