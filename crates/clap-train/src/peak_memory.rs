//! The most memory that this process has held, since it was last asked to forget.

use std::fs;

/// Forgets the peak so far; from then on [`read`] gives that of what follows. Linux alone keeps one.
pub(crate) fn reset() {
    // Linux, proc_pid_clear_refs(5): 5 sets the peak to what is held now. Where that is not allowed the peak is only too great.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Bytes, where the system tells.
pub(crate) fn read() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn the_peak_grows_by_what_is_held() {
        reset();
        let before = read().unwrap();
        let held = std::hint::black_box(vec![1u8; 200 << 20]);
        let after = read().unwrap();
        assert!(after >= before + (150 << 20), "{before} to {after}, holding {}", held.len());
    }
}
