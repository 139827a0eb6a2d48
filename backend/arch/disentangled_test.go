package arch

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

func TestDisentangledRows(t *testing.T) {
	// Values of transformers' make_log_bucket_position, on the borders in particular: of DeBERTa v3's config, and of an odd one.
	v3 := &Disentangled{Span: 256, Buckets: 256, MaxDistance: 512}
	for distance, want := range map[int]int{
		0: 0, 1: 1, -1: -1, 128: 128, 129: 129, 131: 131, 132: 131, 133: 132, 134: 133, -135: -133, -136: -134,
		489: 251, 490: 252, 494: 252, 495: 253, 500: 254, -505: -254, 506: 255, -511: -255, -512: -256, -600: -256, 600: 255,
	} {
		require.Equal(t, want+256, v3.row(distance), "distance %d", distance)
	}
	rows := v3.Rows(1 << 20)
	require.Len(t, rows, 2*512+1, "from there on all have the rows of the ends")
	require.Equal(t, []int32{0, 511}, []int32{rows[0], rows[len(rows)-1]})
	require.Len(t, v3.Rows(100), 2*99+1)
	require.Len(t, v3.Rows(1), 3)

	odd := &Disentangled{Span: 10, Buckets: 10, MaxDistance: 40}
	for distance, want := range map[int]int{5: 5, 6: 6, 8: 6, 9: 7, 13: 7, 14: 8, 23: 8, 24: 9, 40: 9, -39: -9, -40: -10} {
		require.Equal(t, want+10, odd.row(distance), "distance %d", distance)
	}
	each := &Disentangled{Span: 3}
	require.Equal(t, []int32{0, 1, 2, 3, 4, 5, 5}, each.Rows(9))
}

func TestDisentangledTables(t *testing.T) {
	const rows, in, out = 14, 7, 9
	numbers := map[string][]float32{"e": make([]float32, rows*in), "w": make([]float32, out*in), "b": make([]float32, out), "norm": make([]float32, in)}
	for name := range numbers {
		for i := range numbers[name] {
			numbers[name][i] = float32(math.Sin(float64(len(name) + 3*i)))
		}
	}
	read := func(t Tensor) ([]float32, error) {
		if numbers[t.Name] == nil {
			return nil, errors.New("no " + t.Name)
		}
		return numbers[t.Name], nil
	}
	norm := Tensor{"norm", []int{in}}
	d := &Disentangled{
		Embeddings: Tensor{"e", []int{rows, in}}, Norm: &Norm{Weight: norm, Bias: norm, Eps: 0.1}, Span: rows / 2,
		Key: &Linear{Weight: Tensor{"w", []int{out, in}}, Bias: Tensor{"b", []int{out}}, In: in, Out: out},
	}
	require.NoError(t, d.Check(3, 3, 3))
	keys, queries, err := d.Tables(read)
	require.NoError(t, err)
	require.Nil(t, queries)
	for r := range rows {
		e, mean, square := numbers["e"][r*in:(r+1)*in], 0.0, 0.0
		for _, x := range e {
			mean += float64(x) / in
		}
		for _, x := range e {
			square += (float64(x) - mean) * (float64(x) - mean) / in
		}
		for o := range out {
			want := float64(numbers["b"][o])
			for i, x := range e {
				normed := (float64(x)-mean)/math.Sqrt(square+0.1)*float64(numbers["norm"][i]) + float64(numbers["norm"][i])
				want += normed * float64(numbers["w"][o*in+i])
			}
			require.InDelta(t, want, keys[r*out+o], 1e-5)
		}
	}
	for _, missing := range []string{"e", "norm", "w", "b"} {
		kept := numbers[missing]
		numbers[missing] = nil
		_, _, err := d.Tables(read)
		require.ErrorContains(t, err, "no "+missing)
		numbers[missing] = kept
	}

	for _, bad := range []func(d *Disentangled){
		func(d *Disentangled) { d.Span = 0 },
		func(d *Disentangled) { d.Span = 8 },
		func(d *Disentangled) { d.Buckets = 1 },
		func(d *Disentangled) { d.Buckets, d.MaxDistance = 7, 4 },
		func(d *Disentangled) { d.Key = nil },
		func(d *Disentangled) { d.Key = &Linear{In: in, Out: 3} },
		func(d *Disentangled) { d.Key = &Linear{In: in, Out: out, Transposed: true} },
	} {
		wrong := *d
		bad(&wrong)
		require.Equal(t, status.Unsupported, status.CodeOf(wrong.Check(3, 3, 3)), "%+v", wrong)
	}
	require.Equal(t, status.Unsupported, status.CodeOf(d.Check(3, 1, 3)))
	d.Norm.Kind = RMSNorm
	_, _, err = d.Tables(read)
	require.Equal(t, status.Unsupported, status.CodeOf(err))
}
