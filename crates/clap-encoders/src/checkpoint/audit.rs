//! Building a model from a file while keeping account of its keys: all that is missing, unexpected or of another shape is
//! reported at once.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::{SimpleBackend, VarBuilder};
use clap_nn::Vars;
use clap_nn::init::seeded_tensor;

use super::hf;
use super::read::Checkpoint;
use crate::error::{Error, KeyReport, Result};

impl Checkpoint {
    /// Runs `build` on the weights of this file, strictly: every key that the model asks for must be there in its shape, and
    /// every key of the file must be asked for, but for known buffers and parts that the embedding does not use.
    ///
    /// # Errors
    /// [`Error::Keys`] with every disagreement, or what `build` returned.
    pub fn build<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'_>) -> Result<T>,
    ) -> Result<T> {
        let (built, report) = self.audit(StandIn::Zero, dtype, device, build);
        match report.is_clean() {
            true => built,
            false => Err(self.disagreement(report)),
        }
    }

    /// As [`Checkpoint::build`], but a weight that the file lacks starts as in a new model (with seed 0), and one that the model has no
    /// use for is left out; both are in the report. A weight of another shape is an error still.
    ///
    /// # Errors
    /// [`Error::Keys`] where shapes disagree, or what `build` returned.
    pub fn build_allowing_missing<T>(
        &self,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'_>) -> Result<T>,
    ) -> Result<(T, KeyReport)> {
        let (built, report) = self.audit(StandIn::Initial, dtype, device, build);
        match report.mismatched.is_empty() {
            true => Ok((built?, report)),
            false => Err(self.disagreement(report)),
        }
    }

    /// Sets every variable of a model to the weights of this file, strictly as in [`Checkpoint::build`], but for those that the model
    /// `may_add`: where the file lacks them they stay as they are, and their names are returned.
    ///
    /// # Errors
    /// [`Error::Keys`] with every disagreement, and nothing is changed; or where a weight cannot be read.
    pub fn fill(&self, vars: &Vars, may_add: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let (mut report, mut added) = (KeyReport::default(), Vec::new());
        for (name, var) in vars.iter() {
            match self.shape(&name) {
                Some(found) if found == var.dims() => {}
                Some(found) => report.mismatched.push((name, var.dims().to_vec(), found.to_vec())),
                None if may_add(&name) => added.push(name),
                None => report.missing.push(name),
            }
        }
        report.unexpected = self.unexpected(|key| vars.get(key).is_some());
        if !report.is_clean() {
            return Err(self.disagreement(report));
        }
        for (name, var) in vars.iter() {
            if let Some(tensor) = self.tensor(&name, var.dtype(), var.device())? {
                var.set(&tensor)?;
            }
        }
        Ok(added)
    }

    /// What `build` makes of the file, and what was not as it should be.
    fn audit<T>(
        &self,
        stand_in: StandIn,
        dtype: DType,
        device: &Device,
        build: impl FnOnce(VarBuilder<'_>) -> Result<T>,
    ) -> (Result<T>, KeyReport) {
        let ledger = Mutex::new(Ledger::default());
        let backend = Audited { checkpoint: self, ledger: &ledger, stand_in };
        let built = build(VarBuilder::from_backend(Box::new(backend), dtype, device.clone()));
        let Ledger { asked, mut report, .. } = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A model that could not be built has not asked for everything: what is left over says nothing then.
        if built.is_ok() {
            report.unexpected = self.unexpected(|key| asked.contains(key));
        }
        (built, report)
    }

    /// The weights among the keys, with their shapes: no running statistics, no buffers, no parts that the embedding does not use.
    pub fn weights(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.keys().filter(|(key, _)| clap_nn::is_trainable(key) && !hf::is_ignorable(key))
    }

    /// What the weights are stored in, by the first of them.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn dtype(&self) -> Result<Option<DType>> {
        let Some((key, _)) = self.weights().next() else { return Ok(None) };
        Ok(self.stored(key, &Device::Cpu)?.map(|weight| weight.dtype()))
    }

    /// Keys of the file that are not `known`, but for buffers and parts that the embedding does not use.
    fn unexpected(&self, known: impl Fn(&str) -> bool) -> Vec<String> {
        let keys = self.keys().map(|(key, _)| key);
        keys.filter(|key| !known(key) && !hf::is_ignorable(key)).map(str::to_owned).collect()
    }

    fn disagreement(&self, report: KeyReport) -> Error {
        Error::Keys { origin: self.origin().to_owned(), report: Box::new(report) }
    }
}

/// What a model is given for a weight that is not in the file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum StandIn {
    /// One zero seen through the shape asked for, so that the model goes on to ask for the rest.
    Zero,
    /// What a new model begins with.
    Initial,
}

/// Seed of the initial values of what a file lacks.
pub(crate) const INITIAL_SEED: u64 = 0;

/// Elements of all stand-ins for missing weights. A model that asks for more has another file's configuration, and goes on
/// to copy stand-ins that are only a shape until then; the report ends there.
const STAND_INS: usize = 1 << 28;

#[derive(Default)]
struct Ledger {
    asked: BTreeSet<String>,
    report: KeyReport,
    /// Elements of the stand-ins so far.
    stand_ins: usize,
}

struct Audited<'a> {
    checkpoint: &'a Checkpoint,
    ledger: &'a Mutex<Ledger>,
    stand_in: StandIn,
}

impl SimpleBackend for Audited<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        init: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let first_time = ledger.asked.insert(name.to_owned());
        match self.checkpoint.shape(name) {
            Some(found) if found == shape.dims() => {}
            other => {
                if first_time {
                    match other {
                        Some(found) => {
                            ledger.report.mismatched.push((name.to_owned(), shape.dims().to_vec(), found.to_vec()));
                        }
                        None => ledger.report.missing.push(name.to_owned()),
                    }
                }
                ledger.stand_ins = ledger.stand_ins.saturating_add(shape.elem_count());
                if ledger.stand_ins > STAND_INS {
                    candle_core::bail!("{name}: the file lacks most of the weights that the configuration asks for")
                }
                return match self.stand_in {
                    StandIn::Zero => Tensor::zeros((), dtype, device)?.broadcast_as(shape),
                    StandIn::Initial => seeded_tensor(INITIAL_SEED, name, &shape, init, device)?.to_dtype(dtype),
                };
            }
        }
        drop(ledger);
        self.get_unchecked(name, dtype, device)
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        self.checkpoint
            .tensor(name, dtype, device)?
            .ok_or_else(|| candle_core::Error::CannotFindTensor { path: name.to_owned() })
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.checkpoint.shape(name).is_some()
    }
}
