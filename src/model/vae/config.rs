//! An autoencoder's `config.json`: its fields, and the values that are supported. Defaults are those of
//! the diffusers classes of the same name, because diffusers leaves defaults out of old files.

use serde::Deserialize;
use serde_json::{Value, json};

use super::packed::Packing;
use crate::ranges::{self, OutOfRange};

/// Reason why an autoencoder cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum VaeError {
    #[error(
        "`{0}` is not an autoencoder this program knows (AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny)"
    )]
    UnknownClass(String),
    #[error("{class}: `{field}` = {value} is not supported ({supported})")]
    Unsupported { class: &'static str, field: &'static str, value: String, supported: &'static str },
    #[error("{class}: {source}")]
    Config { class: &'static str, source: serde_json::Error },
    #[error("{class}: {source}")]
    Range { class: &'static str, source: OutOfRange },
    /// Error of the backend, of which the first line is for people; the rest is a backtrace.
    #[error("{}", .0.to_string().lines().next().unwrap_or_default())]
    Tensor(#[from] candle_core::Error),
}

/// The configuration of an autoencoder of either kind.
#[derive(Clone, Debug)]
pub enum VaeConfig {
    Kl(KlConfig),
    Tiny(TinyConfig),
}

impl VaeConfig {
    /// Reads and checks a `config.json` with its `_class_name`.
    ///
    /// # Errors
    /// A class, a field or a value that this program does not support.
    pub fn from_json(config: &Value) -> Result<Self, VaeError> {
        match config.get("_class_name").and_then(Value::as_str) {
            Some(class) if KlConfig::CLASSES.contains(&class) => {
                KlConfig::from_json(config).map(Self::Kl)
            }
            Some("AutoencoderTiny") => TinyConfig::from_json(config).map(Self::Tiny),
            other => Err(VaeError::UnknownClass(other.unwrap_or_default().to_owned())),
        }
    }
}

/// Configuration of `AutoencoderKL`, and of `AutoencoderKLFlux2`, which is the same network with packed latents (diffusers
/// `models/autoencoders/autoencoder_kl.py` and `autoencoder_kl_flux2.py`).
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct KlConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub down_block_types: Vec<String>,
    pub up_block_types: Vec<String>,
    pub block_out_channels: Vec<usize>,
    /// the decoder's widths, where they are others
    pub decoder_block_out_channels: Option<Vec<usize>>,
    pub layers_per_block: usize,
    pub act_fn: String,
    pub latent_channels: usize,
    pub norm_num_groups: usize,
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    pub latents_mean: Option<Value>,
    pub latents_std: Option<Value>,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
    /// The diffusion model's latents are packed ones of those that the network has.
    #[serde(skip)]
    pub packing: Option<Packing>,
}

impl Default for KlConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec!["DownEncoderBlock2D".to_owned()],
            up_block_types: vec!["UpDecoderBlock2D".to_owned()],
            block_out_channels: vec![64],
            decoder_block_out_channels: None,
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
            packing: None,
        }
    }
}

/// What the configuration of packed latents says beyond the rest, with the defaults of diffusers.
#[derive(Deserialize)]
#[serde(default)]
struct RawPacking {
    patch_size: [usize; 2],
    batch_norm_eps: f64,
}

impl Default for RawPacking {
    fn default() -> Self {
        Self { patch_size: [2, 2], batch_norm_eps: 1e-4 }
    }
}

/// A configuration with the defaults of `AutoencoderKLFlux2`, whose latents have neither scale nor shift.
fn with_defaults_of_packed(config: &Value) -> Value {
    let mut all = json!({
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 32,
    });
    for (field, value) in config.as_object().into_iter().flatten() {
        all[field] = value.clone();
    }
    all["scaling_factor"] = 1.0.into();
    all["shift_factor"] = Value::Null;
    all
}

impl KlConfig {
    /// Classes of diffusers; the second is that of packed latents.
    pub const CLASSES: [&str; 2] = ["AutoencoderKL", "AutoencoderKLFlux2"];

    /// Reads and checks a `config.json` with its `_class_name`; without one it is an `AutoencoderKL`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that this program does not support.
    pub fn from_json(config: &Value) -> Result<Self, VaeError> {
        let is_packed = config.get("_class_name").is_some_and(|class| class == Self::CLASSES[1]);
        let class = Self::CLASSES[usize::from(is_packed)];
        ranges::check(config).map_err(|source| VaeError::Range { class, source })?;
        let fail = |field, value: String, supported| {
            Err(VaeError::Unsupported { class, field, value, supported })
        };
        let wrong = |source| VaeError::Config { class, source };
        let written = if is_packed { with_defaults_of_packed(config) } else { config.clone() };
        let mut config: Self = Self::deserialize(&written).map_err(wrong)?;
        if is_packed {
            let RawPacking { patch_size, batch_norm_eps: eps } =
                RawPacking::deserialize(&written).map_err(wrong)?;
            if patch_size != [2, 2] {
                return fail("patch_size", format!("{patch_size:?}"), "[2, 2]");
            }
            config.packing = Some(Packing { side: patch_size[0], eps });
        }
        let levels = config.block_out_channels.len();
        let unlike = |types: &[String], known: &str| {
            types.len() != levels || types.iter().any(|block| block != known)
        };
        if levels == 0 || levels > MAX_LEVELS || config.block_out_channels.contains(&0) {
            return fail("block_out_channels", format!("{:?}", config.block_out_channels), WIDTHS);
        }
        let of_decoder = config.decoder_widths();
        if of_decoder.len() != levels || of_decoder.contains(&0) {
            return fail("decoder_block_out_channels", format!("{of_decoder:?}"), DECODER_WIDTHS);
        }
        if unlike(&config.down_block_types, "DownEncoderBlock2D") {
            let value = format!("{:?}", config.down_block_types);
            return fail("down_block_types", value, "DownEncoderBlock2D for every level");
        }
        if unlike(&config.up_block_types, "UpDecoderBlock2D") {
            let value = format!("{:?}", config.up_block_types);
            return fail("up_block_types", value, "UpDecoderBlock2D for every level");
        }
        if !matches!(config.act_fn.as_str(), "silu" | "swish") {
            return fail("act_fn", config.act_fn, "silu");
        }
        for (field, value) in
            [("latents_mean", &config.latents_mean), ("latents_std", &config.latents_std)]
        {
            if let Some(value) = value {
                return fail(field, value.to_string(), "only null");
            }
        }
        check_common(
            class,
            [config.in_channels, config.out_channels],
            config.latent_channels,
            config.scaling_factor,
        )?;
        Ok(config)
    }
}

impl KlConfig {
    /// Image pixels per pixel of the diffusion model's latents, in each direction.
    #[must_use]
    pub fn factor(&self) -> usize {
        self.packed_side() * self.own_factor()
    }

    /// Widths of the decoder's levels, in the order of the encoder's.
    #[must_use]
    pub fn decoder_widths(&self) -> &[usize] {
        self.decoder_block_out_channels.as_deref().unwrap_or(&self.block_out_channels)
    }

    /// Image pixels per pixel of the network's own latents.
    fn own_factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// Pixels of the network's own latents along the side of one of the diffusion model's.
    fn packed_side(&self) -> usize {
        self.packing.map_or(1, |packing| packing.side)
    }

    /// Channels of the diffusion model's latents.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.latent_channels * self.packed_side().pow(2)
    }

    /// Pixels of the diffusion model's latents from which the convolutions of the encoder, for one of them, or of the
    /// decoder, for one image pixel, take information, in each direction.
    #[must_use]
    pub fn context(&self) -> usize {
        self.own_context().div_ceil(self.packed_side())
    }

    /// The same in the network's own latent pixels: two 3×3 convolutions per block.
    fn own_context(&self) -> usize {
        let levels = self.block_out_channels.len();
        // Encoder: radius in image pixels, summed at each level's stride; the first convolution, and at the last
        // level the middle's two blocks and the closing convolution.
        let last = 1 << (levels - 1);
        let mut radius = 1 + (2 * 2 + 1) * last;
        for level in 0..levels {
            radius += (2 * self.layers_per_block) << level;
            // The convolution that halves the resolution reads on one side alone.
            radius += if level + 1 < levels { 1 << level } else { 0 };
        }
        let encoder = radius.div_ceil(self.own_factor());

        // Decoder: from the output back to the latent, rounded up at each change of resolution.
        let mut decoder: usize = 1;
        for level in 0..levels {
            if level > 0 {
                // The convolution that closes an enlargement.
                decoder = (decoder + 1).div_ceil(2);
            }
            decoder += 2 * (self.layers_per_block + 1);
        }
        encoder.max(decoder + 2 * 2 + 1)
    }
}

/// `AutoencoderTiny`'s configuration (diffusers `models/autoencoders/autoencoder_tiny.py`).
/// `latent_magnitude` and `latent_shift` are absent: they only serve the byte form of latents, which
/// neither `encode` nor `decode` uses.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub struct TinyConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    pub encoder_block_out_channels: Vec<usize>,
    pub decoder_block_out_channels: Vec<usize>,
    pub act_fn: String,
    pub upsample_fn: String,
    pub latent_channels: usize,
    pub upsampling_scaling_factor: usize,
    pub num_encoder_blocks: Vec<usize>,
    pub num_decoder_blocks: Vec<usize>,
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
}

impl Default for TinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            act_fn: "relu".to_owned(),
            upsample_fn: "nearest".to_owned(),
            latent_channels: 4,
            upsampling_scaling_factor: 2,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            scaling_factor: 1.0,
            shift_factor: None,
        }
    }
}

impl TinyConfig {
    /// Reads and checks a `config.json`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that this program does not support.
    pub fn from_json(config: &Value) -> Result<Self, VaeError> {
        let class = "AutoencoderTiny";
        ranges::check(config).map_err(|source| VaeError::Range { class, source })?;
        let config: Self = serde_json::from_value(config.clone())
            .map_err(|source| VaeError::Config { class, source })?;
        let fail = |field, value: String, supported| {
            Err(VaeError::Unsupported { class, field, value, supported })
        };
        // diffusers' levels are joined by convolutions of the level's own width on both sides, so
        // only equal widths make a network that runs.
        let uneven = |widths: &[usize]| {
            widths.is_empty()
                || widths.len() > MAX_LEVELS
                || widths.contains(&0)
                || widths.windows(2).any(|pair| pair[0] != pair[1])
        };
        if uneven(&config.encoder_block_out_channels) {
            let value = format!("{:?}", config.encoder_block_out_channels);
            return fail("encoder_block_out_channels", value, WIDTHS);
        }
        if uneven(&config.decoder_block_out_channels) {
            let value = format!("{:?}", config.decoder_block_out_channels);
            return fail("decoder_block_out_channels", value, WIDTHS);
        }
        if config.num_encoder_blocks.len() != config.encoder_block_out_channels.len() {
            let value = format!("{:?}", config.num_encoder_blocks);
            return fail("num_encoder_blocks", value, "one number for every level");
        }
        if config.num_decoder_blocks.len() != config.decoder_block_out_channels.len() {
            let value = format!("{:?}", config.num_decoder_blocks);
            return fail("num_decoder_blocks", value, "one number for every level");
        }
        if config.act_fn != "relu" {
            return fail("act_fn", config.act_fn, "relu");
        }
        if config.upsample_fn != "nearest" {
            return fail("upsample_fn", config.upsample_fn, "nearest");
        }
        let ups = config.num_decoder_blocks.len() as u32 - 1;
        if config.upsampling_scaling_factor.checked_pow(ups) != Some(config.factor()) {
            let value = config.upsampling_scaling_factor.to_string();
            let supported = "the decoder must enlarge by as much as the encoder reduces";
            return fail("upsampling_scaling_factor", value, supported);
        }
        check_common(
            class,
            [config.in_channels, config.out_channels],
            config.latent_channels,
            config.scaling_factor,
        )?;
        Ok(config)
    }

    /// Image pixels per latent pixel, in each direction.
    #[must_use]
    pub fn factor(&self) -> usize {
        1 << (self.num_encoder_blocks.len() - 1)
    }

    /// Latent pixels from which one latent pixel of the encoder, or one image pixel of the decoder,
    /// can take information, in each direction: three 3×3 convolutions per block, one per level.
    #[must_use]
    pub fn context(&self) -> usize {
        // Encoder: radius in image pixels, summed at each level's stride.
        let mut radius = 0;
        for (level, blocks) in self.num_encoder_blocks.iter().enumerate() {
            // A level's first convolution reads at the resolution above it.
            radius += 1 << level.saturating_sub(1);
            radius += (3 * blocks) << level;
        }
        radius += self.factor();
        let encoder = radius.div_ceil(self.factor());

        // Decoder: from the output back to the latent. Tiles start at whole latent pixels, so the
        // radius is rounded up at each change of resolution.
        let mut decoder: usize = 0;
        for (index, blocks) in self.num_decoder_blocks.iter().rev().enumerate() {
            // The level's closing convolution acts after its enlargement (the last has none).
            decoder += 1;
            if index > 0 {
                decoder = decoder.div_ceil(self.upsampling_scaling_factor);
            }
            decoder += 3 * blocks;
        }
        encoder.max(decoder + 1)
    }
}

/// More levels than any autoencoder has, few enough that `1 << levels` is a sane number.
const MAX_LEVELS: usize = 8;
const WIDTHS: &str = "1 to 8 levels, AutoencoderTiny's of one width";
const DECODER_WIDTHS: &str = "as many widths as block_out_channels has";

fn check_common(
    class: &'static str,
    image_channels: [usize; 2],
    latent_channels: usize,
    scaling_factor: f64,
) -> Result<(), VaeError> {
    let fail = |field, value: String, supported| {
        Err(VaeError::Unsupported { class, field, value, supported })
    };
    if image_channels[0] != 3 {
        return fail("in_channels", image_channels[0].to_string(), "3");
    }
    if image_channels[1] != 3 {
        return fail("out_channels", image_channels[1].to_string(), "3");
    }
    if latent_channels == 0 {
        return fail("latent_channels", "0".to_owned(), "1 or more");
    }
    if !scaling_factor.is_finite() || scaling_factor <= 0.0 {
        return fail("scaling_factor", scaling_factor.to_string(), "a positive number");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn taesd_sees_nineteen_latent_pixels_around() {
        let config = TinyConfig::default();
        assert_eq!(config.factor(), 8);
        // Encoder: 4 + 19 + 38 + 76 + 8 = 145 image pixels, 18.1 latent pixels. Decoder, finest
        // level first: 4; (4 + 1)/2 + 9 = 12; (12 + 1)/2 + 9 = 16; (16 + 1)/2 + 9 = 18; conv_in.
        assert_eq!(config.context(), 19);
    }

    #[test]
    fn the_convolutions_of_sdxls_autoencoder_see_eighteen_latent_pixels_around() {
        let levels = |block: &str| vec![block.to_owned(); 4];
        let config = KlConfig {
            down_block_types: levels("DownEncoderBlock2D"),
            up_block_types: levels("UpDecoderBlock2D"),
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            ..KlConfig::default()
        };
        assert_eq!(config.factor(), 8);
        // Encoder: 1 + 4 + 1 + 8 + 2 + 16 + 4 + 32 + 32 + 8 = 108 image pixels, 13.5 latent pixels. Decoder, finest
        // level first: 1 + 6; (7 + 1)/2 + 6 = 10; (10 + 1)/2 + 6 = 12; (12 + 1)/2 + 6 = 13; the middle, conv_in.
        assert_eq!(config.context(), 18);
    }

    #[test]
    fn packed_latents_have_the_defaults_of_their_class_and_no_scale() {
        let config = json!({"_class_name": "AutoencoderKLFlux2", "scaling_factor": 0.18215});
        let config = KlConfig::from_json(&config).unwrap();
        assert_eq!(config.packing, Some(Packing { side: 2, eps: 1e-4 }));
        assert_eq!((config.factor(), config.channels(), config.scaling_factor), (16, 128, 1.0));
        // Half of the eighteen own pixels of the network, which is that of SDXL.
        assert_eq!(config.context(), 9);
        for (field, value) in
            [("patch_size", json!([4, 4])), ("decoder_block_out_channels", json!([64, 64]))]
        {
            let config = json!({"_class_name": "AutoencoderKLFlux2", field: value});
            let error = KlConfig::from_json(&config).unwrap_err().to_string();
            assert!(error.starts_with(&format!("AutoencoderKLFlux2: `{field}` = ")), "{error}");
        }
    }

    #[test]
    fn an_unsupported_field_is_named_with_its_value() {
        for (field, value) in [
            ("act_fn", json!("mish")),
            ("upsample_fn", json!("bilinear")),
            ("encoder_block_out_channels", json!([64, 64, 64, 32])),
            ("num_decoder_blocks", json!([3, 3])),
            ("upsampling_scaling_factor", json!(3)),
            ("in_channels", json!(4)),
            ("scaling_factor", json!(0.0)),
        ] {
            let error = TinyConfig::from_json(&json!({ field: value })).unwrap_err().to_string();
            assert!(error.starts_with(&format!("AutoencoderTiny: `{field}` = ")), "{error}");
        }
        for (field, value) in [
            ("act_fn", json!("mish")),
            ("down_block_types", json!(["AttnDownEncoderBlock2D"])),
            ("up_block_types", json!(["UpDecoderBlock2D", "UpDecoderBlock2D"])),
            ("block_out_channels", json!([])),
            ("latents_mean", json!([0.0, 0.0, 0.0, 0.0])),
            ("latent_channels", json!(0)),
        ] {
            let error = KlConfig::from_json(&json!({ field: value })).unwrap_err().to_string();
            assert!(error.starts_with(&format!("AutoencoderKL: `{field}` = ")), "{error}");
        }
    }

    #[test]
    fn sizes_that_no_autoencoder_has_are_refused_before_anything_is_allocated() {
        let error = KlConfig::from_json(&json!({"layers_per_block": 1_u64 << 40})).unwrap_err();
        let expected = "AutoencoderKL: `layers_per_block` is 1099511627776, not from 1 to 64";
        assert_eq!(error.to_string(), expected);
        let error = TinyConfig::from_json(&json!({"num_encoder_blocks": [1, 3, 3, 1e12]}));
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("AutoencoderTiny: `num_encoder_blocks` is 1"), "{error}");
    }

    #[test]
    fn a_field_of_the_wrong_type_is_an_error_of_its_class() {
        let error = KlConfig::from_json(&json!({"latent_channels": "four"})).unwrap_err();
        assert!(error.to_string().starts_with("AutoencoderKL: invalid type"), "{error}");
    }
}
