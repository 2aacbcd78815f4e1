//! Names of the transformer's tensors in files of Black Forest Labs' own code (`double_blocks.…`, `single_blocks.…`), beside
//! those that diffusers gives them and that our network asks for. That code keeps queries, keys and values of a block of two
//! streams in one tensor, as diffusers does in a block of one stream, and shift before scale at the end.
//!
//! Source: diffusers `loaders/single_file_utils.py` (`convert_flux2_transformer_checkpoint_to_diffusers`).

use crate::model::denoiser::flux2::Flux2Config;
use crate::weights::tensors::{Take, TensorName};

/// Names of every tensor of a transformer in diffusers and in the original code (without the `model.diffusion_model.` of a
/// whole model), of which norms end in `norm_kind`: `scale`, or `weight` in files of some converters.
pub(super) fn names(config: &Flux2Config, norm_kind: &str) -> Vec<TensorName> {
    let mut names = Names { list: Vec::new(), norm_kind };
    for (ours, theirs) in [
        ("x_embedder", "img_in"),
        ("context_embedder", "txt_in"),
        ("time_guidance_embed.timestep_embedder.linear_1", "time_in.in_layer"),
        ("time_guidance_embed.timestep_embedder.linear_2", "time_in.out_layer"),
        ("double_stream_modulation_img.linear", "double_stream_modulation_img.lin"),
        ("double_stream_modulation_txt.linear", "double_stream_modulation_txt.lin"),
        ("single_stream_modulation.linear", "single_stream_modulation.lin"),
        ("proj_out", "final_layer.linear"),
    ] {
        names.weight(ours, theirs, Take::Whole);
    }
    names.weight("norm_out.linear", "final_layer.adaLN_modulation.1", Take::SwappedHalves);
    for index in 0..config.double_layers {
        names.double(&format!("transformer_blocks.{index}"), &format!("double_blocks.{index}"));
    }
    for index in 0..config.single_layers {
        let (ours, theirs) =
            (format!("single_transformer_blocks.{index}.attn"), format!("single_blocks.{index}"));
        names.weight(&format!("{ours}.to_qkv_mlp_proj"), &format!("{theirs}.linear1"), Take::Whole);
        names.weight(&format!("{ours}.to_out"), &format!("{theirs}.linear2"), Take::Whole);
        names.norms(&ours, ["norm_q", "norm_k"], &theirs);
    }
    names.list
}

struct Names<'a> {
    list: Vec<TensorName>,
    norm_kind: &'a str,
}

impl Names<'_> {
    /// The weight of a dense layer: none has a bias.
    fn weight(&mut self, ours: &str, theirs: &str, take: Take) {
        self.list.push((format!("{ours}.weight"), format!("{theirs}.weight"), take));
    }

    /// Norms of queries and keys.
    fn norms(&mut self, ours: &str, norms: [&str; 2], theirs: &str) {
        for (norm, stored) in norms.into_iter().zip(["query_norm", "key_norm"]) {
            let theirs = format!("{theirs}.norm.{stored}.{}", self.norm_kind);
            self.list.push((format!("{ours}.{norm}.weight"), theirs, Take::Whole));
        }
    }

    /// A block of two streams.
    fn double(&mut self, ours: &str, theirs: &str) {
        for (stream, projections, out, norms, ff) in [
            ("img", ["to_q", "to_k", "to_v"], "to_out.0", ["norm_q", "norm_k"], "ff"),
            (
                "txt",
                ["add_q_proj", "add_k_proj", "add_v_proj"],
                "to_add_out",
                ["norm_added_q", "norm_added_k"],
                "ff_context",
            ),
        ] {
            let (attention, stored) = (format!("{ours}.attn"), format!("{theirs}.{stream}_attn"));
            for (index, name) in projections.into_iter().enumerate() {
                let take = Take::Rows { index, of: 3 };
                self.weight(&format!("{attention}.{name}"), &format!("{stored}.qkv"), take);
            }
            self.weight(&format!("{attention}.{out}"), &format!("{stored}.proj"), Take::Whole);
            self.norms(&attention, norms, &stored);
            for (layer, number) in [("linear_in", 0), ("linear_out", 2)] {
                let stored = format!("{theirs}.{stream}_mlp.{number}");
                self.weight(&format!("{ours}.{ff}.{layer}"), &stored, Take::Whole);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn klein_has_as_many_tensors_as_its_checkpoint_and_at_the_same_places() {
        let config = json!({
            "num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24, "guidance_embeds": false,
        });
        let names = names(&Flux2Config::from_value(&config).unwrap(), "scale");
        // Nine outside of the blocks; of two streams six each, of which queries, keys and values are one; of one stream four.
        let stored: HashSet<_> = names.iter().map(|(_, stored, _)| stored).collect();
        assert_eq!(stored.len(), 9 + 5 * 12 + 20 * 4);
        assert_eq!(names.len(), 9 + 5 * 16 + 20 * 4);
        let find = |ours: &str| {
            let (_, stored, take) = names.iter().find(|(name, ..)| name == ours).unwrap();
            (stored.as_str(), *take)
        };
        for (ours, stored, take) in [
            (
                "norm_out.linear.weight",
                "final_layer.adaLN_modulation.1.weight",
                Take::SwappedHalves,
            ),
            (
                "transformer_blocks.4.attn.add_v_proj.weight",
                "double_blocks.4.txt_attn.qkv.weight",
                Take::Rows { index: 2, of: 3 },
            ),
            (
                "transformer_blocks.0.attn.norm_k.weight",
                "double_blocks.0.img_attn.norm.key_norm.scale",
                Take::Whole,
            ),
            (
                "transformer_blocks.1.ff_context.linear_out.weight",
                "double_blocks.1.txt_mlp.2.weight",
                Take::Whole,
            ),
            (
                "single_transformer_blocks.19.attn.norm_q.weight",
                "single_blocks.19.norm.query_norm.scale",
                Take::Whole,
            ),
        ] {
            assert_eq!(find(ours), (stored, take), "{ours}");
        }
    }
}
