//! ControlNets for the UNets of the family, in files of their own: with diffusers' names, or with those of the code that
//! trained the first ones (lllyasviel/ControlNet: `input_hint_block`, `zero_convs`, `middle_block_out`).
//!
//! Source: diffusers `loaders/single_file_utils.py` (`convert_controlnet_checkpoint`).

use serde_json::Value;

use super::{unet_names, unet_shapes};
use crate::backend::ParamSource as _;
use crate::model::denoiser::unet::ControlNetConfig;
use crate::weights::WeightsError;
use crate::weights::families::pairs::Pairs;
use crate::weights::part::PartConfig;
use crate::weights::part_file::{Naming, PartFile, PartPlace, Shapes, find, part_config};
use crate::weights::tensors::{Take, TensorMap};

/// Classes in diffusers.
const CLASS: &str = "ControlNetModel";
const UNION_CLASS: &str = "ControlNetUnionModel";

/// Place of a ControlNet's tensors in a file that has one.
pub(in crate::weights) fn find_control(tensors: &TensorMap) -> Option<PartPlace> {
    let prefixes = ["control_model.", "controlnet.", ""];
    let first = ("input_hint_block.0.weight", "controlnet_cond_embedding.conv_in.weight");
    find(tensors, &prefixes, first.0, first.1)
}

/// ControlNet in a file of any contents, if there is one. `pooled` is the width of the pooled text embedding of the model
/// that it is for.
///
/// # Errors
/// An architecture that is not supported.
pub(in crate::weights) fn control(
    file: &str,
    tensors: &TensorMap,
    pooled: Option<usize>,
) -> Result<Option<PartFile>, WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let Some(PartPlace { prefix, naming }) = find_control(tensors) else { return Ok(None) };
    if tensors.contains("lora_controlnet") {
        let reason = "a Control-LoRA: not supported; take a whole ControlNet".to_owned();
        return Err(fail(reason));
    }
    let shapes = Shapes { tensors, prefix };
    let (config, is_union) = config(&shapes, naming, pooled).map_err(fail)?;
    let resolved =
        ControlNetConfig::from_value(&config, is_union).map_err(|error| fail(error.to_string()))?;
    let names = names(&resolved)
        .into_iter()
        .map(|(ours, theirs)| {
            let stored = if naming == Naming::Ldm { &theirs } else { &ours };
            let stored = format!("{prefix}{stored}");
            (ours, stored, Take::Whole)
        })
        .collect();
    let class = if is_union { UNION_CLASS } else { CLASS };
    let config = part_config(class, config, file, "controlnet");
    Ok(Some(PartFile::new(config, tensors, prefix, names)))
}

/// Diffusers' names of all tensors that a ControlNet's configuration asks for; `None` for one that will be refused.
pub(super) fn control_names(config: &PartConfig) -> Option<Vec<String>> {
    let is_union = config.class != CLASS;
    let resolved = ControlNetConfig::from_value(&config.config, is_union).ok()?;
    Some(names(&resolved).into_iter().map(|(ours, _)| ours).collect())
}

/// Configuration of a ControlNet from the names and shapes of its tensors, and whether it is a union.
fn config(shapes: &Shapes, naming: Naming, pooled: Option<usize>) -> Result<(Value, bool), String> {
    let mut config = unet_shapes::config(shapes, naming, pooled)?;
    let mut channels = vec![shapes.size(&format!("{}.weight", picture_conv(naming, 0)), 0)?];
    // Behind each size of the picture stands a convolution that halves it; the last one is that to the features.
    for index in (2..).step_by(2) {
        let conv = format!("{}.weight", picture_conv(naming, index));
        let next = format!("{}.weight", picture_conv(naming, index + 1));
        let is_halving = match naming {
            Naming::Ldm => shapes.has(&next),
            Naming::Diffusers => shapes.has(&conv),
        };
        if !is_halving {
            break;
        }
        channels.push(shapes.size(&conv, 0)?);
    }
    config["conditioning_embedding_out_channels"] = channels.into();
    let is_union = naming == Naming::Diffusers && shapes.has("task_embedding");
    if is_union {
        config["num_control_type"] = shapes.size("task_embedding", 0)?.into();
        config["num_trans_channel"] = shapes.size("task_embedding", 1)?.into();
        config["num_proj_channel"] = shapes.size("spatial_ch_projs.weight", 0)?.into();
        let layers = shapes.count(|index| format!("transformer_layes.{index}.ln_1.weight"));
        config["num_trans_layer"] = layers.into();
    }
    config["_class_name"] = if is_union { UNION_CLASS } else { CLASS }.into();
    Ok((config, is_union))
}

/// Name of a convolution of the picture's embedding, counted from its first.
fn picture_conv(naming: Naming, index: usize) -> String {
    match (naming, index) {
        (Naming::Ldm, index) => format!("input_hint_block.{}", 2 * index),
        (Naming::Diffusers, 0) => "controlnet_cond_embedding.conv_in".to_owned(),
        (Naming::Diffusers, index) => format!("controlnet_cond_embedding.blocks.{}", index - 1),
    }
}

/// Names of every tensor of a ControlNet, in diffusers and in the first ones' code, which knows no union.
fn names(config: &ControlNetConfig) -> Vec<(String, String)> {
    let is_of_encoder = |(ours, _): &(String, String)| {
        !["up_blocks.", "conv_norm_out.", "conv_out."].iter().any(|start| ours.starts_with(start))
    };
    let mut names =
        Pairs(unet_names::names(&config.unet).into_iter().filter(is_of_encoder).collect());
    let convs = 2 * config.embedding_channels.len() - 1;
    for index in 0..convs {
        names.module(&picture_conv(Naming::Diffusers, index), &picture_conv(Naming::Ldm, index));
    }
    names.module("controlnet_cond_embedding.conv_out", &picture_conv(Naming::Ldm, convs));
    let skips = config.unet.control_shape(1).skips.len();
    for index in 0..skips {
        names.module(&format!("controlnet_down_blocks.{index}"), &format!("zero_convs.{index}.0"));
    }
    names.module("controlnet_mid_block", "middle_block_out.0");
    if let Some(union) = &config.union {
        let of_layer = |index: usize| {
            ["attn.out_proj.", "attn.in_proj_", "ln_1.", "ln_2.", "mlp.c_fc.", "mlp.c_proj."]
                .map(|name| format!("transformer_layes.{index}.{name}"))
        };
        let others = [
            "spatial_ch_projs.",
            "control_add_embedding.linear_1.",
            "control_add_embedding.linear_2.",
        ];
        let starts = others.into_iter().map(str::to_owned);
        let starts = starts.chain((0..union.layers).flat_map(of_layer));
        let own = starts.flat_map(|start| ["weight", "bias"].map(|kind| format!("{start}{kind}")));
        let own = own.chain(["task_embedding".to_owned()]);
        names.0.extend(own.map(|name| (name.clone(), name)));
    }
    names.0
}
