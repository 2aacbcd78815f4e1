//! `AutoencoderKL` in weights files of any contents: the names of its tensors and its configuration. The
//! families of latent diffusion share this network, so it has a file beside theirs.
//!
//! Sources: diffusers `loaders/single_file_utils.py` (`DIFFUSERS_TO_LDM_MAPPING`,
//! `convert_ldm_vae_checkpoint`, `create_vae_diffusers_config_from_ldm`) and `scripts/convert_flux2_to_diffusers.py`
//! (packed latents); kohya-ss/sd-scripts
//! `library/model_util.py` (`convert_vae_state_dict`, which knows one naming of the attention at a time and leaves the
//! others as they are).

use serde_json::{Value, json};

use super::pairs::Pairs;
use crate::backend::ParamSource as _;
use crate::model::vae::KlConfig;
use crate::weights::WeightsError;
use crate::weights::part_file::{
    LatentScale, Naming, PartFile, PartPlace, Shapes, find, part_config,
};
use crate::weights::tensors::{Take, TensorMap};

/// `true` if this is a class of the autoencoder in diffusers.
pub(in crate::weights) fn is_class(class: &str) -> bool {
    KlConfig::CLASSES.contains(&class)
}

/// The mean and the variance of packed latents, by the same names everywhere.
const PACKED: [&str; 2] = ["bn.running_mean", "bn.running_var"];

/// Place of the autoencoder's tensors in a file, if it has them.
pub(super) fn find_in(tensors: &TensorMap) -> Option<PartPlace> {
    let prefixes = ["first_stage_model.", "vae.", ""];
    let middle = ("decoder.mid.block_1.conv1.weight", "decoder.mid_block.resnets.0.conv1.weight");
    find(tensors, &prefixes, middle.0, middle.1)
}

/// Autoencoder in a file of any contents, if there is one; `latents` is the scale of the model that it is
/// for.
///
/// # Errors
/// An autoencoder of an architecture that is not supported.
pub(in crate::weights) fn part(
    file: &str,
    tensors: &TensorMap,
    latents: LatentScale,
) -> Result<Option<PartFile>, WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let Some(PartPlace { prefix, naming }) = find_in(tensors) else { return Ok(None) };
    let config = config(&Shapes { tensors, prefix }, naming, latents).map_err(&fail)?;
    let resolved = KlConfig::from_json(&config).map_err(|error| fail(error.to_string()))?;
    let names = names(&resolved)
        .into_iter()
        .map(|(ours, theirs)| {
            let stored = match naming {
                Naming::Ldm => stored_name(tensors, format!("{prefix}{theirs}"), ldm_names),
                Naming::Diffusers => {
                    stored_name(tensors, format!("{prefix}{ours}"), |name| vec![old_name(name)])
                }
            };
            (ours, stored, Take::Whole)
        })
        .collect();
    let class = KlConfig::CLASSES[usize::from(resolved.packing.is_some())];
    let config = part_config(class, config, file, "vae");
    Ok(Some(PartFile::new(config, tensors, prefix, names)))
}

/// Name of a tensor in a file: `name`, or the one of its `others` that the file has.
fn stored_name(tensors: &TensorMap, name: String, others: impl Fn(&str) -> Vec<String>) -> String {
    if tensors.contains(&name) {
        return name;
    }
    others(&name).into_iter().find(|other| tensors.contains(other)).unwrap_or(name)
}

/// Names that the attention's modules have in ldm, and those that converters leave in files of otherwise ldm's names:
/// diffusers' own, and those of diffusers before 0.12.
const LDM_ATTENTION: [(&str, &[&str]); 5] = [
    ("norm", &["group_norm"]),
    ("q", &["to_q", "query"]),
    ("k", &["to_k", "key"]),
    ("v", &["to_v", "value"]),
    ("proj_out", &["to_out.0", "proj_attn"]),
];

/// Other names of a tensor of ldm's attention.
fn ldm_names(name: &str) -> Vec<String> {
    let Some((place, rest)) = name.split_once(".mid.attn_1.") else { return Vec::new() };
    let Some((module, kind)) = rest.rsplit_once('.') else { return Vec::new() };
    let others = LDM_ATTENTION.iter().filter(|(known, _)| *known == module);
    others
        .flat_map(|(_, others)| *others)
        .map(|other| format!("{place}.mid.attn_1.{other}.{kind}"))
        .collect()
}

/// Name of a tensor of the attention in diffusers before 0.12.
pub(in crate::weights) fn old_name(name: &str) -> String {
    name.replace(".to_q.", ".query.")
        .replace(".to_k.", ".key.")
        .replace(".to_v.", ".value.")
        .replace(".to_out.0.", ".proj_attn.")
}

/// Configuration of the autoencoder. The scale of its latents is the model's, not the file's.
fn config(shapes: &Shapes, naming: Naming, latents: LatentScale) -> Result<Value, String> {
    let (down, block, attention) = match naming {
        Naming::Ldm => ("encoder.down", "block", "encoder.mid.attn_1.norm.weight"),
        Naming::Diffusers => {
            ("encoder.down_blocks", "resnets", "encoder.mid_block.attentions.0.group_norm.weight")
        }
    };
    let has_attention =
        shapes.has(attention) || ldm_names(attention).iter().any(|other| shapes.has(other));
    let conv = |level: usize, index: usize| format!("{down}.{level}.{block}.{index}.conv1.weight");
    let levels = shapes.count(|level| conv(level, 0));
    let widths =
        (0..levels).map(|level| shapes.size(&conv(level, 0), 0)).collect::<Result<Vec<_>, _>>()?;
    let layers = shapes.count(|index| conv(0, index));
    let of_decoder = |level: usize| match naming {
        Naming::Ldm => format!("decoder.up.{level}.block.0.conv1.weight"),
        Naming::Diffusers => {
            format!("decoder.up_blocks.{}.resnets.0.conv1.weight", levels - 1 - level)
        }
    };
    // What is missing is told where it is asked for.
    let of_decoder: Option<Vec<usize>> =
        (0..levels).map(|level| shapes.size(&of_decoder(level), 0).ok()).collect();
    let of_decoder = of_decoder.filter(|of_decoder| *of_decoder != widths);
    let is_packed = shapes.has(PACKED[0]);
    let has = |name: &str, side: &str| shapes.has(name) || shapes.has(&format!("{side}.{name}"));
    Ok(json!({
        "_class_name": KlConfig::CLASSES[usize::from(is_packed)],
        "in_channels": shapes.size("encoder.conv_in.weight", 1)?,
        "out_channels": shapes.size("decoder.conv_out.weight", 0)?,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "block_out_channels": widths,
        "decoder_block_out_channels": of_decoder,
        "layers_per_block": layers,
        "latent_channels": shapes.size("decoder.conv_in.weight", 1)?,
        "norm_num_groups": 32,
        "scaling_factor": latents.factor,
        "shift_factor": latents.shift,
        "use_quant_conv": has("quant_conv.weight", "encoder"),
        "use_post_quant_conv": has("post_quant_conv.weight", "decoder"),
        "mid_block_add_attention": has_attention,
    }))
}

/// Names of every tensor of an `AutoencoderKL`, in diffusers and in ldm (without the `first_stage_model.` of
/// a whole checkpoint). In ldm the attention's projections are 1×1 convolutions.
pub(in crate::weights) fn names(config: &KlConfig) -> Vec<(String, String)> {
    let mut names = Pairs::default();
    let widths = &config.block_out_channels;
    let levels = widths.len();
    let mut channels = widths.first().copied().unwrap_or(0);
    names.module("encoder.conv_in", "encoder.conv_in");
    for (level, &width) in widths.iter().enumerate() {
        let (ours, theirs) =
            (format!("encoder.down_blocks.{level}"), format!("encoder.down.{level}"));
        for block in 0..config.layers_per_block {
            names.vae_resnet(
                &format!("{ours}.resnets.{block}"),
                &format!("{theirs}.block.{block}"),
                channels != width,
            );
            channels = width;
        }
        if level + 1 < levels {
            names.module(
                &format!("{ours}.downsamplers.0.conv"),
                &format!("{theirs}.downsample.conv"),
            );
        }
    }
    names.vae_ends("encoder", config.mid_block_add_attention);
    names.module("decoder.conv_in", "decoder.conv_in");
    let widths = config.decoder_widths();
    channels = widths.last().copied().unwrap_or(0);
    // Both go from coarse to fine, but ldm numbers levels by their resolution.
    for (level, &width) in widths.iter().rev().enumerate() {
        let ours = format!("decoder.up_blocks.{level}");
        let theirs = format!("decoder.up.{}", levels - 1 - level);
        for block in 0..=config.layers_per_block {
            names.vae_resnet(
                &format!("{ours}.resnets.{block}"),
                &format!("{theirs}.block.{block}"),
                channels != width,
            );
            channels = width;
        }
        if level + 1 < levels {
            names.module(&format!("{ours}.upsamplers.0.conv"), &format!("{theirs}.upsample.conv"));
        }
    }
    names.vae_ends("decoder", config.mid_block_add_attention);
    // In the code that packs latents both are layers of their sides.
    let of_side = |name: &str, side: &str| match config.packing {
        Some(_) => format!("{side}.{name}"),
        None => name.to_owned(),
    };
    if config.use_quant_conv {
        names.module("quant_conv", &of_side("quant_conv", "encoder"));
    }
    if config.use_post_quant_conv {
        names.module("post_quant_conv", &of_side("post_quant_conv", "decoder"));
    }
    if config.packing.is_some() {
        names.0.extend(PACKED.map(|name| (name.to_owned(), name.to_owned())));
    }
    names.0
}

impl Pairs {
    fn vae_resnet(&mut self, ours: &str, theirs: &str, shortcut: bool) {
        for name in ["norm1", "conv1", "norm2", "conv2"] {
            self.module(&format!("{ours}.{name}"), &format!("{theirs}.{name}"));
        }
        if shortcut {
            self.module(&format!("{ours}.conv_shortcut"), &format!("{theirs}.nin_shortcut"));
        }
    }

    /// The middle of an encoder or decoder and its last two layers.
    fn vae_ends(&mut self, side: &str, attention: bool) {
        for block in 0..2 {
            self.vae_resnet(
                &format!("{side}.mid_block.resnets.{block}"),
                &format!("{side}.mid.block_{}", block + 1),
                false,
            );
        }
        if attention {
            for (our, their) in [
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ] {
                self.module(
                    &format!("{side}.mid_block.attentions.0.{our}"),
                    &format!("{side}.mid.attn_1.{their}"),
                );
            }
        }
        self.module(&format!("{side}.conv_norm_out"), &format!("{side}.norm_out"));
        self.module(&format!("{side}.conv_out"), &format!("{side}.conv_out"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn packed_latents_have_their_mean_and_variance_and_the_projections_of_their_sides() {
        let config = json!({"_class_name": "AutoencoderKLFlux2"});
        let names: HashMap<_, _> =
            names(&KlConfig::from_json(&config).unwrap()).into_iter().collect();
        assert_eq!(names.len(), 250);
        assert_eq!(names["quant_conv.bias"], "encoder.quant_conv.bias");
        assert_eq!(names["post_quant_conv.weight"], "decoder.post_quant_conv.weight");
        assert_eq!(names["bn.running_var"], "bn.running_var");
    }

    #[test]
    fn a_file_of_packed_latents_is_told_by_its_mean_in_either_naming() {
        let whole = KlConfig::from_json(&json!({
            "_class_name": "AutoencoderKLFlux2", "decoder_block_out_channels": [96, 192, 384, 384],
        }));
        let whole = whole.unwrap();
        let widths =
            |decoder: bool| if decoder { [96, 192, 384, 384] } else { [128, 256, 512, 512] };
        for naming in [Naming::Ldm, Naming::Diffusers] {
            let stored = names(&whole).into_iter().map(|(ours, theirs)| {
                // Of a level's first block; the decoder's of ldm are numbered from the other end.
                let level = |at: usize| theirs.split('.').nth(at).and_then(|it| it.parse().ok());
                let shape = match theirs.as_str() {
                    "encoder.conv_in.weight" => vec![128, 3, 3, 3],
                    "decoder.conv_in.weight" => vec![384, 32, 3, 3],
                    "decoder.conv_out.weight" => vec![3, 96, 3, 3],
                    name if name.ends_with("block.0.conv1.weight") => {
                        let level: usize = level(2).unwrap();
                        vec![widths(name.starts_with("decoder"))[level], 1, 3, 3]
                    }
                    _ => vec![1],
                };
                (if naming == Naming::Ldm { theirs } else { ours }, shape)
            });
            let tensors = TensorMap::of_shapes(stored.collect());
            let latents = LatentScale { factor: 1.0, shift: None };
            let part = part("flux2-vae.safetensors", &tensors, latents).unwrap().unwrap();
            assert_eq!(part.config.class, "AutoencoderKLFlux2");
            assert_eq!(part.unused(&tensors).next(), None, "{naming:?}");
            let config = KlConfig::from_json(&part.config.config).unwrap();
            assert_eq!(
                (config.factor(), config.channels(), config.packing),
                (16, 128, whole.packing)
            );
            assert_eq!(config.decoder_widths(), whole.decoder_widths());
            assert!(config.use_quant_conv && config.use_post_quant_conv);
        }
    }

    #[test]
    fn the_vaes_levels_are_numbered_from_the_other_end_in_the_decoder() {
        let config = KlConfig {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            ..KlConfig::default()
        };
        let names = names(&config);
        assert_eq!(names.len(), 248);
        let names: HashMap<_, _> = names.into_iter().collect();
        for (ours, theirs) in [
            (
                "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
                "encoder.down.1.block.0.nin_shortcut.weight",
            ),
            (
                "encoder.mid_block.attentions.0.to_out.0.weight",
                "encoder.mid.attn_1.proj_out.weight",
            ),
            ("decoder.up_blocks.0.resnets.2.conv1.bias", "decoder.up.3.block.2.conv1.bias"),
            ("decoder.up_blocks.2.upsamplers.0.conv.bias", "decoder.up.1.upsample.conv.bias"),
            (
                "decoder.up_blocks.3.resnets.0.conv_shortcut.bias",
                "decoder.up.0.block.0.nin_shortcut.bias",
            ),
            ("decoder.conv_norm_out.weight", "decoder.norm_out.weight"),
        ] {
            assert_eq!(names[ours], theirs);
        }
    }
}
