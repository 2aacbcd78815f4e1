//! `transformer/config.json` of Z-Image: the fields that diffusers' `ZImageTransformer2DModel` takes, with its defaults. A
//! value that would change the mathematics in a way that this implementation does not have is refused by name.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::ZImageError;
use crate::ranges;

/// Side of a patch in latent pixels, of which each is a token.
pub(super) const PATCH: usize = 2;

/// Widest embedding of the timestep.
const MAX_ADALN_WIDTH: usize = 256;

/// The resolved architecture of a [`ZImageTransformer`](super::ZImageTransformer).
#[derive(Clone, Debug, PartialEq)]
pub struct ZImageConfig {
    pub in_channels: usize,
    /// width of the blocks
    pub dim: usize,
    pub layers: usize,
    /// blocks through which the picture's tokens and the text's each go by themselves, before all others
    pub refiner_layers: usize,
    pub heads: usize,
    pub norm_eps: f64,
    /// queries and keys are normalized, head by head
    pub qk_norm: bool,
    /// width of the text's tokens
    pub text_width: usize,
    pub rope_theta: f64,
    /// number that stands for a picture without noise
    pub t_scale: f64,
    /// numbers of a head that turn with a token's place in the text, in its column and in its row
    pub axes_dims: [usize; 3],
    /// places along each of them, for which diffusers has a table
    pub axes_lens: [usize; 3],
}

#[derive(Deserialize)]
#[serde(default)]
struct RawConfig {
    all_patch_size: Vec<usize>,
    all_f_patch_size: Vec<usize>,
    in_channels: usize,
    dim: usize,
    n_layers: usize,
    n_refiner_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    norm_eps: f64,
    qk_norm: bool,
    cap_feat_dim: usize,
    siglip_feat_dim: Option<usize>,
    rope_theta: f64,
    t_scale: f64,
    axes_dims: [usize; 3],
    axes_lens: [usize; 3],
}

impl Default for RawConfig {
    fn default() -> Self {
        Self {
            all_patch_size: vec![PATCH],
            all_f_patch_size: vec![1],
            in_channels: 16,
            dim: 3840,
            n_layers: 30,
            n_refiner_layers: 2,
            n_heads: 30,
            n_kv_heads: 30,
            norm_eps: 1e-5,
            qk_norm: true,
            cap_feat_dim: 2560,
            siglip_feat_dim: None,
            rope_theta: 256.0,
            t_scale: 1000.0,
            axes_dims: [32, 48, 48],
            axes_lens: [1024, 512, 512],
        }
    }
}

impl ZImageConfig {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// A field of the wrong type, or a value that this program does not support; each names the field.
    pub fn from_value(config: &Value) -> Result<Self, ZImageError> {
        // A list would be read as one of the fields, all of which have defaults.
        let fields = Map::<String, Value>::deserialize(config).map_err(ZImageError::Json)?;
        ranges::check_object(&fields)?;
        let raw = RawConfig::deserialize(config).map_err(ZImageError::Json)?;
        let fail = |field, value: String, supported| {
            Err(ZImageError::Unsupported { field, value, supported })
        };
        let mut patches = raw.all_patch_size.iter().zip(&raw.all_f_patch_size);
        if !patches.any(|patch| patch == (&PATCH, &1)) {
            return fail("all_patch_size", format!("{:?}", raw.all_patch_size), "2 among them");
        }
        if let Some(width) = raw.siglip_feat_dim {
            let supported = "null: models that see pictures beside the text have it";
            return fail("siglip_feat_dim", width.to_string(), supported);
        }
        let (dim, heads) = (raw.dim, raw.n_heads);
        if heads == 0 || dim == 0 || !dim.is_multiple_of(heads) {
            return fail("n_heads", heads.to_string(), "a divisor of dim");
        }
        if raw.n_kv_heads != heads {
            return fail("n_kv_heads", raw.n_kv_heads.to_string(), "as many as n_heads");
        }
        let axes = raw.axes_dims;
        if axes.iter().any(|axis| !axis.is_multiple_of(2))
            || axes.iter().sum::<usize>() != dim / heads
        {
            let supported = "even numbers whose sum is dim/n_heads";
            return fail("axes_dims", format!("{axes:?}"), supported);
        }
        for (field, value) in [("in_channels", raw.in_channels), ("n_layers", raw.n_layers)] {
            if value == 0 {
                return fail(field, "0".to_owned(), "1 or more");
            }
        }
        if raw.axes_lens.contains(&0) {
            return fail("axes_lens", format!("{:?}", raw.axes_lens), "1 or more each");
        }
        Ok(Self {
            in_channels: raw.in_channels,
            dim,
            layers: raw.n_layers,
            refiner_layers: raw.n_refiner_layers,
            heads,
            norm_eps: raw.norm_eps,
            qk_norm: raw.qk_norm,
            text_width: raw.cap_feat_dim,
            rope_theta: raw.rope_theta,
            t_scale: raw.t_scale,
            axes_dims: axes,
            axes_lens: raw.axes_lens,
        })
    }

    /// Width of the timestep's embedding.
    pub(super) fn adaln_width(&self) -> usize {
        self.dim.min(MAX_ADALN_WIDTH)
    }

    /// Width within a feed-forward layer: `int(dim / 3 * 8)`, in floating point as there.
    pub(super) fn inner(&self) -> usize {
        (self.dim as f64 / 3.0 * 8.0) as usize
    }

    /// Largest height and width of a sample, in latent pixels.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.axes_lens[1].min(self.axes_lens[2]) * PATCH
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_those_of_diffusers() {
        let config = ZImageConfig::from_value(&json!({})).unwrap();
        assert_eq!((config.dim, config.inner(), config.adaln_width()), (3840, 10240, 256));
        assert_eq!((config.layers, config.largest()), (30, 1024));
    }

    #[test]
    fn what_is_not_supported_is_named_before_anything_is_allocated() {
        for (field, value) in [
            ("all_patch_size", json!([4])),
            ("siglip_feat_dim", json!(1152)),
            ("n_heads", json!(7)),
            ("n_kv_heads", json!(10)),
            ("axes_dims", json!([32, 48, 46])),
            ("axes_dims", json!([31, 49, 48])),
            ("axes_lens", json!([0, 512, 512])),
            ("n_layers", json!(0)),
            ("n_layers", json!(1_000_000)),
            ("dim", json!(1e12)),
            ("rope_theta", json!(-1)),
            ("t_scale", json!(1e300)),
        ] {
            let error = ZImageConfig::from_value(&json!({ field: value })).unwrap_err().to_string();
            assert!(error.contains(&format!("`{field}` ")), "{field}: {error}");
        }
        assert!(ZImageConfig::from_value(&json!([])).is_err());
    }
}
