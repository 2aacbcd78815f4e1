//! Configuration of an adapter by peft, in `adapter_config.json` or, as diffusers writes it, in the LoRA file's
//! own metadata. What decides the scale is read, what makes the matrices something else than a change of this model's
//! weights is refused by name, and the rest is told by the file's keys or plays a part in training alone.
//!
//! Sources: peft `tuners/lora/layer.py` (`update_layer`: alpha / r, or alpha / √r) and
//! `utils/other.py` (`get_pattern_key`); diffusers `loaders/lora_base.py` (`lora_adapter_metadata`).

use serde_json::Value;

use crate::ranges;

/// Starts of the training after which a LoRA is a change of the weights as they are.
const PLAIN_STARTS: [&str; 3] = ["gaussian", "eva", "orthogonal"];
/// Fields that make an adapter more than pairs of matrices.
const BEYOND_PLAIN: [&str; 6] = [
    "alora_invocation_tokens",
    "layer_replication",
    "lora_bias",
    "target_parameters",
    "trainable_token_indices",
    "use_qalora",
];

/// Fields of a peft configuration that decide the scale of a module.
#[derive(Debug, Default)]
pub(super) struct AdapterConfig {
    alpha: Option<f64>,
    /// alphas of modules that end like this
    patterns: Vec<(String, f64)>,
    rank_stabilised: bool,
}

impl AdapterConfig {
    /// Reads the fields that begin with `prefix`, which stands for a part of the model.
    ///
    /// # Errors
    /// A kind of adapter that is no plain LoRA, or a field that is not what it should be.
    pub(super) fn from_json(json: &Value, prefix: &str) -> Result<Self, String> {
        ranges::check(json).map_err(|error| error.to_string())?;
        let field =
            |name: &str| json.get(format!("{prefix}{name}")).filter(|value| !value.is_null());
        let flag = |name: &str| field(name).and_then(Value::as_bool).unwrap_or(false);
        let kind = field("peft_type").and_then(Value::as_str).unwrap_or("LORA");
        if kind != "LORA" {
            return Err(format!("{kind} is not supported (a plain LoRA is)"));
        }
        if flag("use_dora") {
            return Err("DoRA is not supported (a plain LoRA is)".to_owned());
        }
        // These take something out of the base model's weights before the matrices are added.
        if let Some(start) = field("init_lora_weights").and_then(Value::as_str)
            && !PLAIN_STARTS.contains(&start)
        {
            return Err(format!(
                "init_lora_weights = {start:?} is not supported (a plain start is)"
            ));
        }
        let is_used = |name: &&str| match field(name) {
            None | Some(Value::Bool(false)) => false,
            Some(Value::Array(values)) => !values.is_empty(),
            Some(Value::Object(values)) => !values.is_empty(),
            Some(_) => true,
        };
        if let Some(name) = BEYOND_PLAIN.iter().find(|name| is_used(name)) {
            return Err(format!("{name} is not supported (a plain LoRA is)"));
        }
        let number = |name: &str, value: &Value| {
            value
                .as_f64()
                .filter(|value| value.is_finite())
                .ok_or_else(|| format!("{name} is {value}"))
        };
        let mut patterns = Vec::new();
        if let Some(fields) = field("alpha_pattern").and_then(Value::as_object) {
            for (pattern, value) in fields {
                let name =
                    pattern.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
                if name.contains(['*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\']) {
                    return Err(format!("alpha_pattern: `{pattern}` is not the name of a module"));
                }
                patterns.push((name, number("alpha_pattern", value)?));
            }
        }
        Ok(Self {
            alpha: field("lora_alpha").map(|value| number("lora_alpha", value)).transpose()?,
            patterns,
            rank_stabilised: flag("use_rslora"),
        })
    }

    /// Factor of a module's product.
    pub(super) fn scale(&self, module: &str, rank: usize) -> f64 {
        let ends = |name: &str| {
            module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let pattern = self.patterns.iter().find(|(name, _)| ends(name)).map(|&(_, alpha)| alpha);
        let rank = rank as f64;
        let alpha = pattern.or(self.alpha).unwrap_or(rank);
        alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_scale_is_alpha_over_rank_with_the_exceptions_of_the_configuration() {
        let json = json!({
            "lora_alpha": 4, "r": 8, "peft_type": "LORA",
            "alpha_pattern": {"attn1.to_q": 16.0, "^mid\\.proj$": 2},
        });
        let config = AdapterConfig::from_json(&json, "").unwrap();
        assert_eq!(config.scale("down.0.attn1.to_k", 8), 0.5);
        assert_eq!(config.scale("down.0.attn1.to_q", 8), 2.0);
        assert_eq!(config.scale("down.0.xattn1.to_q", 8), 0.5);
        assert_eq!(config.scale("mid.proj", 8), 0.25);
        let json = json!({"unet.lora_alpha": 4, "unet.use_rslora": true});
        assert_eq!(AdapterConfig::from_json(&json, "unet.").unwrap().scale("x", 16), 1.0);
        assert_eq!(AdapterConfig::from_json(&json, "text_encoder.").unwrap().scale("x", 16), 1.0);
    }

    #[test]
    fn fields_that_change_nothing_are_passed_over() {
        let json = json!({"init_lora_weights": true, "lora_bias": false, "layer_replication": null,
            "target_parameters": [], "bias": "none", "lora_dropout": 0.1, "lora_alpha": 8});
        assert_eq!(AdapterConfig::from_json(&json, "").unwrap().scale("x", 8), 1.0);
    }

    #[test]
    fn what_is_no_plain_lora_is_refused() {
        for (json, reason) in [
            (json!({"peft_type": "LOHA"}), "LOHA is not supported"),
            (json!({"use_dora": true}), "DoRA is not supported"),
            (json!({"init_lora_weights": "pissa"}), "init_lora_weights = \"pissa\""),
            (json!({"unet.r": 4, "lora_bias": true}), "lora_bias is not supported"),
            (json!({"layer_replication": [[0, 4]]}), "layer_replication is not supported"),
            (json!({"lora_alpha": 1e300}), "`lora_alpha` is 1e+300, not from"),
            (json!({"lora_alpha": "many"}), "lora_alpha is \"many\""),
            (json!({"alpha_pattern": {"to_[qk]": 3}}), "`to_[qk]` is not the name of a module"),
        ] {
            let error = AdapterConfig::from_json(&json, "").unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
    }
}
