//! `config.json` of a ControlNet: that of the UNet whose encoder it copies, and what it has of its own. As in the UNet's,
//! every field that would change the mathematics in a way that is not implemented is refused by name.

use serde_json::{Map, Value};

use super::{config::UNetConfig, error::UNetError};
use crate::ranges;

/// Channels of what a picture is made of: red, green, blue.
pub(super) const PICTURE_CHANNELS: usize = 3;

/// Channels of the picture's embedding where nothing says others, in a `ControlNetModel` and in a `ControlNetUnionModel`.
const EMBEDDING_CHANNELS: [u64; 4] = [16, 32, 96, 256];
const UNION_EMBEDDING_CHANNELS: [u64; 4] = [48, 96, 192, 384];

/// More sizes of the picture on its way than any ControlNet has.
const MAX_SIZES: usize = 8;

/// The resolved architecture of a [`ControlNetModel`](super::ControlNetModel).
#[derive(Clone, Debug, PartialEq)]
pub struct ControlNetConfig {
    /// the UNet that it was made for, of which it has the encoder and the middle
    pub unet: UNetConfig,
    /// channels of the picture's embedding, from fine to coarse: each after the first halves the picture
    pub embedding_channels: Vec<usize>,
    /// it takes blue before green and red
    pub blue_first: bool,
    /// what a `ControlNetUnionModel` has besides
    pub union: Option<UnionConfig>,
}

/// A ControlNet for pictures of several kinds.
#[derive(Clone, Debug, PartialEq)]
pub struct UnionConfig {
    /// kinds of pictures
    pub types: usize,
    /// sinusoidal features of each kind's switch
    pub features: usize,
    /// layers of the transformer over the pictures' means
    pub layers: usize,
}

impl ControlNetConfig {
    /// Reads a parsed `config.json` of a `ControlNetModel`, or of a `ControlNetUnionModel` where `is_union`; a key that is
    /// missing takes diffusers' default.
    ///
    /// # Errors
    /// As [`UNetConfig::from_value`].
    pub fn from_value(config: &Value, is_union: bool) -> Result<Self, UNetError> {
        let Value::Object(root) = config else {
            return Err(UNetError::Json(format!("{config}")));
        };
        ranges::check_object(root)?;
        let mut encoder = root.clone();
        // The decoder is not there; where a level attends on the way down it would on the way up.
        if let Some(Value::Array(down)) = root.get("down_block_types") {
            let up = down.iter().rev().map(|kind| match kind.as_str() {
                Some(kind) => kind.replace("Down", "Up").into(),
                None => kind.clone(),
            });
            encoder.insert("up_block_types".to_owned(), up.collect());
        }
        let unet = UNetConfig::from_value(&Value::Object(encoder))?;
        if unet.mid.is_none() {
            return Err(unsupported(root, "mid_block_type"));
        }
        // A control beside a model that is given its guidance is not given it.
        if unet.time.guidance_features.is_some() {
            return Err(unsupported(root, "time_cond_proj_dim"));
        }
        for (name, only) in [
            ("conditioning_channels", Value::from(PICTURE_CHANNELS)),
            ("global_pool_conditions", Value::from(false)),
        ] {
            if root.get(name).is_some_and(|value| !value.is_null() && *value != only) {
                return Err(unsupported(root, name));
            }
        }
        let order = root.get("controlnet_conditioning_channel_order").and_then(Value::as_str);
        let blue_first = match order {
            None | Some("rgb") => false,
            Some("bgr") if !is_union => true,
            Some(_) => return Err(unsupported(root, "controlnet_conditioning_channel_order")),
        };
        let default = if is_union { &UNION_EMBEDDING_CHANNELS } else { &EMBEDDING_CHANNELS };
        let embedding_channels = match root.get("conditioning_embedding_out_channels") {
            None | Some(Value::Null) => default.iter().map(|&channels| channels as usize).collect(),
            Some(Value::Array(list)) if (1..=MAX_SIZES).contains(&list.len()) => list
                .iter()
                .map(|entry| whole("conditioning_embedding_out_channels", entry))
                .collect::<Result<Vec<_>, _>>()?,
            Some(_) => return Err(unsupported(root, "conditioning_embedding_out_channels")),
        };
        let union = if is_union { Some(UnionConfig::resolve(root, &unet)?) } else { None };
        Ok(Self { unet, embedding_channels, blue_first, union })
    }

    /// Pixels of the picture for each side of a latent pixel.
    #[must_use]
    pub fn factor(&self) -> usize {
        1 << (self.embedding_channels.len() - 1)
    }
}

impl UnionConfig {
    fn resolve(root: &Map<String, Value>, unet: &UNetConfig) -> Result<Self, UNetError> {
        let size = |name: &str, default: usize| match root.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => whole(name, value),
        };
        // The means of features are summed with what the transformer makes, and that with features.
        let first = unet.down.first().map_or(0, |level| level.channels);
        for name in ["num_trans_channel", "num_proj_channel"] {
            if size(name, 320)? != first {
                return Err(UNetError::Invalid {
                    field: name.to_owned(),
                    reason: format!(
                        "is {}, the first level has {first} channels",
                        size(name, 320)?
                    ),
                });
            }
        }
        let missing = || UNetError::Invalid {
            field: "addition_time_embed_dim".to_owned(),
            reason: "is missing".to_owned(),
        };
        let features = size("addition_time_embed_dim", 0)?;
        Ok(Self {
            types: size("num_control_type", 6)?,
            features: Some(features).filter(|&features| features > 0).ok_or_else(missing)?,
            layers: size("num_trans_layer", 1)?,
        })
    }
}

fn whole(name: &str, value: &Value) -> Result<usize, UNetError> {
    value.as_u64().and_then(|size| usize::try_from(size).ok()).ok_or_else(|| UNetError::Invalid {
        field: name.to_owned(),
        reason: "is not a whole number".to_owned(),
    })
}

fn unsupported(root: &Map<String, Value>, field: &str) -> UNetError {
    let value = root.get(field).map_or_else(|| "null".to_owned(), Value::to_string);
    UNetError::Unsupported { field: field.to_owned(), value }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_control_has_of_its_own_is_read_or_refused_by_name() {
        let sdxl = json!({
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "attention_head_dim": [5, 10, 20],
            "cross_attention_dim": 2048,
            "num_attention_heads": null,
            "num_control_type": 8,
        });
        let read = |change: (&str, Value), is_union: bool| {
            let mut config = sdxl.clone();
            config[change.0] = change.1;
            ControlNetConfig::from_value(&config, is_union)
        };
        let plain = read(("upcast_attention", Value::Null), false).unwrap();
        assert_eq!((plain.factor(), plain.unet.down.len(), plain.union), (8, 3, None));
        let union = read(("upcast_attention", Value::Null), true).unwrap();
        assert_eq!(union.union, Some(UnionConfig { types: 8, features: 256, layers: 1 }));
        assert_eq!(union.embedding_channels, [48, 96, 192, 384]);
        assert!(
            read(("controlnet_conditioning_channel_order", json!("bgr")), false)
                .unwrap()
                .blue_first
        );
        for (field, value, is_union) in [
            ("global_pool_conditions", json!(true), false),
            ("conditioning_channels", json!(4), false),
            ("controlnet_conditioning_channel_order", json!("bgr"), true),
            ("conditioning_embedding_out_channels", json!([]), false),
            ("conditioning_embedding_out_channels", json!([4, 4, 4, 4, 4, 4, 4, 4, 4]), false),
            ("mid_block_type", json!("UNetMidBlock2DSimpleCrossAttn"), false),
            ("mid_block_type", Value::Null, false),
            ("num_trans_channel", json!(64), true),
            ("num_control_type", json!(1e9), true),
            ("num_class_embeds", json!(8), false),
            ("time_cond_proj_dim", json!(256), false),
        ] {
            let error = read((field, value), is_union).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{field}: {error}");
        }
    }
}
