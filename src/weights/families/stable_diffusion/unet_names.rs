//! Names of the UNet's tensors in checkpoints of Stability AI's own code (`ldm`, `sgm`), beside those that
//! diffusers gives them and that our UNet asks for.
//!
//! Source: diffusers `loaders/single_file_utils.py` (`DIFFUSERS_TO_LDM_MAPPING`, `convert_ldm_unet_checkpoint`).

use crate::model::denoiser::unet::{LevelConfig, TransformerConfig, UNetConfig};
use crate::weights::families::pairs::Pairs;

/// Names of every tensor of a UNet, weights and biases, in diffusers (`down_blocks.…`) and in ldm
/// (`input_blocks.…`, without the `model.diffusion_model.` of a whole checkpoint).
pub(super) fn names(config: &UNetConfig) -> Vec<(String, String)> {
    let mut names = Pairs::default();
    names.module("conv_in", "input_blocks.0.0");
    names.module("time_embedding.linear_1", "time_embed.0");
    names.module("time_embedding.linear_2", "time_embed.2");
    if config.time.guidance_features.is_some() {
        let [ours, theirs] =
            ["time_embedding", "time_embed"].map(|time| format!("{time}.cond_proj.weight"));
        names.0.push((ours, theirs));
    }
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
        if let Some(transformer) = &mid.transformer {
            names.transformer("mid_block.attentions.0", "middle_block.1", transformer);
            names.unet_resnet("mid_block.resnets.1", "middle_block.2", false);
        }
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
            let place = if level.transformers.is_empty() { 1 } else { 2 };
            names.module(&ours, &format!("output_blocks.{}.{place}.conv", block - 1));
        }
    }
    names.module("conv_norm_out", "out.0");
    names.module("conv_out", "out.2");
    names.0
}

impl Pairs {
    /// Adds a residual block and its transformer.
    fn layer(&mut self, ours: &(String, usize), theirs: &str, input: usize, level: &LevelConfig) {
        let (block, index) = ours;
        let shortcut = input != level.channels;
        self.unet_resnet(&format!("{block}.resnets.{index}"), &format!("{theirs}.0"), shortcut);
        if let Some(transformer) = level.transformers.get(*index) {
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

    /// Adds a transformer, inside which diffusers kept ldm's names.
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
        let names = names(&UNetConfig::from_json(config).unwrap());
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
}
