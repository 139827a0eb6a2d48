use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::failure::Failure;

/// Counts the inputs under way: admitted, and not answered yet.
#[derive(Clone, Debug)]
pub struct UnderWay {
    count: Arc<AtomicUsize>,
    limit: usize,
}

impl UnderWay {
    pub fn new(limit: usize) -> UnderWay {
        UnderWay { count: Arc::default(), limit }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Lets a request in while fewer inputs than the limit are under way. A request is never cut: the last one that is let in may
    /// go over the limit with its inputs, so that one of any size is let in some time.
    pub fn enter(&self, inputs: usize) -> Result<Permits, Failure> {
        let entered = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < self.limit).then(|| count.saturating_add(inputs))
        });
        match entered {
            Ok(_) => Ok(Permits { count: self.count.clone(), inputs }),
            Err(count) => Err(Failure::overloaded(format!(
                "{count} inputs are under way, which is the limit of {} (max_concurrent_requests)",
                self.limit
            ))),
        }
    }
}

/// Inputs that are counted, until this is dropped.
#[derive(Debug)]
pub struct Permits {
    count: Arc<AtomicUsize>,
    inputs: usize,
}

impl Permits {
    /// Takes one input out, to be dropped when that one is answered.
    pub fn split(&mut self) -> Permits {
        let inputs = self.inputs.min(1);
        self.inputs -= inputs;
        Permits { count: self.count.clone(), inputs }
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.count.fetch_sub(self.inputs, Ordering::Relaxed);
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
        let mut three = under_way.enter(3).unwrap();
        let huge = under_way.enter(1000).unwrap();
        assert_eq!(under_way.enter(1).unwrap_err().status, 429);
        drop(huge);
        let one = three.split();
        drop(three);
        let next = under_way.enter(3).unwrap();
        assert_eq!(under_way.enter(1).unwrap_err().cause, "overloaded");
        drop((one, next));
        assert_eq!(under_way.count(), 0);
    }
}
