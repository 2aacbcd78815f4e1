//! The names that tensors have in checkpoints of Stability AI's own code (`ldm`, `sgm`), beside the
//! names that diffusers and transformers give them, which are the ones that our models ask for.
//! Everything here is text: what a file holds and where, `single_file` knows.
//!
//! Sources: diffusers `loaders/single_file_utils.py` (`DIFFUSERS_TO_LDM_MAPPING`,
//! `convert_ldm_unet_checkpoint`, `convert_ldm_vae_checkpoint`, `convert_open_clip_checkpoint`).

use crate::model::denoiser::unet::{LevelConfig, TransformerConfig, UNetConfig};
use crate::model::vae::KlConfig;

/// How a tensor of ours is taken out of a stored one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// as it is, but for axes of length 1 at the end
    Whole,
    /// the `index`-th of `of` equal parts along the first axis
    Rows { index: usize, of: usize },
    /// rows for columns
    Transposed,
}

/// Every tensor of a UNet, weights and biases: its name in diffusers (`down_blocks.…`) and in ldm
/// (`input_blocks.…`, without the `model.diffusion_model.` of a whole checkpoint).
#[must_use]
pub(crate) fn unet_names(config: &UNetConfig) -> Vec<(String, String)> {
    let mut names = Pairs::default();
    names.module("conv_in", "input_blocks.0.0");
    names.module("time_embedding.linear_1", "time_embed.0");
    names.module("time_embedding.linear_2", "time_embed.2");
    if config.added.is_some() {
        names.module("add_embedding.linear_1", "label_emb.0.0");
        names.module("add_embedding.linear_2", "label_emb.0.2");
    }

    // ldm counts the blocks of all levels in a row; a change of resolution is a block of its own on
    // the way down, and a part of a level's last block on the way up.
    let mut channels = config.down.first().map_or(0, |level| level.channels);
    let mut skips = vec![channels];
    let mut block = 1;
    for (index, level) in config.down.iter().enumerate() {
        for layer in 0..level.resnets {
            let ours = (format!("down_blocks.{index}"), layer);
            names.layer(&ours, &format!("input_blocks.{block}"), channels, level);
            channels = level.channels;
            skips.push(channels);
            block += 1;
        }
        if index + 1 < config.down.len() {
            let ours = format!("down_blocks.{index}.downsamplers.0.conv");
            names.module(&ours, &format!("input_blocks.{block}.0.op"));
            skips.push(channels);
            block += 1;
        }
    }
    if let Some(mid) = &config.mid {
        names.unet_resnet("mid_block.resnets.0", "middle_block.0", false);
        names.transformer("mid_block.attentions.0", "middle_block.1", &mid.transformer);
        names.unet_resnet("mid_block.resnets.1", "middle_block.2", false);
    }
    let mut block = 0;
    for (index, level) in config.up.iter().enumerate() {
        for layer in 0..level.resnets {
            let ours = (format!("up_blocks.{index}"), layer);
            let input = channels + skips.pop().unwrap_or(0);
            names.layer(&ours, &format!("output_blocks.{block}"), input, level);
            channels = level.channels;
            block += 1;
        }
        if index + 1 < config.up.len() && block > 0 {
            let ours = format!("up_blocks.{index}.upsamplers.0.conv");
            let place = if level.transformer.is_some() { 2 } else { 1 };
            names.module(&ours, &format!("output_blocks.{}.{place}.conv", block - 1));
        }
    }
    names.module("conv_norm_out", "out.0");
    names.module("conv_out", "out.2");
    names.0
}

/// Every tensor of an `AutoencoderKL`: its name in diffusers and in ldm (without the
/// `first_stage_model.` of a whole checkpoint). In ldm the attention's projections are 1×1
/// convolutions.
#[must_use]
pub(crate) fn vae_names(config: &KlConfig) -> Vec<(String, String)> {
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
    if config.use_quant_conv {
        names.module("quant_conv", "quant_conv");
    }
    if config.use_post_quant_conv {
        names.module("post_quant_conv", "post_quant_conv");
    }
    names.0
}

/// Every tensor of a `CLIPTextModel` of so many layers, by transformers' names.
#[must_use]
pub(crate) fn clip_names(layers: usize) -> Vec<String> {
    let mut names = Pairs::default();
    names.both("text_model.embeddings.token_embedding.weight");
    names.both("text_model.embeddings.position_embedding.weight");
    for layer in 0..layers {
        for module in [
            "layer_norm1",
            "layer_norm2",
            "mlp.fc1",
            "mlp.fc2",
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
        ] {
            let name = format!("text_model.encoder.layers.{layer}.{module}");
            names.module(&name, &name);
        }
    }
    names.module("text_model.final_layer_norm", "text_model.final_layer_norm");
    names.0.into_iter().map(|(name, _)| name).collect()
}

/// Every tensor of a `CLIPTextModelWithProjection` of so many layers, by transformers' names, with
/// the name in OpenCLIP (without the prefix of a checkpoint) and how it is taken from there.
/// OpenCLIP keeps queries, keys and values in one tensor, and its projection multiplies from the
/// other side.
#[must_use]
pub(crate) fn open_clip_names(layers: usize) -> Vec<(String, String, Take)> {
    let mut names: Vec<_> = clip_names(layers)
        .into_iter()
        .map(|name| {
            let (stored, take) = open_clip_name(&name);
            (name, stored, take)
        })
        .collect();
    let projection = ("text_projection.weight", "text_projection");
    names.push((projection.0.to_owned(), projection.1.to_owned(), Take::Transposed));
    names
}

fn open_clip_name(name: &str) -> (String, Take) {
    let name = name.strip_prefix("text_model.").unwrap_or(name);
    if let Some(table) = name.strip_prefix("embeddings.") {
        let stored = match table {
            "position_embedding.weight" => "positional_embedding",
            other => other,
        };
        return (stored.to_owned(), Take::Whole);
    }
    let stored = name
        .replace("final_layer_norm", "ln_final")
        .replace("encoder.layers", "transformer.resblocks")
        .replace("layer_norm", "ln_")
        .replace("mlp.fc1", "mlp.c_fc")
        .replace("mlp.fc2", "mlp.c_proj")
        .replace("self_attn", "attn");
    for (index, part) in ["q_proj.", "k_proj.", "v_proj."].into_iter().enumerate() {
        if let Some((before, kind)) = stored.split_once(part) {
            return (format!("{before}in_proj_{kind}"), Take::Rows { index, of: 3 });
        }
    }
    (stored, Take::Whole)
}

/// Names of ours with theirs.
#[derive(Default)]
struct Pairs(Vec<(String, String)>);

impl Pairs {
    fn both(&mut self, name: &str) {
        self.0.push((name.to_owned(), name.to_owned()));
    }

    /// Weight and bias.
    fn module(&mut self, ours: &str, theirs: &str) {
        for kind in ["weight", "bias"] {
            self.0.push((format!("{ours}.{kind}"), format!("{theirs}.{kind}")));
        }
    }

    /// Residual block and transformer of a UNet.
    fn layer(&mut self, ours: &(String, usize), theirs: &str, input: usize, level: &LevelConfig) {
        let (block, index) = ours;
        let shortcut = input != level.channels;
        self.unet_resnet(&format!("{block}.resnets.{index}"), &format!("{theirs}.0"), shortcut);
        if let Some(transformer) = &level.transformer {
            let ours = format!("{block}.attentions.{index}");
            self.transformer(&ours, &format!("{theirs}.1"), transformer);
        }
    }

    fn unet_resnet(&mut self, ours: &str, theirs: &str, shortcut: bool) {
        for (our, their) in [
            ("norm1", "in_layers.0"),
            ("conv1", "in_layers.2"),
            ("time_emb_proj", "emb_layers.1"),
            ("norm2", "out_layers.0"),
            ("conv2", "out_layers.3"),
        ] {
            self.module(&format!("{ours}.{our}"), &format!("{theirs}.{their}"));
        }
        if shortcut {
            self.module(&format!("{ours}.conv_shortcut"), &format!("{theirs}.skip_connection"));
        }
    }

    /// diffusers kept ldm's names inside a transformer.
    fn transformer(&mut self, ours: &str, theirs: &str, config: &TransformerConfig) {
        let mut module =
            |name: &str| self.module(&format!("{ours}.{name}"), &format!("{theirs}.{name}"));
        for name in ["norm", "proj_in", "proj_out"] {
            module(name);
        }
        for depth in 0..config.depth {
            for name in [
                "norm1",
                "norm2",
                "norm3",
                "attn1.to_out.0",
                "attn2.to_out.0",
                "ff.net.0.proj",
                "ff.net.2",
            ] {
                module(&format!("transformer_blocks.{depth}.{name}"));
            }
        }
        for depth in 0..config.depth {
            for attention in ["attn1", "attn2"] {
                for name in ["to_q", "to_k", "to_v"] {
                    let name = format!("transformer_blocks.{depth}.{attention}.{name}.weight");
                    self.0.push((format!("{ours}.{name}"), format!("{theirs}.{name}")));
                }
            }
        }
    }

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
    use std::collections::{HashMap, HashSet};

    use super::*;

    const SDXL: &str = r#"{"block_out_channels": [320, 640, 1280], "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10], "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048, "use_linear_projection": true,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816}"#;

    fn unet(config: &str) -> HashMap<String, String> {
        let names = unet_names(&UNetConfig::from_json(config).unwrap());
        let stored: HashSet<_> = names.iter().map(|(_, theirs)| theirs).collect();
        assert_eq!(stored.len(), names.len(), "no name is used twice");
        names.into_iter().collect()
    }

    #[test]
    fn sdxl_has_as_many_tensors_as_its_checkpoint_and_at_the_same_places() {
        let names = unet(SDXL);
        assert_eq!(names.len(), 1680);
        for (ours, theirs) in [
            ("conv_in.weight", "input_blocks.0.0.weight"),
            ("add_embedding.linear_2.bias", "label_emb.0.2.bias"),
            ("down_blocks.0.resnets.1.conv2.weight", "input_blocks.2.0.out_layers.3.weight"),
            ("down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight"),
            ("down_blocks.1.resnets.0.conv_shortcut.bias", "input_blocks.4.0.skip_connection.bias"),
            (
                "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k.weight",
                "input_blocks.8.1.transformer_blocks.9.attn2.to_k.weight",
            ),
            ("mid_block.resnets.1.time_emb_proj.weight", "middle_block.2.emb_layers.1.weight"),
            ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.2.conv.weight"),
            ("up_blocks.1.attentions.2.proj_out.weight", "output_blocks.5.1.proj_out.weight"),
            ("up_blocks.2.resnets.2.norm1.weight", "output_blocks.8.0.in_layers.0.weight"),
            ("conv_out.bias", "out.2.bias"),
        ] {
            assert_eq!(names[ours], theirs);
        }
    }

    #[test]
    fn sd15_upsamples_in_the_second_place_where_a_level_has_no_attention() {
        let names = unet(r#"{"cross_attention_dim": 768}"#);
        assert_eq!(names.len(), 686);
        for (ours, theirs) in [
            ("up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
            ("up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
            ("down_blocks.3.resnets.1.conv1.weight", "input_blocks.11.0.in_layers.2.weight"),
            (
                "up_blocks.3.resnets.2.conv_shortcut.weight",
                "output_blocks.11.0.skip_connection.weight",
            ),
        ] {
            assert_eq!(names[ours], theirs);
        }
    }

    #[test]
    fn the_vaes_levels_are_numbered_from_the_other_end_in_the_decoder() {
        let config = KlConfig {
            block_out_channels: vec![128, 256, 512, 512],
            layers_per_block: 2,
            ..KlConfig::default()
        };
        let names = vae_names(&config);
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

    #[test]
    fn open_clip_keeps_queries_keys_and_values_in_one_tensor() {
        let names = open_clip_names(32);
        // 12 tensors of a layer in OpenCLIP, of which two become three each.
        assert_eq!(names.len(), 32 * 16 + 5);
        let names: HashMap<_, _> = names.into_iter().map(|(a, b, take)| (a, (b, take))).collect();
        for (ours, theirs, take) in [
            (
                "text_model.embeddings.position_embedding.weight",
                "positional_embedding",
                Take::Whole,
            ),
            ("text_model.embeddings.token_embedding.weight", "token_embedding.weight", Take::Whole),
            ("text_model.final_layer_norm.bias", "ln_final.bias", Take::Whole),
            ("text_projection.weight", "text_projection", Take::Transposed),
            (
                "text_model.encoder.layers.31.layer_norm2.weight",
                "transformer.resblocks.31.ln_2.weight",
                Take::Whole,
            ),
            (
                "text_model.encoder.layers.0.mlp.fc2.bias",
                "transformer.resblocks.0.mlp.c_proj.bias",
                Take::Whole,
            ),
            (
                "text_model.encoder.layers.7.self_attn.v_proj.bias",
                "transformer.resblocks.7.attn.in_proj_bias",
                Take::Rows { index: 2, of: 3 },
            ),
            (
                "text_model.encoder.layers.7.self_attn.out_proj.weight",
                "transformer.resblocks.7.attn.out_proj.weight",
                Take::Whole,
            ),
        ] {
            assert_eq!(names[ours], (theirs.to_owned(), take));
        }
    }
}
