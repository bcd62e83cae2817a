//! What is left of a sound when it is re-encoded, made louder or softer, resampled or cut: the signs of how its spectrum
//! changes.
//!
//! The method is that of Haitsma and Kalker, "A Highly Robust Audio Fingerprinting System" (ISMIR 2002): 33 bands, a frame every
//! hundredth of a second that overlaps its neighbours by far, and for each of 32 pairs of neighbouring bands one bit, the sign of
//! the change over time of their difference. In decibels a gain cancels out, a slow filter nearly so. Other than there, bands are
//! mel bands up to 7 kHz, because sounds are not songs; frames that are much softer than the loudest are left out, and so are bits
//! of changes too small to survive, because recordings pause and end.

use std::ops::Range;
use std::sync::LazyLock;

use clap_audio::{LogMel, MelConfig, MelScale, Scratch, Waveform};

/// Telephone to CD: every rate from here on keeps most bands.
const RATE: u32 = 16_000;

/// Samples of a frame, 128 ms, and from frame to frame, 10 ms.
const FRAME: usize = 2048;
const HOP: usize = 160;

/// One bit lies between two bands.
const BANDS: usize = 33;

/// Changes are taken over this many frames.
const LAG: usize = 2;

/// A change of less is as likely noise.
const STRONG_DB: f32 = 0.5;

/// Frames this far below the loudest say nothing that a lossy codec keeps.
const SOFTEST_DB: f32 = 40.0;

/// Bands this far below the loudest frame count as this loud: codecs drop them.
const FLOOR_DB: f32 = 70.0;

/// A frame with fewer strong bits is no landmark.
const FEWEST_STRONG: u32 = 8;

/// Frames are looked up by the lower and by the upper of their bits: whoever has lost the treble, to a low rate or bit rate, still has
/// the bass, and noise drowns the softer of the two first.
pub(super) const HALVES: [Range<usize>; 2] = [0..22, 10..32];

/// Bits of a half that may be wrong: so many of the weakest are tried both ways.
pub(super) const FLIPS: usize = 3;

/// Sounds with more wrong bits are strangers that resemble each other: another take, another shot of the same gun.
const MOST_WRONG: f64 = 0.2;

/// The fewer the bits, the lower an error rate comes about by chance among millions of pairs: it has to stay below 0.35, Haitsma and
/// Kalker's bound for long sounds, by so much over the root of their number. Perfect agreement counts from 52 bits on.
const LEAST_EVIDENCE: f64 = 2.5;
const BOUND: f64 = 0.35;

/// So much of the shorter sound has to lie upon the other, or so many seconds.
const LEAST_SHARE: f64 = 0.5;
const LEAST_S: f64 = 3.0;

/// Frames in a second.
pub(super) const FRAMES_PER_SECOND: f64 = RATE as f64 / HOP as f64;

static LOG_MEL: LazyLock<LogMel> = LazyLock::new(|| {
    let config = MelConfig {
        sample_rate: RATE,
        n_fft: FRAME,
        hop_length: HOP,
        n_mels: BANDS,
        f_min: 150.0,
        f_max: 7000.0,
        scale: MelScale::Htk,
        slaney_norm: false,
    };
    LogMel::new(&config).expect("the configuration above is a valid one")
});

/// A frame's bits, and which of them can be relied on; none of a frame that is too soft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Frame {
    pub(super) bits: u32,
    pub(super) strong: u32,
    /// The weakest bits of each half, the weakest first.
    pub(super) weakest: [[u8; FLIPS]; 2],
}

impl Frame {
    /// Whether anything is to be compared here.
    pub(super) fn is_active(self) -> bool {
        self.strong != 0
    }
}

/// A sound's frames in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Fingerprint {
    pub(super) frames: Vec<Frame>,
    /// How many are active.
    pub(super) active: usize,
}

/// How two fingerprints agree where one is laid upon the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Agreement {
    /// Active frames of both that meet.
    pub(super) frames: usize,
    /// Bits that are strong in both.
    pub(super) bits: u32,
    /// Those of them that differ.
    pub(super) wrong: u32,
}

impl Fingerprint {
    /// Of a mono sound at any rate.
    pub(super) fn of(wave: Waveform) -> clap_audio::Result<Self> {
        let wave = wave.resample(RATE)?;
        // Silence on both sides, not the sound mirrored: the edges of a clip are where it was cut.
        let mut samples = vec![0.0; wave.samples.len() + 2 * FRAME];
        samples[FRAME..FRAME + wave.samples.len()].copy_from_slice(&wave.samples);
        let mel = LOG_MEL.compute(&samples, &mut Scratch::default());
        let bands = |frame: usize| &mel.data[frame * BANDS..(frame + 1) * BANDS];
        let loudness: Vec<f32> = (0..mel.frames)
            .map(|frame| 10.0 * bands(frame).iter().map(|band| 10f32.powf(band / 10.0)).sum::<f32>().log10())
            .collect();
        let loudest = loudness.iter().copied().fold(f32::MIN, f32::max);
        let frames: Vec<Frame> = (LAG..mel.frames)
            .map(|frame| match loudness[frame].min(loudness[frame - LAG]) > loudest - SOFTEST_DB {
                true => Frame::of(bands(frame - LAG), bands(frame), loudest - FLOOR_DB),
                false => Frame::default(),
            })
            .collect();
        let active = frames.iter().filter(|frame| frame.is_active()).count();
        Ok(Self { frames, active })
    }

    /// Lays this upon `other`, frame 0 upon frame `offset`.
    pub(super) fn agreement(&self, other: &Self, offset: i64) -> Agreement {
        let mut found = Agreement::default();
        let start = usize::try_from(-offset).unwrap_or(0);
        let theirs = usize::try_from(offset).unwrap_or(0);
        let pairs = self.frames.iter().skip(start).zip(other.frames.iter().skip(theirs));
        for (mine, theirs) in pairs.filter(|(mine, theirs)| mine.is_active() && theirs.is_active()) {
            let strong = mine.strong & theirs.strong;
            found.frames += 1;
            found.bits += strong.count_ones();
            found.wrong += ((mine.bits ^ theirs.bits) & strong).count_ones();
        }
        found
    }
}

impl Frame {
    /// Of the bands of two frames, [`LAG`] apart.
    fn of(before: &[f32], now: &[f32], floor: f32) -> Self {
        let level = |bands: &[f32], band: usize| bands[band].max(floor);
        let slope = |bands: &[f32], band: usize| level(bands, band) - level(bands, band + 1);
        let mut frame = Self::default();
        let mut weakest = [[(f32::MAX, 0u8); FLIPS]; 2];
        for bit in 0..BANDS - 1 {
            let change = slope(now, bit) - slope(before, bit);
            frame.bits |= u32::from(change > 0.0) << bit;
            frame.strong |= u32::from(change.abs() > STRONG_DB) << bit;
            for (weakest, _) in weakest.iter_mut().zip(&HALVES).filter(|(_, half)| half.contains(&bit)) {
                if let Some(place) = weakest.iter().position(|(least, _)| change.abs() < *least) {
                    weakest[place..].rotate_right(1);
                    weakest[place] = (change.abs(), bit as u8);
                }
            }
        }
        frame.weakest = weakest.map(|half| half.map(|(_, bit)| bit));
        if frame.strong.count_ones() < FEWEST_STRONG { Self::default() } else { frame }
    }
}

impl Agreement {
    /// The share of the bits that differ: 0 for the same sound, about a half for others.
    pub(super) fn error_rate(self) -> f64 {
        f64::from(self.wrong) / f64::from(self.bits.max(1))
    }

    /// How far that is below [`BOUND`], in twice the standard deviations of as many coins.
    pub(super) fn evidence(self) -> f64 {
        (BOUND - self.error_rate()) * f64::from(self.bits).sqrt()
    }

    /// Whether two sounds that agree so are the same, or one is a part of the other; `shorter` is the number of active frames of
    /// the one that has fewer.
    ///
    /// The bounds were set on 3,111 recordings and 13 re-encodings of every tenth (`docs/data.md`, "Overlap"): few bits may agree
    /// by chance, and long sounds by a moment of silence or a common hum.
    pub(super) fn is_same(self, shorter: usize) -> bool {
        let enough = self.frames as f64 >= (LEAST_SHARE * shorter as f64).min(LEAST_S * FRAMES_PER_SECOND);
        enough && self.error_rate() <= MOST_WRONG && self.evidence() >= LEAST_EVIDENCE
    }
}
