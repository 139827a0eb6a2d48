use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Poisson arrivals of so many a second from `start` to `end`: the moments when requests are due, each given out when it has come. A
/// thread of its own keeps the time, since Tokio's timers tick once a millisecond, which would make arrivals come in bunches.
pub fn arrivals(
    rate: f64,
    start: Instant,
    end: Instant,
    mut random: fastrand::Rng,
) -> UnboundedReceiver<Instant> {
    let (sender, receiver) = unbounded_channel();
    thread::spawn(move || {
        let mut due = start;
        loop {
            due += Duration::from_secs_f64(-(1.0 - random.f64()).ln() / rate);
            if due >= end {
                return;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if sender.send(due).is_err() {
                return;
            }
        }
    });
    receiver
}
