//! `AutoencoderKL` layer by layer over a canvas of any size, in the memory of a block.

use candle_core::Result;

use super::{
    super::layerwise::{FeatureMap, FeatureMaps, Layerwise, LayerwiseSize, Window},
    AutoencoderKl, KlMidBlock, KlResnetBlock, MidAttention,
};
use crate::backend::{
    Activation,
    ops::{Conv2d, GroupNorm, Mask, attention},
};

/// Keys of the attention for each place of a block, at most, and in any case so many. A canvas with more gives as many
/// of its places, evenly spread: their memory would grow with the canvas, and time with its square.
const KEYS_OF_BLOCK: usize = 4;
const KEYS_LEAST: usize = 1 << 14;
/// Places whose keys are computed at once, in whole rows.
const KEYS_AT_ONCE: usize = 1 << 11;

/// Layers of a residual block: its two convolutions.
const RESNET_LAYERS: usize = 2;

impl AutoencoderKl {
    /// Encodes the whole canvas of which `maps` has the picture.
    pub(in crate::model::vae) fn encode_layerwise(
        &self,
        size: LayerwiseSize,
        maps: &mut dyn FeatureMaps,
    ) -> Result<()> {
        let encoder = &self.encoder;
        let layers = layers(&encoder.levels, &encoder.mid);
        let mut pass = Layerwise::new(maps, size, self.groups, layers);
        let mut scale = self.factor;
        let mut h = pass.map(scale, None, |pass, block| {
            pass.around(scale, block, |pass, window| {
                encoder.conv_in.forward(&pass.maps.input(window)?.to_dtype(self.dtype)?)
            })
        })?;
        for (resnets, down) in &encoder.levels {
            for resnet in resnets {
                h = resnet.layerwise(h, scale, &mut pass)?;
            }
            if let Some(conv) = down {
                h = pass.halved(h, conv)?;
                scale /= 2;
            }
        }
        let h = encoder.mid.layerwise(h, scale, &mut pass)?;
        pass.for_each_block(scale, |pass, block| {
            let moments = closing(pass, &h, scale, block, (&encoder.norm_out, &encoder.conv_out))?;
            let z = self.scaling.scaled(&self.posterior_mean(moments)?)?;
            pass.maps.output(&block.reduced(self.scaling.side()).0, &z)
        })?;
        pass.remove(h);
        Ok(())
    }

    /// Decodes the whole canvas of which `maps` has the latents.
    pub(in crate::model::vae) fn decode_layerwise(
        &self,
        size: LayerwiseSize,
        maps: &mut dyn FeatureMaps,
    ) -> Result<()> {
        let decoder = &self.decoder;
        let layers = layers(&decoder.levels, &decoder.mid);
        let mut pass = Layerwise::new(maps, size, self.groups, layers);
        let mut scale = self.scaling.side();
        let h = pass.map(scale, None, |pass, block| {
            pass.around(scale, block, |pass, window| {
                let z = self.own_latents(pass, window)?.to_dtype(self.dtype)?;
                match &self.post_quant_conv {
                    Some(conv) => decoder.conv_in.forward(&conv.forward(&z)?),
                    None => decoder.conv_in.forward(&z),
                }
            })
        })?;
        let mut h = decoder.mid.layerwise(h, scale, &mut pass)?;
        for (resnets, up) in &decoder.levels {
            for resnet in resnets {
                h = resnet.layerwise(h, scale, &mut pass)?;
            }
            if let Some(conv) = up {
                h = pass.doubled(h, conv)?;
                scale *= 2;
            }
        }
        pass.for_each_block(scale, |pass, block| {
            let image = closing(pass, &h, scale, block, (&decoder.norm_out, &decoder.conv_out))?;
            pass.maps.output(block, &image)
        })?;
        pass.remove(h);
        Ok(())
    }

    /// A window of the network's own latents, whose pixels may be parts of those of the input.
    fn own_latents(&self, pass: &mut Layerwise<'_>, window: &Window) -> Result<Activation> {
        let (outer, (top, left)) = window.reduced(self.scaling.side());
        let z = self.scaling.unscaled(&pass.maps.input(&outer)?)?;
        z.narrow(1, top, window.rows.len())?.narrow(2, left, window.columns.len())?.contiguous()
    }
}

/// Layers of a pass through these levels, each with its change of scale, the middle, and the first and last convolution.
fn layers(levels: &[(Vec<KlResnetBlock>, Option<Conv2d>)], mid: &KlMidBlock) -> usize {
    let of_level = |(resnets, scaling): &(Vec<KlResnetBlock>, Option<Conv2d>)| {
        RESNET_LAYERS * resnets.len() + usize::from(scaling.is_some())
    };
    2 + levels.iter().map(of_level).sum::<usize>() + mid.layers()
}

/// The last norm and the last convolution, on one block.
fn closing(
    pass: &mut Layerwise<'_>,
    x: &FeatureMap,
    scale: usize,
    block: &Window,
    (norm, conv): (&GroupNorm, &Conv2d),
) -> Result<Activation> {
    pass.around(scale, block, |pass, window| {
        let h = norm.forward_with(&pass.read(x, window)?, &x.moments, true)?;
        conv.forward(&h)
    })
}

impl KlResnetBlock {
    fn layerwise(
        &self,
        x: FeatureMap,
        scale: usize,
        pass: &mut Layerwise<'_>,
    ) -> Result<FeatureMap> {
        let h = pass.map(scale, None, |pass, block| {
            pass.around(scale, block, |pass, window| {
                let x = self.norm1.forward_with(&pass.read(&x, window)?, &x.moments, true)?;
                self.conv1.forward(&x)
            })
        })?;
        // A block reads of x only what lies in it, so that the result can take x's place; what is read around it counts
        // for nothing.
        let over = if self.shortcut.is_none() { Some(&x) } else { None };
        let y = pass.map(scale, over, |pass, block| {
            pass.around(scale, block, |pass, window| {
                let x = pass.read(&x, window)?;
                let x = match &self.shortcut {
                    Some(conv) => conv.forward(&x)?,
                    None => x,
                };
                let h = self.norm2.forward_with(&pass.read(&h, window)?, &h.moments, true)?;
                self.conv2.forward_add(&h, &x)
            })
        })?;
        pass.remove(h);
        if self.shortcut.is_some() {
            pass.remove(x);
        }
        Ok(y)
    }
}

impl KlMidBlock {
    fn layers(&self) -> usize {
        2 * RESNET_LAYERS + usize::from(self.attention.is_some())
    }

    fn layerwise(
        &self,
        x: FeatureMap,
        scale: usize,
        pass: &mut Layerwise<'_>,
    ) -> Result<FeatureMap> {
        let h = self.before.layerwise(x, scale, pass)?;
        let h = match &self.attention {
            Some(attention) => attention.layerwise(h, scale, pass)?,
            None => h,
        };
        self.after.layerwise(h, scale, pass)
    }
}

impl MidAttention {
    fn layerwise(
        &self,
        x: FeatureMap,
        scale: usize,
        pass: &mut Layerwise<'_>,
    ) -> Result<FeatureMap> {
        let channels = x.channels;
        let (k, v) = self.keys(&x, scale, pass)?;
        // The result takes x's place, of which other passes may still read their keys.
        pass.meet()?;
        pass.map(scale, Some(&x), |pass, block| {
            let x_block = pass.read(&x, block)?;
            let (_, height, width, _) = x_block.dims4()?;
            let tokens = (1, height * width, channels);
            let h = self.norm.forward_with(&x_block, &x.moments, false)?.reshape(tokens)?;
            let q = self.q.forward(&h)?;
            drop(h);
            let h = attention(&q, &k, &v, 1, Mask::None, self.precision)?;
            let y = self.out.forward_add(&h, &x_block.reshape(tokens)?)?;
            y.reshape((1, height, width, channels))
        })
    }

    /// Keys and values that all queries see, `[1, places, C]`.
    fn keys(
        &self,
        x: &FeatureMap,
        scale: usize,
        pass: &mut Layerwise<'_>,
    ) -> Result<(Activation, Activation)> {
        let (rows, columns) = pass.spread(scale, pass.most_keys(scale));
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for rows in rows.chunks((KEYS_AT_ONCE / columns.len()).max(1)) {
            let rows: Vec<Activation> = rows
                .iter()
                .map(|row| pass.read(x, row)?.index_select(&columns, 2))
                .collect::<Result<_>>()?;
            let places = (1, rows.len() * columns.len(), x.channels);
            let h = Activation::cat(&rows, 1)?;
            drop(rows);
            let h = self.norm.forward_with(&h, &x.moments, false)?.reshape(places)?;
            keys.push(self.k.forward(&h)?);
            values.push(self.v.forward(&h)?);
        }
        let keys = Activation::cat(&keys, 1)?;
        Ok((keys, Activation::cat(&values, 1)?))
    }
}

impl Layerwise<'_> {
    /// The most keys of an attention over the places of a map at this scale.
    fn most_keys(&self, scale: usize) -> usize {
        (KEYS_OF_BLOCK * (self.size().block * scale).pow(2)).max(KEYS_LEAST)
    }
}
