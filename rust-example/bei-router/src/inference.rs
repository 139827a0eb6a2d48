//! The way of a request from inputs to raw vectors: admission, tokenizing, queue, batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bei_backend::{ItemOutputs, Outputs, Pool, Task};

use crate::app::App;
use crate::failure::Failure;
use crate::inputs::{Input, Inputs};
use crate::timing::Timing;
use crate::tokenizer::{EncodeOptions, Encoding};
use crate::work::{Context, Outcome, Want, Work};

/// What a route asks for.
pub struct Job {
    pub inputs: Inputs,
    /// The body's field that holds the inputs, for messages.
    pub field: &'static str,
    pub options: EncodeOptions,
    pub finish: Finish,
}

/// What a vector goes through after the model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Finish {
    /// Keep the first numbers only.
    pub dimensions: Option<usize>,
    /// Bring it to length 1.
    pub normalize: bool,
}

impl App {
    /// One vector for each input. All inputs succeed, or the first that failed is the request's error. When the future is
    /// dropped, because the client has gone, inputs that wait are dropped too.
    pub async fn vectors(self: &Arc<App>, job: Job) -> Result<(Vec<Vec<f32>>, Timing), Failure> {
        let finish = job.finish;
        self.counted(job, Outputs::POOLED, move |outputs| match outputs.pooled {
            Some(vector) => finished(vector, finish),
            None => Err(Failure::backend("the model gave something else than one vector")),
        })
        .await
    }

    /// One vector for each token of each input; otherwise as `vectors`.
    pub async fn token_vectors(self: &Arc<App>, job: Job) -> Result<(Vec<Vec<Vec<f32>>>, Timing), Failure> {
        let finish = job.finish;
        self.counted(job, Outputs::TOKEN_VECTORS, move |outputs| match outputs.token_vectors {
            Some(rows) => rows.iter().map(|row| finished(row.to_vec(), finish)).collect(),
            None => Err(Failure::backend("the model gave something else than vectors of tokens")),
        })
        .await
    }

    /// Weights above zero by token id, ascending, for each input; otherwise as `vectors`.
    pub async fn sparse_weights(
        self: &Arc<App>,
        job: Job,
    ) -> Result<(Vec<Vec<(u32, f32)>>, Timing), Failure> {
        self.counted(job, Outputs::SPARSE, |outputs| match outputs.sparse {
            Some(entries) => Ok(entries),
            None => Err(Failure::backend("the model gave something else than sparse weights")),
        })
        .await
    }

    async fn counted<T>(
        self: &Arc<App>,
        job: Job,
        outputs: Outputs,
        finish: impl Fn(ItemOutputs) -> Result<T, Failure>,
    ) -> Result<(Vec<T>, Timing), Failure> {
        let (method, n) = (if job.inputs.single { "single" } else { "batch" }, job.inputs.items.len());
        self.metrics.request(method);
        let answer = self.embed(job, outputs, finish).await;
        match &answer {
            Ok((_, timing)) => self.metrics.success(method, n, timing),
            Err(failure) => self.metrics.failure(failure),
        }
        answer
    }

    async fn embed<T>(
        self: &Arc<App>,
        job: Job,
        outputs: Outputs,
        finish: impl Fn(ItemOutputs) -> Result<T, Failure>,
    ) -> Result<(Vec<T>, Timing), Failure> {
        let start = Instant::now();
        self.check(&job, outputs)?;
        let n = job.inputs.items.len();
        let context = Context { single: job.inputs.single, ..Context::default() };
        let name = job.inputs.names(job.field);
        let characters = job.inputs.items.iter().map(Input::characters).sum();
        let admission = self.admit(n, characters, &context)?;
        let encodings = self.encode(job.inputs.items, &job.options).await?;
        let tokenization = start.elapsed();

        let (mut works, mut tokens) = (Vec::with_capacity(n), 0);
        for (i, encoding) in encodings.into_iter().enumerate() {
            let Encoding { ids, type_ids } = encoding.map_err(|failure| failure.of(&name(i)))?;
            tokens += ids.len();
            works.push(Work::tokens(Want::Embed(outputs), ids, type_ids));
        }
        let answers =
            self.compute(works, admission, &context).await.map_err(|refusal| refusal.named(&name))?;

        let (mut queue, mut inference, mut items) = (Duration::ZERO, Duration::ZERO, Vec::with_capacity(n));
        for (i, answer) in answers.into_iter().enumerate() {
            queue += answer.queue / n as u32;
            inference += answer.inference / n as u32;
            let item = match answer.into_outcome() {
                Outcome::Embedding(outputs) => finish(outputs),
                _ => Err(Failure::backend("the model gave something else than an embedding")),
            };
            items.push(item.map_err(|failure| failure.of(&name(i)))?);
        }
        let timing = Timing { start, characters, tokens, tokenization, queue, inference };
        Ok((items, timing))
    }

    fn check(&self, job: &Job, outputs: Outputs) -> Result<(), Failure> {
        self.check_batch_size(job.inputs.items.len(), job.field)?;
        self.check_dimensions(job.finish.dimensions)?;
        let info = self.model.info();
        match info.task {
            Some(Task::Embedding) if info.pool == Some(Pool::Splade) && outputs == Outputs::TOKEN_VECTORS => {
                Err(Failure::model_type("a SPLADE model computes no embeddings of single tokens"))
            }
            Some(Task::Embedding) if outputs == Outputs::SPARSE && !self.gives_sparse() => {
                Err(Failure::model_type("the model computes no sparse embeddings"))
            }
            Some(Task::Embedding) => Ok(()),
            _ => Err(Failure::model_type("the model is a classifier, which computes no embeddings")),
        }
    }

    fn gives_sparse(&self) -> bool {
        self.model_json["outputs"]
            .as_array()
            .is_some_and(|outputs| outputs.iter().any(|output| output == "sparse"))
    }

    /// Checks the number of inputs in the body's field `field`.
    pub fn check_batch_size(&self, n: usize, field: &str) -> Result<(), Failure> {
        let limit = self.limits.max_client_batch_size;
        match n {
            0 => Err(Failure::empty(format!("{field} is empty"))),
            n if n > limit => Err(Failure::batch_size(n, limit)),
            _ => Ok(()),
        }
    }

    /// Tokenizes texts and checks token ids, input by input, in the inputs' order.
    async fn encode(
        &self,
        inputs: Vec<Input>,
        options: &EncodeOptions,
    ) -> Result<Vec<Result<Encoding, Failure>>, Failure> {
        let (mut texts, mut ids) = (Vec::with_capacity(inputs.len()), Vec::with_capacity(inputs.len()));
        for input in inputs {
            match input {
                Input::Text(text) => {
                    texts.push(text);
                    ids.push(None);
                }
                Input::Ids(list) => ids.push(Some(self.check_ids(list, options))),
            }
        }
        let mut of_texts =
            if texts.is_empty() { vec![] } else { self.tokenizer.encode(texts, options).await? }.into_iter();
        let mut of_text = || match of_texts.next() {
            Some(encoding) => self.check_length(encoding?),
            None => Err(Failure::backend("the tokenizer gave too few answers")),
        };
        Ok(ids.into_iter().map(|ids| ids.unwrap_or_else(&mut of_text)).collect())
    }

    /// A text that may not be truncated can have any length.
    fn check_length(&self, encoding: Encoding) -> Result<Encoding, Failure> {
        let (length, limit) = (encoding.ids.len(), self.model.info().max_length);
        if length > limit {
            return Err(Failure::validation(format!("{length} tokens are more than the limit of {limit}")));
        }
        Ok(encoding)
    }

    /// Token ids are the client's, with the special tokens that it wants. They are never cut, as nobody here knows which of
    /// them the model cannot do without.
    fn check_ids(&self, ids: Vec<u32>, options: &EncodeOptions) -> Result<Encoding, Failure> {
        let info = self.model.info();
        let (limit, vocabulary) = (info.max_length, info.vocab_size);
        if options.prompt_name.is_some() {
            return Err(Failure::validation("prompt_name needs a text, and these are token ids"));
        }
        if ids.is_empty() {
            return Err(Failure::empty("no token ids"));
        }
        if ids.len() > limit {
            let length = ids.len();
            return Err(Failure::validation(format!(
                "{length} token ids are more than the limit of {limit}; token ids are not truncated"
            )));
        }
        match ids.iter().position(|&id| id as usize >= vocabulary) {
            Some(k) => Err(Failure::validation(format!(
                "token id {} at position {k} is not below the vocabulary's size, {vocabulary}",
                ids[k]
            ))),
            None => Ok(Encoding { ids, type_ids: None }),
        }
    }
}

/// Cuts a vector to its first `dimensions` numbers and brings it to length 1, as the family's router does: in f64, and
/// never to NaN.
fn finished(mut vector: Vec<f32>, finish: Finish) -> Result<Vec<f32>, Failure> {
    if let Some(dimensions) = finish.dimensions {
        vector.truncate(dimensions);
    }
    let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    if !square.is_finite() {
        return Err(Failure::backend("the vector holds NaN or infinity"));
    }
    if finish.normalize {
        if square == 0.0 {
            return Err(Failure::backend("a vector of zeros cannot be normalised"));
        }
        let scale = 1.0 / square.sqrt();
        for x in &mut vector {
            *x = (f64::from(*x) * scale) as f32;
        }
    }
    Ok(vector)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(vector: Vec<f32>, dimensions: Option<usize>, normalize: bool) -> Result<Vec<f32>, Failure> {
        finished(vector, Finish { dimensions, normalize })
    }

    #[test]
    fn vectors_are_cut_before_they_are_normalised() {
        assert_eq!(finish(vec![3.0, 4.0, 12.0], Some(2), true).unwrap(), [0.6, 0.8]);
        assert_eq!(finish(vec![3.0, 4.0], None, false).unwrap(), [3.0, 4.0]);
        let tiny = finish(vec![1e-40, 0.0], None, true).unwrap();
        assert_eq!(tiny, [1.0, 0.0]);
        let huge = finish(vec![3e38, 3e38], None, true).unwrap();
        assert!((huge[0] - 0.5f32.sqrt()).abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_normalised_is_an_error() {
        for vector in [vec![0.0, 0.0], vec![f32::NAN, 1.0], vec![f32::INFINITY, 1.0], vec![]] {
            assert_eq!(finish(vector, None, true).unwrap_err().status, 424);
        }
        assert_eq!(finish(vec![f32::NAN], None, false).unwrap_err().status, 424);
        assert_eq!(finish(vec![0.0, 1.0], Some(1), true).unwrap_err().status, 424);
    }
}
