//! One thread of a lane: it runs batches, finds culprits, and hands out answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bei_backend::{Error, Status};

use super::lane::{Batch, Lane, Trouble, fail_all, rows};
use super::queue::{Pick, Removed};
use super::reply::Subscriber;
use crate::call::{Called, Packed};
use crate::failure::Failure;
use crate::work::{Answer, Outcome, Work};

/// Pauses of a lane whose engine is unhealthy: the first, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A thread's own memory, used again and again.
pub struct Worker {
    lane: Arc<Lane>,
    packed: Packed,
}

/// What one call took.
#[derive(Clone, Copy)]
struct Timed {
    began: Instant,
    took: Duration,
}

impl Worker {
    pub fn new(lane: Arc<Lane>) -> Worker {
        Worker { lane, packed: Packed::default() }
    }

    /// Runs a batch, answers its items, and gives its slot back as soon as the engine is done.
    pub fn serve(&mut self, Batch { run, picks }: Batch) {
        let (called, timed) = self.call(&picks);
        match called {
            Ok(called) => {
                let lane = self.lane.clone();
                let alive = {
                    let mut state = lane.lock();
                    state.cost.observe(rows(&picks, lane.budget.padded), timed.took);
                    lane.end(&mut state, run)
                };
                if alive {
                    self.deliver(&picks, &called, timed);
                }
            }
            Err(error) if is_unhealthy(error.status) => {
                let lane = self.lane.clone();
                // Before the slot is free: nothing else must be sent to a sick engine.
                self.sick(&error);
                let alive = lane.end(&mut lane.lock(), run);
                if alive {
                    self.again(&picks, &error);
                }
            }
            Err(error) => {
                // Each halving on the way to a culprit costs two calls. There is room for four culprits.
                let mut reruns = 4 * 2 * (picks.len().max(2).ilog2() as usize + 1);
                self.halve(run, &picks, error, &mut reruns);
                self.lane.end(&mut self.lane.lock(), run);
            }
        }
    }

    fn call(&mut self, picks: &[Pick]) -> (Result<Called, Error>, Timed) {
        let works: Vec<&Work> = picks.iter().map(|pick| &*pick.work).collect();
        let (device, packed) = (&self.lane.device, &mut self.packed);
        let began = Instant::now();
        let called = catch_unwind(AssertUnwindSafe(|| device.call(packed, &works)));
        let took = began.elapsed();
        self.lane.metrics.busy(took);
        let called = called.unwrap_or_else(|_| {
            let message = "a defect of the server; its log tells more".to_string();
            Err(Error { status: Status::Internal, message })
        });
        (called, Timed { began, took })
    }

    /// Finds the items that make a batch fail, by running its halves. The run keeps its slot.
    fn halve(&mut self, run: usize, picks: &[Pick], error: Error, reruns: &mut usize) {
        if picks.len() == 1 || *reruns < 2 || !is_culprits(error.status) {
            tracing::error!("lane {}: {} inputs failed: {error}", self.lane.name, picks.len());
            self.lane.working.store(false, Ordering::Relaxed);
            let failure = Failure::from(error);
            for removed in self.remove(picks) {
                fail_all(removed.subscribers, &failure);
            }
            return;
        }
        *reruns -= 2;
        self.lane.metrics.bisected(2);
        let (first, second) = picks.split_at(picks.len() / 2);
        for half in [first, second] {
            {
                let mut state = self.lane.lock();
                let predicted = state.cost.batch(rows(half, self.lane.budget.padded));
                match state.runs.get_mut(run) {
                    Some(run) if !run.hung => (run.began, run.predicted) = (Instant::now(), predicted),
                    _ => return, // given up, and all its items are answered
                }
            }
            match self.call(half) {
                (Ok(called), timed) => self.deliver(half, &called, timed),
                (Err(error), _) if is_unhealthy(error.status) => {
                    self.sick(&error);
                    self.again(half, &error);
                }
                (Err(error), _) => self.halve(run, half, error, reruns),
            }
        }
    }

    /// Answers a batch's items, each with its outcome or its own failure.
    fn deliver(&mut self, picks: &[Pick], called: &Called, timed: Timed) {
        let outcomes: Vec<_> = picks
            .iter()
            .enumerate()
            .map(|(i, pick)| {
                catch_unwind(AssertUnwindSafe(|| called.outcome(i, &pick.work))).unwrap_or_else(|_| {
                    let message = "a defect of the server; its log tells more".to_string();
                    Err(Error { status: Status::Internal, message })
                })
            })
            .collect();
        let faults: Vec<&Error> =
            outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).filter(at_fault).collect();
        if let Some(first) = faults.first() {
            tracing::error!(
                "lane {}: {} of a batch's {} inputs failed; the first: {first}",
                self.lane.name,
                faults.len(),
                picks.len()
            );
        }
        let sick = faults.iter().find(|error| is_unhealthy(error.status)).map(|&error| error.clone());
        // A NaN comes from the input and the weights; the engine works.
        let works = faults.is_empty() || faults.iter().any(|error| error.status == Status::NonFinite);
        match &sick {
            Some(error) => self.sick(error),
            None => {
                self.lane.working.store(works, Ordering::Relaxed);
                let mut state = self.lane.lock();
                if state.trouble.is_some() || state.failures > 0 {
                    self.lane.recovered(&mut state);
                }
            }
        }
        let removed = {
            let mut state = self.lane.lock();
            let mut take = |(pick, outcome): (&Pick, &Result<_, Error>)| {
                let again = outcome.as_ref().is_err_and(|error: &Error| is_unhealthy(error.status));
                (!again).then(|| state.queue.remove(pick.id)).flatten()
            };
            picks.iter().zip(&outcomes).map(&mut take).collect::<Vec<_>>()
        };
        let mut lost = Vec::new();
        for ((removed, outcome), pick) in removed.into_iter().zip(outcomes).zip(picks) {
            let Some(removed) = removed else {
                if outcome.is_err() {
                    lost.push(pick.clone());
                }
                continue;
            };
            answer(removed, outcome.map(Arc::new).map_err(Failure::from), timed);
        }
        if let Some(error) = sick {
            self.again(&lost, &error);
        }
    }

    /// Notes that the engine is unhealthy, and gives it time.
    fn sick(&self, error: &Error) {
        let mut state = self.lane.lock();
        self.lane.failed(&mut state, Trouble::Lost, &error.message);
        state.failures += 1;
        let pause = FIRST_PAUSE.saturating_mul(1 << (state.failures - 1).min(10)).min(LONGEST_PAUSE);
        state.pause = Some(Instant::now() + pause);
    }

    /// Lets items whose engine was lost wait once more: for a lane that works, together with all that waits here, or for this one. Those
    /// that have done so get the failure.
    fn again(&self, picks: &[Pick], error: &Error) {
        let healthy = self.lane.other();
        let mut moved = Vec::new();
        let mut failed = Vec::new();
        let mut waiting = Vec::new();
        {
            let mut state = self.lane.lock();
            for pick in picks {
                if healthy.is_none() && state.queue.requeue(pick.id) {
                    self.lane.metrics.requeued(1);
                } else if let Some(removed) = state.queue.remove(pick.id) {
                    match removed.requeued {
                        true => failed.push(removed),
                        false => moved.push(removed),
                    }
                }
            }
            if healthy.is_some() {
                waiting = state.queue.drain();
            }
            self.lane.notify(&mut state);
        }
        if let Some(lane) = healthy {
            self.lane.metrics.requeued(moved.len() as u64);
            let moved = moved.drain(..).map(|removed| Removed { requeued: true, ..removed });
            lane.take_in(moved.chain(waiting));
        }
        let failure = Failure::unhealthy(error.message.clone());
        for removed in moved.into_iter().chain(failed) {
            fail_all(removed.subscribers, &failure);
        }
    }

    fn remove(&self, picks: &[Pick]) -> Vec<Removed> {
        let mut state = self.lane.lock();
        picks.iter().filter_map(|pick| state.queue.remove(pick.id)).collect()
    }
}

/// Gives an outcome to all who wait for the item.
fn answer(removed: Removed, outcome: Result<Arc<Outcome>, Failure>, timed: Timed) {
    let give = |subscriber: Subscriber, outcome: Result<Arc<Outcome>, Failure>| {
        let queue = timed.began.saturating_duration_since(subscriber.queued);
        // One that came while the item was running has waited for a part of the run only.
        let joined = subscriber.queued.saturating_duration_since(timed.began);
        let inference = timed.took.saturating_sub(joined);
        subscriber.answer(outcome.map(|outcome| Answer { outcome, queue, inference }));
    };
    let mut subscribers = removed.subscribers;
    let last = subscribers.pop();
    for subscriber in subscribers {
        give(subscriber, outcome.clone());
    }
    // Given away, not copied: whoever is the only one then has it for its own.
    if let Some(last) = last {
        give(last, outcome);
    }
}

/// Whether the engine is lost, rather than the batch wrong.
fn is_unhealthy(status: Status) -> bool {
    status == Status::Unhealthy
}

/// Whether one of a batch's items may be why the call as a whole failed.
fn is_culprits(status: Status) -> bool {
    !matches!(
        status,
        Status::Overloaded
            | Status::Timeout
            | Status::Cancelled
            | Status::ShutDown
            | Status::InvalidHandle
            | Status::Forked
    )
}

/// Whether the model or the engine failed, and not the input.
fn at_fault(error: &&Error) -> bool {
    matches!(error.status, Status::Inference | Status::Unhealthy | Status::Internal | Status::NonFinite)
}
