//! Rotation of queries and keys by the places of their tokens along several axes, as transformers of one stream and of two
//! have it: each axis turns some of a head's numbers, in pairs of neighbours.

use candle_core::{DType, Device, Result, Tensor};

use crate::backend::ops::rope;
use crate::backend::{Activation, Trace};

/// Axes of places, and how fast the numbers of a head turn along each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axes<'a, const N: usize> {
    /// numbers of a head that turn along each axis, even
    pub widths: &'a [usize; N],
    /// base of the frequencies
    pub theta: f64,
    /// angles are rounded to f32 before their sine and cosine are taken
    pub rounds: bool,
}

/// Angles of tokens.
#[derive(Debug)]
pub(super) struct Angles {
    /// `[tokens, head/2]`, f32
    cos: Activation,
    sin: Activation,
}

impl Angles {
    /// Angles of tokens at these places.
    pub(super) fn new<const N: usize>(
        axes: Axes<'_, N>,
        places: &[[usize; N]],
        device: &Device,
        trace: Option<&Trace>,
    ) -> Result<Self> {
        let frequencies: Vec<(usize, f64)> = (axes.widths.iter().enumerate())
            .flat_map(|(axis, &width)| {
                let frequency = move |pair| {
                    let exponent = (2 * pair) as f64 / width as f64;
                    (axis, 1.0 / axes.theta.powf(exponent))
                };
                (0..width / 2).map(frequency)
            })
            .collect();
        let shape = (places.len(), frequencies.len());
        let of_angles = |f: fn(f64) -> f64| {
            Activation::make(trace, shape, DType::F32, || {
                let of_place = |place: &[usize; N]| {
                    let place = *place;
                    frequencies.iter().map(move |&(axis, frequency)| {
                        let angle = place[axis] as f64 * frequency;
                        f(if axes.rounds { f64::from(angle as f32) } else { angle }) as f32
                    })
                };
                let values: Vec<f32> = places.iter().flat_map(of_place).collect();
                Tensor::from_vec(values, shape, device)
            })
        };
        Ok(Self { cos: of_angles(f64::cos)?, sin: of_angles(f64::sin)? })
    }

    /// Those of some tokens in a row.
    pub(super) fn part(&self, start: usize, tokens: usize) -> Result<Self> {
        let part = |x: &Activation| x.narrow(0, start, tokens);
        Ok(Self { cos: part(&self.cos)?, sin: part(&self.sin)? })
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
