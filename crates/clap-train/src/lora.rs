//! Adapters of low rank (Hu et al., "LoRA", arXiv 2106.09685): of a matrix `W` only a difference of rank `r` is learnt,
//!
//! ```text
//! W = W₀ + alpha / r · B A,    A (r, input), B (output, r), B = 0 at the start
//! ```
//!
//! The layers see `W` alone. Its gradient is made as ever and led on by the chain rule, `dA = s · Bᵀ dW` and `dB = s · dW Aᵀ`, and after each
//! update `W` is made anew: exact, for every layer, and what is saved is a model like any other. It saves the optimiser's memory and the
//! size of what has to be handed on, not the backward pass. There is no dropout inside the adapter.
//!
//! Beside the model a checkpoint has `adapter/`, in the layout of PEFT (`adapter_config.json`, `adapter_model.safetensors`).

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use clap_nn::Vars;
use clap_nn::init::{seeded_tensor, torch_default};
use serde_json::json;

use crate::config::{LoraConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::optimizer::Parameter;

/// Folder of the adapters in a checkpoint.
const FOLDER: &str = "adapter";
const FILE: &str = "adapter_model.safetensors";

/// What stands before the names in PEFT's files.
const PEFT: &str = "base_model.model.";

/// The adapters of a model.
#[derive(Debug)]
pub struct Lora {
    config: LoraConfig,
    adapters: Vec<Adapter>,
}

/// One matrix and its difference.
#[derive(Debug)]
struct Adapter {
    /// The layer's checkpoint name, without `.weight`.
    layer: String,
    weight: Var,
    /// The matrix as it was.
    base: Tensor,
    a: Var,
    b: Var,
}

impl Lora {
    /// Adapters for the matrices that `chosen` by their names; those are named in errors as `lora.parameters`.
    pub(crate) fn new(config: &LoraConfig, vars: &Vars, chosen: impl Fn(&str) -> bool, seed: u64) -> Result<Self> {
        let mut adapters = Vec::new();
        for (name, weight) in vars.trainable() {
            let Some(layer) = name.strip_suffix(".weight").filter(|_| chosen(&name)) else { continue };
            let &[output, input] = weight.dims() else { continue };
            if config.rank > output.min(input) {
                let reason = format!("is {}, but {name} is ({output}, {input}): its rank is no greater", config.rank);
                return Err(Error::config("lora.rank", reason));
            }
            let (device, shape) = (weight.device(), (config.rank, input).into());
            let a = seeded_tensor(seed, &format!("{layer}.lora_A.weight"), &shape, torch_default(input), device)?;
            adapters.push(Adapter {
                layer: layer.to_owned(),
                base: weight.as_detached_tensor().copy()?,
                a: Var::from_tensor(&a.to_dtype(weight.dtype())?)?,
                b: Var::zeros((output, config.rank), weight.dtype(), device)?,
                weight,
            });
        }
        if adapters.is_empty() {
            let reason = format!("{:?} match no matrix of the model", config.parameters);
            return Err(Error::config("lora.parameters", reason));
        }
        Ok(Self { config: config.clone(), adapters })
    }

    /// What the optimiser is given.
    pub(crate) fn parameters(&self) -> Vec<Parameter> {
        let of = |adapter: &Adapter| {
            let named = |kind: &str, var: &Var| (format!("{}.{kind}.weight", adapter.layer), var.clone()).into();
            [named("lora_A", &adapter.a), named("lora_B", &adapter.b)]
        };
        self.adapters.iter().flat_map(of).collect()
    }

    /// The matrices that have adapters: their gradients are wanted.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Var> {
        self.adapters.iter().map(|adapter| &adapter.weight)
    }

    /// Whether a variable has an adapter.
    pub(crate) fn adapts(&self, name: &str) -> bool {
        self.adapters.iter().any(|adapter| name.strip_suffix(".weight") == Some(adapter.layer.as_str()))
    }

    fn scale(&self) -> f64 {
        self.config.alpha / self.config.rank as f64
    }

    /// Leads the gradients of the matrices on to their adapters.
    pub(crate) fn lead_on(&self, grads: &mut GradStore) -> Result<()> {
        for adapter in &self.adapters {
            let Some(grad) = grads.remove(&adapter.weight) else { continue };
            let grad = (grad.detach() * self.scale())?; // (output, input)
            grads.insert(&adapter.a, adapter.b.as_detached_tensor().t()?.matmul(&grad)?);
            grads.insert(&adapter.b, grad.matmul(&adapter.a.as_detached_tensor().t()?.contiguous()?)?);
        }
        Ok(())
    }

    /// Makes the matrices of their adapters anew.
    pub(crate) fn apply(&self) -> Result<()> {
        for Adapter { weight, base, a, b, .. } in &self.adapters {
            let difference = (b.as_detached_tensor().matmul(&a.as_detached_tensor())? * self.scale())?;
            weight.set(&(base + difference)?)?;
        }
        Ok(())
    }

    /// Writes `adapter/` into a checkpoint's folder.
    pub(crate) fn save(&self, checkpoint: &Path, config: &TrainConfig) -> Result<()> {
        let folder = checkpoint.join(FOLDER);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let tensors: HashMap<String, Tensor> = self
            .parameters()
            .into_iter()
            .map(|parameter| (format!("{PEFT}{}", parameter.name), parameter.var.as_detached_tensor()))
            .collect();
        candle_core::safetensors::save(&tensors, folder.join(FILE))?;
        let layers: Vec<&str> = self.adapters.iter().map(|adapter| adapter.layer.as_str()).collect();
        let described = json!({
            "peft_type": "LORA",
            "task_type": null,
            "base_model_name_or_path": config.model.init,
            "r": self.config.rank,
            "lora_alpha": self.config.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "target_modules": layers,
        });
        let path = folder.join("adapter_config.json");
        fs::write(&path, format!("{described:#}\n")).map_err(|e| Error::io(&path, e))
    }

    /// Takes the adapters of a checkpoint; the matrices as they were are those of the run's own start.
    pub(crate) fn restore(&self, checkpoint: &Path) -> Result<()> {
        let path = checkpoint.join(FOLDER).join(FILE);
        let other = |reason: String| Error::State { path: path.clone(), reason };
        let tensors = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|e| other(e.to_string()))?;
        for Parameter { name, var, .. } in self.parameters() {
            let stored = tensors.get(&format!("{PEFT}{name}")).filter(|stored| stored.shape() == var.shape());
            let stored = stored.ok_or_else(|| other(format!("has no {name} of shape {:?}", var.shape())))?;
            var.set(&stored.to_dtype(DType::F32)?.to_dtype(var.dtype())?.to_device(var.device())?)?;
        }
        self.apply()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapted(rank: usize) -> (Vars, Lora) {
        let (vars, vb) = clap_nn::init::seeded_vars(0, &Device::Cpu, DType::F32);
        for (name, shape) in [("text_model.query.weight", &[6, 4][..]), ("text_model.query.bias", &[6])] {
            vb.get_with_hints(shape, name, torch_default(4)).unwrap();
        }
        let config = LoraConfig { rank, alpha: 3.0, ..LoraConfig::default() };
        let lora = Lora::new(&config, &vars, |name| name.contains("query"), 5).unwrap();
        (vars, lora)
    }

    fn flat(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn gradients_are_those_of_the_product() {
        let (vars, lora) = adapted(2);
        let adapter = &lora.adapters[0];
        adapter.b.set(&seeded_tensor(9, "b", &(6, 2).into(), torch_default(2), &Device::Cpu).unwrap()).unwrap();
        lora.apply().unwrap();
        let xs = seeded_tensor(1, "xs", &(3, 4).into(), torch_default(1), &Device::Cpu).unwrap();
        let loss = |weight: &Tensor| xs.matmul(&weight.t().unwrap()).unwrap().sqr().unwrap().sum_all().unwrap();

        let whole = (&adapter.base + (adapter.b.matmul(&adapter.a).unwrap() * 1.5).unwrap()).unwrap();
        let expected = loss(&whole).backward().unwrap();
        let weight = vars.get("text_model.query.weight").unwrap();
        assert_eq!(flat(&weight), flat(&whole));
        let mut grads = loss(&weight).backward().unwrap();
        lora.lead_on(&mut grads).unwrap();
        assert!(grads.get(&weight).is_none());
        for var in [&adapter.a, &adapter.b] {
            let (found, expected) = (flat(grads.get(var).unwrap()), flat(expected.get(var).unwrap()));
            assert_eq!(found.len(), expected.len());
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?} {expected:?}");
        }
    }

    #[test]
    fn a_new_adapter_changes_nothing_and_biases_have_none() {
        let (vars, lora) = adapted(2);
        let before = flat(&vars.get("text_model.query.weight").unwrap());
        lora.apply().unwrap();
        assert_eq!(flat(&vars.get("text_model.query.weight").unwrap()), before);
        let names: Vec<String> = lora.parameters().into_iter().map(|parameter| parameter.name).collect();
        assert_eq!(names, ["text_model.query.lora_A.weight", "text_model.query.lora_B.weight"]);
    }

    #[test]
    fn too_great_a_rank_and_no_matrix_are_refused() {
        let (vars, _) = adapted(4);
        let new = |rank, part: &'static str| {
            let config = LoraConfig { rank, ..LoraConfig::default() };
            Lora::new(&config, &vars, |name| name.contains(part), 0).unwrap_err().to_string()
        };
        assert!(new(5, "query").contains("lora.rank") && new(5, "query").contains("(6, 4)"));
        assert!(new(2, "value").contains("lora.parameters"));
    }
}
