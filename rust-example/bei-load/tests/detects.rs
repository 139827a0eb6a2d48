//! What a broken server does is seen: it learns well, and then misbehaves in one way.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bei_load::{Load, Pace, Plan, Target, mock, run};
use serde_json::Value;

const DISTINCT: usize = 100;
const VOCABULARY: u32 = 4;
const DIMENSIONS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    None,
    Wrong,
    Swapped,
    Doubled,
    Cut,
    Silent,
    Refusing(&'static str),
}

/// A server of /embed that has a defect in every tenth answer once all requests are learned.
fn serve(defect: Defect) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let count = count.clone();
            thread::spawn(move || connection(stream.unwrap(), defect, &count));
        }
    });
    address
}

fn connection(stream: TcpStream, defect: Defect, count: &AtomicUsize) {
    let (mut reader, mut writer) = (BufReader::new(stream.try_clone().unwrap()), stream);
    while let Some(body) = request(&mut reader) {
        let ids: Vec<u32> = serde_json::from_value(body["inputs"].clone()).unwrap();
        let of = |ids: &[u32]| serde_json::to_string(&[mock::vector(ids, DIMENSIONS)]).unwrap();
        let ok = |body: String| format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let number = count.fetch_add(1, Ordering::Relaxed);
        let broken = number >= DISTINCT && number.is_multiple_of(10);
        let reply = match defect {
            Defect::Wrong if broken => ok(of(&[1, 2, 3, 4])),
            // Requests have one id each of a few, so that most of these are another request's.
            Defect::Swapped if broken => ok(of(&[(ids[0] + 1) % VOCABULARY])),
            Defect::Doubled if broken => ok(of(&ids)).repeat(2),
            Defect::Cut if broken => ok(of(&ids))[..60].to_string(),
            Defect::Silent if broken => {
                thread::sleep(Duration::from_secs(2));
                return;
            }
            Defect::Refusing(header) if broken => {
                format!("HTTP/1.1 429 Too Many Requests\r\n{header}content-length: 0\r\n\r\n")
            }
            _ => ok(of(&ids)),
        };
        let cut = defect == Defect::Cut && broken;
        if writer.write_all(reply.as_bytes()).is_err() || cut {
            return;
        }
    }
}

fn request(reader: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    serde_json::from_slice(&body).ok()
}

/// A load of answers enough, which one that stalled does not have. A silent server's takes most of its time for waiting.
fn load(defect: Defect, pace: Pace) -> (bei_load::Tally, bool) {
    for _ in 0..100 {
        let (tally, right) = try_load(defect, pace);
        let counted: u64 = tally.classes[0].statuses.values().sum();
        if counted >= 100 || defect == Defect::Silent && tally.checked > 0 {
            return (tally, right);
        }
    }
    panic!("{pace:?} {defect:?}: no load has answers enough");
}

fn try_load(defect: Defect, pace: Pace) -> (bei_load::Tally, bool) {
    let target = Target { authority: serve(defect), headers: Vec::new() };
    let class = format!("name=a,tokens=1,distinct={DISTINCT}").parse().unwrap();
    let mut plan = Plan::new(target, vec![class], VOCABULARY, 1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(plan.learn(Some(DIMENSIONS))).unwrap();
    let load = Arc::new(Load {
        plan: Arc::new(plan),
        pace,
        connections: 4,
        threads: 2,
        warm_up: Duration::from_millis(50),
        duration: Duration::from_millis(200),
        patience: if defect == Defect::Silent { Duration::from_millis(300) } else { Duration::from_secs(60) },
        seed: 1,
        server: None,
        stop_after: None,
    });
    let outcomes = run(&load).unwrap();
    let tally = outcomes.tally.clone();
    (tally, bei_load::Report::new(&load, outcomes).is_right())
}

#[test]
fn each_defect_is_counted_as_what_it_is() {
    for pace in [Pace::Closed, Pace::Open(2000.0)] {
        for defect in
            [Defect::None, Defect::Wrong, Defect::Swapped, Defect::Doubled, Defect::Cut, Defect::Silent]
        {
            let (tally, right) = load(defect, pace);
            for (kind, count) in [
                (Defect::Wrong, tally.wrong),
                (Defect::Swapped, tally.swapped),
                (Defect::Doubled, tally.doubled),
            ] {
                assert_eq!(count > 0, defect == kind, "{pace:?} {defect:?}: {count} {kind:?}");
            }
            let lost = matches!(defect, Defect::Cut | Defect::Silent);
            assert_eq!(tally.lost > 0, lost, "{pace:?} {defect:?}: {:?}", tally.described);
            assert_eq!(right, defect == Defect::None, "{pace:?} {defect:?}");
        }
    }
}

#[test]
fn refusals_are_no_mistakes_but_must_say_when_to_try_again() {
    for (header, missing, longest) in
        [("retry-after: 3\r\n", false, 3), ("retry-after: 0\r\n", true, 0), ("", true, 0)]
    {
        let (tally, right) = load(Defect::Refusing(header), Pace::Closed);
        assert!(right && tally.classes[0].statuses[&429] > 0, "{:?}", tally.classes[0].statuses);
        assert_eq!((tally.no_retry_after > 0, tally.longest_retry_after), (missing, longest), "{header:?}");
    }
}

#[test]
fn a_server_that_answers_falsely_in_calm_is_refused() {
    let target = Target { authority: serve(Defect::None), headers: Vec::new() };
    let class = "name=a,tokens=3".parse().unwrap();
    let mut plan = Plan::new(target, vec![class], 100, 1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let error = runtime.block_on(plan.learn(Some(DIMENSIONS + 1))).unwrap_err().to_string();
    assert!(error.contains("class a") && error.contains("not what the mock engine computes"), "{error}");
}
