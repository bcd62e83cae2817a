//! Activation checkpointing (Chen et al., "Training deep nets with sublinear memory cost", arXiv 1604.06174): a block of a network
//! keeps its input alone and makes its activations again in the backward pass.
//!
//! The gradients are bit for bit those of the plain pass: the block runs again with the generator as it was, so that it draws the
//! same masks. Running statistics of batch norms move in the first pass only.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, Layout, MetalStorage, Result, Shape, Storage, Tensor, TensorId, Var,
};

use crate::Mode;

/// The parameters' gradients from the second passes of one step's blocks.
///
/// candle gathers gradients by walking one graph; a second pass has a graph of its own, whose gradients are added here.
#[derive(Clone, Default)]
pub struct Checkpoints {
    grads: Arc<Mutex<GradStore>>,
    /// Those whose gradients are wanted; all that turn up without.
    parameters: Option<Arc<[TensorId]>>,
}

impl Checkpoints {
    /// For the gradients of these parameters. A block's graph leaves others behind, of masks and other constants, which would stay
    /// until the step ends.
    pub fn of<'a>(parameters: impl IntoIterator<Item = &'a Var>) -> Self {
        let ids = parameters.into_iter().map(|var| var.id()).collect();
        Self { parameters: Some(ids), ..Self::default() }
    }

    /// The gradients of `loss`, those of its checkpointed blocks among them.
    pub fn backward(&self, loss: &Tensor) -> Result<GradStore> {
        let mut grads = loss.backward()?;
        grads.extend(std::mem::take(&mut self.grads.lock().unwrap_or_else(PoisonError::into_inner)))?;
        Ok(grads)
    }

    fn add(&self, grads: GradStore) -> Result<()> {
        let wanted = match &self.parameters {
            None => grads,
            Some(parameters) => {
                let mut wanted = GradStore::default();
                for id in parameters.iter() {
                    if let Some(grad) = grads.get_id(*id) {
                        wanted.insert_id(*id, grad.clone());
                    }
                }
                wanted
            }
        };
        self.grads.lock().unwrap_or_else(PoisonError::into_inner).extend(wanted)
    }
}

impl fmt::Debug for Checkpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Checkpoints")
    }
}

/// What a block does: its input (and its parameters, which it holds) → its output.
type Block = dyn Fn(&Tensor, &mut Mode) -> Result<Tensor> + Send + Sync;

/// `block(xs)`, whose activations are not kept where `mode` has [`Checkpoints`]; elsewhere the plain call.
pub fn checkpoint(
    xs: &Tensor,
    mode: &mut Mode,
    block: impl Fn(&Tensor, &mut Mode) -> Result<Tensor> + Send + Sync + 'static,
) -> Result<Tensor> {
    let Some((checkpoints, replay)) = mode.checkpoints() else {
        return block(xs, mode);
    };
    let ys = block(&xs.detach(), mode)?;
    if !xs.track_op() && !ys.track_op() {
        return Ok(ys); // nothing here is learnt
    }
    let op =
        Checkpoint { checkpoints, replay, ys: Mutex::new(Some(ys.contiguous()?.detach())), block: Box::new(block) };
    // Parameters may be learnt behind an input that is not: as a variable it keeps the block in the graph.
    let xs = if xs.track_op() { xs.clone() } else { Var::from_tensor(xs)?.into_inner() };
    xs.apply_op1(op)
}

struct Checkpoint {
    checkpoints: Checkpoints,
    /// The mode as it was before the block ran.
    replay: Mode,
    /// The output of the first pass, until it is handed out.
    ys: Mutex<Option<Tensor>>,
    block: Box<Block>,
}

impl Checkpoint {
    fn output<T>(&self, of: impl Fn(Storage) -> Option<T>) -> Result<(T, Shape)> {
        match self.ys.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(ys) => copy(&ys, of),
            None => candle_core::bail!("{NAME}: the output is handed out once"),
        }
    }
}

/// The values of a contiguous tensor, as the storage of the device that asks.
pub(crate) fn copy<T>(xs: &Tensor, of: impl Fn(Storage) -> Option<T>) -> Result<(T, Shape)> {
    let (storage, layout) = xs.storage_and_layout();
    match of(storage.try_clone(layout)?) {
        Some(storage) => Ok((storage, xs.shape().clone())),
        None => candle_core::bail!("{NAME}: a block may not move its input to another device"),
    }
}

pub(crate) fn cpu(storage: Storage) -> Option<CpuStorage> {
    if let Storage::Cpu(storage) = storage { Some(storage) } else { None }
}

pub(crate) fn cuda(storage: Storage) -> Option<CudaStorage> {
    if let Storage::Cuda(storage) = storage { Some(storage) } else { None }
}

pub(crate) fn metal(storage: Storage) -> Option<MetalStorage> {
    if let Storage::Metal(storage) = storage { Some(storage) } else { None }
}

const NAME: &str = "checkpoint";

impl CustomOp1 for Checkpoint {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        self.output(cpu)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        self.output(cuda)
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        self.output(metal)
    }

    fn bwd(&self, xs: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let xs = Var::from_tensor(&xs.detach())?;
        let ys = (self.block)(&xs, &mut self.replay.clone())?;
        let mut grads = ys.apply_op1(Seed(grad.clone()))?.backward()?;
        let dx = grads.remove(&xs);
        self.checkpoints.add(grads)?;
        Ok(dx)
    }
}

/// Begins a backward pass with the gradient that another has led to: candle's begins with ones.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "checkpoint_seed"
    }

    // The values are not looked at.
    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        copy(&self.0, cpu)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        copy(&self.0, cuda)
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        copy(&self.0, metal)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{BatchNorm, dropout, twin};

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        twin::random(seed, shape).to_dtype(DType::F32).unwrap()
    }

    fn train() -> Mode {
        Mode::train(ChaCha8Rng::seed_from_u64(7))
    }

    /// The bits of the output and of the gradients of two blocks that share a weight and drop elements; `input` is learnt too or not.
    fn run(mut mode: Mode, checkpoints: &Checkpoints, learn_input: bool) -> Vec<Vec<u32>> {
        let input = Var::from_tensor(&random(1, &[40, 24])).unwrap();
        let (shared, own) =
            (Var::from_tensor(&random(2, &[24, 24])).unwrap(), Var::from_tensor(&random(3, &[24])).unwrap());
        let xs = if learn_input { input.as_tensor().clone() } else { input.detach() };
        let mut ys = xs;
        for _ in 0..2 {
            let (shared, own) = (shared.as_tensor().clone(), own.as_tensor().clone());
            ys = checkpoint(&ys, &mut mode, move |xs, mode| {
                dropout(&crate::linear(xs, &shared, Some(&own))?.tanh()?, 0.3, mode)
            })
            .unwrap();
        }
        let grads = checkpoints.backward(&ys.sqr().unwrap().sum_all().unwrap()).unwrap();
        let bits = |t: &Tensor| {
            t.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let learnt = [Some(&shared), Some(&own), learn_input.then_some(&input)];
        let drawn_next = random_key(&mut mode);
        let all = learnt.into_iter().flatten().map(|var| bits(grads.get(var).unwrap()));
        std::iter::once(bits(&ys)).chain(all).chain([vec![drawn_next]]).collect()
    }

    fn random_key(mode: &mut Mode) -> u32 {
        use rand::RngCore;
        mode.rng().unwrap().next_u32()
    }

    #[test]
    fn gradients_are_those_of_the_plain_pass() {
        for learn_input in [true, false] {
            let checkpoints = Checkpoints::default();
            let plain = run(train(), &Checkpoints::default(), learn_input);
            for step in 0..2 {
                assert!(run(train().checkpointed(&checkpoints), &checkpoints, learn_input) == plain, "step {step}");
            }
        }
    }

    #[test]
    fn what_a_block_leaves_behind_is_let_go() {
        let (input, weight) = (random(1, &[3, 4]), Var::from_tensor(&random(2, &[3, 4])).unwrap());
        let left = |checkpoints: &Checkpoints| {
            let (weight, mask) = (weight.as_tensor().clone(), random(3, &[3, 4]));
            let block = move |xs: &Tensor, _: &mut Mode| (xs * &weight)? * &mask;
            let ys = checkpoint(&input, &mut train().checkpointed(checkpoints), block).unwrap();
            let grads = ys.sum_all().unwrap().backward().unwrap();
            drop(grads);
            checkpoints.grads.lock().unwrap().get_ids().copied().collect::<Vec<_>>()
        };
        assert_eq!(left(&Checkpoints::of([&weight])), [weight.id()]);
        assert!(left(&Checkpoints::default()).len() > 1);
    }

    #[test]
    fn a_frozen_block_hands_its_gradient_on() {
        let input = Var::from_tensor(&random(1, &[3, 4])).unwrap();
        let checkpoints = Checkpoints::default();
        let mut mode = train().checkpointed(&checkpoints);
        let ys = checkpoint(&input, &mut mode, |xs, _| xs * 3.0).unwrap();
        let grads = checkpoints.backward(&ys.sum_all().unwrap()).unwrap();
        assert_eq!(grads.get(&input).unwrap().to_vec2::<f32>().unwrap(), vec![vec![3.0; 4]; 3]);
        // Where nothing is learnt there is no graph.
        let ys = checkpoint(&input.detach(), &mut mode, |xs, _| xs * 3.0).unwrap();
        assert!(!ys.track_op());
    }

    #[test]
    fn running_statistics_move_once() {
        let statistics = |mut mode: Mode, checkpoints: &Checkpoints| {
            let (vars, vb) = crate::init::seeded_vars(1, &Device::Cpu, DType::F32);
            let norm = BatchNorm::new(6, 1e-5, vb).unwrap();
            let ys = checkpoint(&random(1, &[50, 6]), &mut mode, move |xs, mode| norm.forward_t(xs, mode)).unwrap();
            checkpoints.backward(&ys.sqr().unwrap().sum_all().unwrap()).unwrap();
            vars.get("running_var").unwrap().to_vec1::<f32>().unwrap()
        };
        let checkpoints = Checkpoints::default();
        let plain = statistics(train(), &Checkpoints::default());
        assert_eq!(statistics(train().checkpointed(&checkpoints), &checkpoints), plain);
    }
}
