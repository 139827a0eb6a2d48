use std::io;

use bei_backend::Status;

use crate::app::StartError;
use crate::scheduler::End;

/// What the program exits with when the engine or its device was lost, or there is none (EX_UNAVAILABLE of sysexits.h).
const LOST: u8 = 69;
/// What it exits with when a call of the engine has not come back (EX_TEMPFAIL).
const HUNG: u8 = 75;

/// The code that the program ends with after it has served.
pub fn exit_code(end: End) -> u8 {
    match end {
        End::Stopped => 0,
        End::Lost => LOST,
        End::Hung => HUNG,
    }
}

/// Why the program could not start. The codes are those of sysexits.h.
#[derive(Debug, thiserror::Error)]
pub enum Exit {
    /// Flags or variables are wrong. (Those that the parser refuses end with the same code.)
    #[error("{0}")]
    Flags(String),
    /// The address cannot be listened on.
    #[error("cannot listen on {host}:{port}: {error}{}", fix(.error, .flag))]
    Listen {
        /// As it was asked for.
        host: String,
        /// As it was asked for.
        port: u16,
        /// The flag that sets the port.
        flag: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// The model could not be opened, warmed up or verified.
    #[error("{0}")]
    Start(#[from] StartError),
    /// Anything else.
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn fix(error: &io::Error, flag: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; another program listens there: end it, or choose another {flag}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("; choose a {flag} from 1024 on, or allow the program to bind low ports")
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine does not have the address of --hostname".to_string()
        }
        _ => String::new(),
    }
}

/// What the library's message of a failed parity check holds: its status has no code of its own.
const PARITY: &str = "bei-manifest.json";

impl Exit {
    /// The code that the program ends with.
    pub fn code(&self) -> u8 {
        match self {
            Exit::Flags(_) | Exit::Start(StartError::Flags(_)) => 2,
            Exit::Start(StartError::Open { error, .. }) => match error.status {
                Status::NoBackend => LOST,
                Status::Start if error.message.contains(PARITY) => 65, // EX_DATAERR
                Status::Internal => 1,
                _ => 66, // EX_NOINPUT
            },
            Exit::Start(StartError::Model { .. }) => 66,
            Exit::Start(StartError::WarmUp(_)) => 70, // EX_SOFTWARE
            Exit::Listen { .. } => 71,                // EX_OSERR
            Exit::Start(StartError::Internal(_)) | Exit::Io(_) => 1,
        }
    }
}
