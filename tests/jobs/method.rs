//! The whole method, several regions and every prior, against the same method written in PyTorch and
//! diffusers from docs/method.md (`tests/make_fixtures/make_method_fixture.py`): literal attention maps,
//! autograd for the structure prior, f64. Picture in, picture out, through the program.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use candle_core::{Device, Tensor, safetensors};
use serde::Deserialize;

use crate::{
    common::{Shell, copy_folder, fixture, stderr},
    reference::error_of_output,
};

/// Rounding to 16 bits alone is 0.8e-5; f32 adds about as much. Guidance g takes the difference of two
/// predictions g times, and their rounding with it: PyTorch itself, in f32 in place of f64, is up to 0.8e-4
/// from the reference there.
fn tolerance(case: &Case) -> f32 {
    if case.options.iter().any(|option| option == "--guidance") { 2e-4 } else { 5e-5 }
}

/// A job of the fixture.
#[derive(Deserialize)]
pub struct Case {
    options: Vec<String>,
    /// The model's `force_zeros_for_empty_prompt`, where its index has one.
    force_zeros: Option<bool>,
}

/// Each case by name.
fn cases() -> BTreeMap<String, Case> {
    let text = fs::read(fixture("method/cases.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn references() -> HashMap<String, Tensor> {
    let load = |file: &str| safetensors::load(fixture("method").join(file), &Device::Cpu).unwrap();
    let files = ["expected.safetensors", "masked.safetensors", "jittered.safetensors"];
    files.into_iter().flat_map(load).collect()
}

/// Runs the program on this case and returns its largest difference from the reference,
/// relative to the reference's maximum.
pub fn error_of(case: &Case, more: &str, reference: &Tensor) -> f32 {
    let shell = Shell::new();
    for file in ["in.png", "mask.png", "captions.json", "captions_quarter.json"] {
        fs::copy(fixture("method").join(file), shell.path(file)).unwrap();
    }
    copy_folder(&fixture("img2img/model"), &shell.path("model"));
    if let Some(force_zeros) = case.force_zeros {
        let mut index: serde_json::Value =
            serde_json::from_slice(&shell.bytes("model/model_index.json")).unwrap();
        index["force_zeros_for_empty_prompt"] = force_zeros.into();
        fs::write(shell.path("model/model_index.json"), index.to_string()).unwrap();
    }
    let output = shell
        .command("in.png -o out.png --device cpu --model model")
        .args(&case.options)
        .args(more.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));

    error_of_output(&shell, reference)
}

#[test]
fn the_whole_program_equals_the_method_with_every_prior_sampler_and_guidance() {
    let references = references();
    let cases = cases();
    assert_eq!(cases.len(), references.len());
    let errors: Vec<(&str, f32, f32)> = cases
        .iter()
        .map(|(name, case)| (name.as_str(), error_of(case, "", &references[name]), tolerance(case)))
        .collect();
    assert!(errors.iter().all(|(_, error, bound)| error <= bound), "{errors:?}");
}

/// The reference knows neither tiles nor batches nor threads.
#[test]
fn tiles_batches_and_threads_do_not_take_the_program_away_from_the_method() {
    let (cases, references) = (cases(), references());
    for name in ["all", "guided", "tcd", "mask", "jitter"] {
        let error = error_of(&cases[name], "--tile 32 --batch 3 --threads 2", &references[name]);
        assert!(error <= tolerance(&cases[name]), "{name}: {error}");
    }
}
