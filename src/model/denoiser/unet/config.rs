//! `unet/config.json` of a diffusers folder, resolved: per-level lists expanded, the naming slips
//! of the format undone, and every field that would change the mathematics in a way this
//! implementation does not have refused by name. Keys that diffusers itself does not know are
//! ignored, as diffusers does.

use serde_json::{Map, Value};

use super::error::UNetError;
use super::fields::Fields;
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
    /// the transformer after each residual block, of a `CrossAttn…Block2D`; else none
    pub transformers: Vec<TransformerConfig>,
}

/// Residual block, transformer, residual block at the coarsest level.
#[derive(Clone, Debug, PartialEq)]
pub struct MidConfig {
    pub channels: usize,
    /// without one, there is the first residual block alone (`UNetMidBlock2D`: SSD-1B, Segmind Vega)
    pub transformer: Option<TransformerConfig>,
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
        let depths = fields.depths("transformer_layers_per_block", &resnets)?;
        let up_resnets: Vec<usize> = resnets.iter().rev().map(|resnets| resnets + 1).collect();
        let up_depths = fields.up_depths(&depths, &up_resnets)?;
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
        let transformer = |level: usize, depth: usize| TransformerConfig {
            depth,
            heads: heads[level],
            context_width: context_widths[level],
        };
        let transformers = |level: usize, attends: bool, depths: &[usize]| {
            let depths = if attends { depths } else { &[] };
            depths.iter().map(|&depth| transformer(level, depth)).collect()
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
                transformers: transformers(level, down_attends[level], &depths[level]),
            })
            .collect();
        let up = (0..levels)
            .rev()
            .zip(up_attends.iter().zip(&up_depths))
            .map(|(level, (&attends, depths))| LevelConfig {
                channels: channels[level],
                resnets: resnets[level] + 1,
                transformers: transformers(level, attends, depths),
            })
            .collect();
        let coarsest = levels - 1;
        let mid_depth = || match depths[coarsest][..] {
            [depth, ref rest @ ..] if rest.iter().all(|other| *other == depth) => Ok(depth),
            _ => Err(fields.unsupported("transformer_layers_per_block")),
        };
        let mid = match fields.0.get("mid_block_type") {
            Some(Value::Null) => None,
            Some(kind) if kind == "UNetMidBlock2D" => {
                Some(MidConfig { channels: channels[coarsest], transformer: None })
            }
            Some(other) if other != "UNetMidBlock2DCrossAttn" => {
                return Err(fields.unsupported("mid_block_type"));
            }
            _ => {
                let transformer = Some(transformer(coarsest, mid_depth()?));
                Some(MidConfig { channels: channels[coarsest], transformer })
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
        let mut push = |level: usize, transformers: &[TransformerConfig]| {
            let visits = transformers.iter().map(|transformer| transformer.depth).sum();
            sizes.extend(std::iter::repeat_n(size_at(level), visits));
        };
        for (level, block) in self.down.iter().enumerate() {
            push(level, &block.transformers);
        }
        let mid = self.mid.as_ref().and_then(|mid| mid.transformer.as_ref());
        push(levels - 1, mid.map(std::slice::from_ref).unwrap_or_default());
        for (block, level) in self.up.iter().zip((0..levels).rev()) {
            push(level, &block.transformers);
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
        let attends = self.down.iter().find_map(|level| level.transformers.first());
        let attends = attends.or(self.mid.as_ref().and_then(|mid| mid.transformer.as_ref()));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depths_of_a_level_are_one_number_or_one_for_each_layer() {
        let depths = |level: &LevelConfig| {
            level.transformers.iter().map(|transformer| transformer.depth).collect::<Vec<_>>()
        };
        let levels = r#""block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]"#;
        let read = |more: &str| UNetConfig::from_json(&format!("{{{levels}, {more}}}"));
        let sdxl = read(r#""transformer_layers_per_block": [1, 2, 10]"#).unwrap();
        assert_eq!(
            sdxl.up.iter().map(depths).collect::<Vec<_>>(),
            [vec![10; 3], vec![2; 3], vec![]]
        );
        assert_eq!(sdxl.mid.unwrap().transformer.unwrap().depth, 10);
        // As segmind/SSD-1B has it.
        let lists = r#""transformer_layers_per_block": [1, [2, 2], [4, 4]],
            "reverse_transformer_layers_per_block": [[4, 4, 10], [2, 1, 1], 1]"#;
        let ssd = read(&format!(r#"{lists}, "mid_block_type": "UNetMidBlock2D""#)).unwrap();
        assert_eq!(
            ssd.down.iter().map(depths).collect::<Vec<_>>(),
            [vec![], vec![2, 2], vec![4, 4]]
        );
        let up: Vec<_> = ssd.up.iter().map(depths).collect();
        assert_eq!(up, [vec![4, 4, 10], vec![2, 1, 1], vec![]]);
        assert_eq!(ssd.mid.as_ref().unwrap().transformer, None);
        assert_eq!(ssd.cross_attention_sizes(8, 8).len(), 4 + 8 + 18 + 4);
        for (more, reason) in [
            (r#""transformer_layers_per_block": [1, [2, 2], 4]"#, "is missing"),
            (r#""transformer_layers_per_block": [1, [2], 4]"#, "list of 1 for 2 layers"),
            (r#""reverse_transformer_layers_per_block": [1, 2]"#, "has 2 entries"),
            (
                r#""transformer_layers_per_block": [1, 2, [4, 3]],
                   "reverse_transformer_layers_per_block": [4, 2, 1]"#,
                "`transformer_layers_per_block`",
            ),
        ] {
            let error = read(more).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }

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
