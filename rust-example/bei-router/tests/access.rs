//! Keys, other origins, HTTP/2 and the other names of routes.

mod common;

use common::{Server, mock_flags};
use reqwest::{Client, Method};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_guards_all_but_health() {
    let server = Server::mock(json!({}), &["--api-key", "secret,second"]).await;
    let with_key = async |method: Method, path: &str, key: &str| {
        let request = server.client.request(method, server.url(path)).header("authorization", key);
        request.json(&json!({"inputs": "a", "input": "a", "ids": [1]})).send().await.unwrap()
    };
    for key in ["Bearer secret", "Bearer second", "bearer secret"] {
        assert_eq!(with_key(Method::POST, "/embed", key).await.status(), 200, "{key}");
    }
    for key in [
        "Bearer wrong!",
        "Bearer secre",
        "Bearer secret2",
        "Bearer ",
        "Bearer secret,second",
        "secret",
        "Basic secret",
    ] {
        let response = with_key(Method::POST, "/embed", key).await;
        assert_eq!(response.status(), 401, "{key}");
        assert_eq!(response.text().await.unwrap(), "", "{key}");
    }
    let document: Value =
        with_key(Method::GET, "/api-doc/openapi.json", "Bearer secret").await.json().await.unwrap();
    let open =
        ["/", "/health", "/ping", "/health/live", "/health/ready", "/v1/health/live", "/v1/health/ready"];
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let verb: Method = method.to_uppercase().parse().unwrap();
            let status = server.client.request(verb.clone(), server.url(path)).send().await.unwrap().status();
            assert_eq!(
                status != 401,
                method == "get" && open.contains(&path.as_str()),
                "{method} {path}: {status}"
            );
            let status = with_key(verb, path, "Bearer second").await.status();
            assert_ne!(status, 401, "{method} {path}");
        }
    }
    for path in ["/docs", "/docs/", "/docs/swagger-ui.css"] {
        assert_eq!(server.get(path).await.status(), 401, "{path}");
    }
    assert_eq!(server.get("/nothing").await.status(), 404);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_docs_are_opened_on_purpose() {
    let server = Server::mock(json!({}), &["--api-key", "secret", "--open-metrics", "--open-docs"]).await;
    for path in ["/metrics", "/docs/", "/api-doc/openapi.json", "/health"] {
        assert_eq!(server.get(path).await.status(), 200, "{path}");
    }
    assert_eq!(server.get("/info").await.status(), 401);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_may_ask() {
    let server =
        Server::mock(json!({}), &["--cors-allow-origin", "https://a.example,https://b.example"]).await;
    let preflight = async |origin: &str| {
        let request = server.client.request(Method::OPTIONS, server.url("/embed")).header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "content-type,authorization").send().await.unwrap()
    };
    let response = preflight("https://b.example").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://b.example");
    assert!(response.headers()["access-control-allow-headers"].to_str().unwrap().contains("authorization"));
    assert!(preflight("https://c.example").await.headers().get("access-control-allow-origin").is_none());
    let request = server.client.post(server.url("/embed")).header("origin", "https://a.example");
    let response = request.json(&json!({"inputs": "a"})).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["access-control-allow-origin"], "https://a.example");
    assert!(response.headers().contains_key("access-control-expose-headers"));
    server.stop().await;

    let server = Server::mock(json!({}), &[]).await;
    let request = server.client.request(Method::OPTIONS, server.url("/embed"));
    assert_eq!(request.header("origin", "https://a.example").send().await.unwrap().status(), 405);
    server.stop().await;
    let refused = Server::try_start(&mock_flags(json!({}), &["--cors-allow-origin", "a.example"])).await;
    assert!(refused.err().unwrap().to_string().contains("--cors-allow-origin"));
}

#[tokio::test(flavor = "multi_thread")]
async fn http_2_needs_no_other_port() {
    let server = Server::mock(json!({}), &[]).await;
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let ask = async |text: String| {
        let response = client.post(server.url("/embed")).json(&json!({"inputs": text})).send().await.unwrap();
        assert_eq!(response.version(), reqwest::Version::HTTP_2);
        response.json::<Value>().await.unwrap()
    };
    let answers = futures_util::future::join_all((0..50).map(|i| ask(format!("text {i}")))).await;
    for (i, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, server.ask("/embed", json!({"inputs": format!("text {i}")})).await);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_told_by_name() {
    let server = Server::mock(json!({}), &["--served-model-name", "org/mini"]).await;
    let list: Value = server.get("/v1/models").await.json().await.unwrap();
    assert_eq!((&list["object"], list["data"].as_array().unwrap().len()), (&json!("list"), 1));
    let card = &list["data"][0];
    assert_eq!((&card["id"], &card["object"]), (&json!("org/mini"), &json!("model")));
    assert!(card["created"].as_u64().unwrap() > 1_700_000_000, "{card}");
    for path in ["/v1/models/org/mini", "/v1/models/org%2Fmini"] {
        assert_eq!(server.get(path).await.json::<Value>().await.unwrap(), *card, "{path}");
    }
    let response = server.get("/v1/models/other").await;
    assert_eq!(response.status(), 404);
    let answer: Value = response.json().await.unwrap();
    assert!(answer["message"].as_str().unwrap().contains("org/mini"), "{answer}");
    server.stop().await;
}
