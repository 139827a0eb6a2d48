use std::time::Duration;

use procfs::ProcError;
use procfs::process::Process;
use serde::Serialize;

/// What a process has used.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sample {
    /// Seconds since the run began.
    pub at: f64,
    /// Processor time of all threads, in user and kernel mode, in seconds.
    pub cpu: f64,
    /// Resident memory in bytes.
    pub rss: u64,
    /// Threads.
    pub threads: i64,
}

/// This process, and the server's where it is known and still there.
pub struct Processes {
    own: Process,
    server: Option<Process>,
}

impl Processes {
    /// Opens both in /proc.
    pub fn open(server: Option<i32>) -> Result<Processes, ProcError> {
        Ok(Processes { own: Process::myself()?, server: server.map(Process::new).transpose()? })
    }

    /// The generator's use.
    pub fn own(&self, at: Duration) -> Option<Sample> {
        sample(&self.own, at)
    }

    /// The server's use.
    pub fn server(&self, at: Duration) -> Option<Sample> {
        sample(self.server.as_ref()?, at)
    }
}

fn sample(process: &Process, at: Duration) -> Option<Sample> {
    let stat = process.stat().ok()?;
    let ticks = (stat.utime + stat.stime) as f64;
    Some(Sample {
        at: at.as_secs_f64(),
        cpu: ticks / procfs::ticks_per_second() as f64,
        rss: stat.rss * procfs::page_size(),
        threads: stat.num_threads,
    })
}
