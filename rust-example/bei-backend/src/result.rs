use std::borrow::Cow;
use std::time::Duration;

use bei_sys as sys;

use crate::error::{Error, Status};
use crate::ffi::{Outcome, RawResult};

/// A span of a text that a token classifier named. `label` is an index into `labels` of [`crate::Model::info_json`], and with an
/// aggregation into `entity_groups` there; `start` and `end` are code points of prompt + text.
pub use bei_sys::bei_entity as Entity;

/// The answer to a batch: each item succeeded or failed on its own.
///
/// Accessors of item `i` return that item's error where it failed, and an error with [`Status::InvalidArgument`] for what the
/// item did not ask for, or an item that is not there.
#[derive(Debug)]
pub struct BatchResult {
    rows: Vec<f32>,
    columns: usize,
    status: Vec<i32>,
    wanted: Vec<u32>,
    result: RawResult,
}

impl BatchResult {
    pub(crate) fn new(outcome: Outcome, columns: usize, wanted: Vec<u32>) -> BatchResult {
        let Outcome { rows, status, result } = outcome;
        BatchResult { rows, columns, status, wanted, result }
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.status.len()
    }

    /// Whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.status.is_empty()
    }

    /// Why item `i` failed, if it did.
    pub fn item(&self, i: usize) -> Result<(), Error> {
        let Some(&code) = self.status.get(i) else {
            return Err(Error::invalid(format!("item {i} of {}", self.len())));
        };
        match Status::from_code(code) {
            None => Ok(()),
            Some(status) => Err(Error { status, message: without_number(self.result.item_message(i), i) }),
        }
    }

    /// Item `i`'s vector, or class logits.
    pub fn pooled(&self, i: usize) -> Result<&[f32], Error> {
        self.asked(i, sys::BEI_OUTPUT_POOLED, "a pooled vector")?;
        Ok(&self.rows[i * self.columns..(i + 1) * self.columns])
    }

    /// The vectors, or logits, of item `i`'s tokens.
    pub fn token_vectors(&self, i: usize) -> Result<TokenVectors<'_>, Error> {
        self.asked(i, sys::BEI_OUTPUT_TOKEN_VECTORS, "token vectors")?;
        let (rows, columns, data) = self.result.token_vectors(i);
        Ok(TokenVectors { rows, columns, data })
    }

    /// Item `i`'s non-zero vocabulary weights: token ids, ascending, and their weights.
    pub fn sparse(&self, i: usize) -> Result<(&[u32], &[f32]), Error> {
        self.asked(i, sys::BEI_OUTPUT_SPARSE, "vocabulary weights")?;
        Ok(self.result.sparse(i))
    }

    /// Everything that item `i` asked for of [`crate::Model::embed`], as the caller's own.
    pub fn outputs(&self, i: usize) -> Result<ItemOutputs, Error> {
        self.item(i)?;
        let asked = |output| self.wanted[i] & output != 0;
        let paired = |(ids, weights): (&[u32], &[f32])| {
            ids.iter().copied().zip(weights.iter().copied()).collect::<Vec<_>>()
        };
        Ok(ItemOutputs {
            pooled: asked(sys::BEI_OUTPUT_POOLED).then(|| self.pooled(i).map(<[f32]>::to_vec)).transpose()?,
            token_vectors: asked(sys::BEI_OUTPUT_TOKEN_VECTORS)
                .then(|| self.token_vectors(i).map(Rows::from))
                .transpose()?,
            sparse: asked(sys::BEI_OUTPUT_SPARSE).then(|| self.sparse(i).map(paired)).transpose()?,
        })
    }

    /// Item `i`'s tokens.
    pub fn tokens(&self, i: usize) -> Result<Tokens<'_>, Error> {
        self.asked(i, sys::BEI_OUTPUT_TOKENS, "its tokens")?;
        let raw = self.result.tokens(i)?;
        Ok(Tokens {
            ids: raw.ids,
            type_ids: raw.type_ids,
            special: raw.special,
            sequence: raw.sequence,
            starts: raw.starts,
            ends: raw.ends,
            pieces: raw.pieces,
            piece_offsets: raw.piece_offsets,
        })
    }

    /// Item `i`'s entities, in text order, after [`crate::Model::predict_tokens_texts`].
    pub fn entities(&self, i: usize) -> Result<&[Entity], Error> {
        self.item(i)?;
        Ok(self.result.entities(i))
    }

    /// Item `i`'s text, after [`crate::Model::decode`].
    pub fn text(&self, i: usize) -> Result<Cow<'_, str>, Error> {
        self.item(i)?;
        Ok(String::from_utf8_lossy(self.result.text(i)))
    }

    /// Where the call's time went.
    pub fn stats(&self) -> Result<Stats, Error> {
        let stats = self.result.stats()?;
        Ok(Stats {
            total: Duration::from_nanos(stats.total_ns),
            tokenization: Duration::from_nanos(stats.tokenization_ns),
            queue: Duration::from_nanos(stats.queue_ns),
            inference: Duration::from_nanos(stats.inference_ns),
            tokens: stats.tokens,
            runs: stats.runs,
        })
    }

    fn asked(&self, i: usize, output: u32, name: &str) -> Result<(), Error> {
        self.item(i)?;
        if self.wanted[i] & output == 0 {
            return Err(Error::invalid(format!("item {i} did not ask for {name}")));
        }
        Ok(())
    }
}

/// The outputs of one item: those that it asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemOutputs {
    /// One vector.
    pub pooled: Option<Vec<f32>>,
    /// One vector for each token that the model gives one.
    pub token_vectors: Option<Rows>,
    /// Vocabulary weights above zero by token id, ascending.
    pub sparse: Option<Vec<(u32, f32)>>,
}

/// Rows of floats of one width, one after another.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// All numbers, row-major.
    pub data: Vec<f32>,
    /// The width.
    pub columns: usize,
}

impl Rows {
    /// The number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.columns.max(1)
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// The rows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks_exact(self.columns.max(1))
    }
}

impl From<TokenVectors<'_>> for Rows {
    fn from(vectors: TokenVectors) -> Rows {
        Rows { data: vectors.data.to_vec(), columns: vectors.columns }
    }
}

/// The answer to [`crate::Model::embed_spans`]: each text succeeded or failed on its own.
#[derive(Debug)]
pub struct SpanVectors {
    texts: BatchResult,
    cumulative: Vec<u32>,
}

impl SpanVectors {
    pub(crate) fn new(outcome: Outcome, columns: usize, cumulative: Vec<u32>) -> SpanVectors {
        let wanted = vec![0; outcome.status.len()];
        SpanVectors { texts: BatchResult::new(outcome, columns, wanted), cumulative }
    }

    /// The vectors of text `i`'s spans, in their order, or why the text failed.
    pub fn text(&self, i: usize) -> Result<Vec<&[f32]>, Error> {
        self.texts.item(i)?;
        let row = |k: usize| &self.texts.rows[k * self.texts.columns..(k + 1) * self.texts.columns];
        Ok((self.cumulative[i] as usize..self.cumulative[i + 1] as usize).map(row).collect())
    }

    /// As [`SpanVectors::text`], as the caller's own.
    pub fn rows(&self, i: usize) -> Result<Rows, Error> {
        self.texts.item(i)?;
        let columns = self.texts.columns;
        let (first, last) = (self.cumulative[i] as usize, self.cumulative[i + 1] as usize);
        Ok(Rows { data: self.texts.rows[first * columns..last * columns].to_vec(), columns })
    }

    /// Where the call's time went.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.texts.stats()
    }
}

/// Takes "item 3" off the front of a message: whoever asks for item 3 knows, and may have another name for it.
fn without_number(message: String, i: usize) -> String {
    match message.strip_prefix(&format!("item {i}")) {
        Some(rest) if rest.starts_with([':', ' ']) => rest.trim_start_matches([':', ' ']).to_string(),
        _ => message,
    }
}

/// One vector for each token of an item, row-major.
#[derive(Clone, Copy, Debug)]
pub struct TokenVectors<'a> {
    rows: usize,
    columns: usize,
    data: &'a [f32],
}

impl<'a> TokenVectors<'a> {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether the item has no token.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The vectors, in token order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        self.data.chunks_exact(self.columns.max(1))
    }
}

/// The tokens of an item. All slices have one entry for each token.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'a> {
    /// Token ids.
    pub ids: &'a [u32],
    /// Token type ids.
    pub type_ids: &'a [u32],
    /// 1: added by the template, not from the text.
    pub special: &'a [u8],
    /// 0: of the text, 1: of its pair, 255: of neither.
    pub sequence: &'a [u8],
    /// First Unicode code point of the token in prompt + text (or in the pair).
    pub starts: &'a [u32],
    /// One past its last code point; 0, 0 for special tokens.
    pub ends: &'a [u32],
    pieces: &'a [u8],
    piece_offsets: &'a [u32],
}

impl<'a> Tokens<'a> {
    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The vocabulary's spelling of token `k`; empty if there is no such token.
    pub fn piece(&self, k: usize) -> Cow<'a, str> {
        let bytes = match (self.piece_offsets.get(k), self.piece_offsets.get(k + 1)) {
            (Some(&start), Some(&end)) => self.pieces.get(start as usize..end as usize),
            _ => None,
        };
        String::from_utf8_lossy(bytes.unwrap_or_default())
    }
}

/// Where the time of one call went. Stages overlap between items, so they need not add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Entry to return.
    pub total: Duration,
    /// Longest of the items.
    pub tokenization: Duration,
    /// Mean of the items: ready until its run began.
    pub queue: Duration,
    /// Mean of the items: its run.
    pub inference: Duration,
    /// Tokens computed, special ones included.
    pub tokens: u64,
    /// Engine runs that held items of the call.
    pub runs: u64,
}
