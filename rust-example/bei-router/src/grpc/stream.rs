//! Streams of requests: answers come in their order, and no more requests are read than may be under way at once.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::messages::context;
use crate::work::Context;

/// The answers to a stream. The first error ends it.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Most KiB of a stream's answers that its client has not read: no more requests are computed then.
const MOST_UNREAD: usize = 64 << 10;

/// Room for the answers of one stream.
struct Unread {
    kib: Arc<Semaphore>,
    /// What one is taken to have: as much as the last one, and at the begin a MiB.
    each: AtomicUsize,
}

impl Default for Unread {
    fn default() -> Unread {
        Unread { kib: Arc::new(Semaphore::new(MOST_UNREAD)), each: AtomicUsize::new(1 << 10) }
    }
}

impl Unread {
    /// Waits for room for an answer, which it has until that is read. (`None` where the semaphore is closed, which it never is.)
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        let each = self.each.load(Ordering::Relaxed);
        self.kib.clone().acquire_many_owned(each as u32).await.ok()
    }

    /// Notes what an answer has, and gives back what was taken for it beyond.
    fn note(&self, bytes: usize, room: &mut Option<OwnedSemaphorePermit>) {
        let kib = (bytes >> 10).clamp(1, MOST_UNREAD);
        self.each.store(kib, Ordering::Relaxed);
        if let Some(room) = room {
            drop(room.split(room.num_permits().saturating_sub(kib)));
        }
    }
}

/// Answers each request of a stream by `call`. The context's deadline is the whole stream's, and its requests wait for
/// admission.
pub fn answers<Req, Res, Fut>(
    request: Request<Streaming<Req>>,
    parallel: usize,
    call: impl Fn(Req, Context) -> Fut + Send + Clone + 'static,
) -> Result<Response<Answers<Res>>, Status>
where
    Req: Send + 'static,
    Res: prost::Message + 'static,
    Fut: Future<Output = Result<Res, Status>> + Send + 'static,
{
    let stream = Context { waits: true, ..context(&request)? };
    // Each runs to its end whether or not the client reads its answers: one that stood still while the window is used up would keep its turn
    // and its places from all others.
    let unread = Arc::new(Unread::default());
    let answer = move |request: Result<Req, Status>| {
        let (call, context, unread) = (call.clone(), stream.again(), unread.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let mut room = unread.room().await;
            let answer = call(request?, context).await?;
            unread.note(answer.encoded_len(), &mut room);
            Ok((answer, room))
        }));
        async move {
            let answered = task.await;
            answered
                .unwrap_or_else(|error| Err(Status::internal(format!("a defect of the server: {error}"))))
                .map(|(answer, _)| answer)
        }
    };
    Ok(Response::new(Box::pin(request.into_inner().map(answer).buffered(parallel))))
}
