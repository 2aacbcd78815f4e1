//! Reasons why a LoRA cannot be used with a model, in one line each without the file's name.

/// Names of the file when diffusers and peft save a LoRA into a folder.
pub(super) const FILES: [&str; 2] =
    ["pytorch_lora_weights.safetensors", "adapter_model.safetensors"];

/// Reason why a LoRA cannot be used with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "a variant's message says what its fields are")]
pub enum LoraError {
    #[error("a folder without {}; name the safetensors file in it", FILES.join(" or "))]
    Folder,
    #[error("not a LoRA: no tensors in it")]
    Empty,
    #[error("the scale {0} is not a number")]
    Scale(f64),
    #[error("`{key}` belongs to {kind}, which is not supported")]
    Kind { key: String, kind: &'static str },
    #[error("not a LoRA: no pair of lora_down and lora_up (its first tensor: `{0}`)")]
    NotLora(String),
    /// Both are named by their generation and the width of their text.
    #[error("made for {lora}, this model is {model}")]
    Family { lora: String, model: String },
    #[error("none of its {count} modules is in this model (the first: `{first}`)")]
    NothingMatches { count: usize, first: String },
    #[error("`{module}` has no {missing}")]
    Half { module: String, missing: &'static str },
    #[error("`{0}` has rank 0")]
    NoRank(String),
    #[error(
        "`{down}`: an up of {:?} and a down of {:?} do not make `{weight}` of {expected:?}",
        .shapes[0], .shapes[1]
    )]
    Shape { down: String, shapes: [Vec<usize>; 2], weight: String, expected: Vec<usize> },
    #[error("`{module}`: {shapes} do not make `{weight}` of {expected:?}")]
    Factors { module: String, shapes: String, weight: String, expected: Vec<usize> },
    #[error("`{key}` cannot turn `{weight}`: {reason}")]
    Rotation { key: String, weight: String, reason: String },
    #[error(
        "`{key}` of {found:?} has the lengths of neither rows nor inputs of `{weight}`, {expected:?}"
    )]
    Lengths { key: String, found: Vec<usize>, weight: String, expected: Vec<usize> },
    #[error(
        "`{key}` of {found:?} is for {}",
        match .expected {
            Some(expected) => format!("`{weight}` of {expected:?}"),
            None => format!("`{weight}`, which this model has not"),
        }
    )]
    Bias { key: String, found: Vec<usize>, weight: String, expected: Option<Vec<usize>> },
    #[error("`{module}` is both {} and {}", .kinds[0], .kinds[1])]
    Mixed { module: String, kinds: [&'static str; 2] },
    #[error(
        "`{module}` is kept in several weights here, which {kind} cannot change (its names in diffusers could)"
    )]
    Pieces { module: String, kind: &'static str },
    #[error("{0}")]
    Blocks(String),
    #[error("`{key}` is {value}, not a finite number")]
    Alpha { key: String, value: f64 },
    #[error("`{0}` is not one number")]
    AlphaShape(String),
}
