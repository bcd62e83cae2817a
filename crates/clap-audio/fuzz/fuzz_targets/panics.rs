//! Panics of the decoders, which clap-audio turns into errors.
//!
//! libfuzzer-sys aborts in the panic hook, before any unwinding. A panic that `catch_unwind` stops is handled, so the hook
//! only notes it; one that leaves a target is caught by libfuzzer-sys, which then aborts.

use std::sync::Once;

/// To be called first by every target: takes libfuzzer-sys's hook away.
pub fn are_errors() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            if std::env::var_os("CLAP_AUDIO_FUZZ_PANICS").is_some() {
                eprintln!("{info}");
            }
        }));
    });
}
