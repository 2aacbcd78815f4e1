//! The Regional Attention Prior (docs/method.md §4). The paper crops and resizes the low-resolution
//! pass's attention maps M and applies them to the global values; by linearity that is the crop
//! of the layer's *output*: interpolation acts on pixels, the values and the output projection on
//! channels, and the projection's bias passes through because interpolation weights sum to one.
//! So what is kept of the low-resolution pass is one feature map per cross-attention layer.

use candle_core::Result;

use crate::backend::{
    Activation,
    ops::{CropRect, crop_resize},
};

/// The cross-attention outputs of one low-resolution pass at one timestep.
#[derive(Clone, Debug)]
pub struct AttentionPrior {
    /// `[1, h, w, C]` each, at the layer's own resolution, in visiting order
    layers: Vec<Activation>,
}

impl AttentionPrior {
    /// Builds it from the outputs that `Prior::Record` of the denoiser collected in a pass over the whole
    /// low-resolution latent with the global prompt.
    ///
    /// # Errors
    /// A layer that is not `[1, h, w, C]`.
    pub fn new(layers: Vec<Activation>) -> Result<Self> {
        for (index, layer) in layers.iter().enumerate() {
            let (batch, ..) = layer.dims4()?;
            if batch != 1 {
                candle_core::bail!(
                    "attention prior: layer {index} is {:?}: the low-resolution pass is one picture",
                    layer.shape()
                );
            }
        }
        Ok(Self { layers })
    }

    /// The recorded layers, `[1, h, w, C]` each, in visiting order.
    #[must_use]
    pub fn layers(&self) -> &[Activation] {
        &self.layers
    }

    /// The prior of a batch of regions, for `Prior::Blend` of the denoiser: one `[B, h, w, C]` per
    /// layer, B = `rects.len()`.
    ///
    /// `rects` are the regions' places relative to the whole picture; `sizes` the height and width
    /// of each layer for a region (`Denoiser::prior_sizes`).
    ///
    /// # Errors
    /// No region, another number of sizes than of layers, or those of the backend.
    pub fn for_regions(
        &self,
        rects: &[CropRect],
        sizes: &[(usize, usize)],
    ) -> Result<Vec<Activation>> {
        if rects.is_empty() || sizes.len() != self.layers.len() {
            candle_core::bail!(
                "attention prior: {} regions, {} layer sizes for {} layers",
                rects.len(),
                sizes.len(),
                self.layers.len()
            );
        }
        self.layers
            .iter()
            .zip(sizes)
            .map(|(layer, &(height, width))| {
                let crops: Vec<Activation> = rects
                    .iter()
                    .map(|&rect| crop_resize(layer, rect, height, width))
                    .collect::<Result<_>>()?;
                Activation::cat(&crops, 0)
            })
            .collect()
    }
}
