//! What the fused CPU operations share: when they apply, access to the numbers, loops over threads, vector mathematics.

pub(crate) mod head;
pub(crate) mod math;
pub(crate) mod packed;
pub(crate) mod parallel;
pub(crate) mod product;
pub(crate) mod scatter;
pub(crate) mod vectorise;

use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, StorageRef, Tensor};

/// True when the fused path can run: every tensor is `f32` on the CPU.
pub(crate) fn fusible(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.dtype() == DType::F32 && matches!(t.device(), Device::Cpu))
}

/// The elements of a contiguous `f32` argument of a custom operation's forward pass.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout, op: &'static str) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => Err(candle_core::Error::RequiresContiguous { op }),
    }
}

/// The elements of a contiguous `f32` CPU tensor, for a backward pass; holds the storage's read lock.
pub(crate) struct Elements<'a> {
    storage: StorageRef<'a>,
    layout: &'a Layout,
    op: &'static str,
}

impl<'a> Elements<'a> {
    pub(crate) fn of(tensor: &'a Tensor, op: &'static str) -> Self {
        let (storage, layout) = tensor.storage_and_layout();
        Self { storage, layout, op }
    }

    pub(crate) fn get(&self) -> Result<&[f32]> {
        match &*self.storage {
            Storage::Cpu(storage) => slice(storage, self.layout, self.op),
            _ => candle_core::bail!("{}: the fused path runs on the CPU only", self.op),
        }
    }
}

/// A gradient as a tensor of the shape of `like`.
pub(crate) fn gradient(values: Vec<f32>, like: &Tensor) -> Result<Option<Tensor>> {
    Tensor::from_vec(values, like.shape(), &Device::Cpu).map(Some)
}
