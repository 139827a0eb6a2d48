//! POST / and /invocations: the route that fits the model. POST /vertex: the same for several bodies at once.

use std::sync::Arc;

use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use bei_backend::{Pool, Task};
use futures_util::future::try_join_all;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::openapi::schema::AnyOfBuilder;
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::app::App;
use crate::body::{self, Body};
use crate::failure::Failure;
use crate::reply;
use crate::routes::document::{ContextHeaders, Errors};
use crate::routes::embed::{EmbedRequest, PlainRequest, embed, embed_sparse};
use crate::routes::entities::{PredictTokensRequest, predict_tokens};
use crate::routes::pipeline::{self, ClassificationRequest, TokenClassificationRequest};
use crate::routes::predict::{PredictRequest, predict};
use crate::routes::rerank::{RerankRequest, rerank};
use crate::routes::similarity::{SimilarityRequest, similarity};
use crate::work::Context;

/// What a model is mostly asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Embed,
    EmbedSparse,
    Similarity,
    Predict,
    Rerank,
    PredictTokens,
}

impl App {
    /// As the family chooses, and token classifiers too.
    fn role(&self) -> Role {
        let info = self.model.info();
        match info.task {
            Some(Task::Classifier) if info.labels == 1 => Role::Rerank,
            Some(Task::Classifier) => Role::Predict,
            Some(Task::TokenClassifier) => Role::PredictTokens,
            _ if self.access.similarity_first => Role::Similarity,
            _ if info.pool == Some(Pool::Splade) => Role::EmbedSparse,
            _ => Role::Embed,
        }
    }
}

/// The body of the route that fits the model, for the document: a body may be that of several routes.
pub struct DefaultRequest;

impl PartialSchema for DefaultRequest {
    fn schema() -> RefOr<Schema> {
        let names = [
            EmbedRequest::name(),
            PlainRequest::name(),
            SimilarityRequest::name(),
            PredictRequest::name(),
            RerankRequest::name(),
            PredictTokensRequest::name(),
            ClassificationRequest::name(),
            TokenClassificationRequest::name(),
        ];
        let any =
            names.iter().fold(AnyOfBuilder::new(), |any, name| any.item(Ref::from_schema_name(name.clone())));
        RefOr::T(any.description(Some("The body of the route that fits the model")).into())
    }
}

impl ToSchema for DefaultRequest {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((ClassificationRequest::name().into(), ClassificationRequest::schema()));
        ClassificationRequest::schemas(schemas);
        schemas.push((TokenClassificationRequest::name().into(), TokenClassificationRequest::schema()));
        TokenClassificationRequest::schemas(schemas);
    }
}

async fn answer(
    app: Arc<App>,
    context: Result<Context, Failure>,
    request: Request,
) -> Result<Response, Failure> {
    match app.role() {
        Role::Embed => one_or_similarity(app, context, request, embed).await,
        Role::EmbedSparse => one_or_similarity(app, context, request, embed_sparse).await,
        Role::Similarity => one(app, context, request, similarity).await,
        Role::Predict => match piped(&app, request).await? {
            Shape::Pipeline(body) => pipeline::classify(&app, context?, body).await,
            Shape::Route(body) => predict(State(app), context, Body(body)).await,
        },
        Role::Rerank => one(app, context, request, rerank).await,
        Role::PredictTokens => match piped(&app, request).await? {
            Shape::Pipeline(body) => pipeline::name_entities(&app, context?, body).await,
            Shape::Route(body) => predict_tokens(State(app), context, Body(body)).await,
        },
    }
}

/// A body of the hub's pipelines, or of a route.
enum Shape<P, R> {
    Pipeline(P),
    Route(R),
}

/// Bodies of pipelines have the field parameters, which no route of classifiers has.
async fn piped<P: DeserializeOwned + Send + 'static, R: DeserializeOwned + Send + 'static>(
    app: &App,
    request: Request,
) -> Result<Shape<P, R>, Failure> {
    #[derive(Deserialize)]
    struct Parameters {
        parameters: Option<Map<String, Value>>,
    }
    let text = body::text(request, app).await?;
    match body::parse(app, text.clone()).await {
        Ok(Parameters { parameters: Some(_) }) => body::parse(app, text).await.map(Shape::Pipeline),
        _ => body::parse(app, text).await.map(Shape::Route),
    }
}

async fn one<T: DeserializeOwned + Send + 'static, F: Future<Output = Result<Response, Failure>>>(
    app: Arc<App>,
    context: Result<Context, Failure>,
    request: Request,
    route: impl Fn(State<Arc<App>>, Result<Context, Failure>, Body<T>) -> F,
) -> Result<Response, Failure> {
    let body = Body::from_request(request, &app).await?;
    route(State(app), context, body).await
}

/// As [`one`], or /similarity where the body is one of that: clients send it here, and cannot be mistaken.
async fn one_or_similarity<
    T: DeserializeOwned + Send + 'static,
    F: Future<Output = Result<Response, Failure>>,
>(
    app: Arc<App>,
    context: Result<Context, Failure>,
    request: Request,
    route: impl Fn(State<Arc<App>>, Result<Context, Failure>, Body<T>) -> F,
) -> Result<Response, Failure> {
    let text = body::text(request, &app).await?;
    match body::parse(&app, text.clone()).await {
        Ok(body) => route(State(app), context, Body(body)).await,
        Err(failure) => match body::parse::<SimilarityRequest>(&app, text).await {
            Ok(body) => similarity(State(app), context, Body(body)).await,
            Err(_) => Err(failure),
        },
    }
}

/// The route that fits the model: /embed or /embed_sparse (/similarity where the body, or the server's task sentence-similarity, asks
/// for it), /predict, /rerank or /predict_tokens. A body with the field parameters is taken and answered as the hub's pipelines do.
#[utoipa::path(post, path = "/", tag = "Default", params(ContextHeaders),
    request_body(content = DefaultRequest, example = json!({"inputs": "What is Deep Learning?"})),
    responses((status = 200, description = "As that route answers", body = serde_json::Value), Errors))]
pub async fn default_route(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    request: Request,
) -> Result<Response, Failure> {
    answer(app, context, request).await
}

/// As `POST /`, under the name that Amazon SageMaker asks for.
#[utoipa::path(post, path = "/invocations", tag = "Default", params(ContextHeaders),
    request_body(content = DefaultRequest, example = json!({"inputs": "What is Deep Learning?"})),
    responses((status = 200, description = "As that route answers", body = serde_json::Value), Errors))]
pub async fn invocations(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    request: Request,
) -> Result<Response, Failure> {
    answer(app, context, request).await
}

/// What /vertex takes: bodies of the route that fits the model.
#[derive(Deserialize, ToSchema)]
pub struct VertexRequest<T> {
    pub instances: Vec<T>,
}

/// What /vertex answers.
#[derive(ToSchema)]
#[expect(dead_code, reason = "for the document; replies are put together as they are")]
pub struct VertexReply {
    /// For each instance what the route answers.
    predictions: Vec<serde_json::Value>,
}

/// As `POST /`, for several bodies at once, in the shape of Google's Vertex AI.
#[utoipa::path(post, path = "/vertex", tag = "Default", params(ContextHeaders),
    request_body(content = VertexRequest<DefaultRequest>,
        example = json!({"instances": [{"inputs": "What is Deep Learning?"}, {"inputs": ["It rains.", "Is it late?"]}]})),
    responses((status = 200, description = "For each instance what the route answers", body = VertexReply), Errors))]
pub async fn vertex(
    State(app): State<Arc<App>>,
    context: Result<Context, Failure>,
    request: Request,
) -> Result<Response, Failure> {
    match app.role() {
        Role::Embed => all(app, context, request, embed).await,
        Role::EmbedSparse => all(app, context, request, embed_sparse).await,
        Role::Similarity => all(app, context, request, similarity).await,
        Role::Predict => all(app, context, request, predict).await,
        Role::Rerank => all(app, context, request, rerank).await,
        Role::PredictTokens => all(app, context, request, predict_tokens).await,
    }
}

/// Answers the instances at once. The first that fails is the request's error.
async fn all<T: DeserializeOwned + Send + 'static, F: Future<Output = Result<Response, Failure>>>(
    app: Arc<App>,
    context: Result<Context, Failure>,
    request: Request,
    route: impl Fn(State<Arc<App>>, Result<Context, Failure>, Body<T>) -> F,
) -> Result<Response, Failure> {
    let Body(VertexRequest { instances }) = Body::<VertexRequest<T>>::from_request(request, &app).await?;
    let context = Context { numbers: Some(Arc::default()), ..context? };
    if instances.is_empty() {
        return Err(Failure::empty("instances is empty"));
    }
    let instance = |(i, instance)| {
        // The first may take all the room: what belongs to an admitted request waits.
        let context = Context { waits: context.waits || i > 0, ..context.clone() };
        let answer = route(State(app.clone()), Ok(context), Body(instance));
        async move {
            let named = |failure: Failure| failure.of(&format!("instances[{i}]"));
            let body = answer.await.map_err(named)?.into_body().collect().await;
            body.map(|body| body.to_bytes()).map_err(|error| Failure::backend(format!("a reply: {error}")))
        }
    };
    let answers = try_join_all(instances.into_iter().enumerate().map(instance)).await?;
    let mut text = b"{\"predictions\":[".to_vec();
    for (i, answer) in answers.iter().enumerate() {
        if i > 0 {
            text.push(b',');
        }
        text.extend_from_slice(answer);
    }
    text.extend_from_slice(b"]}");
    drop(answers); // their room is the reply's now
    reply::written(&app, text)
}
