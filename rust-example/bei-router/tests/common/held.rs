//! A fault of the mock engine that lasts until the test has seen what it wants to see.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

pub struct Held(PathBuf);

impl Held {
    pub fn new() -> Held {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("held-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_file(&path); // of an earlier process
        Held(path)
    }

    /// Holds the run of this number: "slow" or "stuck".
    pub fn fault(&self, kind: &str, run: usize) -> Value {
        json!({"kind": kind, "until_file": self.0, "from": run, "count": 1})
    }

    /// Lets go of all runs.
    pub fn release(&self) {
        std::fs::write(&self.0, "").unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
