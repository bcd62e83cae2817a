//! Power to decibel: `10 * log10(max(power, 1e-10))`, as `torchaudio.functional.amplitude_to_DB` (multiplier 10,
//! `amin` 1e-10, reference 1, no `top_db`) and torchlibrosa's `power_to_db` compute it.

use crate::vectorise::vectorised;

/// The smallest power that counts.
pub(crate) const MIN_POWER: f32 = 1e-10;

/// [`MIN_POWER`] in decibel; silence has exactly this value in every bin.
pub(crate) const FLOOR_DB: f32 = -100.0;

vectorised! {
    /// Replaces each power by its decibel value.
    pub(crate) fn power_to_db(powers: &mut [f32]) {
        for power in powers {
            *power = if *power > MIN_POWER { decibel(*power).max(FLOOR_DB) } else { FLOOR_DB };
        }
    }
}

/// `10 * log10(x)` of a positive normal number, without a branch or a call, so that a loop over it vectorises.
///
/// x = m * 2^e with m in [sqrt(1/2), sqrt(2)); ln(m) by the polynomial of Cephes' `logf` (Moshier), error below 2 ulp.
#[inline(always)]
fn decibel(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let shifted = x.to_bits().wrapping_sub(SQRT_HALF);
    let e = ((shifted as i32) >> 23) as f32;
    let f = f32::from_bits((shifted & 0x007f_ffff) + SQRT_HALF) - 1.0;
    let mut p = 7.037_683_6e-2_f32;
    for coefficient in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = p * f + coefficient;
    }
    let square = f * f;
    let ln_m = f + (square * f * p - 0.5 * square);
    // 10 log10(2) and 10 / ln(10)
    e * 3.010_3 + ln_m * 4.342_945
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_f64_over_the_whole_range() {
        let mut worst = 0f64;
        for step in 0..200_000 {
            // -100 dB to +90 dB
            let x = 10f64.powf(-10.0 + 19.0 * f64::from(step) / 200_000.0) as f32;
            let truth = 10.0 * f64::from(x).log10();
            worst = worst.max((f64::from(decibel(x)) - truth).abs());
        }
        assert!(worst < 2e-5, "{worst} dB");
    }

    #[test]
    fn silence_and_all_below_the_floor_are_exactly_minus_100() {
        let mut powers = [0.0, 1e-30, 1e-10, 1.000_001e-10, 1.0, 100.0];
        power_to_db(&mut powers);
        assert_eq!(powers[..3], [-100.0; 3]);
        assert!(powers[3] >= -100.0 && powers[3] < -99.999);
        assert_eq!(powers[4], 0.0);
        assert!((powers[5] - 20.0).abs() < 1e-5);
    }
}
