//! Sums over the processes that train one model together: what a batch norm, a contrastive loss and an optimiser need of each other.
//!
//! A rank is one of `world` processes, each with a part of the batch. [`sum_over_ranks`] is differentiable: where every rank goes backward by
//! its own part of a loss, the gradient of a rank's operand is the sum of what all ranks have learnt of the result.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, DType, Device, Layout, MetalStorage, Result, Shape, Tensor, bail,
};

use crate::checkpoint::{copy, cpu, cuda, metal};

/// The ranks, seen from one of them.
///
/// Calls are matched by their order, so all ranks have to make the same ones: a rank that leaves one out lets the others wait.
pub trait Collective: fmt::Debug + Send + Sync {
    /// Which of the ranks this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn world(&self) -> usize;

    /// The element-wise sum of the ranks' `xs`, bit for bit the same on each: an `f32` tensor on the device of `xs`, without a graph.
    ///
    /// # Errors
    /// Where the ranks have lost each other.
    fn sum(&self, xs: &Tensor) -> Result<Tensor>;
}

/// The element-wise sum of the ranks' `xs`, all of one shape, differentiable. `f32`.
///
/// # Errors
/// As [`Collective::sum`].
pub fn sum_over_ranks(xs: &Tensor, ranks: &Arc<dyn Collective>) -> Result<Tensor> {
    let ys = ranks.sum(&xs.detach())?.contiguous()?;
    if !xs.track_op() {
        return Ok(ys);
    }
    xs.apply_op1(Sum { ys, ranks: Arc::clone(ranks) })
}

/// The ranks' rows one after the other, `(B, D)` → `(world · B, D)`: this rank's with their graph, the others' as constants. All ranks have as
/// many rows.
///
/// A loss of all rows that every rank computes alike has its whole gradient along this rank's rows then; summed over ranks, the gradients
/// of the parameters behind them are those of one process with the whole batch.
///
/// # Errors
/// As [`Collective::sum`].
pub fn gather_rows(xs: &Tensor, ranks: &Arc<dyn Collective>) -> Result<Tensor> {
    let (rows, _) = xs.dims2()?;
    let (rank, world) = (ranks.rank(), ranks.world());
    // Zero where the others' rows go, so that the sum is all of them.
    let padded = xs.detach().pad_with_zeros(0, rank * rows, (world - 1 - rank) * rows)?;
    let all = ranks.sum(&padded)?;
    let before = all.narrow(0, 0, rank * rows)?;
    let after = all.narrow(0, (rank + 1) * rows, (world - 1 - rank) * rows)?;
    let parts: Vec<&Tensor> = [&before, xs, &after].into_iter().filter(|part| part.elem_count() > 0).collect();
    Tensor::cat(&parts, 0)
}

/// The values of a few numbers summed over the ranks.
///
/// # Errors
/// As [`Collective::sum`].
pub fn sum_numbers(numbers: &[f32], ranks: &dyn Collective) -> Result<Vec<f32>> {
    ranks.sum(&Tensor::from_slice(numbers, numbers.len(), &Device::Cpu)?)?.to_vec1()
}

/// The sum as an operation of candle's; its values are there before it runs.
struct Sum {
    ys: Tensor,
    ranks: Arc<dyn Collective>,
}

impl CustomOp1 for Sum {
    fn name(&self) -> &'static str {
        "sum_over_ranks"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        copy(&self.ys, cpu)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        copy(&self.ys, cuda)
    }

    fn metal_fwd(&self, _: &MetalStorage, _: &Layout) -> Result<(MetalStorage, Shape)> {
        copy(&self.ys, metal)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.ranks.sum(&grad.detach()).map(Some)
    }
}

/// Ranks that are threads of one process: for tests, and where nothing else joins processes.
#[derive(Clone, Debug)]
pub struct Threads {
    rank: usize,
    table: Arc<Table>,
}

/// Where threads lay down their operands and take up the sum.
#[derive(Debug)]
struct Table {
    world: usize,
    round: Mutex<Round>,
    turned: Condvar,
}

#[derive(Debug, Default)]
struct Round {
    number: u64,
    operands: Vec<Option<Vec<f32>>>,
    result: Arc<Vec<f32>>,
    /// Ranks that have gone: the others would wait for them for ever.
    gone: usize,
}

impl Threads {
    /// `world` ranks, one for each thread.
    #[must_use]
    pub fn new(world: usize) -> Vec<Self> {
        let round = Round { operands: vec![None; world], ..Round::default() };
        let table = Arc::new(Table { world, round: Mutex::new(round), turned: Condvar::new() });
        (0..world).map(|rank| Self { rank, table: Arc::clone(&table) }).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Round> {
        self.table.round.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the others not to wait for this rank any more: their next sum is an error.
    pub fn leave(&self) {
        self.lock().gone += 1;
        self.table.turned.notify_all();
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world(&self) -> usize {
        self.table.world
    }

    fn sum(&self, xs: &Tensor) -> Result<Tensor> {
        let values: Vec<f32> = xs.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let mut round = self.lock();
        let number = round.number;
        round.operands[self.rank] = Some(values);
        if round.operands.iter().all(Option::is_some) {
            let operands: Vec<Vec<f32>> = round.operands.iter_mut().filter_map(Option::take).collect();
            if operands.iter().any(|operand| operand.len() != operands[0].len()) {
                let lengths: Vec<usize> = operands.iter().map(Vec::len).collect();
                bail!("the ranks' operands have {lengths:?} elements");
            }
            let mut sum = vec![0.0; operands[0].len()];
            for operand in operands {
                sum.iter_mut().zip(operand).for_each(|(sum, x)| *sum += x);
            }
            round.result = Arc::new(sum);
            round.number += 1;
            self.table.turned.notify_all();
        } else {
            while round.number == number {
                if round.gone > 0 {
                    bail!("{} of {} ranks have gone", round.gone, self.table.world);
                }
                round = self.table.turned.wait(round).unwrap_or_else(PoisonError::into_inner);
            }
        }
        let result = Arc::clone(&round.result);
        drop(round);
        Tensor::from_slice(&result, xs.shape(), xs.device())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use candle_core::Var;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::{BatchNorm, Mode, info_nce, twin};

    /// What `work` gives on each of `world` ranks.
    fn on_ranks<T: Send>(world: usize, work: impl Fn(Arc<dyn Collective>) -> T + Sync) -> Vec<T> {
        thread::scope(|scope| {
            let handles: Vec<_> =
                Threads::new(world).into_iter().map(|ranks| scope.spawn(|| work(Arc::new(ranks)))).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        })
    }

    fn random(seed: u64, shape: &[usize]) -> Tensor {
        twin::random(seed, shape).to_dtype(DType::F32).unwrap()
    }

    fn flat(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[track_caller]
    fn assert_close(found: &[f32], expected: &[f32], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "{what}: {worst}");
    }

    #[test]
    fn sums_are_the_same_on_every_rank() {
        let sums = on_ranks(3, |ranks| {
            (0..50).map(|i| sum_numbers(&[ranks.rank() as f32, i as f32], &*ranks).unwrap()).collect::<Vec<_>>()
        });
        let expected: Vec<Vec<f32>> = (0..50).map(|i| vec![3.0, 3.0 * i as f32]).collect();
        assert!(sums.iter().all(|sums| *sums == expected));
    }

    #[test]
    fn a_rank_that_has_gone_is_an_error_to_the_others() {
        let errors = thread::scope(|scope| {
            let handles: Vec<_> = Threads::new(2)
                .into_iter()
                .map(|ranks| {
                    scope.spawn(move || match ranks.rank() {
                        0 => sum_numbers(&[1.0], &ranks).map_err(|e| e.to_string()),
                        _ => {
                            ranks.leave();
                            Ok(Vec::new())
                        }
                    })
                })
                .collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(errors[0].as_ref().unwrap_err().contains("1 of 2 ranks have gone"));
    }

    /// The gradients of a loss of gathered rows, with a batch norm over all of them, are those of one process.
    #[test]
    fn gathered_rows_and_batch_norm_are_those_of_one_process() {
        let (world, rows, width) = (2, 3, 4);
        let (xs, ys) = (random(1, &[world * rows, width, 5]), random(2, &[world * rows, width]));
        let run = |xs: &Tensor, ys: &Tensor, ranks: Option<Arc<dyn Collective>>| {
            let (vars, vb) = crate::init::seeded_vars(1, &Device::Cpu, DType::F32);
            let norm = BatchNorm::new(width, 1e-5, vb).unwrap();
            let weight = Var::from_tensor(&random(3, &[1, width, 5])).unwrap();
            let mut mode = Mode::train(ChaCha8Rng::seed_from_u64(1));
            if let Some(ranks) = &ranks {
                mode = mode.across(ranks);
            }
            let hidden = norm.forward_t(&xs.broadcast_mul(&weight).unwrap(), &mut mode).unwrap();
            let own = (hidden.sqr().unwrap() * 0.3).unwrap().sum(2).unwrap();
            let gather = |own: &Tensor| match &ranks {
                Some(ranks) => gather_rows(own, ranks).unwrap(),
                None => own.clone(),
            };
            let scale = Tensor::new(2f32, &Device::Cpu).unwrap();
            let loss = info_nce(&gather(&own), &gather(ys), &scale).unwrap();
            let grads = loss.backward().unwrap();
            let total = |var: &Tensor| match &ranks {
                Some(ranks) => flat(&ranks.sum(grads.get(var).unwrap()).unwrap()),
                None => flat(grads.get(var).unwrap()),
            };
            let named = |name| vars.get(name).unwrap();
            vec![
                flat(&loss),
                total(&weight),
                total(&named("weight")),
                total(&named("bias")),
                flat(&named("running_mean")),
                flat(&named("running_var")),
            ]
        };
        let whole = run(&xs, &ys, None);
        let parts = on_ranks(world, |ranks| {
            let own = |all: &Tensor| all.narrow(0, ranks.rank() * rows, rows).unwrap().contiguous().unwrap();
            run(&own(&xs), &own(&ys), Some(ranks.clone()))
        });
        for (rank, parts) in parts.iter().enumerate() {
            for (i, (part, whole)) in parts.iter().zip(&whole).enumerate() {
                assert_close(part, whole, &format!("rank {rank}, result {i}"));
            }
        }
    }
}
