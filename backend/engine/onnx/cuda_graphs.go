package onnx

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/engine/onnx/ort"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// bucket is the size of runs that a CUDA graph has been captured for. Launching the kernels of a small run one by one takes longer than they do;
// a graph launches them at once. What a batch has less than its bucket is filled up with sequences of their own, which nobody sees.
type bucket struct{ tokens, sequences, longest int }

// Numbers of tokens and of sequences of batches that buckets are for: all up to them, from the number before. More tokens are not tried: there the
// device is what is waited for.
var (
	bucketTokens    = []int{32, 64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024, 1280, 1536, 1792, 2048}
	bucketSequences = []int{1, 2, 4, 8, 16, 32}
)

// step has the buckets for batches of up to so many tokens, from the step before.
type step struct {
	tokens  int
	buckets []bucket
}

// steps lists the buckets within limits, ascending by tokens.
func steps(l engine.Limits) []step {
	var list []step
	before := 0
	for _, t := range bucketTokens {
		to := step{tokens: t}
		for i, n := range bucketSequences {
			enough := i > 0 && bucketSequences[i-1] >= l.MaxSequences || n*l.MaxLength <= before // with fewer sequences, or tokens
			// A sequence that fills up, or as many as there are from the number before, and a token for each.
			k := bucket{tokens: t + max(n/2, 1), sequences: n + 1}
			k.longest = min(k.tokens-n, l.MaxLength)
			if t <= l.MaxTokens && !enough && t >= 2*n && k.tokens <= k.sequences*k.longest {
				to.buckets = append(to.buckets, k)
			}
		}
		if len(to.buckets) > 0 {
			list = append(list, to)
		}
		before = t
	}
	return list
}

// fits reports that such a batch, each of whose sequences has tokens, can be filled up to the bucket.
func (k bucket) fits(tokens, sequences, longest int) bool {
	rest, fillers := k.tokens-tokens, k.sequences-sequences
	return fillers >= 0 && rest >= fillers && rest <= fillers*k.longest && longest <= k.longest
}

// fill makes dst of b and of sequences that fill it up to the bucket, which b fits.
func (k bucket) fill(dst, b *engine.Batch, firstPosition int) {
	dst.Reset()
	dst.InputIDs, dst.TypeIDs = append(dst.InputIDs, b.InputIDs...), append(dst.TypeIDs, b.TypeIDs...)
	dst.PositionIDs = append(dst.PositionIDs, b.PositionIDs...)
	dst.CuSeqLens = append(dst.CuSeqLens[:0], b.CuSeqLens...)
	dst.PoolSkip, dst.Outputs = append(dst.PoolSkip, b.PoolSkip...), b.Outputs
	for left := k.sequences - b.Sequences(); left > 0; left-- {
		// As much as leaves a token for each that follows.
		for t := range min(k.tokens-dst.Tokens()-(left-1), k.longest) {
			dst.InputIDs, dst.TypeIDs = append(dst.InputIDs, 0), append(dst.TypeIDs, 0)
			dst.PositionIDs = append(dst.PositionIDs, int32(firstPosition+t))
		}
		dst.EndSequence(b.Outputs, 0)
	}
}

// captured is a graph, with the memory that it reads and writes.
type captured struct {
	bucket
	from   int // fewest tokens that it is for; 0: any
	graph  *ort.Graph
	memory []byte
	inputs []ort.Tensor
	output []ort.Tensor // one
}

// lay is lay for a batch that was filled up to the bucket: what differs between such batches has its greatest size.
func (k bucket) lay(filled *engine.Batch, g *deviceGraph) *layout {
	l := lay(filled, g)
	l.sizes[pages.name] = k.tokens/l.block + k.sequences
	l.sizes[longest.name], l.sizes["blocks"] = k.longest, (k.longest+l.block-1)/l.block
	return l
}

// graphFor is the least graph for a batch; nil: there is none.
func (d *deviceRun) graphFor(b *engine.Batch) *captured {
	if len(d.graphs) == 0 || b.Outputs != engine.Pooled || b.Tokens() > d.graphs[len(d.graphs)-1].tokens {
		return nil
	}
	most := 0
	for i := range b.Sequences() {
		length := int(b.CuSeqLens[i+1] - b.CuSeqLens[i])
		if length == 0 {
			return nil
		}
		most = max(most, length)
	}
	i := slices.IndexFunc(d.graphs, func(c *captured) bool { return c.fits(b.Tokens(), b.Sequences(), most) })
	if i < 0 || b.Tokens() < d.graphs[i].from {
		return nil
	}
	return d.graphs[i]
}

// replay computes the slot's batch by a graph.
func (s *slot) replay(ctx context.Context, c *captured) (engine.Output, error) {
	e, b, d := s.engine, s.batch, s.device
	d.write(c, b)
	if err := c.graph.Launch(ctx); err != nil {
		return engine.Output{}, e.deviceError(err)
	}
	e.stats.launched(b.Tokens(), c.tokens-b.Tokens())
	e.stats.replays.Add(1)
	n := b.Sequences() * e.info.PooledWidth
	return engine.Output{Pooled: view[float32](c.output[0].Data)[:n:n]}, nil
}

// write fills the memory of a graph's inputs with a batch that the graph of the slot can run.
func (d *deviceRun) write(c *captured, b *engine.Batch) {
	c.fill(d.filled, b, d.graph.firstPosition)
	l := c.lay(d.filled, d.graph)
	for i, v := range d.graph.inputs {
		l.write(v, c.inputs[i].Data)
	}
}

// mostOfPlain is the most that a graph may take, in a plain run's time: hardly more, since launching keeps a core busy and takes longer between
// other work than in the loop that measures it. Measurements are not to be trusted, since others may use the device meanwhile: a step is in vain
// that took more twice, graphs end after mostInVain such steps, and those for up to launchTokens, where a run is hardly more than its launches,
// are kept unmeasured.
const (
	mostOfPlain  = 1.02
	mostInVain   = 2
	launchTokens = 256
)

// capture makes the slot's graphs: of each bucket, until they take longer than plain runs. Where ONNX Runtime cannot be captured runs go without,
// and the log says so.
func (s *slot) capture(ctx context.Context, log func(ort.Severity, string)) error {
	e, d := s.engine, s.device
	if e.info.Limits.Padded || e.info.Outputs&engine.Pooled == 0 {
		return nil
	}
	list, largest := steps(e.info.Limits), engine.Limits{}
	for _, to := range list {
		for _, k := range to.buckets {
			largest.MaxTokens, largest.MaxSequences = max(largest.MaxTokens, k.tokens), max(largest.MaxSequences, k.sequences)
		}
	}
	d.filled = engine.NewBatch(largest)
	var failed error
	var k keeping
	cancelled := func() error { return status.Errorf(status.Cancelled, "opening the engine: %w", context.Cause(ctx)) }
	for _, to := range list {
		first := len(d.graphs)
		err := d.captureStep(ctx, to.buckets, e.info.PooledWidth)
		if ctx.Err() != nil {
			return cancelled()
		}
		if err != nil {
			if lost := e.deviceError(err); status.CodeOf(lost) == status.Unhealthy {
				return lost
			}
			failed = err
			d.drop(first)
			break
		}
		from, worth := 0, to.tokens <= launchTokens
		for attempts := 0; !worth && attempts < 2; attempts++ {
			if from, worth, err = d.worthFrom(ctx, d.graphs[first], k.before+1, to.tokens, e.info); ctx.Err() != nil {
				return cancelled()
			} else if err != nil {
				return e.deviceError(err)
			}
		}
		if !worth {
			d.drop(first)
		}
		from, more := k.judge(to, from, worth)
		for _, c := range d.graphs[first:] { // those for more sequences than the first of the step take about as long
			c.from = from
		}
		if !more {
			break
		}
	}
	if failed != nil && log != nil {
		most := 0
		if n := len(d.graphs); n > 0 {
			most = d.graphs[n-1].tokens
		}
		log(ort.Warning, fmt.Sprintf("runs of more than %d tokens are launched without CUDA graphs: %v", most, failed))
	}
	e.info.Details["graphs"] = strconv.FormatInt(e.stats.graphs.Add(int64(len(d.graphs))), 10)
	return nil
}

// keeping is what the steps so far say of those to come.
type keeping struct{ before, least, inVain int } // tokens of the step before, tokens that later graphs are for, steps in a row

// judge returns the fewest tokens that graphs of a step are for, of which it was measured from when they are worth it, or not at all; and
// whether there is more to try. Where a step has no graphs those of larger ones do not stand in: they take longer still.
func (k *keeping) judge(to step, from int, worth bool) (fewest int, more bool) {
	k.before = to.tokens
	if worth {
		k.inVain = 0
		return max(from, k.least), true
	}
	k.least = to.tokens + 1
	k.inVain++
	return 0, k.inVain < mostInVain
}

// captureStep adds the graphs of buckets, each at the second attempt at the latest: memory may be allocated meanwhile, which no capture bears.
func (d *deviceRun) captureStep(ctx context.Context, buckets []bucket, width int) error {
	for _, k := range buckets {
		c, err := d.captureOne(ctx, k, width)
		if err != nil && ctx.Err() == nil {
			c, err = d.captureOne(ctx, k, width)
		}
		if err != nil {
			return err
		}
		d.graphs = append(d.graphs, c)
	}
	return nil
}

// captureOne makes the graph of a bucket.
func (d *deviceRun) captureOne(ctx context.Context, k bucket, width int) (c *captured, err error) {
	none := engine.NewBatch(engine.Limits{})
	none.Outputs = engine.Pooled
	k.fill(d.filled, none, d.graph.firstPosition)
	if err = d.graph.check(d.filled); err != nil {
		return nil, err
	}
	c = &captured{bucket: k, inputs: d.inputs(k.lay(d.filled, d.graph)), output: []ort.Tensor{{Name: outputPooled, Type: ort.Float32, Dims: []int{k.sequences, width}}}}
	if c.memory, err = d.session.HostMemory(place(nil, c.inputs, c.output)); err != nil {
		return nil, err
	}
	place(c.memory, c.inputs, c.output)
	d.write(c, none)
	engine.Making.Lock()
	defer engine.Making.Unlock()
	d.do(func() { c.graph, err = d.runner.Capture(ctx, d.session, c.inputs, c.output) })
	if err != nil {
		d.session.FreeHostMemory(c.memory)
	}
	return c, err
}

// worthFrom is the fewest tokens, of those from fewest to most that a graph is for, of which it takes no more than mostOfPlain, with what
// filling a batch up takes; not worth: there are none. Between the two the time of plain runs is taken for a line.
func (d *deviceRun) worthFrom(ctx context.Context, c *captured, fewest, most int, info engine.Info) (from int, worth bool, err error) {
	none := engine.NewBatch(engine.Limits{})
	none.Outputs = engine.Pooled
	replay := func() error {
		d.write(c, none)
		return c.graph.Launch(ctx)
	}
	plain := func(tokens int) func() error {
		n := (tokens + info.Limits.MaxLength - 1) / info.Limits.MaxLength
		b := engine.NewBatch(engine.Limits{MaxTokens: tokens, MaxSequences: n})
		bucket{tokens, n, info.Limits.MaxLength}.fill(b, none, d.graph.firstPosition)
		l := lay(b, d.graph)
		output := []ort.Tensor{{Name: outputPooled, Type: ort.Float32, Dims: []int{n, info.PooledWidth}}}
		return func() error { return d.run(ctx, l, output) }
	}
	runs := []func() error{replay, plain(fewest), plain(most)}
	least := []float64{math.Inf(1), math.Inf(1), math.Inf(1)} // seconds
	d.do(func() {
		for i := range 6 * len(runs) { // in turns
			begin := time.Now()
			if err = runs[i%len(runs)](); err != nil {
				return
			}
			least[i%len(runs)] = min(least[i%len(runs)], time.Since(begin).Seconds())
		}
	})
	from, worth = crossing(least[0], mostOfPlain*least[1], mostOfPlain*least[2], fewest, most)
	return from, worth, err
}

// crossing is where the line of plain runs' times, from fewest to most tokens, reaches the graph's; 0: before the first.
func crossing(graph, few, many float64, fewest, most int) (tokens int, ok bool) {
	switch {
	case graph > many:
		return 0, false
	case graph <= few:
		return 0, true
	}
	return fewest + int(math.Ceil(float64(most-fewest)*(graph-few)/(many-few))), true
}

// drop frees all graphs but the first n, and what they have allocated on the device.
func (d *deviceRun) drop(n int) {
	if n == len(d.graphs) {
		return
	}
	d.do(func() {
		for _, c := range d.graphs[n:] {
			c.graph.Close()
			d.session.FreeHostMemory(c.memory)
		}
		d.session.TrimGraphs()
	})
	d.graphs = d.graphs[:n]
}
