mod faults;
mod lanes;
mod queue;
mod random;
mod unhealthy;

use std::sync::Arc;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bei_backend::{Error, Outputs, Status};

use super::device::Device;
use super::{Budget, Cost, End, Lane, Limits, Reply, Scheduler, Spill, Ticket};
use crate::call::{Called, Packed};
use crate::metrics::Metrics;
use crate::work::{Context, Outcome, Payload, Want, Work};
use tokio::sync::oneshot;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

const BUDGET: Budget = Budget { tokens: 10, inputs: 4, padded: false };

fn work(ids: &[u32]) -> Work {
    Work::tokens(Want::Embed(Outputs::POOLED), ids.to_vec(), None)
}

fn ids(work: &Work) -> &[u32] {
    match &work.payload {
        Payload::Tokens { ids, .. } => ids,
        Payload::Text { .. } => &[],
    }
}

/// What the scripted engine computes: the ids again.
fn echo(work: &Work) -> Outcome {
    Outcome::Logits(ids(work).iter().map(|&id| id as f32).collect())
}

fn error(status: Status, message: &str) -> Error {
    Error { status, message: message.to_string() }
}

type Answers = Result<Vec<Result<Outcome, Error>>, Error>;

/// An engine that does as a function says.
struct Script<F>(F);

impl<F: Fn(&[&Work]) -> Answers + Send + Sync> Device for Script<F> {
    fn call(&self, _: &mut Packed, works: &[&Work]) -> Result<Called, Error> {
        (self.0)(works).map(Called::Ready)
    }

    fn probe(&self) -> Result<(), Error> {
        (self.0)(&[]).map(drop)
    }
}

fn fine(works: &[&Work]) -> Answers {
    Ok(works.iter().map(|work| Ok(echo(work))).collect())
}

/// Holds calls back until it is opened, and keeps what they held.
#[derive(Default)]
struct Gate {
    state: Mutex<(bool, Vec<Vec<Vec<u32>>>)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self, works: &[&Work]) {
        let mut state = self.state.lock().unwrap();
        state.1.push(works.iter().map(|work| ids(work).to_vec()).collect());
        self.changed.notify_all();
        drop(self.changed.wait_while(state, |(open, _)| !*open).unwrap());
    }

    fn open(&self) {
        self.state.lock().unwrap().0 = true;
        self.changed.notify_all();
    }

    /// Waits until `n` calls have come.
    fn wait(&self, n: usize) {
        let state = self.state.lock().unwrap();
        let few = |state: &mut (_, Vec<_>)| state.1.len() < n;
        let (state, timeout) = self.changed.wait_timeout_while(state, PATIENCE, few).unwrap();
        assert!(!timeout.timed_out(), "{} calls of {n} have come", state.1.len());
    }

    fn calls(&self) -> Vec<Vec<Vec<u32>>> {
        self.state.lock().unwrap().1.clone()
    }
}

fn limits() -> Limits {
    Limits {
        max_concurrent_requests: 1_000_000,
        max_queue_wait: Duration::from_secs(3600),
        engine_timeout: Duration::from_secs(3600),
        unhealthy_exit: None,
        spill: Spill::default(),
    }
}

fn lane<F>(name: &'static str, slots: usize, script: F) -> Arc<Lane>
where
    F: Fn(&[&Work]) -> Answers + Send + Sync + 'static,
{
    let mut cost = Cost::default();
    cost.observe(1, Duration::from_micros(20));
    cost.observe(10, Duration::from_micros(110));
    let metrics = Metrics::new(512).unwrap().capacity.lane(name);
    Lane::new(name, Box::new(Script(script)), BUDGET, slots, cost, metrics)
}

fn scheduler<F>(slots: usize, limits: Limits, script: F) -> Arc<Scheduler>
where
    F: Fn(&[&Work]) -> Answers + Send + Sync + 'static,
{
    Scheduler::start(vec![lane("main", slots, script)], limits, Metrics::new(512).unwrap().capacity).unwrap()
}

impl Scheduler {
    /// Watches until the program would end.
    async fn end(&self) -> End {
        let (tell, told) = oneshot::channel();
        tokio::select! {
            () = self.watch(tell) => unreachable!("it watches for ever"),
            end = told => end.unwrap(),
        }
    }

    fn ask(&self, works: Vec<Work>, context: &Context) -> (Ticket, oneshot::Receiver<Reply>) {
        let admission = self.admit(works.len(), 0, context).unwrap();
        let (ticket, reply) = self.submit(works, admission, context).unwrap();
        ticket.start();
        (ticket, reply)
    }
}

fn outcome(reply: Reply) -> Vec<Vec<f32>> {
    let outcomes = reply.unwrap().into_iter().map(|answer| match answer.into_outcome() {
        Outcome::Logits(numbers) => numbers,
        other => panic!("{other:?}"),
    });
    outcomes.collect()
}
