use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::Notify;

use super::cost::Cost;
use super::device::Device;
use super::queue::{Budget, ItemId, Pick, Queue, Removed};
use super::reply::Subscriber;
use crate::capacity::LaneMetrics;
use crate::failure::Failure;

/// What is left for handing an answer out: one that is done just before its deadline reaches nobody in time.
const DELIVERY: Duration = Duration::from_millis(5);

/// Bytes of stack of a lane's threads, in which the engine runs: as much as threads of C have by default.
const STACK: usize = 8 << 20;

/// Why a lane does not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A call has not come back.
    Hung,
    /// The engine or device is lost.
    Lost,
}

/// A queue before one opened model, and the threads that hand batches to it. Exactly as many calls are out as the library has slots.
///
/// A batch is formed when a slot is free, not before, so that it takes the latest arrivals. There is one thread more than there are
/// slots: it takes the next batch while another hands out the answers of the last.
pub struct Lane {
    pub name: &'static str,
    pub device: Box<dyn Device>,
    pub budget: Budget,
    pub slots: usize,
    pub metrics: LaneMetrics,
    /// Where items go that this lane has lost.
    pub others: OnceLock<Vec<Weak<Lane>>>,
    /// Whether the last batch came to no failure of the engine.
    pub working: AtomicBool,
    state: Mutex<State>,
    /// Wakes a thread: something waits and a slot is free, or the lane is closed.
    ready: Condvar,
    /// Tells who closes the lane that nothing is left.
    pub idle: Notify,
}

/// What a lane's lock guards.
pub struct State {
    pub queue: Queue,
    pub cost: Cost,
    pub runs: Slab<Run>,
    /// Slots that no call has.
    pub free: usize,
    /// Slots of calls that were given up and have not come back.
    pub hung: usize,
    pub trouble: Option<(Trouble, Instant, String)>,
    /// No batch is formed before: a failing engine is not asked again at once.
    pub pause: Option<Instant>,
    /// Batches in a row that found the engine unhealthy.
    pub failures: u32,
    pub closed: bool,
    /// Threads that wait for a batch.
    pub waiting: usize,
    /// Whether one of them has been woken and has not come yet. It takes all that fits into a batch: waking others for what arrives
    /// meanwhile would split it.
    called: bool,
    /// Threads that run a batch, or hand out its answers.
    serving: usize,
}

/// A batch that is out.
pub struct Run {
    pub items: Vec<ItemId>,
    pub began: Instant,
    /// Seconds that it should take.
    pub predicted: f64,
    pub hung: bool,
}

/// A batch to be run, with its entry in [`State::runs`].
pub struct Batch {
    pub run: usize,
    pub picks: Vec<Pick>,
}

impl State {
    /// Slots that can still come free.
    pub fn live(&self, slots: usize) -> usize {
        slots.saturating_sub(self.hung)
    }

    /// Seconds until a slot has done what runs, and `tokens` that wait before.
    pub fn wait(&self, lane: &Lane, tokens: usize, now: Instant) -> f64 {
        let left = |run: &Run| (run.predicted - now.duration_since(run.began).as_secs_f64()).max(0.0);
        let running: f64 = self.runs.iter().filter(|(_, run)| !run.hung).map(|(_, run)| left(run)).sum();
        let pause = self.pause.map_or(0.0, |until| until.saturating_duration_since(now).as_secs_f64());
        let work = running + tokens as f64 * self.cost.token(lane.budget.tokens);
        // A free slot begins at once.
        let free =
            if self.free > 0 && tokens == 0 { 0.0 } else { work / self.live(lane.slots).max(1) as f64 };
        free + pause
    }

    /// Whether there is a batch that a thread must be woken for: others come by themselves.
    pub fn wants_thread(&self) -> bool {
        self.waiting > 0 && !self.called && self.free > 0 && self.queue.len() > 0
    }

    /// Whether nothing waits, and all else is answered, hung calls aside.
    pub fn is_idle(&self) -> bool {
        self.queue.len() == 0 && self.serving <= self.hung
    }
}

impl Lane {
    /// `cost`: what the warm-up has taught.
    pub fn new(
        name: &'static str,
        device: Box<dyn Device>,
        budget: Budget,
        slots: usize,
        cost: Cost,
        metrics: LaneMetrics,
    ) -> Arc<Lane> {
        let slots = slots.max(1);
        let state = State {
            queue: Queue::new(),
            cost,
            runs: Slab::new(),
            free: slots,
            hung: 0,
            trouble: None,
            pause: None,
            failures: 0,
            closed: false,
            waiting: 0,
            called: false,
            serving: 0,
        };
        Arc::new(Lane {
            name,
            device,
            budget,
            slots,
            metrics,
            others: OnceLock::new(),
            working: AtomicBool::new(true),
            state: Mutex::new(state),
            ready: Condvar::new(),
            idle: Notify::new(),
        })
    }

    /// Starts the lane's threads, which end when it is closed and empty.
    pub fn spawn(self: &Arc<Lane>) -> std::io::Result<()> {
        for i in 0..=self.slots {
            let lane = self.clone();
            let thread = std::thread::Builder::new().name(format!("{}-{i}", self.name)).stack_size(STACK);
            thread.spawn(move || {
                let mut worker = super::worker::Worker::new(lane.clone());
                let mut served = false;
                while let Some(batch) = lane.take(served) {
                    worker.serve(batch);
                    served = true;
                }
            })?;
        }
        Ok(())
    }

    /// A poisoned lock is taken all the same: every change of the state is complete at each step.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes a thread where there is a batch to take. It wakes the next one, where it leaves something.
    pub fn notify(&self, state: &mut State) {
        if state.wants_thread() {
            state.called = true;
            self.ready.notify_one();
        }
    }

    /// Waits for a free slot and something to do. `None` when the lane is closed and empty. `served`: the thread has served a batch.
    fn take(&self, served: bool) -> Option<Batch> {
        let mut state = self.lock();
        state.serving -= usize::from(served);
        self.tell_if_idle(&state);
        loop {
            let now = Instant::now();
            let paused = state
                .pause
                .and_then(|until| until.checked_duration_since(now))
                .filter(|left| !left.is_zero());
            if state.free > 0 && state.queue.len() > 0 && paused.is_none() {
                if let Some(batch) = self.form(&mut state, now) {
                    return Some(batch);
                }
                continue;
            }
            if state.closed && state.queue.len() == 0 {
                // Those who sleep must see it too.
                self.ready.notify_all();
                return None;
            }
            state.waiting += 1;
            state = match paused.filter(|_| state.queue.len() > 0) {
                Some(left) => self.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.ready.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            state.waiting -= 1;
            state.called = false;
        }
    }

    /// Forms the next batch and takes a slot for it; `None` when all that was looked at has gone or is late.
    fn form(&self, state: &mut State, now: Instant) -> Option<Batch> {
        let State { queue, cost, .. } = state;
        // An item is done when its batch is, which will be full where much waits.
        let full = queue.tokens().min(self.budget.tokens);
        let by = |tokens: usize| {
            let seconds = cost.batch(tokens.max(full)) * super::MARGIN;
            now + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4) + DELIVERY
        };
        let formed = queue.form(self.budget, cost.fixed_tokens(), now, by);
        self.metrics.dropped(formed.dropped);
        if !formed.late.is_empty() {
            self.metrics.shed("expired", formed.late.len());
            let retry = self.drain_seconds(state, now);
            for subscriber in formed.late {
                subscriber.answer(Err(late().retry_after(retry)));
            }
        }
        if formed.picks.is_empty() {
            return None;
        }
        let tokens: usize = formed.picks.iter().map(|pick| pick.length).sum();
        let rows = rows(&formed.picks, self.budget.padded);
        self.metrics.batch(formed.picks.len(), tokens, rows, self.budget);
        let items = formed.picks.iter().map(|pick| pick.id).collect();
        let run =
            state.runs.insert(Run { items, began: now, predicted: state.cost.batch(rows), hung: false });
        state.free -= 1;
        state.serving += 1;
        // Another slot may be free for what is left.
        self.notify(state);
        Some(Batch { run, picks: formed.picks })
    }

    /// Whole seconds, at least 1, until all that waits now is done.
    pub fn drain_seconds(&self, state: &State, now: Instant) -> u64 {
        state.wait(self, state.queue.tokens(), now).clamp(1.0, 3600.0).ceil() as u64
    }

    /// Gives back the slot of a run, and tells what became of it: false when it had been given up.
    pub fn end(&self, state: &mut State, run: usize) -> bool {
        let hung = state.runs.remove(run).hung;
        state.free += 1;
        if hung {
            state.hung -= 1;
            tracing::warn!("lane {}: a hung call has come back", self.name);
        }
        self.notify(state);
        !hung
    }

    /// Refuses inputs from now on. Those that wait are still computed.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.tell_if_idle(&state);
        self.ready.notify_all();
    }

    /// Answers all that waits with a failure.
    pub fn fail_waiting(&self, failure: &Failure) {
        let removed = {
            let mut state = self.lock();
            state.queue.drain()
        };
        for Removed { subscribers, .. } in removed {
            fail_all(subscribers, failure);
        }
        self.tell_if_idle(&self.lock());
    }

    /// Another lane that works, where there is one.
    pub fn other(&self) -> Option<Arc<Lane>> {
        let others = self.others.get().into_iter().flatten().filter_map(Weak::upgrade);
        others.into_iter().find(|lane| {
            let state = lane.lock();
            state.trouble.is_none() && !state.closed
        })
    }

    /// Takes in what another lane has lost.
    pub fn take_in(&self, items: impl IntoIterator<Item = Removed>) {
        let mut state = self.lock();
        for removed in items {
            state.queue.insert(removed);
        }
        self.notify(&mut state);
    }

    /// Lets all that waits wait in another lane, or answers it with a failure where none works.
    pub fn hand_over(&self, failure: &Failure) {
        let Some(other) = self.other() else { return self.fail_waiting(failure) };
        let waiting = self.lock().queue.drain();
        other.take_in(waiting);
        self.tell_if_idle(&self.lock());
    }

    /// Tells who closes the lane, and the threads that wait, that nothing is left.
    pub fn tell_if_idle(&self, state: &State) {
        if state.closed && state.is_idle() {
            self.idle.notify_waiters();
            self.ready.notify_all();
        }
    }

    /// Notes that the engine works.
    pub fn recovered(&self, state: &mut State) {
        if state.hung == 0
            && let Some((_, since, _)) = state.trouble.take()
        {
            tracing::info!("lane {}: healthy again after {:?}", self.name, since.elapsed());
        }
        state.failures = 0;
        state.pause = None;
    }

    /// Notes that the engine does not work.
    pub fn failed(&self, state: &mut State, trouble: Trouble, reason: &str) {
        let since = state.trouble.as_ref().map_or_else(Instant::now, |&(_, since, _)| since);
        if state.trouble.is_none() {
            tracing::error!("lane {}: unhealthy: {reason}", self.name);
        }
        // A library that gives up the call itself says that the engine is lost: it is because it hangs.
        let hangs = matches!(state.trouble, Some((Trouble::Hung, ..)));
        let trouble = if hangs { Trouble::Hung } else { trouble };
        state.trouble = Some((trouble, since, reason.to_string()));
    }
}

/// What a batch costs, in tokens.
pub fn rows(picks: &[Pick], padded: bool) -> usize {
    let lengths = picks.iter().map(|pick| pick.length);
    if padded { lengths.max().unwrap_or(0) * picks.len() } else { lengths.sum() }
}

/// Gives a failure to all who wait for an item.
pub fn fail_all(subscribers: impl IntoIterator<Item = Subscriber>, failure: &Failure) {
    for subscriber in subscribers {
        subscriber.answer(Err(failure.clone()));
    }
}

/// The failure of an input whose deadline has passed, or will have before it is computed.
pub fn late() -> Failure {
    Failure::overloaded(
        "the request's deadline (Request-Timeout-Ms, Request-Deadline-Ms) cannot be met any more",
    )
}
