//! The structs of `bei.h` made from ours. Their pointers are as good as the borrows they are made from; only `ffi` follows
//! them.

use std::ffi::c_char;
use std::ptr::null;

use bei_sys as sys;

use crate::batch::{Text, TokenBatch};
use crate::options::{Aggregation, CallOptions, Priority, Side};

/// Where empty slices point. Rust's own pointer for them is a small number, which the Go runtime of the library may take
/// for a corrupt pointer when it scans a stack, and NULL means "not given" in places.
static NOTHING: u64 = 0;

/// The slice's address; that of [`NOTHING`] where it is empty.
pub(crate) fn pointer<T>(slice: &[T]) -> *const T {
    const { assert!(align_of::<T>() <= align_of::<u64>()) };
    if slice.is_empty() { (&raw const NOTHING).cast() } else { slice.as_ptr() }
}

/// As [`pointer`], for a buffer that the library fills.
pub(crate) fn mut_pointer<T>(slice: &mut [T]) -> *mut T {
    // Nobody writes to an entry of an empty buffer.
    if slice.is_empty() { pointer(slice).cast_mut() } else { slice.as_mut_ptr() }
}

/// As [`pointer`], for text.
pub(crate) fn text_pointer(text: &[u8]) -> *const c_char {
    pointer(text).cast()
}

/// Borrows `batch`, whose lengths have been checked.
pub(crate) fn raw_batch(batch: &TokenBatch) -> sys::bei_batch {
    let list = |indices: &[u32]| if indices.is_empty() { null() } else { indices.as_ptr() };
    sys::bei_batch {
        input_ids: pointer(batch.input_ids),
        token_type_ids: batch.token_type_ids.map_or(null(), pointer),
        position_ids: batch.position_ids.map_or(null(), pointer),
        total_tokens: batch.input_ids.len(),
        cumulative_seq_lengths: pointer(batch.cumulative_seq_lengths),
        num_sequences: batch.len(),
        pooled_indices: list(batch.pooled_indices),
        num_pooled: batch.pooled_indices.len(),
        raw_indices: list(batch.raw_indices),
        num_raw: batch.raw_indices.len(),
        sparse_indices: list(batch.sparse_indices),
        num_sparse: batch.sparse_indices.len(),
        max_length: batch.max_length,
        ..sys::BEI_BATCH_INIT
    }
}

/// Borrows `text`.
pub(crate) fn raw_text(text: &Text) -> sys::bei_text {
    sys::bei_text {
        text: text_pointer(text.text),
        text_size: text.text.len(),
        pair: text.pair.map_or(null(), text_pointer),
        pair_size: text.pair.map_or(0, <[u8]>::len),
        outputs: text.outputs.0,
        reserved: 0,
    }
}

/// Borrows `options`.
pub(crate) fn raw_options(options: &CallOptions) -> sys::bei_call_options {
    let switch = |value: Option<bool>| match value {
        None => sys::BEI_DEFAULT,
        Some(true) => sys::BEI_ON,
        Some(false) => sys::BEI_OFF,
    };
    sys::bei_call_options {
        // Zero would mean the default, so that no time at all becomes the shortest time.
        timeout_us: options.timeout.map_or(0, |t| u64::try_from(t.as_micros()).unwrap_or(u64::MAX).max(1)),
        cancel: options.cancel.map_or(0, |token| token.0),
        prompt_name: options.prompt_name.map_or(null(), |name| text_pointer(name.as_bytes())),
        prompt_name_size: options.prompt_name.map_or(0, str::len),
        truncate: switch(options.truncate),
        truncation_side: match options.truncation_side {
            None => sys::BEI_SIDE_DEFAULT,
            Some(Side::Right) => sys::BEI_SIDE_RIGHT,
            Some(Side::Left) => sys::BEI_SIDE_LEFT,
        },
        dimensions: options.dimensions,
        normalize: switch(options.normalize),
        priority: match options.priority {
            Priority::Low => sys::BEI_PRIORITY_LOW,
            Priority::Normal => sys::BEI_PRIORITY_NORMAL,
            Priority::High => sys::BEI_PRIORITY_HIGH,
        },
        add_special_tokens: switch(options.add_special_tokens),
        skip_special_tokens: switch(options.skip_special_tokens),
        aggregation: match options.aggregation {
            Aggregation::None => sys::BEI_AGGREGATE_NONE,
            Aggregation::Simple => sys::BEI_AGGREGATE_SIMPLE,
            Aggregation::First => sys::BEI_AGGREGATE_FIRST,
            Aggregation::Average => sys::BEI_AGGREGATE_AVERAGE,
            Aggregation::Max => sys::BEI_AGGREGATE_MAX,
        },
        dynamic_batching: switch(options.dynamic_batching),
        caller_runs: switch(options.caller_runs),
        ..sys::BEI_CALL_OPTIONS_INIT
    }
}
