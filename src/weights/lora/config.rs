//! Configuration of an adapter by peft, in `adapter_config.json` or, as diffusers writes it, in the LoRA file's
//! own metadata. What decides the scale or the form of a rotation is read, what makes the matrices something else than a
//! change of this model's weights is refused by name, and the rest is told by the file's keys or plays a part in training
//! alone.
//!
//! Sources: peft `tuners/lora/layer.py` (`update_layer`: alpha / r, or alpha / √r), `tuners/lokr/layer.py`,
//! `tuners/oft/{config,layer}.py` and `utils/other.py` (`get_pattern_key`); diffusers `loaders/lora_base.py`
//! (`lora_adapter_metadata`).

use serde_json::Value;

use super::rotation::MOST_TERMS;
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

/// Kinds of adapters of peft's that are supported.
const KINDS: [&str; 4] = ["LORA", "LOHA", "LOKR", "OFT"];

/// Fields of a peft configuration that decide the scale of a module, or how it turns.
#[derive(Debug, Default)]
pub(super) struct AdapterConfig {
    alpha: PerModule,
    rank: PerModule,
    rank_stabilised: bool,
    /// one block of OFT turns all columns
    is_shared: bool,
    /// terms of the series that OFT has in place of an inverse
    terms: Option<usize>,
}

/// A number with exceptions for some modules.
#[derive(Debug, Default)]
struct PerModule {
    number: Option<f64>,
    /// numbers of modules that end like this
    patterns: Vec<(String, f64)>,
}

impl PerModule {
    fn of(&self, module: &str) -> Option<f64> {
        let ends = |name: &str| {
            module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let pattern = self.patterns.iter().find(|(name, _)| ends(name));
        pattern.map(|&(_, number)| number).or(self.number)
    }
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
        if !KINDS.contains(&kind) {
            return Err(format!("{kind} is not supported ({} are)", KINDS.join(", ")));
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
        let per_module = |name: Option<&str>, pattern_field: &str| {
            let named = name.and_then(|name| Some((name, field(name)?)));
            let mut found = PerModule {
                number: named.map(|(name, value)| number(name, value)).transpose()?,
                patterns: Vec::new(),
            };
            if let Some(fields) = field(pattern_field).and_then(Value::as_object) {
                for (pattern, value) in fields {
                    let name =
                        pattern.trim_start_matches('^').trim_end_matches('$').replace("\\.", ".");
                    if name.contains(['*', '+', '?', '(', ')', '[', ']', '{', '}', '|', '\\']) {
                        return Err(format!(
                            "{pattern_field}: `{pattern}` is not the name of a module"
                        ));
                    }
                    found.patterns.push((name, number(pattern_field, value)?));
                }
            }
            Ok(found)
        };
        let is_lora = kind == "LORA";
        let is_oft = kind == "OFT";
        let terms = if is_oft { terms(&field)? } else { None };
        Ok(Self {
            // peft's LoHa and LoKr call it alpha; that of OFT there is none.
            alpha: per_module(Some(if is_lora { "lora_alpha" } else { "alpha" }), "alpha_pattern")?,
            // The rank of pairs is in their shapes, so that of a LoRA need not make sense.
            rank: if is_lora || is_oft {
                PerModule::default()
            } else {
                per_module(Some("r"), "rank_pattern")?
            },
            rank_stabilised: flag("use_rslora"),
            is_shared: is_oft && flag("block_share"),
            terms,
        })
    }

    /// Factor of a module's change; a change without a rank has that of the configuration.
    pub(super) fn scale(&self, module: &str, rank: Option<usize>) -> f64 {
        let of_config = || self.rank.of(module).filter(|rank| *rank > 0.0);
        let Some(rank) = rank.map(|rank| rank as f64).or_else(of_config) else { return 1.0 };
        let alpha = self.alpha.of(module).unwrap_or(rank);
        alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Whether one block of OFT turns all columns, and the terms of its series, if it is one.
    pub(super) fn rotation(&self) -> (bool, Option<usize>) {
        (self.is_shared, self.terms)
    }
}

/// Terms of the series by which peft's OFT stands for an inverse; `None` for the inverse itself.
fn terms<'a>(field: &impl Fn(&str) -> Option<&'a Value>) -> Result<Option<usize>, String> {
    let flag = |name: &str| field(name).and_then(Value::as_bool).unwrap_or(false);
    if flag("coft") {
        return Err("coft is not supported (OFT without it is)".to_owned());
    }
    if !flag("use_cayley_neumann") {
        return Ok(None);
    }
    // peft 0.18 changed the last term, and began to write its version.
    let version = field("peft_version").and_then(Value::as_str).unwrap_or_default();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    let version = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if version < (0, 18) {
        return Err("an OFT with use_cayley_neumann of a peft before 0.18, whose series was another one, is not \
                    supported"
            .to_owned());
    }
    let terms = field("num_cayley_neumann_terms").map_or(Some(5), Value::as_u64);
    let terms = terms.and_then(|terms| usize::try_from(terms).ok());
    match terms.filter(|terms| *terms <= MOST_TERMS) {
        Some(terms) => Ok(Some(terms)),
        None => Err(format!("num_cayley_neumann_terms is not from 0 to {MOST_TERMS}")),
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
        assert_eq!(config.scale("down.0.attn1.to_k", Some(8)), 0.5);
        assert_eq!(config.scale("down.0.attn1.to_q", Some(8)), 2.0);
        assert_eq!(config.scale("down.0.xattn1.to_q", Some(8)), 0.5);
        assert_eq!(config.scale("mid.proj", Some(8)), 0.25);
        let json = json!({"unet.lora_alpha": 4, "unet.use_rslora": true});
        assert_eq!(AdapterConfig::from_json(&json, "unet.").unwrap().scale("x", Some(16)), 1.0);
        assert_eq!(
            AdapterConfig::from_json(&json, "text_encoder.").unwrap().scale("x", Some(16)),
            1.0
        );
    }

    #[test]
    fn other_kinds_of_adapters_have_fields_of_their_own() {
        let json = json!({"peft_type": "LOKR", "alpha": 6, "r": 4, "use_dora": true,
            "rank_pattern": {"to_q": 3}, "lora_alpha": 100});
        let config = AdapterConfig::from_json(&json, "").unwrap();
        assert_eq!(config.scale("attn1.to_k", None), 1.5);
        assert_eq!(config.scale("attn1.to_q", None), 2.0);
        assert_eq!(config.scale("attn1.to_q", Some(2)), 3.0);
        let json = json!({"peft_type": "OFT", "block_share": true, "use_cayley_neumann": true,
            "peft_version": "1.0.0.dev0", "num_cayley_neumann_terms": 7});
        assert_eq!(AdapterConfig::from_json(&json, "").unwrap().rotation(), (true, Some(7)));
        let json = json!({"peft_type": "OFT", "use_cayley_neumann": false});
        assert_eq!(AdapterConfig::from_json(&json, "").unwrap().rotation(), (false, None));
        assert_eq!(AdapterConfig::default().scale("attn1.to_q", None), 1.0);
    }

    #[test]
    fn fields_that_change_nothing_are_passed_over() {
        let json = json!({"init_lora_weights": true, "lora_bias": false, "layer_replication": null,
            "target_parameters": [], "bias": "none", "lora_dropout": 0.1, "lora_alpha": 8});
        assert_eq!(AdapterConfig::from_json(&json, "").unwrap().scale("x", Some(8)), 1.0);
    }

    #[test]
    fn what_is_no_plain_lora_is_refused() {
        for (json, reason) in [
            (json!({"peft_type": "VERA"}), "VERA is not supported"),
            (json!({"peft_type": "OFT", "coft": true}), "coft is not supported"),
            (
                json!({"peft_type": "OFT", "use_cayley_neumann": true, "peft_version": "0.17.1"}),
                "before 0.18",
            ),
            (json!({"peft_type": "OFT", "use_cayley_neumann": true}), "before 0.18"),
            (
                json!({"peft_type": "OFT", "use_cayley_neumann": true, "peft_version": "0.18.0",
                    "num_cayley_neumann_terms": 65}),
                "num_cayley_neumann_terms is not from 0 to 64",
            ),
            (json!({"peft_type": "LOKR", "r": "two"}), "r is \"two\""),
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
