package hub

import (
	"sync"
	"time"

	"go.uber.org/zap"
)

// logEvery passes between lines of progress, and before the first.
const logEvery = 2 * time.Second

// progress adds up what several goroutines fetch.
type progress struct {
	report func(Progress)
	mutex  sync.Mutex // guards now, and calls of report
	now    Progress
}

func (p *progress) expect(bytes int64) { p.add(0, bytes) }

func (p *progress) add(done, total int64) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.now.Done += done
	p.now.Total = max(p.now.Total+total, p.now.Done)
	if p.now.Total > 0 {
		p.report(p.now)
	}
}

// logged writes progress to the log.
func (f *fetch) logged() func(Progress) {
	start := time.Now()
	last := start
	return func(p Progress) {
		if time.Since(last) < logEvery {
			return
		}
		last = time.Now()
		f.Log.Info("fetching from the hub", zap.String("model", f.ID), zap.String("revision", f.Revision), zap.Int64("bytes", p.Done),
			zap.Int64("of_bytes", p.Total), zap.Float64("mb_per_second", float64(p.Done)/1e6/time.Since(start).Seconds()))
	}
}
