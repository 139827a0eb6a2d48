use std::sync::Arc;

use bei_backend::{BatchResult, CallOptions, Error, Model, Side, Text};
use futures_util::future::try_join_all;
use serde::Deserialize;
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::failure::Failure;

/// The tokens of one input.
#[derive(Debug, Default)]
pub struct Encoding {
    pub ids: Vec<u32>,
    /// `None`: all zero.
    pub type_ids: Option<Vec<u32>>,
}

/// The side of a text that is cut off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, ToSchema)]
pub enum TruncationDirection {
    #[serde(alias = "left")]
    Left,
    #[default]
    #[serde(alias = "right")]
    Right,
}

impl From<TruncationDirection> for Side {
    fn from(direction: TruncationDirection) -> Side {
        match direction {
            TruncationDirection::Left => Side::Left,
            TruncationDirection::Right => Side::Right,
        }
    }
}

/// How texts are tokenized.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EncodeOptions {
    pub truncate: bool,
    pub direction: TruncationDirection,
    pub prompt_name: Option<String>,
}

impl EncodeOptions {
    /// As the library takes them.
    pub fn call_options(&self) -> CallOptions<'_> {
        CallOptions {
            truncate: Some(self.truncate),
            truncation_side: Some(self.direction.into()),
            prompt_name: self.prompt_name.as_deref(),
            ..CallOptions::default()
        }
    }
}

/// Texts that one worker tokenizes in one call.
const CHUNK: usize = 16;

/// Inputs of other calls, which one worker makes one after another: the library takes 65,536 at once.
pub const CALL: usize = 4096;

/// Bytes of a request's texts that are tokenized on the caller's thread. It takes some hundred microseconds at most, where a
/// worker would cost two changes of threads, and with many clients a queue of them.
const AT_ONCE: usize = 2048;

/// The library's tokenizer; what takes long runs on a bounded number of blocking threads.
pub struct Tokenizer {
    model: Arc<Model>,
    workers: Arc<Semaphore>,
}

impl Tokenizer {
    pub fn new(model: Arc<Model>, workers: usize) -> Tokenizer {
        Tokenizer { model, workers: Arc::new(Semaphore::new(workers)) }
    }

    /// Runs `work` on a worker. A caller that leaves does not stop work that has begun, which keeps its worker until it ends.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Model) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let gone = |_| Failure::unhealthy("the tokenizer was stopped");
        let worker = self.workers.clone().acquire_owned().await.map_err(gone)?;
        let model = self.model.clone();
        let work = move || {
            let answer = work(&model);
            drop(worker);
            answer
        };
        tokio::task::spawn_blocking(work).await.map_err(task_failed)
    }

    /// Tokenizes texts and pairs, each of which succeeds or fails on its own. Many texts are shared among the workers. When the future
    /// is dropped, chunks that wait for a worker are dropped with it.
    pub async fn encode(
        &self,
        texts: Vec<(String, Option<String>)>,
        options: &EncodeOptions,
    ) -> Result<Vec<Result<Encoding, Error>>, Failure> {
        let length =
            |(text, pair): &(String, Option<String>)| text.len() + pair.as_ref().map_or(0, String::len);
        let short = texts.iter().map(length).sum::<usize>() <= AT_ONCE;
        if short {
            return Ok(encode(&self.model, &texts, options)?);
        }
        let mut texts = texts.into_iter();
        let chunks = std::iter::from_fn(|| {
            let chunk: Vec<_> = texts.by_ref().take(CHUNK).collect();
            (!chunk.is_empty()).then(|| self.encode_chunk(chunk, options.clone()))
        });
        Ok(try_join_all(chunks).await?.into_iter().flatten().collect())
    }

    async fn encode_chunk(
        &self,
        texts: Vec<(String, Option<String>)>,
        options: EncodeOptions,
    ) -> Result<Vec<Result<Encoding, Error>>, Failure> {
        Ok(self.run(move |model| encode(model, &texts, &options)).await??)
    }
}

fn encode(
    model: &Model,
    texts: &[(String, Option<String>)],
    options: &EncodeOptions,
) -> Result<Vec<Result<Encoding, Error>>, Error> {
    let inputs: Vec<Text> = texts.iter().map(text).collect();
    let result = model.tokenize(&inputs, &options.call_options())?;
    Ok((0..inputs.len()).map(|i| encoding(&result, i)).collect())
}

fn text((text, pair): &(String, Option<String>)) -> Text<'_> {
    Text { pair: pair.as_ref().map(|pair| pair.as_bytes()), ..Text::from(text.as_str()) }
}

fn task_failed(error: tokio::task::JoinError) -> Failure {
    Failure::backend(format!("the tokenizer's task failed: {error}"))
}

fn encoding(result: &BatchResult, i: usize) -> Result<Encoding, Error> {
    let tokens = result.tokens(i)?;
    let typed = tokens.type_ids.iter().any(|&id| id != 0);
    Ok(Encoding { ids: tokens.ids.to_vec(), type_ids: typed.then(|| tokens.type_ids.to_vec()) })
}
