//! Whole jobs with PixArt: several regions and every prior against the literal method in PyTorch
//! (`tests/make_fixtures/make_pixart_job_fixture.py`), every form of its files, and jobs that are interrupted.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use candle_core::{Device, Tensor, safetensors};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    common::{Shell, fixture, pixart::write_folder, stderr},
    reference::error_of_output,
};

#[derive(Deserialize)]
struct Case {
    options: Vec<String>,
    /// changes of the scheduler's configuration
    scheduler: Map<String, Value>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_slice(&fs::read(fixture("pixart_job/cases.json")).unwrap()).unwrap()
}

fn references() -> HashMap<String, Tensor> {
    safetensors::load(fixture("pixart_job/expected.safetensors"), &Device::Cpu).unwrap()
}

/// A folder with the model as diffusers has it, and the input.
fn shell() -> Shell {
    let shell = Shell::new();
    for file in ["in.png", "captions.json"] {
        fs::copy(fixture("method").join(file), shell.path(file)).unwrap();
    }
    write_folder(&shell.path("model"));
    shell
}

/// Runs a job.
fn run(shell: &Shell, line: &str, options: &[String]) {
    let output = shell
        .command(&format!("in.png -o out.png --device cpu {line}"))
        .args(options)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Largest difference from the reference, relative to its maximum.
fn error_of(case: &Case, more: &str, reference: &Tensor) -> f32 {
    let shell = shell();
    if !case.scheduler.is_empty() {
        let path = shell.path("model/scheduler/scheduler_config.json");
        // diffusers writes what JSON does not have.
        let text = fs::read_to_string(&path).unwrap().replace("-Infinity", "null");
        let mut scheduler: Value = serde_json::from_str(&text).unwrap();
        for (field, value) in &case.scheduler {
            scheduler[field] = value.clone();
        }
        fs::write(path, scheduler.to_string()).unwrap();
    }
    run(&shell, &format!("--model model {more}"), &case.options);
    error_of_output(&shell, reference)
}

#[test]
fn whole_jobs_equal_the_literal_method_with_every_prior_guidance_and_karras_sigmas() {
    let references = references();
    let cases = cases();
    assert_eq!(cases.len(), references.len());
    let errors: Vec<_> = cases
        .iter()
        .map(|(name, case)| (name.as_str(), error_of(case, "", &references[name])))
        .collect();
    println!("{errors:?}");
    assert!(errors.iter().all(|(_, error)| *error <= 1e-4), "{errors:?}");
}

#[test]
fn tiles_batches_and_threads_do_not_take_a_job_away_from_the_method() {
    let (cases, references) = (cases(), references());
    for name in ["all", "guided"] {
        let error = error_of(&cases[name], "--tile 32 --batch 3 --threads 2", &references[name]);
        assert!(error <= 1e-4, "{name}: {error}");
    }
}
