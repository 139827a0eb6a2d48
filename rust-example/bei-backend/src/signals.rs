use std::io;

/// Adds SA_ONSTACK to the handler that the program has installed for signal `number`. Programs that handle signals call it once
/// for each of them.
///
/// A signal may arrive on a thread that runs Go code of the library on a small goroutine stack, where a handler without the
/// flag would overwrite other memory (os/signal, "Go programs that use cgo"). Every such thread has a signal stack.
pub fn run_on_signal_stack(number: i32) -> io::Result<()> {
    // SAFETY: both pointers are NULL or to a live sigaction, and zeros are a valid one. The second call puts the first
    // one's handler back unchanged; nobody else installs handlers for this signal in between.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(number, std::ptr::null(), &mut action) != 0 {
            return Err(io::Error::last_os_error());
        }
        action.sa_flags |= libc::SA_ONSTACK;
        if libc::sigaction(number, &action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
