//! The README against the program: its table of options holds the real defaults.

use cupscale::pipeline::Defaults;

#[test]
fn the_table_of_options_states_the_real_defaults() {
    let readme = include_str!("../README.md");
    for (option, default) in [
        ("--strength S", Defaults::STRENGTH),
        ("--steps N", f64::from(Defaults::STEPS)),
        ("--gsp W", Defaults::GSP),
        ("--rap W", Defaults::RAP),
        ("--rsp W", Defaults::RSP),
        ("--overlap O", Defaults::OVERLAP),
    ] {
        let row = format!("| `{option}` | {default} |");
        assert!(readme.contains(&row), "README.md has no row beginning with {row}");
    }
}
