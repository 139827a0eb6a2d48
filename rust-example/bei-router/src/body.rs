use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use crate::failure::{Failure, OpenAiFailure};

/// A JSON body. What is wrong with it is told in the shape of the routes' other errors: 400 for text that is no JSON, 422
/// for JSON of another shape, 413 above the payload limit, 415 without the content type.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Body<T>, Failure> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Body(value)),
            Err(rejection) => Err(refused(&rejection)),
        }
    }
}

/// As [`Body`], for OpenAI's routes.
pub struct OpenAiBody<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for OpenAiBody<T> {
    type Rejection = OpenAiFailure;

    async fn from_request(request: Request, state: &S) -> Result<OpenAiBody<T>, OpenAiFailure> {
        let Body(value) = Body::from_request(request, state).await?;
        Ok(OpenAiBody(value))
    }
}

fn refused(rejection: &JsonRejection) -> Failure {
    Failure::body(rejection.status(), rejection.body_text())
}
