//! Passes through the parts of a model, traced on shapes for their memory and their multiplications.

use super::{
    layerwise::TracedMaps,
    needs::Draft,
    pass::{Pass, PassMemory, Tile, WholeCanvas},
};
use crate::{
    backend::{Activation, Trace},
    model::{
        denoiser::Prior,
        vae::{FeatureMaps, GlobalState, Globals, LayerwiseSize, MeasuredPart},
    },
    pipeline::{
        error::Error,
        model::{Blueprints, VAE_DTYPE},
        runner::Compute as _,
    },
};

impl Draft<'_> {
    /// Memory of a pass, traced on first use.
    pub(super) fn traced(&self, pass: Pass) -> Result<PassMemory, Error> {
        if let Some(traced) = self.traced.borrow().get(&pass) {
            return Ok(traced.clone());
        }
        let trace = Trace::new(self.runner.device());
        let traced = self.run(pass, &trace)?;
        let traced = PassMemory {
            peak: trace.peak(),
            scratch: trace.scratch_bytes(),
            products: trace.products() * traced.products,
            ..traced
        };
        self.traced.borrow_mut().insert(pass, traced.clone());
        Ok(traced)
    }

    /// Runs a pass on shapes; returns what the trace does not count: the bytes of the layers that it records, and of
    /// a block of a map on the host; and as products how many times those of the trace the pass has.
    fn run(&self, pass: Pass, trace: &Trace) -> Result<PassMemory, Error> {
        let Blueprints { vae, .. } = &*self.model.blueprints;
        let shape = self.geometry.shape;
        let pixels = |(batch, height, width): (usize, usize, usize)| {
            let (height, width) = (height * shape.factor, width * shape.factor);
            trace.activation((batch, height, width, 3), VAE_DTYPE)
        };
        let latents = |(batch, height, width): (usize, usize, usize)| {
            trace.activation((batch, height, width, shape.channels), VAE_DTYPE)
        };
        let layers = |channels: usize, size: LayerwiseSize, pass: &LayerwisePass<'_>| {
            let mut maps = TracedMaps::new(trace, channels, size);
            pass(maps.traced_size(), &mut maps)?;
            Ok(PassMemory { host: maps.largest(), products: maps.share(), ..PassMemory::default() })
        };
        match pass {
            Pass::Encode(Tile { whole: WholeCanvas::Layers(size), .. }) => {
                return layers(3, size, &|size, maps| vae.encode_layerwise(size, maps));
            }
            Pass::Decode(Tile { whole: WholeCanvas::Layers(size), .. }) => {
                return layers(shape.channels, size, &|size, maps| {
                    vae.decode_layerwise(size, maps)
                });
            }
            Pass::Encode(tile) => {
                coded(tile, &|size, globals| vae.encode_with(&pixels(size), globals))?
            }
            Pass::Decode(tile) => {
                coded(tile, &|size, globals| vae.decode_with(&latents(size), globals))?
            }
            Pass::Denoise(size) => self.call(size, Prior::None, trace)?,
            Pass::Record(size) => {
                let mut layers = Vec::new();
                self.call(size, Prior::Record(&mut layers), trace)?;
                let recorded = layers.iter().map(Activation::bytes).sum();
                return Ok(PassMemory { recorded, products: 1.0, ..PassMemory::default() });
            }
            Pass::Blend(size) => {
                let mut recorded = Vec::new();
                let other = Trace::new(self.runner.device());
                self.call(size, Prior::Record(&mut recorded), &other)?;
                let layers: Vec<_> = (recorded.iter())
                    .map(|layer| trace.activation(layer.shape(), layer.dtype()))
                    .collect();
                self.call(size, Prior::Blend { layers: &layers, weight: 0.5 }, trace)?;
            }
        }
        Ok(PassMemory { products: 1.0, ..PassMemory::default() })
    }
}

/// The encoder or the decoder, layer by layer.
type LayerwisePass<'a> =
    dyn Fn(LayerwiseSize, &mut dyn FeatureMaps) -> candle_core::Result<()> + 'a;

/// The encoder or the decoder, on windows of a number and a size.
type CodecPass<'a> =
    dyn Fn((usize, usize, usize), Globals<'_>) -> candle_core::Result<Activation> + 'a;

/// Runs `pass` on the samples of a tile, if it has any, and then on the tile.
fn coded(tile: Tile, pass: &CodecPass<'_>) -> Result<(), Error> {
    let (height, width) = tile.size;
    let WholeCanvas::Samples(samples) = tile.whole else {
        pass((1, height, width), Globals::Own)?;
        return Ok(());
    };
    let part = MeasuredPart { rows: 0..samples.1, columns: 0..samples.2 };
    let parts = vec![part; samples.0];
    let mut state = GlobalState::default();
    pass(samples, Globals::Measured { parts: &parts, state: &mut state })?;
    pass((1, height, width), Globals::Shared(&state))?;
    Ok(())
}
