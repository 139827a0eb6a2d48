use bei_proto::tei::v1;
use tonic::{Request, Response, Status, Streaming};

use crate::finish::Finish;
use crate::grpc::Services;
use crate::grpc::messages::{context, metadata, one, only, options, response, status_by};
use crate::grpc::stream::{Answers, answers};
use crate::inference::Job;
use crate::inputs::Input;
use crate::timing::Timing;
use crate::work::Context;

impl Services {
    async fn pooled(
        &self,
        request: v1::EmbedRequest,
        context: Context,
    ) -> Result<(v1::EmbedResponse, Timing), Status> {
        let failed = status_by(context.deadline);
        let options =
            options(&self.app, request.truncate, request.truncation_direction, request.prompt_name)?;
        let job = Job::new(one(Input::Text(request.inputs)), "inputs", options);
        let finish = Finish {
            dimensions: request.dimensions.map(|dimensions| dimensions as usize),
            normalize: request.normalize.unwrap_or(true),
        };
        let (vectors, timing) = self.app.vectors(job, finish, context).await.map_err(failed)?;
        Ok((v1::EmbedResponse { embeddings: only(vectors)?, metadata: metadata(&timing) }, timing))
    }

    async fn sparse(
        &self,
        request: v1::EmbedSparseRequest,
        context: Context,
    ) -> Result<(v1::EmbedSparseResponse, Timing), Status> {
        let failed = status_by(context.deadline);
        let options =
            options(&self.app, request.truncate, request.truncation_direction, request.prompt_name)?;
        let job = Job::new(one(Input::Text(request.inputs)), "inputs", options);
        let (weights, timing) = self.app.sparse_weights(job, context).await.map_err(failed)?;
        let values = only(weights)?.into_iter().map(|(index, value)| v1::SparseValue { index, value });
        Ok((
            v1::EmbedSparseResponse { sparse_embeddings: values.collect(), metadata: metadata(&timing) },
            timing,
        ))
    }

    async fn all(
        &self,
        request: v1::EmbedAllRequest,
        context: Context,
    ) -> Result<(v1::EmbedAllResponse, Timing), Status> {
        let failed = status_by(context.deadline);
        let options =
            options(&self.app, request.truncate, request.truncation_direction, request.prompt_name)?;
        let job = Job::new(one(Input::Text(request.inputs)), "inputs", options);
        let (rows, timing) = self.app.token_vectors(job, context).await.map_err(failed)?;
        let rows = only(rows)?;
        let tokens = rows.iter().map(|row| v1::TokenEmbedding { embeddings: row.to_vec() });
        Ok((v1::EmbedAllResponse { token_embeddings: tokens.collect(), metadata: metadata(&timing) }, timing))
    }
}

#[tonic::async_trait]
impl v1::embed_server::Embed for Services {
    type EmbedStreamStream = Answers<v1::EmbedResponse>;
    type EmbedSparseStreamStream = Answers<v1::EmbedSparseResponse>;
    type EmbedAllStreamStream = Answers<v1::EmbedAllResponse>;

    async fn embed(&self, request: Request<v1::EmbedRequest>) -> Result<Response<v1::EmbedResponse>, Status> {
        let context = context(&request)?;
        let (answer, timing) = self.pooled(request.into_inner(), context).await?;
        Ok(response(&self.app, answer, &timing))
    }

    async fn embed_stream(
        &self,
        request: Request<Streaming<v1::EmbedRequest>>,
    ) -> Result<Response<Self::EmbedStreamStream>, Status> {
        let services = self.clone();
        answers(request, self.parallel, move |request, context| {
            let services = services.clone();
            async move { Ok(services.pooled(request, context).await?.0) }
        })
    }

    async fn embed_sparse(
        &self,
        request: Request<v1::EmbedSparseRequest>,
    ) -> Result<Response<v1::EmbedSparseResponse>, Status> {
        let context = context(&request)?;
        let (answer, timing) = self.sparse(request.into_inner(), context).await?;
        Ok(response(&self.app, answer, &timing))
    }

    async fn embed_sparse_stream(
        &self,
        request: Request<Streaming<v1::EmbedSparseRequest>>,
    ) -> Result<Response<Self::EmbedSparseStreamStream>, Status> {
        let services = self.clone();
        answers(request, self.parallel, move |request, context| {
            let services = services.clone();
            async move { Ok(services.sparse(request, context).await?.0) }
        })
    }

    async fn embed_all(
        &self,
        request: Request<v1::EmbedAllRequest>,
    ) -> Result<Response<v1::EmbedAllResponse>, Status> {
        let context = context(&request)?;
        let (answer, timing) = self.all(request.into_inner(), context).await?;
        Ok(response(&self.app, answer, &timing))
    }

    async fn embed_all_stream(
        &self,
        request: Request<Streaming<v1::EmbedAllRequest>>,
    ) -> Result<Response<Self::EmbedAllStreamStream>, Status> {
        let services = self.clone();
        answers(request, self.parallel, move |request, context| {
            let services = services.clone();
            async move { Ok(services.all(request, context).await?.0) }
        })
    }
}
