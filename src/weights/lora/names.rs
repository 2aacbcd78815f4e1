//! Keys of a LoRA file: the part and the module of a model that each means, and its matrix of the pair.
//! Modules are found by spelling every weight of the model in each of the namings, because `to_out_0`
//! cannot be taken apart again without knowing the model. The names that depend on the model's family are
//! the family's ([`LoraNames`]).
//!
//! Sources: kohya-ss/sd-scripts `networks/lora.py` (`lora_unet_`, `lora_te_`, `lora_te1_`,
//! `lora_te2_`, dots as underscores); diffusers `utils/state_dict_utils.py`
//! (`UNET_TO_DIFFUSERS`, `DIFFUSERS_OLD_TO_PEFT`, `DIFFUSERS_TO_PEFT`) and
//! `loaders/lora_conversion_utils.py`; peft `utils/save_and_load.py` (`base_model.model.`).
//! That Hyper-SDXL's files (787 359 648 bytes) are in kohya's form with diffusers' names follows from
//! their size: 788 modules of rank 64 in f32, an alpha each and the metadata `format: pt` give exactly
//! that number of bytes, as the same names in f16 give LCM-LoRA's 393 854 624.

use std::collections::HashMap;

use crate::weights::families::LoraNames;
use crate::weights::part::Part;
use crate::weights::tensors::{Take, TensorMap, TensorName};

/// Role of a LoRA's tensor in its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LoraTensorRole {
    /// `A`, `[rank, in, …]`
    Down,
    /// `B`, `[out, rank, …]`
    Up,
    /// the core between them of a Tucker decomposition, `[rank, rank, kh, kw]`
    Mid,
    Alpha,
}

impl LoraTensorRole {
    /// Name in a message.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Down => "lora_down (lora_A)",
            Self::Up => "lora_up (lora_B)",
            Self::Mid => "lora_mid",
            Self::Alpha => "alpha",
        }
    }
}

/// Ends of keys: kohya and LyCORIS, peft, then diffusers in the order of its history, newest first.
const ROLES: [(&str, LoraTensorRole); 16] = [
    (".lora_down.weight", LoraTensorRole::Down),
    (".lora_up.weight", LoraTensorRole::Up),
    (".lora_mid.weight", LoraTensorRole::Mid),
    (".alpha", LoraTensorRole::Alpha),
    (".lora_A.weight", LoraTensorRole::Down),
    (".lora_B.weight", LoraTensorRole::Up),
    (".lora_A.default.weight", LoraTensorRole::Down),
    (".lora_B.default.weight", LoraTensorRole::Up),
    (".lora_A", LoraTensorRole::Down),
    (".lora_B", LoraTensorRole::Up),
    (".lora_linear_layer.down.weight", LoraTensorRole::Down),
    (".lora_linear_layer.up.weight", LoraTensorRole::Up),
    (".lora.down.weight", LoraTensorRole::Down),
    (".lora.up.weight", LoraTensorRole::Up),
    ("_lora.down.weight", LoraTensorRole::Down),
    ("_lora.up.weight", LoraTensorRole::Up),
];

/// Kinds of adapter that are no plain LoRA, by the beginning of the piece of a key that says the tensor's role (LyCORIS
/// `docs/Algo-List.md`, peft `tuners/`).
const OTHER_KINDS: [(&str, &str); 12] = [
    ("dora_scale", "DoRA"),
    ("lora_magnitude_vector", "DoRA"),
    ("hada_w", "LoHa"),
    ("hada_t", "LoHa"),
    ("lokr_w", "LoKr"),
    ("lokr_t", "LoKr"),
    ("oft_", "OFT"),
    ("boft_", "BOFT"),
    ("on_input", "IA³"),
    ("ia3_l", "IA³"),
    ("vera_lambda", "VeRA"),
    ("lora_E", "AdaLoRA"),
];
/// Ends of the keys of a full-weight difference (LyCORIS), which are whole pieces: `diffusion_model` begins like one.
const DIFFERENCES: [&str; 2] = [".diff", ".diff_b"];

/// Splits a key into the name of its module, as the file spells it, and its role.
pub(super) fn split(key: &str) -> Option<(&str, LoraTensorRole)> {
    ROLES.iter().find_map(|&(end, role)| Some((key.strip_suffix(end)?, role)))
}

/// Kind of adapter to which a key belongs, where that is no plain LoRA.
pub(super) fn other_kind(key: &str) -> Option<&'static str> {
    if key.ends_with(".lora_B.bias") {
        return Some("a LoRA with biases");
    }
    if DIFFERENCES.iter().any(|end| key.ends_with(end)) {
        return Some("a full-weight difference");
    }
    // The role stands last, or before peft's `.weight` or `.default.weight`; what is before it names a module.
    let (_, pieces) = key.split_once('.')?;
    let mut roles = pieces.rsplit('.').take(3);
    roles.find_map(|role| {
        OTHER_KINDS.iter().find(|(kind, _)| role.starts_with(kind)).map(|&(_, title)| title)
    })
}

/// Place that a module's name says.
#[derive(Debug)]
pub(super) struct ModulePlace<'a> {
    /// part of the model, where the naming says it
    pub part: Option<Part>,
    /// name within the part, dots and underscores as in the file
    pub module: &'a str,
    /// `true` if peft wrote it, which keeps alpha in a file of its own
    pub peft: bool,
    names: LoraNames,
}

impl<'a> ModulePlace<'a> {
    /// Reads the prefix of a module's name.
    pub(super) fn parse(name: &'a str, names: LoraNames) -> Self {
        let found = (names.prefixes)
            .iter()
            .find_map(|&(prefix, part)| Some((Some(part), name.strip_prefix(prefix)?)));
        let (part, rest) = found.unwrap_or((None, name));
        let module = rest.strip_prefix("base_model.model.");
        Self { part, module: module.unwrap_or(rest), peft: module.is_some(), names }
    }

    /// `true` if this layer of the denoiser reads the text: its input is as wide as the text encoders' output.
    pub(super) fn reads_text(&self) -> bool {
        self.part.is_none_or(|part| part == Part::Denoiser) && self.names.reads_text(self.module)
    }
}

impl LoraNames {
    fn reads_text(&self, module: &str) -> bool {
        let spelling = spell(module);
        self.text_readers.iter().any(|end| spelling.ends_with(end))
    }
}

/// A weight of the model that a LoRA can change.
#[derive(Debug)]
pub(super) struct LoraWeight {
    pub part: Part,
    /// name in diffusers or transformers
    pub name: String,
    pub shape: Vec<usize>,
}

/// Weights that a module means in one part of a model, each with the way in which the rows of its change are taken.
pub(super) type Meant<'a> = Vec<(&'a LoraWeight, Take)>;

/// Weights of a model by every spelling of the module that they belong to.
pub(in crate::weights) struct Index {
    weights: Vec<LoraWeight>,
    by_spelling: HashMap<(Part, String), Vec<(usize, Take)>>,
    parts: Vec<Part>,
    names: LoraNames,
}

impl Index {
    /// Index of a model with these parts; `checkpoint_names` are those that the code which trained the denoiser
    /// gives its tensors, and `names` the family's names in LoRA files.
    pub(in crate::weights) fn new(
        parts: &[(Part, TensorMap)],
        checkpoint_names: &[TensorName],
        names: LoraNames,
    ) -> Self {
        let checkpoint_names: HashMap<_, _> = checkpoint_names
            .iter()
            .map(|(ours, theirs, take)| (&**ours, (theirs, *take)))
            .collect();
        let mut index = Self {
            weights: Vec::new(),
            by_spelling: HashMap::new(),
            parts: parts.iter().map(|&(part, _)| part).collect(),
            names,
        };
        for (part, tensors) in parts {
            for name in tensors.names() {
                let shape = tensors.shape(name).unwrap_or_default();
                let (Some(module), true) = (name.strip_suffix(".weight"), shape.len() > 1) else {
                    continue;
                };
                let spelling = spell(module);
                let mut spellings = vec![];
                if *part == Part::Denoiser
                    && let Some(&(theirs, take)) = checkpoint_names.get(name)
                    && let Some(theirs) = theirs.strip_suffix(".weight").map(spell)
                    && theirs != spelling
                {
                    spellings.push((theirs, take));
                }
                spellings.extend(old_spelling(&spelling).map(|old| (old, Take::Whole)));
                spellings.push((spelling, Take::Whole));
                for (spelling, take) in spellings {
                    let meant = index.by_spelling.entry((*part, spelling)).or_default();
                    meant.push((index.weights.len(), take));
                }
                index.weights.push(LoraWeight {
                    part: *part,
                    name: name.to_owned(),
                    shape: shape.to_vec(),
                });
            }
        }
        index
    }

    /// Reads the prefix of a module's name, as this model's family names its parts.
    pub(super) fn place<'a>(&self, name: &'a str) -> ModulePlace<'a> {
        ModulePlace::parse(name, self.names)
    }

    /// What a module's name can mean, part by part: one part, where the naming says it; else perhaps each text encoder,
    /// since these have the same names. A module that the training code keeps in one piece (queries, keys and values)
    /// means several weights of a part.
    pub(super) fn find(&self, place: &ModulePlace) -> Vec<Meant<'_>> {
        let spelling = spell(place.module);
        let parts = self.parts.iter().filter(|&&part| place.part.is_none_or(|only| only == part));
        parts
            .filter_map(|&part| self.by_spelling.get(&(part, spelling.clone())))
            .map(|meant| meant.iter().map(|&(index, take)| (&self.weights[index], take)).collect())
            .collect()
    }

    /// Width of the text that the denoiser reads.
    pub(super) fn text_width(&self) -> Option<usize> {
        let reads = |weight: &&LoraWeight| {
            let module = weight.name.strip_suffix(".weight");
            weight.part == Part::Denoiser && module.is_some_and(|name| self.names.reads_text(name))
        };
        self.weights.iter().find(reads)?.shape.get(1).copied()
    }
}

/// Common spelling of a module's name in all namings: underscores for dots, without diffusers' `processor` and
/// without the `text_model` that transformers 5 leaves out.
fn spell(module: &str) -> String {
    let spelling = module.replace(".processor.", ".").replace('.', "_");
    match spelling.strip_prefix("text_model_") {
        Some(rest) => rest.to_owned(),
        None => spelling,
    }
}

/// Name that the attention processors of old diffusers gave a projection (`to_q_lora` and so on), where that is
/// not its name: `to_out` for `to_out.0`, and `to_q` for a text encoder's `q_proj`.
fn old_spelling(spelling: &str) -> Option<String> {
    const PROJECTIONS: [(&str, &str); 5] = [
        ("_to_out_0", "_to_out"),
        ("_self_attn_q_proj", "_self_attn_to_q"),
        ("_self_attn_k_proj", "_self_attn_to_k"),
        ("_self_attn_v_proj", "_self_attn_to_v"),
        ("_self_attn_out_proj", "_self_attn_to_out"),
    ];
    let find = |&(new, old)| Some(format!("{}{old}", spelling.strip_suffix(new)?));
    PROJECTIONS.iter().find_map(find)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::families::FAMILIES;

    #[test]
    fn every_naming_of_a_layer_meets_in_one_spelling() {
        let query = "down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q";
        for (key, part) in [
            (
                "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight",
                Some(Part::Denoiser),
            ),
            (
                "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight",
                Some(Part::Denoiser),
            ),
            (
                "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora.up.weight",
                Some(Part::Denoiser),
            ),
            (
                "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
                Some(Part::Denoiser),
            ),
            (
                "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.weight",
                None,
            ),
            (
                "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.lora_B.default.weight",
                None,
            ),
        ] {
            let (name, role) = split(key).unwrap();
            let place = ModulePlace::parse(name, FAMILIES[0].lora());
            assert_eq!(
                (spell(place.module), place.part, role),
                (query.to_owned(), part, LoraTensorRole::Up)
            );
        }
        let name = "model.diffusion_model.input_blocks.4.1.proj_in.lora_A";
        let (name, role) = split(name).unwrap();
        let place = ModulePlace::parse(name, FAMILIES[0].lora());
        let spelling = spell(place.module);
        assert_eq!((&*spelling, role), ("input_blocks_4_1_proj_in", LoraTensorRole::Down));
        for key in [
            "lora_te1_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight",
            "lora_te_text_model_encoder_layers_3_self_attn_q_proj.lora_down.weight",
            "text_encoder.text_model.encoder.layers.3.self_attn.q_proj.lora_linear_layer.down.weight",
            "text_encoder.encoder.layers.3.self_attn.q_proj.lora_A.weight",
        ] {
            let (name, role) = split(key).unwrap();
            let place = ModulePlace::parse(name, FAMILIES[0].lora());
            assert_eq!(spell(place.module), "encoder_layers_3_self_attn_q_proj");
            assert_eq!((place.part, role), (Some(Part::TextEncoder(0)), LoraTensorRole::Down));
        }
    }

    #[test]
    fn old_names_of_projections_are_known() {
        for (new, old) in [
            (
                "mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0",
                Some("mid_block_attentions_0_transformer_blocks_0_attn2_to_out"),
            ),
            ("encoder_layers_0_self_attn_out_proj", Some("encoder_layers_0_self_attn_to_out")),
            ("encoder_layers_0_self_attn_k_proj", Some("encoder_layers_0_self_attn_to_k")),
            ("mid_block_attentions_0_proj_in", None),
        ] {
            assert_eq!(old_spelling(new).as_deref(), old);
        }
    }

    #[test]
    fn other_kinds_of_adapter_are_told_by_their_keys() {
        for (key, kind) in [
            ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "DoRA"),
            ("base_model.model.mid_block.attentions.0.proj_in.lora_magnitude_vector", "DoRA"),
            ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"),
            ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "LoKr"),
            ("lora_unet_mid_block_attentions_0_proj_in.oft_blocks", "OFT"),
            ("base_model.model.mid_block.proj_in.lora_magnitude_vector.default.weight", "DoRA"),
            ("base_model.model.mid_block.proj_in.oft_R.default.weight", "OFT"),
            ("lora_unet_mid_block_resnets_0_norm1.diff_b", "a full-weight difference"),
            ("diffusion_model.input_blocks.0.0.diff", "a full-weight difference"),
        ] {
            assert_eq!(other_kind(key), Some(kind), "{key}");
        }
        for key in [
            "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
            "model.diffusion_model.middle_block.1.proj_in.lora_A.weight",
            "diffusion_model.diffusers.oft_blocks.0.attentions.0.proj_in.lora_down.weight",
        ] {
            assert_eq!(other_kind(key), None, "{key}");
        }
    }
}
