//! The order of the queue. An item's key is fixed when it arrives, and the smallest goes first:
//!
//! ```text
//! key = arrival + lag(class) + SLACK * scale(class) * predicted time of the request's tokens up to and including this item
//! ```
//!
//! A short request so overtakes what is left of a long one, the items of a large client batch spread among others', and since later
//! arrivals have later keys, nothing waits for ever: an item is overtaken at most by what arrives within its lag and slack.

use bei_backend::Priority;

/// How many times its own time a request lends to shorter ones. So many that what is some times as long gives way for the whole of a
/// deep queue: below an overload of long requests, short ones wait for other short ones only.
const SLACK: f64 = 500.0;

/// Longest slack, in seconds: also a request of millions of tokens goes on.
const MOST_SLACK: f64 = 60.0;

/// What a class lends to others, in seconds, and what its slack is multiplied by.
fn class(priority: Priority) -> (f64, f64) {
    match priority {
        Priority::High => (0.0, 0.25),
        Priority::Normal => (1.0, 1.0),
        Priority::Low => (6.0, 4.0),
    }
}

/// The key of an item of a request that arrived at `arrival` (microseconds). `service`: predicted seconds of the request's tokens up to
/// and including the item.
pub fn key(arrival: u64, priority: Priority, service: f64) -> u64 {
    let (lag, scale) = class(priority);
    let slack = (SLACK * scale * service).clamp(0.0, MOST_SLACK);
    arrival.saturating_add(((lag + slack) * 1e6) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_requests_overtake_and_nothing_starves() {
        let long = key(0, Priority::Normal, 10.0);
        assert!(key(5_000_000, Priority::Normal, 0.01) < long, "a short request overtakes a long one");
        assert!(key(61_000_000, Priority::Normal, 0.01) > long, "ageing: not for ever");
        assert!(
            key(0, Priority::Normal, 0.1) < long,
            "the first item of a long request does not wait for its last"
        );
    }

    #[test]
    fn classes_overtake_within_bounds() {
        let normal = key(0, Priority::Normal, 0.0001);
        assert!(key(900_000, Priority::High, 0.0001) < normal);
        assert!(key(2_000_000, Priority::High, 0.0001) > normal);
        let low = key(0, Priority::Low, 0.0001);
        assert!(key(4_000_000, Priority::Normal, 0.0001) < low);
        assert!(key(8_000_000, Priority::Normal, 0.0001) > low);
        assert!(key(0, Priority::Low, f64::MAX) < u64::MAX);
    }
}
