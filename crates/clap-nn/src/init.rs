//! Seeded initial values: a variable's value depends on the seed, its name, its shape and its init hint, and on nothing else.
//!
//! candle's own initialisers draw from an unseeded generator on the CPU, so two runs would never start alike.

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::init::{FanInOut, Init, NormalOrUniform};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::vars::{SeededBackend, Vars};

/// Weights of a transformer's linear layers and embeddings: normal with standard deviation `range`, the `initializer_range`
/// of Hugging Face's configurations (timm's `trunc_normal_` cuts at ±2, far outside).
pub fn normal(range: f64) -> Init {
    Init::Randn { mean: 0.0, stdev: range }
}

/// PyTorch's default for convolutions and plain linear layers: uniform in ±1/√fan_in, weight and bias alike.
pub fn torch_default(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in.max(1) as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// An empty store and a [`VarBuilder`] that fills it: building a model creates its variables, each from its own stream of
/// (`seed`, name). Building a second model on the same builder shares them.
pub fn seeded_vars(seed: u64, device: &Device, dtype: DType) -> (Vars, VarBuilder<'static>) {
    let vars = Vars::new();
    let backend = SeededBackend { vars: vars.clone(), seed };
    (vars, VarBuilder::from_backend(Box::new(backend), dtype, device.clone()))
}

/// The initial value of variable `name`, in `f32`.
///
/// # Errors
/// Where the device fails.
pub fn seeded_tensor(seed: u64, name: &str, shape: &Shape, init: Init, device: &Device) -> Result<Tensor> {
    let len = shape.elem_count();
    let mut rng = stream(seed, name);
    let mut normal = Normal::default();
    let values: Vec<f32> = match init {
        Init::Const(value) => vec![value as f32; len],
        Init::Randn { mean, stdev } => (0..len).map(|_| (mean + stdev * normal.draw(&mut rng)) as f32).collect(),
        Init::Uniform { lo, up } => (0..len).map(|_| uniform(&mut rng, lo, up) as f32).collect(),
        Init::Kaiming { dist, fan, non_linearity } => {
            let fan = fan_of(fan, shape).max(1);
            let std = non_linearity.gain() / (fan as f64).sqrt();
            match dist {
                NormalOrUniform::Normal => (0..len).map(|_| (std * normal.draw(&mut rng)) as f32).collect(),
                NormalOrUniform::Uniform => {
                    let bound = 3f64.sqrt() * std;
                    (0..len).map(|_| uniform(&mut rng, -bound, bound) as f32).collect()
                }
            }
        }
    };
    Tensor::from_vec(values, shape, device)
}

fn fan_of(fan: FanInOut, shape: &Shape) -> usize {
    fan.for_shape(shape)
}

/// The generator of one variable.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..16].copy_from_slice(&fnv1a(0xcbf2_9ce4_8422_2325, name).to_le_bytes());
    // A second hash from another basis: 128 bits keep names apart.
    key[16..24].copy_from_slice(&fnv1a(0x6c62_272e_07bb_0142, name).to_le_bytes());
    ChaCha8Rng::from_seed(key)
}

/// The 64-bit FNV-1a hash.
fn fnv1a(basis: u64, text: &str) -> u64 {
    text.bytes().fold(basis, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn uniform(rng: &mut ChaCha8Rng, lo: f64, up: f64) -> f64 {
    lo + (up - lo) * rng.random::<f64>()
}

/// Standard normal numbers by the Box–Muller transform, which gives two at a time.
#[derive(Default)]
struct Normal {
    spare: Option<f64>,
}

impl Normal {
    fn draw(&mut self, rng: &mut ChaCha8Rng) -> f64 {
        if let Some(value) = self.spare.take() {
            return value;
        }
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * rng.random::<f64>()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, name: &str, init: Init, shape: (usize, usize)) -> Vec<f32> {
        let tensor = seeded_tensor(seed, name, &shape.into(), init, &Device::Cpu).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn values_depend_on_seed_and_name_only() {
        let a = values(1, "x.weight", normal(0.02), (5, 7));
        assert_eq!(a, values(1, "x.weight", normal(0.02), (5, 7)));
        assert_ne!(a, values(2, "x.weight", normal(0.02), (5, 7)));
        assert_ne!(a, values(1, "y.weight", normal(0.02), (5, 7)));
    }

    #[test]
    fn creation_order_does_not_matter() {
        let build = |names: [&str; 2]| {
            let (vars, vb) = seeded_vars(3, &Device::Cpu, DType::F32);
            for name in names {
                vb.get_with_hints((4, 4), name, normal(0.02)).unwrap();
            }
            vars.get("b").unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(build(["a", "b"]), build(["b", "a"]));
    }

    #[test]
    fn moments_and_bounds_follow_the_hint() {
        let xs = values(1, "w", Init::Randn { mean: 0.5, stdev: 0.02 }, (200, 100));
        let mean = xs.iter().map(|&x| f64::from(x)).sum::<f64>() / xs.len() as f64;
        let var = xs.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / xs.len() as f64;
        assert!((mean - 0.5).abs() < 1e-3, "{mean}");
        assert!((var.sqrt() - 0.02).abs() < 5e-4, "{var}");
        let xs = values(1, "w", torch_default(16), (200, 100));
        let peak = xs.iter().fold(0f32, |peak, x| peak.max(x.abs()));
        assert!(peak <= 0.25 && peak > 0.249, "{peak}");
        assert_eq!(values(1, "w", Init::Const(1.0), (1, 3)), [1.0; 3]);
    }
}
