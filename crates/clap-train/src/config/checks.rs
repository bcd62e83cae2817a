//! Values that no run can have, refused before anything is opened.

use crate::config::{GroupConfig, ScheduleConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::loss::Objective;

impl TrainConfig {
    /// Checks every value that can be judged without opening the data.
    ///
    /// # Errors
    /// Naming the first key at fault and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.validate_data()?;
        self.validate_model()?;
        self.validate_optim()?;
        let ScheduleConfig { epochs, max_minutes, decay, .. } = self.schedule;
        ensure(decay > 0.0 && decay <= 1.0, "schedule.decay", || {
            format!("is {decay}; it is a share of the run, above 0 and 1 at most")
        })?;
        ensure(epochs >= 1, "schedule.epochs", || "is 0; a run has at least one epoch".to_owned())?;
        if let Some(minutes) = max_minutes {
            ensure(minutes.is_finite() && minutes > 0.0, "schedule.max_minutes", || {
                format!("is {minutes}; give minutes above 0, or leave it out for no bound")
            })?;
        }
        let minutes = self.checkpoint.every_minutes;
        ensure(minutes > 0.0, "checkpoint.every_minutes", || {
            format!("is {minutes}; give minutes above 0, or `inf` for checkpoints at evaluations alone")
        })?;
        ensure(self.eval.batch_size >= 1, "eval.batch_size", || "is 0".to_owned())?;
        ensure(!self.eval.select.is_empty(), "eval.select", || "is empty; name at least one metric".to_owned())?;
        ensure(self.eval.template.contains("{label}"), "eval.template", || {
            format!("{:?} has no {{label}}, so every class would get the same prompt", self.eval.template)
        })
    }

    fn validate_data(&self) -> Result<()> {
        let data = &self.data;
        ensure(!data.train.as_os_str().is_empty(), "data.train", || {
            "is not set; give a folder, a .tar or a pattern of shards".to_owned()
        })?;
        if let Some(separator) = &data.separator {
            ensure(clap_data::Columns::parse_separator(separator).is_ok(), "data.separator", || {
                format!("is {separator:?}; give one ASCII character, or \\t for a tab")
            })?;
        }
        ensure((0.0..1.0).contains(&data.holdout), "data.holdout", || {
            format!("is {}; it is a share of the training clips, from 0 up to, not including, 1", data.holdout)
        })?;
        ensure(data.holdout == 0.0 || data.valid.is_none(), "data.holdout", || {
            "is for runs without data.valid; leave one of the two out".to_owned()
        })?;
        ensure(data.batch_size >= 2, "data.batch_size", || {
            format!("is {}; a contrastive step compares at least 2 clips", data.batch_size)
        })?;
        ensure(data.prefetch >= 1, "data.prefetch", || "is 0; at least one batch is prepared ahead".to_owned())?;
        ensure(data.shuffle_buffer >= 1, "data.shuffle_buffer", || {
            "is 0; 1 leaves the order of the shards".to_owned()
        })?;
        ensure(data.readers >= 1, "data.readers", || "is 0; at least one shard is read at a time".to_owned())?;
        ensure(data.buffer_mb >= 1, "data.buffer_mb", || "is 0, which has room for no clip".to_owned())?;
        ensure(data.samples_per_epoch != Some(0), "data.samples_per_epoch", || "is 0".to_owned())?;
        ensure(data.max_tokens >= 3, "data.max_tokens", || {
            format!("is {}; two special tokens and a word need 3", data.max_tokens)
        })?;
        let p = data.template_probability;
        ensure((0.0..=1.0).contains(&p), "data.template_probability", || {
            format!("is {p}; a probability lies between 0 and 1")
        })?;
        ensure(p == 0.0 || !data.templates.is_empty(), "data.templates", || {
            "is empty while data.template_probability is above 0".to_owned()
        })?;
        for template in &data.templates {
            ensure(template.contains("{label}"), "data.templates", || format!("{template:?} has no {{label}}"))?;
        }
        ensure((0.0..=1.0).contains(&data.balance), "data.balance", || {
            format!("is {}; it lies between 0 (none) and 1 (all labels equally often)", data.balance)
        })?;
        if let Some([low, high]) = self.augment.gain_db {
            ensure(low.is_finite() && high.is_finite() && low <= high, "augment.gain_db", || {
                format!("is [{low}, {high}]; give two finite numbers, the smaller first")
            })?;
        }
        Ok(())
    }

    fn validate_model(&self) -> Result<()> {
        let model = &self.model;
        if model.init.is_some() {
            for (key, given) in [
                ("model.audio", model.audio.is_some()),
                ("model.text", model.text.is_some()),
                ("features", self.features.is_some()),
                ("model.init_audio", model.init_audio.is_some()),
                ("model.init_text", model.init_text.is_some()),
            ] {
                ensure(!given, key, || "comes from the model of model.init; leave one of the two out".to_owned())?;
            }
            return Ok(());
        }
        // Not what shapes tell alone: heads, epsilon and activation have to be the tower's own.
        ensure(model.init_text.is_none() || model.text.is_none(), "model.text", || {
            "comes from the folder of model.init_text; leave one of the two out".to_owned()
        })?;
        ensure(self.data.tokenizer.is_some() || model.init_text.is_some(), "data.tokenizer", || {
            "is not set; give a tokenizer.json, a text model as model.init_text or a model as model.init".to_owned()
        })?;
        Ok(())
    }

    fn validate_optim(&self) -> Result<()> {
        let optim = &self.optim;
        ensure(optim.lr.is_finite() && optim.lr > 0.0, "optim.lr", || {
            format!("is {}; give a finite number above 0", optim.lr)
        })?;
        ensure(optim.betas.iter().all(|b| (0.0..1.0).contains(b)), "optim.betas", || {
            format!("are {:?}; both lie in [0, 1)", optim.betas)
        })?;
        ensure(optim.eps.is_finite() && optim.eps > 0.0, "optim.eps", || format!("is {}", optim.eps))?;
        ensure(optim.weight_decay.is_finite() && optim.weight_decay >= 0.0, "optim.weight_decay", || {
            format!("is {}; give 0 or more", optim.weight_decay)
        })?;
        ensure(optim.micro_batch_size != Some(0), "optim.micro_batch_size", || {
            "is 0; give at least 1, or leave it out for batches in one piece".to_owned()
        })?;
        ensure((0.0..1.0).contains(&optim.momentum), "optim.momentum", || {
            format!("is {}; it lies in [0, 1)", optim.momentum)
        })?;
        ensure(optim.freeze_text_after != Some(0), "optim.freeze_text_after", || {
            "is 0, the first epoch; write freeze = [\"text\"]".to_owned()
        })?;
        ensure(optim.accumulate >= 1, "optim.accumulate", || "is 0; a step takes at least one batch".to_owned())?;
        for GroupConfig { parameters, lr, weight_decay } in &optim.groups {
            let of = |what: &str| format!("of {}: {what}", parameters.join(", "));
            ensure(!parameters.is_empty(), "optim.groups", || "has a group without parameters".to_owned())?;
            ensure(lr.is_none_or(|lr| lr.is_finite() && lr >= 0.0), "optim.groups", || {
                of("lr is no finite number from 0")
            })?;
            ensure(weight_decay.is_none_or(|wd| wd.is_finite() && wd >= 0.0), "optim.groups", || {
                of("weight_decay is no finite number from 0")
            })?;
        }
        if let Some(lora) = &self.lora {
            ensure(lora.rank >= 1, "lora.rank", || "is 0; leave [lora] out for no adapters".to_owned())?;
            ensure(lora.alpha.is_finite() && lora.alpha > 0.0, "lora.alpha", || {
                format!("is {}; give a number above 0", lora.alpha)
            })?;
        }
        let dropout = self.loss.mlp_dropout;
        ensure((0.0..1.0).contains(&dropout), "loss.mlp_dropout", || format!("is {dropout}; give a share in [0, 1)"))?;
        if let Some(kappa) = self.loss.weight_loss_kappa {
            ensure(kappa.is_finite() && kappa > 0.0, "loss.weight_loss_kappa", || {
                format!("is {kappa}; give a number above 0, or leave it out for equal weights")
            })?;
            ensure(self.loss.name != Objective::Sigmoid, "loss.weight_loss_kappa", || {
                "is for the losses `contrastive` and `mlp`; leave it out with `sigmoid`".to_owned()
            })?;
        }
        if let Some(norm) = optim.grad_clip_norm {
            ensure(norm.is_finite() && norm > 0.0, "optim.grad_clip_norm", || {
                format!("is {norm}; give a number above 0, or leave it out for no clipping")
            })?;
        }
        Ok(())
    }
}

fn ensure(holds: bool, key: &str, reason: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::config(key, reason())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "
        [data]
        train = 'clips'
        tokenizer = 'tokenizer.json'
        [model.audio]
        depths = [2, 2]
    ";

    /// The error of a changed recipe, as the user reads it.
    fn refused(assignments: &[&str]) -> String {
        let mut config = TrainConfig::parse(RECIPE, "recipe.toml").unwrap();
        for assignment in assignments {
            if let Err(e) = config.set(assignment) {
                return e.to_string();
            }
        }
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn impossible_values_are_refused_by_name() {
        for (assignments, key) in [
            (&["data.batch_size=0"][..], "data.batch_size"),
            (&["data.separator=,,"], "data.separator"),
            (&["data.holdout=1"], "data.holdout"),
            (&["data.holdout=0.1", "data.valid=clips"], "data.holdout"),
            (&["data.more=[{ path = 'clips', fold = '1' }]"], "data.more"),
            (&["optim.lr=inf"], "optim.lr"),
            (&["optim.lr=nan"], "optim.lr"),
            (&["optim.lr=-1.0"], "optim.lr"),
            (&["optim.betas=[0.9, 1.0]"], "optim.betas"),
            (&["schedule.epochs=0"], "schedule.epochs"),
            (&["schedule.max_minutes=0"], "schedule.max_minutes"),
            (&["data.template_probability=1.5"], "data.template_probability"),
            (&["data.template_probability=0.5", "data.templates=[]"], "data.templates"),
            (&["eval.template=a sound"], "eval.template"),
            (&["data.tokenizer="], "data.tokenizer"),
            (&["data.train="], "data.train"),
            (&["augment.gain_db=[4, -8]"], "augment.gain_db"),
            (&["model.init=folder"], "model.audio"),
            (&["model.init=folder", "model.audio=", "model.init_audio=a.ckpt"], "model.init_audio"),
            (&["model.init=folder", "model.audio=", "model.init_text=bert"], "model.init_text"),
            (&["model.init_text=bert", "model.text.hidden_size=64"], "model.text"),
            (&["optim.grad_clip_norm=0"], "optim.grad_clip_norm"),
            (&["optim.betas=adam"], "betas"),
            (&["optim.momentum=1.0"], "optim.momentum"),
            (&["optim.accumulate=0"], "optim.accumulate"),
            (&["optim.groups=[{ parameters = [] }]"], "optim.groups"),
            (&["optim.groups=[{ parameters = ['text'], lr = -1.0 }]"], "optim.groups"),
            (&["optim.groups=[{ parameters = ['text'], rate = 1.0 }]"], "optim.groups"),
            (&["loss.name=triplet"], "loss.name"),
            (&["loss.weight_loss_kappa=0"], "loss.weight_loss_kappa"),
            (&["loss.mlp_dropout=1"], "loss.mlp_dropout"),
            (&["loss.name=sigmoid", "loss.weight_loss_kappa=0.5"], "loss.weight_loss_kappa"),
            (&["lora.rank=0"], "lora.rank"),
            (&["lora.alpha=-1"], "lora.alpha"),
            (&["lora={ ranks = 8 }"], "lora.ranks"),
            (&["schedule.name=linear"], "schedule.name"),
            (&["schedule.decay=0"], "schedule.decay"),
        ] {
            let message = refused(assignments);
            assert!(message.contains(key), "{assignments:?}: {message}");
        }
    }
}
