package auto

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Pair implements engine.Engine over two engines of one model: runs of up to some number of tokens go to the first, larger ones to the
// second. What only one of them takes goes to that one, and so does everything when the other one is lost.
type Pair struct {
	info    engine.Info
	members [2]*member // for small runs, for large runs
	tokens  int        // of the largest small run
	slots   []engine.Slot
	log     func(message string)
}

var (
	_ engine.Engine   = (*Pair)(nil)
	_ engine.Reporter = (*Pair)(nil)
)

// member is one of the two engines.
type member struct {
	Candidate
	limits engine.Limits
	lost   atomic.Pointer[error] // it gets no more runs
}

// newPair joins engines that do not differ, the one for small runs first.
func newPair(engines [2]Candidate, tokens int, log func(string)) *Pair {
	p := &Pair{tokens: tokens, log: log}
	a, b := engines[0].Engine.Info(), engines[1].Engine.Info()
	p.info = engine.Info{
		Name: engines[0].Name + "+" + engines[1].Name, Version: a.Version + "+" + b.Version,
		Device: strings.Join(union(strings.Split(a.Device, ","), strings.Split(b.Device, ",")), ","), DeviceUUIDs: union(a.DeviceUUIDs, b.DeviceUUIDs),
		Precision: a.Precision, Limits: limits(a.Limits, b.Limits),
		Outputs: a.Outputs, PooledWidth: a.PooledWidth, TokenWidth: a.TokenWidth, SparseWidth: a.SparseWidth, Details: make(map[string]string),
	}
	slots := [2][]engine.Slot{}
	for i, c := range engines {
		info := c.Engine.Info()
		p.members[i], slots[i] = &member{Candidate: c, limits: info.Limits}, c.Engine.Slots()
		for key, value := range info.Details {
			p.info.Details[c.Name+"."+key] = value
		}
	}
	// The output of a run lies in memory of the engine's slot until the pair's slot runs again: so each has a slot of both engines for itself.
	for k := range min(len(slots[0]), len(slots[1])) {
		p.slots = append(p.slots, &slot{pair: p, batch: engine.NewBatch(p.info.Limits), slots: [2]engine.Slot{slots[0][k], slots[1][k]}})
	}
	return p
}

// limits of a pair are those of the engine that takes more, which then takes every run: one without padding, whose memory does not
// depend on how lengths are mixed, before one that pads; then that of longer sequences and runs. How full runs should be says the
// engine for large ones.
func limits(small, large engine.Limits) engine.Limits {
	wide := slices.MaxFunc([]engine.Limits{large, small}, func(a, b engine.Limits) int {
		if a.Padded != b.Padded {
			if b.Padded {
				return 1
			}
			return -1
		}
		return cmp.Or(cmp.Compare(a.MaxLength, b.MaxLength), cmp.Compare(a.MaxTokens, b.MaxTokens), cmp.Compare(a.MaxSequences, b.MaxSequences))
	})
	wide.BestTokens, wide.Padded = min(large.BestTokens, wide.MaxTokens), large.Padded
	return wide
}

// union keeps the order, and each string once.
func union(a, b []string) []string {
	all := slices.Clone(a)
	for _, s := range b {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// Info implements engine.Engine.
func (p *Pair) Info() engine.Info { return p.info }

// Slots implements engine.Engine.
func (p *Pair) Slots() []engine.Slot { return p.slots }

// Health implements engine.Engine. A lost engine is an error even while the other one serves.
func (p *Pair) Health() error {
	var errs []error
	serving := ""
	for _, m := range p.members {
		err := m.Engine.Health()
		if lost := m.lost.Load(); err == nil && lost != nil {
			err = *lost
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		} else {
			serving = m.Name
		}
	}
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return status.Errorf(status.CodeOf(errs[0]), "%w; %s serves the runs that it can take", errs[0], serving)
	}
	return status.Errorf(status.CodeOf(errs[0]), "%w", errors.Join(errs...))
}

// Stats implements engine.Reporter: those of both, by their names here. A lost engine's replicas get no runs.
func (p *Pair) Stats() []engine.Stats {
	var all []engine.Stats
	for _, m := range p.members {
		reporter, ok := m.Engine.(engine.Reporter)
		if !ok {
			continue
		}
		for _, s := range reporter.Stats() {
			s.Engine = m.Name
			for i := range s.Replicas {
				s.Replicas[i].Serving = s.Replicas[i].Serving && m.lost.Load() == nil
			}
			all = append(all, s)
		}
	}
	return all
}

// Close implements engine.Engine: it closes both.
func (p *Pair) Close() error { return closeAll(p.members[0].Candidate, p.members[1].Candidate) }

// order says which engine should run b, as an index of members.
func (p *Pair) order(b *engine.Batch) (first int) {
	if b.Tokens() > p.tokens {
		first = 1
	}
	chosen, other := p.members[first], p.members[1-first]
	if !chosen.takes(b) || (chosen.limits.Padded && !other.limits.Padded && mixed(b) && other.takes(b)) {
		return 1 - first
	}
	return first
}

// mixed tells that padding would more than double the tokens of b.
func mixed(b *engine.Batch) bool { return b.Sequences()*b.MaxLength > 2*b.Tokens() }

// takes tells whether b is within the engine's limits.
func (m *member) takes(b *engine.Batch) bool {
	return b.Tokens() <= m.limits.MaxTokens && b.Sequences() <= m.limits.MaxSequences && b.MaxLength <= m.limits.MaxLength
}

// lose takes the engine out of use, once.
func (p *Pair) lose(i int, err error) {
	if p.members[i].lost.CompareAndSwap(nil, &err) {
		p.log(fmt.Sprintf("engine %s is lost; from now on %s runs what it can take: %v", p.members[i].Name, p.members[1-i].Name, err))
	}
}
