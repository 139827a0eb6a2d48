package arch

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// matrix is a stored weight [rows, width].
type matrix struct {
	width   int
	numbers []float32
}

func (m matrix) AppendFloat32(dst []float32) []float32 { return append(dst, m.numbers...) }

func (m matrix) Rows(from, to int) matrix {
	return matrix{m.width, m.numbers[from*m.width : to*m.width]}
}

func TestAppendMatrix(t *testing.T) {
	stored := matrix{2, []float32{1, 2, 30, 40, 500, 600}}
	weight := Tensor{"w", []int{3, 2}}
	for _, c := range []struct {
		l    Linear
		key  string
		want []float32
	}{
		{Linear{Weight: weight, In: 2, Out: 3}, "w", []float32{9, 1, 2, 30, 40, 500, 600}},
		{Linear{Weight: weight, In: 3, Out: 2, Transposed: true}, "w", []float32{9, 1, 30, 500, 2, 40, 600}},
		{Linear{Weight: weight, In: 2, Out: 1, Score: &TokenScore{2, 0}}, "w 2 less 0", []float32{9, 499, 598}},
		{Linear{Weight: weight, In: 2, Out: 1, Score: &TokenScore{1, -1}}, "w 1 less -1", []float32{9, 30, 40}},
	} {
		require.NoError(t, c.l.Check())
		require.Equal(t, c.want, AppendMatrix([]float32{9}, &c.l, stored))
		require.Equal(t, c.key, c.l.Key())
	}
	for _, l := range []Linear{
		{Weight: weight, In: 3, Out: 2},
		{Weight: weight, In: 2, Out: 3, Transposed: true},
		{Weight: weight, In: 2, Out: 3, Score: &TokenScore{1, 0}},
		{Weight: weight, In: 3, Out: 1, Score: &TokenScore{1, 0}},
	} {
		require.Error(t, l.Check())
	}
	for _, s := range []TokenScore{{3, 0}, {-1, 0}, {0, 3}, {0, -2}} {
		l := Linear{Weight: weight, In: 2, Out: 1, Score: &s}
		require.ErrorContains(t, l.Check(), `weight "w" has 3 rows; the score takes rows`)
	}
}
