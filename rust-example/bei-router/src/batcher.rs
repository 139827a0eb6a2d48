use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bei_backend::{ItemEmbedding, Status, TokenBatch};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::App;
use crate::failure::Failure;
use crate::queue::{Answer, Batch, Entry, Kind};

/// Forms batches and runs them until the queue is closed and empty and the last batch is answered.
///
/// A batch is formed only when one of the library's slots is free, so that it takes the latest arrivals, and exactly as many
/// calls are out as the library has slots.
pub async fn run(app: Arc<App>) {
    let slots = app.backend.model().info().slots.clamp(1, Semaphore::MAX_PERMITS);
    let free = Arc::new(Semaphore::new(slots));
    while let Ok(slot) = free.clone().acquire_owned().await {
        let Some(batch) = app.queue.next_batch().await else { break };
        app.metrics.dropped(batch.dropped);
        if batch.entries.is_empty() {
            continue;
        }
        app.metrics.batch(batch.entries.len(), batch.tokens);
        let app = app.clone();
        tokio::task::spawn_blocking(move || compute(&app, batch, slot));
    }
    let _ = free.acquire_many(u32::try_from(slots).unwrap_or(u32::MAX)).await;
}

/// Runs one batch on this thread, gives its slot to the next one, and answers its inputs.
fn compute(app: &App, Batch { entries, .. }: Batch, slot: OwnedSemaphorePermit) {
    let packed = Packed::of(&entries);
    let start = Instant::now();
    let items = app.backend.embed_items(&packed.batch());
    let inference = start.elapsed();
    drop(slot);
    match items {
        Ok(items) => {
            let faults: Vec<_> =
                items.iter().filter_map(|item| item.as_ref().err()).filter(at_fault).collect();
            if let Some(first) = faults.first() {
                tracing::error!(
                    "{} of a batch's {} inputs failed; the first: {first}",
                    faults.len(),
                    items.len()
                );
            }
            // A NaN comes from the input and the weights; the engine works.
            let healthy = faults.iter().all(|error| error.status == Status::NonFinite);
            app.healthy.store(healthy, Ordering::Relaxed);
            for (entry, item) in entries.into_iter().zip(items) {
                let queue = start.duration_since(entry.queued);
                answer(entry, item.map_err(Failure::from), queue, inference);
            }
        }
        Err(error) => {
            app.healthy.store(false, Ordering::Relaxed);
            tracing::error!("a batch of {} inputs failed: {error}", entries.len());
            for entry in entries {
                answer(entry, Err(error.clone().into()), Duration::ZERO, inference);
            }
        }
    }
}

/// Whether the model or the engine failed, and not the input.
fn at_fault(error: &&bei_backend::Error) -> bool {
    matches!(error.status, Status::Inference | Status::Unhealthy | Status::Internal | Status::NonFinite)
}

fn answer(entry: Entry, item: Result<ItemEmbedding, Failure>, queue: Duration, inference: Duration) {
    let Entry { reply, permit, .. } = entry;
    // Before the client knows: it may send its next request at once.
    drop(permit);
    // An error says that the client has gone, which costs nobody anything.
    let _ = reply.send(item.map(|embedding| Answer { embedding, queue, inference }));
}

/// The tokens of a batch's inputs, one after another.
struct Packed {
    input_ids: Vec<u32>,
    token_type_ids: Option<Vec<u32>>,
    cumulative_seq_lengths: Vec<u32>,
    pooled_indices: Vec<u32>,
    raw_indices: Vec<u32>,
    sparse_indices: Vec<u32>,
}

impl Packed {
    fn of(entries: &[Entry]) -> Packed {
        let total = entries.iter().map(|entry| entry.encoding.ids.len()).sum();
        let typed = entries.iter().any(|entry| entry.encoding.type_ids.is_some());
        let mut packed = Packed {
            input_ids: Vec::with_capacity(total),
            token_type_ids: typed.then(|| Vec::with_capacity(total)),
            cumulative_seq_lengths: Vec::with_capacity(entries.len() + 1),
            pooled_indices: Vec::with_capacity(entries.len()),
            raw_indices: Vec::new(),
            sparse_indices: Vec::new(),
        };
        packed.cumulative_seq_lengths.push(0);
        for (i, entry) in (0..).zip(entries) {
            packed.input_ids.extend_from_slice(&entry.encoding.ids);
            if let Some(type_ids) = &mut packed.token_type_ids {
                match &entry.encoding.type_ids {
                    Some(ids) => type_ids.extend_from_slice(ids),
                    None => type_ids.resize(packed.input_ids.len(), 0),
                }
            }
            packed.cumulative_seq_lengths.push(packed.input_ids.len() as u32);
            let indices = match entry.kind {
                Kind::Pooled => &mut packed.pooled_indices,
                Kind::Tokens => &mut packed.raw_indices,
                Kind::Sparse => &mut packed.sparse_indices,
            };
            indices.push(i);
        }
        packed
    }

    fn batch(&self) -> TokenBatch<'_> {
        TokenBatch {
            input_ids: &self.input_ids,
            token_type_ids: self.token_type_ids.as_deref(),
            cumulative_seq_lengths: &self.cumulative_seq_lengths,
            pooled_indices: &self.pooled_indices,
            raw_indices: &self.raw_indices,
            sparse_indices: &self.sparse_indices,
            ..TokenBatch::default()
        }
    }
}
