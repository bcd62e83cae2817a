//! Spectra of real signals through complex transforms of half the length.
//!
//! Even samples are the real parts and odd ones the imaginary parts of a complex signal z, which is how they lie in memory
//! anyway. With Z its transform, m its length and n = 2 m that of the signal,
//!
//! ```text
//! X[k] = (Z[k] + conj Z[m-k]) / 2 - i w^k (Z[k] - conj Z[m-k]) / 2,   w = exp(-2 pi i / n),   Z[m] = Z[0]
//! ```
//!
//! The same formula serves a signal of odd length, which is transformed whole with imaginary parts of 0: the second term
//! vanishes then. The `realfft` crate does this step for every bin and one number at a time, which takes longer than the
//! transform; here it covers the bins that are wanted, and vectorises.

use std::f64::consts::PI;
use std::sync::Arc;

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftDirection, FftPlanner};

use crate::vectorise::vectorised;

/// A transform of real signals of one length. Its buffers hold [`RealFft::buffer_len`] complex numbers, the signal in
/// the first `len` of their parts, [`parts`].
#[derive(Clone)]
pub(crate) struct RealFft {
    len: usize,
    fft: Arc<dyn Fft<f32>>,
    /// w^k for k up to n / 2, its real and imaginary parts.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RealFft {
    /// From a signal of `len` samples to its spectrum.
    pub(crate) fn forward(len: usize) -> Self {
        Self::new(len, FftDirection::Forward)
    }

    /// From a spectrum to the signal of `len` samples, which must be even.
    pub(crate) fn inverse(len: usize) -> Self {
        debug_assert!(len.is_multiple_of(2));
        Self::new(len, FftDirection::Inverse)
    }

    fn new(len: usize, direction: FftDirection) -> Self {
        let angle = |k: usize| -2.0 * PI * k as f64 / len as f64;
        Self {
            len,
            fft: FftPlanner::new().plan_fft(if len.is_multiple_of(2) { len / 2 } else { len }, direction),
            cos: (0..=len / 2).map(|k| angle(k).cos() as f32).collect(),
            sin: (0..=len / 2).map(|k| angle(k).sin() as f32).collect(),
        }
    }

    /// The length of the real signal.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Complex numbers of a buffer: the transform's and one more.
    pub(crate) fn buffer_len(&self) -> usize {
        self.fft.len() + 1
    }

    /// Complex numbers that a transform needs besides.
    pub(crate) fn scratch_len(&self) -> usize {
        self.fft.get_inplace_scratch_len()
    }

    /// Replaces the signal in `buffer` by Z, with Z[m] = Z[0] at its end.
    pub(crate) fn transform(&self, buffer: &mut [Complex<f32>], scratch: &mut [Complex<f32>]) {
        let m = self.fft.len();
        if m == self.len {
            for n in (0..m).rev() {
                buffer[n] = Complex::new(parts(buffer)[n], 0.0);
            }
        }
        self.fft.process_with_scratch(&mut buffer[..m], &mut scratch[..self.scratch_len()]);
        buffer[m] = buffer[0];
    }

    /// `|X[first + j]|^2` for each j of `powers`, of a buffer after [`RealFft::transform`].
    pub(crate) fn powers(&self, buffer: &[Complex<f32>], first: usize, powers: &mut [f32]) {
        let bins = first..first + powers.len();
        let mirror = &buffer[buffer.len() - bins.end..buffer.len() - first];
        bin_powers(&buffer[bins.clone()], mirror, &self.cos[bins.clone()], &self.sin[bins], powers);
    }

    /// `X[k] gain[k]` for the first bins, of a buffer after [`RealFft::transform`].
    pub(crate) fn spectrum(&self, buffer: &[Complex<f32>], gains: &[f32], spectrum: &mut [Complex<f32>]) {
        let bins = gains.len();
        let mirror = &buffer[buffer.len() - bins..];
        bin_values(&buffer[..bins], mirror, &self.cos[..bins], &self.sin[..bins], gains, &mut spectrum[..bins]);
    }

    /// Replaces `buffer` by the signal whose spectrum, times `len`, is `spectrum`, from bin 0 to `len / 2`; the first and
    /// the last must be real.
    pub(crate) fn signal(&self, spectrum: &[Complex<f32>], buffer: &mut [Complex<f32>], scratch: &mut [Complex<f32>]) {
        let m = self.fft.len();
        packed_bins(&spectrum[..m], &spectrum[1..=m], &self.cos[..m], &self.sin[..m], &mut buffer[..m]);
        self.fft.process_with_scratch(&mut buffer[..m], &mut scratch[..self.scratch_len()]);
    }
}

/// The real and imaginary parts in the order of memory: an even signal sample by sample.
pub(crate) fn parts(buffer: &mut [Complex<f32>]) -> &mut [f32] {
    // SAFETY: `Complex` is `repr(C)`: two `f32` and nothing else.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast::<f32>(), 2 * buffer.len()) }
}

/// 2 X[k] of Z[k], Z[m-k] and w^k.
#[inline(always)]
fn twice_bin(z: Complex<f32>, mirrored: Complex<f32>, cos: f32, sin: f32) -> (f32, f32) {
    let (even_re, even_im) = (z.re + mirrored.re, z.im - mirrored.im);
    let (odd_re, odd_im) = (z.im + mirrored.im, mirrored.re - z.re);
    (even_re + (odd_re * cos - odd_im * sin), even_im + (odd_re * sin + odd_im * cos))
}

vectorised! {
    /// `mirror` holds Z[m-k] of the last k first.
    fn bin_powers(zs: &[Complex<f32>], mirror: &[Complex<f32>], cos: &[f32], sin: &[f32], powers: &mut [f32]) {
        let n = powers.len();
        let (zs, mirror, cos, sin) = (&zs[..n], &mirror[..n], &cos[..n], &sin[..n]);
        for k in 0..n {
            let (re, im) = twice_bin(zs[k], mirror[n - 1 - k], cos[k], sin[k]);
            powers[k] = 0.25 * (re * re + im * im);
        }
    }
}

vectorised! {
    /// `mirror` holds Z[m-k] of the last k first.
    fn bin_values(
        zs: &[Complex<f32>], mirror: &[Complex<f32>], cos: &[f32], sin: &[f32], gains: &[f32], xs: &mut [Complex<f32>],
    ) {
        let n = xs.len();
        let (zs, mirror, cos, sin, gains) = (&zs[..n], &mirror[..n], &cos[..n], &sin[..n], &gains[..n]);
        for k in 0..n {
            let (re, im) = twice_bin(zs[k], mirror[n - 1 - k], cos[k], sin[k]);
            let gain = 0.5 * gains[k];
            xs[k] = Complex::new(re * gain, im * gain);
        }
    }
}

vectorised! {
    /// 2 Z[k] = X[k] + conj X[m-k] + i w^-k (X[k] - conj X[m-k]); `mirror` holds X[m-k] of the last k first.
    fn packed_bins(
        xs: &[Complex<f32>], mirror: &[Complex<f32>], cos: &[f32], sin: &[f32], zs: &mut [Complex<f32>],
    ) {
        let n = zs.len();
        let (xs, mirror, cos, sin) = (&xs[..n], &mirror[..n], &cos[..n], &sin[..n]);
        for k in 0..n {
            let (x, mirrored) = (xs[k], mirror[n - 1 - k]);
            let (sum_re, sum_im) = (x.re + mirrored.re, x.im - mirrored.im);
            let (diff_re, diff_im) = (x.re - mirrored.re, x.im + mirrored.im);
            // i (cos - i sin) = sin + i cos
            zs[k] = Complex::new(
                sum_re + (diff_re * sin[k] - diff_im * cos[k]),
                sum_im + (diff_re * cos[k] + diff_im * sin[k]),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<f32> {
        let mut state = 3u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// The definition, in f64.
    fn dft(signal: &[f32]) -> Vec<Complex<f64>> {
        let n = signal.len();
        let bin = |k: usize| {
            let term =
                |(i, &x): (usize, &f32)| Complex::from_polar(f64::from(x), -2.0 * PI * ((k * i) % n) as f64 / n as f64);
            signal.iter().enumerate().map(term).sum()
        };
        (0..=n / 2).map(bin).collect()
    }

    fn transformed(fft: &RealFft, signal: &[f32]) -> Vec<Complex<f32>> {
        let mut buffer = vec![Complex::default(); fft.buffer_len()];
        parts(&mut buffer)[..signal.len()].copy_from_slice(signal);
        fft.transform(&mut buffer, &mut vec![Complex::default(); fft.scratch_len()]);
        buffer
    }

    /// Even and odd lengths, and one beyond the widest vectors.
    const LENGTHS: [usize; 9] = [2, 3, 4, 6, 9, 64, 75, 96, 210];

    #[test]
    fn spectra_and_powers_are_those_of_the_definition() {
        for len in LENGTHS {
            let (fft, signal) = (RealFft::forward(len), noise(len));
            let (buffer, truth) = (transformed(&fft, &signal), dft(&signal));
            let gains: Vec<f32> = (0..truth.len()).map(|k| 1.0 + k as f32).collect();
            let mut spectrum = vec![Complex::default(); truth.len()];
            fft.spectrum(&buffer, &gains, &mut spectrum);
            for (k, (x, truth)) in spectrum.iter().zip(&truth).enumerate() {
                let x = Complex::new(f64::from(x.re), f64::from(x.im)) / f64::from(gains[k]);
                assert!((x - truth).norm() < 1e-5, "length {len}, bin {k}: {x} {truth}");
            }
            for (first, end) in
                [(0, truth.len()), (1, truth.len()), (1, truth.len() - 1), (truth.len() / 3, truth.len() / 2)]
            {
                let mut powers = vec![0.0; end.saturating_sub(first)];
                fft.powers(&buffer, first, &mut powers);
                for (&power, truth) in powers.iter().zip(&truth[first..]) {
                    assert!((f64::from(power) - truth.norm_sqr()).abs() < 1e-4, "length {len}: {power} {truth}");
                }
            }
        }
    }

    #[test]
    fn the_inverse_gives_the_signal_back() {
        for len in LENGTHS.into_iter().filter(|len| len.is_multiple_of(2)) {
            let (forward, inverse, signal) = (RealFft::forward(len), RealFft::inverse(len), noise(len));
            let mut buffer = transformed(&forward, &signal);
            let mut spectrum = vec![Complex::default(); len / 2 + 1];
            forward.spectrum(&buffer, &vec![1.0 / len as f32; len / 2 + 1], &mut spectrum);
            inverse.signal(&spectrum, &mut buffer, &mut vec![Complex::default(); inverse.scratch_len()]);
            for (a, b) in parts(&mut buffer).iter().zip(&signal) {
                assert!((a - b).abs() < 1e-6, "length {len}: {a} {b}");
            }
        }
    }
}
