//! The door of the core: [`App::admit`] and [`App::compute`], which every route of every protocol goes through.

use std::sync::atomic::Ordering;

use tokio::time::timeout_at;

use crate::app::App;
use crate::failure::Failure;
use crate::scheduler::Admission;
use crate::work::{Answer, Context, Refusal, Work};

impl App {
    /// Admits a request of `inputs` inputs with `characters` characters in all (token ids count as one), or says that there is too
    /// much under way. To be asked before anything is spent on the request.
    pub fn admit(&self, inputs: usize, characters: usize, context: &Context) -> Result<Admission, Failure> {
        let longest = inputs.saturating_mul(self.model.info().max_length);
        self.scheduler.admit(inputs, characters.min(longest), context)
    }

    /// As [`App::admit`], but waits its turn where there is too much under way.
    pub async fn admit_in_turn(
        &self,
        inputs: usize,
        characters: usize,
        context: &Context,
    ) -> Result<Admission, Failure> {
        let longest = inputs.saturating_mul(self.model.info().max_length);
        self.scheduler.admit_in_turn(inputs, characters.min(longest), context).await
    }

    /// Computes a request's inputs: one answer for each, in their order, or the first failure. There may be any number of them.
    /// When the future is dropped, because the client has gone, inputs that wait are dropped too.
    pub async fn compute(
        &self,
        works: Vec<Work>,
        admission: Admission,
        context: &Context,
    ) -> Result<Vec<Answer>, Refusal> {
        let n = works.len();
        if n == 0 {
            return Ok(vec![]);
        }
        let mut numbers = 0usize;
        for work in &works {
            self.metrics.input(work.length());
            numbers = numbers.saturating_add(work.numbers(self.model.info()));
        }
        let other_parts = context.numbers.as_ref().map_or(0, |sum| sum.fetch_add(numbers, Ordering::Relaxed));
        let numbers = numbers.saturating_add(other_parts);
        // A body within its limit can ask for much more, by hundreds of thousands of texts of one letter.
        let most = self.limits.max_reply_numbers;
        if numbers > most {
            return Err(Failure::validation(format!(
                "the answers would hold {numbers} numbers, and may hold {most} (max_reply_numbers); send fewer inputs at once"
            ))
            .into());
        }
        self.replies.check(numbers)?;
        let (ticket, reply) = self.scheduler.submit(works, admission, context)?;
        if ticket.starts() {
            // Requests that have come already, and wait for this thread, shall be in the same batch.
            tokio::task::yield_now().await;
            ticket.start();
        }
        let reply = match context.deadline {
            None => reply.await,
            Some(deadline) => match timeout_at(deadline.into(), reply).await {
                Ok(reply) => reply,
                Err(_) => {
                    ticket.failed();
                    return Err(self.scheduler.expired(n).into());
                }
            },
        };
        // An error says that a batch's thread panicked: the log has more.
        let reply = reply
            .unwrap_or_else(|_| Err(Failure::backend("a defect of the server; its log tells more").into()));
        match reply {
            Ok(answers) => {
                ticket.answered();
                Ok(answers)
            }
            Err(refusal) => {
                ticket.failed();
                Err(refusal)
            }
        }
    }
}
