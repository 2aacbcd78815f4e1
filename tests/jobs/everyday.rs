//! What people who enlarge with diffusion ask for at once: a ControlNet, a weighted prompt and a mask, with every prior, against the
//! same written in PyTorch and diffusers (`tests/make_fixtures/make_everyday_fixture.py`).

use std::{collections::BTreeMap, fs};

use candle_core::{Device, safetensors};

use crate::{
    common::{fixture, stderr},
    control::{Case, command, shell},
    reference::error_of_output,
};

#[test]
fn a_control_a_weighted_prompt_and_a_mask_at_once_equal_the_method() {
    let folder = fixture("everyday");
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let expected = safetensors::load(folder.join("expected.safetensors"), &Device::Cpu).unwrap();
    assert_eq!(cases.len(), expected.len());
    for (name, case) in &cases {
        // The reference knows no batches, tiles and threads.
        for more in ["", "--tile 32 --batch 3 --threads 2"] {
            let shell = shell();
            for file in ["captions.json", "mask.png"] {
                fs::copy(fixture("method").join(file), shell.path(file)).unwrap();
            }
            let output = command(&shell, more).args(&case.options).output().unwrap();
            assert!(output.status.success(), "{name}: {}", stderr(&output));
            let error = error_of_output(&shell, &expected[name]);
            println!("{name} {more}: {error}");
            assert!(error <= 1e-4, "{name} {more}: {error}");
        }
    }
}
