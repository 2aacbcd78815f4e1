//! The autoencoder between pictures and latents, in the two kinds that models come with: diffusers'
//! `AutoencoderKL`, also with packed latents (`AutoencoderKLFlux2`), and `AutoencoderTiny` (TAESD). Latents that enter and
//! leave here are the diffusion model's own: already scaled by the config's `scaling_factor`, or packed, so that nothing
//! outside needs to know it.

mod config;
mod globals;
mod kl;
mod layerwise;
mod packed;
mod tiny;

use candle_core::{DType, Result};
use serde_json::Value;

use crate::backend::{Activation, Params};

pub use config::{KlConfig, TinyConfig, VaeConfig, VaeError};
pub use globals::{GlobalState, Globals, MeasuredPart};
pub use kl::AutoencoderKl;
pub use layerwise::{FeatureMaps, LayerPart, LayerwiseSize, MapId, Window};
pub use packed::Packing;
pub use tiny::AutoencoderTiny;

/// An autoencoder of either kind.
#[derive(Clone, Debug)]
pub enum Vae {
    Kl(Box<AutoencoderKl>),
    Tiny(AutoencoderTiny),
}

impl Vae {
    /// Builds the autoencoder that `config` (a diffusers `config.json` with its `_class_name`)
    /// describes, with the tensors below `vb`, in `vb`'s dtype.
    ///
    /// # Errors
    /// A class or a field that is not supported, or a tensor that is missing or of another shape.
    pub fn load(config: &Value, vb: &Params) -> std::result::Result<Self, VaeError> {
        Ok(match VaeConfig::from_json(config)? {
            VaeConfig::Kl(config) => Self::Kl(Box::new(AutoencoderKl::load(&config, vb)?)),
            VaeConfig::Tiny(config) => Self::Tiny(AutoencoderTiny::load(&config, vb)?),
        })
    }

    /// Pictures `[B, H, W, 3]` in `-1..=1` → latents `[B, H/f, W/f, C]`, f32, as the diffusion model
    /// has them. `AutoencoderKL` gives the mean of its posterior, not a sample.
    ///
    /// # Errors
    /// Sides that [`factor`](Self::factor) does not divide, or those of the backend.
    pub fn encode(&self, image: &Activation) -> Result<Activation> {
        self.encode_with(image, Globals::Own)
    }

    /// Encodes as [`encode`](Self::encode), with this global state; `AutoencoderTiny` has none.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), or the state of another model or of the decoder.
    pub fn encode_with(&self, image: &Activation, globals: Globals<'_>) -> Result<Activation> {
        let (_, height, width, channels) = image.dims4()?;
        let f = self.factor();
        if channels != 3 || height == 0 || width == 0 || height % f != 0 || width % f != 0 {
            candle_core::bail!(
                "VAE: {:?} is not a picture with sides divisible by {f}",
                image.shape()
            );
        }
        let image = image.to_dtype(self.dtype())?;
        let z = match self {
            Self::Kl(vae) => {
                globals.pass((height / f, width / f), |globals| vae.encode(&image, globals))?
            }
            Self::Tiny(vae) => vae.encode(&image)?,
        };
        self.scaling().scaled(&z)
    }

    /// Latents `[B, h, w, C]` as [`encode`](Self::encode) gives them → pictures
    /// `[B, f·h, f·w, 3]`, f32, around `-1..=1` and not clamped.
    ///
    /// # Errors
    /// Another channel count, or those of the backend.
    pub fn decode(&self, latent: &Activation) -> Result<Activation> {
        self.decode_with(latent, Globals::Own)
    }

    /// Decodes as [`decode`](Self::decode), with this global state; `AutoencoderTiny` has none.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), or the state of another model or of the encoder.
    pub fn decode_with(&self, latent: &Activation, globals: Globals<'_>) -> Result<Activation> {
        let (_, height, width, channels) = latent.dims4()?;
        if channels != self.latent_channels() || height == 0 || width == 0 {
            candle_core::bail!(
                "VAE: {:?} is not a latent of {} channels",
                latent.shape(),
                self.latent_channels()
            );
        }
        let z = self.scaling().unscaled(latent)?.to_dtype(self.dtype())?;
        let image = match self {
            Self::Kl(vae) => globals.pass((height, width), |globals| vae.decode(&z, globals))?,
            Self::Tiny(vae) => vae.decode(&z)?,
        };
        image.to_dtype(DType::F32)
    }

    /// Encodes the whole canvas of which `maps` has the picture, as [`encode`](Self::encode) would, in the memory of a
    /// block: layer by layer, with the maps between them in `maps`.
    ///
    /// # Errors
    /// An autoencoder without norms, whose tiles need none of this; errors of `maps` and the backend.
    pub fn encode_layerwise(&self, size: LayerwiseSize, maps: &mut dyn FeatureMaps) -> Result<()> {
        match self {
            Self::Kl(vae) => vae.encode_layerwise(size, maps),
            Self::Tiny(_) => candle_core::bail!("VAE: no norm sees the whole canvas"),
        }
    }

    /// Decodes the whole canvas of which `maps` has the latents, as [`decode`](Self::decode) would; see
    /// [`encode_layerwise`](Self::encode_layerwise).
    ///
    /// # Errors
    /// Those of [`encode_layerwise`](Self::encode_layerwise).
    pub fn decode_layerwise(&self, size: LayerwiseSize, maps: &mut dyn FeatureMaps) -> Result<()> {
        match self {
            Self::Kl(vae) => vae.decode_layerwise(size, maps),
            Self::Tiny(_) => candle_core::bail!("VAE: no norm sees the whole canvas"),
        }
    }

    /// Image pixels per latent pixel, in each direction (`f`).
    #[must_use]
    pub fn factor(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.factor(),
            Self::Tiny(vae) => vae.factor(),
        }
    }

    /// Channels of a latent (`C`).
    #[must_use]
    pub fn latent_channels(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.latent_channels(),
            Self::Tiny(vae) => vae.latent_channels(),
        }
    }

    /// Receptive field of the convolutions around an output, in latent pixels: a tile padded by as much towards
    /// the rest of the picture equals the whole in its core, given the same [`Globals`].
    #[must_use]
    pub fn context(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.context(),
            Self::Tiny(vae) => vae.context(),
        }
    }

    /// Norms and attention see the whole picture (`AutoencoderKL`), so that tiles need a [`GlobalState`], or to be
    /// computed layer by layer.
    #[must_use]
    pub fn has_global_state(&self) -> bool {
        matches!(self, Self::Kl(_))
    }

    /// The precision that the autoencoder computes in.
    #[must_use]
    pub fn dtype(&self) -> DType {
        match self {
            Self::Kl(vae) => vae.dtype(),
            Self::Tiny(vae) => vae.dtype(),
        }
    }

    /// Bytes of its weights, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        match self {
            Self::Kl(vae) => vae.weight_bytes(),
            Self::Tiny(vae) => vae.weight_bytes(),
        }
    }

    fn scaling(&self) -> &LatentScaling {
        match self {
            Self::Kl(vae) => vae.scaling(),
            Self::Tiny(vae) => vae.scaling(),
        }
    }
}

/// The map between an autoencoder's own latents and the diffusion model's.
#[derive(Clone, Debug)]
enum LatentScaling {
    /// `(z − shift)·factor` (diffusers' `scaling_factor` and `shift_factor`)
    Uniform {
        factor: f64,
        shift: f64,
    },
    Packed(packed::PackedLatents),
}

impl LatentScaling {
    /// The diffusion model's latents, in f32.
    fn scaled(&self, z: &Activation) -> Result<Activation> {
        match self {
            Self::Uniform { factor, shift } => {
                z.to_dtype(DType::F32)?.affine(1.0, -shift)?.affine(*factor, 0.0)
            }
            Self::Packed(packed) => packed.packed(z),
        }
    }

    /// The autoencoder's own latents, in f32.
    fn unscaled(&self, latent: &Activation) -> Result<Activation> {
        match self {
            Self::Uniform { factor, shift } => {
                latent.to_dtype(DType::F32)?.affine(1.0 / factor, 0.0)?.affine(1.0, *shift)
            }
            Self::Packed(packed) => packed.unpacked(latent),
        }
    }

    /// Own latent pixels along the side of one of the diffusion model's.
    fn side(&self) -> usize {
        match self {
            Self::Uniform { .. } => 1,
            Self::Packed(packed) => packed.side(),
        }
    }
}
