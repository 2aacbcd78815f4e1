//! The conditions of a denoiser's call, one row per sample of its batch, as its family made them. The
//! contents of a row are the family's business; everything else moves, joins and blends whole rows.

use candle_core::{DType, Device, Result};

use crate::backend::Activation;

/// SDXL's micro-conditioning of one sample, in pixels: the size that a picture had, where it was cropped,
/// and the size that it is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MicroConditioning {
    /// height and width
    pub original: (usize, usize),
    /// top and left
    pub crop: (usize, usize),
    /// height and width
    pub target: (usize, usize),
}

impl MicroConditioning {
    /// The numbers in the order of diffusers' `add_time_ids`.
    pub(super) fn numbers(self) -> [f32; 6] {
        let Self { original, crop, target } = self;
        [original.0, original.1, crop.0, crop.1, target.0, target.1].map(|number| number as f32)
    }
}

/// The conditions of a batch, made by
/// [`DenoisingNetwork::condition`](super::DenoisingNetwork::condition).
#[derive(Clone, Debug)]
pub struct Conditioning {
    /// text tokens, `[B, M, D]`
    pub(super) context: Activation,
    /// How many of each row's tokens count, at least 1: the first so many; what lies behind them is zero. `None`: all
    /// of them.
    pub(super) lengths: Option<Vec<usize>>,
    /// pooled text embedding, `[B, P]`, for families that take one
    pub(super) pooled: Option<Activation>,
    /// what the family takes of [`MicroConditioning`], `[B, numbers]`, f32
    pub(super) micro: Option<Activation>,
}

impl Conditioning {
    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.context.dims().first().copied().unwrap_or(0)
    }

    /// The rows of these numbers, in this order; a row may come more than once.
    ///
    /// # Errors
    /// A row that there is not, or those of the backend.
    pub fn select(&self, rows: &[u32]) -> Result<Self> {
        let chosen =
            self.map(|part| part.index_select(rows, 0), |micro| micro.index_select(rows, 0))?;
        let lengths = self.lengths.as_ref().map(|lengths| {
            // A row that there is not has been refused.
            rows.iter().filter_map(|&row| lengths.get(row as usize).copied()).collect()
        });
        Ok(Self { lengths, ..chosen })
    }

    /// The rows of several, one after the other.
    ///
    /// # Errors
    /// None at all, conditions of different families, or those of the backend.
    pub fn cat(parts: &[&Self]) -> Result<Self> {
        let joined = |of: fn(&Self) -> Option<&Activation>| -> Result<Option<Activation>> {
            let own: Vec<_> = parts.iter().filter_map(|part| of(part)).collect();
            match own.len() {
                0 => Ok(None),
                count if count == parts.len() => Activation::cat(&own, 0).map(Some),
                _ => candle_core::bail!("denoiser: conditions of different families"),
            }
        };
        let Some(context) = joined(|part| Some(&part.context))? else {
            candle_core::bail!("denoiser: no conditions");
        };
        let lengths: Vec<_> = parts.iter().filter_map(|part| part.lengths.as_ref()).collect();
        let lengths = match lengths.len() {
            0 => None,
            count if count == parts.len() => Some(lengths.into_iter().flatten().copied().collect()),
            _ => candle_core::bail!("denoiser: conditions of different families"),
        };
        Ok(Self {
            context,
            lengths,
            pooled: joined(|part| part.pooled.as_ref())?,
            micro: joined(|part| part.micro.as_ref())?,
        })
    }

    /// Each row's text as `weight·own + (1 − weight)·that of row`, of which `weight` is from 0 to 1; sizes
    /// and places in the picture stay each row's own. Of texts of different lengths as many tokens count as the longer
    /// has.
    ///
    /// # Errors
    /// A row that there is not, or those of the backend.
    pub fn blended(&self, row: usize, weight: f64) -> Result<Self> {
        if weight == 1.0 {
            return Ok(self.clone());
        }
        let blend = |part: &Activation| -> Result<Activation> {
            let other = part.narrow(0, row, 1)?.affine(1.0 - weight, 0.0)?;
            part.affine(weight, 0.0)?.broadcast_add(&other)
        };
        let Some(lengths) = &self.lengths else {
            return self.map(blend, |micro| Ok(micro.clone()));
        };
        let Some(&other) = lengths.get(row) else {
            candle_core::bail!("denoiser: row {row} of {}", lengths.len());
        };
        let blended = self.map(blend, |micro| Ok(micro.clone()))?;
        // A weight of 0 leaves nothing of a row's own.
        let length = |&own: &usize| if weight == 0.0 { other } else { own.max(other) };
        Ok(Self { lengths: Some(lengths.iter().map(length).collect()), ..blended })
    }

    /// Conversion to the denoiser's precision; numbers of pixels stay f32, because 16
    /// bits would round them.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn to_dtype(&self, dtype: DType) -> Result<Self> {
        self.map(|part| part.to_dtype(dtype), |micro| Ok(micro.clone()))
    }

    /// The same rows on `device`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        self.map(|part| part.to_device(device), |micro| micro.to_device(device))
    }

    /// The bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Self { context, lengths: _, pooled, micro } = self;
        [Some(context), pooled.as_ref(), micro.as_ref()]
            .into_iter()
            .flatten()
            .map(Activation::bytes)
            .sum()
    }

    fn map(
        &self,
        of_text: impl Fn(&Activation) -> Result<Activation>,
        of_micro: impl Fn(&Activation) -> Result<Activation>,
    ) -> Result<Self> {
        Ok(Self {
            context: of_text(&self.context)?,
            lengths: self.lengths.clone(),
            pooled: self.pooled.as_ref().map(&of_text).transpose()?,
            micro: self.micro.as_ref().map(of_micro).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Tensor;

    use super::*;

    fn conditions(pooled: bool) -> Conditioning {
        let tensor =
            |rows: &[[f32; 2]; 3]| Activation::from(Tensor::new(rows, &Device::Cpu).unwrap());
        let context = Tensor::new(&[[[1f32, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]], &Device::Cpu);
        Conditioning {
            context: context.unwrap().into(),
            lengths: None,
            pooled: pooled.then(|| tensor(&[[1.0, 0.0], [2.0, 0.0], [3.0, 8.0]])),
            micro: pooled.then(|| tensor(&[[512.0, 0.0], [513.0, 0.0], [514.0, 0.0]])),
        }
    }

    fn values(x: &Activation) -> Vec<f32> {
        x.tensor().unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn rows_are_chosen_and_joined_with_everything_they_have() {
        let all = conditions(true);
        let some = all.select(&[2, 0, 2]).unwrap();
        assert_eq!(values(&some.context), [5.0, 6.0, 1.0, 2.0, 5.0, 6.0]);
        assert_eq!(values(some.micro.as_ref().unwrap()), [514.0, 0.0, 512.0, 0.0, 514.0, 0.0]);
        let joined = Conditioning::cat(&[&some, &all.select(&[1]).unwrap()]).unwrap();
        assert_eq!(joined.rows(), 4);
        assert_eq!(values(joined.pooled.as_ref().unwrap())[6..], [2.0, 0.0]);
        assert_eq!(joined.bytes(), 4 * (2 + 2 + 2) * 4);
        assert!(all.select(&[3]).is_err());
        assert!(Conditioning::cat(&[]).is_err());
        assert!(Conditioning::cat(&[&all, &conditions(false)]).is_err());
    }

    #[test]
    fn a_blend_moves_texts_towards_one_row_and_leaves_that_row_and_all_sizes() {
        let all = conditions(true);
        let blended = all.blended(0, 0.75).unwrap();
        assert_eq!(values(&blended.context), [1.0, 2.0, 2.5, 3.5, 4.0, 5.0]);
        assert_eq!(values(blended.pooled.as_ref().unwrap()), [1.0, 0.0, 1.75, 0.0, 2.5, 6.0]);
        assert_eq!(values(blended.micro.as_ref().unwrap()), values(all.micro.as_ref().unwrap()),);
        assert_eq!(values(&all.blended(0, 1.0).unwrap().context), values(&all.context));
    }

    /// Two rows of three tokens of width 1, of which two and one count.
    fn masked() -> Conditioning {
        let context = Tensor::new(&[[[1f32], [2.0], [0.0]], [[4.0], [0.0], [0.0]]], &Device::Cpu);
        Conditioning {
            context: context.unwrap().into(),
            lengths: Some(vec![2, 1]),
            pooled: None,
            micro: None,
        }
    }

    #[test]
    fn lengths_go_where_their_rows_go() {
        let all = masked();
        let some = all.select(&[1, 0, 1]).unwrap();
        assert_eq!(some.lengths, Some(vec![1, 2, 1]));
        assert_eq!(Conditioning::cat(&[&some, &all]).unwrap().lengths, Some(vec![1, 2, 1, 2, 1]));
        let unmasked = Conditioning { lengths: None, ..all.clone() };
        assert!(Conditioning::cat(&[&all, &unmasked]).is_err());
        assert_eq!(all.to_dtype(DType::F16).unwrap().lengths, all.lengths);
        assert!(all.select(&[2]).is_err());
    }

    #[test]
    fn a_blend_of_texts_of_different_lengths_has_the_longer() {
        let all = masked();
        let blended = all.blended(0, 0.5).unwrap();
        assert_eq!(values(&blended.context), [1.0, 2.0, 0.0, 2.5, 1.0, 0.0]);
        assert_eq!(blended.lengths, Some(vec![2, 2]));
        let other = all.blended(1, 0.0).unwrap();
        assert_eq!(values(&other.context), [4.0, 0.0, 0.0, 4.0, 0.0, 0.0]);
        assert_eq!(other.lengths, Some(vec![1, 1]));
        assert_eq!(all.blended(0, 1.0).unwrap().lengths, all.lengths);
        assert!(all.blended(2, 0.5).is_err());
    }

    #[test]
    fn numbers_of_pixels_stay_exact_in_any_precision() {
        let half = conditions(true).to_dtype(DType::F16).unwrap();
        assert_eq!(half.context.dtype(), DType::F16);
        assert_eq!(half.micro.as_ref().unwrap().dtype(), DType::F32);
    }
}
