use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use serde_json::{Value, json};

use crate::app::App;

/// Where a server is between its first second and its last: it listens before the model is open, and after it was told to stop.
#[derive(Debug)]
pub struct Lifecycle {
    began: Instant,
    ready: OnceLock<Ready>,
    stopping: AtomicBool,
}

struct Ready {
    app: Arc<App>,
    routes: Router,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ready")
    }
}

/// Why a server is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// The model is being fetched, opened or warmed up.
    Starting,
    /// It was told to stop.
    Stopping,
}

impl Lifecycle {
    pub fn new() -> Arc<Lifecycle> {
        Arc::new(Lifecycle {
            began: Instant::now(),
            ready: OnceLock::new(),
            stopping: AtomicBool::new(false),
        })
    }

    /// The model works: from now on `routes` answer.
    pub fn ready(&self, app: Arc<App>, routes: Router) {
        // Only set here, once.
        let _ = self.ready.set(Ready { app, routes });
    }

    /// The end has begun: the server is not ready any more, and still answers.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The routes, once the model works.
    pub fn routes(&self) -> Option<&Router> {
        self.ready.get().map(|ready| &ready.routes)
    }

    /// The open model, once it works.
    pub fn app(&self) -> Option<&Arc<App>> {
        self.ready.get().map(|ready| &ready.app)
    }

    /// Why load balancers should send nothing here, if they should not.
    pub fn not_ready(&self) -> Option<NotReady> {
        if self.stopping.load(Ordering::Relaxed) {
            Some(NotReady::Stopping)
        } else if self.ready.get().is_none() {
            Some(NotReady::Starting)
        } else {
            None
        }
    }

    /// The body of a refusal: the fields of the family's errors, of OpenAI's, and what is going on.
    pub fn refusal(&self, why: NotReady) -> Value {
        let seconds = self.began.elapsed().as_secs();
        let (status, stage) = match why {
            NotReady::Starting => ("starting", progress::current()),
            NotReady::Stopping => ("stopping", "finishing what is under way".to_string()),
        };
        let error = format!("the server is {status}: {stage}");
        json!({
            "error": error, "error_type": "Unhealthy",
            "message": error, "type": "Unhealthy", "code": 503,
            "status": status, "stage": stage, "seconds": seconds,
        })
    }

    /// Logs how far the start is while it takes long; ends never.
    pub async fn log_progress(&self) {
        let mut wait = Duration::from_secs(2);
        loop {
            tokio::time::sleep(wait).await;
            tracing::info!("starting for {} s: {}", self.began.elapsed().as_secs(), progress::current());
            wait = (wait * 2).min(Duration::from_secs(30));
        }
    }
}

/// What the start is doing. It is the process', since the library's log is.
pub mod progress {
    use super::{Mutex, PoisonError};

    static NOW: Mutex<String> = Mutex::new(String::new());

    /// The start has come to something else.
    pub fn note(stage: impl Into<String>) {
        *NOW.lock().unwrap_or_else(PoisonError::into_inner) = stage.into();
    }

    /// What was noted last.
    pub fn current() -> String {
        let now = NOW.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if now.is_empty() { "opening the model".to_string() } else { now }
    }
}
