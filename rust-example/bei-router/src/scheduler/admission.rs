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
}

impl UnderWay {
    pub fn new(limit: usize) -> UnderWay {
        UnderWay { counts: Arc::default(), limit }
    }

    /// How many inputs there are.
    pub fn count(&self) -> usize {
        self.counts.inputs.load(Ordering::Relaxed)
    }

    /// Lets a request in while fewer places than the limit are taken, or than half of it by a request that waits where there is no room: a
    /// client with streams leaves the other half to all others. A request is never cut: the last one that is let in may go over the
    /// limit, so that one of any size is let in some time.
    pub fn enter(&self, inputs: usize, waits: bool) -> Result<Permits, Failure> {
        let limit = if waits { self.limit.div_ceil(2) } else { self.limit };
        let places = inputs.min(MOST_PLACES.max(self.limit / 4));
        let entered = self.counts.places.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            (taken < limit).then(|| taken.saturating_add(places))
        });
        match entered {
            Ok(_) => {
                self.counts.inputs.fetch_add(inputs, Ordering::Relaxed);
                Ok(Permits { counts: self.counts.clone(), inputs, places })
            }
            Err(_) => Err(Failure::overloaded(format!(
                "{} inputs are under way, which reaches the limit of {} (max_concurrent_requests)",
                self.count(),
                self.limit
            ))),
        }
    }
}

/// Inputs that are counted, until this is dropped.
#[derive(Debug)]
pub struct Permits {
    counts: Arc<Counts>,
    inputs: usize,
    /// At most one for each input.
    places: usize,
}

impl Permits {
    /// Takes one input out, to be dropped when that one is answered. The last ones, which are answered last, have the places.
    pub fn split(&mut self) -> Permits {
        let inputs = self.inputs.min(1);
        let places = if self.inputs == self.places { inputs } else { 0 };
        self.inputs -= inputs;
        self.places -= places;
        Permits { counts: self.counts.clone(), inputs, places }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.counts.inputs.fetch_sub(self.inputs, Ordering::Relaxed);
        self.counts.places.fetch_sub(self.places, Ordering::Relaxed);
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
    fn a_large_request_leaves_room_until_its_last_inputs_are_answered() {
        let under_way = UnderWay::new(512);
        let mut large = under_way.enter(2000, false).unwrap();
        let inputs: Vec<Permits> = (0..2000).map(|_| large.split()).collect();
        assert_eq!((large.inputs, large.places), (0, 0));
        let others: Vec<Permits> = (0..3).map(|_| under_way.enter(300, false).unwrap()).collect();
        assert_eq!(under_way.enter(1, false).unwrap_err().status, 429, "four of a quarter each");
        let mut inputs = inputs.into_iter();
        drop(inputs.by_ref().take(2000 - 128).collect::<Vec<_>>());
        assert_eq!(under_way.enter(1, false).unwrap_err().status, 429);
        drop(inputs.next());
        drop(under_way.enter(1, false).unwrap());
        drop((inputs, others));
        assert_eq!(under_way.counts.places.load(Ordering::Relaxed), 0);
        assert_eq!(under_way.count(), 0);
    }

    #[test]
    fn requests_that_wait_leave_half_of_the_places_to_others() {
        let under_way = UnderWay::new(5);
        let streams: Vec<Permits> = (0..3).map(|_| under_way.enter(1, true).unwrap()).collect();
        assert_eq!(under_way.enter(1, true).unwrap_err().status, 429);
        let others: Vec<Permits> = (0..2).map(|_| under_way.enter(1, false).unwrap()).collect();
        assert_eq!(under_way.enter(1, false).unwrap_err().status, 429);
        drop((streams, others));
        drop(UnderWay::new(1).enter(1, true).unwrap());
    }
}
