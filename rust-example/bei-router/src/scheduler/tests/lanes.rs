use std::sync::Arc;
use std::time::Duration;

use bei_backend::Priority;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_takes_the_latest_arrivals_and_short_requests_go_before_long_ones() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let scheduler = scheduler(1, limits(), move |works| {
        held.pass(works);
        fine(works)
    });
    // All arrive at once: the time that this test takes must not count.
    let at_once = Context::default();
    let context = || at_once.clone();
    let (_t0, first) = scheduler.ask(vec![work(&[1])], &context());
    gate.wait(1);
    // A third of a second of work by the model's guess, then short ones.
    let long: Vec<Work> = (0..3000).map(|i| work(&[100, i, 0, 0, 0, 0, 0, 0, 0, 0])).collect();
    let (_t1, long) = scheduler.ask(long, &context());
    let (_t2, short) = scheduler.ask(vec![work(&[2; 10])], &context());
    let high = Context { priority: Priority::High, ..context() };
    let (_t3, high) = scheduler.ask(vec![work(&[3; 10])], &high);
    gate.open();
    assert_eq!(outcome(first.await.unwrap()), [[1.0]]);
    assert_eq!(outcome(high.await.unwrap()), [[3.0; 10]]);
    assert_eq!(outcome(short.await.unwrap()), [[2.0; 10]]);
    let long = outcome(long.await.unwrap());
    assert!(long.iter().enumerate().all(|(i, numbers)| numbers[1] == i as f32));
    let calls = gate.calls();
    let place = |id: u32| calls.iter().position(|call| call[0][0] == id).unwrap();
    assert_eq!(place(3), 1, "high priority goes first");
    assert!(place(2) < 100, "a short request does not wait for a long one: {}", place(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_calls_are_out_as_there_are_slots() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let scheduler = scheduler(2, limits(), move |works| {
        held.pass(works);
        fine(works)
    });
    let asked: Vec<_> = (0..5).map(|i| scheduler.ask(vec![work(&[i; 10])], &Context::default())).collect();
    gate.wait(2);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(gate.calls().len(), 2);
    gate.open();
    for (i, (_ticket, reply)) in asked.into_iter().enumerate() {
        assert_eq!(outcome(reply.await.unwrap()), [[i as f32; 10]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_join_a_batch_until_one_of_them_starts_it() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let scheduler = scheduler(2, limits(), move |works| {
        held.pass(works);
        fine(works)
    });
    // Threads that have not begun to wait would take what comes without being woken.
    while scheduler.lanes[0].lock().waiting < 3 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let context = Context::default();
    let submit = |id: u32| {
        let admission = scheduler.admit(1, 0, &context).unwrap();
        scheduler.submit(vec![work(&[id])], admission, &context).unwrap()
    };
    let all = [submit(1), submit(2), submit(3)];
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(all.iter().all(|(ticket, _)| ticket.starts()));
    assert!(gate.calls().is_empty(), "a slot is free, and nobody has said that it shall start");
    for (ticket, _) in &all {
        ticket.start();
    }
    gate.wait(1);
    gate.open();
    for (id, (_ticket, reply)) in (1..).zip(all) {
        assert_eq!(outcome(reply.await.unwrap()), [[id as f32]]);
    }
    assert_eq!(gate.calls(), [[[1], [2], [3]]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gone_clients_items_are_dropped_and_shared_ones_stay() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let scheduler = scheduler(1, limits(), move |works| {
        held.pass(works);
        fine(works)
    });
    let (_t0, first) = scheduler.ask(vec![work(&[1])], &Context::default());
    gate.wait(1);
    let (gone, _) = scheduler.ask(vec![work(&[2]), work(&[3])], &Context::default());
    let (_t1, stays) = scheduler.ask(vec![work(&[3])], &Context::default());
    assert_eq!(scheduler.queued(), 2);
    drop(gone);
    assert_eq!(scheduler.queued(), 1);
    gate.open();
    assert_eq!(outcome(first.await.unwrap()), [[1.0]]);
    assert_eq!(outcome(stays.await.unwrap()), [[3.0]]);
    assert_eq!(gate.calls(), [[[1]], [[3]]]);
    scheduler.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_failure_of_a_request_drops_its_other_items() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let scheduler = scheduler(1, limits(), move |works| {
        held.pass(works);
        std::thread::sleep(Duration::from_millis(2));
        let item = |work: &&Work| match ids(work)[0] {
            666 => Err(error(Status::NonFinite, "NaN")),
            _ => Ok(echo(work)),
        };
        Ok(works.iter().map(item).collect())
    });
    let mut works = vec![work(&[666])];
    works.extend((0..100).map(|i| work(&[i; 10])));
    let (ticket, reply) = scheduler.ask(works, &Context::default());
    gate.wait(1);
    gate.open();
    let refusal = reply.await.unwrap().unwrap_err();
    ticket.failed();
    assert_eq!((refusal.item, refusal.failure.status.as_u16()), (Some(0), 424));
    scheduler.drain().await;
    assert!(gate.calls().len() < 101, "{}", gate.calls().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_told_with_the_time_to_come_again() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let slow = move |works: &[&Work]| {
        held.pass(works);
        fine(works)
    };
    // Times that are only predicted, so long that no stall counts.
    let limits = Limits { max_queue_wait: Duration::from_secs(10), ..limits() };
    let mut cost = Cost::default();
    cost.observe(1, Duration::from_secs(10));
    cost.observe(10, Duration::from_secs(100));
    let metrics = Metrics::new(512).unwrap().capacity;
    let lane = Lane::new("main", Box::new(Script(slow)), BUDGET, 1, cost, metrics.lane("main"));
    let scheduler = Scheduler::start(vec![lane], limits, metrics.clone()).unwrap();
    let soon = |seconds| Context {
        deadline: Some(std::time::Instant::now() + Duration::from_secs(seconds)),
        ..Context::default()
    };
    // An idle engine admits whatever is predicted: only so can the prediction learn.
    let (_t0, first) = scheduler.ask(vec![work(&[1; 10])], &soon(50));
    gate.wait(1);
    let failure = scheduler.admit(1, 0, &soon(30)).unwrap_err();
    assert_eq!((failure.status.as_u16(), failure.cause), (429, "overloaded"));
    assert!(failure.message.contains("deadline"), "{}", failure.message);
    // Nothing waits: one more is let in, and makes a queue that is too long for the next.
    let long = (0..4).map(|i| work(&[i + 10; 10])).collect();
    let (_t1, second) = scheduler.ask(long, &Context::default());
    let late = Context { priority: Priority::Low, ..Context::default() };
    let failure = scheduler.admit(1, 0, &late).unwrap_err();
    assert!(failure.message.contains("max_queue_wait_ms"), "{}", failure.message);
    let retry = failure.retry_after.unwrap();
    assert!((400..=500).contains(&retry), "{retry}");
    // Those after tokenizing are refused as well.
    let admission = scheduler.admit(1, 0, &soon(6000)).ok();
    assert!(admission.is_none(), "the wait counts for all");
    assert_eq!(metrics.shed.with_label_values(&["wait"]).get(), 2);
    assert_eq!(metrics.shed.with_label_values(&["deadline"]).get(), 1);
    gate.open();
    drop((first.await.unwrap(), second.await.unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_inputs_under_way_is_bounded() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let limits = Limits { max_concurrent_requests: 3, ..limits() };
    let scheduler = scheduler(1, limits, move |works| {
        held.pass(works);
        fine(works)
    });
    let (ticket, _reply) = scheduler.ask((0..50).map(|i| work(&[i])).collect(), &Context::default());
    let failure = scheduler.admit(1, 0, &Context::default()).unwrap_err();
    assert!(failure.message.contains("limit of 3") && failure.retry_after.is_some(), "{failure:?}");
    gate.wait(1);
    drop(ticket);
    gate.open();
    scheduler.drain().await;
    // All permits have come back.
    scheduler.admit(1000, 0, &Context::default()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_scheduler_answers_what_waits_and_refuses_the_rest() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let scheduler = scheduler(1, limits(), move |works| {
        held.pass(works);
        fine(works)
    });
    let asked: Vec<_> = (0..3).map(|i| scheduler.ask(vec![work(&[i; 10])], &Context::default())).collect();
    gate.wait(1);
    let (draining, late) = (scheduler.clone(), scheduler.admit(1, 0, &Context::default()).unwrap());
    let drained = tokio::spawn(async move { draining.drain().await });
    while !scheduler.lanes[0].lock().closed {
        tokio::task::yield_now().await;
    }
    let refused = scheduler.submit(vec![work(&[9])], late, &Context::default()).err().unwrap();
    assert_eq!(refused.status, 503);
    gate.open();
    for (_ticket, reply) in asked {
        reply.await.unwrap().unwrap();
    }
    tokio::time::timeout(Duration::from_secs(10), drained).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_scheduler_answers_those_that_wait() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let scheduler = scheduler(1, limits(), move |works| {
        held.pass(works);
        fine(works)
    });
    let asked: Vec<_> = (0..3).map(|i| scheduler.ask(vec![work(&[i; 10])], &Context::default())).collect();
    gate.wait(1);
    scheduler.abandon();
    gate.open();
    let mut statuses = Vec::new();
    for (_ticket, reply) in asked {
        statuses.push(reply.await.unwrap().map_or_else(|refusal| refusal.failure.status.as_u16(), |_| 200));
    }
    assert_eq!(statuses, [200, 503, 503]);
}
