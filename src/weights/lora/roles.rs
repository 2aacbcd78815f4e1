//! Roles of an adapter's tensors: what the last pieces of their keys say, in the namings of kohya, LyCORIS, peft and
//! diffusers.

/// Role of an adapter's tensor in its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LoraTensorRole {
    /// `A`, `[rank, in, …]`
    Down,
    /// `B`, `[out, rank, …]`
    Up,
    /// the core between them of a Tucker decomposition, `[rank, rank, kh, kw]`
    Mid,
    Alpha,
    /// a factor of the whole change, which LyCORIS learns and now writes into a matrix
    Scalar,
    /// lengths of the rows or columns after the change (DoRA): LyCORIS and diffusers before peft
    DoraScale,
    /// lengths of the rows after the change (DoRA): peft
    Magnitude,
    /// LoHa: `up` and `down` of the two matrices that are multiplied value by value, and their cores
    HadaUp(Of),
    HadaDown(Of),
    HadaCore(Of),
    /// LoKr: the two factors of the Kronecker product, whole or as `up` and `down`, the second perhaps with a core
    Kron(Of),
    KronUp(Of),
    KronDown(Of),
    KronCore,
    /// OFT and BOFT: blocks of skew-symmetric matrices, and a length for every row
    OftBlocks,
    Rescale,
    /// peft's OFT: the upper triangles of such matrices
    OftTriangles,
    /// a difference of the whole weight, or of a bias
    Difference,
    BiasDifference,
    /// GLoRA: `W·A₁·A₂ + B₁·B₂`
    GeneralA(Of),
    GeneralB(Of),
    GeneralCore,
    /// IA³: a factor for every row or column, and which of both
    Lengths,
    OnInput,
}

/// First or second of two matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    First,
    Second,
}

impl LoraTensorRole {
    /// Name in a message.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Down => "lora_down (lora_A)",
            Self::Up => "lora_up (lora_B)",
            Self::Mid => "lora_mid",
            other => {
                ENDS.iter().find(|(_, role)| *role == other).map_or("lora_mid", |&(end, _)| end)
            }
        }
    }
}

/// Ends of keys of pairs of matrices: kohya and LyCORIS, peft, then diffusers in the order of its history, newest first.
const PAIRS: [(&str, LoraTensorRole); 15] = [
    (".lora_down.weight", LoraTensorRole::Down),
    (".lora_up.weight", LoraTensorRole::Up),
    (".lora_mid.weight", LoraTensorRole::Mid),
    (".lora_A.weight", LoraTensorRole::Down),
    (".lora_B.weight", LoraTensorRole::Up),
    (".lora_A.default.weight", LoraTensorRole::Down),
    (".lora_B.default.weight", LoraTensorRole::Up),
    (".lora_A", LoraTensorRole::Down),
    (".lora_B", LoraTensorRole::Up),
    (".lora_linear_layer.down.weight", LoraTensorRole::Down),
    (".lora_linear_layer.up.weight", LoraTensorRole::Up),
    (".lora.down.weight", LoraTensorRole::Down),
    (".lora.up.weight", LoraTensorRole::Up),
    ("_lora.down.weight", LoraTensorRole::Down),
    ("_lora.up.weight", LoraTensorRole::Up),
];

/// Last pieces of all other keys, after which peft may write `.weight` or `.default.weight` (LyCORIS `modules/`:
/// `weight_list`; peft `tuners/`: `adapter_layer_names`).
const ENDS: [(&str, LoraTensorRole); 31] = [
    ("alpha", LoraTensorRole::Alpha),
    ("scalar", LoraTensorRole::Scalar),
    ("dora_scale", LoraTensorRole::DoraScale),
    ("lora_magnitude_vector", LoraTensorRole::Magnitude),
    ("hada_w1_a", LoraTensorRole::HadaUp(Of::First)),
    ("hada_w1_b", LoraTensorRole::HadaDown(Of::First)),
    ("hada_t1", LoraTensorRole::HadaCore(Of::First)),
    ("hada_w2_a", LoraTensorRole::HadaUp(Of::Second)),
    ("hada_w2_b", LoraTensorRole::HadaDown(Of::Second)),
    ("hada_t2", LoraTensorRole::HadaCore(Of::Second)),
    ("lokr_w1", LoraTensorRole::Kron(Of::First)),
    ("lokr_w1_a", LoraTensorRole::KronUp(Of::First)),
    ("lokr_w1_b", LoraTensorRole::KronDown(Of::First)),
    ("lokr_w2", LoraTensorRole::Kron(Of::Second)),
    ("lokr_w2_a", LoraTensorRole::KronUp(Of::Second)),
    ("lokr_w2_b", LoraTensorRole::KronDown(Of::Second)),
    ("lokr_t2", LoraTensorRole::KronCore),
    ("oft_blocks", LoraTensorRole::OftBlocks),
    ("rescale", LoraTensorRole::Rescale),
    ("oft_R", LoraTensorRole::OftTriangles),
    ("diff", LoraTensorRole::Difference),
    ("w_norm", LoraTensorRole::Difference),
    ("diff_b", LoraTensorRole::BiasDifference),
    ("b_norm", LoraTensorRole::BiasDifference),
    ("a1", LoraTensorRole::GeneralA(Of::First)),
    ("a2", LoraTensorRole::GeneralA(Of::Second)),
    ("b1", LoraTensorRole::GeneralB(Of::First)),
    ("b2", LoraTensorRole::GeneralB(Of::Second)),
    ("bm", LoraTensorRole::GeneralCore),
    ("on_input", LoraTensorRole::OnInput),
    ("weight", LoraTensorRole::Lengths),
];

/// Kinds of adapter that are refused, by the beginning of the piece of a key that says the tensor's role (peft
/// `tuners/`).
const OTHER_KINDS: [(&str, &str); 5] = [
    ("boft_", "peft's BOFT"),
    ("oft_diag", "an early OFT, of which two forms have the same names"),
    ("ia3_l", "peft's IA³, whose file does not say what its factors are for"),
    ("vera_lambda", "VeRA"),
    ("lora_E", "AdaLoRA"),
];

/// Splits a key into the name of its module, as the file spells it, and its role.
pub(super) fn split(key: &str) -> Option<(&str, LoraTensorRole)> {
    if let Some(found) = PAIRS.iter().find_map(|&(end, role)| Some((key.strip_suffix(end)?, role)))
    {
        return Some(found);
    }
    let mut bare = [".default.weight", ".weight", ".default", ""]
        .into_iter()
        .filter_map(|end| key.strip_suffix(end)?.rsplit_once('.'));
    bare.find_map(|(name, last)| {
        ENDS.iter().find(|(end, _)| *end == last).map(|&(_, role)| (name, role))
    })
}

/// Kind of adapter to which a key belongs, where that is refused.
pub(super) fn other_kind(key: &str) -> Option<&'static str> {
    if key.ends_with(".lora_B.bias") {
        return Some("a LoRA with biases");
    }
    // The role stands last, or before peft's `.weight` or `.default.weight`; what is before it names a module.
    let (_, pieces) = key.split_once('.')?;
    let mut roles = pieces.rsplit('.').take(3);
    roles.find_map(|role| {
        OTHER_KINDS.iter().find(|(kind, _)| role.starts_with(kind)).map(|&(_, title)| title)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_piece_of_a_key_tells_the_tensors_role() {
        let module = "lora_unet_mid_block_attentions_0_proj_in";
        for (end, role) in ENDS {
            for after in ["", ".weight", ".default.weight", ".default"] {
                if role == LoraTensorRole::Lengths && !after.is_empty() {
                    continue;
                }
                assert_eq!(split(&format!("{module}.{end}{after}")), Some((module, role)), "{end}");
            }
        }
        for key in ["diffusion_model", "emb_params", "string_to_param.*", "alpha"] {
            assert_eq!(split(key), None, "{key}");
        }
    }

    #[test]
    fn other_kinds_of_adapter_are_told_by_their_keys() {
        for (key, kind) in [
            ("base_model.model.mid_block.proj_in.boft_R", "peft's BOFT"),
            (
                "base_model.model.mid_block.proj_in.ia3_l",
                "peft's IA³, whose file does not say what its factors are for",
            ),
            ("base_model.model.mid_block.proj_in.lora_E.default.weight", "AdaLoRA"),
            ("base_model.model.mid_block.proj_in.lora_B.bias", "a LoRA with biases"),
        ] {
            assert_eq!(other_kind(key), Some(kind), "{key}");
        }
        for key in [
            "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
            "model.diffusion_model.middle_block.1.proj_in.lora_A.weight",
            "diffusion_model.diffusers.boft_blocks.0.attentions.0.proj_in.lora_down.weight",
        ] {
            assert_eq!(other_kind(key), None, "{key}");
        }
    }
}
