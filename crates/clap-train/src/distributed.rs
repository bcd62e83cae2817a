//! Training by several processes, each with a part of every batch: data parallelism.
//!
//! Each rank has the whole model and its share of the clips. Embeddings are gathered, so every clip is compared with the texts of all ranks,
//! batch norms have the statistics of all, and gradients are summed before the update: the numbers are those of one process with the
//! whole batch. Only rank 0 evaluates and writes.
//!
//! What joins the ranks is a [`Collective`]: threads of one process ([`clap_nn::collective::Threads`]), MPI (feature `mpi`), or NCCL between
//! GPUs (feature `nccl`).

#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;

use std::sync::Arc;

use candle_core::Tensor;
use candle_core::backprop::GradStore;
use clap_nn::{Collective, gather_rows, sum_numbers};

#[cfg(feature = "mpi")]
pub use mpi::Mpi;
#[cfg(feature = "nccl")]
pub use nccl::Nccl;

use crate::error::Result;
use crate::loss::Embeddings;
use crate::optimizer::Optimizer;

/// The processes of a run, seen from one of them; one alone asks nobody.
#[derive(Clone, Debug, Default)]
pub struct Ranks(Option<Arc<dyn Collective>>);

impl Ranks {
    /// A run of one process.
    #[must_use]
    pub fn alone() -> Self {
        Self(None)
    }

    /// One of several.
    #[must_use]
    pub fn joined(collective: Arc<dyn Collective>) -> Self {
        Self(Some(collective).filter(|collective| collective.world() > 1))
    }

    pub(crate) fn collective(&self) -> Option<&Arc<dyn Collective>> {
        self.0.as_ref()
    }

    /// Which of them this is, from 0.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.0.as_ref().map_or(0, |ranks| ranks.rank())
    }

    /// How many there are.
    #[must_use]
    pub fn world(&self) -> usize {
        self.0.as_ref().map_or(1, |ranks| ranks.world())
    }

    /// The one that evaluates and writes.
    pub(crate) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// What rank 0 says.
    pub(crate) fn of_first(&self, value: f64) -> Result<f64> {
        let Some(ranks) = &self.0 else { return Ok(value) };
        let own = if self.is_first() { value as f32 } else { 0.0 };
        Ok(f64::from(sum_numbers(&[own], &**ranks)?[0]))
    }

    /// The least of the ranks' counts; nothing where a rank has none.
    pub(crate) fn least(&self, count: Option<usize>) -> Result<Option<usize>> {
        let (Some(ranks), own) = (&self.0, count.map_or(-1.0, |count| count as f32)) else { return Ok(count) };
        let mut counts = vec![0.0; ranks.world()];
        counts[ranks.rank()] = own;
        let least = sum_numbers(&counts, &**ranks)?.into_iter().fold(f32::INFINITY, f32::min);
        Ok((least >= 0.0).then_some(least as usize))
    }

    /// The embeddings of all ranks' clips and texts.
    pub(crate) fn gather(&self, own: Embeddings) -> Result<Embeddings> {
        let Some(ranks) = &self.0 else { return Ok(own) };
        let gather = |rows: &Tensor| gather_rows(rows, ranks);
        Ok(Embeddings {
            audio: gather(&own.audio)?,
            text: gather(&own.text)?,
            transformed: match &own.transformed {
                Some((audio, text)) => Some((gather(audio)?, gather(text)?)),
                None => None,
            },
        })
    }

    /// The gradients of the whole batch, from what each rank has of it.
    pub(crate) fn reduce(&self, mut own: GradStore, optimizer: &Optimizer) -> Result<GradStore> {
        let Some(ranks) = &self.0 else { return Ok(own) };
        // A parameter may have a gradient on some ranks only.
        let present: Vec<f32> = optimizer.parameters().map(|(_, var)| f32::from(own.get(var).is_some())).collect();
        let present = sum_numbers(&present, &**ranks)?;
        let mut total = GradStore::default();
        for ((name, var), _) in optimizer.parameters().zip(present).filter(|(_, ranks)| *ranks > 0.0) {
            let grad = match own.remove(var) {
                Some(grad) => grad,
                None => var.zeros_like()?,
            };
            let sum = ranks.sum(&grad.detach())?;
            // The temperatures act in the loss alone, which every rank computes whole.
            total.insert(var, if name.starts_with("logit_") { (sum / ranks.world() as f64)? } else { sum });
        }
        Ok(total)
    }
}
