//! Elementary functions and reductions in a form that vectorises: no branches, no calls, sums in lanes.

/// Partial sums of a reduction: two AVX2 or one AVX-512 register.
const LANES: usize = 16;

/// `exp(x)` within 2e-7 relative for -87 ≤ x ≤ 88, zero below and `exp(88)` above (Cephes `expf`); NaN for NaN.
///
/// Zero, and not the least normal number: what a mask puts out of the way must have no weight at all, and products with the
/// least number are denormals, which processors are slow at.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to the nearest integer and leaves it in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    const LEAST: f32 = -87.0;
    let vanishes = x < LEAST;
    let x = x.clamp(LEAST, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // x = n·ln 2 + r, |r| ≤ ln 2 / 2, with ln 2 in two parts.
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut q = 1.987_569_1e-4_f32;
    q = q.mul_add(r, 1.398_199_9e-3);
    q = q.mul_add(r, 8.333_452e-3);
    q = q.mul_add(r, 4.166_579_6e-2);
    q = q.mul_add(r, 1.666_666_6e-1);
    q = q.mul_add(r, 5e-1);
    let mantissa = q.mul_add(r * r, r) + 1.0;
    // 2ⁿ: n in the exponent's place. Adding to the bits of the mantissa multiplies by it.
    let value = f32::from_bits(mantissa.to_bits().wrapping_add(shifted.to_bits() << 23));
    if vanishes { 0.0 } else { value }
}

/// The normal distribution at `x`: (Φ(x), φ(x)), Φ within 5e-7 relative for |x| < 5.
///
/// Φ(-a) = φ(a)·√2π · P(1/(1 + 0.26 a)) for a ≥ 0, with P a Chebyshev fit of degree 9 (2e-8 relative).
#[inline(always)]
pub(crate) fn normal(x: f32) -> (f32, f32) {
    const FIT: [f32; 10] = [
        -3.718_681_7e-6,
        0.103_840_15,
        0.102_264_64,
        0.106_926_69,
        0.038_587_55,
        0.186_371_85,
        -0.184_274_94,
        0.278_569_13,
        -0.165_232_74,
        0.032_951_383,
    ];
    // Beyond 13 the density underflows; the fit ends there.
    let a = x.abs().min(13.0);
    let s = 1.0 / a.mul_add(0.26, 1.0);
    let mut p = FIT[9];
    p = p.mul_add(s, FIT[8]);
    p = p.mul_add(s, FIT[7]);
    p = p.mul_add(s, FIT[6]);
    p = p.mul_add(s, FIT[5]);
    p = p.mul_add(s, FIT[4]);
    p = p.mul_add(s, FIT[3]);
    p = p.mul_add(s, FIT[2]);
    p = p.mul_add(s, FIT[1]);
    p = p.mul_add(s, FIT[0]);
    let e = exp(-0.5 * a * a);
    let tail = e * p;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, e * 0.398_942_3)
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Folds the lanes of `term(i)` for i < len, lane by lane, then the lanes in order.
#[inline(always)]
fn fold(len: usize, start: f32, term: impl Fn(usize) -> f32, join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; LANES];
    let whole = len - len % LANES;
    let mut base = 0;
    while base < whole {
        for (lane, value) in lanes.iter_mut().enumerate() {
            *value = join(*value, term(base + lane));
        }
        base += LANES;
    }
    let mut total = start;
    for i in whole..len {
        total = join(total, term(i));
    }
    // Halving keeps the reduction in registers.
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = join(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    join(total, lanes[0])
}

/// Σ xs.
#[inline(always)]
pub(crate) fn sum(xs: &[f32]) -> f32 {
    fold(xs.len(), 0.0, |i| xs[i], |a, b| a + b)
}

/// Σ (xs - shift)².
#[inline(always)]
pub(crate) fn sum_squares(xs: &[f32], shift: f32) -> f32 {
    fold(xs.len(), 0.0, |i| (xs[i] - shift) * (xs[i] - shift), |a, b| a + b)
}

/// Σ xs · ys.
#[inline(always)]
pub(crate) fn dot(xs: &[f32], ys: &[f32]) -> f32 {
    let ys = &ys[..xs.len()];
    fold(xs.len(), 0.0, |i| xs[i] * ys[i], |a, b| a + b)
}

/// Σ xs · (ys - shift).
#[inline(always)]
pub(crate) fn dot_shifted(xs: &[f32], ys: &[f32], shift: f32) -> f32 {
    let ys = &ys[..xs.len()];
    fold(xs.len(), 0.0, |i| xs[i] * (ys[i] - shift), |a, b| a + b)
}

/// The largest element; -∞ for none.
#[inline(always)]
pub(crate) fn max(xs: &[f32]) -> f32 {
    fold(xs.len(), f32::NEG_INFINITY, |i| xs[i], |a, b| if a > b { a } else { b })
}

/// Softmax in place.
#[inline(always)]
pub(crate) fn softmax(row: &mut [f32]) {
    let peak = max(row);
    for x in row.iter_mut() {
        *x = exp(*x - peak);
    }
    let scale = 1.0 / sum(row);
    for x in row.iter_mut() {
        *x *= scale;
    }
}

/// `total += xs`, element by element.
#[inline(always)]
pub(crate) fn add_assign(total: &mut [f32], xs: &[f32]) {
    for (total, x) in total.iter_mut().zip(xs) {
        *total += x;
    }
}

/// `xs ← xs · ys`, element by element.
#[inline(always)]
pub(crate) fn multiply_assign(xs: &mut [f32], ys: &[f32]) {
    for (x, y) in xs.iter_mut().zip(ys) {
        *x *= y;
    }
}

#[cfg(test)]
mod tests {
    use candle_core::cpu::erf::erf_f64;

    use super::*;

    fn grid(lo: f32, hi: f32) -> impl Iterator<Item = f32> {
        (0..=20_000).map(move |i| lo + (hi - lo) * i as f32 / 20_000.0)
    }

    #[test]
    fn exp_is_accurate() {
        for x in grid(-86.9, 87.9) {
            let expected = f64::from(x).exp();
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2e-7, "{x}: {} against {expected}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!([exp(-87.01), exp(-1e9), exp(f32::NEG_INFINITY)], [0.0; 3]);
        assert!(exp(-87.0).is_normal() && exp(1e9).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_normal_distribution_is_accurate() {
        for x in grid(-14.0, 14.0) {
            let wide = f64::from(x);
            let density = (-0.5 * wide * wide).exp() / std::f64::consts::TAU.sqrt();
            let expected = 0.5 * (1.0 + erf_f64(wide / std::f64::consts::SQRT_2));
            let (below, at) = normal(x);
            assert!((f64::from(below) - expected).abs() < 2e-7, "{x}: {below} against {expected}");
            assert!((f64::from(at) - density).abs() < 2e-7, "{x}: {at} against {density}");
        }
        // The lower tail is relatively accurate, where 1 + erf cancels. Reference: erfc in double precision.
        for (x, expected) in
            [(-1f32, 0.158_655_253_931_457_05), (-3.0, 1.349_898_031_630_094_6e-3), (-5.0, 2.866_515_718_791_939e-7)]
        {
            assert!((f64::from(normal(x).0) / expected - 1.0).abs() < 1e-6, "{x}");
        }
        assert!(normal(f32::NAN).0.is_nan() || normal(f32::NAN).1.is_finite());
    }

    #[test]
    fn reductions_cover_every_length() {
        for len in [1, 7, 16, 17, 33, 64] {
            let xs: Vec<f32> = (0..len).map(|i| (i as f32) - 3.0).collect();
            assert_eq!(sum(&xs), xs.iter().sum::<f32>());
            assert_eq!(dot(&xs, &xs), xs.iter().map(|x| x * x).sum::<f32>());
            assert_eq!(sum_squares(&xs, 1.0), xs.iter().map(|x| (x - 1.0) * (x - 1.0)).sum::<f32>());
            assert_eq!(max(&xs), len as f32 - 4.0);
            let mut row = xs.clone();
            softmax(&mut row);
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}
