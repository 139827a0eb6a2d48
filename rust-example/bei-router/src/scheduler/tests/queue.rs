use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::super::admission::UnderWay;
use super::super::queue::{Budget, Formed, ItemId, Queue};
use super::super::reply::{Collector, Reply, Subscriber};
use super::{BUDGET, ids, work};
use crate::work::{Want, Work};

struct Client {
    id: ItemId,
    joined: bool,
    collector: Arc<Collector>,
    reply: oneshot::Receiver<Reply>,
}

fn push_until(queue: &mut Queue, work: Work, key: u64, deadline: Option<Instant>) -> Client {
    let (collector, reply) = Collector::new(1);
    let permit = UnderWay::new(usize::MAX).enter(1, false).unwrap();
    let subscriber =
        Subscriber { collector: collector.clone(), index: 0, queued: Instant::now(), deadline, permit };
    // The content decides, not the hash: all have the same one.
    let (id, joined) = queue.push(Arc::new(work), 7, key, subscriber);
    Client { id, joined, collector, reply }
}

fn push(queue: &mut Queue, work: Work, key: u64) -> Client {
    push_until(queue, work, key, None)
}

/// A work of `length` tokens like no other of the test.
fn length(length: usize) -> Work {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mut ids = vec![0; length];
    ids[0] = NEXT.fetch_add(1, Ordering::Relaxed);
    work(&ids)
}

fn form(queue: &mut Queue, budget: Budget, fixed_tokens: f64) -> Formed {
    let now = Instant::now();
    queue.form(budget, fixed_tokens, now, |_| now)
}

fn lengths(formed: &Formed) -> Vec<usize> {
    formed.picks.iter().map(|pick| pick.length).collect()
}

#[test]
fn batches_keep_the_budget_and_look_past_what_does_not_fit() {
    let padded = Budget { padded: true, ..BUDGET };
    for (name, budget, fixed, items, batches) in [
        ("sum of tokens", BUDGET, 0.0, vec![4, 6, 1, 9], vec![vec![4, 6], vec![1, 9]]),
        ("number of inputs", BUDGET, 0.0, vec![1; 5], vec![vec![1; 4], vec![1]]),
        ("look-ahead", BUDGET, 0.0, vec![4, 9, 3, 8, 2], vec![vec![4, 3, 2], vec![9], vec![8]]),
        ("longer than the budget", BUDGET, 0.0, vec![30, 1, 2], vec![vec![30], vec![1, 2]]),
        ("a long one is passed over, not for ever", BUDGET, 0.0, vec![1, 30, 1], vec![vec![1, 1], vec![30]]),
        ("padded: equal lengths go together", padded, 0.0, vec![2, 5, 2, 5], vec![vec![2, 2], vec![5, 5]]),
        ("padded: longest times inputs", padded, 0.0, vec![3, 3, 3, 3], vec![vec![3; 3], vec![3]]),
        ("padded: cheap runs stay apart", padded, 0.0, vec![1, 5], vec![vec![1], vec![5]]),
        ("padded: dear runs are shared", padded, 100.0, vec![1, 5], vec![vec![1, 5]]),
        ("nothing", BUDGET, 0.0, vec![], vec![]),
    ] {
        let mut queue = Queue::new();
        let _clients: Vec<Client> =
            (0..).zip(items).map(|(key, n)| push(&mut queue, length(n), key)).collect();
        let mut formed = Vec::new();
        while queue.len() > 0 {
            formed.push(lengths(&form(&mut queue, budget, fixed)));
        }
        assert_eq!(formed, batches, "{name}");
        assert_eq!(queue.tokens(), 0, "{name}");
    }
}

#[test]
fn the_smallest_key_goes_first_and_equal_keys_in_order_of_arrival() {
    let mut queue = Queue::new();
    let keys = [5, 1, 9, 1, 0];
    let clients: Vec<Client> = keys.iter().map(|&key| push(&mut queue, length(1), key)).collect();
    let one = Budget { inputs: 1, ..BUDGET };
    let order: Vec<ItemId> = keys.iter().map(|_| form(&mut queue, one, 0.0).picks[0].id).collect();
    assert_eq!(order, [4, 1, 3, 0, 2].map(|i: usize| clients[i].id));
}

#[test]
fn batches_hold_one_kind_of_call() {
    let mut queue = Queue::new();
    let logits = |n| Work { want: Want::Logits, ..length(n) };
    let works = [length(1), logits(1), length(1), logits(1)];
    let _clients: Vec<Client> = (0..).zip(works).map(|(key, work)| push(&mut queue, work, key)).collect();
    for embeds in [true, false] {
        let formed = form(&mut queue, BUDGET, 0.0);
        assert_eq!(formed.picks.len(), 2);
        assert!(formed.picks.iter().all(|pick| matches!(pick.work.want, Want::Embed(_)) == embeds));
    }
}

#[test]
fn identical_inputs_are_one_item_which_moves_up() {
    let mut queue = Queue::new();
    let (same, other) = (length(3), length(1));
    let late = push(&mut queue, same.clone(), 100);
    let _between = push(&mut queue, other, 50);
    assert!(!late.joined);
    let early = push(&mut queue, same.clone(), 1);
    assert!(early.joined && early.id == late.id);
    assert_eq!((queue.len(), queue.tokens(), queue.tokens_before(0)), (2, 4, 4));
    assert!(push(&mut queue, same.clone(), 200).joined, "a later key does not move it");
    let one = Budget { inputs: 1, ..BUDGET };
    let first = form(&mut queue, one, 0.0);
    assert_eq!(first.picks[0].id, late.id);
    // It is still found while it runs, and not any more when it is done.
    assert!(push(&mut queue, same.clone(), 0).joined);
    assert_eq!(queue.remove(late.id).unwrap().subscribers.len(), 4);
    assert!(queue.remove(late.id).is_none());
    assert!(!push(&mut queue, same, 0).joined);
}

#[test]
fn works_that_differ_in_anything_are_not_joined() {
    let mut queue = Queue::new();
    let plain = work(&[1, 2]);
    let typed = Work::tokens(plain.want.clone(), vec![1, 2], Some(vec![0, 1]));
    let logits = Work { want: Want::Logits, ..plain.clone() };
    for work in [plain, typed, logits, work(&[1, 2, 3])] {
        assert!(!push(&mut queue, work, 0).joined);
    }
}

#[test]
fn those_who_left_cost_nothing() {
    let mut queue = Queue::new();
    let (a, b, shared) = (length(2), length(3), length(4));
    let gone = push(&mut queue, a, 0);
    let stays = push(&mut queue, b, 1);
    let one = push(&mut queue, shared.clone(), 2);
    let two = push(&mut queue, shared, 3);
    assert_eq!(queue.leave(&[gone.id], &gone.collector), 1);
    assert_eq!(queue.leave(&[gone.id], &gone.collector), 0, "once");
    assert_eq!(queue.leave(&[one.id], &one.collector), 1, "the other one still waits");
    assert_eq!((queue.len(), queue.tokens()), (2, 7));
    // One whose leaving was not told to this queue.
    stays.collector.leave(true);
    let formed = form(&mut queue, BUDGET, 0.0);
    assert_eq!((lengths(&formed), formed.dropped), (vec![4], 1));
    assert_eq!(queue.leave(&[two.id], &two.collector), 0, "what runs is not taken back");
}

#[tokio::test]
async fn what_would_be_late_is_given_up() {
    let mut queue = Queue::new();
    let now = Instant::now();
    let soon = Some(now + Duration::from_millis(10));
    let shared = length(2);
    let late = push_until(&mut queue, length(5), 0, soon);
    let both = push_until(&mut queue, shared.clone(), 1, soon);
    let _patient = push(&mut queue, shared, 1);
    let fits = push_until(&mut queue, length(1), 2, soon);
    // A millisecond for each token, and ten of them are left until the deadline; five have passed.
    let formed = queue.form(BUDGET, 0.0, now, |n| now + Duration::from_millis(5 + 2 * n as u64));
    assert_eq!(lengths(&formed), [2, 1]);
    let given_up: Vec<_> = formed.late.iter().map(|late| Arc::as_ptr(&late.collector)).collect();
    assert_eq!(given_up, [Arc::as_ptr(&late.collector)]);
    // Once it has passed, all are.
    assert!(queue.requeue(both.id) && queue.requeue(fits.id));
    let then = now + Duration::from_millis(10);
    let formed = queue.form(BUDGET, 0.0, then, |_| then);
    assert_eq!((lengths(&formed), formed.late.len()), (vec![2], 2));
}

#[test]
fn the_last_one_is_run_even_if_it_should_be_late() {
    let mut queue = Queue::new();
    let now = Instant::now();
    let _client = push_until(&mut queue, length(5), 0, Some(now + Duration::from_millis(10)));
    let formed = queue.form(BUDGET, 0.0, now, |_| now + Duration::from_secs(10));
    assert_eq!((lengths(&formed), formed.late.len()), (vec![5], 0));
}

#[test]
fn an_item_is_put_back_once() {
    let mut queue = Queue::new();
    let (first, second) = (push(&mut queue, length(1), 1), push(&mut queue, length(1), 2));
    assert!(!queue.requeue(first.id), "it does not run");
    form(&mut queue, BUDGET, 0.0);
    assert!(queue.requeue(second.id) && queue.requeue(first.id));
    assert_eq!(form(&mut queue, BUDGET, 0.0).picks[0].id, first.id, "in its old place");
    assert!(!queue.requeue(first.id));
    let removed = queue.remove(first.id).unwrap();
    assert!(removed.requeued && ids(&removed.work).len() == 1);
    let mut other = Queue::new();
    let id = other.insert(removed);
    assert_eq!(form(&mut other, BUDGET, 0.0).picks[0].id, id);
    assert!(!other.requeue(id));
}

#[test]
fn tokens_before_a_key_are_known_within_a_bucket() {
    let mut queue = Queue::new();
    let _clients: Vec<Client> = (0..100).map(|i| push(&mut queue, length(2), i * 1_000_000)).collect();
    for (key, tokens) in [(0, 2), (10_500_000, 22), (u64::MAX, 200)] {
        assert_eq!(queue.tokens_before(key), tokens, "{key}");
    }
}

#[tokio::test]
async fn an_answer_comes_once_and_a_lost_one_is_noticed() {
    let mut queue = Queue::new();
    let client = push(&mut queue, length(1), 0);
    drop(queue);
    drop(client.collector);
    assert!(client.reply.await.is_err());
}
