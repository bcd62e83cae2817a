//! `[loss]`, `[optim]` and `[schedule]`: what is minimised, by what steps, at which rate.

use clap_encoders::ClapConfig;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::loss::{Loss, Objective};
use crate::optimizer::{Algorithm, OptimizerConfig};
use crate::schedule::Shape;

/// `[loss]`: what is minimised.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// `contrastive` (the paper's), `mlp` (LAION's `--clap-mlploss`) or `sigmoid` (SigLIP's).
    pub name: Objective,
    /// LAION's `--kappa`: clips whose texts are like many others count for more, the smaller the more. Without it all count alike.
    pub weight_loss_kappa: Option<f64>,
    /// Dropout in the heads of the MLP loss; LAION's is 0.1.
    pub mlp_dropout: f64,
}

impl Default for LossConfig {
    fn default() -> Self {
        let mlp_dropout = ClapConfig::default().mlp_dropout;
        Self { name: Objective::default(), weight_loss_kappa: None, mlp_dropout }
    }
}

impl From<&LossConfig> for Loss {
    fn from(config: &LossConfig) -> Self {
        Self { objective: config.name, weight_loss_kappa: config.weight_loss_kappa }
    }
}

/// `[optim]`: the optimiser and the parameters it is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimConfig {
    /// `adam`, `adamw` or `sgd`.
    pub optimizer: Algorithm,
    /// Learning rate after the warm-up.
    pub lr: f64,
    /// β1 and β2 of Adam, or whose: `"laion"` is [0.9, 0.999], which LAION's scripts run with, `"paper"` is [0.99, 0.9], which the paper prints.
    #[serde(deserialize_with = "betas")]
    pub betas: [f64; 2],
    /// Added to the denominator of Adam's update.
    pub eps: f64,
    /// What SGD keeps of its last step.
    pub momentum: f64,
    /// Weight decay of matrices (LAION's groups: none for biases, norms, bias tables and logit scales).
    pub weight_decay: f64,
    /// Greatest norm of the gradient; without it there is no clipping.
    pub grad_clip_norm: Option<f64>,
    /// Clips that go through the towers at a time: the memory is theirs, the loss and its gradient are those of the whole batch, and a
    /// step costs a second forward pass. Without it the batch goes through in one piece.
    pub micro_batch_size: Option<usize>,
    /// Batches of a step, each with a loss of its own; the gradient is that of their mean. Clips of different batches are not compared.
    pub accumulate: usize,
    /// Parameters that do not train, by patterns ([`crate::groups`]): `text`, `audio`, `text_model.embeddings`, `*.bias`.
    pub freeze: Vec<String>,
    /// Epoch, counted from 0, from which on the text tower does not train.
    pub freeze_text_after: Option<u64>,
    /// Parameters with rates of their own; the first that matches counts.
    pub groups: Vec<GroupConfig>,
}

/// `[[optim.groups]]`: parameters that differ from the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// Which, by patterns ([`crate::groups`]).
    pub parameters: Vec<String>,
    /// Their learning rate in place of `optim.lr`; it follows the same schedule.
    pub lr: Option<f64>,
    /// Their weight decay in place of `optim.weight_decay`, where LAION's groups have any.
    pub weight_decay: Option<f64>,
}

/// `[lora]`: adapters of low rank in the place of whole matrices ([`crate::lora`]). The towers' other parameters do not train then.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rank of what is learnt.
    pub rank: usize,
    /// The difference counts `alpha / rank` times.
    pub alpha: f64,
    /// Matrices that have adapters, by patterns ([`crate::groups`]); others are left out.
    pub parameters: Vec<String>,
}

impl Default for LoraConfig {
    /// The original's: queries and values.
    fn default() -> Self {
        let parameters = ["*.query.weight", "*.value.weight"].map(str::to_owned).to_vec();
        Self { rank: 8, alpha: 16.0, parameters }
    }
}

/// `[schedule]`: linear warm-up and what follows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// `cosine` (to zero over the whole run), `constant`, or `wsd` (constant, then linearly to zero).
    pub name: Shape,
    /// Steps of linear warm-up.
    pub warmup: u64,
    /// Share of the run in which `wsd` falls to zero.
    pub decay: f64,
    /// Passes over the training clips.
    pub epochs: u64,
    /// Wall-clock bound of the whole run, its last evaluation included. The schedule then follows whichever of steps and
    /// time is further on, so such a run depends on the machine's speed.
    pub max_minutes: Option<f64>,
}

impl Default for OptimConfig {
    /// The optimiser of LAION's shipped recipes.
    fn default() -> Self {
        let OptimizerConfig { algorithm, betas, eps, momentum, weight_decay, grad_clip_norm } =
            OptimizerConfig::default();
        Self {
            optimizer: algorithm,
            lr: 1e-4,
            betas: [betas.0, betas.1],
            eps,
            momentum,
            weight_decay,
            grad_clip_norm,
            micro_batch_size: None,
            accumulate: 1,
            freeze: Vec::new(),
            freeze_text_after: None,
            groups: Vec::new(),
        }
    }
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self { name: Shape::Cosine, warmup: 3200, decay: 0.1, epochs: 45, max_minutes: None }
    }
}

impl From<&OptimConfig> for OptimizerConfig {
    fn from(optim: &OptimConfig) -> Self {
        Self {
            algorithm: optim.optimizer,
            betas: (optim.betas[0], optim.betas[1]),
            eps: optim.eps,
            momentum: optim.momentum,
            weight_decay: optim.weight_decay,
            grad_clip_norm: optim.grad_clip_norm,
        }
    }
}

/// Two numbers, or the name of whose they are.
fn betas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[f64; 2], D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "two numbers, \"laion\" or \"paper\"")]
    enum Given {
        Numbers([f64; 2]),
        Name(String),
    }
    match Given::deserialize(deserializer)? {
        Given::Numbers(betas) => Ok(betas),
        Given::Name(name) => match name.as_str() {
            "laion" => Ok([0.9, 0.999]),
            "paper" => Ok([0.99, 0.9]),
            _ => {
                Err(D::Error::custom(format!("{name:?} is nobody's betas; write \"laion\", \"paper\" or two numbers")))
            }
        },
    }
}
