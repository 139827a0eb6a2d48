//! The door of the core: [`App::admit`] and [`App::compute`], which every route of every protocol goes through.

use std::time::Instant;

use tokio::sync::oneshot;

use crate::admission::Admission;
use crate::app::App;
use crate::failure::Failure;
use crate::queue::Entry;
use crate::work::{Answer, Context, Refusal, Work};

impl App {
    /// Admits a request of `inputs` inputs with `characters` characters in all (token ids count as one), or says that there is too
    /// much under way. To be asked before anything is spent on the request.
    pub fn admit(&self, inputs: usize, _characters: usize, _context: &Context) -> Result<Admission, Failure> {
        Ok(Admission { permits: self.under_way.enter(inputs)? })
    }

    /// Computes a request's inputs: one answer for each, in their order, or the first failure. There may be any number of them.
    /// When the future is dropped, because the client has gone, inputs that wait are dropped too.
    pub async fn compute(
        &self,
        works: Vec<Work>,
        mut admission: Admission,
        _context: &Context,
    ) -> Result<Vec<Answer>, Refusal> {
        let n = works.len();
        let (mut entries, mut replies) = (Vec::with_capacity(n), Vec::with_capacity(n));
        for work in works {
            self.metrics.input(work.length());
            let (reply, receiver) = oneshot::channel();
            entries.push(Entry {
                work,
                reply,
                queued: Instant::now(),
                permit: Some(admission.permits.split()),
            });
            replies.push(receiver);
        }
        self.queue.push(entries)?;
        let mut answers = Vec::with_capacity(n);
        for (i, reply) in replies.into_iter().enumerate() {
            // An error says that the batch's thread panicked: the log has more.
            let answer = reply
                .await
                .unwrap_or_else(|_| Err(Failure::backend("a defect of the server; its log tells more")));
            answers.push(answer.map_err(|failure| Refusal { item: Some(i), failure })?);
        }
        Ok(answers)
    }
}
