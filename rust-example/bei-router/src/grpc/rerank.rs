use std::pin::pin;
use std::time::Duration;

use bei_proto::tei::v1;
use futures_util::{StreamExt, TryStreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::failure::Failure;
use crate::grpc::Services;
use crate::grpc::messages::{context, metadata, one, only, options, response, status, status_by};
use crate::inference::Job;
use crate::inputs::Input;
use crate::routes::rerank::{Rank, Ranking, by_score};
use crate::timing::Timing;
use crate::work::Context;

/// Most bytes of what a stream's reply keeps: any number of texts may come.
const MOST_KEPT: usize = 256 << 20;

/// What a stream's reply is made of.
#[derive(Default)]
struct Kept {
    ranks: Vec<Rank>,
    bytes: usize,
}

impl Kept {
    fn push(&mut self, rank: Rank) -> Result<(), Failure> {
        self.bytes += size_of::<Rank>() + rank.text.as_ref().map_or(0, String::len);
        if self.bytes > MOST_KEPT {
            return Err(Failure::validation(format!(
                "the stream's texts are more than {MOST_KEPT} bytes; send fewer, or leave return_text out"
            )));
        }
        self.ranks.push(rank);
        Ok(())
    }
}

fn reply(ranks: Vec<Rank>, timing: &Timing) -> v1::RerankResponse {
    // A request holds fewer texts than that: their number is limited, or they came one by one.
    let index = |index| u32::try_from(index).unwrap_or(u32::MAX);
    let rank = |rank: Rank| v1::Rank { index: index(rank.index), text: rank.text, score: rank.score };
    v1::RerankResponse { ranks: ranks.into_iter().map(rank).collect(), metadata: metadata(timing) }
}

#[tonic::async_trait]
impl v1::rerank_server::Rerank for Services {
    async fn rerank(
        &self,
        request: Request<v1::RerankRequest>,
    ) -> Result<Response<v1::RerankResponse>, Status> {
        let context = context(&request)?;
        let failed = status_by(context.deadline);
        let request = request.into_inner();
        let ranking = Ranking {
            query: request.query,
            texts: request.texts,
            field: "texts",
            options: options(&self.app, request.truncate, request.truncation_direction, None)?,
            raw: request.raw_scores,
            keep: request.return_text,
        };
        let (ranks, timing) = self.app.ranks(ranking, context).await.map_err(failed)?;
        let reply = reply(ranks, &timing);
        Ok(response(&self.app, reply, &timing))
    }

    /// The texts are computed while more of them come, and there may be any number.
    async fn rerank_stream(
        &self,
        request: Request<Streaming<v1::RerankStreamRequest>>,
    ) -> Result<Response<v1::RerankResponse>, Status> {
        let stream = Context { waits: true, ..context(&request)? };
        self.app.check_reranker().map_err(status)?;
        let mut first: Option<(bool, bool)> = None;
        let texts = request.into_inner().enumerate().map(|(index, request)| {
            let (context, app) = (stream.again(), self.app.clone());
            let request = request.map(|request| {
                let (raw, keep) = *first.get_or_insert((request.raw_scores, request.return_text));
                (request, raw, keep)
            });
            async move {
                let (request, raw, keep) = request?;
                let failed = status_by(context.deadline);
                let options = options(&app, request.truncate, request.truncation_direction, None)?;
                let text = keep.then(|| request.text.clone());
                let job = Job::new(one(Input::Pair(request.query, request.text)), "text", options);
                let (scores, timing) = app.scores(job, raw, context).await.map_err(failed)?;
                let score = only(only(scores)?)?;
                Ok::<_, Status>((Rank { index, text, score }, timing))
            }
        });
        let mut texts = pin!(texts.buffered(self.parallel));
        let mut kept = Kept::default();
        let (zero, start) = (Duration::ZERO, stream.arrival);
        let mut timing =
            Timing { start, characters: 0, tokens: 0, tokenization: zero, queue: zero, inference: zero };
        while let Some((rank, cost)) = texts.try_next().await? {
            kept.push(rank).map_err(status)?;
            timing.characters += cost.characters;
            timing.tokens += cost.tokens;
            timing.tokenization += cost.tokenization;
            timing.queue += cost.queue;
            timing.inference += cost.inference;
        }
        let Kept { mut ranks, .. } = kept;
        if ranks.is_empty() {
            return Err(status(Failure::empty("the stream holds no text")));
        }
        let n = u32::try_from(ranks.len()).unwrap_or(u32::MAX);
        for mean in [&mut timing.tokenization, &mut timing.queue, &mut timing.inference] {
            *mean /= n;
        }
        by_score(&mut ranks);
        let reply = reply(ranks, &timing);
        Ok(response(&self.app, reply, &timing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_keeps_no_more_than_its_limit() {
        let rank = |text: Option<&str>| Rank { index: 0, text: text.map(str::to_string), score: 0.0 };
        let mut kept = Kept { bytes: MOST_KEPT - 2 * size_of::<Rank>() - 5, ..Kept::default() };
        kept.push(rank(Some("12345"))).unwrap();
        kept.push(rank(None)).unwrap();
        let failure = kept.push(rank(None)).unwrap_err();
        assert!(failure.message.contains("more than 268435456 bytes"), "{}", failure.message);
    }
}
