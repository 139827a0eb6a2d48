package nvinfer

// #include "call.h"
import "C"

import "github.com/basetenlabs/bei-runtime/backend/status"

// TensorInfo describes an input or output of a network or a program.
type TensorInfo struct {
	Name        string
	IsInput     bool
	DType       DType
	Dims        []int // -1: known at run time
	Least, Most []int // of inputs: the profile's range
}

// maxTensors bounds the inputs and outputs.
const maxTensors = 32

// tensors collects what list fills in.
func tensors(list func(infos *C.bei_trt_tensor_info, room C.int32_t, count *C.int32_t, e *C.bei_trt_error) C.int32_t) ([]TensorInfo, error) {
	var infos [maxTensors]C.bei_trt_tensor_info
	var count C.int32_t
	if err := call(status.Start, func(e *C.bei_trt_error) C.int32_t { return list(&infos[0], maxTensors, &count, e) }); err != nil {
		return nil, err
	}
	all := make([]TensorInfo, count)
	for i := range all {
		t := &infos[i]
		all[i] = TensorInfo{
			Name: C.GoString(&t.name[0]), IsInput: t.is_input != 0, DType: DType(t.dtype),
			Dims: getDims(&t.dims), Least: getDims(&t.least), Most: getDims(&t.most),
		}
	}
	return all, nil
}
