//! Ranks with a CUDA device each, which sum by NCCL without going through the host.
//!
//! This type-checks (`cargo xtask check-gpu`) and has never run: no machine with two such devices was at hand.

use std::fmt;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use candle_core::cuda_backend::cudarc::nccl::safe::{Comm, Id, ReduceOp};
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Error, Layout, Result, Shape, Tensor, backend::BackendStorage,
    bail,
};
use clap_nn::{Collective, sum_numbers};

/// Bytes of the name by which ranks find each other.
const ID_BYTES: usize = 128;

/// The ranks of another [`Collective`], which introduces them and sums what is not on the device.
pub struct Nccl {
    introduced_by: Arc<dyn Collective>,
    line: Mutex<(Sender<Tensor>, Receiver<Result<Tensor>>)>,
}

impl Nccl {
    /// Joins the ranks of `introduced_by`, each by its own `device`.
    ///
    /// # Errors
    /// Where the device is no CUDA device, or NCCL fails.
    pub fn join(introduced_by: Arc<dyn Collective>, device: &Device) -> Result<Self> {
        let Device::Cuda(cuda) = device else { bail!("NCCL is for CUDA devices, this is {device:?}") };
        let own = if introduced_by.rank() == 0 { *Id::new().map_err(failed)?.internal() } else { [0; ID_BYTES] };
        let numbers = own.map(f32::from);
        let shared = sum_numbers(&numbers, &*introduced_by)?;
        let mut id = [0; ID_BYTES];
        id.iter_mut().zip(shared).for_each(|(byte, number)| *byte = number as _);
        let (rank, world, stream) = (introduced_by.rank(), introduced_by.world(), cuda.cuda_stream());
        let (jobs, todo) = channel::<Tensor>();
        let (done, results) = channel();
        // A communicator belongs to one thread.
        thread::Builder::new().name("nccl".to_owned()).spawn(move || {
            let comm = Comm::from_rank(stream, rank, world, Id::uninit(id));
            for xs in todo {
                let sum = match &comm {
                    Ok(comm) => xs.apply_op1_no_bwd(&AllReduce(comm)),
                    Err(error) => Err(failed(error)),
                };
                if done.send(sum).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { introduced_by, line: Mutex::new((jobs, results)) })
    }
}

fn failed(error: impl fmt::Debug) -> Error {
    Error::Msg(format!("NCCL: {error:?}"))
}

impl fmt::Debug for Nccl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NCCL between the ranks of {:?}", self.introduced_by)
    }
}

impl Collective for Nccl {
    fn rank(&self) -> usize {
        self.introduced_by.rank()
    }

    fn world(&self) -> usize {
        self.introduced_by.world()
    }

    fn sum(&self, xs: &Tensor) -> Result<Tensor> {
        if !xs.device().is_cuda() {
            return self.introduced_by.sum(xs);
        }
        let xs = xs.to_dtype(DType::F32)?.contiguous()?;
        let line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        match line.0.send(xs).map(|()| line.1.recv()) {
            Ok(Ok(sum)) => sum,
            _ => bail!("NCCL has ended"),
        }
    }
}

struct AllReduce<'a>(&'a Comm);

impl CustomOp1 for AllReduce<'_> {
    fn name(&self) -> &'static str {
        "nccl-all-reduce"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("NCCL is for CUDA devices")
    }

    fn cuda_fwd(&self, xs: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("NCCL sums contiguous tensors") };
        let (device, values) = (xs.device().clone(), xs.as_cuda_slice::<f32>()?.slice(start..end));
        let mut sum = device.alloc_zeros::<f32>(values.len())?;
        self.0.all_reduce(&values, &mut sum, &ReduceOp::Sum).map_err(failed)?;
        Ok((CudaStorage::wrap_cuda_slice(sum, device), layout.shape().clone()))
    }
}
