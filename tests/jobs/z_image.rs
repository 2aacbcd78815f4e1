//! Whole jobs with Z-Image, several regions and every prior, against the same method written in PyTorch and diffusers from
//! docs/method.md (`tests/make_fixtures/make_z_image_method_fixture.py`): literal attention maps of one stream of tokens,
//! autograd for the structure prior in flow form, diffusers' own steps at the pipeline's sigmas, f64. Picture in, picture
//! out, through the program.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use candle_core::{Device, Tensor, safetensors};
use serde::Deserialize;

use crate::{
    common::{
        Shell, fixture, stderr,
        tensors::{flat, largest_difference},
        z_image::write_folder,
    },
    reference::{error_of_output, samples},
};

/// As of the method's other fixtures.
const BOUND: f32 = 1e-4;

/// A job of the fixture.
#[derive(Deserialize)]
struct Case {
    options: Vec<String>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_slice(&fs::read(fixture("z_image/method/cases.json")).unwrap()).unwrap()
}

fn references() -> HashMap<String, Tensor> {
    safetensors::load(fixture("z_image/method/expected.safetensors"), &Device::Cpu).unwrap()
}

/// A folder with the model and the input, where jobs run.
fn shell() -> Shell {
    let shell = Shell::new();
    for file in ["in.png", "captions.json"] {
        fs::copy(fixture("z_image/method").join(file), shell.path(file)).unwrap();
    }
    write_folder(&shell.path("model"));
    shell
}

/// Runs the program on this case.
fn run(shell: &Shell, case: &Case, more: &str) {
    let output = shell
        .command("in.png -o out.png --device cpu --model model")
        .args(&case.options)
        .args(more.split_whitespace())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn whole_jobs_equal_the_method_with_every_prior_and_guidance() {
    let (cases, references, shell) = (cases(), references(), shell());
    assert_eq!(cases.len(), references.len());
    let errors: Vec<(&str, f32)> = cases
        .iter()
        .map(|(name, case)| {
            run(&shell, case, "");
            (name.as_str(), error_of_output(&shell, &references[name]))
        })
        .collect();
    println!("{errors:?}");
    assert!(errors.iter().all(|&(_, error)| error <= BOUND), "{errors:?}");
}

#[test]
fn pictures_from_words_are_those_of_the_pipeline() {
    let read = |name: &str| fs::read(fixture("z_image/method").join(name)).unwrap();
    let cases: BTreeMap<String, (usize, usize, usize, f64)> =
        serde_json::from_slice(&read("words.json")).unwrap();
    let path = fixture("z_image/method/words.safetensors");
    let references = safetensors::load(path, &Device::Cpu).unwrap();
    let shell = shell();
    assert_eq!(cases.len(), 3);
    for (name, (width, height, steps, guidance)) in cases {
        // The pipeline adds so many times the difference to the prediction itself.
        let guidance = guidance + 1.0;
        let output = shell
            .command(&format!(
                "generate -o out.png --device cpu --model model --base-size {width}x{height} \
                 --steps {steps} --guidance {guidance} --seed 7 --bit-depth 16"
            ))
            .args([
                "--negative-prompt",
                "a wet wall",
                "a photo of the old harbour at dusk, blue sky!",
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let (_, ours) = samples(&shell);
        let error = largest_difference(&ours, &flat(&references[&name]));
        assert!(error <= BOUND, "{name}: {error}");
    }
}

#[test]
fn batches_and_threads_do_not_change_a_sample_though_texts_have_different_lengths() {
    let (cases, shell) = (cases(), shell());
    for name in ["all", "guided"] {
        run(&shell, &cases[name], "--batch 1");
        let alone = samples(&shell);
        run(&shell, &cases[name], "--batch 3 --threads 2");
        assert_eq!(alone, samples(&shell), "{name}");
    }
}
