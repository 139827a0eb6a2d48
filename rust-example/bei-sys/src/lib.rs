//! Declarations of `include/bei.h`, version 1, by hand and with the header's own names.
//!
//! The header is the manual: what a function does, who owns what and which thread may call is written there, once.
//! `tests/layout.rs` compiles the header and compares every struct, field, constant and function with this file.
//! Programs use the safe crate `bei-backend` instead.
#![no_std]
#![allow(non_camel_case_types)]
#![allow(missing_docs)] // the header has them; the layout test ties each name to it

use core::ffi::{c_char, c_void};
use core::marker::{PhantomData, PhantomPinned};
use core::mem::size_of;
use core::ptr::null;

pub const BEI_API_VERSION: u32 = 1;

pub const BEI_OK: i32 = 0;
pub const BEI_INVALID_ARGUMENT: i32 = 1;
pub const BEI_INVALID_HANDLE: i32 = 2;
pub const BEI_UNSUPPORTED: i32 = 3;
pub const BEI_NO_BACKEND: i32 = 4;
pub const BEI_START: i32 = 5;
pub const BEI_WEIGHTS_NOT_FOUND: i32 = 6;
pub const BEI_INFERENCE: i32 = 7;
pub const BEI_UNHEALTHY: i32 = 8;
pub const BEI_OVERLOADED: i32 = 9;
pub const BEI_TIMEOUT: i32 = 10;
pub const BEI_CANCELLED: i32 = 11;
pub const BEI_SHUT_DOWN: i32 = 12;
pub const BEI_FORKED: i32 = 13;
pub const BEI_INTERNAL: i32 = 14;
pub const BEI_BUFFER_TOO_SMALL: i32 = 15;
pub const BEI_EMPTY: i32 = 32;
pub const BEI_TOO_LONG: i32 = 33;
pub const BEI_INVALID_UTF8: i32 = 34;
pub const BEI_TOKEN_OUT_OF_RANGE: i32 = 35;
pub const BEI_NON_FINITE: i32 = 36;
pub const BEI_TOKENIZATION: i32 = 37;
pub const BEI_NUL_BYTE: i32 = 38;

pub const BEI_LOG_DEBUG: i32 = -1;
pub const BEI_LOG_INFO: i32 = 0;
pub const BEI_LOG_WARN: i32 = 1;
pub const BEI_LOG_ERROR: i32 = 2;

pub const BEI_MODEL_EMBEDDING: u32 = 1;
pub const BEI_MODEL_CLASSIFIER: u32 = 2;
pub const BEI_MODEL_TOKEN_CLASSIFIER: u32 = 3;

pub const BEI_POOLING_NONE: u32 = 0;
pub const BEI_POOLING_CLS: u32 = 1;
pub const BEI_POOLING_MEAN: u32 = 2;
pub const BEI_POOLING_SPLADE: u32 = 3;
pub const BEI_POOLING_LAST_TOKEN: u32 = 4;
pub const BEI_POOLING_OTHER: u32 = 255;

pub const BEI_OUTPUT_POOLED: u32 = 1;
pub const BEI_OUTPUT_TOKEN_VECTORS: u32 = 2;
pub const BEI_OUTPUT_SPARSE: u32 = 4;
pub const BEI_OUTPUT_TOKENS: u32 = 8;

pub const BEI_DEFAULT: i32 = 0;
pub const BEI_ON: i32 = 1;
pub const BEI_OFF: i32 = 2;

pub const BEI_SIDE_DEFAULT: i32 = 0;
pub const BEI_SIDE_RIGHT: i32 = 1;
pub const BEI_SIDE_LEFT: i32 = 2;

pub const BEI_PRIORITY_LOW: i32 = -1;
pub const BEI_PRIORITY_NORMAL: i32 = 0;
pub const BEI_PRIORITY_HIGH: i32 = 1;

pub const BEI_AGGREGATE_NONE: i32 = 0;
pub const BEI_AGGREGATE_SIMPLE: i32 = 1;
pub const BEI_AGGREGATE_FIRST: i32 = 2;
pub const BEI_AGGREGATE_AVERAGE: i32 = 3;
pub const BEI_AGGREGATE_MAX: i32 = 4;

pub type bei_handle = u64;
pub type bei_result = u64;
pub type bei_cancel = u64;

/// Opaque. Neither `Send`, `Sync` nor `Unpin` by itself: a wrapper decides.
#[repr(C)]
pub struct bei_error {
    _opaque: [u8; 0],
    _marker: PhantomData<(*mut u8, PhantomPinned)>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bei_batch {
    pub struct_size: usize,
    pub input_ids: *const u32,
    pub token_type_ids: *const u32,
    pub position_ids: *const u32,
    pub total_tokens: usize,
    pub cumulative_seq_lengths: *const u32,
    pub num_sequences: usize,
    pub pooled_indices: *const u32,
    pub num_pooled: usize,
    pub raw_indices: *const u32,
    pub num_raw: usize,
    pub sparse_indices: *const u32,
    pub num_sparse: usize,
    pub max_length: u32,
    pub reserved: u32,
}

pub const BEI_BATCH_INIT: bei_batch = bei_batch {
    struct_size: size_of::<bei_batch>(),
    input_ids: null(),
    token_type_ids: null(),
    position_ids: null(),
    total_tokens: 0,
    cumulative_seq_lengths: null(),
    num_sequences: 0,
    pooled_indices: null(),
    num_pooled: 0,
    raw_indices: null(),
    num_raw: 0,
    sparse_indices: null(),
    num_sparse: 0,
    max_length: 0,
    reserved: 0,
};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bei_text {
    pub text: *const c_char,
    pub text_size: usize,
    pub pair: *const c_char,
    pub pair_size: usize,
    pub outputs: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct bei_span {
    pub start: u32,
    pub end: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bei_call_options {
    pub struct_size: usize,
    pub timeout_us: u64,
    pub cancel: bei_cancel,
    pub prompt_name: *const c_char,
    pub prompt_name_size: usize,
    pub truncate: i32,
    pub truncation_side: i32,
    pub dimensions: u32,
    pub normalize: i32,
    pub priority: i32,
    pub add_special_tokens: i32,
    pub skip_special_tokens: i32,
    pub aggregation: i32,
    pub dynamic_batching: i32,
    pub caller_runs: i32,
}

pub const BEI_CALL_OPTIONS_INIT: bei_call_options = bei_call_options {
    struct_size: size_of::<bei_call_options>(),
    timeout_us: 0,
    cancel: 0,
    prompt_name: null(),
    prompt_name_size: 0,
    truncate: BEI_DEFAULT,
    truncation_side: BEI_SIDE_DEFAULT,
    dimensions: 0,
    normalize: BEI_DEFAULT,
    priority: BEI_PRIORITY_NORMAL,
    add_special_tokens: BEI_DEFAULT,
    skip_special_tokens: BEI_DEFAULT,
    aggregation: BEI_AGGREGATE_NONE,
    dynamic_batching: BEI_DEFAULT,
    caller_runs: BEI_DEFAULT,
};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bei_info {
    pub struct_size: usize,
    pub api_version: u32,
    pub model_type: u32,
    pub pooling: u32,
    pub dimensions: u32,
    pub token_dimensions: u32,
    pub labels: u32,
    pub vocab_size: u32,
    pub type_vocab_size: u32,
    pub position_offset: u32,
    pub max_length: u32,
    pub max_tokens: u32,
    pub max_sequences: u32,
    pub best_tokens: u32,
    pub slots: u32,
    pub is_padded: u32,
    pub has_tokenizer: u32,
    pub normalizes: u32,
    pub reserved: u32,
}

pub const BEI_INFO_INIT: bei_info = bei_info {
    struct_size: size_of::<bei_info>(),
    api_version: 0,
    model_type: 0,
    pooling: 0,
    dimensions: 0,
    token_dimensions: 0,
    labels: 0,
    vocab_size: 0,
    type_vocab_size: 0,
    position_offset: 0,
    max_length: 0,
    max_tokens: 0,
    max_sequences: 0,
    best_tokens: 0,
    slots: 0,
    is_padded: 0,
    has_tokenizer: 0,
    normalizes: 0,
    reserved: 0,
};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bei_tokens {
    pub struct_size: usize,
    pub count: usize,
    pub ids: *const u32,
    pub type_ids: *const u32,
    pub special: *const u8,
    pub sequence: *const u8,
    pub starts: *const u32,
    pub ends: *const u32,
    pub pieces: *const c_char,
    pub piece_offsets: *const u32,
}

pub const BEI_TOKENS_INIT: bei_tokens = bei_tokens {
    struct_size: size_of::<bei_tokens>(),
    count: 0,
    ids: null(),
    type_ids: null(),
    special: null(),
    sequence: null(),
    starts: null(),
    ends: null(),
    pieces: null(),
    piece_offsets: null(),
};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bei_entity {
    pub label: u32,
    pub score: f32,
    pub start: u32,
    pub end: u32,
    pub token: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bei_stats {
    pub struct_size: usize,
    pub total_ns: u64,
    pub tokenization_ns: u64,
    pub queue_ns: u64,
    pub inference_ns: u64,
    pub tokens: u64,
    pub runs: u64,
}

pub const BEI_STATS_INIT: bei_stats = bei_stats {
    struct_size: size_of::<bei_stats>(),
    total_ns: 0,
    tokenization_ns: 0,
    queue_ns: 0,
    inference_ns: 0,
    tokens: 0,
    runs: 0,
};

pub type bei_log_fn =
    Option<unsafe extern "C" fn(user: *mut c_void, level: i32, line: *const c_char, size: usize)>;

#[rustfmt::skip] // one declaration a line, for the eye and for tests/layout.rs
unsafe extern "C" {
    pub fn bei_api_version() -> u32;
    pub fn bei_version() -> *const c_char;
    pub fn bei_options_schema() -> *const c_char;
    pub fn bei_set_log_callback(r#fn: bei_log_fn, user: *mut c_void) -> *mut bei_error;

    pub fn bei_error_code(error: *const bei_error) -> i32;
    pub fn bei_error_message(error: *const bei_error) -> *const c_char;
    pub fn bei_error_free(error: *mut bei_error);
    pub fn bei_status_name(status: i32) -> *const c_char;

    pub fn bei_init(options: *const c_char, options_size: usize, backend: *mut bei_handle) -> *mut bei_error;
    pub fn bei_shutdown(backend: bei_handle, timeout_ms: u64) -> *mut bei_error;
    pub fn bei_get_info(backend: bei_handle, info: *mut bei_info) -> *mut bei_error;
    pub fn bei_info_json(backend: bei_handle, result: *mut bei_result) -> *mut bei_error;
    pub fn bei_health(backend: bei_handle, deep: i32, options: *const bei_call_options) -> *mut bei_error;
    pub fn bei_metrics(backend: bei_handle, result: *mut bei_result) -> *mut bei_error;

    pub fn bei_embed(backend: bei_handle, batch: *const bei_batch, options: *const bei_call_options, pooled: *mut f32, pooled_size: usize, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;
    pub fn bei_predict(backend: bei_handle, batch: *const bei_batch, options: *const bei_call_options, logits: *mut f32, logits_size: usize, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;
    pub fn bei_predict_tokens(backend: bei_handle, batch: *const bei_batch, options: *const bei_call_options, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;

    pub fn bei_embed_texts(backend: bei_handle, texts: *const bei_text, n: usize, options: *const bei_call_options, pooled: *mut f32, pooled_size: usize, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;
    pub fn bei_embed_spans(backend: bei_handle, texts: *const bei_text, n: usize, spans: *const bei_span, num_spans: usize, cumulative_spans: *const u32, options: *const bei_call_options, vectors: *mut f32, vectors_size: usize, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;
    pub fn bei_predict_texts(backend: bei_handle, texts: *const bei_text, n: usize, options: *const bei_call_options, logits: *mut f32, logits_size: usize, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;
    pub fn bei_predict_tokens_texts(backend: bei_handle, texts: *const bei_text, n: usize, options: *const bei_call_options, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;
    pub fn bei_tokenize(backend: bei_handle, texts: *const bei_text, n: usize, options: *const bei_call_options, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;
    pub fn bei_decode(backend: bei_handle, ids: *const u32, ids_size: usize, cumulative_lengths: *const u32, n: usize, options: *const bei_call_options, item_status: *mut i32, item_status_size: usize, result: *mut bei_result) -> *mut bei_error;

    pub fn bei_result_count(result: bei_result) -> usize;
    pub fn bei_result_item_message(result: bei_result, i: usize) -> *const c_char;
    pub fn bei_result_token_vectors(result: bei_result, i: usize, rows: *mut usize, columns: *mut usize) -> *const f32;
    pub fn bei_result_sparse(result: bei_result, i: usize, ids: *mut *const u32, count: *mut usize) -> *const f32;
    pub fn bei_result_tokens(result: bei_result, i: usize, tokens: *mut bei_tokens) -> *mut bei_error;
    pub fn bei_result_entities(result: bei_result, i: usize, count: *mut usize) -> *const bei_entity;
    pub fn bei_result_text(result: bei_result, i: usize, size: *mut usize) -> *const c_char;
    pub fn bei_result_stats(result: bei_result, stats: *mut bei_stats) -> *mut bei_error;
    pub fn bei_result_free(result: bei_result);

    pub fn bei_cancel_new(cancel: *mut bei_cancel) -> *mut bei_error;
    pub fn bei_cancel_trigger(cancel: bei_cancel) -> *mut bei_error;
    pub fn bei_cancel_free(cancel: bei_cancel);
}
