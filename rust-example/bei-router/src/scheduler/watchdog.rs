//! Watches the lanes: gives up calls that do not come back, asks engines that were lost whether they are back, and says when the first
//! one does not recover.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Scheduler;
use super::lane::{Lane, Trouble, fail_all};
use crate::failure::Failure;

/// How often an engine that was lost is asked whether it is back.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Why a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Calls of the engine did not come back.
    Hung,
    /// The engine or its device was lost.
    Lost,
}

/// What the watchdog remembers of a lane.
#[derive(Default)]
struct Watched {
    probe: Option<JoinHandle<bool>>,
    probed: Option<Instant>,
}

impl Scheduler {
    /// Watches for ever, and tells when the first lane, of which /health tells, has been unhealthy for the limit of the flags.
    pub async fn watch(&self, ended: oneshot::Sender<End>) {
        let mut ended = Some(ended);
        let tick =
            (self.limits.engine_timeout / 10).clamp(Duration::from_millis(10), Duration::from_millis(250));
        let mut watched: Vec<Watched> = self.lanes.iter().map(|_| Watched::default()).collect();
        loop {
            tokio::time::sleep(tick).await;
            let now = Instant::now();
            for (lane, watched) in self.lanes.iter().zip(&mut watched) {
                self.give_up(lane, now);
                probe(lane, watched, now).await;
                if lane.lock().live(lane.slots) == 0 {
                    lane.hand_over(&Failure::unhealthy("no call of the engine comes back"));
                }
            }
            if let (Some(limit), Some((trouble, since, _))) =
                (self.limits.unhealthy_exit, &self.lanes[0].lock().trouble)
                && now.saturating_duration_since(*since) >= limit
                && let Some(ended) = ended.take()
            {
                // An error says that the server ends already.
                let _ = ended.send(match trouble {
                    Trouble::Hung => End::Hung,
                    Trouble::Lost => End::Lost,
                });
            }
        }
    }

    /// Declares those calls hung that are out for too long, and answers their items. Their slots stay lost until they come back.
    fn give_up(&self, lane: &Arc<Lane>, now: Instant) {
        let limit = self.limits.engine_timeout;
        let mut removed = Vec::new();
        let reason = format!("a call has not come back after {} ms (engine_timeout_ms)", limit.as_millis());
        {
            let mut state = lane.lock();
            let overdue: Vec<usize> = state
                .runs
                .iter()
                .filter(|(_, run)| !run.hung && now.saturating_duration_since(run.began) >= limit)
                .map(|(index, _)| index)
                .collect();
            for index in overdue {
                let run = &mut state.runs[index];
                run.hung = true;
                let items = std::mem::take(&mut run.items);
                removed.extend(items.into_iter().filter_map(|id| state.queue.remove(id)));
                state.hung += 1;
                self.capacity.hung_calls.inc();
                lane.failed(&mut state, Trouble::Hung, &reason);
                tracing::error!(
                    "lane {}: {reason}; {} of {} slots are lost",
                    lane.name,
                    state.hung,
                    lane.slots
                );
            }
        }
        let failure = Failure::unhealthy(reason);
        for removed in removed {
            fail_all(removed.subscribers, &failure);
        }
    }
}

/// Asks an engine that was lost, on a thread of its own, whether it is back.
async fn probe(lane: &Arc<Lane>, watched: &mut Watched, now: Instant) {
    if let Some(handle) = watched.probe.take_if(|handle| handle.is_finished())
        && handle.await.unwrap_or(false)
    {
        lane.recovered(&mut lane.lock());
    }
    let asks = {
        let state = lane.lock();
        match state.trouble {
            Some((Trouble::Lost, ..)) => state.live(lane.slots) > 0,
            // The call has come back; whether the engine works is not known yet.
            Some((Trouble::Hung, ..)) => state.hung == 0,
            None => false,
        }
    };
    let due = watched.probed.is_none_or(|probed| now.duration_since(probed) >= PROBE_INTERVAL);
    if asks && due && watched.probe.is_none() {
        watched.probed = Some(now);
        let lane = lane.clone();
        watched.probe = Some(tokio::task::spawn_blocking(move || lane.device.probe().is_ok()));
    }
}
