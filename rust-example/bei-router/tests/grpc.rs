//! tei.v1, health and reflection with a tonic client: every method, its statuses and limits, beside the same HTTP routes.

mod common;

use std::time::{Duration, Instant};

use bei_proto::tei::v1::embed_client::EmbedClient;
use bei_proto::tei::v1::info_client::InfoClient;
use bei_proto::tei::v1::predict_client::PredictClient;
use bei_proto::tei::v1::rerank_client::RerankClient;
use bei_proto::tei::v1::tokenize_client::TokenizeClient;
use bei_proto::tei::v1::*;
use common::held::Held;
use common::{PATIENCE, Server, golden, length, vectors};
use futures_util::stream::{self, StreamExt};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

async fn channel(server: &Server) -> Channel {
    Endpoint::from_shared(server.url("")).unwrap().connect().await.unwrap()
}

fn embed(inputs: impl Into<String>) -> EmbedRequest {
    EmbedRequest { inputs: inputs.into(), ..EmbedRequest::default() }
}

fn code<T>(answer: Result<Response<T>, Status>) -> (Code, String) {
    let status = answer.map(drop).unwrap_err();
    (status.code(), status.message().to_string())
}

async fn all<T>(answers: Response<tonic::Streaming<T>>) -> Vec<Result<T, Status>> {
    answers.into_inner().collect().await
}

/// Two numbers of each object of a list.
fn pairs(list: &serde_json::Value, a: &str, b: &str) -> Vec<(u32, f32)> {
    let number =
        |object: &serde_json::Value| (object[a].as_u64().unwrap() as u32, object[b].as_f64().unwrap() as f32);
    list.as_array().unwrap().iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn embeddings_are_those_of_the_http_routes() {
    let server = Server::mock(json!({}), &[]).await;
    let mut client = EmbedClient::new(channel(&server).await);
    let answer = client.embed(embed("Hello, Wörld")).await.unwrap();
    for header in
        ["x-compute-type", "x-compute-characters", "x-compute-tokens", "x-total-time", "x-queue-time"]
    {
        assert!(answer.metadata().contains_key(header), "{header}");
    }
    let answer = answer.into_inner();
    assert_eq!(answer.embeddings, server.embed(json!("Hello, Wörld")).await[0]);
    assert!((length(&answer.embeddings) - 1.0).abs() < 1e-5, "normalize is on by default");
    let metadata = answer.metadata.unwrap();
    assert_eq!((metadata.compute_chars, metadata.compute_tokens), (12, 5));
    assert!(metadata.total_time_ns >= metadata.inference_time_ns && metadata.total_time_ns < 60_000_000_000);
    assert!(metadata.tokenization_time_ns > 0, "{metadata:?}");

    let raw = EmbedRequest { normalize: Some(false), dimensions: Some(5), ..embed("Hello") };
    let http = server.ask("/embed", json!({"inputs": "Hello", "normalize": false, "dimensions": 5})).await;
    assert_eq!(client.embed(raw).await.unwrap().into_inner().embeddings, vectors(&http)[0]);

    let all =
        client.embed_all(EmbedAllRequest { inputs: "a b".to_string(), ..EmbedAllRequest::default() }).await;
    let rows: Vec<Vec<f32>> =
        all.unwrap().into_inner().token_embeddings.into_iter().map(|t| t.embeddings).collect();
    let http = server.ask("/embed_all", json!({"inputs": "a b"})).await;
    assert_eq!(rows, vectors(&http[0]));

    let sparse = EmbedSparseRequest { inputs: "a b".to_string(), ..EmbedSparseRequest::default() };
    let values = client.embed_sparse(sparse).await.unwrap().into_inner().sparse_embeddings;
    let http = server.ask("/embed_sparse", json!({"inputs": "a b"})).await;
    let entries: Vec<(u32, f32)> = values.iter().map(|value| (value.index, value.value)).collect();
    assert_eq!(entries, pairs(&http[0], "index", "value"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_has_the_familys_code_and_names_the_field() {
    let server =
        Server::mock(json!({"faults": [{"kind": "nan", "token_id": 7592}]}), &["--payload-limit", "4000"])
            .await;
    let channel = channel(&server).await;
    let mut client = EmbedClient::new(channel.clone());
    let long = "word ".repeat(400);
    for (name, request, expected, part) in [
        ("empty", embed(""), Code::InvalidArgument, "inputs"),
        ("NaN", embed("hello"), Code::FailedPrecondition, "inputs"),
        ("too long", embed(long.clone()), Code::InvalidArgument, "256"),
        (
            "no dimensions",
            EmbedRequest { dimensions: Some(0), ..embed("a") },
            Code::InvalidArgument,
            "dimensions",
        ),
        ("dimensions", EmbedRequest { dimensions: Some(385), ..embed("a") }, Code::InvalidArgument, "384"),
        (
            "prompt",
            EmbedRequest { prompt_name: Some("x".into()), ..embed("a") },
            Code::InvalidArgument,
            "prompt",
        ),
        (
            "side",
            EmbedRequest { truncation_direction: 2, ..embed("a") },
            Code::InvalidArgument,
            "truncation_direction",
        ),
        ("message size", embed("a".repeat(5000)), Code::OutOfRange, "4000"),
    ] {
        let (code, message) = code(client.embed(request).await);
        assert!(code == expected && message.contains(part), "{name}: {code:?} {message}");
    }
    client.embed(EmbedRequest { truncate: true, ..embed(long) }).await.unwrap();
    let mut late = Request::new(embed("a"));
    late.metadata_mut().insert("x-request-priority", "urgent".parse().unwrap());
    assert_eq!(code(client.embed(late).await).0, Code::InvalidArgument);

    let (wrong, message) = code(PredictClient::new(channel.clone()).predict(PredictRequest::default()).await);
    assert!(wrong == Code::FailedPrecondition && message.contains("classifier"), "{wrong:?} {message}");
    let texts = vec!["a".to_string()];
    let rerank = RerankRequest { query: "q".into(), texts, ..RerankRequest::default() };
    assert_eq!(code(RerankClient::new(channel.clone()).rerank(rerank).await).0, Code::FailedPrecondition);
    let response =
        server.client.post(server.url("/tei.v1.Embed/None")).header("content-type", "application/grpc");
    let response = response.send().await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "12");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_answer_in_order_and_end_at_the_first_error() {
    let server = Server::mock(json!({"us_per_token": 50.0}), &[]).await;
    let mut client = EmbedClient::new(channel(&server).await);
    let texts: Vec<String> = (0..300).map(|i| "word ".repeat(1 + i * 7 % 50) + &i.to_string()).collect();
    let requests: Vec<EmbedRequest> = texts.iter().map(embed).collect();
    let answers = all(client.embed_stream(stream::iter(requests)).await.unwrap()).await;
    assert_eq!(answers.len(), 300);
    for i in [0, 1, 77, 150, 299] {
        let alone = client.embed(embed(&texts[i])).await.unwrap().into_inner();
        assert_eq!(answers[i].as_ref().unwrap().embeddings, alone.embeddings, "{i}");
    }

    let requests = ["a", "", "b"].map(embed);
    let answers = all(client.embed_stream(stream::iter(requests)).await.unwrap()).await;
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[1].as_ref().unwrap_err().code(), Code::InvalidArgument);

    let request = EmbedAllRequest { inputs: "a b".into(), ..EmbedAllRequest::default() };
    let answers = all(client.embed_all_stream(stream::iter(vec![request; 3])).await.unwrap()).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().token_embeddings.len() == 4));
    let request = EmbedSparseRequest { inputs: "a b".into(), ..EmbedSparseRequest::default() };
    let answers = all(client.embed_sparse_stream(stream::iter(vec![request; 3])).await.unwrap()).await;
    assert!(answers.len() == 3 && answers.iter().all(Result::is_ok));
    assert!(
        all(client.embed_stream(stream::iter(Vec::<EmbedRequest>::new())).await.unwrap()).await.is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_wait_and_leave_half_of_the_room_to_single_calls() {
    let server = Server::mock(json!({"run_us": 20000.0}), &["--max-concurrent-requests", "2"]).await;
    let mut client = EmbedClient::new(channel(&server).await);
    let mut streams = Vec::new();
    for stream in 0..2 {
        let requests = stream::iter((0..40).map(move |i| embed(format!("stream {stream} {i}"))));
        streams.push(tokio::spawn(all(client.embed_stream(requests).await.unwrap())));
    }
    for i in 0..20 {
        client.embed(embed(format!("single {i}"))).await.unwrap();
    }
    for answers in streams {
        let answers = answers.await.unwrap();
        assert!(answers.len() == 40 && answers.iter().all(Result::is_ok));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_a_call_and_a_client_that_goes_ends_its_stream() {
    let held = Held::new();
    let script = json!({"run_us": 400000.0, "faults": [held.fault("slow", 5)]});
    let server = Server::mock(script, &[]).await;
    let mut client = EmbedClient::new(channel(&server).await);
    let mut late = Request::new(embed("a"));
    late.metadata_mut().insert("grpc-timeout", "50m".parse().unwrap());
    let (late, message) = code(client.embed(late).await);
    assert!(matches!(late, Code::DeadlineExceeded | Code::Cancelled), "{late:?} {message}");
    held.release();
    let mut wrong = Request::new(embed("a"));
    wrong.metadata_mut().insert("request-timeout-ms", "soon".parse().unwrap());
    assert_eq!(code(client.embed(wrong).await).0, Code::InvalidArgument);

    // A client with a runtime of its own: with that go its tasks, and the connection. hyper's resets no stream that has more to send.
    let goes = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let endless = stream::iter((0..).map(|i: u64| embed(i.to_string())));
            let mut client = EmbedClient::new(channel(&server).await);
            let mut answers = client.embed_stream(endless).await.unwrap().into_inner();
            assert!(answers.next().await.unwrap().is_ok());
        });
    };
    tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(goes).join().unwrap()));
    // Its inputs fill the limit of those under way, until the server has heard that the client is gone.
    let gone = Instant::now();
    while let Err(status) = client.embed(embed("after")).await {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(gone.elapsed() < PATIENCE, "the stream's inputs stay: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_texts_and_pairs() {
    let (server, _) = golden("roberta-classifier", &[]).await;
    let mut client = PredictClient::new(channel(&server).await);
    let by_http = async |inputs: serde_json::Value, raw: bool| {
        let answer = server.ask("/predict", json!({"inputs": inputs, "raw_scores": raw})).await;
        answer
            .as_array()
            .unwrap()
            .iter()
            .map(|p| (p["label"].to_string(), p["score"].as_f64().unwrap() as f32))
            .collect::<Vec<_>>()
    };
    let shape = |answer: PredictResponse| {
        assert!(answer.metadata.unwrap().compute_tokens > 0);
        answer.predictions.into_iter().map(|p| (json!(p.label).to_string(), p.score)).collect::<Vec<_>>()
    };
    let one = PredictRequest { inputs: "the dog".into(), ..PredictRequest::default() };
    assert_eq!(
        shape(client.predict(one.clone()).await.unwrap().into_inner()),
        by_http(json!("the dog"), false).await
    );
    let pair = PredictPairRequest {
        inputs: vec!["the dog".into(), "a fox".into()],
        raw_scores: true,
        ..PredictPairRequest::default()
    };
    let got = shape(client.predict_pair(pair.clone()).await.unwrap().into_inner());
    assert_eq!(got, by_http(json!(["the dog", "a fox"]), true).await);
    for n in [0, 3] {
        let wrong = PredictPairRequest { inputs: vec!["a".into(); n], ..PredictPairRequest::default() };
        let (code, message) = code(client.predict_pair(wrong).await);
        assert!(code == Code::InvalidArgument && message.ends_with(&format!("Given: {n}")), "{message}");
    }
    let answers = all(client.predict_stream(stream::iter(vec![one; 5])).await.unwrap()).await;
    assert!(answers.len() == 5 && answers.iter().all(Result::is_ok));
    let answers = all(client.predict_pair_stream(stream::iter(vec![pair; 5])).await.unwrap()).await;
    assert!(answers.into_iter().all(|answer| shape(answer.unwrap()) == got));
    // A classifier of several labels ranks nothing.
    let rerank =
        RerankStreamRequest { query: "q".into(), text: "t".into(), ..RerankStreamRequest::default() };
    let mut client = RerankClient::new(channel(&server).await);
    let (code, message) = code(client.rerank_stream(stream::iter([rerank])).await);
    assert!(code == Code::FailedPrecondition && message.contains("reranker"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_ranked_at_once_and_one_by_one() {
    let (server, _) = golden("bert-reranker", &["--max-client-batch-size", "3"]).await;
    let mut client = RerankClient::new(channel(&server).await);
    let texts: Vec<String> = ["the dog", "a fox", "the lazy harbour"].map(String::from).to_vec();
    let request = RerankRequest {
        query: "dog".into(),
        texts: texts.clone(),
        return_text: true,
        raw_scores: true,
        ..RerankRequest::default()
    };
    let answer = client.rerank(request.clone()).await.unwrap().into_inner();
    let http = json!({"query": "dog", "texts": texts, "return_text": true, "raw_scores": true});
    let ranks: Vec<(u32, f32)> = answer.ranks.iter().map(|rank| (rank.index, rank.score)).collect();
    assert_eq!(ranks, pairs(&server.ask("/rerank", http).await, "index", "score"));
    assert!(answer.ranks.iter().all(|rank| rank.text.as_ref() == Some(&texts[rank.index as usize])));
    let metadata = answer.metadata.unwrap();
    assert_eq!(metadata.compute_chars, 3 * 3 + 7 + 5 + 16);

    let one = |text: &String| RerankStreamRequest {
        query: "dog".into(),
        text: text.clone(),
        raw_scores: true,
        return_text: true,
        ..RerankStreamRequest::default()
    };
    // What later requests say of scores and texts does not count.
    let mut requests: Vec<_> = texts.iter().map(one).collect();
    requests[1].raw_scores = false;
    requests[2].return_text = false;
    let streamed = client.rerank_stream(stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!(streamed.ranks, answer.ranks);
    assert_eq!(streamed.metadata.unwrap().compute_tokens, metadata.compute_tokens);
    let many = stream::iter((0..50).map(|i| one(&i.to_string())).collect::<Vec<_>>());
    assert_eq!(client.rerank_stream(many).await.unwrap().into_inner().ranks.len(), 50);

    for (name, wrong, part) in [
        ("no texts", RerankRequest { texts: vec![], ..request.clone() }, "texts"),
        ("too many", RerankRequest { texts: vec!["a".into(); 4], ..request.clone() }, "batch size 4"),
        (
            "an empty text",
            RerankRequest { texts: vec!["a".into(), String::new()], query: String::new(), ..request },
            "texts[1]",
        ),
    ] {
        let (code, message) = code(client.rerank(wrong).await);
        assert!(code == Code::InvalidArgument && message.contains(part), "{name}: {code:?} {message}");
    }
    let nothing = stream::iter(Vec::<RerankStreamRequest>::new());
    assert_eq!(code(client.rerank_stream(nothing).await).0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_are_tokenized_and_decoded() {
    let server = Server::mock(json!({}), &[]).await;
    let mut client = TokenizeClient::new(channel(&server).await);
    let request =
        EncodeRequest { inputs: "Hello, Wörld".into(), add_special_tokens: true, prompt_name: None };
    let tokens = client.tokenize(request.clone()).await.unwrap().into_inner().tokens;
    let shown: Vec<_> = tokens
        .iter()
        .map(|t| json!({"id": t.id, "text": t.text, "special": t.special, "start": t.start, "stop": t.stop}))
        .collect();
    assert_eq!(json!([shown]), server.ask("/tokenize", json!({"inputs": "Hello, Wörld"})).await);
    let plain = EncodeRequest { add_special_tokens: false, ..request.clone() };
    assert_eq!(client.tokenize(plain).await.unwrap().into_inner().tokens.len(), tokens.len() - 2);
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    let decode = DecodeRequest { ids, skip_special_tokens: true };
    assert_eq!(client.decode(decode.clone()).await.unwrap().into_inner().text, "hello, world");
    let special = DecodeRequest { skip_special_tokens: false, ..decode.clone() };
    assert!(client.decode(special).await.unwrap().into_inner().text.starts_with("[CLS]"));
    let answers = all(client.tokenize_stream(stream::iter(vec![request; 9])).await.unwrap()).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().tokens == tokens));
    let answers = all(client.decode_stream(stream::iter(vec![decode; 9])).await.unwrap()).await;
    assert!(answers.into_iter().all(|answer| answer.unwrap().text == "hello, world"));
    let unknown =
        EncodeRequest { inputs: "a".into(), prompt_name: Some("x".into()), add_special_tokens: true };
    assert_eq!(code(client.tokenize(unknown).await).0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn info_tells_limits_and_the_kind_of_model() {
    let server = Server::mock(json!({}), &["--max-client-batch-size", "7"]).await;
    let info = InfoClient::new(channel(&server).await).info(InfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.model_type(), info.max_client_batch_size), (ModelType::Embedding, 7));
    assert_eq!((info.max_input_length, info.max_batch_tokens, info.max_batch_requests), (256, 1024, None));
    assert_eq!(info.version, server.get("/info").await.json::<serde_json::Value>().await.unwrap()["version"]);
    for (name, kind) in [("bert-reranker", ModelType::Reranker), ("bert-classifier", ModelType::Classifier)] {
        let (server, _) = golden(name, &[]).await;
        let info = InfoClient::new(channel(&server).await).info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!(info.model_type(), kind);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_asked_for_but_by_health_and_reflection() {
    let server = Server::mock(json!({}), &["--api-key", "secret"]).await;
    let channel = channel(&server).await;
    let mut client = EmbedClient::new(channel.clone());
    for key in [None, Some("Bearer wrong"), Some("secret")] {
        let mut request = Request::new(embed("a"));
        if let Some(key) = key {
            request.metadata_mut().insert("authorization", key.parse().unwrap());
        }
        assert_eq!(code(client.embed(request).await).0, Code::Unauthenticated, "{key:?}");
    }
    let mut request = Request::new(embed("a"));
    request.metadata_mut().insert("authorization", "Bearer secret".parse().unwrap());
    client.embed(request).await.unwrap();
    assert_eq!(code(InfoClient::new(channel.clone()).info(InfoRequest {}).await).0, Code::Unauthenticated);
    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest { service: "tei.v1.Info".into() }).await.unwrap();

    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = ServerReflectionClient::new(channel).server_reflection_info(stream::iter([ask])).await;
    let answer = asked.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!() };
    let names: Vec<&str> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["Info", "Embed", "Predict", "Rerank", "Tokenize"] {
        assert!(names.contains(&format!("tei.v1.{name}").as_str()), "{names:?}");
    }
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_which_services_serve_and_follows_the_engine() {
    let server = Server::mock(json!({"faults": [{"kind": "lost", "from": 5, "count": 1}]}), &[]).await;
    let channel = channel(&server).await;
    let mut health = HealthClient::new(channel.clone());
    let status = async |health: &mut HealthClient<Channel>, service: &str| {
        let answer = health.check(HealthCheckRequest { service: service.to_string() }).await;
        answer.unwrap().into_inner().status()
    };
    let begin = Instant::now();
    while status(&mut health, "tei.v1.Embed").await != ServingStatus::Serving {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (service, expected) in [
        ("", ServingStatus::Serving),
        ("tei.v1.Info", ServingStatus::Serving),
        ("tei.v1.Tokenize", ServingStatus::Serving),
        ("tei.v1.Embed", ServingStatus::Serving),
        ("tei.v1.Predict", ServingStatus::NotServing),
        ("tei.v1.Rerank", ServingStatus::NotServing),
    ] {
        assert_eq!(status(&mut health, service).await, expected, "{service:?}");
    }
    let unknown = health.check(HealthCheckRequest { service: "tei.v1.None".into() }).await;
    assert_eq!(code(unknown).0, Code::NotFound);

    let watch = HealthCheckRequest { service: "tei.v1.Embed".to_string() };
    let mut watched = health.watch(watch).await.unwrap().into_inner();
    let mut next = async || watched.message().await.unwrap().unwrap().status();
    assert_eq!(next().await, ServingStatus::Serving);
    assert_eq!(code(EmbedClient::new(channel).embed(embed("a")).await).0, Code::Unavailable);
    assert_eq!(next().await, ServingStatus::NotServing);
    assert_eq!(status(&mut health, "").await, ServingStatus::NotServing);
    assert_eq!(status(&mut health, "tei.v1.Info").await, ServingStatus::Serving);
    // Whoever watches does not keep a server from its end.
    let begin = Instant::now();
    server.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}
