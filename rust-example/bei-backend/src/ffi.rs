//! The boundary: every call of libbei.so and every `unsafe` block of this crate. The functions here take and give plain
//! Rust values, and have checked every length that the library cannot see; what they return owns what it points to.

use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::slice;
use std::time::Duration;

use bei_sys as sys;

use crate::batch::{Span, Text, TokenBatch};
use crate::error::{Error, Status};
use crate::options::{CallOptions, LogLevel};
use crate::raw::{mut_pointer, pointer, raw_batch, raw_options, raw_text, text_pointer};

/// The interface version of the loaded library.
pub fn api_version() -> u32 {
    // SAFETY: takes nothing and returns a number.
    unsafe { sys::bei_api_version() }
}

/// The library's version, "1.2.3".
pub fn version() -> &'static str {
    // SAFETY: the library returns a static C string.
    unsafe { static_text(sys::bei_version()) }
}

/// The JSON Schema (draft 2020-12) of [`crate::Options`].
pub fn options_schema() -> &'static str {
    // SAFETY: the library returns a static C string.
    unsafe { static_text(sys::bei_options_schema()) }
}

/// Sends all log lines of the process (each one JSON object) to `handler`; `None` sends them to stderr again.
///
/// The handler runs on a thread of the library. It must return soon and must not call this crate.
pub fn set_log_handler(handler: Option<fn(LogLevel, &str)>) -> Result<(), Error> {
    let user = handler.map_or(null_mut(), |handler| handler as *mut c_void);
    let callback: sys::bei_log_fn = if handler.is_some() { Some(log_line) } else { None };
    // SAFETY: `user` is a function's address, valid for ever; `log_line` gets it back.
    unsafe { check(sys::bei_set_log_callback(callback, user)) }
}

unsafe extern "C" fn log_line(user: *mut c_void, level: i32, line: *const c_char, size: usize) {
    // SAFETY: `user` was made from exactly this type in set_log_handler.
    let handler = unsafe { std::mem::transmute::<*mut c_void, fn(LogLevel, &str)>(user) };
    // SAFETY: the library promises `size` bytes that live until this function returns.
    let line = String::from_utf8_lossy(unsafe { bytes(line, size) });
    let level = match level {
        sys::BEI_LOG_DEBUG => LogLevel::Debug,
        sys::BEI_LOG_INFO => LogLevel::Info,
        sys::BEI_LOG_WARN => LogLevel::Warn,
        _ => LogLevel::Error,
    };
    // A panic must not travel into the library. The line is lost; the panic hook has reported why.
    let _ = catch_unwind(AssertUnwindSafe(|| handler(level, &line)));
}

/// A cancel token, for any number of calls. Once triggered, all calls with it return soon, now and later, and items not
/// done get [`Status::Cancelled`].
#[derive(Debug)]
pub struct CancelToken(pub(crate) sys::bei_cancel);

impl CancelToken {
    /// Makes a token.
    pub fn new() -> Result<CancelToken, Error> {
        let mut token = 0;
        // SAFETY: the out-pointer is valid for the call.
        unsafe { check(sys::bei_cancel_new(&mut token))? };
        Ok(CancelToken(token))
    }

    /// Cancels the calls that use the token. Triggering twice is harmless.
    pub fn trigger(&self) -> Result<(), Error> {
        // SAFETY: a handle is an integer that the library checks.
        unsafe { check(sys::bei_cancel_trigger(self.0)) }
    }
}

impl Drop for CancelToken {
    fn drop(&mut self) {
        // SAFETY: a handle is an integer that the library checks.
        unsafe { sys::bei_cancel_free(self.0) }
    }
}

/// A result handle, freed when dropped. Slices borrowed from it therefore cannot outlive it.
#[derive(Debug, Default)]
pub(crate) struct RawResult(sys::bei_result);

impl Drop for RawResult {
    fn drop(&mut self) {
        // SAFETY: a handle is an integer that the library checks. `&mut self` proves that nobody borrows from it.
        unsafe { sys::bei_result_free(self.0) }
    }
}

impl RawResult {
    pub(crate) fn item_message(&self, i: usize) -> String {
        // SAFETY: the library returns NULL or a C string that lives as long as the result.
        unsafe { owned_text(sys::bei_result_item_message(self.0, i)) }
    }

    /// Rows, columns and the numbers; `(0, 0, [])` where there are none.
    pub(crate) fn token_vectors(&self, i: usize) -> (usize, usize, &[f32]) {
        let (mut rows, mut columns) = (0, 0);
        // SAFETY: the out-pointers are valid for the call.
        let data = unsafe { sys::bei_result_token_vectors(self.0, i, &mut rows, &mut columns) };
        // SAFETY: the library returns NULL or rows x columns floats that live as long as the result.
        (rows, columns, unsafe { items(data, rows * columns) })
    }

    pub(crate) fn sparse(&self, i: usize) -> (&[u32], &[f32]) {
        let (mut ids, mut count) = (null(), 0);
        // SAFETY: the out-pointers are valid for the call.
        let values = unsafe { sys::bei_result_sparse(self.0, i, &mut ids, &mut count) };
        // SAFETY: the library returns NULL or `count` ids and values that live as long as the result.
        unsafe { (items(ids, count), items(values, count)) }
    }

    pub(crate) fn tokens(&self, i: usize) -> Result<RawTokens<'_>, Error> {
        let mut tokens = sys::BEI_TOKENS_INIT;
        // SAFETY: the out-pointer is valid for the call and its struct_size is set.
        unsafe { check(sys::bei_result_tokens(self.0, i, &mut tokens))? };
        let count = tokens.count;
        // SAFETY: on success the pointers hold `count` entries (offsets one more) that live as long as the result, and
        // the last offset is the length of the pieces.
        unsafe {
            let piece_offsets = items(tokens.piece_offsets, count + 1);
            let pieces = piece_offsets.last().map_or(0, |&end| end as usize);
            Ok(RawTokens {
                ids: items(tokens.ids, count),
                type_ids: items(tokens.type_ids, count),
                special: items(tokens.special, count),
                sequence: items(tokens.sequence, count),
                starts: items(tokens.starts, count),
                ends: items(tokens.ends, count),
                pieces: bytes(tokens.pieces, pieces),
                piece_offsets,
            })
        }
    }

    pub(crate) fn entities(&self, i: usize) -> &[sys::bei_entity] {
        let mut count = 0;
        // SAFETY: the out-pointer is valid for the call.
        let entities = unsafe { sys::bei_result_entities(self.0, i, &mut count) };
        // SAFETY: the library returns NULL or `count` entities that live as long as the result.
        unsafe { items(entities, count) }
    }

    pub(crate) fn text(&self, i: usize) -> &[u8] {
        let mut size = 0;
        // SAFETY: the out-pointer is valid for the call.
        let text = unsafe { sys::bei_result_text(self.0, i, &mut size) };
        // SAFETY: the library returns NULL or `size` bytes that live as long as the result.
        unsafe { bytes(text, size) }
    }

    pub(crate) fn stats(&self) -> Result<sys::bei_stats, Error> {
        let mut stats = sys::BEI_STATS_INIT;
        // SAFETY: the out-pointer is valid for the call and its struct_size is set.
        unsafe { check(sys::bei_result_stats(self.0, &mut stats))? };
        Ok(stats)
    }
}

/// `bei_tokens`, borrowed from a result.
pub(crate) struct RawTokens<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) type_ids: &'a [u32],
    pub(crate) special: &'a [u8],
    pub(crate) sequence: &'a [u8],
    pub(crate) starts: &'a [u32],
    pub(crate) ends: &'a [u32],
    pub(crate) pieces: &'a [u8],
    pub(crate) piece_offsets: &'a [u32],
}

/// What a call on items wrote: rows of `columns` floats, a status for each item, and the rest.
pub(crate) struct Outcome {
    pub(crate) rows: Vec<f32>,
    pub(crate) status: Vec<i32>,
    pub(crate) result: RawResult,
}

/// The calls that take a token batch and fill rows.
#[derive(Clone, Copy)]
pub(crate) enum BatchCall {
    Embed,
    Predict,
    PredictTokens,
}

/// The calls that take texts.
#[derive(Clone, Copy)]
pub(crate) enum TextCall {
    Embed,
    Predict,
    PredictTokens,
    Tokenize,
}

/// A backend handle, closed when dropped.
#[derive(Debug)]
pub(crate) struct RawBackend(sys::bei_handle);

impl Drop for RawBackend {
    fn drop(&mut self) {
        // `&mut self` proves that no call is under way, so there is nothing to wait for; a backend that was shut down
        // before answers with an error that says so.
        let _ = self.shutdown(Duration::ZERO);
    }
}

impl RawBackend {
    pub(crate) fn open(options: &str) -> Result<RawBackend, Error> {
        let mut handle = 0;
        // SAFETY: pointer and length are those of a string that lives during the call, and the out-pointer is valid.
        unsafe { check(sys::bei_init(text_pointer(options.as_bytes()), options.len(), &mut handle))? };
        Ok(RawBackend(handle))
    }

    pub(crate) fn shutdown(&self, timeout: Duration) -> Result<(), Error> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        // SAFETY: a handle is an integer that the library checks.
        unsafe { check(sys::bei_shutdown(self.0, timeout_ms)) }
    }

    pub(crate) fn info(&self) -> Result<sys::bei_info, Error> {
        let mut info = sys::BEI_INFO_INIT;
        // SAFETY: the out-pointer is valid for the call and its struct_size is set.
        unsafe { check(sys::bei_get_info(self.0, &mut info))? };
        Ok(info)
    }

    pub(crate) fn info_json(&self) -> Result<RawResult, Error> {
        let mut result = RawResult::default();
        // SAFETY: the out-pointer is valid for the call.
        unsafe { check(sys::bei_info_json(self.0, &mut result.0))? };
        Ok(result)
    }

    pub(crate) fn metrics(&self) -> Result<RawResult, Error> {
        let mut result = RawResult::default();
        // SAFETY: the out-pointer is valid for the call.
        unsafe { check(sys::bei_metrics(self.0, &mut result.0))? };
        Ok(result)
    }

    pub(crate) fn health(&self, deep: bool, options: &CallOptions) -> Result<(), Error> {
        let options = raw_options(options);
        // SAFETY: the options live during the call, and so does what they borrow.
        unsafe { check(sys::bei_health(self.0, i32::from(deep), &options)) }
    }

    /// Calls on a token batch. `columns`: the width of a row of those calls that fill rows.
    pub(crate) fn call_batch(
        &self,
        call: BatchCall,
        batch: &TokenBatch,
        options: &CallOptions,
        columns: usize,
    ) -> Result<Outcome, Error> {
        batch.check()?;
        let n = batch.len();
        let raw = raw_batch(batch);
        let options = raw_options(options);
        let wants_rows = matches!(call, BatchCall::Predict) || !batch.pooled_indices.is_empty();
        let mut out = outcome(n, if wants_rows { columns } else { 0 })?;
        let rows = if wants_rows { mut_pointer(&mut out.rows) } else { null_mut() };
        let rows_size = out.rows.len();
        let (status, result) = (mut_pointer(&mut out.status), &mut out.result.0);
        // SAFETY: `batch.check` made sure that the slices have the lengths the struct gives; slices, options and out
        // buffers live during the call, and the buffers have the sizes that are passed.
        unsafe {
            check(match call {
                BatchCall::Embed => {
                    sys::bei_embed(self.0, &raw, &options, rows, rows_size, status, n, result)
                }
                BatchCall::Predict => {
                    sys::bei_predict(self.0, &raw, &options, rows, rows_size, status, n, result)
                }
                BatchCall::PredictTokens => {
                    sys::bei_predict_tokens(self.0, &raw, &options, status, n, result)
                }
            })?;
        }
        Ok(out)
    }

    /// Calls on texts. `columns`: the width of a row of those calls that fill rows; 0 where no item wants one.
    pub(crate) fn call_texts(
        &self,
        call: TextCall,
        texts: &[Text],
        options: &CallOptions,
        columns: usize,
    ) -> Result<Outcome, Error> {
        let n = texts.len();
        let raw: Vec<sys::bei_text> = texts.iter().map(raw_text).collect();
        let options = raw_options(options);
        let mut out = outcome(n, columns)?;
        let rows = if columns > 0 { mut_pointer(&mut out.rows) } else { null_mut() };
        let rows_size = out.rows.len();
        let (status, result) = (mut_pointer(&mut out.status), &mut out.result.0);
        let raw = pointer(&raw);
        // SAFETY: the texts' pointers and lengths are those of slices that live during the call, and so do options and
        // out buffers, which have the sizes that are passed.
        unsafe {
            check(match call {
                TextCall::Embed => {
                    sys::bei_embed_texts(self.0, raw, n, &options, rows, rows_size, status, n, result)
                }
                TextCall::Predict => {
                    sys::bei_predict_texts(self.0, raw, n, &options, rows, rows_size, status, n, result)
                }
                TextCall::PredictTokens => {
                    sys::bei_predict_tokens_texts(self.0, raw, n, &options, status, n, result)
                }
                TextCall::Tokenize => sys::bei_tokenize(self.0, raw, n, &options, status, n, result),
            })?;
        }
        Ok(out)
    }

    /// Computes `columns` floats for each span of each text: text i has the spans `cumulative[i] .. cumulative[i + 1]`.
    pub(crate) fn embed_spans(
        &self,
        texts: &[Text],
        spans: &[Span],
        cumulative: &[u32],
        options: &CallOptions,
        columns: usize,
    ) -> Result<Outcome, Error> {
        let n = texts.len();
        if cumulative.len() != n + 1 {
            let got = cumulative.len();
            return Err(Error::invalid(format!(
                "cumulative_spans has {got} values; {n} texts need {}",
                n + 1
            )));
        }
        let raw: Vec<sys::bei_text> = texts.iter().map(raw_text).collect();
        let options = raw_options(options);
        let mut out = outcome(spans.len(), columns)?;
        out.status = vec![sys::BEI_OK; n];
        let (vectors, size) = (mut_pointer(&mut out.rows), out.rows.len());
        let (status, result) = (mut_pointer(&mut out.status), &mut out.result.0);
        let (raw, m, cumulative) = (pointer(&raw), spans.len(), pointer(cumulative));
        // SAFETY: pointers and lengths are those of slices that live during the call; `cumulative` has n + 1 entries, the
        // status buffer n, and the vectors' buffer the size that is passed.
        unsafe {
            let spans = pointer(spans);
            check(sys::bei_embed_spans(
                self.0, raw, n, spans, m, cumulative, &options, vectors, size, status, n, result,
            ))?;
        }
        Ok(out)
    }

    pub(crate) fn decode(
        &self,
        ids: &[u32],
        lengths: &[u32],
        options: &CallOptions,
    ) -> Result<Outcome, Error> {
        let Some(n) = lengths.len().checked_sub(1) else {
            return Err(Error::invalid("cumulative_lengths is empty; it starts with 0"));
        };
        let options = raw_options(options);
        let mut out = outcome(n, 0)?;
        let (status, result) = (mut_pointer(&mut out.status), &mut out.result.0);
        // SAFETY: pointers and lengths are those of slices that live during the call; `lengths` has n + 1 entries and
        // the status buffer n.
        unsafe {
            let (ids, ids_size, lengths) = (pointer(ids), ids.len(), pointer(lengths));
            check(sys::bei_decode(self.0, ids, ids_size, lengths, n, &options, status, n, result))?;
        }
        Ok(out)
    }
}

fn outcome(n: usize, columns: usize) -> Result<Outcome, Error> {
    let Some(size) = n.checked_mul(columns) else {
        return Err(Error::invalid(format!("{n} items of {columns} numbers do not fit into memory")));
    };
    Ok(Outcome { rows: vec![0.0; size], status: vec![sys::BEI_OK; n], result: RawResult::default() })
}

/// Turns the library's error into ours and frees it.
///
/// # Safety
/// `error` is NULL or an error of the library that nobody has freed, and is not used afterwards.
unsafe fn check(error: *mut sys::bei_error) -> Result<(), Error> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is alive until bei_error_free, and the message is copied before.
    unsafe {
        let status = Status::from_code(sys::bei_error_code(error)).unwrap_or(Status::Internal);
        let message = owned_text(sys::bei_error_message(error));
        sys::bei_error_free(error);
        Err(Error { status, message })
    }
}

/// # Safety
/// `text` is NULL or a static C string.
unsafe fn static_text(text: *const c_char) -> &'static str {
    if text.is_null() {
        return "";
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or_default()
}

/// # Safety
/// `text` is NULL or a C string that lives during the call.
unsafe fn owned_text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: see above.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// # Safety
/// `text` is NULL or points to `size` bytes that live as long as 'a.
unsafe fn bytes<'a>(text: *const c_char, size: usize) -> &'a [u8] {
    // SAFETY: c_char and u8 have the same layout; the rest is the caller's promise.
    unsafe { items(text.cast::<u8>(), size) }
}

/// # Safety
/// `data` is NULL or points to `count` entries that live, unchanged, as long as 'a.
unsafe fn items<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if data.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: see above.
    unsafe { slice::from_raw_parts(data, count) }
}
