//! Names of the transformer's tensors in files of the original code (`layers.0.attention.qkv`), beside those that diffusers
//! gives them and that our network asks for. That code keeps queries, keys and values in one tensor.
//!
//! Source: diffusers `loaders/single_file_utils.py` (`convert_z_image_transformer_checkpoint_to_diffusers`).

use crate::model::denoiser::z_image::ZImageConfig;
use crate::weights::tensors::{Take, TensorName};

/// Names of every tensor of a transformer in diffusers and in the original code (without the `model.diffusion_model.` of a
/// whole model).
pub(super) fn names(config: &ZImageConfig) -> Vec<TensorName> {
    let mut names = Names::default();
    for token in ["cap_pad_token", "x_pad_token"] {
        names.same(token);
    }
    names.same("cap_embedder.0.weight");
    for (ours, theirs) in [
        ("all_x_embedder.2-1", "x_embedder"),
        ("all_final_layer.2-1.linear", "final_layer.linear"),
        ("all_final_layer.2-1.adaLN_modulation.1", "final_layer.adaLN_modulation.1"),
        ("cap_embedder.1", "cap_embedder.1"),
        ("t_embedder.mlp.0", "t_embedder.mlp.0"),
        ("t_embedder.mlp.2", "t_embedder.mlp.2"),
    ] {
        names.module(ours, theirs);
    }
    for (stack, count, modulated) in [
        ("noise_refiner", config.refiner_layers, true),
        ("context_refiner", config.refiner_layers, false),
        ("layers", config.layers, true),
    ] {
        for index in 0..count {
            names.block(&format!("{stack}.{index}"), modulated, config.qk_norm);
        }
    }
    names.0
}

#[derive(Default)]
struct Names(Vec<TensorName>);

impl Names {
    fn add(&mut self, ours: String, theirs: String, take: Take) {
        self.0.push((ours, theirs, take));
    }

    fn same(&mut self, name: &str) {
        self.add(name.to_owned(), name.to_owned(), Take::Whole);
    }

    /// Weight and bias of a module.
    fn module(&mut self, ours: &str, theirs: &str) {
        for kind in ["weight", "bias"] {
            self.add(format!("{ours}.{kind}"), format!("{theirs}.{kind}"), Take::Whole);
        }
    }

    fn block(&mut self, block: &str, modulated: bool, qk_norm: bool) {
        for (index, part) in ["to_q", "to_k", "to_v"].into_iter().enumerate() {
            self.add(
                format!("{block}.attention.{part}.weight"),
                format!("{block}.attention.qkv.weight"),
                Take::Rows { index, of: 3 },
            );
        }
        let norms: &[_] = if qk_norm { &[("norm_q", "q_norm"), ("norm_k", "k_norm")] } else { &[] };
        for (ours, theirs) in [("to_out.0", "out")].iter().chain(norms) {
            let [ours, theirs] =
                [ours, theirs].map(|name| format!("{block}.attention.{name}.weight"));
            self.add(ours, theirs, Take::Whole);
        }
        for name in [
            "attention_norm1",
            "attention_norm2",
            "ffn_norm1",
            "ffn_norm2",
            "feed_forward.w1",
            "feed_forward.w2",
            "feed_forward.w3",
        ] {
            self.same(&format!("{block}.{name}.weight"));
        }
        if modulated {
            let name = format!("{block}.adaLN_modulation.0");
            self.module(&name, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;

    #[test]
    fn turbo_has_as_many_tensors_as_its_checkpoint_and_at_the_same_places() {
        let names = names(&ZImageConfig::from_value(&json!({})).unwrap());
        // 3 + 12 outside of the blocks; of a block 7 and 4 of the attention, in which three of ours are one; 2 of modulation.
        let (modulated, plain) = (30 + 2, 2);
        let stored: HashSet<_> = names.iter().map(|(_, stored, _)| stored).collect();
        assert_eq!(stored.len(), 15 + modulated * 13 + plain * 11);
        assert_eq!(names.len(), 15 + modulated * 15 + plain * 13);
        let find = |ours: &str| {
            let (_, stored, take) = names.iter().find(|(name, ..)| name == ours).unwrap();
            (stored.as_str(), *take)
        };
        for (ours, stored, take) in [
            ("all_x_embedder.2-1.bias", "x_embedder.bias", Take::Whole),
            (
                "layers.29.attention.to_v.weight",
                "layers.29.attention.qkv.weight",
                Take::Rows { index: 2, of: 3 },
            ),
            (
                "context_refiner.1.attention.norm_k.weight",
                "context_refiner.1.attention.k_norm.weight",
                Take::Whole,
            ),
            (
                "noise_refiner.0.attention.to_out.0.weight",
                "noise_refiner.0.attention.out.weight",
                Take::Whole,
            ),
        ] {
            assert_eq!(find(ours), (stored, take), "{ours}");
        }
    }
}
