use std::sync::Arc;

use axum::http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::app::StartError;
use crate::args::Args;
use crate::auth::Keys;
use crate::routes;

/// Who may ask what, and by which paths.
#[derive(Clone, Debug)]
pub struct Access {
    /// `None`: requests need no key.
    pub keys: Option<Arc<Keys>>,
    pub open_metrics: bool,
    pub open_docs: bool,
    /// `None`: no web page of another origin may ask.
    pub cors: Option<CorsLayer>,
    /// `POST /` of an embedding model is /similarity.
    pub similarity_first: bool,
    /// More paths, as Vertex AI names them: of /vertex, and of /health.
    pub predict_route: Option<String>,
    pub health_route: Option<String>,
}

impl Access {
    pub fn new(args: &Args) -> Result<Access, StartError> {
        let route = |name| route(name, std::env::var(name).unwrap_or_default());
        Ok(Access {
            keys: Keys::new(&args.api_key),
            open_metrics: args.open_metrics,
            open_docs: args.open_docs,
            cors: cors(&args.cors_allow_origin)?,
            similarity_first: args.task.as_deref() == Some("sentence-similarity"),
            predict_route: route("AIP_PREDICT_ROUTE")?,
            health_route: route("AIP_HEALTH_ROUTE")?,
        })
    }
}

fn route(name: &str, path: String) -> Result<Option<String>, StartError> {
    let health = ["/", "/health", "/ping"].contains(&path.as_str()) && name == "AIP_HEALTH_ROUTE";
    if path.is_empty() || health || (path == "/vertex" && name == "AIP_PREDICT_ROUTE") {
        return Ok(None);
    }
    let plain = |part: &str| !part.starts_with([':', '*']) && !part.contains(['{', '}', '?', '#']);
    if !path.starts_with('/') || !path.split('/').all(plain) || routes::paths().contains(&path) {
        return Err(StartError::Flags(format!(
            "{name} is {path:?}; it must be a path such as /v1/predict that is none of this server's, without {{ }} ? #"
        )));
    }
    Ok(Some(path))
}

/// Replies tell pages of these origins everything that they tell others. Credentials of the browser are never sent: keys are
/// headers, which the page has to set itself.
fn cors(origins: &[String]) -> Result<Option<CorsLayer>, StartError> {
    if origins.is_empty() {
        return Ok(None);
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let value = |origin: &String| {
            let scheme = origin.split_once("://").filter(|(_, host)| !host.is_empty() && !host.contains('/'));
            scheme.and_then(|_| HeaderValue::from_str(origin).ok()).ok_or_else(|| {
                StartError::Flags(format!(
                    "--cors-allow-origin is {origin:?}; it must be * or scheme, host and port, as https://example.com:8080"
                ))
            })
        };
        AllowOrigin::list(origins.iter().map(value).collect::<Result<Vec<_>, _>>()?)
    };
    let headers = ["authorization", "content-type", "accept", "traceparent", "tracestate", "x-request-id"];
    let ours = ["request-timeout-ms", "request-deadline-ms", "x-request-priority"];
    Ok(Some(
        CorsLayer::new()
            .allow_origin(allowed)
            .allow_methods([Method::GET, Method::POST])
            .allow_headers(
                headers.iter().chain(&ours).map(|name| HeaderName::from_static(name)).collect::<Vec<_>>(),
            )
            .expose_headers(tower_http::cors::Any),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_and_routes_are_checked() {
        let origins = |text: &str| cors(&[text.to_string()]);
        assert!(cors(&[]).unwrap().is_none());
        for good in ["*", "http://localhost:3000", "https://example.com"] {
            assert!(origins(good).unwrap().is_some(), "{good}");
        }
        for bad in ["example.com", "https://", "https://example.com/", "https://a\nb", ""] {
            assert!(origins(bad).unwrap_err().to_string().contains("--cors-allow-origin"), "{bad:?}");
        }
        assert_eq!(route("R", "/a/b".to_string()).unwrap().as_deref(), Some("/a/b"));
        assert!(route("R", String::new()).unwrap().is_none());
        assert!(route("AIP_HEALTH_ROUTE", "/health".to_string()).unwrap().is_none());
        assert!(route("R", "/v1/endpoints/1/deployedModels/2:predict".to_string()).unwrap().is_some());
        for bad in ["predict", "/{x}", "/a?b", "/predict", "/:a", "/docs"] {
            assert!(route("R", bad.to_string()).is_err(), "{bad}");
        }
    }
}
