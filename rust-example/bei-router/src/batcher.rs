use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bei_backend::Status;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::App;
use crate::call::{self, Packed};
use crate::failure::Failure;
use crate::queue::{Batch, Entry};
use crate::work::{Answer, Outcome, Work};

/// Forms batches and runs them until the queue is closed and empty and the last batch is answered.
///
/// A batch is formed only when one of the library's slots is free, so that it takes the latest arrivals, and exactly as many
/// calls are out as the library has slots.
pub async fn run(app: Arc<App>) {
    let slots = app.model.info().slots.clamp(1, Semaphore::MAX_PERMITS);
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
    let works: Vec<&Work> = entries.iter().map(|entry| &entry.work).collect();
    let start = Instant::now();
    let items = call::run(&app.model, &mut Packed::default(), &works);
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

fn answer(entry: Entry, item: Result<Outcome, Failure>, queue: Duration, inference: Duration) {
    let Entry { reply, permit, .. } = entry;
    // Before the client knows: it may send its next request at once.
    drop(permit);
    // An error says that the client has gone, which costs nobody anything.
    let _ = reply.send(item.map(|outcome| Answer { outcome: Arc::new(outcome), queue, inference }));
}
