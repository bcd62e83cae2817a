//! Names of compute devices, and of the types that they compute in.

use candle_core::{DType, Device};

use crate::error::{Error, Result};

/// `cpu`, `cuda` (the first), `cuda:N`, `metal` (the first), `metal:N`, or `auto`: CUDA, else Metal, else the CPU, as this
/// program was built.
///
/// # Errors
/// Where the name is none of these, the program was built without that kind of device, or the device cannot be opened.
pub fn device(spec: &str) -> Result<Device> {
    let (kind, ordinal) = spec.split_once(':').map_or((spec, None), |(kind, n)| (kind, Some(n)));
    let fail = |reason: String| Error::Device { spec: spec.to_owned(), reason };
    let ordinal = match ordinal {
        None => 0,
        Some(n) => n.parse::<usize>().map_err(|_| fail(format!("`{n}` is no device number")))?,
    };
    match kind {
        "cpu" if !spec.contains(':') => Ok(Device::Cpu),
        "auto" if !spec.contains(':') => {
            if candle_core::utils::cuda_is_available() {
                device("cuda")
            } else if candle_core::utils::metal_is_available() {
                device("metal")
            } else {
                Ok(Device::Cpu)
            }
        }
        "cuda" if !candle_core::utils::cuda_is_available() => {
            Err(fail("this program was built without CUDA; build it with `--features cuda`, or use cpu".to_owned()))
        }
        "metal" if !candle_core::utils::metal_is_available() => {
            Err(fail("this program was built without Metal; build it with `--features metal`, or use cpu".to_owned()))
        }
        "cuda" => Device::new_cuda(ordinal).map_err(|e| fail(format!("it cannot be opened: {e}"))),
        "metal" => Device::new_metal(ordinal).map_err(|e| fail(format!("it cannot be opened: {e}"))),
        _ => Err(fail("it is not one of cpu, cuda, cuda:N, metal, metal:N and auto".to_owned())),
    }
}

/// `f32`, `bf16` or `f16`.
///
/// # Errors
/// Where the name is none of these.
pub fn dtype(name: &str) -> Result<DType> {
    match name {
        "f32" => Ok(DType::F32),
        "bf16" => Ok(DType::BF16),
        "f16" => Ok(DType::F16),
        _ => Err(Error::input(format!("dtype `{name}`"), "a model computes in f32, bf16 or f16")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        assert!(device("cpu").unwrap().is_cpu());
        assert!(device("auto").is_ok());
    }

    #[test]
    fn other_names_say_what_is_possible() {
        for spec in ["gpu", "", "cpu:0", "auto:1", "cuda:x", "cuda:-1"] {
            let message = device(spec).unwrap_err().to_string();
            assert!(message.contains(&format!("`{spec}`")), "{message}");
        }
    }

    #[test]
    #[cfg(not(feature = "cuda"))]
    fn a_build_without_cuda_says_how_to_get_one() {
        assert!(device("cuda:1").unwrap_err().to_string().contains("--features cuda"));
    }
}
