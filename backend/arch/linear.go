package arch

import (
	"slices"
	"strconv"

	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Check refuses a map whose weight has another shape than its numbers say.
func (l *Linear) Check() error {
	shape := []int{l.Out, l.In}
	if l.Transposed {
		shape = []int{l.In, l.Out}
	}
	if s := l.Score; s != nil && l.Out == 1 && len(l.Weight.Shape) == 2 {
		rows := l.Weight.Shape[0]
		if s.True < 0 || s.True >= rows || s.False < noToken || s.False >= rows {
			return status.Errorf(status.Start, "weight %q has %d rows; the score takes rows %d and %d", l.Weight.Name, rows, s.True, s.False)
		}
		shape = []int{rows, l.In}
	}
	if !slices.Equal(l.Weight.Shape, shape) || l.Score != nil && (l.Out != 1 || l.Transposed) {
		return status.Errorf(status.Start, "weight %q of a linear map %d -> %d has shape %v", l.Weight.Name, l.In, l.Out, l.Weight.Shape)
	}
	return nil
}

// Stored reports that the weight is in the file as [Out, In].
func (l *Linear) Stored() bool { return !l.Transposed && l.Score == nil }

// Matrix is a stored weight: *weights.Tensor.
type Matrix[M any] interface {
	AppendFloat32(dst []float32) []float32
	Rows(from, to int) M
}

// AppendMatrix appends the map's weights [Out, In] in float32 to dst. stored is Weight; Check must have passed.
func AppendMatrix[M Matrix[M]](dst []float32, l *Linear, stored M) []float32 {
	switch {
	case l.Score != nil:
		at := len(dst)
		if dst = stored.Rows(l.Score.True, l.Score.True+1).AppendFloat32(dst); l.Score.False >= 0 {
			for i, x := range stored.Rows(l.Score.False, l.Score.False+1).AppendFloat32(nil) {
				dst[at+i] -= x
			}
		}
		return dst
	case !l.Transposed:
		return stored.AppendFloat32(dst)
	}
	source := stored.AppendFloat32(nil)
	for o := range l.Out {
		for i := range l.In {
			dst = append(dst, source[i*l.Out+o])
		}
	}
	return dst
}

// Key names the map's weights among those that are made of the same tensors.
func (l *Linear) Key() string {
	if l.Score == nil {
		return l.Weight.Name
	}
	return l.Weight.Name + " " + strconv.Itoa(l.Score.True) + " less " + strconv.Itoa(l.Score.False)
}
