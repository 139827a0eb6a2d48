// Package kerneltest calls the C kernels from Go, for their tests and benchmarks alone: test files may not import "C",
// and the runtime itself reaches the kernels from C.
package kerneltest

/*
#cgo CFLAGS: -std=gnu11 -O2 -Wall -Wextra
#cgo LDFLAGS: -lpthread
#include "../kernels.h"
#include <pthread.h>
#include <stdlib.h>

typedef struct bkt_call { void (*fn)(void *, size_t); void *arg; size_t index; } bkt_call;

static void *bkt_thread(void *arg) {
	bkt_call *c = arg;
	c->fn(c->arg, c->index);
	return NULL;
}

// One thread for every index but the first.
static void bkt_run(void *ctx, void (*fn)(void *, size_t), size_t count, void *arg) {
	pthread_t threads[64];
	bkt_call calls[64];
	(void)ctx;
	if (count > 64)
		abort();
	for (size_t i = 1; i < count; i++) {
		calls[i] = (bkt_call){fn, arg, i};
		if (pthread_create(&threads[i], NULL, bkt_thread, &calls[i]) != 0)
			abort();
	}
	fn(arg, 0);
	for (size_t i = 1; i < count; i++)
		pthread_join(threads[i], NULL);
}

static bk_parallel bkt_parallel(int32_t threads) {
	return (bk_parallel){bkt_run, NULL, threads};
}
*/
import "C"

import (
	"runtime"
	"unsafe"

	_ "github.com/basetenlabs/bei-runtime/backend/engine/onnx/kernels" // the C objects
)

// Kinds of norm and rope, activations and poolings, as in kernels.h.
const (
	NormNone  = C.BK_NORM_NONE
	NormLayer = C.BK_NORM_LAYER
	NormRMS   = C.BK_NORM_RMS

	RopeNone        = C.BK_ROPE_NONE
	RopeHalf        = C.BK_ROPE_HALF
	RopeInterleaved = C.BK_ROPE_INTERLEAVED

	ActIdentity  = C.BK_ACT_IDENTITY
	ActGelu      = C.BK_ACT_GELU
	ActGeluTanh  = C.BK_ACT_GELU_TANH
	ActQuickGelu = C.BK_ACT_QUICK_GELU
	ActRelu      = C.BK_ACT_RELU
	ActSilu      = C.BK_ACT_SILU
	ActTanh      = C.BK_ACT_TANH

	PoolCls          = C.BK_POOL_CLS
	PoolLast         = C.BK_POOL_LAST
	PoolMean         = C.BK_POOL_MEAN
	PoolMax          = C.BK_POOL_MAX
	PoolMeanSqrtLen  = C.BK_POOL_MEAN_SQRT_LEN
	PoolWeightedMean = C.BK_POOL_WEIGHTED_MEAN
)

// Attention is bk_attention_args in Go. Nil slices are absent.
type Attention struct {
	QKV                  []float32
	CuSeqlens            []int32
	TotalTokens          int
	Heads, KVHeads, Dim  int
	Scale                float32
	Bias                 []float32
	QKNorm               int
	QKNormEps            float32
	OnePlusWeight        bool
	QWeight, KWeight     []float32
	QNormBias, KNormBias []float32
	Rope, RopeDim        int
	RopeCos, RopeSin     []float32
	Positions            []int32
	Causal               bool
	Left, Right          int
	Softcap              float32
	Slopes, RelativeBias []float32
	RelativeMax          int
	// PlaceRows has 2 * PlaceMax + 1 rows of the other two, which are [rows, Heads*Dim].
	PlaceKeys, PlaceQueries []float32
	PlaceRows               []int32
	PlaceMax                int
}

func floats(pin *runtime.Pinner, s []float32) *C.float {
	if len(s) == 0 {
		return nil
	}
	pin.Pin(&s[0])
	return (*C.float)(&s[0])
}

func ints(pin *runtime.Pinner, s []int32) *C.int32_t {
	if len(s) == 0 {
		return nil
	}
	pin.Pin(&s[0])
	return (*C.int32_t)(&s[0])
}

func flag(b bool) C.int32_t {
	if b {
		return 1
	}
	return 0
}

// Run writes the attention to out, [TotalTokens, Heads*Dim].
func (a *Attention) Run(out []float32, threads int) {
	var pin runtime.Pinner
	defer pin.Unpin()
	args := C.bk_attention_args{
		qkv: floats(&pin, a.QKV), out: floats(&pin, out), total_tokens: C.int64_t(a.TotalTokens),
		num_sequences: C.int64_t(len(a.CuSeqlens) - 1), cu_seqlens: ints(&pin, a.CuSeqlens),
		num_heads: C.int32_t(a.Heads), num_kv_heads: C.int32_t(a.KVHeads), head_dim: C.int32_t(a.Dim),
		scale: C.float(a.Scale), qkv_bias: floats(&pin, a.Bias),
		qk_norm: C.bk_norm(a.QKNorm), qk_norm_eps: C.float(a.QKNormEps), qk_norm_one_plus_weight: flag(a.OnePlusWeight),
		q_norm_weight: floats(&pin, a.QWeight), k_norm_weight: floats(&pin, a.KWeight),
		q_norm_bias: floats(&pin, a.QNormBias), k_norm_bias: floats(&pin, a.KNormBias),
		rope: C.bk_rope(a.Rope), rope_dim: C.int32_t(a.RopeDim), rope_cos: floats(&pin, a.RopeCos),
		rope_sin: floats(&pin, a.RopeSin), position_ids: ints(&pin, a.Positions),
		causal: flag(a.Causal), window_left: C.int32_t(a.Left), window_right: C.int32_t(a.Right),
		softcap: C.float(a.Softcap), alibi_slopes: floats(&pin, a.Slopes),
		relative_bias: floats(&pin, a.RelativeBias), relative_bias_max: C.int32_t(a.RelativeMax),
		place_keys: floats(&pin, a.PlaceKeys), place_queries: floats(&pin, a.PlaceQueries),
		place_rows: ints(&pin, a.PlaceRows), place_max: C.int32_t(a.PlaceMax),
	}
	par := C.bkt_parallel(C.int32_t(threads))
	scratch := C.malloc(C.bk_attention_scratch_bytes(&args, par.threads)) // exact, so that a checker sees overruns
	defer C.free(scratch)
	C.bk_attention(&args, scratch, &par)
}

// BiasAct calls bk_bias_act.
func BiasAct(act int, x, bias, y []float32, rows, width, threads int) {
	par := C.bkt_parallel(C.int32_t(threads))
	C.bk_bias_act(C.bk_act(act), ptr(x), ptr(bias), ptr(y), C.int64_t(rows), C.int64_t(width), &par)
}

// GatedAct calls bk_gated_act.
func GatedAct(act int, gateFirst bool, x, bias, y []float32, rows, inner, threads int) {
	par := C.bkt_parallel(C.int32_t(threads))
	C.bk_gated_act(C.bk_act(act), flag(gateFirst), ptr(x), ptr(bias), ptr(y), C.int64_t(rows), C.int64_t(inner), &par)
}

// ResidualNorm is bk_residual_norm_args in Go. Nil slices are absent.
type ResidualNorm struct {
	X, XBias, Residual, Sum, Y []float32
	Rows, Width                int
	Norm                       int
	Eps                        float32
	OnePlusWeight              bool
	Weight, Bias               []float32
}

// Run calls bk_residual_norm.
func (r *ResidualNorm) Run(threads int) {
	var pin runtime.Pinner
	defer pin.Unpin()
	args := C.bk_residual_norm_args{
		x: floats(&pin, r.X), x_bias: floats(&pin, r.XBias), residual: floats(&pin, r.Residual),
		sum: floats(&pin, r.Sum), y: floats(&pin, r.Y), rows: C.int64_t(r.Rows), width: C.int64_t(r.Width),
		norm: C.bk_norm(r.Norm), eps: C.float(r.Eps), one_plus_weight: flag(r.OnePlusWeight),
		weight: floats(&pin, r.Weight), bias: floats(&pin, r.Bias),
	}
	par := C.bkt_parallel(C.int32_t(threads))
	C.bk_residual_norm(&args, &par)
}

// Pool calls bk_pool; skip may be nil.
func Pool(pooling int, hidden []float32, cuSeqlens, skip []int32, y []float32, width, threads int) {
	par := C.bkt_parallel(C.int32_t(threads))
	C.bk_pool(C.bk_pooling(pooling), ptr(hidden), (*C.int32_t)(unsafe.SliceData(cuSeqlens)),
		(*C.int32_t)(unsafe.SliceData(skip)), ptr(y), C.int64_t(len(cuSeqlens)-1), C.int64_t(width), &par)
}

func ptr(s []float32) *C.float {
	return (*C.float)(unsafe.SliceData(s))
}
