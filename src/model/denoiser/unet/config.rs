//! `unet/config.json` of a diffusers folder, resolved: per-level lists expanded, the naming slips
//! of the format undone, and every field that would change the mathematics in a way this
//! implementation does not have refused by name. Keys that diffusers itself does not know are
//! ignored, as diffusers does.

use serde_json::{Map, Value};

use super::error::UNetError;
use crate::{model::denoiser::control::ControlShape, ranges};

/// More than any UNet of the family has.
const MAX_LEVELS: usize = 8;

/// The resolved architecture of a [`UNet2DConditionModel`](super::UNet2DConditionModel).
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    /// native size in latent pixels, height and width
    pub sample_size: Option<(usize, usize)>,
    /// from fine to coarse
    pub down: Vec<LevelConfig>,
    pub mid: Option<MidConfig>,
    /// from coarse to fine
    pub up: Vec<LevelConfig>,
    pub time: TimeConfig,
    pub added: Option<TextTimeConfig>,
    pub norm_groups: usize,
    pub norm_eps: f64,
    pub conv_in_kernel: usize,
    pub conv_out_kernel: usize,
    /// 1, or 0 for diffusers' one-sided padding of the far edges
    pub downsample_padding: usize,
    /// `proj_in`/`proj_out` of the transformers are dense layers, not 1×1 convolutions
    pub use_linear_projection: bool,
    /// attention scores in f32 whatever the working precision
    pub upcast_attention: bool,
}

/// One resolution of the encoder or the decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct LevelConfig {
    pub channels: usize,
    /// residual blocks; the decoder has one more than the encoder
    pub resnets: usize,
    /// the transformer after each residual block, of a `CrossAttn…Block2D`
    pub transformer: Option<TransformerConfig>,
}

/// Residual block, transformer, residual block at the coarsest level.
#[derive(Clone, Debug, PartialEq)]
pub struct MidConfig {
    pub channels: usize,
    pub transformer: TransformerConfig,
}

/// One `Transformer2DModel`.
#[derive(Clone, Debug, PartialEq)]
pub struct TransformerConfig {
    /// basic transformer blocks in a row
    pub depth: usize,
    pub heads: usize,
    /// width of the text tokens
    pub context_width: usize,
}

/// The sinusoidal features of a timestep and the small network behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeConfig {
    /// sinusoidal features
    pub features: usize,
    /// width of the embedding that every residual block sees
    pub width: usize,
    /// cosines before sines
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    /// sinusoidal features of the strength of guidance, for a model that is given it (`time_cond_proj_dim`)
    pub guidance_features: Option<usize>,
}

/// SDXL's added conditioning: the pooled text embedding and six numbers (sizes and crop).
#[derive(Clone, Debug, PartialEq)]
pub struct TextTimeConfig {
    /// sinusoidal features of each of the numbers
    pub features: usize,
    /// width of the pooled embedding and all features together
    pub input_width: usize,
}

impl UNetConfig {
    /// Reads the text of a `config.json`; a key that is missing takes diffusers' default.
    ///
    /// # Errors
    /// Text that is not a JSON object, a field of the wrong type, lists of lengths that do not fit
    /// together, or a field that asks for something unsupported; each names the field.
    pub fn from_json(text: &str) -> Result<Self, UNetError> {
        let root: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| UNetError::Json(error.to_string()))?;
        Self::resolve(&Fields(&root))
    }

    /// Reads a parsed configuration as [`from_json`](Self::from_json) does.
    ///
    /// # Errors
    /// As [`from_json`](Self::from_json).
    pub fn from_value(config: &Value) -> Result<Self, UNetError> {
        match config {
            Value::Object(root) => Self::resolve(&Fields(root)),
            other => Err(UNetError::Json(format!("{other}"))),
        }
    }

    fn resolve(fields: &Fields) -> Result<Self, UNetError> {
        ranges::check_object(fields.0)?;
        fields.refuse_unsupported()?;

        let channels = fields.list("block_out_channels", &[320, 640, 1280, 1280])?;
        let levels = channels.len();
        if levels == 0 {
            return Err(fields.invalid("block_out_channels", "has no level"));
        }
        if levels > MAX_LEVELS {
            let reason = format!("has {levels} levels, more than {MAX_LEVELS}");
            return Err(fields.invalid("block_out_channels", &reason));
        }
        let resnets = fields.per_level("layers_per_block", levels, 2)?;
        let depths = fields.per_level("transformer_layers_per_block", levels, 1)?;
        let context_widths = fields.per_level("cross_attention_dim", levels, 1280)?;
        // diffusers named the number of heads `attention_head_dim` by mistake and kept it.
        let heads_field = if fields.get("num_attention_heads").is_some() {
            "num_attention_heads"
        } else {
            "attention_head_dim"
        };
        let heads = fields.per_level(heads_field, levels, 8)?;
        for (level, (&channels, &heads)) in channels.iter().zip(&heads).enumerate() {
            if heads == 0 || !channels.is_multiple_of(heads) {
                let reason = format!("{heads} heads do not divide {channels} (level {level})");
                return Err(fields.invalid(heads_field, &reason));
            }
        }
        let transformer = |level: usize| TransformerConfig {
            depth: depths[level],
            heads: heads[level],
            context_width: context_widths[level],
        };

        let cross = "CrossAttnDownBlock2D";
        let default_down = [cross, cross, cross, "DownBlock2D"];
        let down_attends =
            fields.block_types("down_block_types", levels, &default_down, cross, "DownBlock2D")?;
        let cross = "CrossAttnUpBlock2D";
        let default_up = ["UpBlock2D", cross, cross, cross];
        let up_attends =
            fields.block_types("up_block_types", levels, &default_up, cross, "UpBlock2D")?;
        let down = (0..levels)
            .map(|level| LevelConfig {
                channels: channels[level],
                resnets: resnets[level],
                transformer: down_attends[level].then(|| transformer(level)),
            })
            .collect();
        let up = (0..levels)
            .rev()
            .zip(&up_attends)
            .map(|(level, &attends)| LevelConfig {
                channels: channels[level],
                resnets: resnets[level] + 1,
                transformer: attends.then(|| transformer(level)),
            })
            .collect();
        let coarsest = levels - 1;
        let mid = match fields.0.get("mid_block_type") {
            Some(Value::Null) => None,
            Some(other) if other != "UNetMidBlock2DCrossAttn" => {
                return Err(fields.unsupported("mid_block_type"));
            }
            _ => {
                Some(MidConfig { channels: channels[coarsest], transformer: transformer(coarsest) })
            }
        };

        let time = TimeConfig {
            features: channels[0],
            width: fields.optional_size("time_embedding_dim")?.unwrap_or(4 * channels[0]),
            flip_sin_to_cos: fields.flag("flip_sin_to_cos", true)?,
            freq_shift: fields.number("freq_shift", 0.0)?,
            guidance_features: fields.optional_size("time_cond_proj_dim")?,
        };
        let added = match fields.get("addition_embed_type") {
            None => None,
            Some(kind) if kind == "text_time" => Some(TextTimeConfig {
                features: fields.needed("addition_time_embed_dim")?,
                input_width: fields.needed("projection_class_embeddings_input_dim")?,
            }),
            Some(_) => return Err(fields.unsupported("addition_embed_type")),
        };
        let odd_kernel = |name: &str| {
            let kernel = fields.size(name, 3)?;
            if kernel % 2 == 1 { Ok(kernel) } else { Err(fields.unsupported(name)) }
        };
        let in_channels = fields.size("in_channels", 4)?;
        let out_channels = fields.size("out_channels", 4)?;
        let norm_groups = fields.size("norm_num_groups", 32)?;
        let downsample_padding = fields.size("downsample_padding", 1)?;
        if downsample_padding > 1 {
            return Err(fields.unsupported("downsample_padding"));
        }

        Ok(Self {
            in_channels,
            out_channels,
            sample_size: fields.sample_size()?,
            down,
            mid,
            up,
            time,
            added,
            norm_groups,
            norm_eps: fields.number("norm_eps", 1e-5)?,
            conv_in_kernel: odd_kernel("conv_in_kernel")?,
            conv_out_kernel: odd_kernel("conv_out_kernel")?,
            downsample_padding,
            use_linear_projection: fields.flag("use_linear_projection", false)?,
            upcast_attention: fields.flag("upcast_attention", false)?,
        })
    }

    /// Heights and widths of the cross-attention layers in visiting order, for a picture of
    /// `height × width` latent pixels: the shapes that [`Prior`](crate::model::denoiser::Prior) speaks of.
    #[must_use]
    pub fn cross_attention_sizes(&self, height: usize, width: usize) -> Vec<(usize, usize)> {
        // The k-th halving rounds up.
        let size_at = |level: usize| (height.div_ceil(1 << level), width.div_ceil(1 << level));
        let levels = self.down.len();
        let mut sizes = Vec::new();
        let mut push = |level: usize, layers: usize, transformer: Option<&TransformerConfig>| {
            let visits = layers * transformer.map_or(0, |transformer| transformer.depth);
            sizes.extend(std::iter::repeat_n(size_at(level), visits));
        };
        for (level, block) in self.down.iter().enumerate() {
            push(level, block.resnets, block.transformer.as_ref());
        }
        if let Some(mid) = &self.mid {
            push(levels - 1, 1, Some(&mid.transformer));
        }
        for (block, level) in self.up.iter().zip((0..levels).rev()) {
            push(level, block.resnets, block.transformer.as_ref());
        }
        sizes
    }

    /// Shape of a control for it, whose picture has `factor` pixels for each side of a latent pixel.
    #[must_use]
    pub fn control_shape(&self, factor: usize) -> ControlShape {
        let mut skips: Vec<usize> =
            self.down.first().map(|level| level.channels).into_iter().collect();
        for (index, level) in self.down.iter().enumerate() {
            let downsample = usize::from(index + 1 < self.down.len());
            skips.extend(std::iter::repeat_n(level.channels, level.resnets + downsample));
        }
        let attends = self.down.iter().find_map(|level| level.transformer.as_ref());
        let attends = attends.or(self.mid.as_ref().map(|mid| &mid.transformer));
        ControlShape {
            inputs: self.in_channels,
            context: attends.map(|transformer| transformer.context_width),
            added: self.added.as_ref().map(|added| added.input_width),
            skips,
            middle: self.mid.as_ref().map_or(0, |mid| mid.channels),
            factor,
        }
    }

    /// Product of the strides on the way down: heights and widths in latent pixels that are multiples
    /// of it need no special treatment of edges.
    #[must_use]
    pub fn total_stride(&self) -> usize {
        1 << (self.down.len() - 1)
    }
}

/// A JSON object read field by field, so that every error names its field.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    /// Refuses every field of diffusers' configuration whose value would change the mathematics in
    /// a way that is not implemented.
    fn refuse_unsupported(&self) -> Result<(), UNetError> {
        for name in [
            "class_embed_type",
            "class_embeddings_concat",
            "center_input_sample",
            "cross_attention_norm",
            "dual_cross_attention",
            "encoder_hid_dim",
            "encoder_hid_dim_type",
            "num_class_embeds",
            "resnet_skip_time_act",
            "reverse_transformer_layers_per_block",
            "time_embedding_act_fn",
            "timestep_post_act",
        ] {
            if self.get(name).is_some_and(|value| *value != Value::Bool(false)) {
                return Err(self.unsupported(name));
            }
        }
        for (name, only) in [
            ("attention_type", "default"),
            ("resnet_time_scale_shift", "default"),
            ("time_embedding_type", "positional"),
        ] {
            if self.get(name).is_some_and(|value| value != only) {
                return Err(self.unsupported(name));
            }
        }
        for name in ["mid_block_scale_factor", "resnet_out_scale_factor"] {
            if self.number(name, 1.0)? != 1.0 {
                return Err(self.unsupported(name));
            }
        }
        // `swish` is diffusers' other name of SiLU.
        if self.get("act_fn").is_some_and(|value| value != "silu" && value != "swish") {
            return Err(self.unsupported("act_fn"));
        }
        for name in ["only_cross_attention", "mid_block_only_cross_attention"] {
            let off = match self.get(name) {
                None | Some(Value::Bool(false)) => true,
                Some(Value::Array(levels)) => levels.iter().all(|level| *level == false),
                Some(_) => false,
            };
            if !off {
                return Err(self.unsupported(name));
            }
        }
        // Present but null, these mean "no norm" and "no text", not the default.
        for name in ["norm_num_groups", "cross_attention_dim"] {
            if self.0.get(name).is_some_and(Value::is_null) {
                return Err(self.unsupported(name));
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, UNetError> {
        self.get(name).map_or(Ok(default), |value| {
            value.as_bool().ok_or_else(|| self.invalid(name, "is not true or false"))
        })
    }

    fn number(&self, name: &str, default: f64) -> Result<f64, UNetError> {
        self.get(name).map_or(Ok(default), |value| {
            value.as_f64().ok_or_else(|| self.invalid(name, "is not a number"))
        })
    }

    fn optional_size(&self, name: &str) -> Result<Option<usize>, UNetError> {
        self.get(name).map(|value| self.one_size(name, value)).transpose()
    }

    fn size(&self, name: &str, default: usize) -> Result<usize, UNetError> {
        Ok(self.optional_size(name)?.unwrap_or(default))
    }

    fn needed(&self, name: &str) -> Result<usize, UNetError> {
        self.optional_size(name)?.ok_or_else(|| self.invalid(name, "is missing"))
    }

    fn one_size(&self, name: &str, value: &Value) -> Result<usize, UNetError> {
        value
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| self.invalid(name, "is not a whole number"))
    }

    fn list(&self, name: &str, default: &[usize]) -> Result<Vec<usize>, UNetError> {
        let Some(value) = self.get(name) else { return Ok(default.to_vec()) };
        let entries = value.as_array().ok_or_else(|| self.invalid(name, "is not a list"))?;
        entries.iter().map(|entry| self.one_size(name, entry)).collect()
    }

    /// One number for all levels, or a list with one for each.
    fn per_level(
        &self,
        name: &str,
        levels: usize,
        default: usize,
    ) -> Result<Vec<usize>, UNetError> {
        match self.get(name) {
            Some(Value::Array(_)) => {
                let list = self.list(name, &[])?;
                self.check_length(name, list.len(), levels)?;
                Ok(list)
            }
            _ => Ok(vec![self.size(name, default)?; levels]),
        }
    }

    /// `true` for each level whose block has transformers.
    fn block_types(
        &self,
        name: &str,
        levels: usize,
        default: &[&str],
        with_attention: &str,
        without: &str,
    ) -> Result<Vec<bool>, UNetError> {
        let types = match self.get(name) {
            None => default.to_vec(),
            Some(Value::Array(list)) => {
                list.iter().map(|kind| kind.as_str().unwrap_or_default()).collect()
            }
            Some(_) => return Err(self.invalid(name, "is not a list")),
        };
        self.check_length(name, types.len(), levels)?;
        types
            .into_iter()
            .map(|kind| match kind {
                kind if kind == with_attention => Ok(true),
                kind if kind == without => Ok(false),
                _ => Err(self.unsupported(name)),
            })
            .collect()
    }

    fn sample_size(&self) -> Result<Option<(usize, usize)>, UNetError> {
        if !matches!(self.get("sample_size"), Some(Value::Array(_))) {
            return Ok(self.optional_size("sample_size")?.map(|side| (side, side)));
        }
        match self.list("sample_size", &[])?[..] {
            [height, width] => Ok(Some((height, width))),
            _ => Err(self.invalid("sample_size", "is neither one number nor two")),
        }
    }

    fn check_length(&self, name: &str, length: usize, levels: usize) -> Result<(), UNetError> {
        if length == levels {
            return Ok(());
        }
        let reason = format!("has {length} entries for the {levels} of block_out_channels");
        Err(self.invalid(name, &reason))
    }

    fn invalid(&self, field: &str, reason: &str) -> UNetError {
        UNetError::Invalid { field: field.to_owned(), reason: reason.to_owned() }
    }

    fn unsupported(&self, field: &str) -> UNetError {
        let value = self.0.get(field).map_or_else(|| "null".to_owned(), Value::to_string);
        UNetError::Unsupported { field: field.to_owned(), value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_no_model_has_are_refused_before_anything_is_allocated() {
        for (field, value) in [
            ("layers_per_block", "1000000000000"),
            ("layers_per_block", "0"),
            ("layers_per_block", "[2, 2, 2, 65]"),
            ("transformer_layers_per_block", "4294967296"),
            ("block_out_channels", "[320, 640, 1280, 0]"),
            ("block_out_channels", "[1, 1, 1, 1, 1, 1, 1, 1, 1]"),
            ("cross_attention_dim", "18446744073709551615"),
            ("time_embedding_dim", "1000000"),
            ("in_channels", "0"),
            ("out_channels", "99999999"),
            ("norm_num_groups", "0"),
            ("conv_in_kernel", "1001"),
        ] {
            let config = format!("{{\"{field}\": {value}}}");
            let error = UNetConfig::from_json(&config).unwrap_err().to_string();
            assert!(error.starts_with(&format!("unet config: `{field}` ")), "{error}");
        }
    }
}
