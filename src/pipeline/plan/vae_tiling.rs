//! How the autoencoder computes a canvas of several tiles: chosen by the disk that the exact way would take, which
//! depends on the model and the size of the canvas alone.

use super::{
    geometry::Geometry,
    layerwise::{self, TracedMaps},
    tiles::Span,
};
use crate::{
    backend::Trace,
    model::vae::{LayerwiseSize, Vae},
    pipeline::{
        error::Error,
        model::Model,
        runner::{Compute as _, Runner},
        settings::Settings,
    },
};

/// How several tiles of a canvas come to agree. A tile that is the whole canvas is computed as diffusers does, whatever this
/// says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VaeTiling {
    /// Tiles see no farther than their padding (`AutoencoderTiny`).
    Independent,
    /// The canvas goes through each layer as a whole, block by block; the result is that of one tile.
    Layerwise {
        /// The most bytes that the maps between the layers take on the disk.
        map_bytes: u64,
    },
    /// Tiles share the statistics of norms and attention, measured on samples of the canvas.
    Sampled,
}

impl VaeTiling {
    /// The tiling of this canvas within the settings' bound of the disk.
    ///
    /// # Errors
    /// Errors of the blueprint.
    pub(super) fn choose(
        model: &Model,
        runner: &Runner,
        settings: &Settings,
        geometry: &Geometry,
    ) -> Result<Self, Error> {
        let vae = &model.blueprints.vae;
        if !vae.has_global_state() {
            return Ok(Self::Independent);
        }
        let most = settings.vae_disk.unwrap_or_else(|| runner.default_vae_disk());
        if most == 0 {
            return Ok(Self::Sampled);
        }
        let map_bytes = map_bytes(vae, runner, geometry)?;
        Ok(if map_bytes <= most { Self::Layerwise { map_bytes } } else { Self::Sampled })
    }

    /// How this tile is computed: by itself, if it is the whole canvas.
    pub(crate) fn of_tile(self, (row, column): (&Span, &Span)) -> Self {
        if row.is_whole() && column.is_whole() { Self::Independent } else { self }
    }

    /// Its name in the identity of a job; `None` where tiles are the same in every way.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Independent => None,
            Self::Layerwise { .. } => Some("layerwise"),
            Self::Sampled => Some("sampled"),
        }
    }
}

/// The most bytes of all maps at a time, of the encoder's pass and the decoder's.
fn map_bytes(vae: &Vae, runner: &Runner, geometry: &Geometry) -> Result<u64, Error> {
    let Geometry { canvas, shape, .. } = geometry;
    let trace = Trace::new(runner.device());
    // Maps are as large whatever the blocks are.
    let size = LayerwiseSize {
        latents: (canvas.latent_height, canvas.latent_width),
        block: layerwise::LEAST_SIDE,
    };
    let mut encoded = TracedMaps::new(&trace, 3, size);
    vae.encode_layerwise(encoded.traced_size(), &mut encoded)?;
    let mut decoded = TracedMaps::new(&trace, shape.channels, size);
    vae.decode_layerwise(decoded.traced_size(), &mut decoded)?;
    Ok(encoded.bytes().max(decoded.bytes()))
}
