//! CLIP's vision tower up to the states that are a picture's features (transformers
//! `models/clip/modeling_clip.py`: `CLIPVisionModel`), and the projector that brings them to the
//! decoder's width (`models/llava/modeling_llava.py`: `LlavaMultiModalProjector`).

use candle_core::{D, Result, Tensor};

use super::config::{LlavaConfig, VisionConfig};
use crate::backend::ops::{LayerNorm, Linear, Mask, gelu, quick_gelu};
use crate::backend::{Activation, Params};
use crate::model::clip_layer::{ClipLayer, LayerShape};
use crate::model::text::HiddenAct;

/// The tower. Layers behind the last state that is asked for are not even loaded.
#[derive(Clone, Debug)]
pub(super) struct VisionTower {
    /// a convolution without overlap, as the dense layer of flattened patches that it is
    patches: Linear,
    /// `[1, 1, D]`
    class: Tensor,
    /// `[1, N + 1, D]`
    positions: Tensor,
    norm: LayerNorm,
    layers: Vec<ClipLayer>,
    states: Vec<usize>,
    class_token: bool,
    config: VisionConfig,
}

impl VisionTower {
    /// Reads the tensors below `vb`, where `embeddings` and `encoder` are.
    pub(super) fn load(config: &LlavaConfig, vb: &Params) -> Result<Self> {
        let vision = &config.vision;
        let (width, side) = (vision.hidden_size, vision.patch_size);
        let shape = LayerShape {
            width,
            inner: vision.intermediate_size,
            heads: vision.num_attention_heads,
            act: vision.hidden_act,
            eps: vision.layer_norm_eps,
        };
        let embeddings = vb.pp("embeddings");
        let patches = embeddings.get((width, 3, side, side), "patch_embedding.weight")?;
        let positions = vision.side().pow(2) + 1;
        let depth = config.feature_states.iter().copied().max().unwrap_or(0);
        Ok(Self {
            patches: Linear::new(&patches.reshape((width, 3 * side * side))?, None)?,
            class: embeddings.get(width, "class_embedding")?.reshape((1, 1, width))?,
            positions: embeddings
                .get((positions, width), "position_embedding.weight")?
                .reshape((1, positions, width))?,
            // The name is misspelt in every checkpoint.
            norm: LayerNorm::load(width, vision.layer_norm_eps, &vb.pp("pre_layrnorm"))?,
            layers: (0..depth)
                .map(|index| ClipLayer::load(shape, &vb.pp("encoder.layers").pp(index)))
                .collect::<Result<_>>()?,
            states: config.feature_states.clone(),
            class_token: config.class_token,
            config: vision.clone(),
        })
    }

    /// Pictures `[B, 3, S, S]`, normalized, in the tower's precision → `[B, N, D·states]`.
    pub(super) fn forward(&self, pictures: &Activation) -> Result<Activation> {
        let batch = pictures.dim(0)?;
        let (side, patch) = (self.config.side(), self.config.patch_size);
        // Pixels beyond the last whole patch take no part, as in a convolution.
        let covered = side * patch;
        let flat = pictures
            .narrow(2, 0, covered)?
            .narrow(3, 0, covered)?
            .contiguous()?
            .reshape(&[batch, 3, side, patch, side, patch])?
            .permute([0, 2, 4, 1, 3, 5])?
            .contiguous()?
            .reshape((batch, side * side, 3 * patch * patch))?;
        let shape = (batch, 1, self.config.hidden_size);
        let class = Activation::make(pictures.trace(), shape, self.class.dtype(), || {
            self.class.repeat((batch, 1, 1))
        })?;
        let x = Activation::cat(&[&class, &self.patches.forward(&flat)?], 1)?;
        let mut x = self.norm.forward(&x.broadcast_add(&(&self.positions).into())?)?;
        let mut wanted = vec![x.clone(); self.states.len()];
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, Mask::None)?;
            for (state, _) in
                wanted.iter_mut().zip(&self.states).filter(|(_, at)| **at == index + 1)
            {
                *state = x.clone();
            }
        }
        let features = if let [one] = &wanted[..] {
            one.clone()
        } else {
            Activation::cat(&wanted, D::Minus1)?
        };
        if self.class_token {
            Ok(features)
        } else {
            features.narrow(1, 1, side * side)?.contiguous()
        }
    }
}

/// Two dense layers with an activation between them.
#[derive(Clone, Debug)]
pub(super) struct Projector {
    linear_1: Linear,
    linear_2: Linear,
    act: HiddenAct,
}

impl Projector {
    /// Reads the tensors below `vb`.
    pub(super) fn load(config: &LlavaConfig, vb: &Params) -> Result<Self> {
        let input = config.vision.hidden_size * config.feature_states.len();
        let width = config.decoder.hidden_size;
        let linear = |input: usize, name: &str| {
            let vb = vb.pp(name);
            if config.projector_bias {
                Linear::load(input, width, &vb)
            } else {
                Linear::load_no_bias(input, width, &vb)
            }
        };
        Ok(Self {
            linear_1: linear(input, "linear_1")?,
            linear_2: linear(width, "linear_2")?,
            act: config.projector_act,
        })
    }

    /// `[B, N, features]` → `[B, N, width of the decoder]`.
    pub(super) fn forward(&self, x: &Activation) -> Result<Activation> {
        let h = self.linear_1.forward(x)?;
        let h = match self.act {
            HiddenAct::Gelu => gelu(&h)?,
            HiddenAct::QuickGelu => quick_gelu(&h)?,
        };
        self.linear_2.forward(&h)
    }
}
