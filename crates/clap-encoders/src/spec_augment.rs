//! SpecAugment where LAION's towers have it: in training, behind the first batch norm.
//!
//! Source: laion-clap 1.1.7 `htsat.py` and `pann_model.py` (`spec_augmenter`); torchlibrosa 0.1.0 `augmentation.py`. The draws are
//! [`SpecAugment`]'s, which cuts stripes to a clip that is shorter than they are, where torchlibrosa would fail.

use candle_core::{Result, Tensor};
use clap_audio::augment::SpecAugment;
use clap_nn::Mode;

/// `(B, views, frames, bins)` with stripes of time and frequency set to 0, in training; the same in evaluation, or without `stripes`.
///
/// Each clip has stripes of its own, all views of it the same ones. What is dropped has no gradient.
pub(crate) fn drop_stripes(xs: &Tensor, stripes: Option<&SpecAugment>, mode: &mut Mode) -> Result<Tensor> {
    let (Some(stripes), Some(rng)) = (stripes, mode.rng()) else { return Ok(xs.clone()) };
    let (b, _, frames, bins) = xs.dims4()?;
    if xs.elem_count() == 0 {
        return Ok(xs.clone());
    }
    let mut mask = vec![1f32; b * frames * bins];
    for clip in mask.chunks_exact_mut(frames * bins) {
        stripes.apply(clip, bins, 0.0, rng);
    }
    let mask = Tensor::from_vec(mask, (b, 1, frames, bins), xs.device())?.to_dtype(xs.dtype())?;
    xs.broadcast_mul(&mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device, Var};
    use clap_nn::init::seeded_vars;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use crate::config::{AudioConfig, HtsAtConfig};
    use crate::{AudioTower, FusionType};

    const CPU: Device = Device::Cpu;

    fn train(seed: u64) -> Mode {
        Mode::train(ChaCha8Rng::seed_from_u64(seed))
    }

    fn values(xs: &Tensor) -> Vec<f32> {
        xs.flatten_all().unwrap().to_vec1().unwrap()
    }

    /// What is left of ones `(clips, views, frames, bins)`: a flag for each place of each view of each clip.
    fn kept(stripes: &SpecAugment, shape: (usize, usize, usize, usize), mode: &mut Mode) -> Vec<Vec<Vec<bool>>> {
        let ys = drop_stripes(&Tensor::ones(shape, DType::F32, &CPU).unwrap(), Some(stripes), mode).unwrap();
        assert_eq!(ys.dims4().unwrap(), shape);
        let ys: Vec<bool> = values(&ys).into_iter().map(|y| y == 1.0).collect();
        let (_, views, frames, bins) = shape;
        ys.chunks(views * frames * bins)
            .map(|clip| clip.chunks(frames * bins).map(<[bool]>::to_vec).collect())
            .collect()
    }

    /// Lengths of the runs of dropped places.
    fn runs(dropped: impl Iterator<Item = bool>) -> Vec<usize> {
        let mut runs = vec![0];
        for dropped in dropped {
            match (dropped, runs.last_mut()) {
                (true, Some(run)) => *run += 1,
                _ => runs.push(0),
            }
        }
        runs.retain(|&run| run > 0);
        runs
    }

    #[test]
    fn stripes_keep_to_their_number_and_width() {
        let (frames, bins) = (50, 16);
        let stripes = SpecAugment { time_drop_width: 9, time_stripes: 2, freq_drop_width: 5, freq_stripes: 1 };
        let (mut mode, mut all) = (train(1), Vec::new());
        for _ in 0..200 {
            for clip in kept(&stripes, (3, 2, frames, bins), &mut mode) {
                assert_eq!(clip[0], clip[1], "views of a clip share their stripes");
                let view = &clip[0];
                let time: Vec<bool> = view.chunks(bins).map(|frame| !frame.contains(&true)).collect();
                let freq: Vec<bool> = (0..bins).map(|f| !view.iter().skip(f).step_by(bins).any(|&kept| kept)).collect();
                let covered = |place: usize| time[place / bins] || freq[place % bins];
                assert!((0..frames * bins).all(|place| view[place] != covered(place)), "nothing but whole stripes");
                // The last place of all is beyond every stripe: a start is below total - width.
                assert!(!time[frames - 1] && !freq[bins - 1]);
                let (time, freq) = (runs(time.into_iter()), runs(freq.into_iter()));
                assert!(
                    time.len() <= 2
                        && time.iter().sum::<usize>() <= 16
                        && freq.len() <= 1
                        && freq.iter().all(|&w| w < 5)
                );
                all.push((time, freq));
            }
        }
        // Every width from none to the greatest occurs, one stripe and two.
        for width in 1..9 {
            assert!(all.iter().any(|(time, _)| time.contains(&width)), "time {width}");
        }
        for freq in [&[][..], &[1], &[2], &[3], &[4]] {
            assert!(all.iter().any(|(_, found)| found == freq), "freq {freq:?}");
        }
        assert!((0..3).all(|count| all.iter().any(|(time, _)| time.len() == count)));
        assert!(all.windows(2).any(|pair| pair[0] != pair[1]), "clips have stripes of their own");
    }

    #[test]
    fn short_clips_lose_less_than_all() {
        let mut mode = train(2);
        for frames in [1, 2, 5] {
            let clips = kept(&SpecAugment::default(), (40, 1, frames, 4), &mut mode);
            assert!(clips.iter().all(|clip| clip[0][frames * 4 - 1]), "{frames} frames");
            assert!(clips.iter().any(|clip| clip[0].contains(&false)), "{frames} frames");
        }
        let none = Tensor::zeros((2, 1, 0, 4), DType::F32, &CPU).unwrap();
        assert_eq!(drop_stripes(&none, Some(&SpecAugment::default()), &mut mode).unwrap().dims(), [2, 1, 0, 4]);
    }

    #[test]
    fn one_seed_has_one_result() {
        let draw = |seed| kept(&SpecAugment::default(), (2, 1, 200, 16), &mut train(seed));
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn what_is_dropped_has_no_gradient() {
        let xs = Var::from_tensor(&Tensor::rand(1f32, 2., (2, 3, 90, 16), &CPU).unwrap()).unwrap();
        let ys = drop_stripes(&xs, Some(&SpecAugment::default()), &mut train(4)).unwrap();
        let grads = ys.sum_all().unwrap().backward().unwrap();
        let (ys, grad) = (values(&ys), values(grads.get(&xs).unwrap()));
        assert!(ys.contains(&0.0));
        for (i, (x, y)) in values(&xs).into_iter().zip(ys).enumerate() {
            let (expected, slope) = if y == 0.0 { (0.0, 0.0) } else { (x, 1.0) };
            assert_eq!((y, grad[i]), (expected, slope));
        }
    }

    /// A tower's embedding of a fixed batch.
    fn embedding(spec_augment: Option<SpecAugment>, mode: &mut Mode) -> Vec<f32> {
        let config = HtsAtConfig {
            window_size: 4,
            num_mel_bins: 16,
            spec_size: 32,
            depths: vec![1, 2],
            num_attention_heads: vec![2, 3],
            patch_embeds_hidden_size: 6,
            hidden_size: 12,
            enable_fusion: true,
            fusion_type: Some(FusionType::ChannelMap),
            spec_augment,
            ..HtsAtConfig::default()
        };
        let (_, vb) = seeded_vars(5, &CPU, DType::F32);
        let tower = AudioTower::new(&AudioConfig::from(config), vb).unwrap();
        let xs: Vec<f32> = (0..2 * 4 * 60 * 16).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let xs = Tensor::from_vec(xs, (2, 4, 60, 16), &CPU).unwrap();
        values(&tower.forward_t(&xs, &[true; 2], mode).unwrap())
    }

    #[test]
    fn a_tower_drops_stripes_in_training_alone() {
        let stripes = Some(SpecAugment { freq_stripes: 1, ..SpecAugment::default() });
        assert_eq!(embedding(stripes, &mut Mode::eval()), embedding(None, &mut Mode::eval()));
        assert_eq!(embedding(stripes, &mut train(1)), embedding(stripes, &mut train(1)));
        assert_ne!(embedding(stripes, &mut train(1)), embedding(None, &mut train(1)));
        // Nothing else of this tower is random.
        assert_eq!(embedding(None, &mut train(1)), embedding(None, &mut train(2)));
    }
}
