//! One-dimensional interpolation as a constant matrix, so that a resize is a matrix product and differentiable for free.
//!
//! Follows `torch.nn.functional.interpolate(mode="bicubic", align_corners=True)` along one axis
//! (ATen `UpSampleKernel.cpp`): source coordinates in `f32`, neighbours clamped at the edges, no antialiasing.

/// Keys' parameter in PyTorch's bicubic kernel.
const A: f64 = -0.75;

/// The (output × input) matrix, row-major, of bicubic interpolation with aligned corners.
///
/// The source coordinate of output `i` is `i · (input-1)/(output-1)`, rounded to `f32` as PyTorch does: with exact coordinates
/// the result differs from PyTorch's by 1e-4.
pub fn bicubic_matrix(input: usize, output: usize) -> Vec<f32> {
    let mut matrix = vec![0.0; output * input];
    if input == 0 {
        return matrix;
    }
    let scale = if output > 1 { (input - 1) as f32 / (output - 1) as f32 } else { 0.0 };
    for (i, weights) in matrix.chunks_exact_mut(input).enumerate() {
        let source = scale * i as f32;
        let floor = source.floor();
        let (floor, t) = ((floor as usize).min(input - 1), f64::from(source - floor));
        for tap in 0..4 {
            let distance = (t - (tap as f64 - 1.0)).abs();
            weights[(floor + tap).saturating_sub(1).min(input - 1)] += keys(distance) as f32;
        }
    }
    matrix
}

/// Keys' cubic kernel at distance `x` ≥ 0.
fn keys(x: f64) -> f64 {
    if x <= 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(matrix: &[f32], xs: &[f64]) -> Vec<f64> {
        matrix.chunks_exact(xs.len()).map(|row| row.iter().zip(xs).map(|(&w, x)| f64::from(w) * x).sum()).collect()
    }

    fn close(a: &[f64], b: &[f64], tolerance: f64) {
        assert_eq!(a.len(), b.len());
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            assert!((a - b).abs() <= tolerance, "{i}: {a} against {b}");
        }
    }

    #[test]
    fn constants_and_end_points_are_kept() {
        let matrix = bicubic_matrix(1001, 1024);
        close(&apply(&matrix, &[2.5; 1001]), &[2.5; 1024], 1e-6);
        assert_eq!((matrix[0], matrix[1023 * 1001 + 1000]), (1.0, 1.0));
    }

    #[test]
    fn equal_sizes_are_the_identity() {
        for (i, row) in bicubic_matrix(9, 9).chunks_exact(9).enumerate() {
            assert!(row.iter().enumerate().all(|(j, &w)| w == f32::from(u8::from(i == j))));
        }
    }

    /// With a = -0.75 a ramp is not reproduced: at fractional offset t the interpolated offset is t³ - 1.5 t² + 1.5 t.
    #[test]
    fn a_ramp_has_the_closed_form_of_the_kernel() {
        let ramp: Vec<f64> = (0..1001).map(f64::from).collect();
        let ys = apply(&bicubic_matrix(1001, 1024), &ramp);
        let scale = 1000f32 / 1023.0;
        // The two outermost intervals clamp a neighbour.
        for (i, y) in ys.iter().enumerate().take(1020).skip(3) {
            let source = scale * i as f32;
            let t = f64::from(source - source.floor());
            let expected = f64::from(source.floor()) + t * t * t - 1.5 * t * t + 1.5 * t;
            assert!((y - expected).abs() < 2e-4, "{i}: {y} against {expected}");
        }
        let quarter = apply(&bicubic_matrix(9, 33), &(0..9).map(f64::from).collect::<Vec<_>>());
        assert!((quarter[9] - 2.296875).abs() < 1e-6 && (quarter[10] - 2.5).abs() < 1e-6);
    }

    #[test]
    fn single_points_are_copied() {
        assert_eq!(bicubic_matrix(1, 3), [1.0; 3]);
        assert_eq!(bicubic_matrix(3, 1), [1.0, 0.0, 0.0]);
    }
}
