// Package trt is the engine that drives TensorRT: it lowers a Model to a network through the network API, builds or finds its plan, and
// runs batches on one or more devices. trt/shim (C++) owns nvinfer's objects and CUDA's; trt/nvinfer binds it.
//
// Plans are built without a device. Opening an engine on a device warms up every shape that its launches may have: afterwards no run
// makes kernels, CUDA graphs or device memory.
package trt

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/arch"
	"github.com/basetenlabs/bei-runtime/backend/calibration"
	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
	"github.com/basetenlabs/bei-runtime/backend/weights"
	"github.com/basetenlabs/bei-runtime/trt/nvinfer"
)

// Options of an engine. Zero values are defaults.
type Options struct {
	LibraryOptions
	Devices     []int               // CUDA's indices, one replica each; default: the first
	Precision   string              // "float32", "float16" (default), "bfloat16" (default for models stored in it), "float8"
	Scales      *calibration.Scales // of float8
	Slots       int                 // runs in flight on each device; default 2
	Limits      engine.Limits       // each zero field is a default; MaxLength and BestTokens are cut to what the rest allows
	Cache       string              // folder of plans; default: bei/plans in the user's cache folder; "off": none
	CacheBytes  int64               // limit of the folder; default 20 GiB
	MemoryBytes uint64              // device memory of each replica; default: MemoryShare of what is free
	MemoryShare float64             // default 0.9
	// Logger receives what takes long and what goes wrong, and TensorRT's warnings and errors. It may be called from any thread.
	Logger func(severity nvinfer.Severity, message string)
}

// Defaults and limits of Options.
const (
	defaultSlots        = 2
	defaultMemoryShare  = 0.9
	maxSlots            = 16
	defaultMaxTokens    = 16384
	defaultMaxSequences = 256
	maxTokens           = 1 << 18
	maxGraphs           = 256 // of a worker: shapes of the fewest cells have them
)

// planFormat changes when the lowering does: plans of another number are not used.
const planFormat = 7

// withDefaults checks the options and fills in what is zero.
func (o Options) withDefaults(m *arch.Model, stored weights.DType) (Options, error) {
	if len(o.Devices) == 0 {
		o.Devices = []int{0}
	}
	if o.Slots == 0 {
		o.Slots = defaultSlots
	}
	if o.MemoryShare == 0 {
		o.MemoryShare = defaultMemoryShare
	}
	if o.Precision == "" {
		o.Precision = "float16"
		if stored == weights.BF16 {
			o.Precision = "bfloat16"
		}
	}
	if _, ok := precisions[o.Precision]; !ok {
		return o, status.Errorf(status.Unsupported, "dtype %q: engine tensorrt computes in %s", o.Precision, strings.Join(slices.Sorted(maps.Keys(precisions)), ", "))
	}
	if o.Precision == "float8" && o.Scales == nil {
		return o, status.Errorf(status.Start, "dtype \"float8\" needs the scales of activations: make them with `bei calibrate FOLDER --texts FILE`")
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = defaultCacheBytes
	}
	switch o.Cache {
	case "":
		folder, err := cacheFolder()
		if err != nil {
			return o, err
		}
		o.Cache = folder
	case "off":
		o.Cache = ""
	}
	if o.Logger == nil {
		o.Logger = func(nvinfer.Severity, string) {}
	}
	l := &o.Limits
	if l.MaxTokens == 0 {
		l.MaxTokens = max(defaultMaxTokens, min(m.MaxLength, maxTokens), l.BestTokens)
	}
	if l.MaxSequences == 0 {
		l.MaxSequences = defaultMaxSequences
	}
	if l.MaxLength == 0 {
		l.MaxLength = m.MaxLength
	}
	l.MaxLength = min(l.MaxLength, m.MaxLength, l.MaxTokens)
	l.BestTokens = min(l.BestTokens, l.MaxTokens)
	for _, f := range []struct {
		name               string
		value, least, most int
	}{
		{"slots", o.Slots, 1, maxSlots},
		{"max_tokens", l.MaxTokens, 1, maxTokens},
		{"max_sequences", l.MaxSequences, 1, 4096},
		{"max_length", l.MaxLength, 1, maxTokens},
		{"best_tokens", l.BestTokens, 0, maxTokens},
	} {
		if f.value < f.least || f.value > f.most {
			return o, status.Errorf(status.InvalidArgument, "engine tensorrt: %s is %d; it must be %d to %d", f.name, f.value, f.least, f.most)
		}
	}
	for i, d := range o.Devices {
		if slices.Contains(o.Devices[:i], d) {
			return o, status.Errorf(status.InvalidArgument, "engine tensorrt: device %d is named twice", d)
		}
	}
	return o, nil
}

// Open makes an engine for m, with its weights from w, which it reads only now. Errors are *status.Error: NoBackend without a library or
// driver, Unsupported for what the engine cannot express, InvalidArgument for options, WeightsNotFound and Start for the rest.
func Open(ctx context.Context, m *arch.Model, w *weights.Set, o Options) (engine.Engine, error) {
	o, err := o.withDefaults(m, storedType(m, w))
	if err != nil {
		return nil, err
	}
	if err := supported(m); err != nil {
		return nil, err
	}
	nvinfer.SetLogger(o.Logger)
	lib, err := openLibrary(o.LibraryOptions)
	if err != nil {
		return nil, err
	}
	return open(ctx, library{lib}, lib, m, w, o)
}

// storedType is the dtype of the word table.
func storedType(m *arch.Model, w *weights.Set) weights.DType {
	t, err := w.Tensor(m.Embeddings.Word.Name)
	if err != nil {
		return weights.F32 // reading the weights says what is wrong
	}
	return t.DType
}

func newBuilder(d driver, lib *nvinfer.Library, m *arch.Model, w *weights.Set, o Options) *builder {
	b := &builder{driver: d, library: lib, weights: w, cache: cache{o.Cache, o.CacheBytes}, log: o.Logger, design: design{
		model: m, precision: o.Precision, limits: o.Limits, form: formOf(lib.Features),
	}}
	if b.design.limits.BestTokens == 0 {
		b.design.limits.BestTokens = min(8192, o.Limits.MaxTokens)
	}
	if o.Precision == "float8" {
		b.design.amax = func(key string) (float32, bool) {
			x, err := o.Scales.Amax(key)
			return x, err == nil
		}
		b.scales = o.Scales
	}
	return b
}

func open(ctx context.Context, d driver, lib *nvinfer.Library, m *arch.Model, w *weights.Set, o Options) (engine.Engine, error) {
	devices, err := pickDevices(d, o.Devices, o.Precision)
	if err != nil {
		return nil, err
	}
	b := newBuilder(d, lib, m, w, o)
	if err := b.identify(ctx, devices[0]); err != nil {
		return nil, err
	}
	p, err := b.plan(ctx)
	if err != nil {
		return nil, err
	}
	e, err := b.open(ctx, devices, p, o)
	if errors.Is(err, nvinfer.ErrBadPlan) && p.cached {
		o.Logger(nvinfer.Warning, fmt.Sprintf("the plan in %s is of no use: %v; building it again", b.cache.folder, err))
		if p, err = b.build(ctx); err == nil {
			e, err = b.open(ctx, devices, p, o)
		}
	}
	if err != nil {
		return nil, err
	}
	return e, nil
}

// tf32Variable turns TF32 off for all of CUDA's libraries in a process, where it is "0" when they are loaded.
const tf32Variable = "NVIDIA_TF32_OVERRIDE"

// products says in what float32 products are computed: TensorRT-RTX 1.6 takes TF32, whatever the builder's flag says.
func (b *builder) products() string {
	if b.library.Features&nvinfer.HasRuntimeCache == 0 || os.Getenv(tf32Variable) == "0" {
		return "float32"
	}
	b.log(nvinfer.Warning, "float32 products are computed in TF32, of 11 bits; set "+tf32Variable+"=0 before the process starts to have all 24, slower")
	return "TF32"
}

// open opens an engine on a plan.
func (b *builder) open(ctx context.Context, devices []nvinfer.Device, p *found, o Options) (*Engine, error) {
	lib, m := b.library, b.design.model
	details := map[string]string{"flavour": lib.Flavour, "library": lib.Path, "plan": p.origin}
	for what, n := range p.notes {
		details[what] = strconv.Itoa(n)
	}
	if b.design.precision == "float32" {
		details["products"] = b.products()
	}
	// A plan is as large as the weights: one that the cache has is let go of once all replicas are open, and a rebuild reads it again. A
	// rebuild builds none, since the weights may be closed by the end of a build that nobody can interrupt.
	var held atomic.Pointer[found]
	held.Store(p)
	if p.kept {
		defer held.Store(nil)
	}
	return newEngine(ctx, setUp{
		info:  engine.Info{Name: "tensorrt", Version: lib.Version, Precision: o.Precision, Limits: o.Limits, Details: details},
		model: m, layout: p.layout, positions: max(m.Positions(o.Limits.MaxLength), m.Embeddings.PositionOffset+o.Limits.MaxLength), devices: len(devices), workers: o.Slots,
		log: func(message string) { o.Logger(nvinfer.Error, message) },
		open: func(ctx context.Context, i int) (*replica, error) {
			p := held.Load()
			if p == nil {
				if p = b.cached(); p == nil {
					return nil, status.Errorf(status.Start, "its plan is not in %s any more", b.cache.folder)
				}
			}
			return b.replica(ctx, devices[i], p, sizes{limits: o.Limits, workers: o.Slots, graphs: maxGraphs,
				memoryBytes: o.MemoryBytes, memoryShare: o.MemoryShare})
		},
	})
}

// pickDevices describes the wanted devices. Others are left alone: they may be another process's, or out of order.
func pickDevices(d driver, wanted []int, precision string) ([]nvinfer.Device, error) {
	count, err := d.DeviceCount()
	if err != nil {
		return nil, err
	}
	for _, i := range wanted {
		if i < 0 || i >= count {
			return nil, status.Errorf(status.InvalidArgument, "devices: there is no CUDA device %d; this process sees %d (CUDA_VISIBLE_DEVICES chooses them)", i, count)
		}
	}
	var devices []nvinfer.Device
	for _, i := range wanted {
		device, err := d.Device(i)
		if err != nil {
			return nil, status.Errorf(status.CodeOf(err), "CUDA device %d: %w", i, err)
		}
		if err := capable(device, precision); err != nil {
			return nil, err
		}
		devices = append(devices, device)
	}
	return devices, nil
}

// leastCapability is the compute capability from which on GPUs multiply in a precision (CUDA C++ Programming Guide, "Compute
// Capabilities"); others need none that TensorRT's own minimum does not bring.
var leastCapability = map[string][2]int{"bfloat16": {8, 0}, "float8": {8, 9}}

// capable refuses a precision that the device does not have.
func capable(d nvinfer.Device, precision string) error {
	least := leastCapability[precision]
	if d.ComputeMajor > least[0] || d.ComputeMajor == least[0] && d.ComputeMinor >= least[1] {
		return nil
	}
	return status.Errorf(status.Unsupported, "dtype %q: cuda:%d (%s) has compute capability %d.%d; it begins with %d.%d: use dtype float16 or float32",
		precision, d.Index, d.Name, d.ComputeMajor, d.ComputeMinor, least[0], least[1])
}

// builder finds or makes a plan, and opens replicas of it.
type builder struct {
	driver  driver
	library *nvinfer.Library
	weights *weights.Set
	scales  *calibration.Scales
	cache   cache
	design  design
	log     func(nvinfer.Severity, string)
	name    string // of the plan's file, without suffix
}

// identify derives the plan's name from all that decides it: a plan holds the weights, so that every byte of them counts, not only a
// sample. Plans of TensorRT proper hold kernels of one kind of device. Without a cache nothing needs a name.
func (b *builder) identify(ctx context.Context, d nvinfer.Device) error {
	if b.cache.folder == "" {
		return nil
	}
	digest, err := b.weights.Digest(ctx)
	if err != nil {
		return err
	}
	target := ""
	if b.library.Features&nvinfer.HasRuntimeCache == 0 {
		target = d.Name
	}
	amax := map[string]float32{}
	if b.scales != nil {
		for _, k := range b.scales.Keys() {
			x, err := b.scales.Amax(k)
			if err != nil {
				return err
			}
			amax[k] = x
		}
	}
	b.name, err = key(planFormat, digest, b.design.model, b.design.precision, b.design.limits, b.design.form.fused, b.design.form.lengths,
		b.library.Flavour, b.library.Version, target, amax)
	return err
}

// found is a plan with what its lowering decided.
type found struct {
	*plan
	layout layout
	origin string
	cached bool // it came from the cache
	kept   bool // the cache has it
}

// plan takes the plan from the cache, or builds it.
func (b *builder) plan(ctx context.Context) (*found, error) {
	p := b.cached()
	if p != nil {
		return p, nil
	}
	said := time.AfterFunc(progressEvery, func() { b.log(nvinfer.Info, "waiting for another process that builds the plan") })
	defer said.Stop()
	err := b.cache.locked(ctx, b.name, func() (err error) {
		said.Stop()
		if p = b.cached(); p == nil {
			p, err = b.build(ctx)
		}
		return err
	})
	return p, err
}

func (b *builder) layout(p *plan) layout {
	m := b.design.model
	return layout{
		planes: planesOf(m), outputs: p.outputs, pooled: p.pooled, token: p.token,
		precision: b.design.precision, vocab: m.VocabSize, position: m.Embeddings.PositionOffset,
	}
}

// description is what a cached plan's lowering decided, as JSON before the plan.
type description struct {
	Outputs engine.Outputs `json:"outputs"`
	Pooled  int            `json:"pooled"`
	Token   int            `json:"token"`
	Notes   map[string]int `json:"notes"`
}

// cached returns the plan from the cache; nil: it is not there.
func (b *builder) cached() *found {
	payload := b.cache.load(b.name + planSuffix)
	if len(payload) < 4 {
		return nil
	}
	size := binary.LittleEndian.Uint32(payload)
	if uint64(size) > uint64(len(payload)-4) {
		return nil
	}
	var d description
	if json.Unmarshal(payload[4:4+size], &d) != nil || d.Token < 1 || d.Pooled < 0 {
		return nil
	}
	p := &plan{bytes: payload[4+size:], outputs: d.Outputs, pooled: d.Pooled, token: d.Token, notes: d.Notes}
	return &found{plan: p, layout: b.layout(p), origin: "from " + b.cache.folder, cached: true, kept: true}
}

// build makes the plan and keeps it. A folder that cannot be written to is worth a warning, not an end.
func (b *builder) build(ctx context.Context) (*found, error) {
	if ctx.Err() != nil {
		return nil, status.Errorf(status.Cancelled, "building a plan: %w", context.Cause(ctx))
	}
	b.log(nvinfer.Info, fmt.Sprintf("building a plan for TensorRT %s %s in %s", b.library.Flavour, b.library.Version, b.design.precision))
	p, err := b.driver.Build(&b.design, b.weights)
	if err != nil {
		return nil, err
	}
	b.log(nvinfer.Info, fmt.Sprintf("built a plan of %d MB in %s", len(p.bytes)>>20, p.took.Round(time.Millisecond)))
	meta, err := json.Marshal(description{p.outputs, p.pooled, p.token, p.notes})
	if err != nil {
		return nil, status.Errorf(status.Internal, "plan: %w", err)
	}
	payload := append(binary.LittleEndian.AppendUint32(nil, uint32(len(meta))), meta...)
	err = b.cache.store(b.name+planSuffix, payload, p.bytes)
	if err != nil {
		b.log(nvinfer.Warning, err.Error())
	}
	return &found{
		plan: p, layout: b.layout(p), origin: "built in " + p.took.Round(time.Millisecond).String(), kept: err == nil && b.cache.folder != "",
	}, nil
}

// progressEvery is how often a warm-up tells how far it is, and how long a wait is not told.
const progressEvery = 5 * time.Second

// replica opens the plan on a device, with the kernels that earlier processes made for such a device.
func (b *builder) replica(ctx context.Context, device nvinfer.Device, p *found, s sizes) (*replica, error) {
	begin, last := time.Now(), time.Now()
	// Kernels made in TF32 are none of a process that wants all bits.
	kernels, err := key(b.name, device.Name, device.ComputeMajor, device.ComputeMinor, device.Driver, os.Getenv(tf32Variable) == "0")
	if err != nil {
		return nil, err
	}
	known := b.cache.load(kernels + kernelSuffix)
	r, err := openReplica(ctx, b.driver, device, p.bytes, known, p.layout, s, listener{
		progress: func(done, all int) {
			if time.Since(last) >= progressEvery {
				last = time.Now()
				b.log(nvinfer.Info, fmt.Sprintf("warming up cuda:%d: %d of %d shapes after %s", device.Index, done, all, time.Since(begin).Round(time.Second)))
			}
		},
		warn: func(message string) { b.log(nvinfer.Warning, message) },
	})
	if err != nil {
		return nil, err
	}
	b.log(nvinfer.Info, fmt.Sprintf("%s is warm: %d shapes in %s", r.name(), len(r.shapes.all), time.Since(begin).Round(time.Millisecond)))
	made, err := r.program.Cache()
	if err == nil && len(made) != len(known) {
		err = b.cache.store(kernels+kernelSuffix, made)
	}
	if err != nil && status.CodeOf(err) != status.Unsupported { // flavours without kernels of their own
		b.log(nvinfer.Warning, err.Error())
	}
	return r, nil
}
