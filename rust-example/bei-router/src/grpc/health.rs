//! grpc.health.v1: what /health says, of each service by itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::extract::State;
use bei_backend::Task;
use tokio::time::timeout;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use crate::app::App;
use crate::routes::status::health;

/// How long a status may be out of date.
const PERIOD: Duration = Duration::from_millis(250);

/// The service, and a task that keeps it up to date as long as the server lives. Info and Tokenize need no engine; of the others
/// those serve that the model can do.
pub fn service(app: &Arc<App>) -> HealthServer<impl Health> {
    let (reporter, service) = tonic_health::server::health_reporter();
    tokio::spawn(follow(Arc::downgrade(app), reporter));
    service
}

async fn follow(app: Weak<App>, mut reporter: HealthReporter) {
    let needs_none = ["tei.v1.Info", "tei.v1.Tokenize"];
    let needs_engine = ["", "tei.v1.Embed", "tei.v1.Predict", "tei.v1.Rerank"];
    set(&reporter, &needs_none, ServingStatus::Serving).await;
    set(&reporter, &needs_engine, ServingStatus::NotServing).await;
    let mut told = None;
    while let Some(app) = app.upgrade() {
        let (info, mut stopping) = (*app.model.info(), app.stopping.subscribe());
        let services: &[&str] = match info.task {
            Some(Task::Embedding) => &["", "tei.v1.Embed"],
            Some(Task::Classifier) if info.labels == 1 => &["", "tei.v1.Predict", "tei.v1.Rerank"],
            Some(Task::Classifier) => &["", "tei.v1.Predict"],
            _ => &[""],
        };
        let healthy = health(State(app)).await.is_ok();
        if told.replace(healthy) != Some(healthy) {
            set(
                &reporter,
                services,
                if healthy { ServingStatus::Serving } else { ServingStatus::NotServing },
            )
            .await;
        }
        if timeout(PERIOD, stopping.wait_for(|stopping| *stopping)).await.is_ok() {
            break;
        }
    }
    // Those who watch are told, and their streams end: the server waits for all streams.
    set(&reporter, &needs_none, ServingStatus::NotServing).await;
    set(&reporter, &needs_engine, ServingStatus::NotServing).await;
    for service in needs_none.iter().chain(&needs_engine) {
        reporter.clear_service_status(service).await;
    }
}

async fn set(reporter: &HealthReporter, services: &[&str], status: ServingStatus) {
    for service in services {
        reporter.set_service_status(service, status).await;
    }
}
