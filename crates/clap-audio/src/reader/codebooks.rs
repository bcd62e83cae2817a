//! The size of a Vorbis stream's codebooks, before they are unpacked.
//!
//! symphonia 0.6.1 limits one codebook to 16 MB, and a header of 7 kB may hold 256 of them, of equally long codes. A bomb of
//! 4 GB must be seen before `VorbisDecoder::try_new`. Vorbis I, 3.2.1; libvorbis's largest sets unpack to 0.2 M values.

/// Values of all codebooks together: 32 MB.
const MAX_VALUES: u64 = 1 << 23;

/// Codes of all codebooks together; their trees take about 8 bytes each.
const MAX_CODES: u64 = 1 << 21;

/// Whether the codebooks of a stream fit into memory. `headers`: the identification header, of 30 bytes, and the setup
/// header. What is malformed is small: the decoder ends where this does.
pub(super) fn are_small(headers: &[u8]) -> bool {
    let Some(setup) = headers.get(30 + 7..) else { return true };
    let mut bits = Bits { bytes: setup, at: 0 };
    total(&mut bits).is_none_or(|total| total)
}

/// `None` at the end of the bits or at something malformed.
fn total(bits: &mut Bits<'_>) -> Option<bool> {
    let (mut values, mut codes) = (0, 0);
    for _ in 0..=bits.take(8)? {
        let (entries, dimensions, has_values) = codebook(bits)?;
        codes += entries;
        values += if has_values { entries * dimensions } else { 0 };
        if codes > MAX_CODES || values > MAX_VALUES {
            return Some(false);
        }
    }
    Some(true)
}

/// Number of codes, dimensions, and whether values belong to them.
fn codebook(bits: &mut Bits<'_>) -> Option<(u64, u64, bool)> {
    if bits.take(24)? != 0x56_4342 {
        return None;
    }
    let (dimensions, entries) = (bits.take(16)?, bits.take(24)?);
    let is_ordered = bits.take(1)? == 1;
    if is_ordered {
        bits.take(5)?;
        let mut entry = 0;
        while entry < entries {
            entry += bits.take((entries - entry).ilog2() + 1)?;
        }
    } else if bits.take(1)? == 1 {
        for _ in 0..entries {
            if bits.take(1)? == 1 {
                bits.take(5)?;
            }
        }
    } else {
        bits.skip(5 * entries)?;
    }
    let lookup = bits.take(4)?;
    if lookup == 1 || lookup == 2 {
        bits.skip(64)?;
        let value_bits = bits.take(4)? + 1;
        bits.take(1)?;
        let count = if lookup == 1 { root(entries, dimensions) } else { entries * dimensions };
        bits.skip(count * value_bits)?;
    }
    Some((entries, dimensions, lookup != 0))
}

/// The greatest number whose power of `dimensions` is at most `entries`.
fn root(entries: u64, dimensions: u64) -> u64 {
    let Ok(power) = u32::try_from(dimensions) else { return 0 };
    let fits = |value: u64| value.checked_pow(power).is_some_and(|product| product <= entries);
    if power == 0 {
        return 0;
    }
    // Up to 2^24 entries of one dimension.
    let (mut low, mut high) = (0, entries + 1);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if fits(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// Bits of a Vorbis header, least significant first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl Bits<'_> {
    fn take(&mut self, count: u32) -> Option<u64> {
        let mut value = 0;
        for n in 0..count {
            let byte = *self.bytes.get(usize::try_from(self.at / 8).ok()?)?;
            value |= u64::from(byte >> (self.at % 8) & 1) << n;
            self.at += 1;
        }
        Some(value)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.at += count;
        (self.at <= 8 * self.bytes.len() as u64).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits written least significant first.
    #[derive(Default)]
    struct Writer {
        bytes: Vec<u8>,
        at: usize,
    }

    impl Writer {
        fn put(&mut self, value: u64, count: usize) {
            for n in 0..count {
                if self.at == 8 * self.bytes.len() {
                    self.bytes.push(0);
                }
                self.bytes[self.at / 8] |= ((value >> n & 1) as u8) << (self.at % 8);
                self.at += 1;
            }
        }
    }

    /// Headers with `count` codebooks of 131,072 codes of 17 bits, of 32 dimensions.
    fn bomb(count: u64) -> Vec<u8> {
        let mut setup = Writer::default();
        setup.put(count - 1, 8);
        for _ in 0..count {
            setup.put(0x56_4342, 24);
            setup.put(32, 16);
            setup.put(1 << 17, 24);
            setup.put(1, 1);
            setup.put(16, 5);
            setup.put(1 << 17, 18);
            setup.put(1, 4);
            setup.put(0, 64);
            setup.put(0, 4);
            setup.put(0, 1);
            // The 32nd root of 2^17 is 1: one value.
            setup.put(0, 1);
        }
        [&[0; 30 + 7][..], &setup.bytes].concat()
    }

    #[test]
    fn a_bomb_of_codebooks_is_seen() {
        assert!(bomb(256).len() < 8000);
        assert!(are_small(&bomb(1)));
        assert!(are_small(&bomb(2)));
        assert!(!are_small(&bomb(3)));
        assert!(!are_small(&bomb(256)));
    }

    #[test]
    fn what_is_malformed_is_left_to_the_decoder() {
        let bomb = bomb(2);
        for len in 0..bomb.len() {
            assert!(are_small(&bomb[..len]), "{len}");
        }
    }

    #[test]
    fn roots_are_exact() {
        for (entries, dimensions, expected) in
            [(81, 4, 3), (80, 4, 2), (625, 4, 5), (131_072, 32, 1), (7, 1, 7), (0, 3, 0), (9, 0, 0), (1 << 24, 2, 4096)]
        {
            assert_eq!(root(entries, dimensions), expected, "{entries}, {dimensions}");
        }
    }
}
