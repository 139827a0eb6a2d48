//! Batches as calls of the library: packing works, and cutting its results into outcomes.

use bei_backend::{
    BatchResult, CallOptions, Error, ItemOutputs, Model, Outputs, Pool, Span, SpanVectors, Status, Task,
    Text, TokenBatch,
};

use crate::tokenizer::EncodeOptions;
use crate::work::{Entities, Outcome, Payload, Piece, Want, Work};

impl Work {
    /// Whether both can be in one call.
    pub fn joins(&self, other: &Work) -> bool {
        match (&self.want, &other.want) {
            (Want::Embed(_), Want::Embed(_)) | (Want::Logits, Want::Logits) => {}
            (Want::Entities(a), Want::Entities(b)) if a == b => {}
            (Want::Spans(_), Want::Spans(_)) => {}
            _ => return false,
        }
        match (&self.payload, &other.payload) {
            (Payload::Tokens { .. }, Payload::Tokens { .. }) => true,
            (Payload::Text { options: a, .. }, Payload::Text { options: b, .. }) => a == b,
            _ => false,
        }
    }
}

/// What a call gave, from which outcomes are cut.
#[derive(Debug)]
pub enum Called {
    /// Of the other wants.
    Batch {
        result: BatchResult,
        /// Of a SPLADE model, whose pooled vector is its weights with the zeros between them.
        vocabulary: Option<usize>,
    },
    /// Of [`Want::Spans`].
    Spans(SpanVectors),
    /// Of a scripted device.
    #[cfg(test)]
    Ready(Vec<Result<Outcome, Error>>),
}

impl Called {
    /// The outcome of the call's work `i`, or its own failure.
    pub fn outcome(&self, i: usize, work: &Work) -> Result<Outcome, Error> {
        match self {
            Called::Spans(result) => result.rows(i).map(Outcome::Spans),
            Called::Batch { result, vocabulary } => match work.want {
                Want::Entities(_) => entities(result, i),
                Want::Logits => Ok(Outcome::Logits(result.pooled(i)?.to_vec())),
                Want::Embed(wanted) => embedding(result.outputs(i)?, wanted, *vocabulary),
                Want::Spans(_) => Err(impossible(work)),
            },
            #[cfg(test)]
            Called::Ready(outcomes) => outcomes[i].clone(),
        }
    }
}

/// Computes works that join each other. An error concerns the call as a whole.
pub fn run(model: &Model, packed: &mut Packed, works: &[&Work]) -> Result<Called, Error> {
    let batch = |result| Called::Batch { result, vocabulary: None };
    let Some(first) = works.first() else {
        let message = "a batch without works".to_string();
        return Err(Error { status: Status::InvalidArgument, message });
    };
    match (&first.want, &first.payload) {
        (Want::Entities(aggregation), Payload::Text { options, .. }) => {
            let options = CallOptions { aggregation: *aggregation, ..call_options(options) };
            model.predict_tokens_texts(&texts(works), &options).map(batch)
        }
        (Want::Spans(_), Payload::Text { options, .. }) => {
            let (spans, cumulative) = spans(works);
            let result = model.embed_spans(&texts(works), &spans, &cumulative, &call_options(options))?;
            Ok(Called::Spans(result))
        }
        (Want::Logits, Payload::Tokens { .. }) => {
            packed.fill(works, false);
            model.predict(&packed.batch(), &watched()).map(batch)
        }
        (Want::Embed(_), Payload::Tokens { .. }) => {
            let splade = model.info().pool == Some(Pool::Splade);
            packed.fill(works, splade);
            let options = CallOptions { normalize: Some(false), ..watched() };
            // Token vectors of a token classifier are its logits.
            let result = match model.info().task {
                Some(Task::TokenClassifier) => model.predict_tokens(&packed.batch(), &options)?,
                _ => model.embed(&packed.batch(), &options)?,
            };
            Ok(Called::Batch { result, vocabulary: splade.then_some(model.info().vocab_size) })
        }
        _ => Err(impossible(first)),
    }
}

fn impossible(work: &Work) -> Error {
    let message = format!("{:?} cannot be computed of this kind of input", work.want);
    Error { status: Status::InvalidArgument, message }
}

/// For a batch of tokens: the scheduler gives up calls that do not come back.
fn watched() -> CallOptions<'static> {
    CallOptions { caller_runs: Some(true), ..CallOptions::formed() }
}

/// Raw vectors, as routes cut and normalise them.
fn call_options(options: &EncodeOptions) -> CallOptions<'_> {
    CallOptions { normalize: Some(false), dynamic_batching: Some(false), ..options.call_options() }
}

fn texts<'a>(works: &[&'a Work]) -> Vec<Text<'a>> {
    let text = |work: &&'a Work| match &work.payload {
        Payload::Text { text, .. } => Text::from(text.as_str()),
        Payload::Tokens { .. } => Text::from(""), // does not join a text
    };
    works.iter().map(text).collect()
}

fn spans(works: &[&Work]) -> (Vec<Span>, Vec<u32>) {
    let (mut all, mut cumulative) = (Vec::new(), vec![0]);
    for work in works {
        if let Want::Spans(spans) = &work.want {
            all.extend_from_slice(spans);
        }
        cumulative.push(all.len() as u32);
    }
    (all, cumulative)
}

fn entities(result: &BatchResult, i: usize) -> Result<Outcome, Error> {
    let (entities, tokens) = (result.entities(i)?.to_vec(), result.tokens(i)?);
    let piece = |k| Piece {
        id: tokens.ids[k],
        text: tokens.piece(k).into_owned(),
        special: tokens.special[k] != 0,
        start: tokens.starts[k],
        end: tokens.ends[k],
    };
    let logits = result.token_vectors(i)?.into();
    Ok(Outcome::Entities(Entities { entities, tokens: (0..tokens.len()).map(piece).collect(), logits }))
}

fn embedding(mut outputs: ItemOutputs, wanted: Outputs, vocabulary: Option<usize>) -> Result<Outcome, Error> {
    let Some(vocabulary) = vocabulary else { return Ok(Outcome::Embedding(outputs)) };
    if wanted.contains(Outputs::POOLED) {
        let mut dense = vec![0.0; vocabulary];
        for &(id, weight) in outputs.sparse.iter().flatten() {
            if let Some(entry) = dense.get_mut(id as usize) {
                *entry = weight;
            }
        }
        outputs.pooled = Some(dense);
    }
    if !wanted.contains(Outputs::SPARSE) {
        outputs.sparse = None;
    }
    Ok(Outcome::Embedding(outputs))
}

/// The tokens of a batch's works, one after another. Its memory is used again and again.
#[derive(Debug, Default)]
pub struct Packed {
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
    typed: bool,
    cumulative_seq_lengths: Vec<u32>,
    pooled_indices: Vec<u32>,
    raw_indices: Vec<u32>,
    sparse_indices: Vec<u32>,
}

impl Packed {
    /// `splade`: pooled vectors are made of sparse weights.
    fn fill(&mut self, works: &[&Work], splade: bool) {
        let lists = [&mut self.input_ids, &mut self.token_type_ids, &mut self.cumulative_seq_lengths];
        for list in lists {
            list.clear();
        }
        for list in [&mut self.pooled_indices, &mut self.raw_indices, &mut self.sparse_indices] {
            list.clear();
        }
        self.typed =
            works.iter().any(|work| matches!(&work.payload, Payload::Tokens { type_ids: Some(_), .. }));
        self.cumulative_seq_lengths.push(0);
        for (i, work) in (0..).zip(works) {
            if let Payload::Tokens { ids, type_ids } = &work.payload {
                self.input_ids.extend_from_slice(ids);
                match type_ids {
                    Some(type_ids) => self.token_type_ids.extend_from_slice(type_ids),
                    None if self.typed => self.token_type_ids.resize(self.input_ids.len(), 0),
                    None => {}
                }
            }
            self.cumulative_seq_lengths.push(self.input_ids.len() as u32);
            let wanted = match work.want {
                Want::Embed(outputs) => outputs,
                _ => Outputs::POOLED,
            };
            let pooled = wanted.contains(Outputs::POOLED);
            if pooled && !splade {
                self.pooled_indices.push(i);
            }
            if wanted.contains(Outputs::TOKEN_VECTORS) {
                self.raw_indices.push(i);
            }
            if wanted.contains(Outputs::SPARSE) || (pooled && splade) {
                self.sparse_indices.push(i);
            }
        }
    }

    fn batch(&self) -> TokenBatch<'_> {
        TokenBatch {
            input_ids: &self.input_ids,
            token_type_ids: self.typed.then_some(self.token_type_ids.as_slice()),
            cumulative_seq_lengths: &self.cumulative_seq_lengths,
            pooled_indices: &self.pooled_indices,
            raw_indices: &self.raw_indices,
            sparse_indices: &self.sparse_indices,
            ..TokenBatch::default()
        }
    }
}
