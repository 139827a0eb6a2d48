use std::time::Duration;

use bei_backend::{Allocator, allocator};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, exponential_buckets,
};

use crate::capacity::Capacity;
use crate::failure::Failure;
use crate::timing::Timing;

/// What is done with an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Embed,
    Predict,
}

fn method(single: bool) -> &'static str {
    if single { "single" } else { "batch" }
}

/// Inputs of one kind.
struct InputMetrics {
    count: IntCounter,
    success: IntCounter,
    durations: Durations,
}

impl InputMetrics {
    fn new(registry: &Registry, name: &str, verb: &str) -> Result<InputMetrics, prometheus::Error> {
        Ok(InputMetrics {
            count: counter(registry, &format!("{name}_count"), &format!("Inputs to be {verb}"))?,
            success: counter(registry, &format!("{name}_success"), &format!("Inputs {verb}"))?,
            durations: Durations::new(registry, name, &format!("an input that was {verb}"))?,
        })
    }
}

/// Where the time goes.
struct Durations {
    total: Histogram,
    tokenization: Histogram,
    queue: Histogram,
    inference: Histogram,
}

impl Durations {
    fn new(registry: &Registry, name: &str, of: &str) -> Result<Durations, prometheus::Error> {
        let seconds = |part: &str, help: &str| {
            let (name, help) = (format!("{name}{part}_duration"), format!("Seconds of {of}{help}"));
            histogram(registry, &name, &help, self::seconds()?)
        };
        Ok(Durations {
            total: seconds("", "")?,
            tokenization: seconds("_tokenization", ": tokenizing")?,
            queue: seconds("_queue", ": waiting for a batch, on average")?,
            inference: seconds("_inference", ": its batches, on average")?,
        })
    }

    fn observe(&self, total: Duration, timing: &Timing) {
        self.total.observe(total.as_secs_f64());
        self.tokenization.observe(timing.tokenization.as_secs_f64());
        self.queue.observe(timing.queue.as_secs_f64());
        self.inference.observe(timing.inference.as_secs_f64());
    }
}

/// Those stages of a request that the family has no names for.
pub struct Stages {
    /// Reading the JSON of its body.
    pub parse: Histogram,
    /// Cutting, normalising, probabilities.
    pub finish: Histogram,
    /// Writing the JSON of its reply.
    pub write: Histogram,
}

impl Stages {
    fn new(registry: &Registry) -> Result<Stages, prometheus::Error> {
        let help = "Seconds of stages of a request beside tokenization, queue and inference";
        let options = HistogramOpts::new("bei_router_stage_duration", help).buckets(seconds()?);
        let stages = HistogramVec::new(options, &["stage"])?;
        registry.register(Box::new(stages.clone()))?;
        let of = |stage| stages.with_label_values(&[stage]);
        Ok(Stages { parse: of("parse"), finish: of("finish"), write: of("write") })
    }
}

/// The family's buckets of durations.
fn seconds() -> Result<Vec<f64>, prometheus::Error> {
    exponential_buckets(0.000_015, 1.5, 35)
}

/// The server's metrics, under the family's names. The library's own follow them on /metrics.
pub struct Metrics {
    registry: Registry,
    request_count: IntCounterVec,
    request_success: IntCounterVec,
    request_failure: IntCounterVec,
    embed: InputMetrics,
    predict: InputMetrics,
    durations: Durations,
    pub stages: Stages,
    input_length: Histogram,
    /// Of the scheduler.
    pub capacity: Capacity,
    queue_size: IntGauge,
    malloc: IntGaugeVec,
}

impl Metrics {
    pub fn new(max_input_length: usize) -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let powers = |count| exponential_buckets(1.0, 2.0, count);
        let lengths = (max_input_length.max(1).ilog2() as usize + 2).min(20);
        let batch_size = histogram(r, "te_batch_next_size", "Inputs of a batch", powers(13)?)?;
        let batch_tokens = histogram(r, "te_batch_next_tokens", "Tokens of a batch", powers(21)?)?;
        let request_failure = counters(r, "te_request_failure", "Requests failed", "err")?;
        let dropped = request_failure.with_label_values(&["dropped"]);
        Ok(Metrics {
            capacity: Capacity::new(r, batch_size, batch_tokens, dropped)?,
            request_count: counters(r, "te_request_count", "Requests", "method")?,
            request_success: counters(r, "te_request_success", "Requests answered", "method")?,
            request_failure,
            embed: InputMetrics::new(r, "te_embed", "embedded")?,
            predict: InputMetrics::new(r, "te_predict", "classified")?,
            durations: Durations::new(r, "te_request", "a request")?,
            stages: Stages::new(r)?,
            input_length: histogram(r, "te_request_input_length", "Tokens of an input", powers(lengths)?)?,
            malloc: {
                let help = "Bytes of the C allocator: in_use and free in arenas, mapped outside of them";
                let gauge = IntGaugeVec::new(Opts::new("bei_router_malloc_bytes", help), &["state"])?;
                r.register(Box::new(gauge.clone()))?;
                gauge
            },
            queue_size: {
                let gauge = IntGauge::new("te_queue_size", "Inputs that wait for a batch")?;
                r.register(Box::new(gauge.clone()))?;
                gauge
            },
            registry,
        })
    }

    /// A request arrived, with one input that is not in a list, or with a batch of them.
    pub fn request(&self, single: bool) {
        self.request_count.with_label_values(&[method(single)]).inc();
    }

    /// Inputs were admitted.
    pub fn inputs(&self, kind: Kind, inputs: usize) {
        self.of(kind).count.inc_by(inputs as u64);
    }

    /// A request was answered. Each of its inputs counts with the request's durations: those of the queue and the batch are means.
    pub fn success(&self, kind: Kind, single: bool, inputs: usize, timing: &Timing) {
        self.request_success.with_label_values(&[method(single)]).inc();
        let total = timing.start.elapsed();
        self.durations.observe(total, timing);
        let of_inputs = self.of(kind);
        of_inputs.success.inc_by(inputs as u64);
        for _ in 0..inputs {
            of_inputs.durations.observe(total, timing);
        }
    }

    fn of(&self, kind: Kind) -> &InputMetrics {
        match kind {
            Kind::Embed => &self.embed,
            Kind::Predict => &self.predict,
        }
    }

    pub fn failure(&self, failure: &Failure) {
        self.request_failure.with_label_values(&[failure.cause]).inc();
    }

    pub fn input(&self, tokens: usize) {
        self.input_length.observe(tokens as f64);
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self, queue_size: usize) -> Result<String, prometheus::Error> {
        self.queue_size.set(queue_size as i64);
        if let Some(Allocator { in_use, free, mapped }) = allocator() {
            for (state, bytes) in [("in_use", in_use), ("free", free), ("mapped", mapped)] {
                self.malloc.with_label_values(&[state]).set(bytes as i64);
            }
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}

fn counters(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    let counters = IntCounterVec::new(Opts::new(name, help), &[label])?;
    registry.register(Box::new(counters.clone()))?;
    Ok(counters)
}

fn histogram(
    registry: &Registry,
    name: &str,
    help: &str,
    buckets: Vec<f64>,
) -> Result<Histogram, prometheus::Error> {
    let histogram = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?;
    registry.register(Box::new(histogram.clone()))?;
    Ok(histogram)
}
