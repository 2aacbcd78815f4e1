//! Names of a PixArt transformer's tensors in checkpoints of its own code, beside those that diffusers gives them. The
//! own code keeps queries, keys and values in one tensor.
//!
//! Sources: PixArt-alpha/PixArt-sigma `diffusion/model/nets/PixArtMS.py`; diffusers
//! `scripts/convert_pixart_{alpha,sigma}_to_diffusers.py`.

use crate::model::denoiser::pixart::PixArtConfig;
use crate::weights::tensors::{Take, TensorName};

/// Tensors of the own code that are no weights of the network: the text of training without a caption, and the table of
/// positions.
pub(super) const LEFT_OUT: [&str; 2] = ["y_embedder.y_embedding", "pos_embed"];

/// Names of every tensor: in diffusers, in the own code, and how the one is taken from the other.
pub(super) fn names(config: &PixArtConfig) -> Vec<TensorName> {
    let mut names = Names { config, names: Vec::new() };
    names.module("pos_embed.proj", "x_embedder.proj");
    names.mlp("adaln_single.emb.timestep_embedder", "t_embedder");
    if config.size_conditioned {
        names.mlp("adaln_single.emb.resolution_embedder", "csize_embedder");
        names.mlp("adaln_single.emb.aspect_ratio_embedder", "ar_embedder");
    }
    names.module("adaln_single.linear", "t_block.1");
    if config.projects_text {
        names.module("caption_projection.linear_1", "y_embedder.y_proj.fc1");
        names.module("caption_projection.linear_2", "y_embedder.y_proj.fc2");
    }
    for index in 0..config.num_layers {
        let (ours, theirs) = (format!("transformer_blocks.{index}"), format!("blocks.{index}"));
        let (ours, theirs) = (ours.as_str(), theirs.as_str());
        names.table(&format!("{ours}."), &format!("{theirs}."));
        for (part, name) in ["to_q", "to_k", "to_v"].into_iter().enumerate() {
            let ours = format!("{ours}.attn1.{name}");
            names.projection(
                &ours,
                &format!("{theirs}.attn.qkv"),
                Take::Rows { index: part, of: 3 },
            );
        }
        names.module(&format!("{ours}.attn1.to_out.0"), &format!("{theirs}.attn.proj"));
        let query = format!("{ours}.attn2.to_q");
        names.projection(&query, &format!("{theirs}.cross_attn.q_linear"), Take::Whole);
        for (part, name) in ["to_k", "to_v"].into_iter().enumerate() {
            let ours = format!("{ours}.attn2.{name}");
            let stored = format!("{theirs}.cross_attn.kv_linear");
            names.projection(&ours, &stored, Take::Rows { index: part, of: 2 });
        }
        names.module(&format!("{ours}.attn2.to_out.0"), &format!("{theirs}.cross_attn.proj"));
        names.module(&format!("{ours}.ff.net.0.proj"), &format!("{theirs}.mlp.fc1"));
        names.module(&format!("{ours}.ff.net.2"), &format!("{theirs}.mlp.fc2"));
    }
    names.table("", "final_layer.");
    names.module("proj_out", "final_layer.linear");
    names.names
}

struct Names<'a> {
    config: &'a PixArtConfig,
    names: Vec<TensorName>,
}

impl Names<'_> {
    /// Weight and bias of a module.
    fn module(&mut self, ours: &str, theirs: &str) {
        self.tensor(ours, theirs, "weight", Take::Whole);
        self.tensor(ours, theirs, "bias", Take::Whole);
    }

    /// Queries, keys or values, which have a bias where the configuration says so.
    fn projection(&mut self, ours: &str, theirs: &str, take: Take) {
        self.tensor(ours, theirs, "weight", take);
        if self.config.attention_bias {
            self.tensor(ours, theirs, "bias", take);
        }
    }

    /// Both layers behind the sinusoids of a number.
    fn mlp(&mut self, ours: &str, theirs: &str) {
        self.module(&format!("{ours}.linear_1"), &format!("{theirs}.mlp.0"));
        self.module(&format!("{ours}.linear_2"), &format!("{theirs}.mlp.2"));
    }

    /// Scales and shifts of a block, or of the last norm.
    fn table(&mut self, ours: &str, theirs: &str) {
        let name = |place: &str| format!("{place}scale_shift_table");
        self.names.push((name(ours), name(theirs), Take::Whole));
    }

    fn tensor(&mut self, ours: &str, theirs: &str, kind: &str, take: Take) {
        self.names.push((format!("{ours}.{kind}"), format!("{theirs}.{kind}"), take));
    }
}
