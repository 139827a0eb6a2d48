// Package mock is an engine without a model: deterministic vectors, a scripted cost and scripted faults. It serves tests that
// are not about numbers, and load tests of routers.
package mock

import (
	"context"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Kinds of output of a mock model.
const (
	Embedding       = "embedding"
	Classifier      = "classifier"
	TokenClassifier = "token_classifier"
)

// Kinds of Fault.
const (
	Slow    = "slow"     // the run takes DelayMS longer, or until UntilFile is there
	Hung    = "hung"     // the run never returns by itself: only when it is told to stop
	Stuck   = "stuck"    // the run does not return for DelayMS, or before UntilFile is there, whatever it is told
	NaN     = "nan"      // sequences that hold TokenID (or all, without one) yield NaN
	Error   = "error"    // the run fails
	BadItem = "bad_item" // the run fails; nothing happens without TokenID
	Lost    = "lost"     // the engine is lost: this run and all later ones fail as unhealthy
	Panic   = "panic"    // the run panics
)

// Fault happens in Count runs, the first of them number From, counted from 1 over all slots. From 0 is 1, and Count 0 is no end.
// With TokenID only those runs count in which a sequence holds it. UntilFile lets a test hold a run for just as long as it needs.
type Fault struct {
	Kind      string `json:"kind"`
	From      int    `json:"from,omitempty"`
	Count     int    `json:"count,omitempty"`
	DelayMS   int    `json:"delay_ms,omitempty"`
	UntilFile string `json:"until_file,omitempty"`
	TokenID   *int32 `json:"token_id,omitempty"`
}

// Config scripts the engine. Zero fields take the values of the real all-MiniLM-L6-v2 where it has one.
type Config struct {
	Kind        string  `json:"kind,omitempty"`         // Embedding, Classifier or TokenClassifier; default Embedding
	Dimensions  int     `json:"dimensions,omitempty"`   // of vectors; default 384
	Labels      int     `json:"labels,omitempty"`       // of classifiers; default 2
	VocabSize   int     `json:"vocab_size,omitempty"`   // default 30522
	TypeVocab   int     `json:"type_vocab,omitempty"`   // default 2
	MaxLength   int     `json:"max_length,omitempty"`   // default 256
	Padded      bool    `json:"padded,omitempty"`       // cost and limits are those of a padding engine
	RunMicros   float64 `json:"run_us,omitempty"`       // cost of a run
	TokenMicros float64 `json:"us_per_token,omitempty"` // cost of a token (of a padded row, when Padded)
	Faults      []Fault `json:"faults,omitempty"`
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *int
		value int
	}{{&c.Dimensions, 384}, {&c.Labels, 2}, {&c.VocabSize, 30522}, {&c.TypeVocab, 2}, {&c.MaxLength, 256}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Kind == "" {
		c.Kind = Embedding
	}
	return c
}

// Engine is the mock engine.
type Engine struct {
	config  Config
	info    engine.Info
	slots   []engine.Slot
	runs    atomic.Int64   // numbers them
	held    []atomic.Int64 // numbers those that hold the TokenID of each fault
	weights []float32      // of the columns

	launched, tokens, padding atomic.Uint64

	mu   sync.Mutex // guards lost
	lost *status.Error
}

var (
	_ engine.Engine   = (*Engine)(nil)
	_ engine.Reporter = (*Engine)(nil)
)

// Default limits of a mock engine, where the caller sets none.
const (
	defaultMaxTokens    = 16384
	defaultMaxSequences = 512
	defaultBestTokens   = 1024
)

// Open makes a mock engine with slots slots and limits l, zero fields of which take defaults.
func Open(c Config, slots int, l engine.Limits) *Engine {
	c = c.withDefaults()
	e := &Engine{config: c, held: make([]atomic.Int64, len(c.Faults))}
	if l.MaxLength == 0 {
		l.MaxLength = c.MaxLength
	}
	l.MaxLength = min(l.MaxLength, c.MaxLength)
	if l.MaxTokens == 0 {
		l.MaxTokens = max(defaultMaxTokens, l.MaxLength, l.BestTokens)
	}
	if l.MaxSequences == 0 {
		l.MaxSequences = min(defaultMaxSequences, l.MaxTokens)
	}
	if l.BestTokens == 0 {
		l.BestTokens = defaultBestTokens
	}
	// As for a real engine: a lower limit on runs lowers what lies within it.
	l.MaxLength, l.BestTokens = min(l.MaxLength, l.MaxTokens), min(l.BestTokens, l.MaxTokens)
	l.Padded = c.Padded
	e.info = engine.Info{
		Name: "mock", Version: "1", Device: "cpu", Precision: "float32", Limits: l,
		PooledWidth: c.Dimensions, TokenWidth: c.Dimensions, SparseWidth: c.VocabSize,
		Outputs: engine.Pooled | engine.TokenVectors | engine.Sparse,
	}
	switch c.Kind {
	case Classifier:
		e.info.PooledWidth, e.info.Outputs = c.Labels, engine.Pooled
	case TokenClassifier:
		e.info.TokenWidth, e.info.Outputs = c.Labels, engine.TokenVectors
	}
	for k := range max(e.info.PooledWidth, e.info.TokenWidth) {
		e.weights = append(e.weights, value(0, k))
	}
	for range max(slots, 1) {
		e.slots = append(e.slots, &slot{engine: e, batch: engine.NewBatch(l)})
	}
	return e
}

// Info describes the engine.
func (e *Engine) Info() engine.Info { return e.info }

// Slots returns the slots.
func (e *Engine) Slots() []engine.Slot { return e.slots }

// Health tells a lost engine.
func (e *Engine) Health() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lost != nil {
		return e.lost
	}
	return nil
}

// Stats counts runs that did not fail, each a launch.
func (e *Engine) Stats() []engine.Stats {
	runs := e.launched.Load()
	return []engine.Stats{{Engine: e.info.Name, Runs: runs, Launches: runs, Tokens: e.tokens.Load(), PaddingTokens: e.padding.Load(),
		Replicas: []engine.Replica{{Device: e.info.Device, Serving: e.Health() == nil}}}}
}

// Close does nothing: the engine holds only Go memory.
func (e *Engine) Close() error { return nil }

type slot struct {
	engine *Engine
	batch  *engine.Batch
	out    engine.Output
}

func (s *slot) Batch() *engine.Batch { return s.batch }

func (s *slot) Run(ctx context.Context) (engine.Output, error) {
	e, b := s.engine, s.batch
	number := int(e.runs.Add(1))
	rows := b.Tokens()
	if e.config.Padded {
		rows = b.Sequences() * b.MaxLength
	}
	delay := time.Duration((e.config.RunMicros + e.config.TokenMicros*float64(rows)) * float64(time.Microsecond))
	poisoned := func(int) bool { return false }
	for i, f := range e.config.Faults {
		turn := number
		if f.TokenID != nil {
			if !anyHolds(b, *f.TokenID) {
				continue
			}
			turn = int(e.held[i].Add(1))
		}
		first := max(f.From, 1)
		if turn < first || f.Count > 0 && turn >= first+f.Count {
			continue
		}
		extra, err := e.inject(ctx, f, number)
		if err != nil {
			return engine.Output{}, err
		}
		delay += extra
		if f.Kind == NaN {
			poisoned = func(i int) bool { return f.TokenID == nil || holds(b, i, *f.TokenID) }
		}
	}
	if err := e.Health(); err != nil {
		return engine.Output{}, err
	}
	if err := sleep(ctx, delay); err != nil {
		return engine.Output{}, err
	}
	s.compute(poisoned)
	e.launched.Add(1)
	e.tokens.Add(uint64(b.Tokens()))
	e.padding.Add(uint64(rows - b.Tokens()))
	return s.out, nil
}

// inject lets a fault happen in run number: it returns an extra delay, or the run's error.
func (e *Engine) inject(ctx context.Context, f Fault, number int) (time.Duration, error) {
	delay := time.Duration(f.DelayMS) * time.Millisecond
	switch f.Kind {
	case Slow:
		return delay, awaitFile(ctx, f.UntilFile)
	case Hung:
		<-ctx.Done()
		return 0, ctx.Err()
	case Stuck:
		time.Sleep(delay)
		return 0, awaitFile(context.Background(), f.UntilFile)
	case Error:
		return 0, status.Errorf(status.Inference, "mock: run %d fails as scripted", number)
	case BadItem:
		if f.TokenID != nil {
			return 0, status.Errorf(status.Inference, "mock: a sequence holds token %d", *f.TokenID)
		}
	case Lost:
		e.mu.Lock()
		defer e.mu.Unlock()
		e.lost = status.Errorf(status.Unhealthy, "mock: the engine was lost in run %d", number)
	case Panic:
		panic("mock: scripted panic")
	}
	return 0, nil
}

// awaitFile waits until there is such a file; not at all without a name.
func awaitFile(ctx context.Context, name string) error {
	for name != "" {
		if _, err := os.Stat(name); err == nil {
			break
		}
		if err := sleep(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func anyHolds(b *engine.Batch, id int32) bool {
	for i := range b.Sequences() {
		if holds(b, i, id) {
			return true
		}
	}
	return false
}

func holds(b *engine.Batch, i int, id int32) bool {
	for _, v := range b.InputIDs[b.CuSeqLens[i]:b.CuSeqLens[i+1]] {
		if v == id {
			return true
		}
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// compute fills the outputs. A token's row depends on its ids, type and position; a sequence's row is the mean of its tokens', so
// that it is the same alone and in any batch.
func (s *slot) compute(poisoned func(i int) bool) {
	b, info := s.batch, s.engine.info
	want := b.Outputs & info.Outputs
	s.out = engine.Output{Pooled: grow(s.out.Pooled, b.Sequences()*info.PooledWidth, want&engine.Pooled != 0),
		TokenVectors: grow(s.out.TokenVectors, b.Tokens()*info.TokenWidth, want&engine.TokenVectors != 0),
		Sparse:       grow(s.out.Sparse, b.Sequences()*info.SparseWidth, want&engine.Sparse != 0)}
	for i := range b.Sequences() {
		first, last := int(b.CuSeqLens[i]), int(b.CuSeqLens[i+1])
		var sparse []float32
		if want&engine.Sparse != 0 {
			sparse = s.out.Sparse[i*info.SparseWidth : (i+1)*info.SparseWidth]
			clear(sparse)
		}
		var mean factors
		for t := first; t < last; t++ {
			own := factorsOf(uint64(b.InputIDs[t])<<32 ^ uint64(b.TypeIDs[t])<<24 ^ uint64(b.PositionIDs[t]))
			for j := range mean {
				mean[j] += own[j] / float32(last-first)
			}
			if sparse != nil {
				sparse[b.InputIDs[t]] = 1 + own[0]
			}
			if want&engine.TokenVectors != 0 {
				s.engine.fillRow(s.out.TokenVectors[t*info.TokenWidth:(t+1)*info.TokenWidth], own)
			}
		}
		var pooled []float32
		if want&engine.Pooled != 0 {
			pooled = s.out.Pooled[i*info.PooledWidth : (i+1)*info.PooledWidth]
			s.engine.fillRow(pooled, mean)
		}
		if poisoned(i) {
			nan := float32(math.NaN())
			for _, rows := range [][]float32{pooled, sparse, s.out.TokenVectors[min(first*info.TokenWidth, len(s.out.TokenVectors)):min(last*info.TokenWidth, len(s.out.TokenVectors))]} {
				if len(rows) > 0 {
					rows[0] = nan
				}
			}
		}
	}
}

// factors are what rows differ in: column k of a row is factor k modulo their number, times the column's weight, which all rows share.
// So few numbers are hashed for a token that an engine at no cost costs a server next to nothing.
type factors [8]float32

func factorsOf(seed uint64) (f factors) {
	for j := range f {
		f[j] = value(seed, j)
	}
	return f
}

func (e *Engine) fillRow(row []float32, f factors) {
	for k := range row {
		row[k] = f[k%len(f)] * e.weights[k]
	}
}

// grow returns a slice of n floats that reuses old where it can; nil when not wanted.
func grow(old []float32, n int, wanted bool) []float32 {
	if !wanted {
		return nil
	}
	if cap(old) < n {
		return make([]float32, n)
	}
	return old[:n]
}

// value maps a seed and a column to [-1, 1) by SplitMix64 (Steele, Lea, Flood 2014).
func value(seed uint64, k int) float32 {
	z := seed + (uint64(k)+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	return float32(int32(z>>32)) / (1 << 31)
}

// Config returns the script with its defaults filled in.
func (e *Engine) Config() Config { return e.config }
