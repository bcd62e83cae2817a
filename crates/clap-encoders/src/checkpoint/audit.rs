//! Building a model from a file while keeping account of its keys: all that is missing, unexpected or of another shape is
//! reported at once.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::{SimpleBackend, VarBuilder};

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
        let ledger = Mutex::new(Ledger::default());
        let backend = Audited { checkpoint: self, ledger: &ledger };
        let built = build(VarBuilder::from_backend(Box::new(backend), dtype, device.clone()));
        let Ledger { asked, mut report, .. } = ledger.into_inner().unwrap_or_else(PoisonError::into_inner);
        // A model that could not be built has not asked for everything: what is left over says nothing then.
        if built.is_ok() {
            report.unexpected = self
                .keys()
                .map(|(key, _)| key)
                .filter(|key| !asked.contains(*key) && !hf::is_ignorable(key))
                .map(str::to_owned)
                .collect();
        }
        if report.is_clean() {
            built
        } else {
            Err(Error::Keys { origin: self.origin().to_owned(), report: Box::new(report) })
        }
    }
}

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
}

impl SimpleBackend for Audited<'_> {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
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
                // One zero seen through the shape asked for: the model goes on to ask for the rest.
                return Tensor::zeros((), dtype, device)?.broadcast_as(shape);
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
