use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::class::Form;
use crate::process::Sample;
use crate::run::{Load, Outcomes, Pace};
use crate::tally::{Latencies, Lost};

/// Milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    count: u64,
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl From<&Latencies> for Summary {
    fn from(latencies: &Latencies) -> Summary {
        let milliseconds = |q| latencies.quantile(q) as f64 / 1e3;
        Summary {
            count: latencies.len(),
            mean: latencies.mean() / 1e3,
            p50: milliseconds(0.5),
            p90: milliseconds(0.9),
            p99: milliseconds(0.99),
            p999: milliseconds(0.999),
            max: latencies.max() as f64 / 1e3,
        }
    }
}

/// One class of requests.
#[derive(Clone, Debug, Serialize)]
pub struct ClassReport {
    name: String,
    form: Form,
    timeout_ms: Option<u64>,
    statuses: BTreeMap<u16, u64>,
    late: u64,
    from_due: Summary,
    from_sending: Summary,
    refusals: Summary,
}

/// Processor time while requests were counted, and memory.
#[derive(Clone, Debug, Serialize)]
pub struct Use {
    /// Microseconds of processor time for each answer, of whatever status.
    cpu_us_per_answer: f64,
    /// Processors kept busy.
    cores: f64,
    /// Resident memory at the end, in MiB.
    rss_mib: f64,
    /// Growth of the resident memory by least squares, in MiB a minute.
    rss_mib_per_minute: f64,
    threads: i64,
    samples: Vec<Sample>,
}

/// Everything that a run gave.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pace: &'static str,
    rate: Option<f64>,
    connections: usize,
    seconds: f64,
    answers: u64,
    answers_per_second: f64,
    admitted_per_second: f64,
    statuses: BTreeMap<u16, u64>,
    after_stop: BTreeMap<u16, u64>,
    stopped: Option<f64>,
    checked: u64,
    wrong: u64,
    swapped: u64,
    doubled: u64,
    lost: u64,
    lost_requests: Vec<Lost>,
    refused: BTreeMap<String, u64>,
    no_retry_after: u64,
    longest_retry_after: u64,
    bodies: BTreeMap<u16, String>,
    classes: Vec<ClassReport>,
    generator: Option<Use>,
    server: Option<Use>,
}

impl Report {
    /// Sums a run up.
    pub fn new(load: &Load, outcomes: Outcomes) -> Report {
        let Outcomes { tally, own, server, stopped } = outcomes;
        let mut statuses = BTreeMap::new();
        for (&status, count) in tally.classes.iter().flat_map(|class| &class.statuses) {
            *statuses.entry(status).or_default() += count;
        }
        let answers = statuses.values().sum();
        let seconds = load.duration.as_secs_f64();
        let classes = load.plan.classes.iter().zip(&tally.classes).map(|(class, tally)| ClassReport {
            name: class.name.clone(),
            form: class.form,
            timeout_ms: class.timeout_ms,
            statuses: tally.statuses.clone(),
            late: tally.late,
            from_due: (&tally.from_due).into(),
            from_sending: (&tally.from_sending).into(),
            refusals: (&tally.refusals).into(),
        });
        Report {
            pace: match load.pace {
                Pace::Closed => "closed",
                Pace::Open(_) => "open",
            },
            rate: match load.pace {
                Pace::Closed => None,
                Pace::Open(rate) => Some(rate),
            },
            connections: load.connections,
            seconds,
            answers,
            answers_per_second: answers as f64 / seconds,
            admitted_per_second: statuses.get(&200).copied().unwrap_or(0) as f64 / seconds,
            classes: classes.collect(),
            statuses,
            after_stop: tally.after_stop,
            stopped,
            checked: tally.checked,
            wrong: tally.wrong,
            swapped: tally.swapped,
            doubled: tally.doubled,
            lost: tally.lost,
            lost_requests: tally.described,
            refused: tally.refused,
            no_retry_after: tally.no_retry_after,
            longest_retry_after: tally.longest_retry_after,
            bodies: tally.bodies,
            generator: used(own, answers),
            server: used(server, answers),
        }
    }

    /// Whether no answer was wrong, swapped, doubled or lost.
    pub fn is_right(&self) -> bool {
        self.wrong + self.swapped + self.doubled + self.lost == 0
    }
}

fn used(samples: Vec<Sample>, answers: u64) -> Option<Use> {
    let (first, last) = (*samples.first()?, *samples.last()?);
    let cpu = last.cpu - first.cpu;
    Some(Use {
        cpu_us_per_answer: cpu * 1e6 / answers.max(1) as f64,
        cores: cpu / (last.at - first.at).max(1e-9),
        rss_mib: last.rss as f64 / f64::from(1 << 20),
        rss_mib_per_minute: slope(&samples) * 60.0 / f64::from(1 << 20),
        threads: last.threads,
        samples,
    })
}

/// Growth of the resident memory, in bytes a second.
fn slope(samples: &[Sample]) -> f64 {
    let n = samples.len() as f64;
    let at = samples.iter().map(|sample| sample.at).sum::<f64>() / n;
    let rss = samples.iter().map(|sample| sample.rss as f64).sum::<f64>() / n;
    let covariance: f64 = samples.iter().map(|sample| (sample.at - at) * (sample.rss as f64 - rss)).sum();
    let variance: f64 = samples.iter().map(|sample| (sample.at - at).powi(2)).sum();
    if variance == 0.0 { 0.0 } else { covariance / variance }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(
            f,
            "{:.0} answers/s, {:.0} of them 200, for {} s; statuses {:?}",
            self.answers_per_second, self.admitted_per_second, self.seconds, self.statuses
        )?;
        writeln!(
            f,
            "checked {}: wrong {}, swapped {}, doubled {}, lost {}; could not be sent {}",
            self.checked,
            self.wrong,
            self.swapped,
            self.doubled,
            self.lost,
            self.refused.values().sum::<u64>()
        )?;
        writeln!(
            f,
            "{:<12} {:>9} {:>8} {:>9} {:>9} {:>9} {:>9}",
            "200, ms", "count", "late", "p50", "p99", "p99.9", "max"
        )?;
        for class in &self.classes {
            let s = &class.from_due;
            writeln!(
                f,
                "{:<12} {:>9} {:>8} {:>9.3} {:>9.3} {:>9.3} {:>9.3}",
                class.name, s.count, class.late, s.p50, s.p99, s.p999, s.max
            )?;
        }
        for (name, used) in [("server", &self.server), ("generator", &self.generator)] {
            if let Some(used) = used {
                writeln!(
                    f,
                    "{name}: {:.1} us of processor an answer, {:.2} cores, {:.1} MiB ({:+.2} MiB a minute), {} threads",
                    used.cpu_us_per_answer, used.cores, used.rss_mib, used.rss_mib_per_minute, used.threads
                )?;
            }
        }
        for (status, body) in &self.bodies {
            writeln!(f, "for example {status}: {body}")?;
        }
        Ok(())
    }
}
