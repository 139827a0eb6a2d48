use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::Failure;

/// Places that one request may take at most: this, or a quarter of the limit where that is more. A request of any size leaves room for
/// others, whose inputs the queue then puts between its own.
const MOST_PLACES: usize = 32;

/// Counts the inputs under way: admitted, and not answered yet.
#[derive(Clone, Debug)]
pub struct UnderWay {
    counts: Arc<Counts>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Counts {
    inputs: AtomicUsize,
    /// Of the limit that they take.
    places: AtomicUsize,
    /// Of these, what requests take that wait where there is no room.
    waiting: AtomicUsize,
}

impl UnderWay {
    pub fn new(limit: usize) -> UnderWay {
        UnderWay { counts: Arc::default(), limit }
    }

    /// How many inputs there are.
    pub fn count(&self) -> usize {
        self.counts.inputs.load(Ordering::Relaxed)
    }

    /// Lets a request in while fewer places than the limit are taken. Requests that wait where there is no room take half of them at most: a
    /// client with streams leaves the other half to all others. A request is never cut: the last one that is let in may go over the
    /// limit, so that one of any size is let in some time.
    pub fn enter(&self, inputs: usize, waits: bool) -> Result<Permits, Failure> {
        let places = inputs.min(MOST_PLACES.max(self.limit / 4));
        let take = |count: &AtomicUsize, limit| {
            let more = |taken| (taken < limit).then_some(taken + places);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        let counts = &self.counts;
        let first = !waits || take(&counts.waiting, self.limit.div_ceil(2));
        let entered = first && take(&counts.places, self.limit);
        if !entered {
            if waits && first {
                counts.waiting.fetch_sub(places, Ordering::Relaxed);
            }
            return Err(Failure::overloaded(format!(
                "{} inputs are under way, which reaches the limit of {} (max_concurrent_requests)",
                self.count(),
                self.limit
            )));
        }
        counts.inputs.fetch_add(inputs, Ordering::Relaxed);
        let share = Share { counts: counts.clone(), left: AtomicUsize::new(inputs), places, waits };
        Ok(Permits { share: Arc::new(share), inputs })
    }
}

/// What a request takes. It has its places until fewer of its inputs are left.
#[derive(Debug)]
struct Share {
    counts: Arc<Counts>,
    /// Inputs that are not answered.
    left: AtomicUsize,
    places: usize,
    waits: bool,
}

/// Inputs that are counted, until this is dropped.
#[derive(Debug)]
pub struct Permits {
    share: Arc<Share>,
    inputs: usize,
}

impl Permits {
    /// Takes one input out, to be dropped when that one is answered.
    pub fn split(&mut self) -> Permits {
        let inputs = self.inputs.min(1);
        self.inputs -= inputs;
        Permits { share: self.share.clone(), inputs }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        let Share { counts, left, places, waits } = &*self.share;
        let before = left.fetch_sub(self.inputs, Ordering::Relaxed);
        let free = before.min(*places) - (before - self.inputs).min(*places);
        counts.inputs.fetch_sub(self.inputs, Ordering::Relaxed);
        counts.places.fetch_sub(free, Ordering::Relaxed);
        if *waits {
            counts.waiting.fetch_sub(free, Ordering::Relaxed);
        }
    }
}

/// Leave to compute a request's inputs. Whoever holds one has been counted.
#[derive(Debug)]
pub struct Admission {
    pub(crate) permits: Permits,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_any_size_is_let_in_below_the_limit() {
        let under_way = UnderWay::new(4);
        let mut three = under_way.enter(3, false).unwrap();
        let huge = under_way.enter(1000, false).unwrap();
        assert_eq!(under_way.count(), 1003);
        assert_eq!(under_way.enter(1, false).unwrap_err().status, 429);
        drop(huge);
        let one = three.split();
        drop(three);
        let next = under_way.enter(3, false).unwrap();
        assert_eq!(under_way.enter(1, false).unwrap_err().cause, "overloaded");
        drop((one, next));
        assert_eq!(under_way.count(), 0);
    }

    #[test]
    fn a_large_request_leaves_room_until_few_inputs_are_left() {
        let under_way = UnderWay::new(512);
        let mut large = under_way.enter(2000, false).unwrap();
        let mut inputs: Vec<Permits> = (0..2000).map(|_| large.split()).collect();
        drop(large);
        let others: Vec<Permits> = (0..3).map(|_| under_way.enter(300, false).unwrap()).collect();
        assert_eq!(under_way.enter(1, false).unwrap_err().status, 429, "four of a quarter each");
        // Whichever are answered first: identical ones are together.
        inputs.truncate(128);
        assert_eq!(under_way.enter(1, false).unwrap_err().status, 429);
        inputs.truncate(127);
        drop(under_way.enter(1, false).unwrap());
        drop((inputs, others));
        assert_eq!(under_way.counts.places.load(Ordering::Relaxed), 0);
        assert_eq!(under_way.count(), 0);
    }

    #[test]
    fn requests_that_wait_take_half_of_the_places() {
        let under_way = UnderWay::new(5);
        let streams: Vec<Permits> = (0..3).map(|_| under_way.enter(1, true).unwrap()).collect();
        assert_eq!(under_way.enter(1, true).unwrap_err().status, 429);
        let others: Vec<Permits> = (0..2).map(|_| under_way.enter(1, false).unwrap()).collect();
        assert_eq!(under_way.enter(1, false).unwrap_err().status, 429);
        drop(streams);
        // Others do not keep them out.
        let more: Vec<Permits> = (0..2).map(|_| under_way.enter(1, false).unwrap()).collect();
        drop(under_way.enter(1, true).unwrap());
        drop((others, more));
        let counts = &under_way.counts;
        assert_eq!(counts.places.load(Ordering::Relaxed) + counts.waiting.load(Ordering::Relaxed), 0);
        drop(UnderWay::new(1).enter(1, true).unwrap());
    }
}
