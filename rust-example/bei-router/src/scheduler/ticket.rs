use std::sync::Arc;

use smallvec::SmallVec;

use super::lane::Lane;
use super::queue::ItemId;
use super::reply::Collector;

/// A request's inputs in a lane. When it is dropped before the request is answered, those that wait are taken back.
pub struct Ticket {
    lane: Arc<Lane>,
    collector: Arc<Collector>,
    pub(super) ids: SmallVec<[ItemId; 1]>,
    /// Whether they wait for [`Ticket::start`].
    pub(super) starts: bool,
    answered: bool,
}

impl Ticket {
    pub(super) fn new(lane: Arc<Lane>, collector: Arc<Collector>, n: usize) -> Ticket {
        Ticket { lane, collector, ids: SmallVec::with_capacity(n), starts: false, answered: false }
    }

    /// Whether the inputs wait for [`Ticket::start`].
    pub fn starts(&self) -> bool {
        self.starts
    }

    /// Has the inputs run, with all that waits beside them.
    pub fn start(&self) {
        self.lane.notify(&mut self.lane.lock());
    }

    /// All inputs are answered: there is nothing to take back.
    pub fn answered(mut self) {
        self.answered = true;
    }

    /// The request has failed: its other inputs are taken back, for which no client is to blame.
    pub fn failed(mut self) {
        self.take_back(false);
        self.answered = true;
    }

    fn take_back(&self, client: bool) -> usize {
        self.collector.leave(client);
        // Identical inputs share an item, which gives back all of the request's at once.
        let mut ids = self.ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let mut state = self.lane.lock();
        let left = state.queue.leave(&ids, &self.collector);
        self.lane.tell_if_idle(&state);
        left
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.answered {
            self.lane.metrics.dropped(self.take_back(true));
        }
    }
}
