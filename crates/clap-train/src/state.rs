//! Where a run stands: what the model folder does not hold but continuing needs.
//!
//! One safetensors file beside the model: the optimiser's moments by PyTorch's names ([`Optimizer::state`]) and the position
//! as scalars (`run.step` …). No generator needs saving: the order of the data, augmentation and dropout are pure
//! functions of seed, epoch and step.
//!
//! [`Optimizer::state`]: crate::optimizer::Optimizer::state

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Name of the state file in a checkpoint's folder.
pub const STATE_FILE: &str = "training_state.safetensors";

/// The position of a run between two steps, and the optimiser's memory.
#[derive(Clone, Debug, Default)]
pub struct TrainingState {
    /// The position.
    pub position: Position,
    /// [`Optimizer::state`](crate::optimizer::Optimizer::state).
    pub optimizer: HashMap<String, Tensor>,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Optimiser steps taken.
    pub step: u64,
    /// Epoch being run, counted from 0.
    pub epoch: u64,
    /// Batches of that epoch already seen.
    pub batch: u64,
    /// Clips seen, repetitions included.
    pub clips_seen: u64,
    /// Wall-clock seconds spent.
    pub elapsed: f64,
    /// Greatest mean of the selected metrics so far.
    pub best: Option<f64>,
    /// Epoch that reached it, counted from 1; 0 before training.
    pub best_epoch: u64,
    /// Wall-clock seconds of the run when its first step began.
    pub training_from: f64,
    /// Seconds spent in steps, evaluations left out.
    pub training_seconds: f64,
    /// Those of them that waited for data.
    pub data_wait: f64,
}

impl Position {
    /// The epoch and the batch of it that come next, where epochs have so many batches.
    #[must_use]
    pub fn next(&self, batches: u64) -> (u64, u64) {
        if self.batch >= batches { (self.epoch + 1, 0) } else { (self.epoch, self.batch) }
    }
}

impl TrainingState {
    /// Writes the state; the caller's rename makes it appear at once.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = self.optimizer.clone();
        let p = &self.position;
        for (name, value) in [
            ("step", p.step),
            ("epoch", p.epoch),
            ("batch", p.batch),
            ("clips_seen", p.clips_seen),
            ("best_epoch", p.best_epoch),
        ] {
            tensors.insert(format!("run.{name}"), Tensor::new(value as i64, &Device::Cpu)?);
        }
        for (name, value) in [
            ("elapsed", p.elapsed),
            ("training_from", p.training_from),
            ("training_seconds", p.training_seconds),
            ("data_wait", p.data_wait),
        ] {
            tensors.insert(format!("run.{name}"), Tensor::new(value, &Device::Cpu)?);
        }
        if let Some(best) = p.best {
            tensors.insert("run.best".to_owned(), Tensor::new(best, &Device::Cpu)?);
        }
        candle_core::safetensors::save(&tensors, path)
            .map_err(|e| Error::State { path: path.to_owned(), reason: format!("cannot be written: {e}") })
    }

    /// Reads what [`Self::save`] wrote.
    ///
    /// # Errors
    /// Where the file cannot be read or lacks part of the position.
    pub fn load(path: &Path) -> Result<Self> {
        let fail = |reason: String| Error::State { path: path.to_owned(), reason };
        let mut tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(|e| fail(format!("is no readable training state: {e}")))?;
        let mut take = |name: &str| tensors.remove(&format!("run.{name}"));
        let mut count = |name: &str| -> Result<u64> {
            let tensor = take(name).filter(|t| t.dtype() == DType::I64 && t.rank() == 0);
            let value = tensor.and_then(|t| t.to_scalar::<i64>().ok()).and_then(|v| u64::try_from(v).ok());
            value.ok_or_else(|| fail(format!("has no count run.{name}; it is no training state of this program")))
        };
        let mut position = Position {
            step: count("step")?,
            epoch: count("epoch")?,
            batch: count("batch")?,
            clips_seen: count("clips_seen")?,
            best_epoch: count("best_epoch")?,
            ..Position::default()
        };
        let mut number = |name: &str| take(name).and_then(|t| t.to_scalar::<f64>().ok());
        position.best = number("best");
        let mut seconds = |name: &str| number(name).ok_or_else(|| fail(format!("has no number run.{name}")));
        position.elapsed = seconds("elapsed")?;
        position.training_from = seconds("training_from")?;
        position.training_seconds = seconds("training_seconds")?;
        position.data_wait = seconds("data_wait")?;
        Ok(Self { position, optimizer: tensors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_goes_round() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(STATE_FILE);
        let position = Position {
            step: 120,
            epoch: 7,
            batch: 3,
            clips_seen: 7680,
            elapsed: 61.5,
            best: Some(0.31),
            best_epoch: 6,
            training_from: 2.5,
            training_seconds: 50.25,
            data_wait: 0.5,
        };
        let moment = Tensor::new(&[1f32, -2.0], &Device::Cpu).unwrap();
        let optimizer = HashMap::from([("exp_avg.w".to_owned(), moment)]);
        TrainingState { position, optimizer }.save(&path).unwrap();
        let state = TrainingState::load(&path).unwrap();
        assert_eq!(state.position, position);
        assert_eq!(state.optimizer.len(), 1);
        assert_eq!(state.optimizer["exp_avg.w"].to_vec1::<f32>().unwrap(), [1.0, -2.0]);

        let early = TrainingState::default();
        early.save(&path).unwrap();
        assert_eq!(TrainingState::load(&path).unwrap().position.best, None);
    }

    #[test]
    fn other_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(STATE_FILE);
        std::fs::write(&path, "not a state").unwrap();
        assert!(TrainingState::load(&path).unwrap_err().to_string().contains(STATE_FILE));
        let weights = HashMap::from([("w".to_owned(), Tensor::new(&[1f32], &Device::Cpu).unwrap())]);
        candle_core::safetensors::save(&weights, &path).unwrap();
        assert!(TrainingState::load(&path).unwrap_err().to_string().contains("run.step"));
    }
}
