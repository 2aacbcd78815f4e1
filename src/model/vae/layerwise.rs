//! A whole canvas layer by layer, each layer block by block: the feature map of one layer is complete, and lies outside
//! the device's memory, before the next one begins (docs/method.md §6). So a norm has the moments of the whole map,
//! and a block sees no farther than its own convolution does; the result is that of one pass over the whole canvas.

use std::ops::Range;

use candle_core::Result;

use crate::backend::{
    Activation,
    ops::{Conv2d, GroupMoments},
};

/// Part of a feature map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its rows.
    pub rows: Range<usize>,
    /// Its columns.
    pub columns: Range<usize>,
}

impl Window {
    /// The smallest window of a map of `1/side` of this one's scale that has all of it, and where in that map, at this
    /// scale, it begins: so many rows and columns.
    pub(super) fn reduced(&self, side: usize) -> (Self, (usize, usize)) {
        let outer = |range: &Range<usize>| range.start / side..range.end.div_ceil(side);
        (
            Self { rows: outer(&self.rows), columns: outer(&self.columns) },
            (self.rows.start % side, self.columns.start % side),
        )
    }
}

/// Place of a feature map in [`FeatureMaps`].
pub type MapId = usize;

/// What a layerwise pass reads and writes, beside the device's memory. A map is written completely before it is read.
pub trait FeatureMaps {
    /// The window of the pass's input, `[1, rows, columns, C]`: of a picture in pixels, or of latents.
    ///
    /// # Errors
    /// Those of the implementation.
    fn input(&mut self, window: &Window) -> Result<Activation>;

    /// Takes a window of the pass's output: of latents, or of a picture in pixels.
    ///
    /// # Errors
    /// Those of the implementation.
    fn output(&mut self, window: &Window, values: &Activation) -> Result<()>;

    /// A new map of this height, width and number of channels.
    ///
    /// # Errors
    /// Those of the implementation.
    fn create(&mut self, size: (usize, usize, usize)) -> Result<MapId>;

    /// The window of a map, `[1, rows, columns, C]`.
    ///
    /// # Errors
    /// Those of the implementation.
    fn read(&mut self, map: MapId, window: &Window) -> Result<Activation>;

    /// Writes the window of a map.
    ///
    /// # Errors
    /// Those of the implementation.
    fn write(&mut self, map: MapId, window: &Window, values: &Activation) -> Result<()>;

    /// Removes a map.
    fn remove(&mut self, map: MapId);

    /// Is told after each layer how many are done, and of how many.
    fn advance(&mut self, done: usize, of: usize);

    /// True if this pass is to compute this block of the layer; it asks for every block in turn. Several passes over one
    /// canvas, each on its own device, may share the blocks of every layer. A pass alone computes all.
    fn takes(&mut self, block: usize) -> bool {
        let _ = block;
        true
    }

    /// Ends a layer with this pass's part of it, and returns the whole layer, in the order of its blocks. Waits until all
    /// passes over the canvas are there. For a pass alone its part is the whole.
    ///
    /// # Errors
    /// Those of the implementation; another pass that failed.
    fn end_layer(&mut self, part: LayerPart) -> Result<LayerPart> {
        Ok(part)
    }
}

/// What is known of a layer's blocks, or of some of them.
#[derive(Clone, Debug, Default)]
pub struct LayerPart {
    /// Moments by the number of the block.
    pub moments: Vec<(usize, GroupMoments)>,
    /// The map that the blocks are written to, and its channels; `None` for the output, and where no block is known.
    pub map: Option<(MapId, usize)>,
}

/// Size of a layerwise pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LayerwiseSize {
    /// Height and width of the canvas in latent pixels.
    pub latents: (usize, usize),
    /// The longest side of a block, in latent pixels.
    pub block: usize,
}

/// A feature map of the whole canvas, with the moments of its groups of channels.
pub(super) struct FeatureMap {
    id: MapId,
    /// Pixels per latent pixel.
    scale: usize,
    pub channels: usize,
    pub moments: GroupMoments,
}

/// A layerwise pass.
pub(super) struct Layerwise<'a> {
    pub maps: &'a mut dyn FeatureMaps,
    size: LayerwiseSize,
    groups: usize,
    layers: usize,
    done: usize,
}

impl<'a> Layerwise<'a> {
    /// A pass of so many layers whose norms have so many groups.
    pub fn new(
        maps: &'a mut dyn FeatureMaps,
        size: LayerwiseSize,
        groups: usize,
        layers: usize,
    ) -> Self {
        Self { maps, size, groups, layers, done: 0 }
    }

    /// The size of the pass.
    pub fn size(&self) -> LayerwiseSize {
        self.size
    }

    /// Height and width of a map of this scale.
    fn extent(&self, scale: usize) -> (usize, usize) {
        (self.size.latents.0 * scale, self.size.latents.1 * scale)
    }

    /// The blocks of a map of this scale, row by row.
    fn blocks(&self, scale: usize) -> Vec<Window> {
        let axis = |length: usize| {
            let count = length.div_ceil(self.size.block.max(1));
            let at = move |index: usize| index * length / count * scale;
            (0..count).map(move |index| at(index)..at(index + 1))
        };
        axis(self.size.latents.0)
            .flat_map(|rows| {
                axis(self.size.latents.1).map(move |columns| Window { rows: rows.clone(), columns })
            })
            .collect()
    }

    /// The window and one pixel more around it, where a map of this scale has it.
    fn widened(&self, scale: usize, window: &Window) -> Window {
        let (height, width) = self.extent(scale);
        let wide = |range: &Range<usize>, length: usize| {
            range.start.saturating_sub(1)..(range.end + 1).min(length)
        };
        Window { rows: wide(&window.rows, height), columns: wide(&window.columns, width) }
    }

    /// Runs `layer` for every block of the output, which is at `scale`.
    pub fn for_each_block(
        &mut self,
        scale: usize,
        mut layer: impl FnMut(&mut Self, &Window) -> Result<()>,
    ) -> Result<()> {
        self.layer(scale, LayerPart::default(), |pass, (_, block), _| layer(pass, block))?;
        Ok(())
    }

    /// Runs `compute` for every block of a layer at `scale`, with the block's number and what is known of the layer.
    fn layer(
        &mut self,
        scale: usize,
        mut part: LayerPart,
        mut compute: impl FnMut(&mut Self, (usize, &Window), &mut LayerPart) -> Result<()>,
    ) -> Result<LayerPart> {
        for (number, block) in self.blocks(scale).iter().enumerate() {
            if self.maps.takes(number) {
                compute(self, (number, block), &mut part)?;
            }
        }
        let whole = self.maps.end_layer(part)?;
        self.done += 1;
        self.maps.advance(self.done, self.layers);
        Ok(whole)
    }

    /// Waits for all passes over the canvas: what was read before may be written over afterwards.
    pub fn meet(&mut self) -> Result<()> {
        self.maps.end_layer(LayerPart::default()).map(drop)
    }

    /// The map at `scale` of which `layer` computes every block; it goes into the place of `over`, which has its size, or
    /// into a new one.
    pub fn map(
        &mut self,
        scale: usize,
        over: Option<&FeatureMap>,
        mut layer: impl FnMut(&mut Self, &Window) -> Result<Activation>,
    ) -> Result<FeatureMap> {
        let (height, width) = self.extent(scale);
        let place = over.map(|map| (map.id, map.channels));
        let part = LayerPart { moments: Vec::new(), map: place };
        let whole = self.layer(scale, part, |pass, (number, block), part| {
            let values = layer(pass, block)?;
            part.moments.push((number, GroupMoments::of(&values, pass.groups)?));
            let (id, _) = match part.map {
                Some(place) => place,
                None => {
                    let channels = values.dim(3)?;
                    let id = pass.maps.create((height, width, channels))?;
                    *part.map.insert((id, channels))
                }
            };
            pass.maps.write(id, block, &values)
        })?;
        let Some((id, channels)) = whole.map else {
            candle_core::bail!("a canvas without a block")
        };
        let moments: Vec<_> = whole.moments.into_iter().map(|(_, moments)| moments).collect();
        Ok(FeatureMap { id, scale, channels, moments: GroupMoments::pooled(&moments) })
    }

    /// The window of a map.
    pub fn read(&mut self, map: &FeatureMap, window: &Window) -> Result<Activation> {
        self.maps.read(map.id, window)
    }

    /// A map that is needed no more.
    pub fn remove(&mut self, map: FeatureMap) {
        self.maps.remove(map.id);
    }

    /// `f` with the window and one pixel more around it, where a map of this scale has it, and of the result, which
    /// has the same size, the window.
    pub fn around(
        &mut self,
        scale: usize,
        window: &Window,
        f: impl FnOnce(&mut Self, &Window) -> Result<Activation>,
    ) -> Result<Activation> {
        let wide = self.widened(scale, window);
        f(self, &wide)?
            .narrow(1, window.rows.start - wide.rows.start, window.rows.len())?
            .narrow(2, window.columns.start - wide.columns.start, window.columns.len())?
            .contiguous()
    }

    /// The map at twice the scale, convolved (`Upsample2D` of diffusers).
    pub fn doubled(&mut self, x: FeatureMap, conv: &Conv2d) -> Result<FeatureMap> {
        let scale = x.scale;
        let y = self.map(2 * scale, None, |pass, block| {
            let half = |range: &Range<usize>| range.start / 2..range.end / 2;
            let block = Window { rows: half(&block.rows), columns: half(&block.columns) };
            let window = pass.widened(scale, &block);
            let h = pass.read(&x, &window)?;
            conv.forward_doubled(&h, 2 * window.rows.len(), 2 * window.columns.len())?
                .narrow(1, 2 * (block.rows.start - window.rows.start), 2 * block.rows.len())?
                .narrow(
                    2,
                    2 * (block.columns.start - window.columns.start),
                    2 * block.columns.len(),
                )?
                .contiguous()
        })?;
        self.remove(x);
        Ok(y)
    }

    /// The map at half the scale, convolved in steps of two; only the far sides are padded (`Downsample2D` of
    /// diffusers).
    pub fn halved(&mut self, x: FeatureMap, conv: &Conv2d) -> Result<FeatureMap> {
        let scale = x.scale;
        let y = self.map(scale / 2, None, |pass, block| {
            let (height, width) = pass.extent(scale);
            let reach = |range: &Range<usize>, length: usize| {
                2 * range.start..(2 * range.end + 1).min(length)
            };
            let window =
                Window { rows: reach(&block.rows, height), columns: reach(&block.columns, width) };
            let h = pass.read(&x, &window)?;
            let missing =
                |range: &Range<usize>, got: &Range<usize>| 2 * range.len() + 1 - got.len();
            let h = h.pad_with_zeros(1, 0, missing(&block.rows, &window.rows))?;
            conv.forward(&h.pad_with_zeros(2, 0, missing(&block.columns, &window.columns))?)
        })?;
        self.remove(x);
        Ok(y)
    }

    /// Windows of one row each, of every so many rows of a map at this scale, and the columns of them that are taken:
    /// evenly spread, at most `most` places together, and all of the map where it has no more.
    pub fn spread(&self, scale: usize, most: usize) -> (Vec<Window>, Vec<u32>) {
        let (height, width) = self.extent(scale);
        let (mut down, mut across) = (1, 1);
        while height.div_ceil(down) * width.div_ceil(across) > most {
            if down <= across { down += 1 } else { across += 1 }
        }
        let every = |length: usize, step: usize| (step.min(length) / 2..length).step_by(step);
        let rows = every(height, down)
            .map(|row| Window { rows: row..row + 1, columns: 0..width })
            .collect();
        (rows, every(width, across).map(|column| column as u32).collect())
    }
}
