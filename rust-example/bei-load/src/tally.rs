use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest time that is told exactly.
const LONGEST: Duration = Duration::from_secs(600);

/// Lost requests that are described one by one; the others are only counted.
const DESCRIBED: usize = 1000;

/// Microseconds, to three digits.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Latencies {
        // The bounds are constants that the crate takes.
        let longest = LONGEST.as_micros() as u64;
        Latencies(Histogram::new_with_bounds(1, longest, 3).unwrap_or_else(|_| unreachable!("bounds")))
    }
}

impl Latencies {
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(latency.as_micros() as u64);
    }

    pub fn add(&mut self, other: &Latencies) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    pub fn len(&self) -> u64 {
        self.0.len()
    }

    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    pub fn max(&self) -> u64 {
        self.0.max()
    }

    pub fn quantile(&self, q: f64) -> u64 {
        self.0.value_at_quantile(q)
    }
}

/// What became of the requests of one class.
#[derive(Clone, Default)]
pub struct ClassTally {
    /// Answers after the warm-up, by status code.
    pub statuses: BTreeMap<u16, u64>,
    /// Answers of status 200 that came after the class's timeout, reckoned from the sending.
    pub late: u64,
    /// Answers of status 200 after the warm-up, from the moment when the request was due.
    pub(crate) from_due: Latencies,
    /// The same from the moment of sending.
    pub(crate) from_sending: Latencies,
    /// Answers of another status, from the moment of sending.
    pub(crate) refusals: Latencies,
}

/// A request that was sent and got no whole answer.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Lost {
    /// Seconds from the begin of the run to its sending.
    pub sent: f64,
    /// What the connection said.
    pub reason: String,
}

/// What became of all requests.
#[derive(Clone, Default)]
pub struct Tally {
    /// By class.
    pub classes: Vec<ClassTally>,
    /// All answers of status 200, the warm-up's too: each was compared.
    pub checked: u64,
    /// Those that were no request's answer.
    pub wrong: u64,
    /// Those that were another request's answer.
    pub swapped: u64,
    /// Answers without a request.
    pub doubled: u64,
    /// Requests that could not be sent, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Requests that were sent and not answered.
    pub lost: u64,
    /// The first of these.
    pub described: Vec<Lost>,
    /// Answers of status 429 without a header Retry-After of 1 or more.
    pub no_retry_after: u64,
    /// The largest Retry-After, in seconds.
    pub longest_retry_after: u64,
    /// Answers to requests that were sent after the order to stop, by status code.
    pub after_stop: BTreeMap<u16, u64>,
    /// One body of each status code other than 200.
    pub bodies: BTreeMap<u16, String>,
}

impl Tally {
    /// Nothing yet.
    pub fn new(classes: usize) -> Tally {
        Tally { classes: vec![ClassTally::default(); classes], ..Tally::default() }
    }

    pub(crate) fn lose(&mut self, sent: Duration, reason: String) {
        self.lost += 1;
        if self.described.len() < DESCRIBED {
            self.described.push(Lost { sent: sent.as_secs_f64(), reason });
        }
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: Tally) {
        for (own, other) in self.classes.iter_mut().zip(other.classes) {
            merge(&mut own.statuses, other.statuses);
            own.late += other.late;
            own.from_due.add(&other.from_due);
            own.from_sending.add(&other.from_sending);
            own.refusals.add(&other.refusals);
        }
        self.checked += other.checked;
        self.wrong += other.wrong;
        self.swapped += other.swapped;
        self.doubled += other.doubled;
        merge(&mut self.refused, other.refused);
        self.lost += other.lost;
        self.described.extend(other.described);
        self.no_retry_after += other.no_retry_after;
        self.longest_retry_after = self.longest_retry_after.max(other.longest_retry_after);
        merge(&mut self.after_stop, other.after_stop);
        self.bodies.extend(other.bodies);
    }
}

fn merge<K: Ord>(own: &mut BTreeMap<K, u64>, other: BTreeMap<K, u64>) {
    for (key, count) in other {
        *own.entry(key).or_default() += count;
    }
}
