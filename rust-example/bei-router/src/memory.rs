//! Growth of the process' memory. Under requests of many sizes the C allocator keeps several times what it has in use: 6 MB in use and 38
//! free after 15,000 of them, and rising. So its free pages are given back where the process has grown.

use std::time::Duration;

use bei_backend::{allocator, trim};

/// How often the memory is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// Growth since the last time at which free pages are given back; also the least that must be free in the allocator.
const GROWTH: u64 = 16 << 20;

/// Watches; ends never.
pub async fn watch() {
    let Some(mut least) = resident() else { return };
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(now) = resident() else { return };
        least = least.min(now);
        let free = || allocator().map_or(0, |allocator| allocator.free);
        if now < least + GROWTH || free() < GROWTH {
            continue;
        }
        // An error says that the runtime ends.
        let _ = tokio::task::spawn_blocking(trim).await;
        // What is in use has grown, too: from here on.
        least = resident().unwrap_or(now);
        tracing::debug!("gave memory back: {} MB resident, {} before", least >> 20, now >> 20);
    }
}

/// Bytes of the process that are in memory; `None` where the system does not tell.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resident_memory_is_read() {
        assert!(resident().unwrap() > 1 << 20);
    }
}
