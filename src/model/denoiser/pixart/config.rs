//! `transformer/config.json` of PixArt, checked: a field that would change the mathematics in a way that is not
//! implemented is refused by name. Missing fields are the defaults of their class.
//!
//! Source: diffusers `models/transformers/{pixart_transformer_2d,transformer_2d}.py`.

use serde::Deserialize;
use serde_json::Value;

use super::error::PixArtError;
use crate::ranges;

/// Native side, in latent pixels, of the models that have size micro-conditioning where nothing says otherwise.
const SIZE_CONDITIONED_SIDE: usize = 128;

/// The class that a configuration is of, whose defaults hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixArtClass {
    /// `PixArtTransformer2DModel`
    PixArt,
    /// `Transformer2DModel`, of which PixArt was one kind before it had a class of its own
    Transformer2D,
}

/// The checked architecture of a [`PixArtTransformer2DModel`](super::PixArtTransformer2DModel).
#[derive(Clone, Debug, PartialEq)]
pub struct PixArtConfig {
    /// channels of a latent
    pub in_channels: usize,
    /// channels of the output: those of a latent, or twice as many, of which the second half (a learned sigma) is dropped
    pub out_channels: usize,
    pub num_layers: usize,
    pub heads: usize,
    pub head_width: usize,
    /// side of the square that it was trained on, in latent pixels
    pub sample_size: usize,
    pub patch_size: usize,
    /// positions are divided by it
    pub interpolation_scale: f64,
    /// takes size and aspect ratio of the picture
    pub size_conditioned: bool,
    /// width of the text states; without a projection that of the cross-attention
    pub text_width: usize,
    /// a small network stands between the text states and the blocks
    pub projects_text: bool,
    pub cross_attention_width: usize,
    /// queries, keys and values have a bias
    pub attention_bias: bool,
    /// attention scores in f32 whatever the working precision
    pub upcast_attention: bool,
    pub norm_eps: f64,
}

#[derive(Deserialize)]
struct RawConfig {
    num_attention_heads: Option<usize>,
    attention_head_dim: Option<usize>,
    in_channels: Option<usize>,
    /// absent: the class's default; null: as many as go in
    #[serde(default, deserialize_with = "present")]
    out_channels: Option<Option<usize>>,
    num_layers: Option<usize>,
    #[serde(default, deserialize_with = "present")]
    cross_attention_dim: Option<Option<usize>>,
    attention_bias: Option<bool>,
    sample_size: Option<usize>,
    patch_size: Option<usize>,
    activation_fn: Option<String>,
    upcast_attention: Option<bool>,
    norm_type: Option<String>,
    norm_elementwise_affine: Option<bool>,
    norm_eps: Option<f64>,
    interpolation_scale: Option<f64>,
    use_additional_conditions: Option<bool>,
    caption_channels: Option<usize>,
    attention_type: Option<String>,
    only_cross_attention: Option<bool>,
    double_self_attention: Option<bool>,
    num_vector_embeds: Option<usize>,
    // Refused where they are there: no file of diffusers has them, those of PixArt's own code do.
    qk_norm: Option<bool>,
    kv_compress_config: Option<Value>,
}

/// Tells a field that is null from one that is not there.
fn present<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<Option<usize>>, D::Error> {
    Option::deserialize(field).map(Some)
}

impl PixArtConfig {
    /// Reads a parsed `config.json` of this class.
    ///
    /// # Errors
    /// A field of the wrong type, out of its range, missing, or one that asks for something unsupported; each names the
    /// field.
    pub fn from_value(class: PixArtClass, config: &Value) -> Result<Self, PixArtError> {
        ranges::check(config)?;
        let raw =
            RawConfig::deserialize(config).map_err(|error| PixArtError::Json(error.to_string()))?;
        raw.refuse_unsupported(class)?;
        let is_pixart = class == PixArtClass::PixArt;
        let needed = |field: &'static str, value: Option<usize>, default: usize| match value
            .or(is_pixart.then_some(default))
        {
            None => Err(PixArtError::Missing(field)),
            Some(0) => Err(unsupported(field, "0", "1 or more")),
            Some(value) => Ok(value),
        };
        let in_channels = needed("in_channels", raw.in_channels, 4)?;
        let default_out = if is_pixart { 8 } else { in_channels };
        let out_channels = raw.out_channels.unwrap_or(Some(default_out)).unwrap_or(in_channels);
        if out_channels != in_channels && out_channels != 2 * in_channels {
            let supported = "`in_channels`, or twice as many for a learned sigma";
            return Err(unsupported("out_channels", out_channels, supported));
        }
        let heads = raw.num_attention_heads.unwrap_or(16);
        let head_width = raw.attention_head_dim.unwrap_or(if is_pixart { 72 } else { 88 });
        // Half of the channels are for each axis, and half of those for sines.
        if heads == 0 || head_width == 0 || !(heads * head_width).is_multiple_of(4) {
            let supported = "heads whose widths together are a multiple of 4";
            return Err(unsupported("attention_head_dim", head_width, supported));
        }
        let width = heads * head_width;
        let sample_size = needed("sample_size", raw.sample_size, 128)?;
        let patch_size = needed("patch_size", raw.patch_size, 2)?;
        if !sample_size.is_multiple_of(patch_size) {
            return Err(unsupported("patch_size", patch_size, "a divisor of `sample_size`"));
        }
        let size_conditioned =
            raw.use_additional_conditions.unwrap_or(sample_size == SIZE_CONDITIONED_SIDE);
        if size_conditioned && !width.is_multiple_of(3) {
            let supported = "widths that three numbers share, for `use_additional_conditions`";
            return Err(unsupported("attention_head_dim", head_width, supported));
        }
        let default_cross = is_pixart.then_some(1152);
        let Some(cross_attention_width) = raw.cross_attention_dim.unwrap_or(default_cross) else {
            return Err(unsupported("cross_attention_dim", "null", "a width"));
        };
        if cross_attention_width == 0 {
            return Err(unsupported("cross_attention_dim", "0", "a width"));
        }
        if raw.caption_channels.is_some() && cross_attention_width != width {
            let supported = "the width of the blocks, for `caption_channels`";
            return Err(unsupported("cross_attention_dim", cross_attention_width, supported));
        }
        let interpolation_scale =
            raw.interpolation_scale.unwrap_or_else(|| (sample_size / 64).max(1) as f64);
        Ok(Self {
            in_channels,
            out_channels,
            num_layers: raw.num_layers.unwrap_or(if is_pixart { 28 } else { 1 }),
            heads,
            head_width,
            sample_size,
            patch_size,
            interpolation_scale,
            size_conditioned,
            text_width: raw.caption_channels.unwrap_or(cross_attention_width),
            projects_text: raw.caption_channels.is_some(),
            cross_attention_width,
            attention_bias: raw.attention_bias.unwrap_or(is_pixart),
            upcast_attention: raw.upcast_attention.unwrap_or(false),
            norm_eps: raw.norm_eps.unwrap_or(if is_pixart { 1e-6 } else { 1e-5 }),
        })
    }

    /// Width of the blocks.
    #[must_use]
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }
}

impl RawConfig {
    /// Refuses every field whose value would change the mathematics in a way that is not implemented. Dropout, numbers
    /// of norm groups and embeddings, and projections of other kinds of input play no part.
    fn refuse_unsupported(&self, class: PixArtClass) -> Result<(), PixArtError> {
        let is_pixart = class == PixArtClass::PixArt;
        let text = |own: &Option<String>, pixart: &str, other: &str| {
            own.clone().unwrap_or_else(|| if is_pixart { pixart } else { other }.to_owned())
        };
        for (field, value, only) in [
            (
                "norm_type",
                text(&self.norm_type, "ada_norm_single", "layer_norm"),
                "ada_norm_single",
            ),
            (
                "activation_fn",
                text(&self.activation_fn, "gelu-approximate", "geglu"),
                "gelu-approximate",
            ),
            ("attention_type", text(&self.attention_type, "default", "default"), "default"),
        ] {
            if value != only {
                return Err(unsupported(field, value, only));
            }
        }
        for (field, value) in [
            ("norm_elementwise_affine", self.norm_elementwise_affine.unwrap_or(!is_pixart)),
            ("only_cross_attention", self.only_cross_attention.unwrap_or(false)),
            ("double_self_attention", self.double_self_attention.unwrap_or(false)),
            ("qk_norm", self.qk_norm.unwrap_or(false)),
        ] {
            if value {
                return Err(unsupported(field, "true", "false"));
            }
        }
        if let Some(count) = self.num_vector_embeds {
            return Err(unsupported("num_vector_embeds", count, "null"));
        }
        if let Some(value) = &self.kv_compress_config {
            return Err(unsupported("kv_compress_config", value, "null"));
        }
        Ok(())
    }
}

fn unsupported(field: &'static str, value: impl ToString, supported: &'static str) -> PixArtError {
    PixArtError::Unsupported { field, value: value.to_string(), supported }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: &Value) -> Result<PixArtConfig, PixArtError> {
        PixArtConfig::from_value(PixArtClass::PixArt, config)
    }

    /// PixArt-alpha/PixArt-XL-2-1024-MS, transformer/config.json.
    fn alpha() -> Value {
        json!({"_class_name": "Transformer2DModel", "activation_fn": "gelu-approximate",
            "attention_bias": true, "attention_head_dim": 72, "attention_type": "default",
            "caption_channels": 4096, "cross_attention_dim": 1152, "double_self_attention": false,
            "dropout": 0.0, "in_channels": 4, "norm_elementwise_affine": false, "norm_eps": 1e-6,
            "norm_num_groups": 32, "norm_type": "ada_norm_single", "num_attention_heads": 16,
            "num_embeds_ada_norm": 1000, "num_layers": 28, "num_vector_embeds": null,
            "only_cross_attention": false, "out_channels": 8, "patch_size": 2, "sample_size": 128,
            "upcast_attention": false, "use_linear_projection": false})
    }

    #[test]
    fn published_configurations_read_as_their_models_are() {
        let alpha = PixArtConfig::from_value(PixArtClass::Transformer2D, &alpha()).unwrap();
        assert!(alpha.size_conditioned && alpha.projects_text && alpha.attention_bias);
        assert_eq!((alpha.width(), alpha.out_channels, alpha.text_width), (1152, 8, 4096));
        assert_eq!(alpha.interpolation_scale, 2.0);
        // PixArt-alpha/PixArt-Sigma-XL-2-1024-MS has the fields of the newer class.
        let sigma = read(&json!({"caption_channels": 4096, "interpolation_scale": 2,
            "use_additional_conditions": false}))
        .unwrap();
        assert_eq!(sigma, PixArtConfig { size_conditioned: false, ..alpha });
        let small = read(&json!({"caption_channels": 4096, "sample_size": 64})).unwrap();
        assert_eq!((small.interpolation_scale, small.size_conditioned), (1.0, false));
    }

    #[test]
    fn fields_that_change_the_mathematics_are_refused_by_name() {
        for (field, value) in [
            ("norm_type", json!("ada_norm_zero")),
            ("activation_fn", json!("geglu")),
            ("attention_type", json!("gated")),
            ("norm_elementwise_affine", json!(true)),
            ("only_cross_attention", json!(true)),
            ("double_self_attention", json!(true)),
            ("num_vector_embeds", json!(12)),
            ("qk_norm", json!(true)),
            ("kv_compress_config", json!({"sampling": "conv"})),
            ("out_channels", json!(5)),
            ("cross_attention_dim", json!(null)),
            ("cross_attention_dim", json!(1024)),
            ("patch_size", json!(3)),
            ("patch_size", json!(0)),
            ("attention_head_dim", json!(0)),
            ("attention_head_dim", json!(32)),
            ("num_layers", json!(100_000)),
            ("interpolation_scale", json!(0)),
        ] {
            let mut config = alpha();
            config[field] = value.clone();
            let error = read(&config).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}`")), "{field} = {value}: {error}");
        }
        let error = PixArtConfig::from_value(PixArtClass::Transformer2D, &json!({})).unwrap_err();
        assert!(error.to_string().contains("`norm_type` = layer_norm"), "{error}");
        let error = read(&json!([])).unwrap_err().to_string();
        assert!(error.starts_with("pixart config: "), "{error}");
    }
}
