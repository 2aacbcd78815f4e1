//! Names of the transformer's tensors in checkpoints of Stability AI's own code (`joint_blocks.…`), beside those that
//! diffusers gives them and that our network asks for. That code keeps queries, keys and values in one tensor, and shift
//! before scale where diffusers has the scale first.
//!
//! Source: diffusers `loaders/single_file_utils.py` (`convert_sd3_transformer_checkpoint_to_diffusers`).

use crate::model::denoiser::sd3::Sd3Config;
use crate::weights::tensors::{Take, TensorName};

/// Names of every tensor of a transformer in diffusers (`transformer_blocks.…`) and in the training code (without the
/// `model.diffusion_model.` of a whole checkpoint).
pub(super) fn names(config: &Sd3Config) -> Vec<TensorName> {
    let mut names = Names::default();
    names.add("pos_embed.pos_embed", "pos_embed", Take::Whole);
    for (ours, theirs) in [
        ("pos_embed.proj", "x_embedder.proj"),
        ("time_text_embed.timestep_embedder.linear_1", "t_embedder.mlp.0"),
        ("time_text_embed.timestep_embedder.linear_2", "t_embedder.mlp.2"),
        ("time_text_embed.text_embedder.linear_1", "y_embedder.mlp.0"),
        ("time_text_embed.text_embedder.linear_2", "y_embedder.mlp.2"),
        ("context_embedder", "context_embedder"),
        ("proj_out", "final_layer.linear"),
    ] {
        names.module(ours, theirs, Take::Whole);
    }
    names.module("norm_out.linear", "final_layer.adaLN_modulation.1", Take::SwappedHalves);
    for layer in 0..config.layers {
        names.block(config, layer);
    }
    names.0
}

#[derive(Default)]
struct Names(Vec<TensorName>);

impl Names {
    fn add(&mut self, ours: &str, theirs: &str, take: Take) {
        self.0.push((ours.to_owned(), theirs.to_owned(), take));
    }

    /// Weight and bias of a module.
    fn module(&mut self, ours: &str, theirs: &str, take: Take) {
        for kind in ["weight", "bias"] {
            self.add(&format!("{ours}.{kind}"), &format!("{theirs}.{kind}"), take);
        }
    }

    /// Queries, keys and values of an attention in `parts`, which are one tensor in `theirs`, and their norms.
    fn attention(&mut self, ours: &str, theirs: &str, parts: [&str; 3], norms: Option<[&str; 2]>) {
        for (index, part) in parts.into_iter().enumerate() {
            let (ours, theirs) = (format!("{ours}.{part}"), format!("{theirs}.qkv"));
            self.module(&ours, &theirs, Take::Rows { index, of: 3 });
        }
        for (norm, stored) in norms.into_iter().flatten().zip(["ln_q", "ln_k"]) {
            let (ours, theirs) =
                (format!("{ours}.{norm}.weight"), format!("{theirs}.{stored}.weight"));
            self.add(&ours, &theirs, Take::Whole);
        }
    }

    fn block(&mut self, config: &Sd3Config, layer: usize) {
        let ours = format!("transformer_blocks.{layer}");
        let [picture, text] =
            ["x_block", "context_block"].map(|block| format!("joint_blocks.{layer}.{block}"));
        let is_last = layer + 1 == config.layers;
        let norms = |names: [&'static str; 2]| config.qk_norm.then_some(names);
        let joint = format!("{ours}.attn");
        let queries = ["to_q", "to_k", "to_v"];
        self.attention(&joint, &format!("{picture}.attn"), queries, norms(["norm_q", "norm_k"]));
        let queries = ["add_q_proj", "add_k_proj", "add_v_proj"];
        let added = norms(["norm_added_q", "norm_added_k"]);
        self.attention(&joint, &format!("{text}.attn"), queries, added);
        let mut module = |our: &str, their: String, take| {
            self.module(&format!("{ours}.{our}"), &their, take);
        };
        module("attn.to_out.0", format!("{picture}.attn.proj"), Take::Whole);
        module("norm1.linear", format!("{picture}.adaLN_modulation.1"), Take::Whole);
        module("ff.net.0.proj", format!("{picture}.mlp.fc1"), Take::Whole);
        module("ff.net.2", format!("{picture}.mlp.fc2"), Take::Whole);
        // The last block modulates its text as an output, with the scale first in diffusers, and leaves it there.
        let take = if is_last { Take::SwappedHalves } else { Take::Whole };
        module("norm1_context.linear", format!("{text}.adaLN_modulation.1"), take);
        if !is_last {
            module("attn.to_add_out", format!("{text}.attn.proj"), Take::Whole);
            module("ff_context.net.0.proj", format!("{text}.mlp.fc1"), Take::Whole);
            module("ff_context.net.2", format!("{text}.mlp.fc2"), Take::Whole);
        }
        if config.dual_layers.contains(&layer) {
            let (second, theirs) = (format!("{ours}.attn2"), format!("{picture}.attn2"));
            let queries = ["to_q", "to_k", "to_v"];
            self.attention(&second, &theirs, queries, norms(["norm_q", "norm_k"]));
            self.module(&format!("{second}.to_out.0"), &format!("{theirs}.proj"), Take::Whole);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn medium_has_as_many_tensors_as_its_checkpoint_and_at_the_same_places() {
        let config = json!({
            "num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536,
            "dual_attention_layers": (0..13).collect::<Vec<_>>(), "qk_norm": "rms_norm",
        });
        let names = names(&Sd3Config::from_value(&config).unwrap());
        let stored: HashSet<_> = names.iter().map(|(_, stored, _)| stored).collect();
        // 15 + 2 outside of the blocks; of a block 12 of the picture, 12 of the text (6 of the last), 4 norms, 4 + 2 of the
        // second attention.
        assert_eq!(stored.len(), 17 + 24 * (10 + 10 + 4) - 6 + 13 * 6);
        let find = |ours: &str| {
            let (_, stored, take) = names.iter().find(|(name, ..)| name == ours).unwrap();
            (stored.as_str(), *take)
        };
        for (ours, stored, take) in [
            ("pos_embed.pos_embed", "pos_embed", Take::Whole),
            ("norm_out.linear.bias", "final_layer.adaLN_modulation.1.bias", Take::SwappedHalves),
            (
                "transformer_blocks.7.attn.to_k.weight",
                "joint_blocks.7.x_block.attn.qkv.weight",
                Take::Rows { index: 1, of: 3 },
            ),
            (
                "transformer_blocks.23.attn.add_v_proj.bias",
                "joint_blocks.23.context_block.attn.qkv.bias",
                Take::Rows { index: 2, of: 3 },
            ),
            (
                "transformer_blocks.12.attn2.norm_q.weight",
                "joint_blocks.12.x_block.attn2.ln_q.weight",
                Take::Whole,
            ),
            (
                "transformer_blocks.22.norm1_context.linear.weight",
                "joint_blocks.22.context_block.adaLN_modulation.1.weight",
                Take::Whole,
            ),
            (
                "transformer_blocks.23.norm1_context.linear.weight",
                "joint_blocks.23.context_block.adaLN_modulation.1.weight",
                Take::SwappedHalves,
            ),
        ] {
            assert_eq!(find(ours), (stored, take));
        }
        assert!(
            !names.iter().any(|(name, ..)| name.starts_with("transformer_blocks.23.ff_context"))
        );
        assert!(!names.iter().any(|(name, ..)| name.starts_with("transformer_blocks.13.attn2")));
    }
}
