//! Streams of requests: answers come in their order, and no more requests are read than may be under way at once.

use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::messages::context;
use crate::work::Context;

/// The answers to a stream. The first error ends it.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers each request of a stream by `call`. The context's deadline is the whole stream's, and its requests wait for
/// admission.
pub fn answers<Req, Res, Fut>(
    request: Request<Streaming<Req>>,
    parallel: usize,
    call: impl Fn(Req, Context) -> Fut + Send + Clone + 'static,
) -> Result<Response<Answers<Res>>, Status>
where
    Req: Send + 'static,
    Res: Send + 'static,
    Fut: Future<Output = Result<Res, Status>> + Send + 'static,
{
    let stream = Context { waits: true, ..context(&request)? };
    // Each runs to its end whether or not the client reads its answers: one that stood still while the window is used up would keep its turn
    // and its places from all others.
    let answer = move |request: Result<Req, Status>| {
        let (call, context) = (call.clone(), stream.again());
        let task = AbortOnDropHandle::new(tokio::spawn(async move { call(request?, context).await }));
        async move {
            task.await
                .unwrap_or_else(|error| Err(Status::internal(format!("a defect of the server: {error}"))))
        }
    };
    Ok(Response::new(Box::pin(request.into_inner().map(answer).buffered(parallel))))
}
