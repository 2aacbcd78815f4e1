//! Rules of quantization: the format that each weight is rounded to. They hold for a file that is written and for
//! weights that are rounded as they are read, so that both give the same model to the bit.

use std::fmt;
use std::str::FromStr;

use candle_core::quantized::GgmlDType;

use super::families::{Family, clip, t5};
use super::part::Part;

/// Format of a quantized model's dense layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantType {
    /// 8.5 bits a weight
    Q8_0,
    /// 6.6 bits a weight
    Q6K,
    /// 5.5 bits a weight
    Q5K,
    /// 4.5 bits a weight
    Q4K,
    /// 16 bits a weight: no blocks at all
    F16,
}

impl QuantType {
    /// All types, from best to smallest.
    pub const ALL: [Self; 5] = [Self::F16, Self::Q8_0, Self::Q6K, Self::Q5K, Self::Q4K];

    /// Format in a file.
    #[must_use]
    pub fn format(self) -> GgmlDType {
        match self {
            Self::Q8_0 => GgmlDType::Q8_0,
            Self::Q6K => GgmlDType::Q6K,
            Self::Q5K => GgmlDType::Q5K,
            Self::Q4K => GgmlDType::Q4K,
            Self::F16 => GgmlDType::F16,
        }
    }

    /// Number by which GGUF files name it (llama.cpp `enum llama_ftype`).
    pub(super) fn file_type(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Q8_0 => 7,
            Self::Q4K => 14,
            Self::Q5K => 16,
            Self::Q6K => 18,
        }
    }
}

impl fmt::Display for QuantType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q8_0 => "q8_0",
            Self::Q6K => "q6_k",
            Self::Q5K => "q5_k",
            Self::Q4K => "q4_k",
            Self::F16 => "f16",
        })
    }
}

impl FromStr for QuantType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|known| known.to_string() == text);
        known.ok_or_else(|| "not one of f16, q8_0, q6_k, q5_k, q4_k".to_owned())
    }
}

/// Rules for a model, or one part of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rules {
    /// rules for a part of a diffusion model
    Part { part: Part, family: &'static dyn Family, quant: QuantType },
    /// rules for a captioner
    Llava { quant: QuantType },
}

impl Rules {
    /// Format of the tensor with this name (in diffusers' or transformers' naming) and shape, which is
    /// stored in `stored`.
    ///
    /// - The VAE stays as it is: 3 % of SDXL's weights, convolutions all but a few, and its errors
    ///   are seen directly.
    /// - Vectors (norms and biases) are f32, convolutions f16.
    /// - Dense layers that the family, CLIP or T5 calls sensitive are f16 ([`Family::is_sensitive`],
    ///   [`clip::SENSITIVE`], [`t5::SENSITIVE`]).
    /// - Text encoders have q8_0 at least: in q4_k, the context of an eight-layer encoder with random
    ///   weights errs by 13 %, in q8_0 by 0.9 %, and they are 30 % of SDXL's weights.
    /// - Every other dense layer has the type asked for; where its rows are no whole number of
    ///   256-weight blocks q8_0 (SDXL's width of 640), and where not even of 32, f16.
    /// - A captioner's vision tower and projector stay as they are: 4 % of its weights, through which
    ///   everything goes. Its embeddings and its output projection have q8_0 at least, as in
    ///   llama.cpp's files, whose mixtures keep them better than the rest.
    pub fn format(self, name: &str, shape: &[usize], stored: GgmlDType) -> GgmlDType {
        let (part, family, quant) = match self {
            Self::Part { part, family, quant } => (part, family, quant),
            Self::Llava { quant } => return llava_format(quant, name, shape, stored),
        };
        if part == Part::Vae {
            return stored;
        }
        let &[_, input] = shape else {
            return if shape.len() < 2 { GgmlDType::F32 } else { GgmlDType::F16 };
        };
        let is_sensitive = match part {
            Part::Denoiser | Part::Control => family.is_sensitive(name) || is_of_union(name),
            _ => clip::SENSITIVE.iter().chain([&t5::SENSITIVE]).any(|piece| name.contains(piece)),
        };
        if is_sensitive {
            return GgmlDType::F16;
        }
        let wanted = match (part, quant) {
            (Part::Denoiser | Part::Control, quant) => quant.format(),
            (_, QuantType::F16) => GgmlDType::F16,
            _ => GgmlDType::Q8_0,
        };
        in_whole_blocks(wanted, input)
    }
}

/// `true` for what a union of ControlNets has besides: layers on one vector for the whole picture, and a table.
fn is_of_union(name: &str) -> bool {
    const STARTS: [&str; 4] =
        ["task_embedding", "transformer_layes.", "spatial_ch_projs.", "control_add_embedding."];
    STARTS.iter().any(|start| name.starts_with(start))
}

fn llava_format(quant: QuantType, name: &str, shape: &[usize], stored: GgmlDType) -> GgmlDType {
    let &[_, input] = shape else { return stored };
    if !name.starts_with("language_model.") {
        return stored;
    }
    let is_table = name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight");
    let wanted = if is_table && quant != QuantType::F16 { GgmlDType::Q8_0 } else { quant.format() };
    in_whole_blocks(wanted, input)
}

/// Format, or the next better one whose block size divides rows of so many weights.
fn in_whole_blocks(wanted: GgmlDType, input: usize) -> GgmlDType {
    [wanted, GgmlDType::Q8_0]
        .into_iter()
        .find(|format| input.is_multiple_of(format.block_size()))
        .unwrap_or(GgmlDType::F16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::families::FAMILIES;

    #[test]
    fn every_type_parses_to_what_it_prints() {
        for quant in QuantType::ALL {
            assert_eq!(quant.to_string().parse(), Ok(quant));
        }
        assert!("q4_0".parse::<QuantType>().unwrap_err().contains("q4_k"));
    }

    #[test]
    fn the_rules_say_by_name_and_shape_what_a_weight_becomes() {
        use GgmlDType::{BF16, F16, F32, Q4K, Q8_0};
        let family = FAMILIES[0];
        let rules = |part| Rules::Part { part, family, quant: QuantType::Q4K };
        for (part, name, shape, expected) in [
            (Part::Denoiser, "conv_in.weight", &[320, 4, 3, 3][..], F16),
            (Part::Denoiser, "conv_in.bias", &[320], F32),
            (Part::Denoiser, "time_embedding.linear_1.weight", &[1280, 320], F16),
            (Part::Denoiser, "add_embedding.linear_2.weight", &[1280, 1280], F16),
            (Part::Denoiser, "down_blocks.1.resnets.0.time_emb_proj.weight", &[640, 1280], F16),
            (Part::Denoiser, "mid_block.attentions.0.proj_in.weight", &[1280, 1280], F16),
            (Part::Denoiser, "x.attn1.to_q.weight", &[640, 640], Q8_0),
            (Part::Denoiser, "x.attn2.to_k.weight", &[640, 2048], Q4K),
            (Part::Denoiser, "x.attn2.to_k.weight", &[64, 24], F16),
            (Part::Denoiser, "x.norm1.weight", &[640], F32),
            (Part::Control, "x.attn2.to_k.weight", &[640, 2048], Q4K),
            (Part::Control, "controlnet_down_blocks.3.weight", &[320, 320, 1, 1], F16),
            (Part::Control, "transformer_layes.0.attn.in_proj_weight", &[960, 320], F16),
            (Part::TextEncoder(0), "text_model.embeddings.token_embedding.weight", &[9, 256], F16),
            (Part::TextEncoder(1), "text_projection.weight", &[256, 256], F16),
            (Part::TextEncoder(1), "text_model.encoder.layers.0.mlp.fc1.weight", &[512, 256], Q8_0),
            (Part::Vae, "decoder.mid_block.attentions.0.to_q.weight", &[512, 512], BF16),
        ] {
            assert_eq!(rules(part).format(name, shape, BF16), expected, "{part:?} {name}");
        }
    }

    #[test]
    fn a_captioners_tower_stays_and_its_tables_have_eight_bits_at_least() {
        use GgmlDType::{F16, F32, Q4K, Q8_0};
        let rules = Rules::Llava { quant: QuantType::Q4K };
        for (name, shape, stored, expected) in [
            (
                "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
                &[512, 256][..],
                F16,
                F16,
            ),
            ("multi_modal_projector.linear_1.weight", &[512, 256], F32, F32),
            ("language_model.model.embed_tokens.weight", &[512, 256], F16, Q8_0),
            ("language_model.lm_head.weight", &[512, 256], F16, Q8_0),
            ("language_model.model.norm.weight", &[256], F16, F16),
            ("language_model.model.layers.0.mlp.up_proj.weight", &[512, 256], F16, Q4K),
            ("language_model.model.layers.0.mlp.up_proj.weight", &[512, 160], F16, Q8_0),
        ] {
            assert_eq!(rules.format(name, shape, stored), expected, "{name}");
        }
        let rules = Rules::Llava { quant: QuantType::F16 };
        assert_eq!(rules.format("language_model.lm_head.weight", &[512, 256], F32), F16);
    }
}
