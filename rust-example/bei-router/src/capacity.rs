//! What an autoscaler and an operator need to know of the scheduler.

use std::time::Duration;

use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use crate::scheduler::Budget;

/// Metrics of all lanes, under the prefix bei_router_. Those that are states are set when they are asked for.
#[derive(Clone)]
pub struct Capacity {
    pub queued_tokens: IntGaugeVec,
    pub predicted_wait: GaugeVec,
    pub slots: IntGaugeVec,
    pub slots_in_use: IntGaugeVec,
    pub healthy: IntGaugeVec,
    pub under_way: IntGauge,
    pub items: IntCounter,
    pub dedupe_hits: IntCounter,
    pub shed: IntCounterVec,
    pub spilled: IntCounter,
    pub hung_calls: IntCounter,
    bisections: IntCounter,
    requeued: IntCounter,
    fill: Histogram,
    waste: Histogram,
    busy: CounterVec,
    batch_size: Histogram,
    batch_tokens: Histogram,
    dropped: IntCounter,
}

impl Capacity {
    /// `batch_size`, `batch_tokens` and `dropped`: the family's metrics.
    pub fn new(
        registry: &Registry,
        batch_size: Histogram,
        batch_tokens: Histogram,
        dropped: IntCounter,
    ) -> Result<Capacity, prometheus::Error> {
        let lane = &["lane"];
        let gauges = |name: &str, help: &str| {
            let gauges = IntGaugeVec::new(Opts::new(name, help), lane)?;
            registry.register(Box::new(gauges.clone()))?;
            Ok::<_, prometheus::Error>(gauges)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let ratio = |name: &str, help: &str| {
            let tenths = (1..=10).map(|tenth| f64::from(tenth) / 10.0).collect();
            let ratio = Histogram::with_opts(HistogramOpts::new(name, help).buckets(tenths))?;
            registry.register(Box::new(ratio.clone()))?;
            Ok::<_, prometheus::Error>(ratio)
        };
        let under_way = IntGauge::new("bei_router_inputs_under_way", "Inputs admitted and not answered yet")?;
        let wait = Opts::new("bei_router_predicted_wait_seconds", "Seconds until all that waits now is done");
        let busy = Opts::new(
            "bei_router_engine_busy_seconds_total",
            "Seconds of calls of the engine, over all slots",
        );
        let shed = Opts::new("bei_router_shed_total", "Inputs that were refused or given up");
        let capacity = Capacity {
            queued_tokens: gauges("bei_router_queued_tokens", "Tokens that wait for a batch")?,
            predicted_wait: GaugeVec::new(wait, lane)?,
            slots: gauges("bei_router_slots", "Calls that the engine takes at once")?,
            slots_in_use: gauges("bei_router_slots_in_use", "Calls that are out, hung ones included")?,
            healthy: gauges("bei_router_lane_healthy", "1 while the engine works")?,
            under_way,
            items: counter("bei_router_items_total", "Inputs that went to the queue")?,
            dedupe_hits: counter(
                "bei_router_dedupe_hits_total",
                "Inputs that were computed together with an identical one under way",
            )?,
            shed: IntCounterVec::new(shed, &["cause"])?,
            spilled: counter("bei_router_spilled_total", "Inputs that went to the spill-over engine")?,
            hung_calls: counter("bei_router_hung_calls_total", "Calls that were given up")?,
            bisections: counter(
                "bei_router_bisections_total",
                "Calls to find the culprit of a failed batch",
            )?,
            requeued: counter(
                "bei_router_requeued_total",
                "Inputs that were put back after their engine had failed",
            )?,
            fill: ratio("bei_router_batch_fill_ratio", "Tokens of a batch, padding included, to its budget")?,
            waste: ratio(
                "bei_router_padding_waste_ratio",
                "Padding of a batch to its tokens, padding included",
            )?,
            busy: CounterVec::new(busy, lane)?,
            batch_size,
            batch_tokens,
            dropped,
        };
        registry.register(Box::new(capacity.predicted_wait.clone()))?;
        registry.register(Box::new(capacity.under_way.clone()))?;
        registry.register(Box::new(capacity.busy.clone()))?;
        registry.register(Box::new(capacity.shed.clone()))?;
        // So that the causes are there before they occur.
        for cause in ["concurrency", "wait", "deadline", "expired"] {
            capacity.shed.with_label_values(&[cause]);
        }
        Ok(capacity)
    }

    /// The metrics of one lane.
    pub fn lane(&self, name: &str) -> LaneMetrics {
        let label = &[name];
        LaneMetrics {
            queued_tokens: self.queued_tokens.with_label_values(label),
            predicted_wait: self.predicted_wait.with_label_values(label),
            slots: self.slots.with_label_values(label),
            slots_in_use: self.slots_in_use.with_label_values(label),
            healthy: self.healthy.with_label_values(label),
            busy: self.busy.with_label_values(label),
            all: self.clone(),
        }
    }
}

/// As [`Capacity`], with the metrics that each lane has for itself.
pub struct LaneMetrics {
    pub queued_tokens: IntGauge,
    pub predicted_wait: Gauge,
    pub slots: IntGauge,
    pub slots_in_use: IntGauge,
    pub healthy: IntGauge,
    busy: Counter,
    pub all: Capacity,
}

impl LaneMetrics {
    /// A batch was formed. `rows`: its tokens, padding included.
    pub fn batch(&self, inputs: usize, tokens: usize, rows: usize, budget: Budget) {
        self.all.batch_size.observe(inputs as f64);
        self.all.batch_tokens.observe(tokens as f64);
        self.all.fill.observe(rows as f64 / budget.tokens.max(1) as f64);
        if budget.padded {
            self.all.waste.observe((rows - tokens) as f64 / rows.max(1) as f64);
        }
    }

    /// A call has come back.
    pub fn busy(&self, took: Duration) {
        self.busy.inc_by(took.as_secs_f64());
    }

    /// Inputs left the queue because their clients had gone.
    pub fn dropped(&self, inputs: usize) {
        if inputs > 0 {
            self.all.dropped.inc_by(inputs as u64);
        }
    }

    /// Inputs were refused or given up.
    pub fn shed(&self, cause: &str, inputs: usize) {
        self.all.shed.with_label_values(&[cause]).inc_by(inputs as u64);
    }

    /// Calls were made to find a culprit.
    pub fn bisected(&self, calls: u64) {
        self.all.bisections.inc_by(calls);
    }

    /// Inputs were put back.
    pub fn requeued(&self, inputs: u64) {
        self.all.requeued.inc_by(inputs);
    }
}
