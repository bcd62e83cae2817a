//! Our tensors beside the reference's.
//!
//! The error of a point is `|ours - theirs| / max |theirs|`, the magnitude being that of the whole tensor (`stat/X`) where
//! the fixture gives it and of the stored points elsewhere: a relative error that a near-zero point cannot inflate.
//! Each comparison is printed (`cargo test -- --nocapture`), and appended as a row of a Markdown table to the file that
//! the environment variable `PARITY_TABLE` names.

use std::io::Write;

use candle_core::{DType, Tensor};

use crate::fixture::Fixture;

/// What a check found.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    /// Number of points compared.
    pub points: usize,
    /// Greatest `|ours - theirs| / max |theirs|`.
    pub max_rel: f64,
    /// Greatest `|ours - theirs|`.
    pub max_abs: f64,
}

/// Row-major indices at which `probe/X` samples a tensor of `numel` elements: `(i * numel) / points`.
#[must_use]
pub fn probe_indices(points: usize, numel: usize) -> Vec<usize> {
    (0..points).map(|i| (i * numel) / points).collect()
}

/// Greatest difference of two rows of numbers, relative to the greatest magnitude of `theirs` (or `magnitude`).
///
/// # Panics
/// Where the lengths differ.
#[must_use]
#[track_caller]
pub fn relative_error(ours: &[f64], theirs: &[f64], magnitude: Option<f64>) -> Comparison {
    assert_eq!(ours.len(), theirs.len(), "numbers of points differ");
    let scale = magnitude.unwrap_or_else(|| theirs.iter().fold(0.0, |m: f64, v| m.max(v.abs())));
    // A NaN must not vanish in `max`: it counts as an infinite error.
    let max_abs = ours.iter().zip(theirs).fold(0.0, |m: f64, (a, b)| {
        let d = (a - b).abs();
        if d.is_nan() { f64::INFINITY } else { m.max(d) }
    });
    let max_rel = if max_abs == 0.0 { 0.0 } else { max_abs / scale.max(f64::MIN_POSITIVE) };
    Comparison { points: ours.len(), max_rel, max_abs }
}

/// Cosine of two vectors, in `f64`.
#[must_use]
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Compares `tensor` with `out/X`, else with `probe/X`, `shape/X` and `stat/X` of the fixture.
///
/// Some fixtures keep only the first row of a batch: where the reference's leading dimension is smaller and the others
/// agree, the leading rows of `tensor` are compared. A probe without `shape/X` samples the whole of it.
///
/// # Panics
/// Where the shapes disagree or the error exceeds `rel_tol`; the message names the fixture, the key and the worst point.
#[track_caller]
pub fn check_probe(fixture: &Fixture, key: &str, tensor: &Tensor, rel_tol: f64) -> Comparison {
    let at = format!("fixture {}: {key}", fixture.name());
    let (out, probe) = (format!("out/{key}"), format!("probe/{key}"));
    if fixture.has(&out) {
        let (theirs, shape) = fixture.float(&out);
        let ours = flatten(&at, &leading_rows(&at, tensor, &shape));
        return judge(fixture, key, &ours, &theirs, None, rel_tol);
    }
    let (theirs, _) = fixture.float(&probe);
    let shape_key = format!("shape/{key}");
    let tensor = if fixture.has(&shape_key) {
        let shape: Vec<usize> = fixture.i64(&shape_key).0.into_iter().map(|n| n as usize).collect();
        leading_rows(&at, tensor, &shape)
    } else {
        tensor.clone()
    };
    let ours = flatten(&at, &tensor);
    let sample: Vec<f64> = probe_indices(theirs.len(), ours.len()).into_iter().map(|i| ours[i]).collect();
    let stat_key = format!("stat/{key}");
    if !fixture.has(&stat_key) {
        return judge(fixture, key, &sample, &theirs, None, rel_tol);
    }
    let stat = fixture.f64(&stat_key).0;
    let mine = [mean(&ours), deviation(&ours), ours.iter().fold(0.0, |m: f64, v| m.max(v.abs()))];
    // The three summaries see every element, the sample 256 of them.
    for (name, (a, b)) in ["mean", "deviation", "greatest magnitude"].iter().zip(mine.iter().zip(&stat)) {
        let error = (a - b).abs() / stat[2];
        assert!(
            error <= rel_tol,
            "{at}: {name} is {a}, the reference has {b} (relative to its magnitude: {error:.2e})"
        );
    }
    judge(fixture, key, &sample, &theirs, Some(stat[2]), rel_tol)
}

/// Compares plain numbers with the stored tensor `key` (its full name, `grad/step0/…` for example) point by point.
///
/// # Panics
/// As [`check_probe`].
#[track_caller]
pub fn check_values(fixture: &Fixture, key: &str, ours: &[f64], rel_tol: f64) -> Comparison {
    let (theirs, _) = fixture.float(key);
    judge(fixture, key, ours, &theirs, None, rel_tol)
}

/// Least cosine between the rows of `tensor` `(rows, width)` and those of `out/X`; at least `least`.
///
/// # Panics
/// Where the shapes disagree or a row falls below `least`.
#[track_caller]
pub fn check_cosine(fixture: &Fixture, key: &str, tensor: &Tensor, least: f64) -> f64 {
    let at = format!("fixture {}: {key}", fixture.name());
    let (theirs, shape) = fixture.float(&format!("out/{key}"));
    let ours = flatten(&at, &leading_rows(&at, tensor, &shape));
    let width = *shape.last().unwrap_or_else(|| panic!("{at}: a scalar has no cosine"));
    let rows = ours.chunks_exact(width).zip(theirs.chunks_exact(width));
    let min = rows.map(|(a, b)| cosine(a, b)).fold(f64::INFINITY, |m, c| if c.is_nan() { c } else { m.min(c) });
    record(fixture.name(), key, &format!("cosine ≥ {min:.9}"), ours.len(), &format!("{least}"));
    assert!(min >= least, "{at}: least cosine {min} is below {least}");
    min
}

/// The leading rows of `tensor` that a fixture of `shape` holds; all of it where the shapes agree.
#[track_caller]
fn leading_rows(at: &str, tensor: &Tensor, shape: &[usize]) -> Tensor {
    let dims = tensor.dims();
    if dims == shape {
        return tensor.clone();
    }
    // A scalar is stored with one element.
    if tensor.elem_count() == 1 && shape == [1] {
        return tensor.reshape(1).unwrap_or_else(|e| panic!("{at}: {e}"));
    }
    let same_tail = dims.len() == shape.len() && !dims.is_empty() && dims[1..] == shape[1..];
    assert!(same_tail && dims[0] > shape[0], "{at}: our shape is {dims:?}, the reference's {shape:?}");
    tensor.narrow(0, 0, shape[0]).unwrap_or_else(|e| panic!("{at}: {e}"))
}

#[track_caller]
fn flatten(at: &str, tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()).and_then(|t| t.to_vec1::<f64>());
    flat.unwrap_or_else(|e| panic!("{at}: {e}"))
}

#[track_caller]
fn judge(f: &Fixture, key: &str, ours: &[f64], theirs: &[f64], magnitude: Option<f64>, rel_tol: f64) -> Comparison {
    let at = format!("fixture {}: {key}", f.name());
    assert_eq!(ours.len(), theirs.len(), "{at}: we have {} points, the reference {}", ours.len(), theirs.len());
    let found = relative_error(ours, theirs, magnitude);
    record(f.name(), key, &format!("{:.1e}", found.max_rel), found.points, &format!("{rel_tol:.0e}"));
    if found.max_rel > rel_tol {
        let distance = |i: usize| (ours[i] - theirs[i]).abs();
        let worst = (0..ours.len()).max_by(|&i, &j| distance(i).total_cmp(&distance(j))).unwrap_or(0);
        panic!(
            "{at}: relative error {:.3e} exceeds {rel_tol:.1e}; worst point {worst} of {}: ours {}, theirs {}",
            found.max_rel,
            ours.len(),
            ours[worst],
            theirs[worst]
        );
    }
    found
}

/// One row of the parity table: printed, and appended to `PARITY_TABLE`.
#[expect(clippy::print_stdout, reason = "the test harness captures it; --nocapture shows the table")]
pub fn record(fixture: &str, key: &str, found: &str, points: usize, bound: &str) {
    let row = format!("| {fixture} | {key} | {points} | {found} | {bound} |");
    println!("{row}");
    if let Some(path) = std::env::var_os("PARITY_TABLE") {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        // One write per row: rows of tests that run side by side do not mix.
        let written = file.and_then(|mut file| file.write_all(format!("{row}\n").as_bytes()));
        written.unwrap_or_else(|e| panic!("PARITY_TABLE {}: {e}", path.display()));
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Unbiased standard deviation, as `torch.std`.
fn deviation(values: &[f64]) -> f64 {
    let m = mean(values);
    (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn probe_points_are_spread_over_the_tensor() {
        assert_eq!(probe_indices(4, 10), [0, 2, 5, 7]);
        assert_eq!(probe_indices(3, 3), [0, 1, 2]);
    }

    #[test]
    fn error_is_relative_to_the_greatest_magnitude() {
        let found = relative_error(&[0.0, 10.0], &[0.1, -10.0], None);
        assert_eq!((found.max_abs, found.max_rel), (20.0, 2.0));
        assert_eq!(relative_error(&[1.0], &[1.0], None).max_rel, 0.0);
    }

    #[test]
    fn a_nan_is_an_infinite_error() {
        assert_eq!(relative_error(&[f64::NAN, 1.0], &[1.0, 1.0], None).max_rel, f64::INFINITY);
        assert_eq!(relative_error(&[1.0, f64::NAN], &[1.0, 1.0], None).max_rel, f64::INFINITY);
    }

    #[test]
    fn fewer_rows_of_the_reference_take_our_leading_rows() {
        let ours = Tensor::arange(0f32, 6f32, &Device::Cpu).and_then(|t| t.reshape((3, 2))).expect("six numbers");
        let rows = leading_rows("test", &ours, &[1, 2]);
        assert_eq!(flatten("test", &rows), [0.0, 1.0]);
    }

    #[test]
    #[should_panic(expected = "our shape is [3, 2], the reference's [3, 4]")]
    fn other_shapes_are_refused() {
        let ours = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).expect("zeros");
        let _ = leading_rows("test", &ours, &[3, 4]);
    }

    #[test]
    fn deviation_is_unbiased() {
        assert_eq!(deviation(&[1.0, 3.0]), 2f64.sqrt());
    }
}
