//! `transformer/config.json` of FLUX.2: the fields that diffusers' `Flux2Transformer2DModel` takes, with its defaults. A value
//! that would change the mathematics in a way that this implementation does not have is refused by name.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::Flux2Error;
use crate::ranges;

/// Axes of a token's place.
pub(super) const AXES: usize = 4;

/// The resolved architecture of a [`Flux2Transformer`](super::Flux2Transformer).
#[derive(Clone, Debug, PartialEq)]
pub struct Flux2Config {
    pub in_channels: usize,
    pub out_channels: usize,
    /// blocks in which picture and text have weights of their own
    pub double_layers: usize,
    /// blocks behind them, in which both are one stream
    pub single_layers: usize,
    pub heads: usize,
    /// width of a head
    pub head_width: usize,
    /// width within a feed-forward layer
    pub inner: usize,
    /// width of the text's tokens
    pub text_width: usize,
    /// sinusoidal features of a timestep
    pub time_features: usize,
    /// numbers of a head that turn with each axis of a token's place
    pub axes_dims: [usize; AXES],
    pub rope_theta: f64,
    /// ε of every norm
    pub eps: f64,
}

#[derive(Deserialize)]
#[serde(default)]
struct RawConfig {
    patch_size: usize,
    in_channels: usize,
    out_channels: Option<usize>,
    num_layers: usize,
    num_single_layers: usize,
    attention_head_dim: usize,
    num_attention_heads: usize,
    joint_attention_dim: usize,
    timestep_guidance_channels: usize,
    mlp_ratio: f64,
    axes_dims_rope: Vec<usize>,
    rope_theta: f64,
    eps: f64,
    guidance_embeds: bool,
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            patch_size: 1,
            in_channels: 128,
            out_channels: None,
            num_layers: 8,
            num_single_layers: 48,
            attention_head_dim: 128,
            num_attention_heads: 48,
            joint_attention_dim: 15_360,
            timestep_guidance_channels: 256,
            mlp_ratio: 3.0,
            axes_dims_rope: vec![32; AXES],
            rope_theta: 2000.0,
            eps: 1e-6,
            guidance_embeds: true,
        }
    }
}

impl Flux2Config {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that this program does not support.
    pub fn from_value(config: &Value) -> Result<Self, Flux2Error> {
        // A list would be read as one of the fields, all of which have defaults.
        let fields = Map::<String, Value>::deserialize(config).map_err(Flux2Error::Json)?;
        ranges::check_object(&fields)?;
        let raw = RawConfig::deserialize(config).map_err(Flux2Error::Json)?;
        let fail = |field, value: String, supported| {
            Err(Flux2Error::Unsupported { field, value, supported })
        };
        if raw.guidance_embeds {
            let supported = "false, as in FLUX.2 [klein]: FLUX.2 [dev] has it, whose texts are read by another encoder";
            return fail("guidance_embeds", "true".to_owned(), supported);
        }
        if raw.patch_size != 1 {
            let supported = "1: the autoencoder makes the patches";
            return fail("patch_size", raw.patch_size.to_string(), supported);
        }
        for (field, value) in [
            ("num_layers", raw.num_layers),
            ("num_single_layers", raw.num_single_layers),
            ("num_attention_heads", raw.num_attention_heads),
        ] {
            if value == 0 {
                return fail(field, "0".to_owned(), "1 or more");
            }
        }
        if raw.timestep_guidance_channels % 2 != 0 {
            let features = raw.timestep_guidance_channels.to_string();
            return fail("timestep_guidance_channels", features, "an even number");
        }
        let refuse_axes = || {
            let supported = "four even numbers whose sum is attention_head_dim, which is not 0";
            fail("axes_dims_rope", format!("{:?}", raw.axes_dims_rope), supported)
        };
        let head_width = raw.attention_head_dim;
        let Ok(axes_dims) = <[usize; AXES]>::try_from(raw.axes_dims_rope.as_slice()) else {
            return refuse_axes();
        };
        if head_width == 0
            || axes_dims.iter().any(|axis| !axis.is_multiple_of(2))
            || axes_dims.iter().sum::<usize>() != head_width
        {
            return refuse_axes();
        }
        // In floating point and cut off, as there.
        let inner = ((raw.num_attention_heads * head_width) as f64 * raw.mlp_ratio) as usize;
        if inner == 0 {
            return fail("mlp_ratio", raw.mlp_ratio.to_string(), "layers at least 1 wide");
        }
        Ok(Self {
            in_channels: raw.in_channels,
            out_channels: raw.out_channels.unwrap_or(raw.in_channels),
            double_layers: raw.num_layers,
            single_layers: raw.num_single_layers,
            heads: raw.num_attention_heads,
            head_width,
            inner,
            text_width: raw.joint_attention_dim,
            time_features: raw.timestep_guidance_channels,
            axes_dims,
            rope_theta: raw.rope_theta,
            eps: raw.eps,
        })
    }

    /// Width of the blocks.
    #[must_use]
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_those_of_diffusers() {
        let config = Flux2Config::from_value(&json!({ "guidance_embeds": false })).unwrap();
        assert_eq!((config.in_channels, config.out_channels), (128, 128));
        assert_eq!((config.double_layers, config.single_layers), (8, 48));
        assert_eq!((config.width(), config.inner, config.text_width), (6144, 18_432, 15_360));
        assert_eq!((config.axes_dims, config.time_features), ([32; 4], 256));
        let cut = json!({ "guidance_embeds": false, "out_channels": 64, "mlp_ratio": 2.0001 });
        let cut = Flux2Config::from_value(&cut).unwrap();
        assert_eq!((cut.out_channels, cut.inner), (64, 12_288));
    }

    #[test]
    fn what_is_not_supported_is_named_before_anything_is_allocated() {
        for (field, value) in [
            ("guidance_embeds", json!(true)),
            ("patch_size", json!(2)),
            ("num_layers", json!(0)),
            ("num_layers", json!(1e9)),
            ("num_single_layers", json!(0)),
            ("num_single_layers", json!(10_000)),
            ("num_attention_heads", json!(0)),
            ("timestep_guidance_channels", json!(255)),
            ("timestep_guidance_channels", json!(1e6)),
            ("axes_dims_rope", json!([32, 32, 32])),
            ("axes_dims_rope", json!([31, 33, 32, 32])),
            ("axes_dims_rope", json!([32, 32, 32, 16])),
            ("mlp_ratio", json!(1e9)),
            ("rope_theta", json!(-1)),
            ("eps", json!(2)),
            ("joint_attention_dim", json!(0)),
            ("in_channels", json!(-4)),
        ] {
            let mut config = json!({ "guidance_embeds": false });
            config[field] = value;
            let error = Flux2Config::from_value(&config).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}` ")), "{field}: {error}");
        }
        assert!(Flux2Config::from_value(&json!([])).is_err());
        // What diffusers would take where nothing is said.
        let error = Flux2Config::from_value(&json!({})).unwrap_err().to_string();
        assert!(error.contains("`guidance_embeds` = true"), "{error}");
    }
}
