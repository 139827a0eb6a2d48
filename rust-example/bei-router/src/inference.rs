//! The way of a request from inputs to finished numbers: checks, admission, tokenizing, [`App::compute`], finishing. HTTP and gRPC
//! share it, so that no rule is written twice.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bei_backend::{Aggregation, ItemOutputs, Outputs, Pool, Rows, Span, Task};

use crate::app::App;
use crate::failure::Failure;
use crate::finish::{Finish, finite, probabilities};
use crate::inputs::{Input, Inputs};
use crate::metrics::Kind;
use crate::timing::Timing;
use crate::tokenizer::{EncodeOptions, Encoding};
use crate::work::{Context, Entities, Outcome, Want, Work};

/// What a route asks for.
pub struct Job {
    pub inputs: Inputs,
    /// The body's field that holds the inputs, for messages.
    pub field: &'static str,
    /// What the first input is called where it stands apart; the others are then counted from 0.
    pub first: Option<&'static str>,
    pub options: EncodeOptions,
}

impl Job {
    pub fn new(inputs: Inputs, field: &'static str, options: EncodeOptions) -> Job {
        Job { inputs, field, first: None, options }
    }

    /// How errors name input i.
    fn names(&self) -> impl Fn(usize) -> String + use<> {
        let (field, single, first) = (self.field, self.inputs.single, self.first);
        move |i| match (first, i.checked_sub(1)) {
            (Some(first), None) => first.to_string(),
            (Some(_), Some(i)) => format!("{field}[{i}]"),
            (None, _) if single => field.to_string(),
            (None, _) => format!("{field}[{i}]"),
        }
    }
}

/// Of each input something, and what the request cost.
pub type Answered<T> = Result<(Vec<T>, Timing), Failure>;

/// Answers that are finished before others get their turn on this thread: a request may have any number of inputs.
const YIELD: usize = 256;

/// A defect that compiles: an outcome of another kind than was wanted.
pub(crate) fn unexpected() -> Failure {
    Failure::backend("a defect of the server: the model gave something else than was asked for")
}

impl App {
    /// One vector for each input. All inputs succeed, or the first that failed is the request's error. When the future is
    /// dropped, because the client has gone, inputs that wait are dropped too.
    pub async fn vectors(&self, job: Job, finish: Finish, context: Context) -> Answered<Vec<f32>> {
        let check = || self.check_dimensions(finish.dimensions);
        let vector = |outputs: ItemOutputs| finish.vector(outputs.pooled.ok_or_else(unexpected)?);
        self.embedded(job, Outputs::POOLED, context, check, vector).await
    }

    /// One raw vector for each token of each input; otherwise as [`App::vectors`].
    pub async fn token_vectors(&self, job: Job, context: Context) -> Answered<Rows> {
        let rows = |outputs: ItemOutputs| {
            let rows = outputs.token_vectors.ok_or_else(unexpected)?;
            finite(&rows.data, "vectors of tokens")?;
            Ok(rows)
        };
        self.embedded(job, Outputs::TOKEN_VECTORS, context, || Ok(()), rows).await
    }

    /// Weights above zero by token id, ascending, for each input; otherwise as [`App::vectors`].
    pub async fn sparse_weights(&self, job: Job, context: Context) -> Answered<Vec<(u32, f32)>> {
        let weights = |outputs: ItemOutputs| checked_weights(outputs.sparse.ok_or_else(unexpected)?);
        self.embedded(job, Outputs::SPARSE, context, || Ok(()), weights).await
    }

    /// Scores of the labels, in the labels' order: raw logits, or probabilities. Otherwise as [`App::vectors`].
    pub async fn scores(&self, job: Job, raw: bool, context: Context) -> Answered<Vec<f32>> {
        let check = || match self.model.info().task {
            Some(Task::Classifier) => Ok(()),
            _ => Err(Failure::model_type("the model is no classifier, which computes scores of labels")),
        };
        let finish = |outcome| match outcome {
            Outcome::Logits(mut scores) => {
                finite(&scores, "scores")?;
                if !raw {
                    probabilities(&mut scores);
                }
                Ok(scores)
            }
            _ => Err(unexpected()),
        };
        self.answered(Kind::Predict, job, context, check, |_| Want::Logits, finish).await
    }

    /// Entities, tokens and raw logits of each text; otherwise as [`App::vectors`].
    pub async fn entities(&self, job: Job, aggregation: Aggregation, context: Context) -> Answered<Entities> {
        let check = || match self.model.info().task {
            Some(Task::TokenClassifier) => Ok(()),
            _ => Err(Failure::model_type("the model is no token classifier, which scores each token")),
        };
        let finish = |outcome| match outcome {
            Outcome::Entities(entities) => {
                finite(&entities.logits.data, "scores")?;
                Ok(entities)
            }
            _ => Err(unexpected()),
        };
        self.answered(Kind::Predict, job, context, check, |_| Want::Entities(aggregation), finish).await
    }

    /// Any union of outputs, from one pass; token vectors and weights are raw, pooled vectors are finished.
    pub async fn outputs(
        &self,
        job: Job,
        outputs: Outputs,
        finish: Finish,
        context: Context,
    ) -> Answered<ItemOutputs> {
        let check = || self.check_dimensions(finish.dimensions);
        let finished = |mut item: ItemOutputs| {
            item.pooled = item.pooled.map(|vector| finish.vector(vector)).transpose()?;
            item.sparse = item.sparse.map(checked_weights).transpose()?;
            if let Some(rows) = &item.token_vectors {
                finite(&rows.data, "vectors of tokens")?;
            }
            Ok(item)
        };
        self.embedded(job, outputs, context, check, finished).await
    }

    /// A finished vector for each span of each text. `spans` has as many entries as the job has inputs.
    pub async fn spans(
        &self,
        job: Job,
        spans: Vec<Vec<Span>>,
        finish: Finish,
        context: Context,
    ) -> Answered<Vec<Vec<f32>>> {
        let check = || {
            self.check_embeds(Outputs::POOLED)?;
            self.check_dimensions(finish.dimensions)
        };
        let finished = |outcome| match outcome {
            Outcome::Spans(rows) => rows.iter().map(|row| finish.vector(row.to_vec())).collect(),
            _ => Err(unexpected()),
        };
        let want = |i: usize| Want::Spans(spans.get(i).cloned().unwrap_or_default());
        self.answered(Kind::Embed, job, context, check, want, finished).await
    }

    async fn embedded<T>(
        &self,
        job: Job,
        outputs: Outputs,
        context: Context,
        check: impl Fn() -> Result<(), Failure>,
        finish: impl Fn(ItemOutputs) -> Result<T, Failure>,
    ) -> Answered<T> {
        let check = || check().and_then(|()| self.check_embeds(outputs));
        let finish = |outcome| match outcome {
            Outcome::Embedding(outputs) => finish(outputs),
            _ => Err(unexpected()),
        };
        self.answered(Kind::Embed, job, context, check, |_| Want::Embed(outputs), finish).await
    }

    async fn answered<T>(
        &self,
        kind: Kind,
        job: Job,
        mut context: Context,
        check: impl Fn() -> Result<(), Failure>,
        want: impl Fn(usize) -> Want,
        finish: impl Fn(Outcome) -> Result<T, Failure>,
    ) -> Answered<T> {
        context.single = job.inputs.single;
        let (single, n) = (context.single, job.inputs.items.len());
        self.metrics.request(single);
        let checked = self.check_batch_size(n, job.field).and_then(|()| check());
        let answer = match checked {
            Ok(()) => self.computed(kind, job, context, want, finish).await,
            Err(failure) => Err(failure),
        };
        match &answer {
            Ok((_, timing)) => self.metrics.success(kind, single, n, timing),
            Err(failure) => self.metrics.failure(failure),
        }
        answer
    }

    async fn computed<T>(
        &self,
        kind: Kind,
        job: Job,
        context: Context,
        want: impl Fn(usize) -> Want,
        finish: impl Fn(Outcome) -> Result<T, Failure>,
    ) -> Answered<T> {
        let (start, n) = (context.arrival, job.inputs.items.len());
        let name = job.names();
        let characters = job.inputs.items.iter().map(Input::characters).sum();
        let admission = match context.waits {
            true => self.admit_in_turn(n, characters, &context).await?,
            false => self.admit(n, characters, &context)?,
        };
        self.metrics.inputs(kind, n);
        let tokenizing = Instant::now();
        let works = self.works(job, want).await?;
        let tokenization = tokenizing.elapsed();
        let tokens = works.iter().map(Work::length).sum();
        let answers =
            self.compute(works, admission, &context).await.map_err(|refusal| refusal.named(&name))?;

        let finishing = Instant::now();
        let (mut queue, mut inference, mut items) = (Duration::ZERO, Duration::ZERO, Vec::with_capacity(n));
        for (i, answer) in answers.into_iter().enumerate() {
            queue += answer.queue / n as u32;
            inference += answer.inference / n as u32;
            items.push(finish(answer.into_outcome()).map_err(|failure| failure.of(&name(i)))?);
            if i % YIELD == YIELD - 1 {
                tokio::task::yield_now().await;
            }
        }
        self.metrics.stages.finish.observe(finishing.elapsed().as_secs_f64());
        Ok((items, Timing { start, characters, tokens, tokenization, queue, inference }))
    }

    /// What the queue takes of a job. Texts whose tokens the library itself must see are tokenized here all the same: their cost
    /// is known then, and what is wrong with them is told before they wait.
    async fn works(&self, job: Job, want: impl Fn(usize) -> Want) -> Result<Vec<Work>, Failure> {
        let name = job.names();
        let Job { inputs, options, .. } = job;
        let texts: Vec<Option<String>> = (inputs.items.iter().enumerate())
            .map(|(i, input)| match (want(i), input) {
                (Want::Embed(_) | Want::Logits, _) => Ok(None),
                (_, Input::Text(text)) => Ok(Some(text.clone())),
                _ => Err(Failure::validation("expected a text").of(&name(i))),
            })
            .collect::<Result<_, _>>()?;
        let encodings = self.encode(inputs.items, &options).await?;
        let options = Arc::new(options);
        let mut works = Vec::with_capacity(encodings.len());
        for (i, (encoding, text)) in encodings.into_iter().zip(texts).enumerate() {
            let Encoding { ids, type_ids } = encoding.map_err(|failure| failure.of(&name(i)))?;
            works.push(match text {
                Some(text) => Work::text(want(i), text, options.clone(), ids.len()),
                None => Work::tokens(want(i), ids, type_ids),
            });
        }
        Ok(works)
    }

    fn check_embeds(&self, outputs: Outputs) -> Result<(), Failure> {
        let info = self.model.info();
        match info.task {
            Some(Task::Embedding) => {}
            Some(Task::TokenClassifier) => {
                return Err(Failure::model_type(
                    "the model is a token classifier, which computes no embeddings",
                ));
            }
            _ => return Err(Failure::model_type("the model is a classifier, which computes no embeddings")),
        }
        if info.pool == Some(Pool::Splade) && outputs.contains(Outputs::TOKEN_VECTORS) {
            return Err(Failure::model_type("a SPLADE model computes no embeddings of single tokens"));
        }
        if outputs.contains(Outputs::SPARSE) && !self.gives_sparse() {
            return Err(Failure::model_type("the model computes no sparse embeddings"));
        }
        Ok(())
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
}

fn checked_weights(weights: Vec<(u32, f32)>) -> Result<Vec<(u32, f32)>, Failure> {
    match weights.iter().all(|(_, weight)| weight.is_finite()) {
        true => Ok(weights),
        false => Err(Failure::backend("sparse weights hold NaN or infinity")),
    }
}
