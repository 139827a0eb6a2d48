use std::time::Duration;

/// Flags of the process' start and end, and of what it tells of itself.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Operation")]
pub struct ServingArgs {
    /// Milliseconds between SIGTERM and the end of listening. Meanwhile the server is not ready and still answers, so that load balancers
    /// can take it out first.
    #[arg(long, env, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub shutdown_delay_ms: u64,

    /// Milliseconds, after --shutdown-delay-ms, that requests under way may take; what is not answered by then is given up.
    #[arg(long, env, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    pub shutdown_timeout_ms: u64,

    /// Logs a line for each request at the level info; otherwise it is at debug. Failures of the server are always logged.
    #[arg(long, env)]
    pub access_log: bool,

    /// Leaves spans out of log lines.
    #[arg(long, env)]
    pub disable_spans: bool,

    /// Exports traces over OTLP/gRPC to this URL, such as http://localhost:4317. The header traceparent is continued; the variable
    /// OTEL_TRACES_SAMPLER decides otherwise.
    #[arg(long, env)]
    pub otlp_endpoint: Option<String>,

    /// Name of this service in traces.
    #[arg(long, env, default_value = "bei-router")]
    pub otlp_service_name: String,

    /// Answers GET /metrics on this port too, without a key.
    #[arg(long, env)]
    pub prometheus_port: Option<u16>,
}

/// How a server ends.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub delay: Duration,
    pub timeout: Duration,
}

impl Default for Ending {
    fn default() -> Ending {
        Ending { delay: Duration::ZERO, timeout: Duration::from_secs(20) }
    }
}

impl ServingArgs {
    /// What the flags say of the end.
    pub fn ending(&self) -> Ending {
        Ending {
            delay: Duration::from_millis(self.shutdown_delay_ms),
            timeout: Duration::from_millis(self.shutdown_timeout_ms),
        }
    }
}
