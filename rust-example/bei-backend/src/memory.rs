/// Bytes that the C allocator holds for this process: those of Rust, ONNX Runtime and others, not of Go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocator {
    /// Allocated in arenas.
    pub in_use: u64,
    /// Free in arenas: kept for later, or returned to the system where they lie at an arena's end.
    pub free: u64,
    /// Allocated outside of arenas: large blocks, which go back to the system when they are freed.
    pub mapped: u64,
}

/// What the allocator holds now; `None` where it does not tell. Locks each arena for a moment.
pub fn allocator() -> Option<Allocator> {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: takes nothing, returns a struct of numbers, and may be called on any thread.
        let info = unsafe { libc::mallinfo2() };
        Some(Allocator {
            in_use: info.uordblks as u64,
            free: info.fordblks as u64,
            mapped: info.hblkhd as u64,
        })
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    None
}

/// Gives the allocator's free pages back to the system. Takes milliseconds; locks one arena after another meanwhile.
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number, and may be called on any thread: it touches only memory that is free, under the arenas' locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_block_is_counted_while_it_lives() {
        let Some(before) = allocator() else { return };
        let block = vec![1_u8; 64 << 20];
        let with = allocator().unwrap();
        let held = |a: &Allocator| a.in_use + a.mapped;
        assert!(held(&with) >= held(&before) + (60 << 20), "{before:?} {with:?} {}", block.len());
    }
}
