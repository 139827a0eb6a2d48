//! The scheduler: admission, the order of work, batches, and what happens when an engine fails.
//!
//! A request's inputs go to a [`Lane`](lane::Lane): a queue before one opened model, and threads that hand it batches. Most
//! servers have one lane; another one may take short queries while the first is busy (spill-over). Within a lane, [`order`] says who is
//! next, [`queue`] forms batches and joins identical inputs, [`cost`] predicts times, [`worker`] runs batches and finds culprits,
//! and [`watchdog`] gives up calls that do not come back.

mod admission;
mod cost;
mod device;
mod lane;
mod order;
mod queue;
mod reply;
#[cfg(test)]
mod tests;
mod ticket;
mod watchdog;
mod worker;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

pub use admission::Admission;
pub use cost::Cost;
pub use lane::{Lane, late};
pub use queue::Budget;
pub use reply::Reply;
pub use ticket::Ticket;
pub use watchdog::End;

use admission::UnderWay;
use lane::{State, Trouble};
use order::key;
use reply::{Collector, Subscriber};

use crate::capacity::Capacity;
use crate::failure::Failure;
use crate::work::{Context, Work};

/// A text has at least one token for so many characters.
const CHARACTERS_PER_TOKEN: usize = 8;

/// How much longer than predicted a request may take that is let in with a deadline: predictions are means, and at an overload every
/// request that is let in is at the edge.
const MARGIN: f64 = 1.15;

/// How often a request that waits for its turn asks whether there is room.
const ADMISSION_PERIOD: Duration = Duration::from_millis(2);

/// Inputs that go to the queue under one lock.
const PUSHED_AT_ONCE: usize = 512;

/// What the flags say.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Inputs under way at which no request is let in.
    pub max_concurrent_requests: usize,
    /// Longest predicted wait of a request that is let in.
    pub max_queue_wait: Duration,
    /// A call that is out for longer is given up.
    pub engine_timeout: Duration,
    /// The program ends when the first lane has been unhealthy for so long.
    pub unhealthy_exit: Option<Duration>,
    /// When requests go to the second lane.
    pub spill: Spill,
}

/// When a request goes to the second lane, where there is one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spill {
    /// Most tokens of it.
    pub max_tokens: usize,
    /// Least predicted wait in the first lane.
    pub wait: Duration,
}

/// All lanes, and the door before them.
pub struct Scheduler {
    lanes: Vec<Arc<Lane>>,
    limits: Limits,
    under_way: UnderWay,
    /// Held by the one request that is the next to be admitted of those that wait.
    turn: tokio::sync::Mutex<()>,
    hasher: foldhash::quality::RandomState,
    began: Instant,
    capacity: Capacity,
}

impl Scheduler {
    /// Starts the lanes' threads. There is at least one lane; the second is for spill-over.
    pub fn start(
        lanes: Vec<Arc<Lane>>,
        limits: Limits,
        capacity: Capacity,
    ) -> std::io::Result<Arc<Scheduler>> {
        for lane in &lanes {
            let others = lanes.iter().filter(|other| !Arc::ptr_eq(other, lane)).map(Arc::downgrade).collect();
            // Only set here.
            let _ = lane.others.set(others);
            lane.spawn()?;
        }
        Ok(Arc::new(Scheduler {
            lanes,
            limits,
            under_way: UnderWay::new(limits.max_concurrent_requests),
            turn: tokio::sync::Mutex::new(()),
            hasher: foldhash::quality::RandomState::default(),
            began: Instant::now(),
            capacity,
        }))
    }

    /// Admits a request, or says that there is too much under way.
    pub fn admit(&self, inputs: usize, characters: usize, context: &Context) -> Result<Admission, Failure> {
        let admitted = self.try_admit(inputs, characters, context);
        admitted.map_err(|(cause, failure)| self.shed(cause, inputs, failure))
    }

    /// As `admit`, but a request waits for its turn where there is too much under way; not where its deadline says no.
    pub async fn admit_in_turn(
        &self,
        inputs: usize,
        characters: usize,
        context: &Context,
    ) -> Result<Admission, Failure> {
        // The first in the line asks again and again; the others wait behind it.
        let _turn = match context.deadline {
            None => self.turn.lock().await,
            Some(deadline) => match timeout_at(deadline.into(), self.turn.lock()).await {
                Ok(turn) => turn,
                Err(_) => return Err(self.shed("deadline", inputs, late().retry_after(1))),
            },
        };
        loop {
            match self.try_admit(inputs, characters, context) {
                Ok(admission) => return Ok(admission),
                Err(("wait" | "concurrency", _)) => tokio::time::sleep(ADMISSION_PERIOD).await,
                Err((cause, failure)) => return Err(self.shed(cause, inputs, failure)),
            }
        }
    }

    fn try_admit(
        &self,
        inputs: usize,
        characters: usize,
        context: &Context,
    ) -> Result<Admission, (&'static str, Failure)> {
        let now = Instant::now();
        let tokens = characters / CHARACTERS_PER_TOKEN;
        let lane = self.choose(tokens, now);
        let refused = {
            let state = lane.lock();
            self.refuse(lane, &state, now, tokens, context)
        };
        if let Some(refused) = refused {
            return Err(refused);
        }
        let permits = self.under_way.enter(inputs, context.waits).map_err(|failure| {
            let retry = lane.drain_seconds(&lane.lock(), now);
            ("concurrency", failure.retry_after(retry))
        })?;
        Ok(Admission { permits })
    }

    /// Puts a request's inputs into a queue, at least one. They run when a slot comes free, or when [`Ticket::start`] says so where one
    /// is free now.
    pub fn submit(
        &self,
        works: Vec<Work>,
        admission: Admission,
        context: &Context,
    ) -> Result<(Ticket, oneshot::Receiver<Reply>), Failure> {
        let Admission { mut permits, .. } = admission;
        let (now, n) = (Instant::now(), works.len());
        let total = works.iter().map(Work::length).sum();
        let works: Vec<(Arc<Work>, u64)> = works
            .into_iter()
            .map(|work| {
                let hash = self.hasher.hash_one(&work);
                (Arc::new(work), hash)
            })
            .collect();
        let (collector, receiver) = Collector::new(n);
        let arrival = u64::try_from(context.arrival.saturating_duration_since(self.began).as_micros());
        let arrival = arrival.unwrap_or(u64::MAX);
        let lane = self.choose(total, now);
        let mut ticket = Ticket::new(lane.clone(), collector.clone(), n);

        let refused = {
            let state = lane.lock();
            self.refuse(lane, &state, now, total, context)
        };
        // What waited for its turn waits on.
        if let Some((cause, failure)) = refused.filter(|(cause, _)| !(context.waits && *cause == "wait")) {
            return Err(self.shed(cause, n, failure));
        }
        let (mut works, mut index, mut tokens, mut hits) = (works.into_iter(), 0, 0, 0);
        while works.len() > 0 {
            // A request of very many inputs must not keep others from the queue until all of them are in.
            let mut state = lane.lock();
            if state.closed {
                return Err(shutting_down());
            }
            let token = state.cost.token(lane.budget.tokens);
            for (work, hash) in works.by_ref().take(PUSHED_AT_ONCE) {
                tokens += work.length();
                let key = key(arrival, context.priority, tokens as f64 * token);
                let (collector, permit) = (collector.clone(), permits.split());
                let subscriber =
                    Subscriber { collector, index, queued: now, deadline: context.deadline, permit };
                let (id, joined) = state.queue.push(work, hash, key, subscriber);
                ticket.ids.push(id);
                hits += u64::from(joined);
                index += 1;
            }
            match works.len() {
                0 => ticket.starts = state.wants_thread(),
                _ => lane.notify(&mut state),
            }
        }
        self.capacity.items.inc_by(n as u64);
        if hits > 0 {
            self.capacity.dedupe_hits.inc_by(hits);
        }
        if !Arc::ptr_eq(lane, &self.lanes[0]) {
            self.capacity.spilled.inc_by(n as u64);
        }
        Ok((ticket, receiver))
    }

    /// The lane for a request of so many tokens.
    fn choose(&self, tokens: usize, now: Instant) -> &Arc<Lane> {
        let first = &self.lanes[0];
        let Some(second) = self.lanes.get(1) else { return first };
        let leave = {
            let state = first.lock();
            let spill = self.limits.spill;
            state.live(first.slots) == 0
                || state.trouble.is_some()
                || (tokens <= spill.max_tokens
                    && state.wait(first, state.queue.tokens(), now) > spill.wait.as_secs_f64())
        };
        let works = leave && {
            let state = second.lock();
            state.trouble.is_none() && state.live(second.slots) > 0
        };
        if works { second } else { first }
    }

    /// Why a request of so many tokens is not let in now: the cause, as bei_router_shed_total names it, and the answer.
    fn refuse(
        &self,
        lane: &Lane,
        state: &State,
        now: Instant,
        tokens: usize,
        context: &Context,
    ) -> Option<(&'static str, Failure)> {
        if state.live(lane.slots) == 0 {
            let reason = state.trouble.as_ref().map_or("", |(_, _, reason)| reason);
            return Some((
                "unhealthy",
                Failure::unhealthy(format!("no call of the engine comes back: {reason}")),
            ));
        }
        if context.deadline.is_some_and(|deadline| deadline <= now) {
            return Some(("deadline", late().retry_after(1)));
        }
        // Whatever is predicted: only what is let in can teach better.
        if state.queue.len() == 0 && state.free > 0 {
            return None;
        }
        let token = state.cost.token(lane.budget.tokens);
        let own = (tokens as f64 * token / state.live(lane.slots) as f64)
            .max(state.cost.batch(tokens.min(lane.budget.tokens)));
        let left = context.deadline.map(|deadline| deadline.saturating_duration_since(now).as_secs_f64());
        let most = self.limits.max_queue_wait.as_secs_f64();
        let all = state.wait(lane, state.queue.tokens(), now);
        if all <= most && left.is_none_or(|left| (all + own) * MARGIN <= left) {
            return None;
        }
        let arrival = u64::try_from(context.arrival.saturating_duration_since(self.began).as_micros())
            .unwrap_or(u64::MAX);
        let before = |service| {
            let tokens = state.queue.tokens_before(key(arrival, context.priority, service));
            state.wait(lane, tokens, now)
        };
        let wait = before(tokens.min(lane.budget.tokens) as f64 * token);
        let retry = lane.drain_seconds(state, now);
        if state.queue.len() > 0 && wait > most {
            let failure = Failure::overloaded(format!(
                "the request would wait for {:.0} ms, which is more than the limit of {:.0} ms (max_queue_wait_ms)",
                wait * 1e3,
                most * 1e3
            ));
            return Some(("wait", failure.retry_after(retry)));
        }
        let finish = before(tokens as f64 * token) + own;
        if let Some(left) = left.filter(|&left| finish * MARGIN > left) {
            let failure = Failure::overloaded(format!(
                "the request would take {:.0} ms, and has {:.0} ms until its deadline (Request-Timeout-Ms, Request-Deadline-Ms)",
                finish * 1e3,
                left * 1e3
            ));
            return Some(("deadline", failure.retry_after(retry)));
        }
        None
    }

    fn shed(&self, cause: &'static str, inputs: usize, failure: Failure) -> Failure {
        self.capacity.shed.with_label_values(&[cause]).inc_by(inputs as u64);
        failure
    }

    /// Gives up inputs whose deadline passed while they waited, and says how.
    pub fn expired(&self, inputs: usize) -> Failure {
        let retry = self.lanes[0].drain_seconds(&self.lanes[0].lock(), Instant::now());
        self.shed("expired", inputs, late().retry_after(retry))
    }

    /// The number of inputs that wait.
    pub fn queued(&self) -> usize {
        self.lanes.iter().map(|lane| lane.lock().queue.len()).sum()
    }

    /// Whether some lane computes what it is given.
    pub fn serves(&self) -> bool {
        self.lanes.iter().any(|lane| {
            let state = lane.lock();
            state.live(lane.slots) > 0 && !matches!(state.trouble, Some((Trouble::Lost, ..)))
        })
    }

    /// Whether the first lane works: an error says why not, `false` that its last batch failed, so that it should be looked at.
    pub fn health(&self) -> Result<bool, Failure> {
        let lane = &self.lanes[0];
        match &lane.lock().trouble {
            Some((_, since, reason)) => Err(Failure::unhealthy(format!(
                "lane {}: unhealthy for {:.0} s: {reason}",
                lane.name,
                since.elapsed().as_secs_f64()
            ))),
            None => Ok(lane.working.load(Ordering::Relaxed)),
        }
    }

    /// Notes that the first lane was looked at and works.
    pub fn note_working(&self) {
        self.lanes[0].working.store(true, Ordering::Relaxed);
    }

    /// Brings the metrics that are states up to date.
    pub fn measure(&self) {
        let now = Instant::now();
        self.capacity.under_way.set(self.under_way.count() as i64);
        for lane in &self.lanes {
            let state = lane.lock();
            let metrics = &lane.metrics;
            metrics.queued_tokens.set(state.queue.tokens() as i64);
            metrics.predicted_wait.set(state.wait(lane, state.queue.tokens(), now));
            metrics.slots.set(lane.slots as i64);
            metrics.slots_in_use.set((lane.slots - state.free) as i64);
            metrics.healthy.set(i64::from(state.trouble.is_none()));
        }
    }

    /// Refuses inputs from now on, and waits until those that wait and run are answered.
    pub async fn drain(&self) {
        for lane in &self.lanes {
            lane.close();
        }
        for lane in &self.lanes {
            loop {
                let idle = lane.idle.notified();
                if lane.lock().is_idle() {
                    break;
                }
                idle.await;
            }
        }
    }

    /// Refuses inputs from now on, and those that wait too.
    pub fn abandon(&self) {
        for lane in &self.lanes {
            lane.close();
            lane.fail_waiting(&shutting_down());
        }
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.abandon();
    }
}

fn shutting_down() -> Failure {
    Failure::unhealthy("the server is shutting down")
}
