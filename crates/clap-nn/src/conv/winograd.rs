//! 3x3 convolutions of step 1 by Winograd's minimal filtering F(2x2, 3x3): 16 products for four outputs where the definition takes 36.
//!
//! Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (arXiv 1509.09308): `Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A` for a tile
//! `d` of 4x4 inputs and a kernel `g` of 3x3. All coefficients are 0, ±1 and ±1/2, so that rounding stays that of a plain sum. Over all channels the
//! product in the middle is 16 matrix products, one for each place of the tile.

use std::ops::Range;

use crate::cpu::product::{Matrix, MatrixMut, Threads};
use crate::cpu::scatter::{Rows, build_rows};
use crate::cpu::{parallel, vectorise::vectorised};

/// Side of a kernel and of a tile of inputs, and places of a tile.
pub(super) const TAPS: usize = 3;
const SIDE: usize = 4;
pub(super) const PLACES: usize = SIDE * SIDE;
/// Side of a tile of outputs.
const STEP: usize = 2;

/// Below this many channels on either side the transforms cost more than the products that they save.
const FEWEST_CHANNELS: usize = 8;

/// Kernels up to this many transformed elements are shared from the second-level cache by tasks of few tiles; with larger ones a task has many
/// tiles, and its products are cut for all threads.
const CACHED_KERNEL: usize = 512 * 1024;
const FEW_TILES: usize = 64;
const MANY_TILES: usize = 256;

/// Channels transformed at once: a register of each of the tile's places.
const LANES: usize = 16;

/// Whether a 3x3 kernel of step 1 and padding 1 is worth the transforms.
pub(super) fn pays(input: usize, output: usize) -> bool {
    input.min(output) >= FEWEST_CHANNELS
}

/// Maps (batch, height, width, input) under a kernel that keeps their size.
#[derive(Clone, Copy)]
pub(super) struct Maps {
    pub(super) batch: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) input: usize,
    pub(super) output: usize,
}

impl Maps {
    /// As a gradient goes through them: from outputs to inputs.
    pub(super) fn back(self) -> Self {
        Self { input: self.output, output: self.input, ..self }
    }

    /// Tiles of a map, in rows and columns.
    fn tiles(&self) -> (usize, usize) {
        (self.height.div_ceil(STEP), self.width.div_ceil(STEP))
    }

    /// Rows of tiles of a task.
    fn rows_per_task(&self) -> (usize, Threads) {
        let (few, threads) = match PLACES * self.input * self.output <= CACHED_KERNEL {
            true => (FEW_TILES, Threads::One),
            false => (MANY_TILES, Threads::All),
        };
        ((few / self.tiles().1).max(1), threads)
    }
}

/// A transformed kernel.
#[derive(Clone, Copy)]
pub(super) enum Kernel<'a> {
    /// (places, output, input), as [`transform_kernel`] makes it.
    Made(&'a [f32]),
    /// (places, input, output), whose rows a product copies to its panels, where it would turn the other's, which costs more than the
    /// product of a few tiles.
    Kept(&'a [f32]),
}

impl<'a> Kernel<'a> {
    /// The matrix that the tiles' `place` is multiplied by: from the channels that `direction` comes from to those that it goes to.
    fn matrix(self, place: usize, maps: &Maps, direction: Direction) -> Matrix<'a> {
        let size = maps.input * maps.output;
        let place = match direction {
            Direction::Forward => place,
            Direction::Backward => turn(place / SIDE) * SIDE + turn(place % SIDE),
        };
        let (from, to) = (maps.input, maps.output);
        // `maps` has the direction's own input and output: those of the kernel, or the other way round.
        match (self, direction) {
            (Self::Made(values), Direction::Forward) | (Self::Kept(values), Direction::Backward) => {
                Matrix::new(&values[place * size..][..size], to, from).t()
            }
            (Self::Made(values), Direction::Backward) | (Self::Kept(values), Direction::Forward) => {
                Matrix::new(&values[place * size..][..size], from, to)
            }
        }
    }
}

/// Which way a kernel is applied.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From `input` channels to `output` channels.
    Forward,
    /// The gradient's way, from outputs to inputs: the kernel turned round. Turning `g` exchanges the first and the last row of `G g`,
    /// and the same columns, so that the transformed kernel serves both ways.
    Backward,
}

/// What becomes of the sums before they are stored.
#[derive(Clone, Copy)]
pub(super) enum Finish<'a> {
    /// Nothing.
    Plain,
    /// `max(scale · y + shift, 0)` with one scale and shift for each channel, and its mean over 2x2 neighbours where `pools`.
    Block { scale: &'a [f32], shift: &'a [f32], pools: bool },
}

impl Finish<'_> {
    pub(super) fn pools(&self) -> bool {
        matches!(self, Self::Block { pools: true, .. })
    }
}

/// `G g Gᵀ` of a kernel (output, 3, 3, input) → (places, output, input).
pub(super) fn transform_kernel(weight: &[f32], input: usize, output: usize) -> Vec<f32> {
    let task = parallel::rows_per_task(PLACES * input);
    let starts: Vec<usize> = (0..output).step_by(task).collect();
    // SAFETY: the task of outputs `first..` writes those rows of every place.
    let (kernel, _) = unsafe {
        build_rows(PLACES * output, input, starts.len(), |index, rows| {
            let mut places = vec![0.0; PLACES * input];
            for o in starts[index]..(starts[index] + task).min(output) {
                kernel_places(&weight[o * TAPS * TAPS * input..][..TAPS * TAPS * input], &mut places);
                for (place, values) in places.chunks_exact(input).enumerate() {
                    rows.write(place * output + o, values);
                }
            }
        })
    };
    kernel
}

/// (places, output, input) → (places, input, output): see [`Kernel::Kept`].
pub(super) fn keep_kernel(kernel: &[f32], input: usize, output: usize) -> Vec<f32> {
    /// Side of the blocks in which rows and columns change places.
    const BLOCK: usize = 32;
    let size = input * output;
    parallel::build(kernel.len(), size, |start, kept| {
        let kernel = &kernel[start..start + size];
        for first in (0..output).step_by(BLOCK) {
            for (i, row) in kept.chunks_exact_mut(output).enumerate() {
                let end = (first + BLOCK).min(output);
                for (o, value) in row[first..end].iter_mut().enumerate() {
                    *value = kernel[(first + o) * input + i];
                }
            }
        }
    })
}

/// The convolution of `xs` with a transformed kernel, finished: (batch, height, width, output), or half the height and width where it is pooled.
pub(super) fn convolve(
    xs: &[f32],
    kernel: Kernel<'_>,
    maps: Maps,
    direction: Direction,
    finish: Finish<'_>,
) -> Vec<f32> {
    let (tile_rows, tile_columns) = maps.tiles();
    let (share, threads) = maps.rows_per_task();
    let all_rows = maps.batch * tile_rows;
    // Outputs along each side of a tile.
    let side = if finish.pools() { 1 } else { STEP };
    let (height, width) = (maps.height * side / STEP, maps.width * side / STEP);
    let line = tile_columns * side * maps.output;
    let task = |index: usize, out: &Rows<'_>| {
        let rows = index * share..((index + 1) * share).min(all_rows);
        let sums = products(xs, kernel, maps, rows.clone(), (direction, threads));
        let mut lines = vec![0.0; side * line];
        for (i, row) in rows.enumerate() {
            output_row(&sums, &mut lines, maps, i, finish);
            let (map, row) = (row / tile_rows, row % tile_rows);
            for (i, values) in lines.chunks_exact(line).enumerate().take_while(|(i, _)| row * side + i < height) {
                // SAFETY: a row of tiles belongs to one task, and covers these rows of the output alone.
                unsafe { out.write(map * height + row * side + i, &values[..width * maps.output]) };
            }
        }
    };
    // SAFETY: together the rows of tiles cover every row of the output.
    unsafe { build_rows(maps.batch * height, width * maps.output, all_rows.div_ceil(share), task) }.0
}

/// The 16 products of some rows of tiles, counted over all maps: (places, tiles, output).
fn products(
    xs: &[f32],
    kernel: Kernel<'_>,
    maps: Maps,
    rows: Range<usize>,
    (direction, threads): (Direction, Threads),
) -> Vec<f32> {
    let tiles = rows.len() * maps.tiles().1;
    let Maps { input, output, .. } = maps;
    let mut seen = vec![0.0; PLACES * tiles * input];
    tile_places(xs, &mut seen, maps, rows);
    let mut sums = vec![0.0; PLACES * tiles * output];
    for (place, sums) in sums.chunks_exact_mut(tiles * output).enumerate() {
        let seen = Matrix::new(&seen[place * tiles * input..][..tiles * input], tiles, input);
        let kernel = kernel.matrix(place, &maps, direction);
        MatrixMut::new(sums, tiles, output).set(1.0, seen, kernel, threads);
    }
    sums
}

/// The row of `G g` that becomes row `i` when `g` is turned round.
fn turn(i: usize) -> usize {
    match i {
        0 => SIDE - 1,
        i if i == SIDE - 1 => 0,
        i => i,
    }
}

vectorised! {
    /// `G g Gᵀ` of one output's kernel (9, input) → (places, input).
    fn kernel_places(weight: &[f32], places: &mut [f32]) {
        let input = weight.len() / (TAPS * TAPS);
        for c in 0..input {
            let mut rows = [[0f32; TAPS]; SIDE];
            for column in 0..TAPS {
                let column_of = [0, 1, 2].map(|row| weight[(row * TAPS + column) * input + c]);
                for (row, value) in kernel_rows(column_of).into_iter().enumerate() {
                    rows[row][column] = value;
                }
            }
            for (row, taps) in rows.into_iter().enumerate() {
                for (column, value) in kernel_rows(taps).into_iter().enumerate() {
                    places[(row * SIDE + column) * input + c] = value;
                }
            }
        }
    }
}

/// `G` times a column of a kernel.
#[inline(always)]
fn kernel_rows([a, b, c]: [f32; 3]) -> [f32; SIDE] {
    [a, 0.5 * (a + b + c), 0.5 * (a - b + c), c]
}

vectorised! {
    /// `Bᵀ d B` of the tiles in some rows of tiles, counted over all maps: (places, tiles, input).
    fn tile_places(xs: &[f32], places: &mut [f32], maps: Maps, rows: Range<usize>) {
        let Maps { height, width, input, .. } = maps;
        let (tile_rows, columns) = maps.tiles();
        let (first, tiles) = (rows.start, rows.len() * columns);
        let outside = vec![0f32; input];
        for index in rows {
            let (map, row) = (index / tile_rows, index % tile_rows);
            let xs = &xs[map * height * width * input..][..height * width * input];
            for column in 0..columns {
                // The tile's inputs begin one above and one to the left of its outputs.
                let mut sources = [&outside[..]; PLACES];
                for (place, source) in sources.iter_mut().enumerate() {
                    let (y, x) = (row * STEP + place / SIDE, column * STEP + place % SIDE);
                    if (1..=height).contains(&y) && (1..=width).contains(&x) {
                        *source = &xs[((y - 1) * width + x - 1) * input..][..input];
                    }
                }
                let tile = (index - first) * columns + column;
                let whole = input - input % LANES;
                let mut c = 0;
                while c < whole {
                    tile_lanes::<LANES>(&sources, c, places, (tile * input + c, tiles * input));
                    c += LANES;
                }
                while c < input {
                    tile_lanes::<1>(&sources, c, places, (tile * input + c, tiles * input));
                    c += 1;
                }
            }
        }
    }
}

/// `Bᵀ d B` of `L` channels from `c` on, to `at` and every `stride` behind it.
#[inline(always)]
fn tile_lanes<const L: usize>(sources: &[&[f32]; PLACES], c: usize, out: &mut [f32], (at, stride): (usize, usize)) {
    let mut d = [[0f32; L]; PLACES];
    for (place, source) in sources.iter().enumerate() {
        d[place].copy_from_slice(&source[c..c + L]);
    }
    for column in 0..SIDE {
        let rows = tile_rows([d[column], d[SIDE + column], d[2 * SIDE + column], d[3 * SIDE + column]]);
        for (row, values) in rows.into_iter().enumerate() {
            d[row * SIDE + column] = values;
        }
    }
    for row in 0..SIDE {
        let columns = tile_rows([d[row * SIDE], d[row * SIDE + 1], d[row * SIDE + 2], d[row * SIDE + 3]]);
        for (column, values) in columns.into_iter().enumerate() {
            out[at + (row * SIDE + column) * stride..][..L].copy_from_slice(&values);
        }
    }
}

/// `Bᵀ` times a column of a tile.
#[inline(always)]
fn tile_rows<const L: usize>([a, b, c, d]: [[f32; L]; SIDE]) -> [[f32; L]; SIDE] {
    let mut rows = [[0f32; L]; SIDE];
    for i in 0..L {
        rows[0][i] = a[i] - c[i];
        rows[1][i] = b[i] + c[i];
        rows[2][i] = c[i] - b[i];
        rows[3][i] = b[i] - d[i];
    }
    rows
}

vectorised! {
    /// `Aᵀ m A` of row `row` of the tiles of `sums` (places, tiles, output), finished, into the rows of outputs that it covers.
    fn output_row(sums: &[f32], lines: &mut [f32], maps: Maps, row: usize, finish: Finish<'_>) {
        let (output, columns) = (maps.output, maps.tiles().1);
        let stride = sums.len() / PLACES;
        for column in 0..columns {
            let at = (row * columns + column) * output;
            let whole = output - output % LANES;
            let mut c = 0;
            while c < whole {
                let ys = output_lanes::<LANES>(sums, (at + c, stride));
                store_lanes(lines, ys, (column, columns, output), c, finish);
                c += LANES;
            }
            while c < output {
                let ys = output_lanes::<1>(sums, (at + c, stride));
                store_lanes(lines, ys, (column, columns, output), c, finish);
                c += 1;
            }
        }
    }
}

vectorised! {
    /// Finishes rows of channels, without pooling.
    pub(super) fn finish_rows(ys: &mut [f32], finish: Finish<'_>) {
        if let Finish::Block { scale, shift, .. } = finish {
            for row in ys.chunks_exact_mut(scale.len()) {
                for ((y, scale), shift) in row.iter_mut().zip(scale).zip(shift) {
                    *y = relu(y.mul_add(*scale, *shift));
                }
            }
        }
    }
}

/// Not `max`, which would turn NaN into zero.
#[inline(always)]
fn relu(y: f32) -> f32 {
    if y <= 0.0 { 0.0 } else { y }
}

/// `Aᵀ m A` of `L` channels: the four outputs of a tile, row by row.
#[inline(always)]
fn output_lanes<const L: usize>(sums: &[f32], (at, stride): (usize, usize)) -> [[f32; L]; STEP * STEP] {
    let mut m = [[0f32; L]; PLACES];
    for (place, values) in m.iter_mut().enumerate() {
        values.copy_from_slice(&sums[at + place * stride..][..L]);
    }
    let mut halves = [[[0f32; L]; SIDE]; STEP];
    for column in 0..SIDE {
        let rows = output_rows([m[column], m[SIDE + column], m[2 * SIDE + column], m[3 * SIDE + column]]);
        halves[0][column] = rows[0];
        halves[1][column] = rows[1];
    }
    let [above, below] = halves.map(output_rows);
    [above[0], above[1], below[0], below[1]]
}

/// Finishes the outputs of channels `c..` of the tile in `column`.
#[inline(always)]
fn store_lanes<const L: usize>(
    lines: &mut [f32],
    mut ys: [[f32; L]; STEP * STEP],
    (column, columns, output): (usize, usize, usize),
    c: usize,
    finish: Finish<'_>,
) {
    if let Finish::Block { scale, shift, .. } = finish {
        let (scale, shift) = (&scale[c..c + L], &shift[c..c + L]);
        for values in &mut ys {
            for i in 0..L {
                values[i] = relu(values[i].mul_add(scale[i], shift[i]));
            }
        }
    }
    if finish.pools() {
        let mut mean = [0f32; L];
        for i in 0..L {
            mean[i] = ((ys[0][i] + ys[1][i]) + (ys[2][i] + ys[3][i])) * 0.25;
        }
        lines[column * output + c..][..L].copy_from_slice(&mean);
    } else {
        for (place, values) in ys.iter().enumerate() {
            let at = (place / STEP * columns + column) * STEP + place % STEP;
            lines[at * output + c..][..L].copy_from_slice(values);
        }
    }
}

/// `Aᵀ` times a column.
#[inline(always)]
fn output_rows<const L: usize>([a, b, c, d]: [[f32; L]; SIDE]) -> [[f32; L]; STEP] {
    let mut rows = [[0f32; L]; STEP];
    for i in 0..L {
        rows[0][i] = a[i] + b[i] + c[i];
        rows[1][i] = b[i] - c[i] - d[i];
    }
    rows
}
