//! Names of the samplers for help texts.

use std::sync::LazyLock;

use cupscale::sampler::SamplerKind;

/// Names of all samplers, separated by `|`.
pub(super) fn sampler_choice() -> &'static str {
    static NAMES: LazyLock<String> =
        LazyLock::new(|| SamplerKind::ALL.map(SamplerKind::name).join("|"));
    &NAMES
}
