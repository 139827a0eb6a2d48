package auto

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/basetenlabs/bei-runtime/backend/engine"
	"github.com/basetenlabs/bei-runtime/backend/status"
)

// Candidate is an engine that may be used.
type Candidate struct {
	Name   string // in texts: "tensorrt"
	Engine engine.Engine
}

// Open measures two engines of one model, and returns the faster one, or a Pair of them where each is faster in some sizes; and in a
// sentence why. Where their vectors differ by more than rounding, the second one is believed, and returned, unless only its numbers are
// not finite. It owns the engines from then on: what it does not return is closed. log receives what goes wrong, later from any
// goroutine: the loss of an engine. Errors: when neither engine can run, or ctx ends.
func Open(ctx context.Context, candidates [2]Candidate, t Tables, log func(message string)) (engine.Engine, string, error) {
	infos := [2]engine.Info{candidates[0].Engine.Info(), candidates[1].Engine.Info()}
	sizes := shapes(common(infos[0].Limits, infos[1].Limits))
	var times [2][]time.Duration
	var errs [2]error
	for i, c := range candidates {
		times[i], errs[i] = Measure(ctx, c.Engine, sizes, t)
	}
	doubted, reason := 0, ""
	if errs[0] == nil && errs[1] == nil {
		doubted, reason, errs = compare(ctx, candidates, infos, t)
	}
	if ctx.Err() != nil {
		return nil, "", errors.Join(status.Errorf(status.Cancelled, "opening the engine: %w", context.Cause(ctx)), closeAll(candidates[:]...))
	}
	switch {
	case errs[0] != nil && errs[1] != nil:
		err := fmt.Errorf("%s: %w; %s: %w", candidates[0].Name, errs[0], candidates[1].Name, errs[1])
		return nil, "", errors.Join(status.Errorf(status.CodeOf(errs[0]), "%w", err), closeAll(candidates[:]...))
	case errs[0] != nil || errs[1] != nil:
		used, failed := candidates[0], candidates[1]
		err := errs[1]
		if errs[0] != nil {
			used, failed, err = candidates[1], candidates[0], errs[0]
		}
		log(fmt.Sprintf("engine %s is not used: %v", failed.Name, err))
		return alone(used, failed, fmt.Sprintf("%s; %s: not used: %v", used.Name, failed.Name, err))
	}
	if reason != "" {
		trusted, other := candidates[1-doubted], candidates[doubted]
		log(fmt.Sprintf("engine %s is not used: %s", other.Name, reason))
		return alone(trusted, other, fmt.Sprintf("%s; %s: not used: %s", trusted.Name, other.Name, reason))
	}
	all := make([]measurement, len(sizes))
	for i, s := range sizes {
		all[i] = measurement{s, [2]time.Duration{max(times[0][i], 1), max(times[1][i], 1)}}
	}
	r, single := choose(all)
	small, large := candidates[r.small], candidates[1-r.small]
	figures := table(all, r.small)
	if r.alone {
		return alone(small, large, fmt.Sprintf("%s, as fast as %s or faster (%s)", small.Name, large.Name, figures))
	}
	if reason := differ(infos[r.small], infos[1-r.small]); reason != "" {
		used, other := candidates[single], candidates[1-single]
		return alone(used, other, fmt.Sprintf("%s, the faster one over all sizes (%s); %s is not used for some of them, since %s",
			used.Name, table(all, single), other.Name, reason))
	}
	p := newPair([2]Candidate{small, large}, r.tokens, log)
	choice := fmt.Sprintf("%s up to %d tokens a run, %s above", small.Name, r.tokens, large.Name)
	p.info.Details["choice"] = choice
	for _, m := range all {
		p.info.Details["choice."+m.shape.String()] = fmt.Sprintf("%s %s ms, %s %s ms",
			small.Name, milliseconds(m.times[r.small]), large.Name, milliseconds(m.times[1-r.small]))
	}
	return p, fmt.Sprintf("%s (%s)", choice, figures), nil
}

// compare runs uneven batches on both candidates, until they disagree or one fails: then errs has why.
func compare(ctx context.Context, candidates [2]Candidate, infos [2]engine.Info, t Tables) (doubted int, reason string, errs [2]error) {
	limits, want := common(infos[0].Limits, infos[1].Limits), infos[0].Outputs&infos[1].Outputs
	for _, lengths := range uneven {
		var outputs [2]engine.Output
		for i, c := range candidates {
			outputs[i], errs[i] = unevenRun(ctx, c.Engine, limits, want, t, lengths)
		}
		if errs[0] != nil || errs[1] != nil {
			return 0, "", errs
		}
		if doubted, reason = disagree(candidates, infos, outputs); reason != "" {
			return doubted, reason, errs
		}
	}
	return 0, "", errs
}

// disagree says how the candidates' outputs of one batch differ, and which of them is not believed; "": they agree, or are of other widths.
func disagree(candidates [2]Candidate, infos [2]engine.Info, outputs [2]engine.Output) (doubted int, reason string) {
	if infos[0].PooledWidth != infos[1].PooledWidth || infos[0].TokenWidth != infos[1].TokenWidth {
		return 0, ""
	}
	least := agreement(outputs, infos[0])
	switch {
	case least >= leastAgreement(infos):
		return 0, ""
	case finite(outputs[0]) && !finite(outputs[1]):
		return 1, fmt.Sprintf("its vectors hold NaN or infinity where those of %s do not; please report this", candidates[0].Name)
	}
	return 0, fmt.Sprintf("its vectors are not those of %s: the least cosine is %.4f; please report this", candidates[1].Name, least)
}

// alone returns the engine that is used, and closes the other one.
func alone(used, other Candidate, choice string) (engine.Engine, string, error) {
	if err := closeAll(other); err != nil {
		choice += fmt.Sprintf("; closing it: %v", err)
	}
	return used.Engine, choice, nil
}

func closeAll(candidates ...Candidate) error {
	var errs []error
	for _, c := range candidates {
		if err := c.Engine.Close(); err != nil {
			errs = append(errs, fmt.Errorf("closing %s: %w", c.Name, err))
		}
	}
	return errors.Join(errs...)
}

// common are the limits of what both engines can run.
func common(a, b engine.Limits) engine.Limits {
	return engine.Limits{MaxTokens: min(a.MaxTokens, b.MaxTokens), MaxSequences: min(a.MaxSequences, b.MaxSequences), MaxLength: min(a.MaxLength, b.MaxLength)}
}

// differ says why runs must not go now to the one, now to the other: callers would see it in the results. "": they may.
func differ(a, b engine.Info) string {
	switch {
	case products(a) != products(b):
		return fmt.Sprintf("one computes in %s, the other in %s", products(a), products(b))
	case a.Outputs != b.Outputs || a.PooledWidth != b.PooledWidth || a.TokenWidth != b.TokenWidth || a.SparseWidth != b.SparseWidth:
		return fmt.Sprintf("their outputs are not the same (%#x and %#x; %d, %d, %d and %d, %d, %d columns)", uint32(a.Outputs), uint32(b.Outputs),
			a.PooledWidth, a.TokenWidth, a.SparseWidth, b.PooledWidth, b.TokenWidth, b.SparseWidth)
	}
	return ""
}

// products is the precision of matrix products, which an engine tells where it is not that of all else: float32 by TF32.
func products(i engine.Info) string { return cmp.Or(i.Details["products"], i.Precision) }
