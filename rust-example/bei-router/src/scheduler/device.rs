use std::time::Duration;

use bei_backend::{CallOptions, Error, Model};

use crate::call::{self, Called, Packed};
use crate::work::Work;

/// Longest time that a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a lane hands batches to: an open model, or a script of the tests.
pub trait Device: Send + Sync {
    /// Computes works that join each other. An error concerns the call as a whole.
    fn call(&self, packed: &mut Packed, works: &[&Work]) -> Result<Called, Error>;

    /// Whether it works, found out with one token.
    fn probe(&self) -> Result<(), Error>;
}

impl Device for std::sync::Arc<Model> {
    fn call(&self, packed: &mut Packed, works: &[&Work]) -> Result<Called, Error> {
        call::run(self, packed, works)
    }

    fn probe(&self) -> Result<(), Error> {
        self.health(true, &CallOptions { timeout: Some(PROBE_TIMEOUT), ..CallOptions::default() })
    }
}
