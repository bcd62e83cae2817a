//! The int16 round trip of LAION-CLAP.
//!
//! Source: `laion_clap/training/data.py`, `float32_to_int16` and `int16_to_float32` (LAION-AI/CLAP 1fd4c37): clip to
//! [-1, 1], times 32767, truncation toward zero, divided by 32767. LAION's file and data APIs do it, `transformers` does not.

/// One sample as the 16-bit integer LAION stores: `trunc(clamp(x, -1, 1) * 32767)`.
pub fn to_int16(sample: f32) -> i16 {
    // `as` truncates toward zero, as numpy's astype does.
    (sample.clamp(-1.0, 1.0) * 32767.0) as i16
}

/// Replaces every sample by what is left of it after 16 bits.
pub fn int16_round_trip(samples: &mut [f32]) {
    for sample in samples {
        *sample = f32::from(to_int16(*sample)) / 32767.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sample: f32, integer: i16) {
        assert_eq!(to_int16(sample), integer, "{sample}");
        let mut samples = [sample];
        int16_round_trip(&mut samples);
        assert_eq!(samples[0], f32::from(integer) / 32767.0, "{sample}");
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
}
