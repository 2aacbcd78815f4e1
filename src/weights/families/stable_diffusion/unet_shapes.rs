//! Configuration of a UNet from the names and shapes of its tensors: a single file has no `config.json`, and a
//! table of known models would miss every smaller or larger relative. What shapes cannot show (head counts,
//! norm groups) is the same in the whole Stable Diffusion family and written down here.
//!
//! Sources: the configurations of the family's models in diffusers, and how it makes them from ldm ones
//! (`loaders/single_file_utils.py`: `create_unet_diffusers_config_from_ldm`).

use serde_json::{Value, json};

use crate::weights::part_file::{Naming, Shapes};

/// Width of an attention head, except in SD 1.x.
const HEAD_WIDTH: usize = 64;
/// Heads of every attention of SD 1.x.
const SD1_HEADS: usize = 8;
/// Numbers of SDXL's micro-conditioning: original size, crop, target size, two of each.
const TIME_IDS: usize = 6;

/// One resolution of the encoder.
struct LevelShape {
    channels: usize,
    /// basic transformer blocks after each residual block; all are 0 where there is no attention
    depths: Vec<usize>,
    /// name of its first transformer
    attention: String,
}

impl LevelShape {
    fn attends(&self) -> bool {
        self.depths.iter().any(|&depth| depth > 0)
    }

    /// Its depth, where all layers have one; 1 without attention.
    fn depth(&self) -> Option<usize> {
        let depth = self.depths.first().copied().unwrap_or(0);
        self.depths.iter().all(|&other| other == depth).then_some(depth.max(1))
    }
}

/// Configuration of a UNet without its outputs and its native size, told by the encoder and the middle, and by the decoder where
/// there is one. `pooled` is the width of the model's pooled text
/// embedding, which the UNet takes beside the numbers of the micro-conditioning.
///
/// # Errors
/// Shapes that no configuration describes, in one line without the file's name.
pub(super) fn config(
    shapes: &Shapes,
    naming: Naming,
    pooled: Option<usize>,
) -> Result<Value, String> {
    let levels = unet_levels(shapes, naming)?;
    let (conv_in, time, added, mid, mid_resnet) = match naming {
        Naming::Ldm => (
            "input_blocks.0.0",
            "time_embed.0",
            "label_emb.0.0",
            "middle_block.1",
            "middle_block.0.in_layers.2.weight",
        ),
        Naming::Diffusers => (
            "conv_in",
            "time_embedding.linear_1",
            "add_embedding.linear_1",
            "mid_block.attentions.0",
            "mid_block.resnets.0.conv1.weight",
        ),
    };
    let blocks_of = |attention: &str| {
        shapes.count(|index| format!("{attention}.transformer_blocks.{index}.norm1.weight"))
    };
    let mid_depth = blocks_of(mid);
    let attention =
        (levels.iter().find(|level| level.attends())).map_or(mid, |level| level.attention.as_str());
    let to_k = format!("{attention}.transformer_blocks.0.attn2.to_k.weight");
    let context_width = shapes.size(&to_k, 1)?;
    let proj_in = format!("{attention}.proj_in.weight");
    // stable-diffusion.cpp has written all of them as convolutions; SDXL's are dense.
    let dense = shapes.get(&proj_in).is_some_and(|shape| shape.len() == 2)
        || shapes.has(&format!("{added}.weight"));

    let mut depths: Vec<Value> = levels.iter().map(|level| depths_of(&level.depths)).collect();
    if let (Some(level), Some(depth)) = (levels.last(), depths.last_mut())
        && mid_depth > 0
    {
        if level.attends() && level.depth() != Some(mid_depth) {
            return Err(format!(
                "the UNet has {mid_depth} transformer blocks in its middle and {} at the level before: \
                 not supported",
                depths_of(&level.depths)
            ));
        }
        *depth = mid_depth.into();
    }
    let up = up_depths(shapes, naming, &levels);
    let is_reverse = up.iter().zip(levels.iter().rev()).all(|(up, level)| {
        // Without attention there is none on the way up either.
        let depth = if level.attends() { level.depth() } else { Some(0) };
        up.iter().all(|other| Some(*other) == depth)
    });
    let heads: Vec<usize> = (levels.iter())
        .map(|level| if dense { (level.channels / HEAD_WIDTH).max(1) } else { SD1_HEADS })
        .collect();
    let attends = |level: &LevelShape, with: &str, without: &str| {
        if level.attends() { with.to_owned() } else { without.to_owned() }
    };
    let down_types: Vec<_> = (levels.iter())
        .map(|level| attends(level, "CrossAttnDownBlock2D", "DownBlock2D"))
        .collect();
    let up_types: Vec<_> = (levels.iter().rev())
        .map(|level| attends(level, "CrossAttnUpBlock2D", "UpBlock2D"))
        .collect();
    let mid_type = match (mid_depth, shapes.has(mid_resnet)) {
        (1.., _) => Some("UNetMidBlock2DCrossAttn"),
        (0, true) => Some("UNetMidBlock2D"),
        (0, false) => None,
    };
    let mut config = json!({
        "_class_name": "UNet2DConditionModel",
        "in_channels": shapes.size(&format!("{conv_in}.weight"), 1)?,
        "block_out_channels": levels.iter().map(|level| level.channels).collect::<Vec<_>>(),
        "layers_per_block": levels.iter().map(|level| level.depths.len()).collect::<Vec<_>>(),
        "down_block_types": down_types,
        "up_block_types": up_types,
        "mid_block_type": mid_type,
        "transformer_layers_per_block": depths,
        "attention_head_dim": heads,
        "cross_attention_dim": context_width,
        "use_linear_projection": dense,
        "time_embedding_dim": shapes.size(&format!("{time}.weight"), 0)?,
        "norm_num_groups": 32,
    });
    // A ControlNet has no decoder.
    let has_decoder = up.iter().flatten().any(|&depth| depth > 0);
    if has_decoder && !is_reverse {
        let up: Vec<Value> = up.iter().map(|depths| depths_of(depths)).collect();
        config["reverse_transformer_layers_per_block"] = up.into();
    }
    let guidance = match naming {
        Naming::Ldm => "time_embed.cond_proj.weight",
        Naming::Diffusers => "time_embedding.cond_proj.weight",
    };
    if shapes.has(guidance) {
        config["time_cond_proj_dim"] = shapes.size(guidance, 1)?.into();
    }
    if shapes.has(&format!("{added}.weight")) {
        let input = shapes.size(&format!("{added}.weight"), 1)?;
        let features = pooled
            .and_then(|pooled| input.checked_sub(pooled))
            .filter(|rest| *rest > 0 && rest.is_multiple_of(TIME_IDS))
            .map(|rest| rest / TIME_IDS)
            .ok_or_else(|| {
                let beside = pooled.map_or_else(
                    || "without a pooled text embedding".to_owned(),
                    |pooled| format!("beside a pooled text embedding of {pooled}"),
                );
                format!(
                    "the UNet takes {input} added conditions {beside}, which is not SDXL's \
                     (a refiner or unCLIP model?): not supported"
                )
            })?;
        config["addition_embed_type"] = "text_time".into();
        config["addition_time_embed_dim"] = features.into();
        config["projection_class_embeddings_input_dim"] = input.into();
    }
    Ok(config)
}

/// Depths of a level's transformers as a configuration writes them: one number where they are all the same, 1 where there are
/// none.
fn depths_of(depths: &[usize]) -> Value {
    match depths {
        [first, rest @ ..] if rest.iter().any(|depth| depth != first) => depths.into(),
        [first, ..] => (*first).max(1).into(),
        [] => 1.into(),
    }
}

/// Basic transformer blocks after each residual block of the decoder, from coarse to fine.
fn up_depths(shapes: &Shapes, naming: Naming, levels: &[LevelShape]) -> Vec<Vec<usize>> {
    let mut block = 0;
    (levels.iter().rev().enumerate())
        .map(|(index, level)| {
            (0..=level.depths.len())
                .map(|layer| {
                    let attention = match naming {
                        Naming::Ldm => format!("output_blocks.{block}.1"),
                        Naming::Diffusers => format!("up_blocks.{index}.attentions.{layer}"),
                    };
                    block += 1;
                    shapes.count(|depth| {
                        format!("{attention}.transformer_blocks.{depth}.norm1.weight")
                    })
                })
                .collect()
        })
        .collect()
}

fn unet_levels(shapes: &Shapes, naming: Naming) -> Result<Vec<LevelShape>, String> {
    let mut levels: Vec<LevelShape> = Vec::new();
    // ldm numbers the blocks of all levels in a row; the first is the convolution at the input.
    let mut block = 1;
    loop {
        let index = levels.len();
        let mut level: Option<LevelShape> = None;
        loop {
            let resnets = level.as_ref().map_or(0, |level| level.depths.len());
            let (conv, attention) = match naming {
                Naming::Ldm => (
                    format!("input_blocks.{block}.0.in_layers.2.weight"),
                    format!("input_blocks.{block}.1"),
                ),
                Naming::Diffusers => (
                    format!("down_blocks.{index}.resnets.{resnets}.conv1.weight"),
                    format!("down_blocks.{index}.attentions.{resnets}"),
                ),
            };
            let Some(&channels) = shapes.get(&conv).and_then(|shape| shape.first()) else { break };
            let depth = shapes
                .count(|depth| format!("{attention}.transformer_blocks.{depth}.norm1.weight"));
            let none = LevelShape { channels, depths: Vec::new(), attention };
            let level = level.get_or_insert(none);
            let before = level.depths.last().copied().unwrap_or(depth);
            if level.channels != channels || (before > 0) != (depth > 0) {
                return Err(format!(
                    "level {index} of the UNet has layers of {} channels with {before} transformer blocks \
                     and of {channels} with {depth}: not supported",
                    level.channels
                ));
            }
            level.depths.push(depth);
            block += 1;
        }
        let Some(level) = level else { break };
        levels.push(level);
        let halving = match naming {
            Naming::Ldm => format!("input_blocks.{block}.0.op.weight"),
            Naming::Diffusers => format!("down_blocks.{index}.downsamplers.0.conv.weight"),
        };
        if !shapes.has(&halving) {
            break;
        }
        block += 1;
    }
    if levels.is_empty() { Err("the UNet has no level".to_owned()) } else { Ok(levels) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::tensors::TensorMap;

    /// Tensors from which the configuration follows, by ldm's names: per level its channels, residual
    /// blocks and transformer depth.
    fn unet_of(
        levels: &[(usize, usize, usize)],
        mid: usize,
        context: usize,
        dense: bool,
    ) -> TensorMap {
        let mut shapes: Vec<(String, Vec<usize>)> = Vec::new();
        let mut transformer = |place: String, channels: usize, depth: usize| {
            for block in 0..depth {
                let block = format!("{place}.transformer_blocks.{block}");
                shapes.push((format!("{block}.norm1.weight"), vec![channels]));
                shapes.push((format!("{block}.attn2.to_k.weight"), vec![channels, context]));
            }
            let matrix = if dense { vec![channels; 2] } else { vec![channels, channels, 1, 1] };
            shapes.push((format!("{place}.proj_in.weight"), matrix));
        };
        let mut convs = Vec::new();
        let mut block = 1;
        for (level, &(channels, resnets, depth)) in levels.iter().enumerate() {
            for _ in 0..resnets {
                convs.push((
                    format!("input_blocks.{block}.0.in_layers.2.weight"),
                    vec![channels, channels, 3, 3],
                ));
                if depth > 0 {
                    transformer(format!("input_blocks.{block}.1"), channels, depth);
                }
                block += 1;
            }
            if level + 1 < levels.len() {
                convs.push((format!("input_blocks.{block}.0.op.weight"), vec![channels; 2]));
                block += 1;
            }
        }
        let mut block = 0;
        for &(channels, resnets, depth) in levels.iter().rev() {
            for _ in 0..=resnets {
                if depth > 0 {
                    transformer(format!("output_blocks.{block}.1"), channels, depth);
                }
                block += 1;
            }
        }
        let (first, last) = (levels[0].0, levels[levels.len() - 1].0);
        transformer("middle_block.1".to_owned(), last, mid);
        shapes.extend(convs);
        shapes.push(("input_blocks.0.0.weight".to_owned(), vec![first, 4, 3, 3]));
        shapes.push(("time_embed.0.weight".to_owned(), vec![4 * first, first]));
        if dense && context == 2048 {
            shapes.push(("label_emb.0.0.weight".to_owned(), vec![4 * first, 2816]));
        }
        TensorMap::of_shapes(shapes)
    }

    fn config(tensors: &TensorMap, pooled: Option<usize>) -> Result<Value, String> {
        super::config(&Shapes { tensors, prefix: "" }, Naming::Ldm, pooled)
    }

    #[test]
    fn the_shapes_of_sdxl_say_its_configuration() {
        let tensors = unet_of(&[(320, 2, 0), (640, 2, 2), (1280, 2, 10)], 10, 2048, true);
        assert_eq!(
            config(&tensors, Some(1280)).unwrap(),
            json!({
                "_class_name": "UNet2DConditionModel",
                "in_channels": 4,
                "block_out_channels": [320, 640, 1280],
                "layers_per_block": [2, 2, 2],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
                "mid_block_type": "UNetMidBlock2DCrossAttn",
                "transformer_layers_per_block": [1, 2, 10],
                "attention_head_dim": [5, 10, 20],
                "cross_attention_dim": 2048,
                "use_linear_projection": true,
                "time_embedding_dim": 1280,
                "norm_num_groups": 32,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            })
        );
    }

    #[test]
    fn the_shapes_of_sd15_and_sd2_say_their_heads_and_projections() {
        let levels = [(320, 2, 1), (640, 2, 1), (1280, 2, 1), (1280, 2, 0)];
        let sd15 = config(&unet_of(&levels, 1, 768, false), None).unwrap();
        assert_eq!(sd15["attention_head_dim"], json!([8, 8, 8, 8]));
        assert_eq!(sd15["use_linear_projection"], false);
        assert_eq!(sd15["cross_attention_dim"], 768);
        assert_eq!(
            sd15["up_block_types"],
            json!(["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"])
        );
        let sd2 = config(&unet_of(&levels, 1, 1024, true), None).unwrap();
        assert_eq!(sd2["attention_head_dim"], json!([5, 10, 20, 20]));
        assert_eq!(sd2["use_linear_projection"], true);
    }

    #[test]
    fn what_no_configuration_can_say_is_refused() {
        let uneven = unet_of(&[(320, 2, 0), (640, 2, 2), (1280, 2, 10)], 4, 2048, true);
        assert!(
            config(&uneven, Some(1280)).unwrap_err().contains("4 transformer blocks in its middle")
        );
        let sdxl = unet_of(&[(320, 2, 0), (640, 2, 2), (1280, 2, 10)], 10, 2048, true);
        assert!(config(&sdxl, None).unwrap_err().contains("without a pooled text embedding"));
        assert!(config(&sdxl, Some(1281)).unwrap_err().contains("of 1281"));
        assert!(config(&TensorMap::of_shapes(vec![]), None).unwrap_err().contains("no level"));
    }
}
