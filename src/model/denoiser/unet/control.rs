//! `ControlNetModel` and `ControlNetUnionModel` for the UNets of the Stable Diffusion family: the UNet's own encoder and
//! middle, which see a picture, with a 1×1 convolution behind each feature that they hand on. References:
//! `diffusers/models/controlnets/controlnet.py` and `controlnet_union.py`.

use std::sync::Arc;

use candle_core::{Result as TensorResult, bail};
use serde_json::Value;

use super::{
    control_config::ControlNetConfig,
    control_picture::{PictureEmbedding, Union, add_picture},
    encoder::Encoder,
    error::UNetError,
    resnet::activate,
};
use crate::backend::{Activation, Params, ops::Conv2d};
use crate::model::denoiser::{
    conditioning::Conditioning,
    control::{
        ControlClass, ControlKind, ControlNetwork, ControlPicture, ControlShape, ControlSignal,
    },
    error::DenoiserError,
    prior::{Prior, PriorCursor},
};

/// The class of controls for pictures of one kind.
pub(in crate::model::denoiser) const CLASS: ControlClass = ControlClass {
    names: &["ControlNetModel"],
    load: |config, file, params| load(config, false, file, params),
};

/// The class of controls for pictures of several kinds, in diffusers and as its makers wrote it.
pub(in crate::model::denoiser) const UNION_CLASS: ControlClass = ControlClass {
    names: &["ControlNetUnionModel", "ControlNetModel_Union"],
    load: |config, file, params| load(config, true, file, params),
};

fn load(
    config: &Value,
    is_union: bool,
    file: &str,
    params: &Params,
) -> Result<Arc<dyn ControlNetwork>, DenoiserError> {
    let control = ControlNetConfig::from_value(config, is_union)
        .and_then(|config| ControlNetModel::load(config, params));
    match control {
        Ok(control) => Ok(Arc::new(control)),
        Err(error) => Err(error.of_file(file.to_owned())),
    }
}

/// Places of the kinds in a union's list (xinsir6/ControlNetPlus: pose, depth, scribble, line, normal, segment, and in
/// the "promax" version tile and repaint).
fn place_in_union(kind: ControlKind) -> usize {
    match kind {
        ControlKind::Canny => 3,
        ControlKind::Tile | ControlKind::Blur => 6,
    }
}

/// The control.
#[derive(Clone, Debug)]
pub struct ControlNetModel {
    encoder: Encoder,
    picture: PictureEmbedding,
    union: Option<Union>,
    /// behind each skip connection
    skip_convs: Vec<Conv2d>,
    /// behind the middle
    middle_conv: Conv2d,
    shape: ControlShape,
    weight_bytes: usize,
}

impl ControlNetModel {
    /// Reads every tensor of the architecture below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape than `config` says.
    pub fn load(config: ControlNetConfig, vb: &Params) -> Result<Self, UNetError> {
        let bytes_before = vb.bytes_kept();
        let (encoder, skips) = Encoder::load(&config.unet, vb)?;
        let first = skips.first().copied().unwrap_or(0);
        let shape = config.unet.control_shape(config.factor());
        let conv = |channels: usize, vb: &Params| Conv2d::load(channels, channels, 1, 1, 0, vb);
        let down = vb.pp("controlnet_down_blocks");
        let skip_convs = skips.iter().enumerate().map(|(index, &own)| conv(own, &down.pp(index)));
        Ok(Self {
            encoder,
            picture: PictureEmbedding::load(&config, first, vb)?,
            union: config
                .union
                .as_ref()
                .map(|union| Union::load(&config, union, first, vb))
                .transpose()?,
            skip_convs: skip_convs.collect::<TensorResult<_>>()?,
            middle_conv: conv(shape.middle, &vb.pp("controlnet_mid_block"))?,
            shape,
            weight_bytes: vb.bytes_kept() - bytes_before,
        })
    }
}

impl ControlNetwork for ControlNetModel {
    fn shape(&self) -> ControlShape {
        self.shape.clone()
    }

    fn check_kind(&self, kind: ControlKind) -> Result<(), DenoiserError> {
        match &self.union {
            Some(union) if place_in_union(kind) >= union.types() => {
                Err(DenoiserError::Unsuited(format!(
                    "it knows {} kinds of pictures, {} is not among them (the union's \"promax\" version has it)",
                    union.types(),
                    kind.name()
                )))
            }
            _ => Ok(()),
        }
    }

    fn forward(
        &self,
        sample: &Activation,
        timestep: f64,
        cond: &Conditioning,
        picture: &ControlPicture<'_>,
        scale: f64,
    ) -> TensorResult<ControlSignal> {
        let (batch, height, width, _) = sample.dims4()?;
        let (_, picture_height, picture_width, _) = picture.pixels.dims4()?;
        let factor = self.shape.factor;
        if (picture_height, picture_width) != (factor * height, factor * width) {
            bail!(
                "control: a picture of {:?} for a sample of {:?}",
                picture.pixels.shape(),
                sample.shape()
            );
        }
        let dtype = self.encoder.dtype();
        let mut emb = self.encoder.embed(sample, timestep, cond)?;
        let mut features = self.picture.forward(&picture.pixels.to_dtype(dtype)?)?;
        if let Some(union) = &self.union {
            let place = place_in_union(picture.kind);
            emb = emb.add(&union.embed(place, batch, sample.trace())?)?;
            features = union.fuse(&features, place)?;
        }
        let emb = activate(&emb)?;
        let context = cond.context.to_dtype(dtype)?;
        let x = add_picture(&self.encoder.begin(sample)?, features)?;
        let mut cursor = PriorCursor::new(Prior::None);
        let (middle, skips) = self.encoder.forward(x, &emb, &context, &mut cursor)?;
        let scaled = |conv: &Conv2d, features: Activation| {
            let added = conv.forward(&features)?;
            if scale == 1.0 { Ok(added) } else { added.affine(scale, 0.0) }
        };
        let middle = scaled(&self.middle_conv, middle)?;
        let skips = self.skip_convs.iter().zip(skips).map(|(conv, skip)| scaled(conv, skip));
        Ok(ControlSignal { skips: skips.collect::<TensorResult<_>>()?, middle })
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }
}
