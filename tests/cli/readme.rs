//! The README against the program: its table of options holds the real defaults.

use cupscale::{
    pipeline::Defaults,
    sampler::{Ddim, Tcd},
};

#[test]
fn the_table_of_options_states_the_real_defaults() {
    let readme = include_str!("../../README.md");
    for (option, default) in [
        ("--strength S", Defaults::STRENGTH),
        ("--steps N", f64::from(Defaults::STEPS)),
        ("--guidance G", Defaults::GUIDANCE),
        ("--gsp W", Defaults::GSP),
        ("--rap W", Defaults::RAP),
        ("--rsp W", Defaults::RSP),
        ("--overlap O", Defaults::OVERLAP),
        ("--first-share W", Defaults::FIRST_SHARE),
        ("--sharpen S", Defaults::SHARPEN),
        ("--grain G", Defaults::GRAIN),
        ("--fidelity W", Defaults::FIDELITY),
        ("--coherence W", Defaults::COHERENCE),
        ("--texture W", Defaults::TEXTURE),
    ] {
        let row = format!("| `{option}` | {default} |");
        assert!(readme.contains(&row), "README.md has no row beginning with {row}");
    }
    for row in [
        format!("| `--caption-batch N` | {}, or what fits |", Defaults::CAPTION_BATCH),
        format!("`--caption-top-p` ({})", Defaults::CAPTION_TOP_P),
    ] {
        assert!(readme.contains(&row), "README.md does not say {row}");
    }
    let row = format!("| `--eta E` | {}, tcd {} |", Ddim::DEFAULT_ETA, Tcd::DEFAULT_ETA);
    assert!(readme.contains(&row), "README.md has no row beginning with {row}");
}
