use crate::contract::{Backend, BackendError, Batch, ModelType};

/// A batch of items that hold nothing but token id 0, all pooled. Position ids start at 0 for every model, as the family's
/// routers send them at start-up.
fn zeros(lengths: &[usize]) -> Batch {
    let total = lengths.iter().sum();
    let mut batch = Batch {
        input_ids: vec![0; total],
        token_type_ids: vec![0; total],
        position_ids: Vec::with_capacity(total),
        cumulative_seq_lengths: vec![0],
        ..Batch::default()
    };
    for (i, &length) in (0..).zip(lengths) {
        batch.position_ids.extend((0..length).map(|position| position as u32));
        batch.cumulative_seq_lengths.push(batch.position_ids.len() as u32);
        batch.max_length = batch.max_length.max(length as u32);
        batch.pooled_indices.push(i);
    }
    batch
}

/// The family's health batch: one item of one token.
pub fn health_batch() -> Batch {
    zeros(&[1])
}

/// The family's warm-up batch: `max_batch_tokens` zeros, cut into items of `max_input_length`; one item where the backend
/// pads. `max_batch_requests` bounds the items.
pub fn warm_up_batch(
    is_padded: bool,
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
) -> Batch {
    let longest = max_input_length.min(max_batch_tokens);
    let mut lengths = vec![longest];
    if !is_padded && longest > 0 {
        let mut rest = max_batch_tokens - longest;
        while rest > 0 && max_batch_requests.is_none_or(|most| lengths.len() < most) {
            lengths.push(rest.min(longest));
            rest -= rest.min(longest);
        }
    }
    zeros(&lengths)
}

/// Does what the family's router does before it listens: the health batch, then the warm-up batch. Both must succeed.
pub fn start_up(
    backend: &dyn Backend,
    model_type: &ModelType,
    max_input_length: usize,
    max_batch_tokens: usize,
    max_batch_requests: Option<usize>,
) -> Result<(), BackendError> {
    let run = |batch| match model_type {
        ModelType::Classifier => backend.predict(batch).map(drop),
        ModelType::Embedding(_) => backend.embed(batch).map(drop),
    };
    run(health_batch())?;
    run(warm_up_batch(backend.is_padded(), max_input_length, max_batch_tokens, max_batch_requests))
}
