//! The OpenAPI document: all routes are in it, and what it shows works.

mod common;

use std::collections::BTreeMap;

use common::{Server, golden};
use serde_json::{Value, json};

async fn document(server: &Server) -> Value {
    let response = server.get("/api-doc/openapi.json").await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    response.json().await.unwrap()
}

/// Method and path of every operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let of_path = |(path, item): (&String, &Value)| {
        let operation =
            |(method, operation): (&String, &Value)| (method.clone(), path.clone(), operation.clone());
        item.as_object().unwrap().iter().map(operation).collect::<Vec<_>>()
    };
    paths.flat_map(of_path).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_is_in_the_document_and_every_operation_is_a_route() {
    let server = Server::mock(json!({}), &[]).await;
    let document = document(&server).await;
    assert_eq!(document["openapi"], "3.1.0");
    let found: Vec<(String, String)> =
        operations(&document).into_iter().map(|(method, path, _)| (method, path)).collect();
    let mut expected: Vec<(&str, &str)> = vec![];
    expected.extend(
        ["/", "/health", "/ping", "/info", "/metrics", "/v1/models", "/v1/models/{id}"].map(|p| ("get", p)),
    );
    expected.push(("get", "/api-doc/openapi.json"));
    expected
        .extend(["/health/live", "/health/ready", "/v1/health/live", "/v1/health/ready"].map(|p| ("get", p)));
    expected.extend(
        [
            "/",
            "/invocations",
            "/vertex",
            "/embed",
            "/embed_all",
            "/embed_sparse",
            "/embed_outputs",
            "/similarity",
        ]
        .map(|p| ("post", p)),
    );
    expected
        .extend(["/predict", "/predict_tokens", "/rerank", "/v1/rerank", "/v2/rerank"].map(|p| ("post", p)));
    expected.extend(["/v1/embeddings", "/embeddings", "/tokenize", "/decode"].map(|p| ("post", p)));
    for (method, path) in &expected {
        assert!(
            found.contains(&(method.to_string(), path.to_string())),
            "{method} {path} is not in the document"
        );
    }
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (method, path) in &found {
        let (url, method) = (server.url(path), method.to_uppercase().parse().unwrap());
        let status = server.client.request(method, url).send().await.unwrap().status();
        assert!(status != 405 && (status != 404 || path == "/v1/models/{id}"), "{path}: {status}");
    }
    let text = document.to_string();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "{name} is named and not there");
    }
    server.stop().await;
}

/// The examples of a request's body.
fn examples(operation: &Value) -> Vec<Value> {
    let content = &operation["requestBody"]["content"]["application/json"];
    let several = content["examples"].as_object().into_iter().flat_map(|all| all.values());
    several.map(|example| example["value"].clone()).chain(content.get("example").cloned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_accepted() {
    let servers: BTreeMap<&str, Server> = BTreeMap::from([
        ("embedding", golden("bert-mean", &[]).await.0),
        ("sparse", golden("bge-m3", &[]).await.0),
        ("reranker", golden("bert-reranker", &[]).await.0),
        ("classifier", golden("bert-classifier", &[]).await.0),
        ("tokens", golden("roberta-entities", &[]).await.0),
    ]);
    let mut tried = 0;
    for (method, path, operation) in operations(&document(&servers["embedding"]).await) {
        if method != "post" {
            continue;
        }
        let server = match path.as_str() {
            "/embed_sparse" => &servers["sparse"],
            "/rerank" | "/v1/rerank" | "/v2/rerank" => &servers["reranker"],
            "/predict" => &servers["classifier"],
            "/predict_tokens" => &servers["tokens"],
            _ => &servers["embedding"],
        };
        let examples = examples(&operation);
        assert!(!examples.is_empty(), "{path} has no example");
        for example in examples {
            server.ask(&path, example).await;
            tried += 1;
        }
    }
    assert!(tried > 20, "{tried}");
    for server in servers.into_values() {
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_no_network() {
    let server = Server::mock(json!({}), &[]).await;
    let page = server.get("/docs").await;
    assert_eq!((page.status().as_u16(), page.url().path()), (200, "/docs/"));
    let text = page.text().await.unwrap();
    assert!(text.contains("swagger-ui"), "{text}");
    assert!(!text.contains("//cdn") && !text.contains("https://unpkg"), "{text}");
    for file in [
        "swagger-ui.css",
        "swagger-ui-bundle.js",
        "swagger-ui-standalone-preset.js",
        "swagger-initializer.js",
    ] {
        let response = server.get(&format!("/docs/{file}")).await;
        assert_eq!(response.status(), 200, "{file}");
        let text = response.text().await.unwrap();
        if file == "swagger-initializer.js" {
            assert!(text.contains("/api-doc/openapi.json"), "{text}");
        }
    }
    server.stop().await;
}
