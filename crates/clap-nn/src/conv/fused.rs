//! The convolution on the CPU: matrix products over gathered rows, forward and backward.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::ConvGeometry;
use super::gather::{Axis, Gather, Taps, Zeroed};
use super::winograd::{self, Direction, Finish, Kernel, Maps};
use crate::cpu::{
    Elements, fusible, gradient, parallel,
    product::{Matrix, MatrixMut, Threads},
    slice,
};

/// Weights up to this many elements stay in a core's second-level cache beside a task's rows: each task then gathers and multiplies its own.
/// With larger ones, rows are gathered for one product on all threads.
const CACHED_WEIGHT: usize = 160 * 1024;

/// Elements of a task's gathered rows.
const TASK: usize = 96 * 1024;

/// Elements of the rows gathered for one large product.
const GROUP: usize = 8 * 1024 * 1024;

const NAME: &str = "conv2d";

/// The operation; the weight has its taps first.
pub(super) struct Fused {
    pub(super) geometry: ConvGeometry,
}

/// Sizes of one convolution, none of them zero.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    batch: usize,
    rows: Axis,
    columns: Axis,
    input: usize,
    output: usize,
}

impl Sizes {
    pub(super) fn of(xs: &Shape, weight: &Shape, geometry: ConvGeometry) -> Result<Self> {
        let (batch, height, width, input) = xs.dims4()?;
        let (output, kernel_rows, kernel_columns, _) = weight.dims4()?;
        let Some((rows, columns)) = geometry.output((height, width), (kernel_rows, kernel_columns)) else {
            candle_core::bail!("{NAME}: the kernel does not fit")
        };
        let axis = |len, positions, taps, stride, padding| Axis { len, positions, taps, stride, padding };
        Ok(Self {
            batch,
            rows: axis(height, rows, kernel_rows, geometry.stride.0, geometry.padding.0),
            columns: axis(width, columns, kernel_columns, geometry.stride.1, geometry.padding.1),
            input,
            output,
        })
    }

    fn taps(&self) -> usize {
        self.rows.taps * self.columns.taps
    }

    /// What each output sees of the input.
    fn gather(&self) -> Gather<Axis> {
        Gather { rows: self.rows, columns: self.columns, channels: self.input }
    }

    /// The maps of Winograd's algorithm, where it applies and pays.
    fn maps(&self) -> Option<Maps> {
        let same = |axis: Axis| axis.taps == winograd::TAPS && axis.stride == 1 && axis.padding == 1;
        let Self { batch, rows, columns, input, output } = *self;
        (same(rows) && same(columns) && winograd::pays(input, output)).then_some(Maps {
            batch,
            height: rows.len,
            width: columns.len,
            input,
            output,
        })
    }

    /// The convolution by gathered rows, finished without pooling.
    pub(super) fn forward(&self, xs: &[f32], weight: &[f32], finish: Finish<'_>) -> Vec<f32> {
        product(xs, weight, self.gather(), (self.batch, self.output), finish)
    }

    pub(super) fn shape(&self) -> Shape {
        (self.batch, self.rows.positions, self.columns.positions, self.output).into()
    }
}

/// `rows(xs) · weightᵀ` for every position of every map, finished without pooling; `weight` is (outputs, gathered width).
fn product<A: Taps>(
    xs: &[f32],
    weight: &[f32],
    gather: Gather<A>,
    (batch, outputs): (usize, usize),
    finish: Finish<'_>,
) -> Vec<f32> {
    let (positions, width) = (batch * gather.positions(), gather.width());
    let weight = Matrix::new(weight, outputs, width).t();
    if outputs * width <= CACHED_WEIGHT {
        let rows = (TASK / width).clamp(64, 1024);
        return parallel::build(positions * outputs, rows * outputs, |start, ys| {
            let (first, count) = (start / outputs, ys.len() / outputs);
            let mut patches = Vec::with_capacity(count * width);
            gather.rows(xs, first..first + count, &mut patches);
            let patches = Matrix::new(&patches, count, width);
            MatrixMut::new(ys, count, outputs).set(1.0, patches, weight, Threads::One);
            winograd::finish_rows(ys, finish);
        });
    }
    let mut ys = vec![0.0; positions * outputs];
    for (patches, first) in groups(xs, gather, positions) {
        let count = patches.len() / width;
        let ys = &mut ys[first * outputs..][..count * outputs];
        let patches = Matrix::new(&patches, count, width);
        MatrixMut::new(ys, count, outputs).set(1.0, patches, weight, Threads::All);
    }
    if !matches!(finish, Finish::Plain) {
        ys.par_chunks_mut(parallel::rows_per_task(outputs) * outputs).for_each(|ys| winograd::finish_rows(ys, finish));
    }
    ys
}

/// The gathered rows of all positions, group by group, with the first position of each.
fn groups<A: Taps>(xs: &[f32], gather: Gather<A>, positions: usize) -> impl Iterator<Item = (Vec<f32>, usize)> {
    let width = gather.width();
    let group = (GROUP / width).max(64);
    let task = parallel::rows_per_task(width);
    (0..positions).step_by(group).map(move |first| {
        let last = (first + group).min(positions);
        let patches = parallel::build((last - first) * width, task * width, |start, patches| {
            let start = first + start / width;
            gather.rows(xs, start..start + patches.len() / width, &mut Zeroed(patches));
        });
        (patches, first)
    })
}

/// (output, taps, input) → (input, taps in reverse, output): the kernel that a gradient is multiplied by.
fn turned(weight: &[f32], sizes: &Sizes) -> Vec<f32> {
    /// Side of the blocks in which the channels change places: two of them fit the first-level cache.
    const BLOCK: usize = 32;
    let (taps, input, output) = (sizes.taps(), sizes.input, sizes.output);
    parallel::build(weight.len(), BLOCK * taps * output, |start, turned| {
        let first = start / (taps * output);
        for (block, tap) in (0..output).step_by(BLOCK).flat_map(|block| (0..taps).map(move |tap| (block, tap))) {
            for o in block..(block + BLOCK).min(output) {
                let from = &weight[(o * taps + taps - 1 - tap) * input + first..];
                for (row, value) in turned.chunks_exact_mut(taps * output).zip(from) {
                    row[tap * output + o] = *value;
                }
            }
        }
    })
}

impl CustomOp2 for Fused {
    fn name(&self) -> &'static str {
        NAME
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        xs_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let sizes = Sizes::of(xs_layout.shape(), weight_layout.shape(), self.geometry)?;
        let (xs, weight) = (slice(xs, xs_layout, NAME)?, slice(weight, weight_layout, NAME)?);
        let ys = match sizes.maps() {
            Some(maps) => {
                let kernel = winograd::transform_kernel(weight, sizes.input, sizes.output);
                winograd::convolve(xs, Kernel::Made(&kernel), maps, Direction::Forward, Finish::Plain)
            }
            None => sizes.forward(xs, weight, Finish::Plain),
        };
        Ok((CpuStorage::F32(ys), sizes.shape()))
    }

    fn bwd(&self, xs: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let sizes = Sizes::of(xs.shape(), weight.shape(), self.geometry)?;
        let grad = grad.contiguous()?;
        debug_assert!(fusible(&[&grad]));
        let (x, w, g) = (Elements::of(xs, NAME), Elements::of(weight, NAME), Elements::of(&grad, NAME));
        let (x, w, g) = (x.get()?, w.get()?, g.get()?);
        let Sizes { batch, rows, columns, input, output } = sizes;
        let dx = if xs.track_op() {
            let dx = match sizes.maps() {
                Some(maps) => {
                    let kernel = winograd::transform_kernel(w, input, output);
                    winograd::convolve(g, Kernel::Made(&kernel), maps.back(), Direction::Backward, Finish::Plain)
                }
                None => {
                    let back = Gather { rows: rows.transposed(), columns: columns.transposed(), channels: output };
                    product(g, &turned(w, &sizes), back, (batch, input), Finish::Plain)
                }
            };
            gradient(dx, xs)?
        } else {
            None
        };
        let dw = if weight.track_op() {
            let gather = sizes.gather();
            let (positions, width) = (batch * gather.positions(), gather.width());
            let mut dw = vec![0.0; output * width];
            for (patches, first) in groups(x, gather, positions) {
                let count = patches.len() / width;
                let g = Matrix::new(&g[first * output..][..count * output], count, output);
                let patches = Matrix::new(&patches, count, width);
                MatrixMut::new(&mut dw, output, width).add(g.t(), patches, Threads::All);
            }
            gradient(dw, weight)?
        } else {
            None
        };
        Ok((dx, dw))
    }
}
