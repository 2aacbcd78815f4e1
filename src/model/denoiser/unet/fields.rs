//! A UNet's configuration read field by field: numbers, flags, and what is one number for all levels or one for each, so that
//! every error names its field.

use serde_json::{Map, Value};

use super::error::UNetError;

/// A JSON object read field by field, so that every error names its field.
pub(super) struct Fields<'a>(pub &'a Map<String, Value>);

impl Fields<'_> {
    /// Refuses every field of diffusers' configuration whose value would change the mathematics in
    /// a way that is not implemented.
    pub fn refuse_unsupported(&self) -> Result<(), UNetError> {
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

    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool, UNetError> {
        self.get(name).map_or(Ok(default), |value| {
            value.as_bool().ok_or_else(|| self.invalid(name, "is not true or false"))
        })
    }

    pub fn number(&self, name: &str, default: f64) -> Result<f64, UNetError> {
        self.get(name).map_or(Ok(default), |value| {
            value.as_f64().ok_or_else(|| self.invalid(name, "is not a number"))
        })
    }

    pub fn optional_size(&self, name: &str) -> Result<Option<usize>, UNetError> {
        self.get(name).map(|value| self.one_size(name, value)).transpose()
    }

    pub fn size(&self, name: &str, default: usize) -> Result<usize, UNetError> {
        Ok(self.optional_size(name)?.unwrap_or(default))
    }

    pub fn needed(&self, name: &str) -> Result<usize, UNetError> {
        self.optional_size(name)?.ok_or_else(|| self.invalid(name, "is missing"))
    }

    pub fn one_size(&self, name: &str, value: &Value) -> Result<usize, UNetError> {
        value
            .as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| self.invalid(name, "is not a whole number"))
    }

    pub fn list(&self, name: &str, default: &[usize]) -> Result<Vec<usize>, UNetError> {
        let Some(value) = self.get(name) else { return Ok(default.to_vec()) };
        let entries = value.as_array().ok_or_else(|| self.invalid(name, "is not a list"))?;
        entries.iter().map(|entry| self.one_size(name, entry)).collect()
    }

    /// One number for all levels, or a list with one for each.
    pub fn per_level(
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

    /// Depths of the transformers behind the residual blocks of each level: a number for all levels, or for each level a
    /// number or a list of them.
    pub fn depths(&self, name: &str, resnets: &[usize]) -> Result<Vec<Vec<usize>>, UNetError> {
        let Some(Value::Array(levels)) = self.get(name) else {
            let depth = self.size(name, 1)?;
            return Ok(resnets.iter().map(|&resnets| vec![depth; resnets]).collect());
        };
        self.check_length(name, levels.len(), resnets.len())?;
        let of_level = |(level, &resnets): (&Value, &usize)| match level {
            Value::Array(list) if list.len() == resnets => {
                list.iter().map(|depth| self.one_size(name, depth)).collect()
            }
            Value::Array(list) => {
                let reason = format!("has a list of {} for {resnets} layers", list.len());
                Err(self.invalid(name, &reason))
            }
            depth => Ok(vec![self.one_size(name, depth)?; resnets]),
        };
        levels.iter().zip(resnets).map(of_level).collect()
    }

    /// Depths of the decoder's transformers, from coarse to fine: its own, or the encoder's the other way round.
    pub fn up_depths(
        &self,
        down: &[Vec<usize>],
        resnets: &[usize],
    ) -> Result<Vec<Vec<usize>>, UNetError> {
        let (own, encoders) =
            ("reverse_transformer_layers_per_block", "transformer_layers_per_block");
        if self.get(own).is_some() {
            return self.depths(own, resnets);
        }
        let is_list = |level: &Value| level.is_array();
        if self.get(encoders).and_then(Value::as_array).is_some_and(|all| all.iter().any(is_list)) {
            return Err(self.invalid(own, "is missing, where the encoder's depths are lists"));
        }
        let depth = |level: &Vec<usize>| level.first().copied().unwrap_or(1);
        Ok(down.iter().rev().zip(resnets).map(|(level, &all)| vec![depth(level); all]).collect())
    }

    /// `true` for each level whose block has transformers.
    pub fn block_types(
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

    pub fn sample_size(&self) -> Result<Option<(usize, usize)>, UNetError> {
        if !matches!(self.get("sample_size"), Some(Value::Array(_))) {
            return Ok(self.optional_size("sample_size")?.map(|side| (side, side)));
        }
        match self.list("sample_size", &[])?[..] {
            [height, width] => Ok(Some((height, width))),
            _ => Err(self.invalid("sample_size", "is neither one number nor two")),
        }
    }

    pub fn check_length(&self, name: &str, length: usize, levels: usize) -> Result<(), UNetError> {
        if length == levels {
            return Ok(());
        }
        let reason = format!("has {length} entries for the {levels} of block_out_channels");
        Err(self.invalid(name, &reason))
    }

    pub fn invalid(&self, field: &str, reason: &str) -> UNetError {
        UNetError::Invalid { field: field.to_owned(), reason: reason.to_owned() }
    }

    pub fn unsupported(&self, field: &str) -> UNetError {
        let value = self.0.get(field).map_or_else(|| "null".to_owned(), Value::to_string);
        UNetError::Unsupported { field: field.to_owned(), value }
    }
}
