//! Which tokens of a padded batch a tower computes: all of them, or those alone that its embedding depends on.
//!
//! Texts are short beside the length they are padded to, so on the CPU the rows of padding are left out: hidden states are then
//! (N, C), the tokens of one text after those of the other, and attention keeps each text to itself. The result is the same, for
//! padding has no weight as a key and nothing reads its hidden state. Other devices like their batches square, and an observer of
//! intermediates expects (B, T, C): there all rows are computed.

use candle_core::{D, Device, Result, Tensor, bail};
use clap_nn::Sequences;

use crate::taps::Taps;

/// The rows of a tower's hidden states.
pub(super) struct Rows {
    batch: usize,
    length: usize,
    device: Device,
    packed: Option<Packed>,
}

struct Packed {
    sequences: Sequences,
    /// Where each row lies in the flattened batch (B · T), ascending.
    places: Vec<usize>,
}

impl Rows {
    /// All tokens of ids `(B, T)`.
    pub(super) fn all(ids: &Tensor) -> Result<Self> {
        let (batch, length) = ids.dims2()?;
        Ok(Self { batch, length, device: ids.device().clone(), packed: None })
    }

    /// Those of ids `(B, T)` for which `needed` has true in the flattened batch (B · T); all where it has nothing to say. It is not
    /// asked where no row would be left out.
    pub(super) fn needed(
        ids: &Tensor,
        taps: &Taps<'_>,
        needed: impl FnOnce() -> Result<Option<Vec<bool>>>,
    ) -> Result<Self> {
        let rows = Self::all(ids)?;
        if !rows.device.is_cpu() || taps.are_watched() || rows.batch * rows.length == 0 {
            return Ok(rows);
        }
        let Some(needed) = needed()? else { return Ok(rows) };
        let places = (0..needed.len()).filter(|&place| needed[place]).collect();
        let count = |text: &[bool]| text.iter().filter(|&&needed| needed).count();
        let sequences = Sequences::new(needed.chunks(rows.length).map(count).collect());
        Ok(Self { packed: Some(Packed { sequences, places }), ..rows })
    }

    /// The texts in rows (N, C); `None` where the rows are (B, T, C).
    pub(super) fn sequences(&self) -> Option<&Sequences> {
        self.packed.as_ref().map(|packed| &packed.sequences)
    }

    /// An integer for each token, B · T of them → those of the rows, `(N)` or `(B, T)`.
    pub(super) fn select(&self, values: Vec<u32>) -> Result<Tensor> {
        match &self.packed {
            None => Tensor::from_vec(values, (self.batch, self.length), &self.device),
            Some(packed) => {
                let values: Vec<u32> = packed.places.iter().map(|&place| values[place]).collect();
                Tensor::from_vec(values, packed.places.len(), &self.device)
            }
        }
    }

    /// Hidden states → those of one token of each text, `(B, C)`; `tokens` counts within the padded text.
    pub(super) fn one_of_each(&self, xs: &Tensor, tokens: &[usize]) -> Result<Tensor> {
        let row = |(text, token): (usize, &usize)| {
            let place = text * self.length + token;
            match &self.packed {
                None => Ok(place as u32),
                Some(packed) => match packed.places.binary_search(&place) {
                    Ok(row) => Ok(row as u32),
                    Err(_) => bail!("token {token} of text {text} was left out"),
                },
            }
        };
        let rows: Vec<u32> = tokens.iter().enumerate().map(row).collect::<Result<_>>()?;
        xs.flatten_to(D::Minus2)?.index_select(&Tensor::from_vec(rows, tokens.len(), &self.device)?, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids() -> Tensor {
        Tensor::new(&[[5u32, 6, 7], [8, 9, 1]], &Device::Cpu).unwrap()
    }

    #[test]
    fn rows_that_nothing_needs_are_left_out() {
        let rows =
            Rows::needed(&ids(), &Taps::none(), || Ok(Some(vec![true, false, true, true, true, false]))).unwrap();
        assert_eq!(rows.sequences().unwrap().lengths(), [2, 2]);
        assert_eq!(rows.select(vec![5, 6, 7, 8, 9, 1]).unwrap().to_vec1::<u32>().unwrap(), [5, 7, 8, 9]);
        let xs = Tensor::new(&[[0f32], [1.0], [2.0], [3.0]], &Device::Cpu).unwrap();
        let one = rows.one_of_each(&xs, &[2, 0]).unwrap();
        assert_eq!(one.to_vec2::<f32>().unwrap(), [[1.0], [2.0]]);
        let message = rows.one_of_each(&xs, &[1, 0]).unwrap_err().to_string();
        assert!(message.contains("token 1 of text 0"), "{message}");
    }

    #[test]
    fn an_observer_sees_every_row() {
        let mut observer = |_: &str, _: &Tensor| {};
        let rows = Rows::needed(&ids(), &Taps::new(&mut observer), || Ok(Some(vec![true; 6]))).unwrap();
        assert!(rows.sequences().is_none());
        let select = rows.select(vec![5, 6, 7, 8, 9, 1]).unwrap();
        assert_eq!(select.to_vec2::<u32>().unwrap(), ids().to_vec2::<u32>().unwrap());
        let xs = Tensor::new(&[[[0f32], [1.0], [2.0]], [[3.0], [4.0], [5.0]]], &Device::Cpu).unwrap();
        assert_eq!(rows.one_of_each(&xs, &[2, 0]).unwrap().to_vec2::<f32>().unwrap(), [[2.0], [3.0]]);
    }
}
