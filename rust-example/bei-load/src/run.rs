use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, LocalSet};

use crate::arrivals::arrivals;
use crate::connection::{Connection, Outcome};
use crate::plan::Plan;
use crate::process::{Processes, Sample};
use crate::tally::Tally;

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each connection sends the next one when it has the answer to the last.
    Closed,
    /// So many a second, at random (Poisson), whether or not the others are answered.
    Open(f64),
}

/// A run.
pub struct Load {
    /// What is sent.
    pub plan: Arc<Plan>,
    /// When.
    pub pace: Pace,
    /// Connections; in an open loop the most.
    pub connections: usize,
    /// Threads that share the connections.
    pub threads: usize,
    /// Time that is not counted, though answers are checked.
    pub warm_up: Duration,
    /// Time that is counted.
    pub duration: Duration,
    /// How long answers are awaited after that.
    pub patience: Duration,
    /// Of the random choices.
    pub seed: u64,
    /// The server's process, for its processor time and memory.
    pub server: Option<i32>,
    /// When the server gets a SIGTERM, reckoned from the end of the warm-up.
    pub stop_after: Option<Duration>,
}

/// What a run gave.
pub struct Outcomes {
    /// Counts.
    pub tally: Tally,
    /// The generator's samples: at the end of the warm-up, and at the end.
    pub own: Vec<Sample>,
    /// The server's samples, one a second, the first at the end of the warm-up.
    pub server: Vec<Sample>,
    /// Seconds from the begin of the run to the order to stop.
    pub stopped: Option<f64>,
}

/// Sleeps of a connection that cannot connect, so that a server that is gone costs no processor.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// Runs to the end, on threads of its own, and returns when all requests are answered or given up.
pub fn run(load: &Arc<Load>) -> io::Result<Outcomes> {
    let processes = Processes::open(load.server).map_err(io::Error::other)?;
    let (start, stopped) = (Instant::now(), Arc::new(OnceLock::new()));
    let threads: Vec<_> = (0..load.threads)
        .map(|i| {
            let (load, stopped) = (load.clone(), stopped.clone());
            thread::spawn(move || worker(&load, i, start, &stopped))
        })
        .collect();
    let (mut own, mut server) = (Vec::new(), Vec::new());
    let mut next = load.warm_up;
    let end = load.warm_up + load.duration;
    let stop_at = load.stop_after.map(|after| load.warm_up + after);
    loop {
        let due = stop_at.filter(|_| stopped.get().is_none()).map_or(next, |at| at.min(next));
        thread::sleep((start + due).saturating_duration_since(Instant::now()));
        if stop_at == Some(due) && stopped.get().is_none() {
            let pid =
                load.server.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("no server to stop"))?;
            // Before the signal, so that no request counts as sent earlier than it was.
            let _ = stopped.set(Instant::now());
            kill_process(pid, Signal::TERM)?;
            continue;
        }
        server.extend(processes.server(start.elapsed()));
        if due == load.warm_up || due == end {
            own.extend(processes.own(start.elapsed()));
        }
        if due == end {
            break;
        }
        next = (next + Duration::from_secs(1)).min(end);
    }
    let mut tally = Tally::new(load.plan.classes.len());
    for thread in threads {
        let part = thread.join().map_err(|_| io::Error::other("a thread of the generator panicked"))?;
        tally.add(part?);
    }
    let stopped = stopped.get().map(|&at: &Instant| at.duration_since(start).as_secs_f64());
    Ok(Outcomes { tally, own, server, stopped })
}

fn worker(
    load: &Arc<Load>,
    index: usize,
    start: Instant,
    stopped: &Arc<OnceLock<Instant>>,
) -> io::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let mut random = fastrand::Rng::with_seed(load.seed.wrapping_add(1 + index as u64));
    // The first threads take what does not divide evenly.
    let connections = (load.connections + load.threads - 1 - index) / load.threads;
    let client = Rc::new(Client {
        load: load.clone(),
        start,
        stopped: stopped.clone(),
        tally: RefCell::new(Tally::new(load.plan.classes.len())),
        doubled: Rc::default(),
    });
    let end = start + load.warm_up + load.duration;
    let unanswered = LocalSet::new().block_on(&runtime, async {
        let mut tasks = JoinSet::new();
        match load.pace {
            Pace::Closed => {
                for _ in 0..connections {
                    tasks.spawn_local(client.clone().closed(random.fork(), end));
                }
            }
            Pace::Open(rate) => {
                let rate = rate / load.threads as f64;
                client.clone().open(&mut tasks, random, rate, connections, end).await;
            }
        }
        let last = end + load.patience;
        let all = async { while tasks.join_next().await.is_some() {} };
        // Those that are left are counted.
        let _ = tokio::time::timeout_at(last.into(), all).await;
        tasks.len()
    });
    let mut tally = client.tally.take();
    for _ in 0..unanswered {
        tally.lose(Duration::ZERO, format!("not answered {:?} after the end", load.patience));
    }
    tally.doubled = client.doubled.get();
    Ok(tally)
}

struct Client {
    load: Arc<Load>,
    start: Instant,
    stopped: Arc<OnceLock<Instant>>,
    tally: RefCell<Tally>,
    doubled: Rc<Cell<u64>>,
}

impl Client {
    async fn closed(self: Rc<Client>, mut random: fastrand::Rng, end: Instant) {
        let mut slot = None;
        loop {
            let now = Instant::now();
            if now >= end {
                return;
            }
            let item = self.load.plan.pick(&mut random);
            if !self.send(&mut slot, item, now).await {
                tokio::time::sleep(REFUSED_PAUSE).await;
            }
        }
    }

    async fn open(
        self: Rc<Client>,
        tasks: &mut JoinSet<()>,
        mut random: fastrand::Rng,
        rate: f64,
        connections: usize,
        end: Instant,
    ) {
        let mut arrivals = arrivals(rate, self.start, end, random.fork());
        let idle = Rc::new(RefCell::new(Vec::<Connection>::new()));
        let free = Rc::new(Semaphore::new(connections));
        while let Some(due) = arrivals.recv().await {
            // Those that are done are forgotten.
            while tasks.try_join_next().is_some() {}
            let (client, idle, free, item) =
                (self.clone(), idle.clone(), free.clone(), self.load.plan.pick(&mut random));
            tasks.spawn_local(async move {
                let Ok(_turn) = free.acquire().await else { return };
                let mut slot = idle.borrow_mut().pop();
                client.send(&mut slot, item, due).await;
                idle.borrow_mut().extend(slot);
            });
        }
    }

    /// Sends a request and counts what becomes of it. False: it could not be sent.
    async fn send(&self, slot: &mut Option<Connection>, i: usize, due: Instant) -> bool {
        let plan = &self.load.plan;
        let (item, sent) = (plan.item(i), Instant::now());
        let outcome = Connection::send(slot, &plan.target, &self.doubled, &item.message, item.expected).await;
        let (took, waited) = (sent.elapsed(), due.elapsed());
        let stopped = self.stopped.get().is_some_and(|&at| sent >= at);
        let mut tally = self.tally.borrow_mut();
        let tally = &mut *tally;
        match outcome {
            Outcome::Answer { status, retry_after, hash, body } => {
                if status == 200 {
                    tally.checked += 1;
                    if item.expected != Some(hash) {
                        *(if plan.is_of_another(hash) { &mut tally.swapped } else { &mut tally.wrong }) += 1;
                    }
                } else {
                    let body = body.unwrap_or_default();
                    let text = || String::from_utf8_lossy(&body[..body.len().min(500)]).into_owned();
                    tally.bodies.entry(status).or_insert_with(text);
                }
                if status == 429 {
                    tally.no_retry_after += u64::from(retry_after.is_none_or(|seconds| seconds == 0));
                    tally.longest_retry_after = tally.longest_retry_after.max(retry_after.unwrap_or(0));
                }
                if stopped {
                    *tally.after_stop.entry(status).or_default() += 1;
                } else if due >= self.start + self.load.warm_up {
                    let class = &mut tally.classes[item.class];
                    *class.statuses.entry(status).or_default() += 1;
                    if status == 200 {
                        class.from_due.record(waited);
                        class.from_sending.record(took);
                        let timeout = plan.classes[item.class].timeout_ms;
                        let late = timeout.is_some_and(|timeout| took > Duration::from_millis(timeout));
                        class.late += u64::from(late);
                    } else {
                        class.refusals.record(took);
                    }
                }
            }
            Outcome::Refused(reason) => {
                *tally.refused.entry(reason).or_default() += 1;
                return false;
            }
            Outcome::Lost(reason) => tally.lose(sent.duration_since(self.start), reason),
        }
        true
    }
}
