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
        let mut ranked: Vec<(Rank, Timing)> = texts.buffered(self.parallel).try_collect().await?;
        let n = u32::try_from(ranked.len()).unwrap_or(u32::MAX);
        if n == 0 {
            return Err(status(Failure::empty("the stream holds no text")));
        }
        let mean = |part: fn(&Timing) -> Duration| {
            ranked.iter().map(|(_, timing)| part(timing)).sum::<Duration>() / n
        };
        let timing = Timing {
            start: stream.arrival,
            characters: ranked.iter().map(|(_, timing)| timing.characters).sum(),
            tokens: ranked.iter().map(|(_, timing)| timing.tokens).sum(),
            tokenization: mean(|timing| timing.tokenization),
            queue: mean(|timing| timing.queue),
            inference: mean(|timing| timing.inference),
        };
        let mut ranks: Vec<Rank> = ranked.drain(..).map(|(rank, _)| rank).collect();
        by_score(&mut ranks);
        let reply = reply(ranks, &timing);
        Ok(response(&self.app, reply, &timing))
    }
}
