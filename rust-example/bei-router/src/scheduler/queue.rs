//! The items of a lane: ordered by key, found by content, and packed into batches. No clock, no lock, no thread.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use super::reply::{Collector, Subscriber};
use crate::work::Work;

/// What a batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Tokens at which a batch is closed: an engine run at its fastest. A longer input makes a batch of its own.
    pub tokens: usize,
    /// Most inputs.
    pub inputs: usize,
    /// Whether a batch costs inputs times longest, not the sum of tokens.
    pub padded: bool,
}

/// Names an item for as long as it is there: its place, and its number, which is never used again.
pub type ItemId = (usize, u64);

/// One computation, and who waits for it.
#[derive(Debug)]
struct Item {
    work: Arc<Work>,
    hash: u64,
    length: usize,
    /// Microseconds since the scheduler began; see [`super::order`].
    key: u64,
    number: u64,
    subscribers: SmallVec<[Subscriber; 1]>,
    running: bool,
    /// Whether it has been put back once after its lane had failed.
    requeued: bool,
}

/// An item that was taken out, with what another queue needs to take it in.
#[derive(Debug)]
pub struct Removed {
    pub work: Arc<Work>,
    pub hash: u64,
    pub key: u64,
    pub requeued: bool,
    pub subscribers: SmallVec<[Subscriber; 1]>,
}

/// An item that was chosen for a batch.
#[derive(Clone, Debug)]
pub struct Pick {
    pub id: ItemId,
    pub work: Arc<Work>,
    pub length: usize,
}

/// What [`Queue::form`] gives.
#[derive(Debug, Default)]
pub struct Formed {
    pub picks: Vec<Pick>,
    /// Those that cannot be answered by their deadlines any more.
    pub late: Vec<Subscriber>,
    /// Inputs that were left out because their clients had gone.
    pub dropped: usize,
}

/// Bits of a key that a bucket leaves out: one holds 16 milliseconds.
const BUCKET_BITS: u32 = 14;

/// Items that a batch may pass over to find some that fit better.
const LOOK_AHEAD: usize = 128;

/// Items waiting and running.
pub struct Queue {
    items: Slab<Item>,
    /// The waiting ones.
    order: BTreeMap<(u64, u64), usize>,
    /// All of them, by content.
    table: HashTable<usize>,
    /// Tokens of the waiting ones by key.
    buckets: BTreeMap<u64, usize>,
    tokens: usize,
    next: u64,
}

impl Queue {
    pub fn new() -> Queue {
        Queue {
            items: Slab::new(),
            order: BTreeMap::new(),
            table: HashTable::new(),
            buckets: BTreeMap::new(),
            tokens: 0,
            next: 0,
        }
    }

    /// The number of items that wait.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Their tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Tokens of the items that wait with smaller keys, within the width of a bucket.
    pub fn tokens_before(&self, key: u64) -> usize {
        self.buckets.range(..=key >> BUCKET_BITS).map(|(_, tokens)| tokens).sum()
    }

    /// Adds an input. Where the same is waiting or running already, it joins that one (and `true` is returned), which moves up to the
    /// smaller key.
    pub fn push(&mut self, work: Arc<Work>, hash: u64, key: u64, subscriber: Subscriber) -> (ItemId, bool) {
        let same = |&index: &usize| self.items.get(index).is_some_and(|item| *item.work == *work);
        if let Some(&index) = self.table.find(hash, same) {
            let item = &mut self.items[index];
            item.subscribers.push(subscriber);
            let id = (index, item.number);
            if !item.running && key < item.key {
                self.unlist(index);
                self.items[index].key = key;
                self.list(index);
            }
            return (id, true);
        }
        let removed =
            Removed { work, hash, key, requeued: false, subscribers: SmallVec::from_iter([subscriber]) };
        (self.insert(removed), false)
    }

    /// Takes in an item of another queue.
    pub fn insert(&mut self, removed: Removed) -> ItemId {
        let Removed { work, hash, key, requeued, subscribers } = removed;
        let number = self.next;
        self.next += 1;
        let length = work.length().max(1);
        let index = self.items.insert(Item {
            work,
            hash,
            length,
            key,
            number,
            subscribers,
            running: false,
            requeued,
        });
        let items = &self.items;
        self.table.insert_unique(hash, index, |&index| items[index].hash);
        self.list(index);
        (index, number)
    }

    /// Takes an item out, waiting or running; `None` when it is not there any more.
    pub fn remove(&mut self, (index, number): ItemId) -> Option<Removed> {
        self.items.get(index).filter(|item| item.number == number)?;
        self.unlist(index);
        let Item { work, hash, key, requeued, subscribers, .. } = self.items.remove(index);
        if let Ok(entry) = self.table.find_entry(hash, |&other| other == index) {
            entry.remove();
        }
        Some(Removed { work, hash, key, requeued, subscribers })
    }

    /// Lets a running item wait again, in its old place; false when that was done before, or the item is not there any more.
    pub fn requeue(&mut self, (index, number): ItemId) -> bool {
        match self.items.get_mut(index) {
            Some(item) if item.number == number && item.running && !item.requeued => {
                (item.running, item.requeued) = (false, true);
                self.list(index);
                true
            }
            _ => false,
        }
    }

    /// Takes a request's inputs back from those items that wait, and returns their number. Items without any other are taken out.
    pub fn leave(&mut self, ids: &[ItemId], collector: &Arc<Collector>) -> usize {
        let mut left = 0;
        for &(index, number) in ids {
            let Some(item) = self.items.get_mut(index) else { continue };
            if item.number != number || item.running {
                continue;
            }
            let before = item.subscribers.len();
            item.subscribers.retain(|subscriber| !Arc::ptr_eq(&subscriber.collector, collector));
            left += before - item.subscribers.len();
            if item.subscribers.is_empty() {
                self.remove((index, number));
            }
        }
        left
    }

    /// All items that wait, taken out.
    pub fn drain(&mut self) -> Vec<Removed> {
        let ids: Vec<ItemId> = self.order.iter().map(|(&(_, number), &index)| (index, number)).collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// The first batch: the item with the smallest key, and others in the order of keys that join it and fit beside it. Items that
    /// do not fit are passed over. Where batches are padded, those are taken whose lengths are nearest to the first one's.
    ///
    /// Inputs that would be done (`by(tokens)`) after their deadlines are given up, but for the last one that waits: were a prediction too
    /// high, nothing would run that could teach better.
    pub fn form(
        &mut self,
        budget: Budget,
        fixed_tokens: f64,
        now: Instant,
        by: impl Fn(usize) -> Instant,
    ) -> Formed {
        let mut formed = Formed::default();
        let mut chosen: Vec<(usize, usize)> = Vec::new(); // index, length
        let mut candidates: Vec<(usize, usize)> = Vec::new();
        let (mut tokens, mut passed) = (0, 0);
        let mut after = Bound::Unbounded;
        while passed < LOOK_AHEAD && candidates.len() < LOOK_AHEAD && chosen.len() < budget.inputs {
            if !budget.padded && !chosen.is_empty() && tokens >= budget.tokens {
                break;
            }
            let Some((&place, &index)) = self.order.range((after, Bound::Unbounded)).next() else { break };
            after = Bound::Excluded(place);
            if !self.prune(index, &mut formed, now, &by) {
                continue;
            }
            let item = &self.items[index];
            let length = item.length;
            match chosen.first() {
                None => {
                    chosen.push((index, length));
                    tokens = length;
                }
                Some(&(first, _)) if !self.items[first].work.joins(&item.work) => passed += 1,
                Some(_) if budget.padded => candidates.push((index, length)),
                Some(_) if tokens + length <= budget.tokens => {
                    chosen.push((index, length));
                    tokens += length;
                }
                Some(_) => passed += 1,
            }
        }
        if let Some(&(_, first)) = chosen.first()
            && budget.padded
        {
            pad(&mut chosen, candidates, first, budget, fixed_tokens);
        }
        for (index, length) in chosen {
            self.unlist(index);
            let item = &mut self.items[index];
            item.running = true;
            formed.picks.push(Pick { id: (index, item.number), work: item.work.clone(), length });
        }
        formed
    }

    /// Takes those away from an item that have gone or are late; false when none is left, and the item is out.
    fn prune(
        &mut self,
        index: usize,
        formed: &mut Formed,
        now: Instant,
        by: &impl Fn(usize) -> Instant,
    ) -> bool {
        let last = self.order.len() == 1;
        let item = &mut self.items[index];
        let done = if last { now } else { by(item.length) };
        let fine = |subscriber: &Subscriber| {
            !subscriber.collector.is_gone() && subscriber.deadline.is_none_or(|deadline| done < deadline)
        };
        if item.subscribers.iter().all(fine) {
            return true;
        }
        let (kept, others): (Vec<Subscriber>, Vec<Subscriber>) =
            std::mem::take(&mut item.subscribers).into_iter().partition(fine);
        item.subscribers = kept.into();
        for subscriber in others {
            if subscriber.collector.is_gone() {
                formed.dropped += usize::from(subscriber.collector.is_left());
            } else {
                formed.late.push(subscriber);
            }
        }
        if self.items[index].subscribers.is_empty() {
            let number = self.items[index].number;
            self.remove((index, number));
            return false;
        }
        true
    }

    fn list(&mut self, index: usize) {
        let item = &self.items[index];
        self.order.insert((item.key, item.number), index);
        *self.buckets.entry(item.key >> BUCKET_BITS).or_default() += item.length;
        self.tokens += item.length;
    }

    fn unlist(&mut self, index: usize) {
        let item = &self.items[index];
        if self.order.remove(&(item.key, item.number)).is_none() {
            return;
        }
        let bucket = item.key >> BUCKET_BITS;
        if let Some(tokens) = self.buckets.get_mut(&bucket) {
            *tokens -= item.length;
            if *tokens == 0 {
                self.buckets.remove(&bucket);
            }
        }
        self.tokens -= item.length;
    }
}

/// Adds candidates to a padded batch, nearest in length to the first item first. One that costs more padding than half its own length
/// and than a batch of its own would cost is left for a batch that suits it.
fn pad(
    chosen: &mut Vec<(usize, usize)>,
    mut candidates: Vec<(usize, usize)>,
    first: usize,
    budget: Budget,
    fixed_tokens: f64,
) {
    // A stable sort: among equals the smaller key goes first.
    candidates.sort_by_key(|&(_, length)| length.abs_diff(first));
    let mut longest = first;
    for (index, length) in candidates {
        if chosen.len() == budget.inputs {
            break;
        }
        let cost = longest.max(length) * (chosen.len() + 1);
        let padding = cost - longest * chosen.len() - length;
        if cost <= budget.tokens && padding as f64 <= fixed_tokens.max(length as f64 / 2.0) {
            longest = longest.max(length);
            chosen.push((index, length));
        }
    }
}
