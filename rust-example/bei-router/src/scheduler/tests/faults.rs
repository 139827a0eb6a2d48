use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::*;

/// Sends works one by one while the engine is held, so that they make batches, and returns the status of each.
async fn statuses(scheduler: &Arc<Scheduler>, gate: &Gate, works: Vec<Work>) -> Vec<u16> {
    let (_ticket, first) = scheduler.ask(vec![work(&[1_000_000])], &Context::default());
    gate.wait(1);
    let asked: Vec<_> =
        works.into_iter().map(|work| scheduler.ask(vec![work], &Context::default())).collect();
    gate.open();
    first.await.unwrap().unwrap();
    let mut statuses = Vec::new();
    for (_ticket, reply) in asked {
        statuses.push(reply.await.unwrap().map_or_else(|refusal| refusal.failure.status.as_u16(), |_| 200));
    }
    statuses
}

async fn until_healthy(scheduler: &Scheduler) {
    let begin = Instant::now();
    while scheduler.health().is_err() {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_batch_is_halved_until_only_the_culprit_fails() {
    for panics in [false, true] {
        let gate = Arc::new(Gate::default());
        let held = gate.clone();
        let scheduler = scheduler(1, limits(), move |works| {
            held.pass(works);
            if works.iter().any(|work| ids(work)[0] == 666) {
                assert!(!panics, "scripted");
                return Err(error(Status::Internal, "a defect"));
            }
            fine(works)
        });
        let works = [1, 2, 666, 4].map(|id| work(&[id])).to_vec();
        assert_eq!(statuses(&scheduler, &gate, works).await, [200, 200, 424, 200], "{panics}");
        // 4, its halves, and the halves of the second half.
        assert_eq!(gate.calls().len(), 1 + 1 + 2 + 2);
        scheduler.drain().await;
        let state = scheduler.lanes[0].lock();
        assert_eq!((state.free, state.runs.len(), state.trouble.is_none()), (1, 0, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_engine_does_not_multiply_the_load() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let script = move |works: &[&Work]| {
        held.pass(works);
        match counted.fetch_add(1, Ordering::Relaxed) {
            0 => fine(works),
            _ => Err(error(Status::Inference, "broken")),
        }
    };
    let metrics = Metrics::new(512).unwrap().capacity;
    let budget = Budget { tokens: 1000, inputs: 1000, padded: false };
    let lane = Lane::new("main", Box::new(Script(script)), budget, 1, Cost::default(), metrics.lane("main"));
    let scheduler = Scheduler::start(vec![lane], limits(), metrics).unwrap();
    let works = (0..512).map(|i| work(&[i])).collect();
    assert!(statuses(&scheduler, &gate, works).await.iter().all(|&status| status == 424));
    let calls = calls.load(Ordering::Relaxed);
    assert!(calls <= 2 + 4 * 2 * 10, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_engines_items_are_run_once_more() {
    for (failures, status) in [(1, 200), (100, 503)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let scheduler = scheduler(1, limits(), move |works| {
            if counted.fetch_add(1, Ordering::Relaxed) < failures {
                return Err(error(Status::Unhealthy, "lost"));
            }
            fine(works)
        });
        let (_ticket, reply) = scheduler.ask(vec![work(&[1])], &Context::default());
        let reply = reply.await.unwrap();
        assert_eq!(reply.map_or_else(|refusal| refusal.failure.status.as_u16(), |_| 200), status);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        scheduler.drain().await;
        assert_eq!(scheduler.health().is_ok(), status == 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_was_lost_in_a_batch_is_run_once_more() {
    let calls = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Gate::default());
    let (counted, held) = (calls.clone(), gate.clone());
    let scheduler = scheduler(1, limits(), move |works| {
        held.pass(works);
        let second = counted.fetch_add(1, Ordering::Relaxed) == 1;
        let item = |(i, work): (usize, &&Work)| {
            if second && i > 0 { Err(error(Status::Unhealthy, "lost")) } else { Ok(echo(work)) }
        };
        Ok(works.iter().enumerate().map(item).collect())
    });
    let works = [1, 2, 3].map(|id| work(&[id])).to_vec();
    assert_eq!(statuses(&scheduler, &gate, works).await, [200; 3]);
    assert_eq!(gate.calls()[2], [[2], [3]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_engines_items_go_to_one_that_works() {
    let lost = lane("main", 1, |_| Err(error(Status::Unhealthy, "lost")));
    let works = lane("spill", 1, fine);
    let scheduler =
        Scheduler::start(vec![lost, works], limits(), Metrics::new(512).unwrap().capacity).unwrap();
    for i in 0..3 {
        let (_ticket, reply) = scheduler.ask(vec![work(&[i]), work(&[i; 10])], &Context::default());
        assert_eq!(outcome(reply.await.unwrap()).len(), 2);
    }
    assert_eq!(scheduler.lanes[0].lock().failures, 1, "a lane in trouble is left alone");
    assert!(scheduler.health().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_call_is_given_up_and_its_slot_comes_back() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let limits = Limits { engine_timeout: Duration::from_millis(100), ..limits() };
    let scheduler = scheduler(2, limits, move |works| {
        if works.iter().any(|work| ids(work)[0] == 666) {
            held.pass(works);
        }
        fine(works)
    });
    let watched = scheduler.clone();
    let watchdog = tokio::spawn(async move { watched.end().await });
    let (_t0, hung) = scheduler.ask(vec![work(&[666; 10])], &Context::default());
    gate.wait(1);
    let told = tokio::time::timeout(PATIENCE, hung).await.unwrap();
    assert_eq!(told.unwrap().unwrap_err().failure.status, 503);
    assert!(scheduler.health().unwrap_err().message.contains("100 ms"));
    assert_eq!(scheduler.lanes[0].lock().hung, 1);
    // The other slot works; that does not make the lane healthy.
    let (_t1, other) = scheduler.ask(vec![work(&[1])], &Context::default());
    assert_eq!(outcome(other.await.unwrap()), [[1.0]]);
    assert!(scheduler.health().is_err());
    gate.open();
    until_healthy(&scheduler).await;
    let lane = &scheduler.lanes[0];
    let state = lane.lock();
    assert_eq!((state.free, state.hung, state.runs.len()), (2, 0, 0));
    watchdog.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_no_call_comes_back_all_are_told_and_it_ends() {
    let gate = Arc::new(Gate::default());
    let held = gate.clone();
    let limits = Limits {
        engine_timeout: Duration::from_millis(100),
        unhealthy_exit: Some(Duration::from_millis(100)),
        ..limits()
    };
    let scheduler = scheduler(1, limits, move |works| {
        held.pass(works);
        fine(works)
    });
    let asked: Vec<_> = (0..3).map(|i| scheduler.ask(vec![work(&[i; 10])], &Context::default())).collect();
    let end = tokio::time::timeout(PATIENCE, scheduler.end()).await.unwrap();
    assert_eq!(end, End::Hung);
    for (_ticket, reply) in asked {
        assert_eq!(reply.await.unwrap().unwrap_err().failure.status, 503);
    }
    assert_eq!(scheduler.admit(1, 0, &Context::default()).unwrap_err().status, 503);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_comes_back_by_itself_is_noticed_without_requests() {
    let lost = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_lost = lost.clone();
    let limits = Limits { unhealthy_exit: Some(Duration::from_secs(3600)), ..limits() };
    let scheduler = scheduler(1, limits, move |works| match is_lost.load(Ordering::Relaxed) {
        true => Err(error(Status::Unhealthy, "lost")),
        false => fine(works),
    });
    let watched = scheduler.clone();
    let watchdog = tokio::spawn(async move { watched.end().await });
    let (_ticket, reply) = scheduler.ask(vec![work(&[1])], &Context::default());
    reply.await.unwrap().unwrap_err();
    assert!(scheduler.health().is_err());
    lost.store(false, Ordering::Relaxed);
    until_healthy(&scheduler).await;
    watchdog.abort();
}
