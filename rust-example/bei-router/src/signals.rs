//! SIGINT and SIGTERM, which end the server gracefully.

use std::io;

use bei_backend::run_on_signal_stack;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Becomes ready when the process was told to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Waits for the signal; returns at once if it came before.
    pub async fn wait(mut self) {
        // An error says that the watching task ended, which it does at the process' end only.
        let _ = self.0.wait_for(|stopped| *stopped).await;
    }
}

/// Catches SIGINT and SIGTERM from now on. The second one ends the process at once, with the shell's status for SIGINT.
pub fn stop_signal() -> io::Result<Stop> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    run_on_signal_stack(SignalKind::interrupt().as_raw_value())?;
    run_on_signal_stack(SignalKind::terminate().as_raw_value())?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let mut either = async || {
            tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            }
        };
        let name = either().await;
        tracing::info!("{name}: finishing what is under way; a second signal ends it at once");
        sender.send_replace(true);
        let name = either().await;
        tracing::warn!("{name} again: ending at once");
        // SAFETY: takes a number and does not return. Destructors are left out: threads of engines may still use what they
        // would destroy.
        unsafe { libc::_exit(130) }
    });
    Ok(Stop(receiver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn handlers_run_on_the_signal_stack() {
        let _stop = stop_signal().unwrap();
        for number in [libc::SIGINT, libc::SIGTERM] {
            // SAFETY: as in run_on_signal_stack; this call only reads.
            let action = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                assert_eq!(libc::sigaction(number, std::ptr::null(), &mut action), 0);
                action
            };
            assert_ne!(action.sa_flags & libc::SA_ONSTACK, 0);
            assert_ne!(action.sa_sigaction, libc::SIG_DFL);
        }
    }
}
