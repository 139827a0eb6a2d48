use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
    exponential_buckets,
};

use crate::failure::Failure;
use crate::timing::Timing;

/// The server's metrics, under the family's names. The library's own follow them on /metrics.
pub struct Metrics {
    registry: Registry,
    request_count: IntCounterVec,
    request_success: IntCounterVec,
    request_failure: IntCounterVec,
    embed_count: IntCounter,
    embed_success: IntCounter,
    request_duration: Histogram,
    tokenization_duration: Histogram,
    queue_duration: Histogram,
    inference_duration: Histogram,
    input_length: Histogram,
    batch_size: Histogram,
    batch_tokens: Histogram,
    queue_size: IntGauge,
}

impl Metrics {
    pub fn new(max_input_length: usize) -> Result<Metrics, prometheus::Error> {
        let registry = Registry::new();
        let r = &registry;
        let seconds = || exponential_buckets(0.000_015, 1.5, 35);
        let powers = |count| exponential_buckets(1.0, 2.0, count);
        let lengths = (max_input_length.max(1).ilog2() as usize + 2).min(20);
        Ok(Metrics {
            request_count: counters(r, "te_request_count", "Requests", "method")?,
            request_success: counters(r, "te_request_success", "Requests answered", "method")?,
            request_failure: counters(r, "te_request_failure", "Requests failed", "err")?,
            embed_count: counter(r, "te_embed_count", "Inputs")?,
            embed_success: counter(r, "te_embed_success", "Inputs answered")?,
            request_duration: histogram(r, "te_request_duration", "Seconds of a request", seconds()?)?,
            tokenization_duration: histogram(
                r,
                "te_request_tokenization_duration",
                "Seconds of a request's tokenizing",
                seconds()?,
            )?,
            queue_duration: histogram(
                r,
                "te_request_queue_duration",
                "Seconds that a request's inputs waited, on average",
                seconds()?,
            )?,
            inference_duration: histogram(
                r,
                "te_request_inference_duration",
                "Seconds of the batches of a request's inputs, on average",
                seconds()?,
            )?,
            input_length: histogram(r, "te_request_input_length", "Tokens of an input", powers(lengths)?)?,
            batch_size: histogram(r, "te_batch_next_size", "Inputs of a batch", powers(13)?)?,
            batch_tokens: histogram(r, "te_batch_next_tokens", "Tokens of a batch", powers(21)?)?,
            queue_size: {
                let gauge = IntGauge::new("te_queue_size", "Inputs that wait for a batch")?;
                r.register(Box::new(gauge.clone()))?;
                gauge
            },
            registry,
        })
    }

    /// A request arrived. `method`: "single" or "batch", as the family counts.
    pub fn request(&self, method: &str) {
        self.request_count.with_label_values(&[method]).inc();
    }

    /// Inputs were admitted.
    pub fn admitted(&self, inputs: usize) {
        self.embed_count.inc_by(inputs as u64);
    }

    pub fn success(&self, method: &str, inputs: usize, timing: &Timing) {
        self.request_success.with_label_values(&[method]).inc();
        self.embed_success.inc_by(inputs as u64);
        self.request_duration.observe(timing.start.elapsed().as_secs_f64());
        self.tokenization_duration.observe(timing.tokenization.as_secs_f64());
        self.queue_duration.observe(timing.queue.as_secs_f64());
        self.inference_duration.observe(timing.inference.as_secs_f64());
    }

    pub fn failure(&self, failure: &Failure) {
        self.request_failure.with_label_values(&[failure.cause]).inc();
    }

    /// Inputs left the queue because their clients had gone.
    pub fn dropped(&self, inputs: usize) {
        if inputs > 0 {
            self.request_failure.with_label_values(&["dropped"]).inc_by(inputs as u64);
        }
    }

    pub fn input(&self, tokens: usize) {
        self.input_length.observe(tokens as f64);
    }

    pub fn batch(&self, inputs: usize, tokens: usize) {
        self.batch_size.observe(inputs as f64);
        self.batch_tokens.observe(tokens as f64);
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self, queue_size: usize) -> Result<String, prometheus::Error> {
        self.queue_size.set(queue_size as i64);
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
