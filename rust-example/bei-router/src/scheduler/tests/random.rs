//! Whatever happens, every request gets one reply, and that is its own.

use std::time::Instant;

use bei_backend::Priority;
use proptest::prelude::*;

use super::*;

/// A request, and what its client does.
#[derive(Clone, Debug)]
struct Case {
    /// First ids of its inputs: few, so that many are identical. 7 fails by itself, 8 makes its call fail, 9 makes it panic.
    inputs: Vec<(u32, usize)>,
    priority: u8,
    timeout_ms: Option<u64>,
    leaves: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let inputs = prop::collection::vec((0..12u32, 1..12usize), 1..8);
    (inputs, 0..3u8, prop::option::weighted(0.2, 0..3u64), prop::bool::weighted(0.1))
        .prop_map(|(inputs, priority, timeout_ms, leaves)| Case { inputs, priority, timeout_ms, leaves })
}

fn script(works: &[&Work]) -> Answers {
    for work in works {
        match ids(work)[0] {
            8 => return Err(error(Status::Inference, "a call that fails")),
            9 => panic!("scripted"),
            _ => {}
        }
    }
    let item = |work: &&Work| match ids(work)[0] {
        7 => Err(error(Status::NonFinite, "an input that fails")),
        _ => Ok(echo(work)),
    };
    Ok(works.iter().map(item).collect())
}

async fn client(scheduler: Arc<Scheduler>, case: Case) {
    let priority = [Priority::Low, Priority::Normal, Priority::High][usize::from(case.priority)];
    let deadline = case.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
    let context = Context { priority, deadline, ..Context::default() };
    let inputs: Vec<Vec<u32>> = case.inputs.iter().map(|&(id, length)| vec![id; length]).collect();
    let Ok(admission) = scheduler.admit(inputs.len(), 0, &context) else {
        assert!(deadline.is_some(), "refused without a reason");
        return;
    };
    let works = inputs.iter().map(|ids| work(ids)).collect();
    let Ok((ticket, reply)) = scheduler.submit(works, admission, &context) else {
        assert!(deadline.is_some(), "refused without a reason");
        return;
    };
    if case.leaves {
        drop(ticket);
        return;
    }
    if ticket.starts() {
        ticket.start();
    }
    let reply = tokio::time::timeout(Duration::from_secs(20), reply).await.expect("an answer was lost");
    let bad = |id: u32| (7..=9).contains(&id);
    match reply.expect("a reply was dropped") {
        Ok(answers) => {
            ticket.answered();
            assert!(!inputs.iter().any(|ids| bad(ids[0])), "a bad input was answered");
            let expected: Vec<Vec<f32>> =
                inputs.iter().map(|ids| ids.iter().map(|&id| id as f32).collect()).collect();
            assert_eq!(outcome(Ok(answers)), expected, "answers were swapped");
        }
        Err(refusal) => {
            ticket.failed();
            let item = refusal.item.expect("about no input");
            match refusal.failure.status.as_u16() {
                424 => assert!(bad(inputs[item][0]), "{:?} failed for another: {:?}", inputs[item], refusal),
                429 => assert!(deadline.is_some(), "{refusal:?}"),
                other => panic!("{other}: {refusal:?}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_item_is_lost_doubled_or_swapped(
        cases in prop::collection::vec(case(), 1..60),
        slots in 1..4usize,
        padded: bool,
    ) {
        // Scripted panics would fill the log.
        static QUIET: std::sync::Once = std::sync::Once::new();
        QUIET.call_once(|| {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if info.payload().downcast_ref::<&str>() != Some(&"scripted") {
                    hook(info);
                }
            }));
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
        runtime.block_on(async {
            let metrics = Metrics::new(512).unwrap().capacity;
            let budget = Budget { padded, ..BUDGET };
            let lane = Lane::new("main", Box::new(Script(script)), budget, slots, Cost::default(), metrics.lane("main"));
            let scheduler = Scheduler::start(vec![lane], limits(), metrics).unwrap();
            let clients: Vec<_> =
                cases.into_iter().map(|case| tokio::spawn(client(scheduler.clone(), case))).collect();
            for client in clients {
                client.await.unwrap();
            }
            tokio::time::timeout(Duration::from_secs(20), scheduler.drain()).await.expect("it does not drain");
            let lane = &scheduler.lanes[0];
            let state = lane.lock();
            assert_eq!((state.queue.len(), state.queue.tokens(), state.free), (0, 0, slots));
            assert!(state.runs.is_empty());
            drop(state);
            assert_eq!(scheduler.under_way.count(), 0, "inputs are still counted");
        });
    }
}
