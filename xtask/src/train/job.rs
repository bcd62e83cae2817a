//! The processes that train one model together.

use clap_train::Ranks;

use crate::args::Distributed;
#[cfg(not(feature = "nccl"))]
use crate::exit::{Exit, failure};

/// This process's place among them; of a run of one process, nothing.
pub(super) struct Job {
    ranks: Ranks,
    #[cfg(feature = "mpi")]
    mpi: Option<std::sync::Arc<clap_train::distributed::Mpi>>,
}

impl Job {
    /// Joins the job that this process was started in.
    pub(super) fn join(kind: Option<Distributed>, device: Option<&str>) -> anyhow::Result<Self> {
        match kind {
            None => Ok(Self {
                ranks: Ranks::alone(),
                #[cfg(feature = "mpi")]
                mpi: None,
            }),
            Some(Distributed::Mpi) => Self::mpi(),
            Some(Distributed::Nccl) => Self::nccl(device),
        }
    }

    #[cfg(feature = "mpi")]
    fn mpi() -> anyhow::Result<Self> {
        let mpi = std::sync::Arc::new(clap_train::distributed::Mpi::join()?);
        Ok(Self { ranks: Ranks::joined(mpi.clone()), mpi: Some(mpi) })
    }

    #[cfg(not(feature = "mpi"))]
    fn mpi() -> anyhow::Result<Self> {
        Err(failure(Exit::Usage, lacking("mpi")))
    }

    #[cfg(feature = "nccl")]
    fn nccl(device: Option<&str>) -> anyhow::Result<Self> {
        let mpi = std::sync::Arc::new(clap_train::distributed::Mpi::join()?);
        let device = clap_encoders::device(device.unwrap_or("cuda"))?;
        let nccl = clap_train::distributed::Nccl::join(mpi.clone(), &device)?;
        Ok(Self { ranks: Ranks::joined(std::sync::Arc::new(nccl)), mpi: Some(mpi) })
    }

    #[cfg(not(feature = "nccl"))]
    fn nccl(_: Option<&str>) -> anyhow::Result<Self> {
        Err(failure(Exit::Usage, lacking("nccl")))
    }

    pub(super) fn ranks(&self) -> Ranks {
        self.ranks.clone()
    }

    /// Whether this process is the one that evaluates and writes.
    pub(super) fn is_first(&self) -> bool {
        self.ranks.rank() == 0
    }

    /// Leaves the job when all do. A process that ends without this has failed, and the others are ended.
    pub(super) fn finish(&self) {
        #[cfg(feature = "mpi")]
        if let Some(mpi) = &self.mpi {
            mpi.finish();
        }
    }
}

#[cfg(not(feature = "nccl"))]
fn lacking(feature: &str) -> String {
    format!(
        "this build cannot join processes by {feature}; build with  cargo build --release --package xtask --features {feature}  \
         (docs/training.md)"
    )
}
