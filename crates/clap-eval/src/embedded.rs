//! A split as embeddings, with everything that they are measured by: who described what, and which class is right.
//!
//! It comes from a model ([`Evaluation::embed`](crate::Evaluation::embed)), from a file of ours ([`Embedded::load`]) or from one of another
//! program ([`EmbeddingFile`](crate::EmbeddingFile)), and is measured alike.

use std::collections::HashMap;

use candle_core::{D, Device, Tensor};
use clap_data::caption::Template;
use clap_data::{DataSet, Sample, Skipped};

use crate::error::{Error, Result};
use crate::evaluation::targets;
use crate::multi_label::{MultiLabelMetrics, multi_label};
use crate::outcome::Outcome;
use crate::retrieval::retrieval;
use crate::similarity::{Embeddings, check_product};
use crate::zero_shot::{zero_shot, zero_shot_by_votes};

/// Embeddings of one split by one model.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// Name of the data set.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// Names of the clips.
    pub clips: Vec<String>,
    /// Embeddings of the clips `(clips, D)`.
    pub audio: Tensor,
    /// Embeddings of the clips' windows, where each window is to vote for a class.
    pub windows: Option<Windows>,
    /// Captions, in the order of their clips.
    pub captions: Vec<String>,
    /// The clip of each caption.
    pub caption_of: Vec<usize>,
    /// Embeddings of the captions `(captions, D)`; without them nothing is retrieved.
    pub text: Option<Tensor>,
    /// Classes.
    pub classes: Vec<String>,
    /// Embeddings of the classes `(classes, D)`; without them nothing is classified.
    pub class_embeds: Option<Tensor>,
    /// The classes of each clip, in the order of its labels; none for a clip that is not classified.
    pub labels: Vec<Vec<usize>>,
    /// Whether a clip may be of several classes.
    pub multi_label: bool,
}

/// Embeddings of windows `(W, D)`, those of one clip together.
#[derive(Clone, Debug)]
pub struct Windows {
    /// All of them.
    pub embeds: Tensor,
    /// How many each clip has.
    pub counts: Vec<usize>,
}

impl Embedded {
    /// The clips `kept` of a data set, in the order of `audio`'s rows; captions and classes have no embeddings yet. A clip whose labels are
    /// no classes is told to `skipped` and not classified.
    pub(crate) fn new(data: &DataSet, kept: &[usize], audio: Tensor, skipped: &mut Vec<Skipped>) -> Self {
        let class_of: HashMap<&str, usize> =
            data.classes.iter().enumerate().map(|(class, name)| (name.as_str(), class)).collect();
        let (mut clips, mut captions, mut caption_of, mut classes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (row, &index) in kept.iter().enumerate() {
            let Sample { id, labels, captions: own, .. } = &data.samples[index];
            clips.push(id.clone());
            captions.extend(own.iter().cloned());
            caption_of.extend(own.iter().map(|_| row));
            let known: Vec<usize> = labels.iter().filter_map(|label| class_of.get(label.as_str()).copied()).collect();
            if known.is_empty() && !labels.is_empty() {
                skipped.push(Skipped {
                    what: id.clone(),
                    reason: format!("its label `{}` is no class of classes.json; not classified", labels.join("`, `")),
                });
            }
            classes.push(known);
        }
        Self {
            dataset: data.name.clone(),
            split: data.split.clone(),
            clips,
            audio,
            windows: None,
            captions,
            caption_of,
            text: None,
            classes: data.classes.clone(),
            class_embeds: None,
            labels: classes,
            multi_label: data.multi_label,
        }
    }

    /// Whether a clip has a label among the classes.
    pub(crate) fn is_labelled(&self) -> bool {
        self.labels.iter().any(|classes| !classes.is_empty())
    }

    /// Retrieval, where there are captions, and classification, where there are labels.
    ///
    /// # Errors
    /// Where there is neither, or embeddings are of different widths, too few or not finite.
    pub fn measure(&self) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        if let Some(text) = self.text.as_ref().filter(|_| !self.captions.is_empty()) {
            outcome.retrieval = Some(retrieval(&self.audio, text, &self.caption_of)?);
        }
        if let Some(class_embeds) = self.class_embeds.as_ref().filter(|_| self.is_labelled()) {
            let rows: Vec<usize> = (0..self.labels.len()).filter(|&row| !self.labels[row].is_empty()).collect();
            if self.multi_label {
                outcome.multi_label = Some(self.multi_label(&rows, class_embeds)?);
            } else {
                let first: Vec<usize> = rows.iter().map(|&row| self.labels[row][0]).collect();
                outcome.zero_shot = Some(match &self.windows {
                    Some(windows) => {
                        let (windows, counts) = windows.of(&rows)?;
                        zero_shot_by_votes(&windows, &counts, class_embeds, &first)?
                    }
                    None => zero_shot(&select(&self.audio, &rows)?, class_embeds, &first)?,
                });
            }
        }
        if outcome == Outcome::default() {
            return Err(Error::Empty { what: "caption or known label" });
        }
        Ok(outcome)
    }

    fn multi_label(&self, rows: &[usize], class_embeds: &Tensor) -> Result<MultiLabelMetrics> {
        let audio = Embeddings::new("audio", &select(&self.audio, rows)?)?;
        let classes = Embeddings::new("class", class_embeds)?;
        check_product(&audio, &classes)?;
        let scores = audio.matrix.matmul(&classes.matrix.t()?)?; // (clips, classes)
        let labels: Vec<Vec<usize>> = rows.iter().map(|&row| self.labels[row].clone()).collect();
        multi_label(&scores, &targets(&labels, self.classes.len(), true, &Device::Cpu)?)
    }
}

impl Windows {
    /// The windows of some clips.
    fn of(&self, clips: &[usize]) -> Result<(Tensor, Vec<usize>)> {
        let mut start = 0;
        let next = |count: &usize| {
            start += count;
            start - count
        };
        let starts: Vec<usize> = self.counts.iter().map(next).collect();
        let rows: Vec<usize> = clips.iter().flat_map(|&clip| starts[clip]..starts[clip] + self.counts[clip]).collect();
        Ok((select(&self.embeds, &rows)?, clips.iter().map(|&clip| self.counts[clip]).collect()))
    }
}

fn select(matrix: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let rows: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
    Ok(matrix.index_select(&Tensor::new(rows, matrix.device())?, 0)?)
}

/// The prompts of all classes, those of one class together.
pub(crate) fn prompts(data: &DataSet, templates: &[Template]) -> Vec<String> {
    let phrases = data.classes.iter().map(|class| data.phrase(class));
    phrases.flat_map(|phrase| templates.iter().map(move |template| template.fill(&phrase))).collect()
}

/// Normalised means of consecutive rows: `counts[i]` rows, the windows of a clip or the prompts of a class, make row `i`.
pub(crate) fn normalised_means(rows: &Tensor, counts: &[usize]) -> Result<Tensor> {
    if counts.iter().all(|&n| n == 1) {
        return Ok(rows.clone());
    }
    let means = means(rows, counts)?;
    let norms = means.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?.maximum(1e-12)?;
    Ok(means.broadcast_div(&norms)?)
}

/// Means of consecutive rows `(counts, D)`.
pub(crate) fn means(rows: &Tensor, counts: &[usize]) -> Result<Tensor> {
    if counts.iter().all(|&n| n == 1) {
        return Ok(rows.clone());
    }
    let mut means = Vec::with_capacity(counts.len());
    let mut start = 0;
    for &n in counts {
        means.push(rows.narrow(0, start, n)?.mean_keepdim(0)?);
        start += n;
    }
    Ok(Tensor::cat(&means, 0)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_averaged_per_clip() {
        let rows = Tensor::new(&[[1f32, 0.0], [0.0, 1.0], [0.6, 0.8]], &Device::Cpu).unwrap();
        let clips = normalised_means(&rows, &[2, 1]).unwrap().to_vec2::<f32>().unwrap();
        let half = 0.5f32.sqrt();
        for (found, expected) in clips.concat().iter().zip([half, half, 0.6, 0.8]) {
            assert!((found - expected).abs() < 1e-6, "{clips:?}");
        }
    }

    #[test]
    fn windows_of_some_clips_are_taken_together() {
        let embeds = Tensor::new(&[[0f32], [1.0], [2.0], [3.0], [4.0]], &Device::Cpu).unwrap();
        let windows = Windows { embeds, counts: vec![2, 1, 2] };
        let (rows, counts) = windows.of(&[2, 0]).unwrap();
        assert_eq!(rows.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [3.0, 4.0, 0.0, 1.0]);
        assert_eq!(counts, [2, 2]);
    }
}
