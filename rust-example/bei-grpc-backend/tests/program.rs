//! The program as the family's router runs it: started with its command line, found ready by its socket, called by a client
//! like its own, killed or told to stop.

#[path = "../../bei-router/tests/common/held.rs"]
mod held;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bei_backend::{
    Backend, BackendError, Batch, BeiBackend, Embedding, Embeddings, ModelType, Options, Pool, Predictions,
    start_up,
};
use bei_proto::embedding::v1::embedding_service_client::EmbeddingServiceClient;
use bei_proto::embedding::v1::{EmbedRequest, HealthRequest};
use held::Held;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Request, Status};

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/models").join(name)
}

fn minilm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.deps/models/all-MiniLM-L6-v2")
}

// Faults of the mock engine count runs: warm-up has two, so that the first call's is the third.

/// The process, killed at the end as the router does it.
struct Server {
    child: Child,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(program: &Path, model: &Path, pool: &str, socket: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .arg(model)
        .args(["--dtype", "float32", "--uds-path"])
        .arg(socket)
        .args(["--logger-level", "INFO", "--json-output", "--pool", pool])
        .args(["--otlp-service-name", "text-embeddings-inference.server"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Server {
    /// Starts the program under the name that the router knows, and waits for its socket as the router does.
    fn start(model: &Path, pool: &str, options: Value) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("python-text-embeddings-server");
        symlink(env!("CARGO_BIN_EXE_bei-grpc-backend"), &program).unwrap();
        let mut command = command(&program, model, pool, &folder.path().join("socket"));
        let child = command.env("BEI_OPTIONS", options.to_string()).spawn().unwrap();
        let mut server = Server { child, folder };
        while !server.socket().exists() {
            if let Some(status) = server.child.try_wait().unwrap() {
                panic!("ended before it was ready: {status}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    fn mock(mock: Value, over: Value) -> Server {
        let mut options = json!({"engine": "mock", "mock": mock});
        options.as_object_mut().unwrap().extend(over.as_object().unwrap().clone());
        Server::start(&minilm(), "mean", options)
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    async fn connect(&self) -> EmbeddingServiceClient<Channel> {
        let path = self.socket();
        let connect = move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
        };
        let endpoint = Endpoint::from_static("http://[::]:50051");
        let channel = endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap();
        EmbeddingServiceClient::new(channel)
    }

    fn signal(&self, signal: i32) {
        // SAFETY: takes numbers; the child has not been waited for.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    fn ended(mut self) -> (i32, Output) {
        let status = self.child.wait().unwrap();
        let (mut stdout, mut stderr) = (vec![], vec![]);
        use std::io::Read;
        self.child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_end(&mut stderr).unwrap();
        (status.code().unwrap_or(-1), Output { status, stdout, stderr })
    }
}

/// The family's own backend on its side of the socket.
struct Client {
    runtime: tokio::runtime::Runtime,
    stub: EmbeddingServiceClient<Channel>,
}

impl Client {
    fn of(server: &Server) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stub = runtime.block_on(server.connect());
        Client { runtime, stub }
    }
}

fn request(batch: Batch) -> EmbedRequest {
    EmbedRequest {
        input_ids: batch.input_ids,
        token_type_ids: batch.token_type_ids,
        position_ids: batch.position_ids,
        cu_seq_lengths: batch.cumulative_seq_lengths,
        max_length: batch.max_length,
    }
}

fn failed(status: Status) -> BackendError {
    BackendError::Inference(status.message().to_string())
}

impl Backend for Client {
    fn health(&self) -> Result<(), BackendError> {
        let answer = self.runtime.block_on(self.stub.clone().health(HealthRequest {}));
        answer.map(drop).map_err(|_| BackendError::Unhealthy)
    }

    fn is_padded(&self) -> bool {
        false
    }

    fn embed(&self, batch: Batch) -> Result<Embeddings, BackendError> {
        let answer = self.runtime.block_on(self.stub.clone().embed(request(batch))).map_err(failed)?;
        let vectors = answer.into_inner().embeddings.into_iter().map(|e| Embedding::Pooled(e.values));
        Ok(vectors.enumerate().collect())
    }

    fn predict(&self, batch: Batch) -> Result<Predictions, BackendError> {
        let answer = self.runtime.block_on(self.stub.clone().predict(request(batch))).map_err(failed)?;
        Ok(answer.into_inner().scores.into_iter().map(|s| s.values).enumerate().collect())
    }
}

/// A batch as the family's router makes it for this backend: every item pooled.
fn batch<T: AsRef<[u32]>>(items: &[T], offset: u32) -> Batch {
    let mut batch = Batch { cumulative_seq_lengths: vec![0], ..Batch::default() };
    for (i, item) in (0..).zip(items) {
        let item = item.as_ref();
        batch.input_ids.extend_from_slice(item);
        batch.token_type_ids.resize(batch.input_ids.len(), 0);
        batch.position_ids.extend((offset..).take(item.len()));
        batch.cumulative_seq_lengths.push(batch.input_ids.len() as u32);
        batch.max_length = batch.max_length.max(item.len() as u32);
        batch.pooled_indices.push(i);
    }
    batch
}

#[test]
fn models_of_every_kind_live_through_a_routers_start_up_and_give_what_the_crate_gives() {
    for (name, pool, model_type) in [
        ("roberta-mean", "mean", ModelType::Embedding(Pool::Mean)),
        ("bert-cls-dense", "cls", ModelType::Embedding(Pool::Cls)),
        ("qwen3-lasttoken", "lasttoken", ModelType::Embedding(Pool::LastToken)),
        ("distilbert-splade", "splade", ModelType::Embedding(Pool::Splade)),
        // The router's word for the pooling of a classifier.
        ("xlm-roberta-classifier", "cls", ModelType::Classifier),
        ("modernbert-reranker-mean", "cls", ModelType::Classifier),
    ] {
        let server = Server::start(&tiny(name), pool, json!({"threads": 1, "max_sequences": 2}));
        let client = Client::of(&server);
        let mut options = Options::new(tiny(name).to_str().unwrap()).with("threads", 1);
        if let ModelType::Embedding(pool) = model_type {
            options = options.with("pooling", pool.option());
        }
        let local = BeiBackend::open(&options).unwrap();
        assert_eq!(local.model_type(), Some(&model_type), "{name}");
        let info = *local.model().info();
        start_up(&client, &model_type, info.max_length, 1000, None).unwrap_or_else(|e| panic!("{name}: {e}"));
        client.health().unwrap();

        let golden: Value =
            serde_json::from_slice(&std::fs::read(tiny(name).join("golden.json")).unwrap()).unwrap();
        let ids = |item: &Value| {
            item["input_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let mut items: Vec<Vec<u32>> = golden["items"].as_array().unwrap().iter().map(ids).collect();
        items.insert(1, vec![]);
        let all = || batch(&items, info.position_offset);
        let close = |a: &[f32], b: &[f32], i: usize| {
            assert_eq!(a.len(), b.len(), "{name}, item {i}");
            let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-4 || (a.is_nan() && b.is_nan() && i == 1);
            assert!(a.iter().zip(b).all(near), "{name}, item {i}: {a:?}, {b:?}");
        };
        match model_type {
            ModelType::Classifier => {
                let (got, want) = (client.predict(all()).unwrap(), local.predict(all()).unwrap());
                assert_eq!(got.len(), items.len());
                (0..items.len()).for_each(|i| close(&got[&i], &want[&i], i));
            }
            ModelType::Embedding(_) => {
                let (got, want) = (client.embed(all()).unwrap(), local.embed(all()).unwrap());
                assert_eq!(got.len(), items.len());
                for i in 0..items.len() {
                    let (Embedding::Pooled(got), Embedding::Pooled(want)) = (&got[&i], &want[&i]) else {
                        panic!()
                    };
                    close(got, want, i);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_fails_with_a_status_that_tells_and_the_next_call_works() {
    let faults = json!([{"kind": "nan", "token_id": 9}, {"kind": "bad_item", "token_id": 8}]);
    let server = Server::mock(json!({"faults": faults}), json!({}));
    let mut client = server.connect().await;
    let good = || request(batch(&[&[1u32, 2][..], &[3]], 0));
    let with = |change: fn(&mut EmbedRequest)| {
        let mut request = good();
        change(&mut request);
        request
    };
    for (name, wrong, code, part) in [
        ("NaN", request(batch(&[&[1u32][..], &[9]], 0)), Code::Internal, "item 1: "),
        ("failing run", request(batch(&[&[8u32][..], &[1]], 0)), Code::Internal, "item 0: "),
        ("out of range", request(batch(&[&[1u32][..], &[40000]], 0)), Code::InvalidArgument, "item 1: "),
        ("too long", request(batch(&[vec![1u32; 300]], 0)), Code::InvalidArgument, "256"),
        ("no lengths", with(|r| r.cu_seq_lengths.clear()), Code::InvalidArgument, "cumulative_seq_lengths"),
        (
            "wrong lengths",
            with(|r| r.cu_seq_lengths = vec![0, 9]),
            Code::InvalidArgument,
            "cumulative_seq_lengths",
        ),
        (
            "falling lengths",
            with(|r| r.cu_seq_lengths = vec![0, 4_000_000_000, 3]),
            Code::InvalidArgument,
            "",
        ),
        ("short type ids", with(|r| r.token_type_ids.truncate(1)), Code::InvalidArgument, "token_type_ids"),
        ("short positions", with(|r| r.position_ids.truncate(1)), Code::InvalidArgument, "position_ids"),
        ("wrong max_length", with(|r| r.max_length = 7), Code::InvalidArgument, "max_length"),
    ] {
        let status = client.embed(wrong).await.map(drop).unwrap_err();
        assert!(status.code() == code && status.message().contains(part), "{name}: {status}");
        assert_eq!(client.embed(good()).await.unwrap().into_inner().embeddings.len(), 2, "after {name}");
    }
    let status = client.predict(good()).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let huge = EmbedRequest { input_ids: vec![1_000_000_000; 14 << 20], ..EmbedRequest::default() };
    let status = client.embed(huge).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");

    let defaults = with(|r| {
        r.token_type_ids.clear();
        r.position_ids.clear();
        r.max_length = 0;
    });
    let (a, b) = (client.embed(defaults).await.unwrap(), client.embed(good()).await.unwrap());
    assert_eq!(a.into_inner(), b.into_inner());
    let empty = EmbedRequest { cu_seq_lengths: vec![0], ..EmbedRequest::default() };
    assert!(client.embed(empty).await.unwrap().into_inner().embeddings.is_empty());
    client.health(HealthRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_engine_is_unavailable() {
    let server = Server::mock(json!({"faults": [{"kind": "lost", "from": 3, "count": 1}]}), json!({}));
    let mut client = server.connect().await;
    client.health(HealthRequest {}).await.unwrap();
    let status = client.embed(request(batch(&[[7u32]], 0))).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let status = client.health(HealthRequest {}).await.map(drop).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_each_get_their_own_answers() {
    let server = Server::mock(json!({"dimensions": 8}), json!({"slots": 2}));
    let mut alone = vec![];
    let mut client = server.connect().await;
    for k in 0..32u32 {
        alone.push(client.embed(request(batch(&[[k + 1, 2 * k]], 0))).await.unwrap().into_inner());
    }
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (mut client, alone) = (server.connect().await, alone.clone());
        tasks.spawn(async move {
            for (k, want) in (0..).zip(&alone) {
                let got = client.embed(request(batch(&[[k + 1, 2 * k]], 0))).await.unwrap().into_inner();
                assert_eq!(&got, want);
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_deadline_and_the_next_one_works() {
    let held = Held::new();
    let server = Server::mock(json!({"faults": [held.fault("slow", 3)]}), json!({"slots": 1}));
    let mut client = server.connect().await;
    // The first is in the engine, the second waits for its slot.
    for _ in 0..2 {
        let mut late = Request::new(request(batch(&[[7u32]], 0)));
        late.set_timeout(Duration::from_millis(200));
        let status = client.embed(late).await.map(drop).unwrap_err();
        assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status}");
    }
    held.release();
    client.embed(request(batch(&[[1u32]], 0))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_lets_calls_finish_and_removes_the_socket() {
    let held = Held::new();
    let server = Server::mock(json!({"faults": [held.fault("slow", 3)]}), json!({}));
    let (mut client, socket) = (server.connect().await, server.socket());
    let mut next = client.clone();
    let mut call = pin!(client.embed(request(batch(&[[7u32]], 0))));
    // What comes later on the same connection is answered: the call has come.
    tokio::select! {
        biased;
        answer = &mut call => panic!("{answer:?}"),
        health = next.health(HealthRequest {}) => health.unwrap(),
    };
    server.signal(libc::SIGTERM);
    while socket.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    held.release();
    assert_eq!(call.await.unwrap().into_inner().embeddings.len(), 1);
    let (code, output) = tokio::task::spawn_blocking(move || server.ended()).await.unwrap();
    assert_eq!((code, String::from_utf8_lossy(&output.stderr).as_ref()), (0, ""));
    assert!(!socket.exists());
    // Every line is what the router reads of loguru's records.
    let lines: Vec<Value> =
        output.stdout.split(|&b| b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    let texts: Vec<&str> = lines.iter().map(|line| line["text"].as_str().unwrap()).collect();
    assert!(texts.iter().any(|text| text.starts_with("Server started at unix://")), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("open ")), "{texts:?}");
    assert!(lines.iter().all(|line| line["record"]["level"]["name"].is_string()));
    assert_eq!(output.stdout.iter().filter(|&&b| b == b'\n').count(), lines.len());
}

#[test]
fn what_cannot_start_ends_with_the_reason_on_standard_error() {
    let folder = tempfile::tempdir().unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_bei-grpc-backend"));
    let socket = folder.path().join("socket");
    let text = folder.path().join("text");
    std::fs::write(&text, "text").unwrap();
    let running = Server::mock(json!({}), json!({}));
    for (model, pool, socket, options, part) in [
        (folder.path().to_path_buf(), "cls", socket.clone(), json!({}), "is missing"),
        (tiny("bert-token-classifier"), "cls", socket.clone(), json!({}), "token classifier"),
        (tiny("bert-classifier"), "mean", socket.clone(), json!({}), "classifier"),
        (tiny("qwen3-lasttoken"), "splade", socket.clone(), json!({}), "splade"),
        (tiny("bert-mean"), "mean", socket.clone(), json!({"slot": 1}), "slot"),
        (tiny("bert-mean"), "mean", text, json!({}), "is no socket"),
        (tiny("bert-mean"), "mean", running.socket(), json!({}), "another server listens"),
    ] {
        let mut command = command(program, &model, pool, &socket);
        let output = command.env("BEI_OPTIONS", options.to_string()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{part}: {stderr}");
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(!socket.exists());
    Client::of(&running).health().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_servers_socket_is_replaced_by_the_next_one() {
    let mut server = Server::mock(json!({}), json!({}));
    server.child.kill().unwrap();
    server.child.wait().unwrap();
    assert!(server.socket().exists());
    let program = Path::new(env!("CARGO_BIN_EXE_bei-grpc-backend"));
    let mut command = command(program, &minilm(), "mean", &server.socket());
    server.child = command.env("BEI_OPTIONS", json!({"engine": "mock"}).to_string()).spawn().unwrap();
    let mut stub = None;
    for _ in 0..2000 {
        if tokio::net::UnixStream::connect(server.socket()).await.is_ok() {
            stub = Some(server.connect().await);
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stub.unwrap().health(HealthRequest {}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn reflection_names_the_service() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let server = Server::mock(json!({}), json!({}));
    let path = server.socket();
    let connect = move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, std::io::Error>(TokioIo::new(tokio::net::UnixStream::connect(path).await?)) }
    };
    let endpoint = Endpoint::from_static("http://[::]:50051");
    let channel = endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap();
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = ServerReflectionClient::new(channel).server_reflection_info(tokio_stream::once(ask)).await;
    let answer = asked.unwrap().into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!() };
    assert!(list.service.iter().any(|s| s.name == "embedding.v1.EmbeddingService"), "{list:?}");
}
