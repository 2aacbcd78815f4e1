//! `transformer/config.json` of Stable Diffusion 3 and 3.5: every field that diffusers' `SD3Transformer2DModel` takes, with
//! its defaults. A value that would change the mathematics in a way that this implementation does not have is refused by name.

use serde_json::{Map, Value};

use super::error::Sd3Error;
use crate::ranges;

/// Sides of a patch at most; 2 in every model.
const MAX_PATCH: usize = 16;

/// The resolved architecture of a [`Sd3Transformer`](super::Sd3Transformer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sd3Config {
    /// native size in latent pixels
    pub sample_size: usize,
    /// side of a patch in latent pixels, of which each is a token
    pub patch_size: usize,
    pub in_channels: usize,
    pub out_channels: usize,
    pub layers: usize,
    pub heads: usize,
    /// width of a head
    pub head_width: usize,
    /// width of the text's tokens
    pub context_width: usize,
    /// width of the pooled text embedding
    pub pooled_width: usize,
    /// side of the table of positions, in patches
    pub table_side: usize,
    /// blocks in which the picture's tokens attend to each other once more
    pub dual_layers: Vec<usize>,
    /// queries and keys are normalized, head by head
    pub qk_norm: bool,
}

impl Sd3Config {
    /// Reads a parsed `config.json`.
    ///
    /// # Errors
    /// A value that is no object, a field of the wrong type, or one that asks for something unsupported; each names
    /// the field.
    pub fn from_value(config: &Value) -> Result<Self, Sd3Error> {
        let Value::Object(root) = config else {
            return Err(Sd3Error::Json(config.to_string()));
        };
        ranges::check_object(root)?;
        let fields = Fields(root);
        let in_channels = fields.size("in_channels", 16)?;
        let layers = fields.size("num_layers", 18)?;
        if layers == 0 {
            return Err(fields.unsupported("num_layers"));
        }
        let (heads, head_width) =
            (fields.size("num_attention_heads", 18)?, fields.size("attention_head_dim", 64)?);
        let width = heads * head_width;
        if width == 0 || !width.is_multiple_of(4) {
            let reason = format!("{heads} heads of {head_width}: four does not divide that width");
            return Err(fields.invalid("num_attention_heads", &reason));
        }
        let context = fields.size("caption_projection_dim", 1152)?;
        if context != width {
            let reason = format!("is {context}, the blocks are {width} wide");
            return Err(fields.invalid("caption_projection_dim", &reason));
        }
        let patch_size = fields.size("patch_size", 2)?;
        if !(1..=MAX_PATCH).contains(&patch_size) {
            return Err(fields.unsupported("patch_size"));
        }
        // Without one, diffusers would compute positions for every size.
        let table_side = fields.size("pos_embed_max_size", 96)?;
        if table_side == 0 || root.get("pos_embed_max_size").is_some_and(Value::is_null) {
            return Err(fields.unsupported("pos_embed_max_size"));
        }
        let qk_norm = match root.get("qk_norm") {
            None | Some(Value::Null) => false,
            Some(kind) if kind == "rms_norm" => true,
            Some(_) => return Err(fields.unsupported("qk_norm")),
        };
        let dual_layers = fields.list("dual_attention_layers")?;
        if dual_layers.iter().any(|&layer| layer >= layers) {
            return Err(fields.unsupported("dual_attention_layers"));
        }
        Ok(Self {
            sample_size: fields.size("sample_size", 128)?,
            patch_size,
            in_channels,
            out_channels: match root.get("out_channels") {
                Some(Value::Null) => in_channels,
                _ => fields.size("out_channels", 16)?,
            },
            layers,
            heads,
            head_width,
            context_width: fields.size("joint_attention_dim", 4096)?,
            pooled_width: fields.size("pooled_projection_dim", 2048)?,
            table_side,
            dual_layers,
            qk_norm,
        })
    }

    /// Width of the blocks.
    #[must_use]
    pub fn width(&self) -> usize {
        self.heads * self.head_width
    }

    /// Largest height and width of a sample, in latent pixels.
    #[must_use]
    pub fn largest(&self) -> usize {
        self.table_side * self.patch_size
    }
}

/// A JSON object read field by field, so that every error names its field.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn size(&self, name: &str, default: usize) -> Result<usize, Sd3Error> {
        self.get(name).map_or(Ok(default), |value| self.one_size(name, value))
    }

    fn one_size(&self, name: &str, value: &Value) -> Result<usize, Sd3Error> {
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| self.invalid(name, "is not a whole number"))
    }

    fn list(&self, name: &str) -> Result<Vec<usize>, Sd3Error> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let entries = value.as_array().ok_or_else(|| self.invalid(name, "is not a list"))?;
        entries.iter().map(|entry| self.one_size(name, entry)).collect()
    }

    fn invalid(&self, field: &str, reason: &str) -> Sd3Error {
        Sd3Error::Invalid { field: field.to_owned(), reason: reason.to_owned() }
    }

    fn unsupported(&self, field: &str) -> Sd3Error {
        let value = self.0.get(field).map_or_else(|| "null".to_owned(), Value::to_string);
        Sd3Error::Unsupported { field: field.to_owned(), value }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_are_those_of_diffusers() {
        let config = Sd3Config::from_value(&json!({})).unwrap();
        assert_eq!((config.width(), config.largest()), (1152, 192));
        assert_eq!((config.layers, config.context_width, config.pooled_width), (18, 4096, 2048));
        assert!(!config.qk_norm && config.dual_layers.is_empty());
        let null = Sd3Config::from_value(&json!({"in_channels": 4, "out_channels": null})).unwrap();
        assert_eq!((null.in_channels, null.out_channels), (4, 4));
    }

    #[test]
    fn what_is_not_supported_is_named_before_anything_is_allocated() {
        for (field, value) in [
            ("qk_norm", json!("layer_norm")),
            ("pos_embed_max_size", json!(null)),
            ("pos_embed_max_size", json!(1_000_000)),
            ("patch_size", json!(0)),
            ("patch_size", json!(17)),
            ("num_layers", json!(0)),
            ("num_layers", json!(1e9)),
            ("num_attention_heads", json!(0)),
            ("attention_head_dim", json!("64")),
            ("caption_projection_dim", json!(1536)),
            ("dual_attention_layers", json!([18])),
            ("dual_attention_layers", json!(3)),
            ("joint_attention_dim", json!(0)),
            ("pooled_projection_dim", json!(-1)),
            ("sample_size", json!([64, 64])),
        ] {
            let config = json!({ field: value });
            let error = Sd3Config::from_value(&config).unwrap_err().to_string();
            assert!(error.starts_with(&format!("sd3 config: `{field}` ")), "{error}");
        }
        assert!(Sd3Config::from_value(&json!([])).is_err());
    }
}
