//! Which parameters train, and at which rate: patterns over their checkpoint names.
//!
//! | pattern | parameters |
//! |---|---|
//! | `audio`, `text` | the tower, without its projection: `audio_model.…`, `text_model.…` (what LAION's `--freeze-text` freezes) |
//! | `heads` | projections and second heads |
//! | `pretrained`, `new` | what came from a file (`model.init`, `model.init_audio`, `model.init_text`), and the rest |
//! | `text_model.embeddings` | the parameter of that name and all below it |
//! | `*.bias`, `audio_model.*.layers.0.*` | with stars, the whole name; a star stands for any characters, dots too |

use std::collections::HashSet;

use clap_nn::Vars;

use crate::config::OptimConfig;
use crate::error::{Error, Result};
use crate::lora::Lora;
use crate::optimizer::Parameter;

/// Where the towers' parameters begin.
const AUDIO: &str = "audio_model.";
const TEXT: &str = "text_model.";
const HEADS: [&str; 4] = ["audio_projection.", "text_projection.", "audio_transform.", "text_transform."];

/// The towers none of whose parameters train: nothing is learnt behind their outputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frozen {
    /// It runs as at inference: batch norm has its running statistics and leaves them alone, nothing is dropped.
    pub audio: bool,
    /// It runs as in training, as with LAION's `--freeze-text`: its dropout goes on.
    pub text: bool,
}

/// The parameters of a model, divided.
#[derive(Debug)]
pub struct Groups {
    /// Those that train.
    pub trained: Vec<Parameter>,
    /// Names of the others.
    pub frozen: Vec<String>,
}

impl Groups {
    /// Divides the trainable variables by the patterns of `optim`; `pretrained` are the names of those that came from a file. With adapters
    /// these train in the place of the towers' own parameters.
    ///
    /// # Errors
    /// Naming a pattern that no parameter has, or the key that leaves nothing to train.
    pub fn new(vars: &Vars, pretrained: &HashSet<String>, optim: &OptimConfig, lora: Option<&Lora>) -> Result<Self> {
        let mut parameters: Vec<Parameter> = vars.trainable().map(Parameter::from).collect();
        parameters.extend(lora.map(Lora::parameters).unwrap_or_default());
        let replaced = |name: &str| {
            lora.is_some_and(|lora| lora.adapts(name) || name.starts_with(AUDIO) || name.starts_with(TEXT))
                && !name.contains(".lora_")
        };
        let matches = |pattern: &String, name: &str| matches(pattern, name, pretrained);
        let groups = optim.groups.iter().flat_map(|group| &group.parameters).map(|p| ("optim.groups", p));
        let patterns = optim.freeze.iter().map(|p| ("optim.freeze", p)).chain(groups);
        for (key, pattern) in patterns {
            if !parameters.iter().any(|parameter| matches(pattern, &parameter.name)) {
                return Err(Error::config(key, no_match(pattern, &parameters)));
            }
        }
        let any = |patterns: &[String], name: &str| patterns.iter().any(|pattern| matches(pattern, name));
        let (frozen, mut trained): (Vec<_>, Vec<_>) = parameters
            .into_iter()
            .partition(|parameter| replaced(&parameter.name) || any(&optim.freeze, &parameter.name));
        for parameter in &mut trained {
            let group = optim.groups.iter().find(|group| any(&group.parameters, &parameter.name));
            if let Some(group) = group {
                parameter.lr_scale = group.lr.map_or(1.0, |lr| lr / optim.lr);
                parameter.weight_decay = group.weight_decay;
            }
        }
        if trained.is_empty() {
            return Err(Error::config("optim.freeze", "leaves no parameter to train"));
        }
        Ok(Self { trained, frozen: frozen.into_iter().map(|parameter| parameter.name).collect() })
    }

    /// The towers that do not train at all.
    #[must_use]
    pub fn frozen_towers(&self) -> Frozen {
        let whole = |tower| !self.trained.iter().any(|parameter| parameter.name.starts_with(tower));
        Frozen { audio: whole(AUDIO), text: whole(TEXT) }
    }
}

/// Whether a parameter is the text tower's.
pub(crate) fn is_text(name: &str) -> bool {
    name.starts_with(TEXT)
}

pub(crate) fn matches(pattern: &str, name: &str, pretrained: &HashSet<String>) -> bool {
    match pattern {
        "audio" => name.starts_with(AUDIO),
        "text" => is_text(name),
        "heads" => HEADS.iter().any(|head| name.starts_with(head)),
        "pretrained" => pretrained.contains(name),
        "new" => !pretrained.contains(name),
        _ if pattern.contains('*') => glob(pattern, name),
        _ => name.strip_prefix(pattern).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')),
    }
}

/// Whether all of `name` is `pattern`, whose stars stand for any characters.
fn glob(pattern: &str, name: &str) -> bool {
    let parts: Vec<&str> = pattern.split('*').collect();
    let [first, middle @ .., last] = &parts[..] else { return pattern == name };
    let Some(rest) = name.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    // The leftmost place of each part leaves the most for the others.
    middle.iter().try_fold(rest, |rest, part| rest.find(part).map(|at| &rest[at + part.len()..])).is_some()
}

fn no_match(pattern: &str, parameters: &[Parameter]) -> String {
    let mut tops: Vec<&str> =
        parameters.iter().map(|parameter| parameter.name.split('.').next().unwrap_or_default()).collect();
    tops.dedup();
    let tops = tops.join(", ");
    format!(
        "has {pattern:?}, which matches no parameter of the model; give audio, text, heads, pretrained, new, or a checkpoint name with \
         stars or the beginning of one (they begin with {tops})"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    fn vars() -> Vars {
        let (vars, vb) = clap_nn::init::seeded_vars(0, &Device::Cpu, DType::F32);
        for name in [
            "audio_model.audio_encoder.layers.0.weight",
            "audio_model.audio_encoder.layers.0.bias",
            "audio_model.audio_encoder.layers.10.weight",
            "text_model.embeddings.word.weight",
            "text_model.pooler.bias",
            "audio_projection.linear1.weight",
            "logit_scale_a",
        ] {
            vb.get((2, 2), name).unwrap();
        }
        vars
    }

    fn divided(set: impl FnOnce(&mut OptimConfig)) -> Result<Groups> {
        let mut optim = OptimConfig::default();
        set(&mut optim);
        let pretrained = HashSet::from(["text_model.embeddings.word.weight".to_owned()]);
        Groups::new(&vars(), &pretrained, &optim, None)
    }

    #[track_caller]
    fn freezes(pattern: &str, count: usize, towers: Frozen) {
        let groups = divided(|optim| optim.freeze = vec![pattern.to_owned()]).unwrap();
        assert_eq!((groups.frozen.len(), groups.frozen_towers()), (count, towers), "{:?}", groups.frozen);
        assert_eq!(groups.trained.len() + count, 7);
    }

    #[test]
    fn patterns_freeze_what_they_say() {
        let none = Frozen::default();
        freezes("text", 2, Frozen { text: true, ..none });
        freezes("text_model", 2, Frozen { text: true, ..none });
        freezes("audio", 3, Frozen { audio: true, ..none });
        freezes("audio_model.audio_encoder.layers.0", 2, none);
        freezes("audio_model.audio_encoder.layers.1*", 1, none);
        freezes("*.bias", 2, none);
        freezes("*weight*", 4, none);
        freezes("*_model.*.layers.*.weight", 2, none);
        freezes("heads", 1, none);
        freezes("pretrained", 1, none);
        freezes("new", 6, Frozen { audio: true, ..none });
        freezes("logit_scale_a", 1, none);
    }

    #[test]
    fn the_first_group_counts() {
        let groups = divided(|optim| {
            optim.lr = 1e-3;
            let group = |pattern: &str, lr, weight_decay| GroupConfig {
                parameters: vec![pattern.to_owned()],
                lr,
                weight_decay,
            };
            optim.groups = vec![group("text_model.pooler", Some(1e-4), None), group("text", Some(1e-5), Some(0.2))];
        })
        .unwrap();
        let of = |name: &str| groups.trained.iter().find(|parameter| parameter.name == name).unwrap();
        assert!((of("text_model.pooler.bias").lr_scale - 0.1).abs() < 1e-12);
        assert_eq!(of("text_model.pooler.bias").weight_decay, None);
        assert!((of("text_model.embeddings.word.weight").lr_scale - 0.01).abs() < 1e-12);
        assert_eq!(of("text_model.embeddings.word.weight").weight_decay, Some(0.2));
        assert_eq!(of("logit_scale_a").lr_scale, 1.0);
    }

    #[test]
    fn a_pattern_without_parameters_is_refused_by_name() {
        for pattern in ["text_modle", "text_mod", "*.weights", "a*"] {
            let error = divided(|optim| optim.freeze = vec![pattern.to_owned()]).map(|groups| groups.frozen);
            if pattern == "a*" {
                assert_eq!(error.unwrap().len(), 4);
                continue;
            }
            let message = error.unwrap_err().to_string();
            assert!(message.contains("optim.freeze") && message.contains(pattern), "{message}");
            assert!(message.contains("text_model"), "{message}");
        }
        let message = divided(|optim| optim.freeze = vec!["*".to_owned()]).unwrap_err().to_string();
        assert!(message.contains("no parameter to train"), "{message}");
    }

    use crate::config::GroupConfig;
}
