use bei_sys as sys;

use crate::contract::Batch;
use crate::error::Error;

/// A batch of token sequences, packed without padding: `bei_batch`, borrowed.
///
/// Item i has the tokens `cumulative_seq_lengths[i] .. cumulative_seq_lengths[i + 1]`. The index lists say what each item
/// wants; each list is strictly ascending, and every item is in at least one.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenBatch<'a> {
    /// Token ids of all items, one after another: `[T]`.
    pub input_ids: &'a [u32],
    /// Type ids, `[T]`; `None` means all zero.
    pub token_type_ids: Option<&'a [u32]>,
    /// Position ids, `[T]`; `None` means counted from the model's first position in each item.
    pub position_ids: Option<&'a [u32]>,
    /// `[n + 1]`: first 0, last T, never falling.
    pub cumulative_seq_lengths: &'a [u32],
    /// Items that want one vector.
    pub pooled_indices: &'a [u32],
    /// Items that want every token's vector.
    pub raw_indices: &'a [u32],
    /// Items that want vocabulary weights.
    pub sparse_indices: &'a [u32],
    /// Tokens of the longest item; 0 means counted by the library.
    pub max_length: u32,
}

impl TokenBatch<'_> {
    /// The number of items, n.
    pub fn len(&self) -> usize {
        self.cumulative_seq_lengths.len().saturating_sub(1)
    }

    /// Whether the batch has no item.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Checks the lengths that the library cannot see, as it is given pointers.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let tokens = self.input_ids.len();
        for (name, ids) in [("token_type_ids", self.token_type_ids), ("position_ids", self.position_ids)] {
            if let Some(ids) = ids
                && ids.len() != tokens
            {
                return Err(Error::invalid(format!("{name} has {} entries, input_ids {tokens}", ids.len())));
            }
        }
        if self.cumulative_seq_lengths.is_empty() {
            return Err(Error::invalid("cumulative_seq_lengths is empty; it starts with 0"));
        }
        Ok(())
    }

    /// The `BEI_OUTPUT_*` bits that each item wants. Indices out of range are left to the library to refuse.
    pub(crate) fn wanted(&self) -> Vec<u32> {
        let mut wanted = vec![0; self.len()];
        for (indices, bit) in [
            (self.pooled_indices, sys::BEI_OUTPUT_POOLED),
            (self.raw_indices, sys::BEI_OUTPUT_TOKEN_VECTORS),
            (self.sparse_indices, sys::BEI_OUTPUT_SPARSE),
        ] {
            for &i in indices {
                if let Some(bits) = wanted.get_mut(i as usize) {
                    *bits |= bit;
                }
            }
        }
        wanted
    }
}

impl<'a> From<&'a Batch> for TokenBatch<'a> {
    fn from(batch: &'a Batch) -> TokenBatch<'a> {
        TokenBatch {
            input_ids: &batch.input_ids,
            token_type_ids: Some(&batch.token_type_ids),
            position_ids: Some(&batch.position_ids),
            cumulative_seq_lengths: &batch.cumulative_seq_lengths,
            pooled_indices: &batch.pooled_indices,
            raw_indices: &batch.raw_indices,
            sparse_indices: &[],
            max_length: batch.max_length,
        }
    }
}

/// What a text item wants: `BEI_OUTPUT_*` bits, joined with `|`. One forward pass serves them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outputs(pub(crate) u32);

impl Outputs {
    /// One vector.
    pub const POOLED: Outputs = Outputs(sys::BEI_OUTPUT_POOLED);
    /// One vector for each token.
    pub const TOKEN_VECTORS: Outputs = Outputs(sys::BEI_OUTPUT_TOKEN_VECTORS);
    /// Vocabulary weights.
    pub const SPARSE: Outputs = Outputs(sys::BEI_OUTPUT_SPARSE);
    /// The tokens, with offsets.
    pub const TOKENS: Outputs = Outputs(sys::BEI_OUTPUT_TOKENS);

    /// Whether all of `other` is in it.
    pub fn contains(self, other: Outputs) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for Outputs {
    type Output = Outputs;

    fn bitor(self, other: Outputs) -> Outputs {
        Outputs(self.0 | other.0)
    }
}

/// A part of a text in Unicode code points: `start` is its first, `end` is one past its last.
pub use bei_sys::bei_span as Span;

/// One text, or a pair of texts, and what is wanted of it: `bei_text`, borrowed.
///
/// Texts are bytes because the library checks them: bytes that are not UTF-8 give that item [`crate::Status::InvalidUtf8`].
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The text.
    pub text: &'a [u8],
    /// The second text of a pair.
    pub pair: Option<&'a [u8]>,
    /// What is wanted of it.
    pub outputs: Outputs,
}

impl<'a> From<&'a str> for Text<'a> {
    /// A text of which the pooled vector is wanted.
    fn from(text: &'a str) -> Text<'a> {
        Text { text: text.as_bytes(), pair: None, outputs: Outputs::POOLED }
    }
}
