//! Whole jobs with FLUX.2 klein against an independent form of the method written in PyTorch and diffusers from docs/method.md
//! (`tests/make_fixtures/make_flux2_method_fixture.py`): literal attention maps of both kinds of blocks, autograd for the
//! structure prior on packed latents, diffusers' own steps at the pipeline's sigmas and shift, f64. Picture in, picture out,
//! through the program; from every form that its transformer comes in.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    process::Stdio,
};

use candle_core::{
    Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
    safetensors,
};
use serde::Deserialize;

use crate::{
    common::{
        Shell, fixture,
        flux2_klein::{original, write_folder},
        pause, stderr,
        tensors::largest_difference,
    },
    reference::samples,
};

/// As of the method's other fixtures, of which those here have 16 bits.
const BOUND: f32 = 1e-4;

/// A job of the fixture.
#[derive(Deserialize)]
struct Case {
    options: Vec<String>,
}

fn cases() -> BTreeMap<String, Case> {
    let path = fixture("flux2_klein/method/cases.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A folder with the model and the input, where jobs run.
fn shell() -> Shell {
    let shell = Shell::new();
    for file in ["in.png", "captions.json", "captions_small.json"] {
        fs::copy(fixture("flux2_klein/method").join(file), shell.path(file)).unwrap();
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

/// Largest difference of the output from the reference of this name, relative to the reference's maximum.
fn error_of_output(shell: &Shell, name: &str) -> f32 {
    let reference = pictures::open(fixture(&format!("flux2_klein/method/{name}.png")));
    let reference = reference.as_rgb16().unwrap();
    let (size, ours) = samples(shell);
    assert_eq!(size, reference.dimensions());
    let values: Vec<f32> = reference.iter().map(|&sample| f32::from(sample) / 65535.0).collect();
    let largest = values.iter().copied().fold(0f32, f32::max);
    largest_difference(&ours, &values) / largest
}

#[test]
fn whole_jobs_equal_the_method_with_every_prior_and_guidance() {
    let (cases, shell) = (cases(), shell());
    assert_eq!(cases.len(), 4);
    let errors: Vec<(&str, f32)> = cases
        .iter()
        .map(|(name, case)| {
            run(&shell, case, "");
            (name.as_str(), error_of_output(&shell, name))
        })
        .collect();
    println!("{errors:?}");
    assert!(errors.iter().all(|&(_, error)| error <= BOUND), "{errors:?}");
}

#[test]
fn pictures_from_words_are_those_of_the_pipeline() {
    let path = fixture("flux2_klein/method/words.json");
    let cases: BTreeMap<String, (usize, usize, usize, f64)> =
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let shell = shell();
    assert_eq!(cases.len(), 3);
    for (name, (width, height, steps, guidance)) in cases {
        let output = shell
            .command(&format!(
                "generate -o out.png --device cpu --model model --base-size {width}x{height} \
                 --steps {steps} --guidance {guidance} --seed 7 --bit-depth 16"
            ))
            .arg("a photo of the old harbour at dusk, blue sky!")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        let error = error_of_output(&shell, &format!("words_{name}"));
        println!("{name}: {error:e}");
        assert!(error <= BOUND, "{name}: {error}");
    }
}

/// Writes tensors as GGUF, in f32.
fn write_gguf(shell: &Shell, name: &str, tensors: &HashMap<String, Tensor>) {
    let stored: Vec<(&String, QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name, QTensor::quantize(tensor, GgmlDType::F32).unwrap()))
        .collect();
    let stored: Vec<(&str, &QTensor)> =
        stored.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let architecture = gguf_file::Value::String("flux".to_owned());
    let mut file = fs::File::create(shell.path(name)).unwrap();
    let metadata = [("general.architecture", &architecture)];
    gguf_file::write(&mut file, &metadata, &stored).unwrap();
}

#[test]
fn a_transformer_from_a_file_of_its_own_and_a_model_in_one_file_give_the_same_job() {
    let (cases, shell) = (cases(), shell());
    let case = &cases["guided"];
    run(&shell, case, "");
    let expected = samples(&shell);
    safetensors::save(&original(), shell.path("original.safetensors")).unwrap();
    write_gguf(&shell, "transformer.gguf", &original());
    // The folder's own is not read.
    fs::remove_file(shell.path("model/transformer/diffusion_pytorch_model.safetensors")).unwrap();
    for file in ["original.safetensors", "transformer.gguf"] {
        fs::remove_file(shell.path("out.png")).unwrap();
        run(&shell, case, &format!("--transformer {file}"));
        assert_eq!(samples(&shell), expected, "{file}");
    }
    write_folder(&shell.path("model"));
    shell.succeed("models quantize model -o whole.gguf --type f16");
    fs::remove_dir_all(shell.path("model")).unwrap();
    fs::rename(shell.path("whole.gguf"), shell.path("model")).unwrap();
    run(&shell, case, "");
    let error = error_of_output(&shell, "guided");
    assert!(error > BOUND && error < 0.05, "weights of 16 bits: {error}");
}

#[test]
fn batches_threads_and_tiles_do_not_change_a_sample() {
    let (cases, shell) = (cases(), shell());
    for name in ["all", "guided"] {
        run(&shell, &cases[name], "--batch 1");
        let alone = samples(&shell);
        run(&shell, &cases[name], "--batch 3 --threads 2");
        assert_eq!(alone, samples(&shell), "{name}");
    }
    // Several blocks of the autoencoder, layer by layer: the whole but for the order of sums.
    run(&shell, &cases["all"], "--tile 32");
    let error = error_of_output(&shell, "all");
    assert!(error <= BOUND, "tiles: {error:e}");
}

#[test]
fn a_job_killed_at_any_moment_ends_with_the_same_bytes() {
    let (cases, shell) = (cases(), shell());
    let case = &cases["guided"];
    run(&shell, case, "--batch 1");
    let undisturbed = shell.bytes("out.png");
    let journal = shell.path(".out.png.cupscale/journal");
    let mut kills = 0;
    for bytes in [1, 150, 300, 450, 600, 750] {
        fs::remove_file(shell.path("out.png")).unwrap();
        let mut child = shell
            .command("in.png -o out.png --device cpu --model model --batch 1")
            .args(&case.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while child.try_wait().unwrap().is_none() {
            if fs::metadata(&journal).is_ok_and(|file| file.len() >= bytes) {
                child.kill().unwrap();
                break;
            }
            pause();
        }
        kills += usize::from(!child.wait().unwrap().success());
        run(&shell, case, "--batch 1");
        assert_eq!(shell.bytes("out.png"), undisturbed, "killed at {bytes} bytes");
    }
    assert!(kills >= 4, "only {kills} jobs lived long enough to be killed");
}

#[test]
fn other_models_of_flux_are_refused_by_name() {
    let shell = shell();
    let index = fs::read_to_string(shell.path("model/model_index.json")).unwrap();
    for (pipeline, name) in [("Flux2Pipeline", "FLUX.2 [dev]"), ("FluxPipeline", "FLUX.1")] {
        let other = index.replace("Flux2KleinPipeline", pipeline);
        fs::write(shell.path("model/model_index.json"), other).unwrap();
        let line = shell.fail("in.png -o out.png --model model", 1);
        assert!(line.contains(name) && line.contains("FLUX.2 [klein]"), "{line}");
    }
}
