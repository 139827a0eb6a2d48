use super::*;

fn limits_of_trouble() -> Limits {
    Limits {
        engine_timeout: Duration::from_millis(100),
        unhealthy_exit: Some(Duration::from_millis(300)),
        ..limits()
    }
}

/// Calls with 666 do not come back.
fn stuck(gate: &Arc<Gate>) -> impl Fn(&[&Work]) -> Answers + Send + Sync + 'static {
    let held = gate.clone();
    move |works| {
        if works.iter().any(|work| ids(work)[0] == 666) {
            held.pass(works);
        }
        fine(works)
    }
}

async fn ends(scheduler: &Scheduler) -> End {
    tokio::time::timeout(Duration::from_secs(60), scheduler.end()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stuck_slot_of_two_ends_the_program_too() {
    let gate = Arc::new(Gate::default());
    let scheduler = scheduler(2, limits_of_trouble(), stuck(&gate));
    let (_t, _hung) = scheduler.ask(vec![work(&[666])], &Context::default());
    assert_eq!(ends(&scheduler).await, End::Hung);
    assert!(scheduler.health().is_err());
    assert!(scheduler.serves(), "what is under way is answered before the end");
    let (_t, other) = scheduler.ask(vec![work(&[1])], &Context::default());
    assert_eq!(outcome(other.await.unwrap()), [[1.0]]);
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_engine_ends_the_program_where_another_one_serves() {
    let lost = lane("main", 1, |_| Err(error(Status::Unhealthy, "lost")));
    let lanes = vec![lost, lane("spill", 1, fine)];
    let scheduler =
        Scheduler::start(lanes, limits_of_trouble(), Metrics::new(512).unwrap().capacity).unwrap();
    let (_t, reply) = scheduler.ask(vec![work(&[1])], &Context::default());
    assert_eq!(outcome(reply.await.unwrap()), [[1.0]]);
    assert_eq!(ends(&scheduler).await, End::Lost);
    assert!(scheduler.serves());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_behind_a_hung_call_goes_to_an_engine_that_works() {
    let gate = Arc::new(Gate::default());
    let lanes = vec![lane("main", 1, stuck(&gate)), lane("spill", 1, fine)];
    let limits = Limits { unhealthy_exit: None, ..limits_of_trouble() };
    let scheduler = Scheduler::start(lanes, limits, Metrics::new(512).unwrap().capacity).unwrap();
    let (_t, hung) = scheduler.ask(vec![work(&[666])], &Context::default());
    gate.wait(1);
    let (_t, waiting) = scheduler.ask(vec![work(&[1]), work(&[2])], &Context::default());
    let watched = scheduler.clone();
    let watchdog = tokio::spawn(async move { watched.end().await });
    assert_eq!(hung.await.unwrap().unwrap_err().failure.status, 503);
    let waiting = tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
    assert_eq!(outcome(waiting.unwrap()), [[1.0], [2.0]]);
    gate.open();
    watchdog.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_of_very_many_identical_inputs_is_taken_back_at_once() {
    let gate = Arc::new(Gate::default());
    let scheduler = scheduler(1, limits(), stuck(&gate));
    let (_t, running) = scheduler.ask(vec![work(&[666])], &Context::default());
    gate.wait(1);
    let (kept, _reply) = scheduler.ask(vec![work(&[1]); 50_000], &Context::default());
    let (left, _gone) = scheduler.ask(vec![work(&[1]); 50_000], &Context::default());
    let begin = std::time::Instant::now();
    drop(left);
    // 50,000 passes over 100,000 places took a minute.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    gate.open();
    running.await.unwrap().unwrap();
    drop(kept);
}
