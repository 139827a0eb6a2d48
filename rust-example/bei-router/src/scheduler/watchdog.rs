//! Watches the lanes: gives up calls that do not come back, asks engines that were lost whether they are back, and says when nothing
//! works any more.

use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// No call of any engine came back.
    Hung,
    /// Every engine or device was lost.
    Lost,
}

/// What the watchdog remembers of a lane.
#[derive(Default)]
struct Watched {
    /// Since when it has computed nothing.
    down: Option<Instant>,
    probe: Option<JoinHandle<bool>>,
    probed: Option<Instant>,
}

impl Scheduler {
    /// Watches until nothing has worked for the limit of the flags.
    pub async fn watch(&self) -> End {
        let tick =
            (self.limits.engine_timeout / 10).clamp(Duration::from_millis(10), Duration::from_millis(250));
        let mut watched: Vec<Watched> = self.lanes.iter().map(|_| Watched::default()).collect();
        loop {
            tokio::time::sleep(tick).await;
            let now = Instant::now();
            for (lane, watched) in self.lanes.iter().zip(&mut watched) {
                self.give_up(lane, now);
                probe(lane, watched, now).await;
                let down = {
                    let state = lane.lock();
                    state.live(lane.slots) == 0
                        || matches!(state.trouble, Some((Trouble::Lost, ..)))
                        || (matches!(state.trouble, Some((Trouble::Hung, ..))) && state.hung == 0)
                };
                watched.down = if down { watched.down.or(Some(now)) } else { None };
            }
            if self.lanes.iter().all(|lane| lane.lock().live(lane.slots) == 0) {
                // Nobody is left to serve those who wait.
                for lane in &self.lanes {
                    lane.fail_waiting(&Failure::unhealthy("no call of the engine comes back"));
                }
            }
            let since = watched.iter().map(|watched| watched.down).min().flatten();
            let all = watched.iter().all(|watched| watched.down.is_some());
            let latest =
                watched.iter().filter_map(|watched| watched.down).max().filter(|_| all && since.is_some());
            if let (Some(limit), Some(latest)) = (self.limits.unhealthy_exit, latest)
                && now.duration_since(latest) >= limit
            {
                let hangs = |lane: &Arc<Lane>| matches!(lane.lock().trouble, Some((Trouble::Hung, ..)));
                let hung = self.lanes.iter().any(hangs);
                return if hung { End::Hung } else { End::Lost };
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
