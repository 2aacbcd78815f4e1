//! Where tokens are: each has a place along the text, a row and a column, by which its queries and keys turn (diffusers'
//! `RopeEmbedder`, `_pad_with_ids`).

use candle_core::{DType, Device, Result, Tensor};

use super::config::ZImageConfig;
use crate::backend::ops::rope;
use crate::backend::{Activation, Trace};

/// Place of a token: along the text, its row and its column.
pub(super) type Place = [usize; 3];

/// Places of so many tokens of a text, its padding included.
pub(super) fn of_text(tokens: usize) -> Vec<Place> {
    (1..=tokens).map(|index| [index, 0, 0]).collect()
}

/// Places of the patches of a picture behind so many tokens of a text, and of `padding` behind them.
pub(super) fn of_picture(
    text: usize,
    (rows, columns): (usize, usize),
    padding: usize,
) -> Vec<Place> {
    let patches = (0..rows).flat_map(|row| (0..columns).map(move |column| [text + 1, row, column]));
    patches.chain(std::iter::repeat_n([0; 3], padding)).collect()
}

/// Angles of tokens.
#[derive(Debug)]
pub(super) struct Angles {
    /// `[tokens, head/2]`, f32
    cos: Activation,
    sin: Activation,
}

impl Angles {
    /// Angles of these places. They are rounded to f32, as in the original.
    pub(super) fn new(
        config: &ZImageConfig,
        places: &[Place],
        device: &Device,
        trace: Option<&Trace>,
    ) -> Result<Self> {
        let axes = config.axes_dims.iter().enumerate();
        let frequencies: Vec<(usize, f64)> = axes
            .flat_map(|(axis, &width)| {
                let frequency = move |pair| {
                    let exponent = (2 * pair) as f64 / width as f64;
                    (axis, 1.0 / config.rope_theta.powf(exponent))
                };
                (0..width / 2).map(frequency)
            })
            .collect();
        let shape = (places.len(), frequencies.len());
        let of_angles = |f: fn(f64) -> f64| {
            Activation::make(trace, shape, DType::F32, || {
                let of_place = |place: &Place| {
                    let place = *place;
                    frequencies.iter().map(move |&(axis, frequency)| {
                        f(f64::from((place[axis] as f64 * frequency) as f32)) as f32
                    })
                };
                let values: Vec<f32> = places.iter().flat_map(of_place).collect();
                Tensor::from_vec(values, shape, device)
            })
        };
        Ok(Self { cos: of_angles(f64::cos)?, sin: of_angles(f64::sin)? })
    }

    /// Queries or keys `[B, N, heads, d]` turned, `[B, N, heads·d]`. Numbers that are neighbours turn together; they come out
    /// half a head apart, of queries and keys alike, so that products of the two stay the same.
    pub(super) fn turned(&self, x: &Activation) -> Result<Activation> {
        let (batch, tokens, heads, width) = x.dims4()?;
        let dtype = x.dtype();
        let pairs = x.to_dtype(DType::F32)?.reshape((batch, tokens, heads, width / 2, 2))?;
        let halves = pairs.transpose(3, 4)?.contiguous()?;
        drop(pairs);
        let halves = halves.reshape((batch, tokens, heads, width))?;
        let turned = rope(&halves, &self.cos, &self.sin)?;
        drop(halves);
        turned.to_dtype(dtype)?.reshape((batch, tokens, heads * width))
    }
}
