//! The int16 round trip of LAION-CLAP.
//!
//! Source: `laion_clap/training/data.py`, `float32_to_int16` and `int16_to_float32` (LAION-AI/CLAP 1fd4c37): clip to
//! [-1, 1], times 32767, truncation toward zero, divided by 32767. LAION's file and data APIs do it, `transformers` does not.

use crate::vectorise::vectorised;

/// One sample as the 16-bit integer LAION stores: `trunc(clamp(x, -1, 1) * 32767)`.
pub fn to_int16(sample: f32) -> i16 {
    // `as` truncates toward zero, as numpy's astype does.
    (sample.clamp(-1.0, 1.0) * 32767.0) as i16
}

vectorised! {
    /// Replaces every sample by what is left of it after 16 bits.
    pub fn int16_round_trip(samples: &mut [f32]) {
        for sample in samples {
            // The integer of `to_int16` as a float: a loop over a saturating conversion does not vectorise. NaN becomes 0 as
            // there, and so does -0.
            let integer = (sample.clamp(-1.0, 1.0) * 32767.0).trunc();
            *sample = if integer.is_nan() { 0.0 } else { (integer + 0.0) / 32767.0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sample: f32, integer: i16) {
        assert_eq!(to_int16(sample), integer, "{sample}");
        let mut samples = [sample];
        int16_round_trip(&mut samples);
        assert_eq!(samples[0].to_bits(), (f32::from(integer) / 32767.0).to_bits(), "{sample}");
    }

    #[test]
    fn full_scale_is_32767_on_both_sides() {
        check(1.0, 32767);
        check(-1.0, -32767);
    }

    #[test]
    fn clips_beyond_full_scale() {
        check(1.7, 32767);
        check(-1.5, -32767);
    }

    #[test]
    fn truncates_toward_zero() {
        check(0.5 / 32767.0, 0);
        check(-0.9 / 32767.0, 0);
        check(1.5 / 32767.0, 1);
        check(-1.5 / 32767.0, -1);
    }

    #[test]
    fn the_round_trip_goes_through_the_integer_bit_for_bit() {
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MIN_POSITIVE, -f32::MIN_POSITIVE];
        let mut samples: Vec<f32> = (-140_000..140_000).map(|n| n as f32 / 131_071.0).chain(odd).collect();
        let integers: Vec<i16> = samples.iter().map(|&sample| to_int16(sample)).collect();
        int16_round_trip(&mut samples);
        for (sample, integer) in samples.iter().zip(integers) {
            assert_eq!(sample.to_bits(), (f32::from(integer) / 32767.0).to_bits(), "{integer}");
        }
    }
}
