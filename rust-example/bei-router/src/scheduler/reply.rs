use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::admission::Permits;
use crate::failure::Failure;
use crate::work::{Answer, Refusal};

/// What a request gets: all its answers, or its first failure.
pub type Reply = Result<Vec<Answer>, Refusal>;

/// Gathers the answers to a request's inputs, and wakes its handler once.
#[derive(Debug)]
pub struct Collector {
    state: Mutex<State>,
    gone: AtomicBool,
    /// Whether that is the client's doing.
    left: AtomicBool,
}

#[derive(Debug)]
struct State {
    answers: Vec<Option<Answer>>,
    missing: usize,
    /// `None`: the request is answered.
    reply: Option<oneshot::Sender<Reply>>,
}

impl Collector {
    /// For `n` inputs, at least one. The receiver fails when all subscribers are dropped before they were answered.
    pub fn new(n: usize) -> (Arc<Collector>, oneshot::Receiver<Reply>) {
        let (reply, receiver) = oneshot::channel();
        let state = State { answers: vec![None; n], missing: n, reply: Some(reply) };
        (
            Arc::new(Collector {
                state: Mutex::new(state),
                gone: AtomicBool::new(false),
                left: AtomicBool::new(false),
            }),
            receiver,
        )
    }

    /// Whether nobody waits for the request any more.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether nobody does because the client has left, and not because the request has failed.
    pub fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }

    /// Notes that nobody waits any more, as the client has left, or as the request has failed.
    pub fn leave(&self, client: bool) {
        self.left.store(client, Ordering::Relaxed);
        self.gone.store(true, Ordering::Release);
    }

    fn put(&self, index: usize, item: Result<Answer, Failure>) {
        let reply = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            match item {
                Ok(answer) => {
                    let Some(place) = state.answers.get_mut(index).filter(|place| place.is_none()) else {
                        return;
                    };
                    *place = Some(answer);
                    state.missing -= 1;
                    if state.missing > 0 {
                        return;
                    }
                    let answers = std::mem::take(&mut state.answers).into_iter().flatten().collect();
                    state.reply.take().map(|reply| (reply, Ok(answers)))
                }
                Err(failure) => {
                    self.leave(false);
                    state.answers = Vec::new();
                    state.reply.take().map(|reply| (reply, Err(Refusal { item: Some(index), failure })))
                }
            }
        };
        if let Some((reply, result)) = reply {
            // An error says that the client has gone, which costs nobody anything.
            let _ = reply.send(result);
        }
    }
}

/// One input of a request, waiting for the item that computes it.
#[derive(Debug)]
pub struct Subscriber {
    pub collector: Arc<Collector>,
    /// Of the request's inputs.
    pub index: usize,
    pub queued: Instant,
    pub deadline: Option<Instant>,
    pub permit: Permits,
}

impl Subscriber {
    /// Gives the answer, or the failure.
    pub fn answer(self, item: Result<Answer, Failure>) {
        let Subscriber { collector, index, permit, .. } = self;
        // Before the client knows: it may send its next request at once.
        drop(permit);
        collector.put(index, item);
    }
}
