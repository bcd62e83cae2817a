//! Change of the sample rate: exact ratio, zero delay, the response of soxr's HQ setting.
//!
//! A long FIR low pass applied by overlap-save in the frequency domain, where changing the rate is cutting the spectrum
//! off or extending it: with rates `from = g p` and `to = g q`, a block of `p c` input samples becomes `q c` output
//! samples. The filter is a Kaiser-windowed sinc fitted to the output of soxr's HQ setting (librosa's default): flat to
//! 0.913 of the lower Nyquist frequency, 117 dB down from 1.0. It is centred on sample 0, so that its spectrum is real
//! and an impulse stays in place.
//!
//! Why not a crate: rubato's FFT resampler transforms blocks that are half padding (its filter is as long as its block) and
//! reports its delay in whole samples, so that an odd block is off by a fraction of one.

use std::collections::HashMap;
use std::f64::consts::PI;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use rustfft::FftPlanner;
use rustfft::num_complex::Complex;

use crate::error::{Error, Result};
use crate::reader::{MAX_SAMPLE_RATE, MIN_SAMPLE_RATE};
use crate::real_fft::{RealFft, parts};

/// Where the filter is 6 dB down, in units of the lower of the two Nyquist frequencies.
const CUTOFF: f64 = 0.9568;

/// How far the filter reaches to each side, in samples of the lower of the two rates.
const REACH: f64 = 94.0;

/// The Kaiser window's parameter; 11.94 stands for 117 dB.
const BETA: f64 = 11.94;

/// Blocks are at most this long, unless the ratio's terms are longer: they should stay in a core's own cache.
const BLOCK: usize = 8192;

/// Plans kept by [`Resampler::cached`]. A data set has a handful of rates; more means hostile headers.
const CACHED_PLANS: usize = 16;

/// Plans of ratios with a longer term are not kept: they take 100 MB, and no two files share such a rate.
const MAX_CACHED_TERM: usize = 8 * BLOCK;

/// `round(len * to / from)`: how many samples `len` samples become when their rate changes.
pub fn resampled_len(len: usize, from: u32, to: u32) -> usize {
    let (len, from, to) = (len as u128, u128::from(from), u128::from(to));
    ((len * to + from / 2) / from) as usize
}

/// Converts mono sound from one rate to another.
pub struct Resampler {
    from: u32,
    to: u32,
    plan: Arc<Plan>,
}

impl fmt::Debug for Resampler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Resampler({} -> {} Hz)", self.from, self.to)
    }
}

impl Resampler {
    /// Designs the filter for a pair of rates; a millisecond for the usual ones.
    ///
    /// # Errors
    /// [`Error::UnsupportedRate`] if a rate is not within [`MIN_SAMPLE_RATE`] and [`MAX_SAMPLE_RATE`].
    pub fn new(from: u32, to: u32) -> Result<Self> {
        let (p, q) = ratio(from, to)?;
        Ok(Self { from, to, plan: Arc::new(Plan::new(p, q)) })
    }

    /// The same, from a small cache that all threads share.
    ///
    /// # Errors
    /// As [`Resampler::new`].
    pub fn cached(from: u32, to: u32) -> Result<Self> {
        static PLANS: LazyLock<Plans> = LazyLock::new(Plans::default);
        let (p, q) = ratio(from, to)?;
        Ok(Self { from, to, plan: PLANS.get(p, q, || Plan::new(p, q)) })
    }

    /// `round(samples.len() * to / from)` samples; outside of its ends the sound counts as silence.
    pub fn resample(&self, samples: &[f32]) -> Vec<f32> {
        if self.from == self.to {
            return samples.to_vec();
        }
        self.plan.run(samples, resampled_len(samples.len(), self.from, self.to))
    }

    /// Frames in and frames out of a unit, and how many units before and after an output frame have a part in it.
    pub(crate) fn units(&self) -> (u64, u64, u64) {
        (self.plan.p as u64, self.plan.q as u64, self.plan.margin as u64)
    }
}

/// The rates in lowest terms.
fn ratio(from: u32, to: u32) -> Result<(usize, usize)> {
    for rate in [from, to] {
        if !(MIN_SAMPLE_RATE..=MAX_SAMPLE_RATE).contains(&rate) {
            return Err(Error::UnsupportedRate { rate, min: MIN_SAMPLE_RATE, max: MAX_SAMPLE_RATE });
        }
    }
    let (mut a, mut b) = (from, to);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    Ok(((from / a) as usize, (to / a) as usize))
}

/// Plans by ratio, shared by all threads.
#[derive(Default)]
struct Plans {
    kept: Mutex<HashMap<(usize, usize), Arc<Plan>>>,
}

impl Plans {
    /// The plan of a ratio. It is designed outside the lock, so that no thread waits for another's ratio; two threads
    /// that meet a new ratio at once both design it, and one plan is kept.
    fn get(&self, p: usize, q: usize, design: impl FnOnce() -> Plan) -> Arc<Plan> {
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = kept().get(&(p, q)) {
            return Arc::clone(plan);
        }
        let plan = Arc::new(design());
        if p.max(q) > MAX_CACHED_TERM {
            return plan;
        }
        let mut kept = kept();
        if kept.len() >= CACHED_PLANS && !kept.contains_key(&(p, q)) {
            kept.clear();
        }
        Arc::clone(kept.entry((p, q)).or_insert(plan))
    }
}

/// Everything that depends on the ratio p:q alone.
struct Plan {
    p: usize,
    q: usize,
    /// Units (p samples in, q samples out) per block, of which `margin` at each end are spoilt by the wrap-around.
    units: usize,
    margin: usize,
    forward: RealFft,
    inverse: RealFft,
    /// The filter's real spectrum over the bins that survive, with the transform's scale folded in.
    response: Vec<f32>,
}

impl Plan {
    fn new(p: usize, q: usize) -> Self {
        // The lower rate in units of the input's.
        let lower = (q as f64 / p as f64).min(1.0);
        let half = (REACH / lower).ceil() as usize;
        let margin = half.div_ceil(p);
        let units = block_units(p, q, margin);
        let (len_in, len_out) = (p * units, q * units);
        let response = filter_response(half, CUTOFF * lower, len_in, len_in.min(len_out) / 2);
        Self { p, q, units, margin, forward: RealFft::forward(len_in), inverse: RealFft::inverse(len_out), response }
    }

    fn run(&self, samples: &[f32], len: usize) -> Vec<f32> {
        let mut block = vec![Complex::default(); self.forward.buffer_len().max(self.inverse.buffer_len())];
        let (block_in, block_out) = (self.forward.buffer_len(), self.inverse.buffer_len());
        let mut spectrum = vec![Complex::default(); self.inverse.len() / 2 + 1];
        let mut scratch = vec![Complex::default(); self.forward.scratch_len().max(self.inverse.scratch_len())];
        let mut out = Vec::with_capacity(len);
        let kept = self.units - 2 * self.margin;
        let first = self.q * self.margin;
        let mut unit = 0;
        while out.len() < len {
            // The block begins `margin` units before the first output that is wanted of it.
            let lead = (self.margin * self.p).saturating_sub(unit * self.p);
            let start = (unit * self.p).saturating_sub(self.margin * self.p).min(samples.len());
            let signal = &mut parts(&mut block)[..self.forward.len()];
            let count = (samples.len() - start).min(signal.len() - lead);
            signal[..lead].fill(0.0);
            signal[lead..lead + count].copy_from_slice(&samples[start..start + count]);
            signal[lead + count..].fill(0.0);
            self.forward.transform(&mut block[..block_in], &mut scratch);
            // What lies above the pass band stays 0 from block to block.
            self.forward.spectrum(&block[..block_in], &self.response, &mut spectrum);
            self.inverse.signal(&spectrum, &mut block[..block_out], &mut scratch);
            let wanted = (len - out.len()).min(kept * self.q);
            out.extend_from_slice(&parts(&mut block)[first..first + wanted]);
            unit += kept;
        }
        out
    }
}

/// How many units a block should have: the fewest operations per kept unit, over lengths that transform fast.
fn block_units(p: usize, q: usize, margin: usize) -> usize {
    let longest = (BLOCK / p.max(q)).max(8 * margin);
    let cost = |units: usize| {
        let transform = |len: usize| len as f64 * (len as f64).log2();
        (transform(p * units) + transform(q * units)) / (units - 2 * margin) as f64
    };
    // Even, so that real transforms take half-length complex ones; products of 2 and 3, for which the FFT has kernels.
    (2 * margin + 1..=longest)
        .filter(|&units| units.is_multiple_of(2) && is_smooth(units))
        .min_by(|&a, &b| cost(a).total_cmp(&cost(b)))
        .unwrap_or(4 * margin)
}

fn is_smooth(mut n: usize) -> bool {
    for factor in [2, 3] {
        while n.is_multiple_of(factor) {
            n /= factor;
        }
    }
    n == 1
}

/// The real spectrum of a low pass centred on sample 0, at `bins` bins of a transform of `len` samples, over `len`.
///
/// h(n) = sinc(width n) kaiser(n / half) for |n| <= half, scaled to 1 at 0 Hz; `width` is twice the -6 dB frequency in
/// cycles per sample.
fn filter_response(half: usize, width: f64, len: usize, bins: usize) -> Vec<f32> {
    let tap = |n: usize| {
        let x = PI * width * n as f64;
        let sinc = if n == 0 { 1.0 } else { x.sin() / x };
        let position = n as f64 / (half + 1) as f64;
        sinc * bessel_i0(BETA * (1.0 - position * position).sqrt())
    };
    let mut circle = vec![Complex::default(); len];
    circle[0].re = tap(0);
    for n in 1..=half {
        circle[n].re = tap(n);
        circle[len - n].re = tap(n);
    }
    let sum: f64 = circle.iter().map(|value| value.re).sum();
    FftPlanner::<f64>::new().plan_fft_forward(len).process(&mut circle);
    circle[..bins].iter().map(|value| (value.re / sum / len as f64) as f32).collect()
}

/// The modified Bessel function of the first kind and order 0, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let (mut term, mut sum, mut k) = (1.0, 1.0, 1.0);
    while term > sum * 1e-17 {
        term *= (x / (2.0 * k)).powi(2);
        sum += term;
        k += 1.0;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(len: usize, rate: u32, hertz: f64) -> Vec<f32> {
        (0..len).map(|n| (2.0 * PI * hertz * n as f64 / f64::from(rate)).sin() as f32).collect()
    }

    /// A tone resampled must be the same tone sampled at the other rate, away from the ends.
    fn check_tone(from: u32, to: u32, hertz: f64) {
        let seconds = 0.3f64.max(20_000.0 / f64::from(from));
        let input = tone((seconds * f64::from(from)) as usize, from, hertz);
        let output = Resampler::new(from, to).unwrap().resample(&input);
        assert_eq!(output.len(), resampled_len(input.len(), from, to));
        let expected = tone(output.len(), to, hertz);
        let edge = output.len() / 5;
        let worst = output.iter().zip(&expected).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>()
            [edge..output.len() - edge]
            .iter()
            .fold(0f32, |worst, &error| worst.max(error));
        // Pass band ripple and noise below -100 dB.
        assert!(worst < 1e-5, "{from} -> {to} at {hertz} Hz: {worst}");
    }

    #[test]
    fn tones_of_the_pass_band_come_through_unchanged() {
        for (from, to) in [
            (8_000, 48_000),
            (11_025, 48_000),
            (16_000, 48_000),
            (22_050, 48_000),
            (32_000, 48_000),
            (44_100, 48_000),
            (48_000, 44_100),
            (48_000, 16_000),
            (88_200, 48_000),
            (96_000, 48_000),
            (192_000, 48_000),
            (192_000, 4_000),
            (44_101, 48_000),
        ] {
            let nyquist = f64::from(from.min(to)) / 2.0;
            for share in [0.013, 0.31, 0.77, 0.9] {
                check_tone(from, to, share * nyquist);
            }
        }
    }

    #[test]
    fn tones_above_the_lower_nyquist_frequency_vanish() {
        for (from, to) in [(96_000, 48_000), (48_000, 44_100), (48_000, 16_000), (192_000, 8_000)] {
            for share in [1.001, 1.1, 0.999 * f64::from(from) / f64::from(to)] {
                let hertz = share * f64::from(to) / 2.0;
                let output = Resampler::new(from, to).unwrap().resample(&tone(from as usize, from, hertz));
                let edge = output.len() / 5;
                let worst = output[edge..output.len() - edge].iter().fold(0f32, |worst, v| worst.max(v.abs()));
                assert!(worst < 1e-5, "{from} -> {to} at {hertz} Hz: {worst}");
            }
        }
    }

    #[test]
    fn an_impulse_stays_in_place_and_keeps_its_shape() {
        for (from, to, at) in
            [(44_100, 48_000, 147 * 20), (48_000, 16_000, 3 * 500), (16_000, 48_000, 700), (96_000, 44_100, 3200)]
        {
            let mut input = vec![0.0; 8000];
            input[at] = 1.0;
            let output = Resampler::new(from, to).unwrap().resample(&input);
            let place = at * to as usize / from as usize;
            let peak = (0..output.len()).max_by(|&a, &b| output[a].total_cmp(&output[b])).unwrap();
            assert_eq!(peak, place, "{from} -> {to}");
            for offset in 1..300 {
                let (left, right) = (output[place - offset], output[place + offset]);
                assert!((left - right).abs() < 1e-6, "{from} -> {to} at {offset}: {left} {right}");
            }
        }
    }

    #[test]
    fn blocks_join_without_a_seam() {
        // The definition, y(m) = sum over n of x(n) h(m p / q - n), evaluated directly around the joints.
        let (from, to) = (44_100, 48_000);
        let plan = Plan::new(147, 160);
        let kept = (plan.units - 2 * plan.margin) * 160;
        let mut state = 7u32;
        let input: Vec<f32> = (0..3 * kept)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect();
        let output = Resampler::new(from, to).unwrap().resample(&input);
        let h = |t: f64| {
            let position = t / (REACH + 1.0);
            if position.abs() >= 1.0 {
                return 0.0;
            }
            let x = PI * CUTOFF * t;
            let sinc = if t == 0.0 { 1.0 } else { x.sin() / x };
            CUTOFF * sinc * bessel_i0(BETA * (1.0 - position * position).sqrt()) / bessel_i0(BETA)
        };
        for m in [0, 1, 5, kept - 1, kept, kept + 1, 2 * kept - 1, 2 * kept] {
            let t = m as f64 * 147.0 / 160.0;
            let truth: f64 = input.iter().enumerate().map(|(n, &x)| f64::from(x) * h(t - n as f64)).sum();
            assert!((f64::from(output[m]) - truth).abs() < 2e-5, "output {m}: {} {truth}", output[m]);
        }
    }

    #[test]
    fn lengths_are_rounded() {
        assert_eq!(resampled_len(44_100, 44_100, 48_000), 48_000);
        assert_eq!(resampled_len(1109, 22_050, 48_000), 2414);
        assert_eq!(resampled_len(2212, 44_100, 48_000), 2408);
        assert_eq!(resampled_len(1, 96_000, 48_000), 1);
        assert_eq!(resampled_len(0, 96_000, 48_000), 0);
        for len in [0, 1, 2, 3, 146, 147, 148] {
            assert_eq!(
                Resampler::cached(44_100, 48_000).unwrap().resample(&vec![0.1; len]).len(),
                resampled_len(len, 44_100, 48_000)
            );
        }
    }

    #[test]
    fn plans_are_shared_and_designed_outside_the_lock() {
        let plans = Plans::default();
        let first = plans.get(147, 160, || {
            assert!(plans.kept.try_lock().is_ok(), "other threads can go on");
            Plan::new(147, 160)
        });
        assert!(Arc::ptr_eq(&first, &plans.get(147, 160, || unreachable!("it is kept"))));
        for p in 1..2 * CACHED_PLANS {
            plans.get(p, 1, || Plan::new(p, 1));
            assert!(plans.kept.lock().unwrap().len() <= CACHED_PLANS);
        }
    }

    #[test]
    fn plans_of_absurd_ratios_are_not_kept() {
        let plans = Plans::default();
        for (p, q) in [(MAX_CACHED_TERM + 1, 48_000), (48_000, MAX_CACHED_TERM + 1)] {
            // What is designed does not matter here, and a plan of this ratio takes its time.
            plans.get(p, q, || Plan::new(1, 2));
            assert!(plans.kept.lock().unwrap().is_empty(), "{p}:{q}");
        }
        plans.get(MAX_CACHED_TERM, 48_000, || Plan::new(1, 2));
        assert_eq!(plans.kept.lock().unwrap().len(), 1);
    }

    #[test]
    fn rates_out_of_bounds_are_errors() {
        for rate in [0, 999, 768_001, u32::MAX] {
            assert!(matches!(Resampler::new(rate, 48_000), Err(Error::UnsupportedRate { .. })));
            assert!(matches!(Resampler::cached(48_000, rate), Err(Error::UnsupportedRate { .. })));
        }
    }

    #[test]
    fn the_same_rate_is_a_copy() {
        assert_eq!(Resampler::new(16_000, 16_000).unwrap().resample(&[0.1, 0.2]), [0.1, 0.2]);
    }
}
