//! Adam, AdamW and SGD over named variables, with PyTorch's arithmetic and LAION's parameter groups.
//!
//! Adam: Kingma and Ba, arXiv 1412.6980; AdamW: Loshchilov and Hutter, arXiv 1711.05101; the order of operations is
//! `torch.optim.adam._single_tensor_adam` (PyTorch 2), epsilon outside the square root and after the bias correction:
//!
//! ```text
//! Adam:  g ← g + wd · p          AdamW: p ← p · (1 − lr · wd)
//! m ← m + (1 − β1) · (g − m)     v ← β2 · v + (1 − β2) · g²
//! p ← p − lr / (1 − β1ᵗ) · m / (√v / √(1 − β2ᵗ) + ε)
//! ```
//!
//! SGD is `torch.optim.sgd._single_tensor_sgd` without dampening or Nesterov's step:
//!
//! ```text
//! g ← g + wd · p     b ← momentum · b + g     p ← p − lr · b
//! ```
//!
//! candle's own AdamW hides its state, has one group and makes a dozen passes; here a variable on the CPU in `f32` is
//! updated in one multi-threaded pass over `p, g, m, v`, each element by itself, so the result does not depend on the
//! number of threads. Other devices and types run the composed twin; a test holds the two together. SGD is composed everywhere.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result, Tensor, Var, bail};
use serde::{Deserialize, Serialize};

use crate::adam::{Coefficients, sum_of_squares, update_composed, update_fused};

/// Range that LAION clamps its logit scales to after each step: `[0, ln 100]`, a temperature of 1 to 100.
pub const LOGIT_SCALE_RANGE: (f64, f64) = (0.0, 4.605_170_185_988_092);

/// What the optimiser does with a gradient.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// Adam; weight decay is added to the gradient (an L2 penalty).
    #[default]
    Adam,
    /// Adam; weight decay shrinks the weight itself.
    AdamW,
    /// Stochastic gradient descent with momentum; weight decay is added to the gradient.
    Sgd,
}

impl Algorithm {
    /// What is remembered of a parameter, by PyTorch's names.
    fn buffers(self) -> &'static [&'static str] {
        match self {
            Self::Adam | Self::AdamW => &["exp_avg", "exp_avg_sq"],
            Self::Sgd => &["momentum_buffer"],
        }
    }
}

/// What an [`Optimizer`] needs beside the learning rate, which the schedule gives to each step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// Adam, AdamW or SGD.
    pub algorithm: Algorithm,
    /// Adam: decay of the running mean and of the running square of the gradient.
    pub betas: (f64, f64),
    /// Adam: added to the denominator.
    pub eps: f64,
    /// SGD: what is left of the last step's buffer; 0 remembers nothing.
    pub momentum: f64,
    /// Decay of the parameters that [`decays`] names; the others have none.
    pub weight_decay: f64,
    /// Greatest norm of the whole gradient; a longer one is scaled down to it.
    pub grad_clip_norm: Option<f64>,
}

impl Default for OptimizerConfig {
    /// PyTorch's defaults without decay, as every shipped LAION recipe runs; for SGD, open_clip's momentum.
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Adam,
            betas: (0.9, 0.999),
            eps: 1e-8,
            momentum: 0.9,
            weight_decay: 0.0,
            grad_clip_norm: None,
        }
    }
}

/// LAION's rule (`training/main.py::exclude`): weight decay for matrices only, and for none whose name holds `bn`, `ln`,
/// `bias` or `logit_scale`. The relative position bias tables are therefore not decayed.
#[must_use]
pub fn decays(name: &str, rank: usize) -> bool {
    rank >= 2 && !["bn", "ln", "bias", "logit_scale"].iter().any(|part| name.contains(part))
}

/// A variable to optimise, and how it differs from the others.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its checkpoint name.
    pub name: String,
    /// The variable.
    pub var: Var,
    /// Factor of the learning rate.
    pub lr_scale: f64,
    /// Weight decay in place of [`OptimizerConfig::weight_decay`]; where [`decays`] says that there is none, there is none.
    pub weight_decay: Option<f64>,
}

impl From<(String, Var)> for Parameter {
    fn from((name, var): (String, Var)) -> Self {
        Self { name, var, lr_scale: 1.0, weight_decay: None }
    }
}

/// An optimiser with what it remembers, by parameter name.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    slots: Vec<Slot>,
}

/// One parameter and what the optimiser remembers of it.
#[derive(Debug)]
struct Slot {
    name: String,
    var: Var,
    lr_scale: f64,
    weight_decay: f64,
    /// Updates so far; as in PyTorch each parameter counts its own, for one without gradient is not updated.
    step: u64,
    buffers: Buffers,
}

/// [`Algorithm::buffers`], in that order, each as large as the parameter.
#[derive(Debug)]
enum Buffers {
    /// Adam's on the CPU in `f32`: the fused pass.
    Host { mean: Vec<f32>, square: Vec<f32> },
    /// Anything else: `f32` tensors on the parameter's device.
    Device(Vec<Tensor>),
}

impl Optimizer {
    /// An optimiser that remembers nothing yet over `parameters`, in the order given.
    ///
    /// # Errors
    /// Where a device cannot hold the buffers.
    pub fn new(parameters: impl IntoIterator<Item = impl Into<Parameter>>, config: OptimizerConfig) -> Result<Self> {
        let slot = |parameter: Parameter| {
            let var = &parameter.var;
            let fused = var.device().is_cpu() && var.dtype() == DType::F32 && var.is_contiguous();
            Slot::new(parameter, fused && config.algorithm != Algorithm::Sgd, &config)
        };
        let slots = parameters.into_iter().map(|parameter| slot(parameter.into())).collect::<Result<_>>()?;
        Ok(Self { config, slots })
    }

    /// The same update composed of tensor operations everywhere: the twin that tests compare with.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn composed(
        parameters: impl IntoIterator<Item = impl Into<Parameter>>,
        config: OptimizerConfig,
    ) -> Result<Self> {
        let slot = |parameter: Parameter| Slot::new(parameter, false, &config);
        let slots = parameters.into_iter().map(|parameter| slot(parameter.into())).collect::<Result<_>>()?;
        Ok(Self { config, slots })
    }

    /// The variables that it updates.
    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.slots.iter().map(|slot| &slot.var)
    }

    /// The same with their names.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), &slot.var))
    }

    /// Names of the parameters that `grads` has nothing for: they would stay as they are.
    #[must_use]
    pub fn without_gradient(&self, grads: &GradStore) -> Vec<&str> {
        self.slots.iter().filter(|s| grads.get(&s.var).is_none()).map(|s| s.name.as_str()).collect()
    }

    /// Updates every parameter that has a gradient and returns the norm of the whole gradient before clipping.
    ///
    /// A gradient that is not finite changes nothing: its norm is returned for the caller to judge.
    ///
    /// # Errors
    /// Where a gradient's shape differs from its parameter's or the device fails.
    pub fn step(&mut self, grads: &GradStore, lr: f64) -> Result<f64> {
        let mut active = Vec::with_capacity(self.slots.len());
        for slot in &mut self.slots {
            if let Some(grad) = grads.get(&slot.var) {
                if grad.shape() != slot.var.shape() {
                    bail!("{}: the gradient is {:?}, the parameter {:?}", slot.name, grad.shape(), slot.var.shape());
                }
                active.push((slot, grad.contiguous()?));
            }
        }
        let mut squares = 0.0;
        for (_, grad) in &active {
            squares += sum_of_squares(grad)?;
        }
        let norm = f64::sqrt(squares);
        if !norm.is_finite() {
            return Ok(norm);
        }
        // torch.nn.utils.clip_grad_norm_, its 1e-6 included.
        let scale = self.config.grad_clip_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        for (slot, grad) in active {
            slot.update(&grad, lr, scale, &self.config)?;
        }
        Ok(norm)
    }

    /// Clamps every `logit_scale*` parameter to [`LOGIT_SCALE_RANGE`], as LAION does after each step.
    ///
    /// # Errors
    /// Where the device fails.
    pub fn clamp_logit_scales(&self) -> Result<()> {
        for slot in &self.slots {
            if slot.name.rsplit('.').next().is_some_and(|last| last.starts_with("logit_scale")) {
                let clamped = slot.var.as_detached_tensor().clamp(LOGIT_SCALE_RANGE.0, LOGIT_SCALE_RANGE.1)?;
                slot.var.set(&clamped)?;
            }
        }
        Ok(())
    }

    /// What is remembered, by PyTorch's names: of Adam `exp_avg.NAME`, `exp_avg_sq.NAME`, of SGD `momentum_buffer.NAME` (`f32`, the
    /// parameter's shape), and `step.NAME` (`i64` scalar), on the CPU.
    ///
    /// # Errors
    /// Where a device cannot be read.
    pub fn state(&self) -> Result<HashMap<String, Tensor>> {
        let kinds = self.config.algorithm.buffers();
        let mut state = HashMap::with_capacity((1 + kinds.len()) * self.slots.len());
        for slot in &self.slots {
            let buffers: Vec<Tensor> = match &slot.buffers {
                Buffers::Host { mean, square } => [mean, square]
                    .into_iter()
                    .map(|values| Tensor::from_slice(values, slot.var.shape(), &Device::Cpu))
                    .collect::<Result<_>>()?,
                Buffers::Device(buffers) => {
                    buffers.iter().map(|buffer| buffer.to_device(&Device::Cpu)).collect::<Result<_>>()?
                }
            };
            state.extend(kinds.iter().zip(buffers).map(|(kind, buffer)| (format!("{kind}.{}", slot.name), buffer)));
            state.insert(format!("step.{}", slot.name), Tensor::new(slot.step as i64, &Device::Cpu)?);
        }
        Ok(state)
    }

    /// Takes what [`Self::state`] gave; names of other parameters are left alone.
    ///
    /// # Errors
    /// Where something of a parameter is missing or of another shape; nothing is changed then.
    pub fn load_state(&mut self, state: &HashMap<String, Tensor>) -> Result<()> {
        let mut loaded = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            let find = |kind: &str| match state.get(&format!("{kind}.{}", slot.name)) {
                Some(tensor) => Ok(tensor),
                None => bail!("the optimiser state has no {kind}.{}", slot.name),
            };
            let buffer = |kind: &&str| {
                let tensor = find(kind)?;
                if tensor.shape() != slot.var.shape() {
                    bail!("{kind}.{} is {:?}, the parameter {:?}", slot.name, tensor.shape(), slot.var.shape());
                }
                tensor.to_dtype(DType::F32)?.to_device(slot.var.device())
            };
            let buffers: Vec<Tensor> = self.config.algorithm.buffers().iter().map(buffer).collect::<Result<_>>()?;
            let buffers = match (&slot.buffers, &buffers[..]) {
                (Buffers::Host { .. }, [mean, square]) => {
                    Buffers::Host { mean: mean.flatten_all()?.to_vec1()?, square: square.flatten_all()?.to_vec1()? }
                }
                _ => Buffers::Device(buffers),
            };
            loaded.push((buffers, find("step")?.to_scalar::<i64>()?));
        }
        for (slot, (buffers, step)) in self.slots.iter_mut().zip(loaded) {
            slot.buffers = buffers;
            slot.step = step.unsigned_abs();
        }
        Ok(())
    }
}

impl Slot {
    fn new(parameter: Parameter, fused: bool, config: &OptimizerConfig) -> Result<Self> {
        let Parameter { name, var, lr_scale, weight_decay } = parameter;
        let buffers = if fused {
            let zeros = vec![0.0; var.elem_count()];
            Buffers::Host { mean: zeros.clone(), square: zeros }
        } else {
            let zeros = Tensor::zeros(var.shape(), DType::F32, var.device())?;
            Buffers::Device(vec![zeros; config.algorithm.buffers().len()])
        };
        let weight_decay = if decays(&name, var.rank()) { weight_decay.unwrap_or(config.weight_decay) } else { 0.0 };
        Ok(Self { name, var, lr_scale, weight_decay, step: 0, buffers })
    }

    fn update(&mut self, grad: &Tensor, lr: f64, grad_scale: f64, config: &OptimizerConfig) -> Result<()> {
        self.step += 1;
        let t = self.step as f64;
        let lr = lr * self.lr_scale;
        let (beta1, beta2) = config.betas;
        let (l2, shrink) = match config.algorithm {
            Algorithm::Adam | Algorithm::Sgd => (self.weight_decay, 1.0),
            Algorithm::AdamW => (0.0, 1.0 - lr * self.weight_decay),
        };
        let c = Coefficients {
            grad_scale,
            l2,
            shrink,
            beta2,
            one_minus_beta1: 1.0 - beta1,
            one_minus_beta2: 1.0 - beta2,
            step_size: lr / (1.0 - beta1.powf(t)),
            bias_correction2_sqrt: (1.0 - beta2.powf(t)).sqrt(),
            eps: config.eps,
        };
        match &mut self.buffers {
            Buffers::Host { mean, square } => update_fused(&self.var, grad, mean, square, c),
            Buffers::Device(buffers) => match &mut buffers[..] {
                [mean, square] => update_composed(&self.var, grad, mean, square, &c),
                [momentum] => descend(&self.var, grad, momentum, &c, (lr, config.momentum)),
                _ => bail!("{} has {} buffers", self.name, buffers.len()),
            },
        }
    }
}

/// One update of one parameter by SGD.
fn descend(var: &Var, grad: &Tensor, buffer: &mut Tensor, c: &Coefficients, (lr, momentum): (f64, f64)) -> Result<()> {
    let p = var.as_detached_tensor().to_dtype(DType::F32)?;
    let mut g = (grad.detach().to_dtype(DType::F32)? * c.grad_scale)?;
    if c.l2 != 0.0 {
        g = (g + (&p * c.l2)?)?;
    }
    *buffer = ((&*buffer * momentum)? + g)?;
    var.set(&(p - (&*buffer * lr)?)?.to_dtype(var.dtype())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, phase: f64, scale: f64) -> Vec<f32> {
        (0..n).map(|i| ((i as f64 * 0.73 + phase).sin() * scale) as f32).collect()
    }

    /// A few shapes, one of them longer than a chunk and no multiple of any vector.
    fn parameters() -> Vec<(String, Var)> {
        let shapes: [(&str, &[usize]); 4] =
            [("layer.weight", &[131, 257]), ("layer.bias", &[257]), ("logit_scale_a", &[]), ("other.weight", &[3, 5])];
        shapes
            .iter()
            .enumerate()
            .map(|(i, (name, shape))| {
                let n = shape.iter().product();
                let var = Var::from_vec(values(n, i as f64, 0.5), *shape, &Device::Cpu).unwrap();
                ((*name).to_owned(), var)
            })
            .collect()
    }

    /// Gradients from a real backward pass: d/dp Σ p · w.
    fn gradients(parameters: &[(String, Var)], step: usize) -> GradStore {
        let mut loss = Tensor::new(0f32, &Device::Cpu).unwrap();
        for (i, (_, var)) in parameters.iter().enumerate() {
            let weights = values(var.elem_count(), (step * 10 + i) as f64, 0.01 * (i + 1) as f64);
            let weights = Tensor::from_vec(weights, var.shape(), &Device::Cpu).unwrap();
            loss = (loss + (var.as_tensor() * weights).unwrap().sum_all().unwrap()).unwrap();
        }
        loss.backward().unwrap()
    }

    fn flat(var: &Var) -> Vec<f32> {
        var.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn configs() -> [OptimizerConfig; 4] {
        let adam = OptimizerConfig { weight_decay: 0.1, ..OptimizerConfig::default() };
        [
            OptimizerConfig::default(),
            OptimizerConfig { grad_clip_norm: Some(0.05), ..adam },
            OptimizerConfig { algorithm: Algorithm::AdamW, betas: (0.9, 0.99), eps: 1e-6, ..adam },
            OptimizerConfig { algorithm: Algorithm::Sgd, ..adam },
        ]
    }

    #[test]
    fn fused_and_composed_agree() {
        for config in configs() {
            let (a, b) = (parameters(), parameters());
            let mut fused = Optimizer::new(a.clone(), config).unwrap();
            let mut composed = Optimizer::composed(b.clone(), config).unwrap();
            for step in 0..5 {
                let n1 = fused.step(&gradients(&a, step), 1e-2).unwrap();
                let n2 = composed.step(&gradients(&b, step), 1e-2).unwrap();
                assert!((n1 - n2).abs() <= 1e-6 * n1);
            }
            for ((name, p), (_, q)) in a.iter().zip(&b) {
                for (x, y) in flat(p).iter().zip(flat(q)) {
                    assert!((x - y).abs() <= 2e-6 * (1.0 + x.abs()), "{name}: {x} {y} ({config:?})");
                }
            }
        }
    }

    /// Three steps of a scalar by the printed formula in f64.
    #[test]
    fn a_scalar_follows_the_formula() {
        let config = OptimizerConfig { algorithm: Algorithm::AdamW, weight_decay: 0.1, ..OptimizerConfig::default() };
        let var = Var::from_vec(vec![0.8f32], (1, 1), &Device::Cpu).unwrap();
        let mut optimizer = Optimizer::new([("w.weight".to_owned(), var.clone())], config).unwrap();
        let (mut p, mut m, mut v, lr) = (0.8f64, 0.0, 0.0, 0.01);
        for t in 1..=3 {
            // loss = p², gradient 2p
            let grads = var.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            let norm = optimizer.step(&grads, lr).unwrap();
            let g = 2.0 * p;
            assert!((norm - g.abs()).abs() < 1e-5);
            p *= 1.0 - lr * 0.1;
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (mean, square) = (m / (1.0 - 0.9f64.powi(t)), v / (1.0 - 0.999f64.powi(t)));
            p -= lr * mean / (square.sqrt() + 1e-8);
            assert!((f64::from(flat(&var)[0]) - p).abs() < 1e-6);
        }
    }

    /// Three steps of a scalar by the printed formula in f64.
    #[test]
    fn sgd_follows_the_formula() {
        let config = OptimizerConfig { algorithm: Algorithm::Sgd, weight_decay: 0.1, ..OptimizerConfig::default() };
        let var = Var::from_vec(vec![0.8f32], (1, 1), &Device::Cpu).unwrap();
        let mut optimizer = Optimizer::new([("w.weight".to_owned(), var.clone())], config).unwrap();
        let (mut p, mut buffer, lr) = (0.8f64, 0.0, 0.01);
        for _ in 0..3 {
            let grads = var.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            optimizer.step(&grads, lr).unwrap();
            buffer = 0.9 * buffer + 2.0 * p + 0.1 * p;
            p -= lr * buffer;
            assert!((f64::from(flat(&var)[0]) - p).abs() < 1e-6);
        }
        let state = optimizer.state().unwrap();
        assert!(
            (f64::from(state["momentum_buffer.w.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap()[0]) - buffer)
                .abs()
                < 1e-5
        );
    }

    #[test]
    fn a_group_has_its_own_rate_and_decay() {
        let config = OptimizerConfig { algorithm: Algorithm::AdamW, weight_decay: 0.1, ..OptimizerConfig::default() };
        let (a, b) = (parameters(), parameters());
        let slower =
            |(name, var): (String, Var)| Parameter { lr_scale: 0.1, weight_decay: Some(1.0), ..(name, var).into() };
        let mut grouped = Optimizer::new(a.iter().cloned().map(slower), config).unwrap();
        // As much decay as ten times the rate would make of it.
        let mut plain = Optimizer::new(b.clone(), OptimizerConfig { weight_decay: 1.0, ..config }).unwrap();
        for step in 0..3 {
            grouped.step(&gradients(&a, step), 1e-2).unwrap();
            plain.step(&gradients(&b, step), 1e-3).unwrap();
        }
        for ((name, p), (_, q)) in a.iter().zip(&b) {
            for (x, y) in flat(p).iter().zip(flat(q)) {
                assert!((x - y).abs() <= 1e-6, "{name}: {x} {y}");
            }
        }
    }

    #[test]
    fn decay_follows_the_groups() {
        assert!(decays("text_projection.linear1.weight", 2));
        assert!(!decays("text_projection.linear1.bias", 1));
        assert!(!decays("layers.0.blocks.0.attention.self.relative_position_bias_table", 2));
        assert!(!decays("logit_scale_a", 0));
        assert!(!decays("layers.0.blocks.0.layernorm_before.weight", 1));
    }

    #[test]
    fn clipping_bounds_the_first_step_of_plain_descent() {
        // With β1 = 0, β2 → v = g² · (1 − β2) corrected to g²: Adam is scale-free, so look at the moment instead.
        let parameters = parameters();
        let config = OptimizerConfig { grad_clip_norm: Some(1e-3), ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new(parameters.clone(), config).unwrap();
        let norm = optimizer.step(&gradients(&parameters, 0), 1e-3).unwrap();
        assert!(norm > 1e-3);
        let mut squares = 0.0;
        for (name, tensor) in optimizer.state().unwrap() {
            if name.starts_with("exp_avg.") {
                squares += sum_of_squares(&tensor.contiguous().unwrap()).unwrap();
            }
        }
        // m = (1 − β1) · clipped gradient
        assert!((squares.sqrt() - 0.1 * 1e-3).abs() < 1e-8);
    }

    #[test]
    fn a_gradient_that_is_not_finite_changes_nothing() {
        let parameters = parameters();
        let before: Vec<_> = parameters.iter().map(|(_, v)| flat(v)).collect();
        let mut optimizer = Optimizer::new(parameters.clone(), OptimizerConfig::default()).unwrap();
        let nan = Tensor::new(f32::NAN, &Device::Cpu).unwrap();
        let loss = parameters[1].1.broadcast_mul(&nan).unwrap().sum_all().unwrap();
        assert!(!optimizer.step(&loss.backward().unwrap(), 1e-3).unwrap().is_finite());
        for ((_, var), old) in parameters.iter().zip(before) {
            assert_eq!(flat(var), old);
        }
    }

    #[test]
    fn a_parameter_without_gradient_stays_and_is_named() {
        let parameters = parameters();
        let mut optimizer = Optimizer::new(parameters.clone(), OptimizerConfig::default()).unwrap();
        let before = flat(&parameters[0].1);
        let grads = parameters[1].1.sum_all().unwrap().backward().unwrap();
        assert_eq!(optimizer.without_gradient(&grads), ["layer.weight", "logit_scale_a", "other.weight"]);
        optimizer.step(&grads, 1e-3).unwrap();
        assert_eq!(flat(&parameters[0].1), before);
        let steps: Vec<i64> = ["layer.weight", "layer.bias"]
            .iter()
            .map(|n| optimizer.state().unwrap()[&format!("step.{n}")].to_scalar().unwrap())
            .collect();
        assert_eq!(steps, [0, 1]);
    }

    #[test]
    fn state_goes_round_and_continues_bit_for_bit() {
        for config in configs() {
            let (a, b) = (parameters(), parameters());
            let mut straight = Optimizer::new(a.clone(), config).unwrap();
            let mut stopped = Optimizer::new(b.clone(), config).unwrap();
            for step in 0..2 {
                straight.step(&gradients(&a, step), 1e-2).unwrap();
                stopped.step(&gradients(&b, step), 1e-2).unwrap();
            }
            let mut resumed = Optimizer::new(b.clone(), config).unwrap();
            resumed.load_state(&stopped.state().unwrap()).unwrap();
            straight.step(&gradients(&a, 2), 1e-2).unwrap();
            resumed.step(&gradients(&b, 2), 1e-2).unwrap();
            for ((_, p), (_, q)) in a.iter().zip(&b) {
                assert_eq!(flat(p), flat(q));
            }
        }
    }

    #[test]
    fn a_state_of_another_model_is_refused() {
        let parameters = parameters();
        let mut optimizer = Optimizer::new(parameters.clone(), OptimizerConfig::default()).unwrap();
        let mut state = optimizer.state().unwrap();
        state.remove("exp_avg.layer.bias");
        let message = optimizer.load_state(&state).unwrap_err().to_string();
        assert!(message.contains("exp_avg.layer.bias"), "{message}");
        state.insert("exp_avg.layer.bias".to_owned(), Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap());
        assert!(optimizer.load_state(&state).is_err());
    }

    #[test]
    fn logit_scales_are_clamped() {
        let high = Var::new(5.0f32, &Device::Cpu).unwrap();
        let low = Var::new(-0.5f32, &Device::Cpu).unwrap();
        let other = Var::new(9.0f32, &Device::Cpu).unwrap();
        let named = [("logit_scale_a", &high), ("logit_scale_t", &low), ("bias", &other)];
        let named = named.map(|(name, var)| (name.to_owned(), var.clone()));
        Optimizer::new(named, OptimizerConfig::default()).unwrap().clamp_logit_scales().unwrap();
        assert!((high.to_scalar::<f32>().unwrap() - 100f32.ln()).abs() < 1e-6);
        assert_eq!(low.to_scalar::<f32>().unwrap(), 0.0);
        assert_eq!(other.to_scalar::<f32>().unwrap(), 9.0);
    }
}
