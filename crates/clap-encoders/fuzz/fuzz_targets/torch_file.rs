//! A file of `torch.save`, every tensor of it.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use candle_core::Device;
use clap_encoders::checkpoint::Checkpoint;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| std::env::temp_dir().join(format!("clap-fuzz-{}.pt", std::process::id())));
    // The checkpoint of the run before is dropped: nothing maps the file that changes here.
    fs::write(path, bytes).expect("the folder for temporary files takes one");
    match Checkpoint::open(path) {
        Ok(checkpoint) => {
            for (key, shape) in checkpoint.keys() {
                if let Ok(Some(tensor)) = checkpoint.stored(key, &Device::Cpu) {
                    assert_eq!(tensor.dims(), shape, "{key}");
                }
            }
        }
        Err(error) => {
            assert!(error.to_string().contains("clap-fuzz-") || error.to_string().contains("thirds"), "{error}")
        }
    }
});
