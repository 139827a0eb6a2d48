use std::time::Duration;

use bei_sys as sys;
use serde_json::Value;

use crate::batch::{Span, Text, TokenBatch};
use crate::error::{Error, Status};
use crate::ffi::{BatchCall, RawBackend, TextCall};
use crate::info::Info;
use crate::options::{CallOptions, Options};
use crate::result::{BatchResult, SpanVectors};

/// An open model: `bei_handle`. Several may be open; dropping one closes it.
#[derive(Debug)]
pub struct Model {
    raw: RawBackend,
    info: Info,
}

// The library allows any call on any thread, and handles and results are integers that it checks, so that the compiler
// derives both traits. This fails to compile should a field ever take them away.
const _: () = {
    const fn send_and_sync<T: Send + Sync>() {}
    send_and_sync::<Model>();
    send_and_sync::<BatchResult>();
    send_and_sync::<crate::CancelToken>();
};

impl Model {
    /// Opens a model on an engine and warms it up, which may take seconds to minutes: `bei_init`.
    pub fn open(options: &Options) -> Result<Model, Error> {
        let options = serde_json::to_string(options)
            .map_err(|error| Error::invalid(format!("options are no JSON: {error}")))?;
        let raw = RawBackend::open(&options)?;
        let info = raw.info()?.into();
        Ok(Model { raw, info })
    }

    /// Refuses new calls, lets those under way finish for `timeout` and closes the model: `bei_shutdown`. Calls afterwards
    /// get [`Status::InvalidHandle`]. An error with [`Status::Timeout`] says that some calls were cut off.
    pub fn shutdown(&self, timeout: Duration) -> Result<(), Error> {
        self.raw.shutdown(timeout)
    }

    /// Limits and shapes: `bei_get_info`.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Everything known of the model, as JSON: `bei_info_json`.
    pub fn info_json(&self) -> Result<Value, Error> {
        let result = self.raw.info_json()?;
        serde_json::from_slice(result.text(0))
            .map_err(|error| Error::new(Status::Internal, format!("bei_info_json is no JSON: {error}")))
    }

    /// All metrics in Prometheus' text format: `bei_metrics`.
    pub fn metrics(&self) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(self.raw.metrics()?.text(0)).into_owned())
    }

    /// Whether the model works: `bei_health`. Deep runs one token through the engine; otherwise it takes microseconds.
    pub fn health(&self, deep: bool, options: &CallOptions) -> Result<(), Error> {
        self.raw.health(deep, options)
    }

    /// Computes embeddings of token sequences: `bei_embed`.
    pub fn embed(&self, batch: &TokenBatch, options: &CallOptions) -> Result<BatchResult, Error> {
        let columns = self.columns(options);
        let outcome = self.raw.call_batch(BatchCall::Embed, batch, options, columns)?;
        Ok(BatchResult::new(outcome, columns, batch.wanted()))
    }

    /// Computes raw class logits of token sequences: `bei_predict`. [`BatchResult::pooled`] has them.
    pub fn predict(&self, batch: &TokenBatch, options: &CallOptions) -> Result<BatchResult, Error> {
        let columns = self.info.labels;
        let outcome = self.raw.call_batch(BatchCall::Predict, batch, options, columns)?;
        Ok(BatchResult::new(outcome, columns, batch.wanted()))
    }

    /// Computes raw logits of every token: `bei_predict_tokens`. [`BatchResult::token_vectors`] has them.
    pub fn predict_tokens(&self, batch: &TokenBatch, options: &CallOptions) -> Result<BatchResult, Error> {
        let outcome = self.raw.call_batch(BatchCall::PredictTokens, batch, options, 0)?;
        Ok(BatchResult::new(outcome, 0, batch.wanted()))
    }

    /// Tokenizes texts and computes their embeddings: `bei_embed_texts`.
    pub fn embed_texts(&self, texts: &[Text], options: &CallOptions) -> Result<BatchResult, Error> {
        let pooled = texts.iter().any(|text| text.outputs.0 & sys::BEI_OUTPUT_POOLED != 0);
        let columns = if pooled { self.columns(options) } else { 0 };
        let outcome = self.raw.call_texts(TextCall::Embed, texts, options, columns)?;
        Ok(BatchResult::new(outcome, columns, texts.iter().map(|text| text.outputs.0).collect()))
    }

    /// Computes a vector for each span of each text, from one forward pass over the whole text: `bei_embed_spans`. Text i has
    /// the spans `cumulative[i] .. cumulative[i + 1]`; spans may overlap.
    pub fn embed_spans(
        &self,
        texts: &[Text],
        spans: &[Span],
        cumulative: &[u32],
        options: &CallOptions,
    ) -> Result<SpanVectors, Error> {
        let columns = self.columns(options);
        let outcome = self.raw.embed_spans(texts, spans, cumulative, options, columns)?;
        Ok(SpanVectors::new(outcome, columns, cumulative.to_vec()))
    }

    /// Tokenizes texts or pairs and computes their class logits: `bei_predict_texts`. [`BatchResult::pooled`] has them.
    pub fn predict_texts(&self, texts: &[Text], options: &CallOptions) -> Result<BatchResult, Error> {
        let columns = self.info.labels;
        let outcome = self.raw.call_texts(TextCall::Predict, texts, options, columns)?;
        let wanted = texts.iter().map(|text| text.outputs.0 | sys::BEI_OUTPUT_POOLED).collect();
        Ok(BatchResult::new(outcome, columns, wanted))
    }

    /// Tokenizes texts and names their spans: `bei_predict_tokens_texts`. Entities, token vectors (logits) and tokens are
    /// there for each item that is ok. A pair is an error.
    pub fn predict_tokens_texts(&self, texts: &[Text], options: &CallOptions) -> Result<BatchResult, Error> {
        let outcome = self.raw.call_texts(TextCall::PredictTokens, texts, options, 0)?;
        let wanted = sys::BEI_OUTPUT_TOKEN_VECTORS | sys::BEI_OUTPUT_TOKENS;
        Ok(BatchResult::new(outcome, 0, vec![wanted; texts.len()]))
    }

    /// Gives the tokens of each text, whatever outputs it asks for: `bei_tokenize`. It waits for no engine.
    pub fn tokenize(&self, texts: &[Text], options: &CallOptions) -> Result<BatchResult, Error> {
        let outcome = self.raw.call_texts(TextCall::Tokenize, texts, options, 0)?;
        Ok(BatchResult::new(outcome, 0, vec![sys::BEI_OUTPUT_TOKENS; texts.len()]))
    }

    /// Turns token ids back into texts: `bei_decode`. Item i has the ids `cumulative_lengths[i] .. cumulative_lengths[i + 1]`.
    pub fn decode(
        &self,
        ids: &[u32],
        cumulative_lengths: &[u32],
        options: &CallOptions,
    ) -> Result<BatchResult, Error> {
        let outcome = self.raw.decode(ids, cumulative_lengths, options)?;
        let wanted = vec![0; outcome.status.len()];
        Ok(BatchResult::new(outcome, 0, wanted))
    }

    /// The width of a pooled row under `options`. The library refuses more dimensions than there are, so that the buffer
    /// need not have room for them.
    fn columns(&self, options: &CallOptions) -> usize {
        match options.dimensions as usize {
            0 => self.info.dimensions,
            cut => cut.min(self.info.dimensions),
        }
    }
}
