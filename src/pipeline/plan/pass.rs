//! A pass through a part of the model: what identifies it, and the memory that it was found to take.

use crate::model::vae::LayerwiseSize;

/// A pass through a part of the model, identified by its batch, height and width in latent pixels, which
/// determine its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pass {
    /// Encoding of a tile, after the samples whose statistics it uses, or of a canvas layer by layer.
    Encode(Tile),
    Decode(Tile),
    Denoise((usize, usize, usize)),
    /// Denoising that records the attention prior's layers.
    Record((usize, usize, usize)),
    /// Denoising with a prior, whose layers are part of the pass.
    Blend((usize, usize, usize)),
}

/// What the autoencoder is given at once, in latent pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    /// Height and width of a tile.
    pub(super) size: (usize, usize),
    pub(super) whole: WholeCanvas,
}

/// What a tile takes from the whole canvas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum WholeCanvas {
    Nothing,
    /// All of it comes from one pass layer by layer.
    Layers(LayerwiseSize),
    /// Statistics of so many samples of a height and width, which go through the autoencoder first.
    Samples((usize, usize, usize)),
}

/// Traced memory of a pass without weights, in bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct PassMemory {
    /// Peak of the pass.
    pub(super) peak: usize,
    /// Scratch buffer of every CPU thread.
    pub(super) scratch: usize,
    /// Bytes of the recorded layers.
    pub(super) recorded: usize,
    /// Host memory of a block of a map, on its way to the disk.
    pub(super) host: usize,
    /// Multiplications of the pass.
    pub(super) products: f64,
}
