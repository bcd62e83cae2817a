//! The recipe (version 1) behind every number of the fixtures that is not stored in them: weights, waveforms, tokens.
//!
//! Integer hashing only, so that any language reproduces it bit for bit; the definition is in `tests/fixtures/README.md`
//! and the Python twin is `clapref.py` of the fixture generator. `parity::recipe` holds this file to the fixture
//! `recipe_vectors`.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
const TWO_23: i64 = 1 << 23;

/// Names that hold any of these are kept as the reference's constructor builds them; the recipe does not fill them.
const CONSTRUCTED: [&str; 7] = [
    "relative_position_index",
    "attn_mask",
    "num_batches_tracked",
    "spectrogram_extractor",
    "logmel_extractor",
    "position_ids",
    "token_type_ids",
];

/// FNV-1a-64 of the UTF-8 name, xor `seed * 0x9E3779B97F4A7C15`.
#[must_use]
pub fn name_seed(name: &str, seed: u64) -> u64 {
    let hash = name.bytes().fold(FNV_OFFSET, |h, b| (h ^ u64::from(b)).wrapping_mul(FNV_PRIME));
    hash ^ seed.wrapping_mul(GOLDEN)
}

/// The 24 upper bits of the splitmix64 finaliser at element `i`, centred: an integer in `[-2^23, 2^23)`.
fn hash24(name_seed: u64, i: usize) -> i64 {
    let mut z = name_seed.wrapping_add((i as u64 + 1).wrapping_mul(GOLDEN));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as i64 - TWO_23
}

/// `n` values in `[-1, 1)`, each an exact multiple of `2^-23`.
#[must_use]
pub fn unit_fill(name: &str, n: usize, seed: u64) -> Vec<f32> {
    let s = name_seed(name, seed);
    (0..n).map(|i| hash24(s, i) as f32 * (1.0 / TWO_23 as f32)).collect()
}

/// True where the recipe fills the tensor called `name` (a LAION key); false where the constructor's value stays.
#[must_use]
pub fn is_recipe_tensor(name: &str) -> bool {
    !CONSTRUCTED.iter().any(|part| name.contains(part))
}

/// Offset and scale of the recipe for a LAION key and its shape: the value is `offset + unit * scale`.
#[must_use]
pub fn scale_offset(name: &str, shape: &[usize]) -> (f32, f32) {
    let last = name.rsplit('.').next().unwrap_or(name);
    let ends = |endings: &[&str]| endings.iter().any(|e| name.ends_with(e));
    if ends(&["bn0.running_mean", "batch_norm.running_mean"]) {
        return (-20.0, 5.0);
    }
    if ends(&["bn0.running_var", "batch_norm.running_var"]) {
        return (200.0, 100.0);
    }
    match last {
        "running_mean" => return (0.0, 0.1),
        "running_var" => return (1.0, 0.25),
        _ if last.contains("logit_scale") => return ((1.0 / 0.07_f64).ln() as f32, 0.0),
        _ if last.contains("relative_position_bias_table") => return (0.0, 0.5),
        _ => {}
    }
    if name.contains("embedding") && shape.len() == 2 {
        return (0.0, 0.1);
    }
    if last == "shared" || ends(&["shared.weight", "embed_tokens.weight", "embed_positions.weight"]) {
        return (0.0, 0.1);
    }
    if shape.len() == 1 {
        return if last == "weight" { (1.0, 0.1) } else { (0.0, 0.05) };
    }
    let fan_in: usize = shape.iter().skip(1).product();
    let gain = if shape.len() == 4 { 6.0 } else { 3.0 };
    (0.0, (gain / fan_in as f64).sqrt() as f32)
}

/// Values of the tensor called `name` (a LAION key) in row-major order: one `f32` product, then one `f32` sum.
#[must_use]
pub fn recipe_values(name: &str, shape: &[usize], seed: u64) -> Vec<f32> {
    let (offset, scale) = scale_offset(name, shape);
    let mut values = unit_fill(name, shape.iter().product(), seed);
    for v in &mut values {
        *v = *v * scale + offset;
    }
    values
}

/// [`recipe_values`] as a tensor on the CPU.
///
/// # Panics
/// Where candle cannot make the tensor.
#[must_use]
pub fn recipe_tensor(name: &str, shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(recipe_values(name, shape, seed), shape, &Device::Cpu)
        .unwrap_or_else(|e| panic!("recipe tensor {name} {shape:?}: {e}"))
}

/// Every tensor of a list of LAION keys and shapes, in the order of the reference's `state_dict`; constructed buffers
/// are left out.
///
/// BART ties its token embeddings: the reference fills the first of the tied names, so the later ones get its values.
pub fn recipe_weights<'a>(
    params: impl IntoIterator<Item = (&'a str, Vec<usize>)>,
    seed: u64,
) -> BTreeMap<String, Tensor> {
    let mut shared: Option<(String, Tensor)> = None;
    let mut weights = BTreeMap::new();
    for (name, shape) in params {
        if !is_recipe_tensor(name) {
            continue;
        }
        let tied = shared.as_ref().filter(|(prefix, _)| {
            name.strip_prefix(prefix.as_str())
                .is_some_and(|rest| matches!(rest, "encoder.embed_tokens.weight" | "decoder.embed_tokens.weight"))
        });
        let tensor = match tied {
            Some((_, tensor)) => tensor.clone(),
            None => recipe_tensor(name, &shape, seed),
        };
        if let Some(prefix) = name.strip_suffix("shared.weight") {
            shared = Some((prefix.to_owned(), tensor.clone()));
        }
        weights.insert(name.to_owned(), tensor);
    }
    weights
}

/// The waveform recipe: four triangle waves, a blockwise gate, a slow envelope and hash noise, `n` samples.
///
/// The formulas stand in `clapref.synth_i16`; `seed` here is the clip's own number, not the seed of the fixture set.
#[must_use]
pub fn synth_i16(n: usize, seed: u64) -> Vec<i16> {
    let noise_seed = name_seed("synth_i16", seed);
    let seed = seed as i64;
    let increments: [i64; 4] = std::array::from_fn(|k| {
        let k = k as i64;
        (39_370_534 * (1 + (seed * 7 + k * (k + 2) * 3) % 29)) & 0xffff_ffff
    });
    (0..n)
        .map(|at| {
            let i = at as i64;
            let tri = increments.map(|inc| {
                let phase = i.wrapping_mul(inc) & 0xffff_ffff;
                ((phase >> 15) - 65_536).abs() - 32_768
            });
            let noise = hash24(noise_seed, at) >> 8;
            let noise_gain = 1 + (5 * seed + (i >> 14)) % 7;
            let block = ((i >> 12) + 31 * seed).wrapping_mul(2_654_435_761) & 0xffff_ffff;
            let gate = [1, 3, 6, 8][(block >> 30) as usize];
            let envelope = 8_192 + (i * 24_575) / n as i64;
            let tones = tri[0] * 5 + tri[1] * 4 + tri[2] * 2 + tri[3];
            let s = (((tones * 2 + noise * noise_gain) >> 6) * gate) >> 2;
            ((s * envelope) >> 15).clamp(-32_767, 32_767) as i16
        })
        .collect()
}

/// [`synth_i16`] divided by 32767 in `f32`, the reference's own dequantisation.
#[must_use]
pub fn synth_f32(n: usize, seed: u64) -> Vec<f32> {
    synth_i16(n, seed).into_iter().map(|v| f32::from(v) / 32_767.0).collect()
}

/// `unit_fill("fused_mel", ..) * 25 - 30`: log-mel views of shape `(batch, 4, frames, mels)`; its seed is always 0.
///
/// # Panics
/// Where candle cannot make the tensor.
#[must_use]
pub fn fused_mel(batch: usize, frames: usize, mels: usize) -> Tensor {
    let values: Vec<f32> =
        unit_fill("fused_mel", batch * 4 * frames * mels, 0).into_iter().map(|u| u * 25.0 + -30.0).collect();
    Tensor::from_vec(values, (batch, 4, frames, mels), &Device::Cpu).unwrap_or_else(|e| panic!("fused_mel: {e}"))
}

/// Special ids of [`token_ids_with`]; `lo` is the smallest id of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialTokens {
    /// First token of each row.
    pub bos: i64,
    /// Last token before the padding.
    pub eos: i64,
    /// Padding.
    pub pad: i64,
    /// Body ids lie in `lo..vocab`.
    pub lo: i64,
}

impl Default for SpecialTokens {
    /// RoBERTa's.
    fn default() -> Self {
        Self { bos: 0, eos: 2, pad: 1, lo: 3 }
    }
}

/// Token rows with RoBERTa's special ids: `(ids, mask)`, each `(batch, length)` in row-major order.
///
/// `lens[b]` counts the tokens of row `b` with both special ones; `None` means full rows.
#[must_use]
pub fn token_ids(batch: usize, length: usize, vocab: usize, seed: u64, lens: Option<&[usize]>) -> (Vec<i64>, Vec<i64>) {
    token_ids_with(batch, length, vocab, seed, lens, SpecialTokens::default())
}

/// [`token_ids`] with other special ids.
#[must_use]
pub fn token_ids_with(
    batch: usize,
    length: usize,
    vocab: usize,
    seed: u64,
    lens: Option<&[usize]>,
    special: SpecialTokens,
) -> (Vec<i64>, Vec<i64>) {
    let s = name_seed("token_ids", seed);
    let SpecialTokens { bos, eos, pad, lo } = special;
    let mut ids: Vec<i64> = (0..batch * length).map(|i| lo + (hash24(s, i) + TWO_23) % (vocab as i64 - lo)).collect();
    let mut mask = vec![1; batch * length];
    for b in 0..batch {
        let (row, len) = (b * length, lens.map_or(length, |l| l[b]));
        ids[row] = bos;
        ids[row + len - 1] = eos;
        ids[row + len..row + length].fill(pad);
        mask[row + len..row + length].fill(0);
    }
    (ids, mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fill_stays_in_the_half_open_unit_interval() {
        let values = unit_fill("any", 10_000, 3);
        assert!(values.iter().all(|v| (-1.0..1.0).contains(v)));
        let mean = values.iter().sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
    }

    #[test]
    fn seed_changes_every_name() {
        assert_ne!(name_seed("x", 0), name_seed("x", 1));
        assert_eq!(name_seed("", 0), FNV_OFFSET);
    }

    #[test]
    fn constructed_buffers_are_left_out() {
        let params = [("a.position_ids", vec![1, 4]), ("a.weight", vec![4]), ("bn.num_batches_tracked", vec![])];
        let weights = recipe_weights(params, 0);
        assert_eq!(weights.keys().collect::<Vec<_>>(), ["a.weight"]);
    }

    #[test]
    fn tied_embeddings_share_the_first_name() {
        let params = [
            ("t.shared.weight", vec![3, 2]),
            ("t.encoder.embed_tokens.weight", vec![3, 2]),
            ("t.x.weight", vec![3, 2]),
        ];
        let weights = recipe_weights(params, 5);
        let value = |name: &str| weights[name].to_vec2::<f32>().expect("a matrix");
        assert_eq!(value("t.shared.weight"), value("t.encoder.embed_tokens.weight"));
        assert_ne!(value("t.shared.weight"), value("t.x.weight"));
    }

    #[test]
    fn rows_end_and_pad() {
        let (ids, mask) = token_ids(2, 5, 50, 0, Some(&[5, 3]));
        assert_eq!((ids[0], ids[4]), (0, 2));
        assert_eq!(&ids[7..], &[2, 1, 1]);
        assert_eq!(mask, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
        assert!(ids[1..4].iter().all(|id| (3..50).contains(id)));
    }
}
