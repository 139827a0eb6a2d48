package trt

import "unsafe"

// memory is pinned memory that a lane owns.
type memory struct {
	start unsafe.Pointer
	bytes int
}

// ints views the memory as int32 numbers.
func (m memory) ints() []int32 { return unsafe.Slice((*int32)(m.start), m.bytes/4) }

// floats views the memory as float32 numbers.
func (m memory) floats() []float32 { return unsafe.Slice((*float32)(m.start), m.bytes/4) }
