use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, oneshot};

use crate::admission::Permits;
use crate::failure::Failure;
use crate::work::{Answer, Work};

/// One input that waits for a batch.
#[derive(Debug)]
pub struct Entry {
    pub work: Work,
    pub reply: oneshot::Sender<Result<Answer, Failure>>,
    pub queued: Instant,
    /// Counts the input among those under way until it is answered, also when its client has gone.
    pub permit: Option<Permits>,
}

/// What a batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tokens at which a batch is closed: an engine run at its fastest. A longer input makes a batch of its own.
    pub tokens: usize,
    /// Most inputs.
    pub inputs: usize,
    /// Whether a batch costs inputs times longest, not the sum of tokens.
    pub padded: bool,
}

/// Inputs in order of arrival.
pub struct Queue {
    budget: Budget,
    state: Mutex<State>,
    /// Wakes the one batching task.
    changed: Notify,
}

#[derive(Default)]
struct State {
    entries: VecDeque<Entry>,
    closed: bool,
}

/// A batch, and how many inputs were left out because their clients had gone.
#[derive(Debug)]
pub struct Batch {
    pub entries: Vec<Entry>,
    pub tokens: usize,
    pub dropped: usize,
}

impl Queue {
    pub fn new(budget: Budget) -> Queue {
        Queue { budget, state: Mutex::default(), changed: Notify::new() }
    }

    /// Appends a request's inputs, side by side. A closed queue refuses them.
    pub fn push(&self, entries: Vec<Entry>) -> Result<(), Failure> {
        let mut state = self.lock();
        if state.closed {
            return Err(shutting_down());
        }
        state.entries.extend(entries);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The number of inputs that wait.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Waits for inputs and takes the next batch: as many as the budget has room for, in order of arrival. `None` when the
    /// queue was closed and is empty. Called by one task only.
    pub async fn next_batch(&self) -> Option<Batch> {
        loop {
            {
                let mut state = self.lock();
                let batch = self.take(&mut state.entries);
                if !batch.entries.is_empty() || batch.dropped > 0 {
                    return Some(batch);
                }
                if state.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Refuses inputs from now on. Those that wait are still given out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Refuses inputs from now on, and those that wait too.
    pub fn abandon(&self) {
        let entries = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.entries)
        };
        for Entry { reply, .. } in entries {
            // An error says that the client has gone.
            let _ = reply.send(Err(shutting_down()));
        }
        self.changed.notify_one();
    }

    fn take(&self, entries: &mut VecDeque<Entry>) -> Batch {
        let mut batch = Batch { entries: Vec::new(), tokens: 0, dropped: 0 };
        let mut longest = 0;
        while let Some(entry) = entries.front() {
            if entry.reply.is_closed() {
                batch.dropped += 1;
                entries.pop_front();
                continue;
            }
            let length = entry.work.length();
            let tokens = if self.budget.padded {
                longest.max(length) * (batch.entries.len() + 1)
            } else {
                batch.tokens + length
            };
            let full = tokens > self.budget.tokens || batch.entries.len() == self.budget.inputs;
            if let Some(first) = batch.entries.first()
                && (full || !first.work.joins(&entry.work))
            {
                break;
            }
            longest = longest.max(length);
            batch.tokens = tokens;
            batch.entries.extend(entries.pop_front());
        }
        batch
    }

    /// A poisoned lock is taken all the same: every change of the state is complete at each step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shutting_down() -> Failure {
    Failure::unhealthy("the server is shutting down")
}

#[cfg(test)]
mod tests {
    use bei_backend::Outputs;

    use super::*;
    use crate::work::Want;

    type Receiver = oneshot::Receiver<Result<Answer, Failure>>;

    fn entry(length: usize) -> (Entry, Receiver) {
        let (reply, receiver) = oneshot::channel();
        let work = Work::tokens(Want::Embed(Outputs::POOLED), vec![7; length], None);
        (Entry { work, reply, queued: Instant::now(), permit: None }, receiver)
    }

    fn filled(budget: Budget, lengths: &[usize]) -> (Queue, Vec<Receiver>) {
        let (entries, receivers) = lengths.iter().map(|&length| entry(length)).unzip();
        let queue = Queue::new(budget);
        queue.push(entries).unwrap();
        (queue, receivers)
    }

    async fn drain(queue: &Queue) -> Vec<Vec<usize>> {
        queue.close();
        let mut batches = vec![];
        while let Some(batch) = queue.next_batch().await {
            batches.push(batch.entries.iter().map(|entry| entry.work.length()).collect());
        }
        batches
    }

    #[tokio::test]
    async fn batches_keep_the_budget_and_the_order() {
        let budget = Budget { tokens: 10, inputs: 3, padded: false };
        for (name, budget, lengths, batches) in [
            ("sum of tokens", budget, vec![4, 6, 1, 9], vec![vec![4, 6], vec![1, 9]]),
            ("number of inputs", budget, vec![1, 1, 1, 1], vec![vec![1, 1, 1], vec![1]]),
            ("longer than the budget", budget, vec![1, 30, 1], vec![vec![1], vec![30], vec![1]]),
            ("padded", Budget { padded: true, ..budget }, vec![2, 5, 1], vec![vec![2, 5], vec![1]]),
            ("nothing", budget, vec![], vec![]),
        ] {
            let (queue, _receivers) = filled(budget, &lengths);
            assert_eq!(drain(&queue).await, batches, "{name}");
        }
    }

    #[tokio::test]
    async fn inputs_without_a_client_are_dropped() {
        let (queue, mut receivers) = filled(Budget { tokens: 10, inputs: 9, padded: false }, &[1, 2, 3]);
        receivers.remove(1);
        let batch = queue.next_batch().await.unwrap();
        assert_eq!((batch.entries.len(), batch.tokens, batch.dropped), (2, 4, 1));
    }

    #[tokio::test]
    async fn a_closed_queue_refuses_inputs() {
        let (queue, mut receivers) = filled(Budget { tokens: 10, inputs: 9, padded: false }, &[1]);
        queue.close();
        let (late, receiver) = entry(1);
        assert_eq!(queue.push(vec![late]).unwrap_err().status, 503);
        assert!(receiver.await.is_err());
        assert_eq!(queue.len(), 1);
        assert!(queue.next_batch().await.is_some());
        assert!(queue.next_batch().await.is_none());
        assert!(receivers.remove(0).await.is_err());
    }

    #[tokio::test]
    async fn an_abandoned_queue_answers_those_that_wait() {
        let (queue, mut receivers) = filled(Budget { tokens: 10, inputs: 9, padded: false }, &[1, 2]);
        queue.abandon();
        assert!(queue.next_batch().await.is_none());
        for receiver in receivers.drain(..) {
            assert_eq!(receiver.await.unwrap().unwrap_err().status, 503);
        }
    }
}
