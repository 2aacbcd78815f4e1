//! Whole jobs with Stable Diffusion 3, several regions and every prior, against the same method written in PyTorch and
//! diffusers from docs/method.md (`tests/make_fixtures/make_sd3_method_fixture.py`): literal attention maps of joint
//! attention, autograd for the structure prior in flow form, diffusers' own steps, f64. Picture in, picture out, through
//! the program.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use candle_core::{Device, Tensor, safetensors};
use serde::Deserialize;

use crate::{
    common::{Shell, fixture, sd3::write_folder, stderr},
    reference::error_of_output,
};

/// As of the method's other fixture; guidance takes the difference of two predictions several times.
const BOUND: f32 = 1e-4;

/// A job of the fixture.
#[derive(Deserialize)]
struct Case {
    options: Vec<String>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_slice(&fs::read(fixture("sd3/method/cases.json")).unwrap()).unwrap()
}

fn references() -> HashMap<String, Tensor> {
    safetensors::load(fixture("sd3/method/expected.safetensors"), &Device::Cpu).unwrap()
}

/// Runs the program on this case and returns its largest difference from the reference, relative to the reference's
/// maximum.
fn error_of(case: &Case, more: &str, reference: &Tensor) -> f32 {
    let shell = Shell::new();
    for file in ["in.png", "captions.json"] {
        fs::copy(fixture("sd3/method").join(file), shell.path(file)).unwrap();
    }
    write_folder(&shell.path("model"));
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
fn whole_jobs_equal_the_method_with_every_prior_and_guidance() {
    let (cases, references) = (cases(), references());
    assert_eq!(cases.len(), references.len());
    let errors: Vec<(&str, f32)> = cases
        .iter()
        .map(|(name, case)| (name.as_str(), error_of(case, "", &references[name])))
        .collect();
    println!("{errors:?}");
    assert!(errors.iter().all(|&(_, error)| error <= BOUND), "{errors:?}");
}

#[test]
fn batches_and_threads_do_not_take_a_job_away_from_the_method() {
    let (cases, references) = (cases(), references());
    let error = error_of(&cases["guided"], "--batch 3 --threads 2", &references["guided"]);
    assert!(error <= BOUND, "{error}");
}
