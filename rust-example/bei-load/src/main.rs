//! The load generator's program.
#![deny(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bei_load::{Class, Load, Pace, Plan, Report, Target, run};
use clap::Parser;
use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};

const AFTER_HELP: &str = "\
A class is a list of key=value:
  name        its name in the report
  share       its weight beside the other classes [1]
  form        ids (lists of token ids) or texts [ids]
  tokens      token ids of an input, or words of a text: 8, or 4-12 [8]
  inputs      inputs of a request [1]
  distinct    different requests; each answer is learned before the load [256]
  route       /embed, /v1/embeddings or one of the same body [/embed]
  timeout_ms  the header Request-Timeout-Ms; later answers count as late
  priority    the header X-Request-Priority

Examples:
  How many requests 64 connections get through, and what they cost the process 4711:
    bei-load --url http://127.0.0.1:3000 --pid 4711 --connections 64 --class name=ids,tokens=8
  4000 requests a second, one in twenty of them long, whatever the server does:
    bei-load --url http://127.0.0.1:3000 --rate 4000 --connections 4096 \\
      --class name=short,tokens=4-12,share=19,timeout_ms=500 --class name=long,tokens=128-256,timeout_ms=2000

The exit status is 0 when no answer was wrong, swapped, doubled or lost, 1 when one was, and 2 when the run could not be made.";

/// Loads a server of embeddings and checks every answer.
#[derive(Debug, Parser)]
#[command(name = "bei-load", version, after_help = AFTER_HELP)]
struct Args {
    /// The server: http://host:port.
    #[arg(long)]
    url: Uri,

    /// The server's process: its processor time and memory are measured.
    #[arg(long)]
    pid: Option<i32>,

    /// A kind of request; see below. Can be given several times.
    #[arg(long = "class", required = true)]
    classes: Vec<Class>,

    /// Requests a second (an open loop, Poisson arrivals). Without it each connection waits for its answer (a closed loop).
    #[arg(long)]
    rate: Option<f64>,

    /// Connections; with --rate the most.
    #[arg(long, default_value_t = 64)]
    connections: usize,

    /// Threads of the generator.
    #[arg(long, default_value_t = 1)]
    threads: usize,

    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,

    /// Seconds before, of which answers are checked and nothing is measured.
    #[arg(long, default_value_t = 1.0)]
    warm_up: f64,

    /// Seconds that answers are awaited after the end.
    #[arg(long, default_value_t = 30.0)]
    patience: f64,

    /// Second of the measured time at which the process gets a SIGTERM.
    #[arg(long, requires = "pid")]
    stop_after: Option<f64>,

    /// Token ids are below this.
    #[arg(long, default_value_t = 30522)]
    vocabulary: u32,

    /// The server runs the mock engine with vectors of so many numbers: learned answers are compared with computed ones.
    #[arg(long, value_name = "DIMENSIONS")]
    mock: Option<usize>,

    /// A header of every request, such as 'Authorization: Bearer KEY'. Can be given several times.
    #[arg(long = "header", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// Seed of the inputs and of the arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// File for the report as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write 'Name: value'")?;
    let name = name.trim().parse().map_err(|error| format!("{name}: {error}"))?;
    let value = value.trim().parse().map_err(|error| format!("{value}: {error}"))?;
    Ok((name, value))
}

fn main() -> ExitCode {
    match measured(Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bei-load: {error}");
            ExitCode::from(2)
        }
    }
}

fn measured(args: Args) -> Result<bool, Box<dyn std::error::Error>> {
    let seconds = |flag: &str, value: f64| {
        Duration::try_from_secs_f64(value).map_err(|error| format!("--{flag} is {value}: {error}"))
    };
    let positive = |flag: &str, value: usize| {
        if value == 0 { Err(format!("--{flag} is 0; it must be 1 or more")) } else { Ok(value) }
    };
    let authority = match (args.url.scheme_str(), args.url.authority()) {
        (Some("http"), Some(authority)) => authority.to_string(),
        _ => return Err(format!("--url is {}; write http://host:port", args.url).into()),
    };
    if let Some(rate) = args.rate
        && (!rate.is_finite() || rate <= 0.0)
    {
        return Err(format!("--rate is {rate}; it must be above 0").into());
    }
    let target = Target { authority, headers: args.headers };
    let mut plan = Plan::new(target, args.classes, args.vocabulary, args.seed)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(plan.learn(args.mock))?;
    let load = Arc::new(Load {
        plan: Arc::new(plan),
        pace: args.rate.map_or(Pace::Closed, Pace::Open),
        connections: positive("connections", args.connections)?,
        threads: positive("threads", args.threads)?,
        warm_up: seconds("warm-up", args.warm_up)?,
        duration: seconds("seconds", args.seconds)?,
        patience: seconds("patience", args.patience)?,
        seed: args.seed,
        server: args.pid,
        stop_after: args.stop_after.map(|value| seconds("stop-after", value)).transpose()?,
    });
    let outcomes = run(&load)?;
    let report = Report::new(&load, outcomes);
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    print!("{report}");
    Ok(report.is_right())
}
