//! Modules of a LoRA file: the part and the weight of a model that each means. They are found by spelling every weight of the model in each of the namings, because `to_out_0`
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

use super::blocks::{Block, BlockLayout};
use crate::weights::families::{LoraNames, clip};
use crate::weights::part::Part;
use crate::weights::tensors::{Take, TensorMap, TensorName};

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
    /// shape of the module's bias, if it has one
    pub bias: Option<Vec<usize>>,
    /// block of the UNet that it is in
    pub block: Option<Block>,
}

impl LoraWeight {
    /// Name of the module's bias.
    pub(super) fn bias_name(&self) -> String {
        let module = self.name.strip_suffix(".weight").unwrap_or(&self.name);
        format!("{module}.bias")
    }
}

/// Weights that a module means in one part of a model, each with the way in which the rows of its change are taken.
pub(super) type Meant<'a> = Vec<(&'a LoraWeight, Take)>;

/// Weights of a model by every spelling of the module that they belong to.
pub(in crate::weights) struct Index {
    weights: Vec<LoraWeight>,
    by_spelling: HashMap<(Part, String), Vec<(usize, Take)>>,
    parts: Vec<Part>,
    names: LoraNames,
    layout: BlockLayout,
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
            layout: BlockLayout::default(),
        };
        for (part, tensors) in parts {
            for name in tensors.names() {
                let shape = tensors.shape(name).unwrap_or_default();
                let (Some(module), false) = (name.strip_suffix(".weight"), shape.is_empty()) else {
                    continue;
                };
                let spelling = spell(module);
                let (mut spellings, mut block) = (vec![], None);
                let theirs = match part {
                    Part::Denoiser => {
                        checkpoint_names.get(name).map(|&(theirs, take)| (theirs.clone(), take))
                    }
                    _ => clip::open_clip_module(module)
                        .map(|(theirs, take)| (format!("{theirs}.weight"), take)),
                };
                if let Some((theirs, take)) = theirs
                    && let Some(theirs) = theirs.strip_suffix(".weight")
                {
                    block = Block::of(theirs);
                    let theirs = spell(theirs);
                    if theirs != spelling {
                        spellings.push((theirs, take));
                    }
                }
                if let Some(block) = block {
                    index.layout.add(block, name.contains(".transformer_blocks."));
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
                    bias: tensors.shape(&format!("{module}.bias")).map(<[usize]>::to_vec),
                    block,
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

    /// Names and shapes of all weights and biases, part by part.
    #[cfg(fuzzing)]
    pub(in crate::weights) fn names(&self) -> Vec<(Part, Vec<(String, Vec<usize>)>)> {
        let of_part = |part: &Part| {
            let own = self.weights.iter().filter(|weight| weight.part == *part);
            let names = own.flat_map(|weight| {
                let bias = weight.bias.clone().map(|shape| (weight.bias_name(), shape));
                [(weight.name.clone(), weight.shape.clone())].into_iter().chain(bias)
            });
            (*part, names.collect())
        };
        self.parts.iter().map(of_part).collect()
    }

    /// Blocks of the denoiser.
    pub(super) fn layout(&self) -> &BlockLayout {
        &self.layout
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
    use super::super::roles::{LoraTensorRole, split};
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
}
