//! Packed latents (diffusers' `AutoencoderKLFlux2` with `_patchify_latents` of its pipelines): a square of an autoencoder's
//! own latent pixels is one pixel of the diffusion model's, channel by channel, and each of the channels that this gives is
//! brought to mean 0 and deviation 1 by numbers of the model's training.

use candle_core::{DType, Result, Tensor};

use crate::backend::{Activation, Params};

/// How latents are packed, by a configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Packing {
    /// side of a square of own latent pixels
    pub side: usize,
    /// what is added to the variances
    pub eps: f64,
}

/// The map between an autoencoder's own latents and packed ones.
#[derive(Clone, Debug)]
pub(super) struct PackedLatents {
    side: usize,
    /// of each packed channel, `[C·side²]`, f32
    mean: Tensor,
    deviation: Tensor,
}

impl PackedLatents {
    /// Reads the running mean and variance below `vb`, for so many channels of own latents.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub(super) fn load(packing: Packing, channels: usize, vb: &Params) -> Result<Self> {
        let Packing { side, eps } = packing;
        let vb = vb.to_dtype(DType::F32);
        let of_channels = |name: &str| vb.get(channels * side * side, name);
        let deviation = of_channels("running_var")?.affine(1.0, eps)?.sqrt()?;
        Ok(Self { side, mean: of_channels("running_mean")?, deviation })
    }

    /// Side of a square of own latent pixels that are packed into one.
    pub(super) fn side(&self) -> usize {
        self.side
    }

    /// Own latents `[B, H, W, C]` → the diffusion model's, `[B, H/side, W/side, C·side²]`, f32. Of a packed pixel's channels
    /// the first are those of the first own channel, row by row of the square.
    pub(super) fn packed(&self, z: &Activation) -> Result<Activation> {
        let (batch, height, width, channels) = z.dims4()?;
        let side = self.side;
        let (rows, columns) = (height / side, width / side);
        let squares =
            z.to_dtype(DType::F32)?.reshape(vec![batch, rows, side, columns, side, channels])?;
        let laid = squares.permute([0, 1, 3, 5, 2, 4])?.contiguous()?;
        let packed = laid.reshape((batch, rows, columns, channels * side * side))?;
        drop((squares, laid));
        let centred = packed.broadcast_sub(&(&self.mean).into())?;
        drop(packed);
        centred.broadcast_div(&(&self.deviation).into())
    }

    /// The diffusion model's latents `[B, h, w, C·side²]` → own ones, `[B, h·side, w·side, C]`, f32.
    pub(super) fn unpacked(&self, latent: &Activation) -> Result<Activation> {
        let (batch, rows, columns, packed) = latent.dims4()?;
        let (side, channels) = (self.side, packed / (self.side * self.side));
        let scaled = latent.to_dtype(DType::F32)?.broadcast_mul(&(&self.deviation).into())?;
        let own = scaled.broadcast_add(&(&self.mean).into())?;
        drop(scaled);
        let squares = own.reshape(vec![batch, rows, columns, channels, side, side])?;
        let laid = squares.permute([0, 1, 4, 2, 5, 3])?.contiguous()?;
        laid.reshape((batch, rows * side, columns * side, channels))
    }
}
