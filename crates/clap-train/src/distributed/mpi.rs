//! Ranks of an MPI job: `mpirun -n 2 …`.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use candle_core::{DType, Result, Tensor, bail};
use clap_nn::Collective;
use mpi::collective::SystemOperation;
use mpi::traits::{Communicator as _, CommunicatorCollectives as _};

/// The job's world. MPI is called from one thread of its own, so that it need not know of the others.
pub struct Mpi {
    rank: usize,
    world: usize,
    line: Mutex<(Sender<Job>, Receiver<Vec<f32>>)>,
}

enum Job {
    Sum(Vec<f32>),
    Finish,
}

impl Mpi {
    /// Joins the job that `mpirun` has started this process in.
    ///
    /// # Errors
    /// Where MPI cannot be initialised.
    pub fn join() -> Result<Self> {
        let (jobs, todo) = channel();
        let (done, results) = channel();
        let (introduce, introduced) = channel();
        thread::Builder::new().name("mpi".to_owned()).spawn(move || {
            let Some(universe) = mpi::initialize() else { return };
            let world = universe.world();
            if introduce.send((world.rank(), world.size())).is_err() {
                return;
            }
            for job in todo {
                let Job::Sum(operand) = job else { return };
                let mut sum = vec![0f32; operand.len()];
                world.all_reduce_into(&operand[..], &mut sum[..], SystemOperation::sum());
                if done.send(sum).is_err() {
                    break;
                }
            }
            // A rank that fails must not finalise, which waits for the others; the end of its process tells mpirun.
            std::mem::forget(universe);
        })?;
        let Ok((rank, world)) = introduced.recv() else { bail!("MPI is initialised already, or cannot be") };
        Ok(Self { rank: rank as usize, world: world as usize, line: Mutex::new((jobs, results)) })
    }

    /// Leaves the job when all ranks do. Without this the job counts as failed, and `mpirun` ends the other ranks.
    pub fn finish(&self) {
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        if line.0.send(Job::Finish).is_ok() {
            // The thread drops its end once MPI is finalised.
            let _ = line.1.recv();
        }
    }
}

impl fmt::Debug for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MPI rank {} of {}", self.rank, self.world)
    }
}

impl Collective for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.world
    }

    fn sum(&self, xs: &Tensor) -> Result<Tensor> {
        let operand: Vec<f32> = xs.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        match line.0.send(Job::Sum(operand)).map(|()| line.1.recv()) {
            Ok(Ok(sum)) => Tensor::from_vec(sum, xs.shape(), xs.device()),
            _ => bail!("MPI has ended"),
        }
    }
}
