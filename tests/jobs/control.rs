//! Whole jobs with ControlNets against the same method written in PyTorch, diffusers and OpenCV
//! (`tests/make_fixtures/make_control_method_fixture.py`), and what must not change their bytes.

use std::{
    collections::BTreeMap,
    fs,
    process::{Command, Stdio},
};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::image::{blurred, canny, read_settings};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    common::{
        Shell,
        control::{of_tiny, write_tiny},
        copy_folder, fixture, pause, stderr,
    },
    reference::error_of_output,
};

/// A job of the fixture.
#[derive(Deserialize)]
pub struct Case {
    pub options: Vec<String>,
}

/// A folder with the picture, the captions, the model and both ControlNets.
pub fn shell() -> Shell {
    let shell = Shell::new();
    fs::copy(fixture("method/in.png"), shell.path("in.png")).unwrap();
    for file in ["captions.json", "own.png"] {
        fs::copy(fixture("control_method").join(file), shell.path(file)).unwrap();
    }
    copy_folder(&fixture("img2img/model"), &shell.path("model"));
    for name in ["plain", "union"] {
        write_tiny(name, &shell.path(name));
    }
    shell
}

pub fn command(shell: &Shell, more: &str) -> Command {
    shell.command(&format!("in.png -o out.png --device cpu --model model {more}"))
}

fn run(shell: &Shell, more: &str) -> Vec<u8> {
    let output = command(shell, more).output().unwrap();
    assert!(output.status.success(), "{more}: {}", stderr(&output));
    shell.bytes("out.png")
}

#[test]
fn whole_jobs_with_controls_equal_the_method_with_every_prior() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_slice(&fs::read(fixture("control_method/cases.json")).unwrap()).unwrap();
    let expected = fixture("control_method/expected.safetensors");
    let expected = safetensors::load(expected, &Device::Cpu).unwrap();
    assert_eq!(cases.len(), expected.len());
    let error = |name: &str, more: &str| {
        let shell = shell();
        let output = command(&shell, more).args(&cases[name].options).output().unwrap();
        assert!(output.status.success(), "{name}: {}", stderr(&output));
        error_of_output(&shell, &expected[name])
    };
    let errors: Vec<_> = cases.keys().map(|name| (name, error(name, ""))).collect();
    println!("{errors:?}");
    assert!(errors.iter().all(|(_, error)| *error <= 1e-4), "{errors:?}");
    // The reference knows no batches, tiles and threads.
    for name in ["tile", "guided"] {
        let error = error(name, "--tile 32 --batch 3 --threads 2");
        assert!(error <= 1e-4, "{name}: {error}");
    }
}

const TWO: &str = "--control plain:0.5 --control union:0.3:0.2-0.9 --control-kind canny --control-kind blur \
                   --guidance 2 -s 3 --denoise-steps 3 --captioner none";

#[test]
fn neither_batches_nor_threads_change_the_bytes_and_every_setting_of_a_control_does() {
    let shell = shell();
    let whole = run(&shell, TWO);
    for more in ["--batch 1", "--batch 5 --threads 1", "--threads 3"] {
        assert_eq!(run(&shell, &format!("{TWO} {more}")), whole, "{more}");
    }
    let one = "--control plain:0.5:0-1 -s 2 --denoise-steps 3 --captioner none";
    // The settings are in the file as well: the pixels are compared.
    let pixels = |more: &str| {
        run(&shell, more);
        pictures::open(shell.path("out.png")).to_rgb16().into_raw()
    };
    let without = pixels("-s 2 --denoise-steps 3 --captioner none");
    let mut seen = vec![without.clone(), pixels(one)];
    assert!(seen[0] != seen[1], "a control changed nothing");
    for changed in [
        "plain:0.6:0-1",
        "plain:0.5:0-0.5",
        "plain:0.5:0.4-1",
        "union:0.5:0-1",
        "plain:0.5 --control-kind canny",
        "plain:0.5 --control-kind blur",
        "plain:0.5 --control-image own.png",
        "plain:0.5 --control plain:0.2",
    ] {
        let pixels = pixels(&one.replace("plain:0.5:0-1", changed));
        assert!(!seen.contains(&pixels), "{changed} changed nothing");
        seen.push(pixels);
    }
    // Nothing is added.
    for none in ["plain:0", "plain:1:0.4-0.5"] {
        assert!(pixels(&one.replace("plain:0.5:0-1", none)) == without, "{none}");
    }
}

#[test]
fn the_settings_of_controls_are_in_the_picture_and_in_the_plan() {
    let shell = shell();
    run(&shell, &format!("{TWO} --control-image own.png"));
    let settings = read_settings(&shell.path("out.png")).unwrap().unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(
        settings["controls"],
        json!([
            {"model": "plain", "scale": 0.5, "range": [0.0, 1.0], "kind": "canny", "image": "own.png"},
            {"model": "union", "scale": 0.3, "range": [0.2, 0.9], "kind": "blur", "image": "own.png"},
        ])
    );
    let plan = |more: &str| {
        String::from_utf8(shell.succeed(&format!("plan in.png --device cpu --model model {more}")))
            .unwrap()
    };
    let text = plan(TWO);
    assert!(text.contains("control       plain: canny, scale 0.5\n"), "{text}");
    assert!(
        text.contains("control       union: blur, scale 0.3, predictions 2 to 2 of 3\n"),
        "{text}"
    );
    let json: Value = serde_json::from_str(&plan(&format!("{TWO} --json"))).unwrap();
    let memory = |json: &Value| {
        let stages = json["memory"]["stages"].as_array().unwrap();
        let denoise = stages.iter().find(|stage| stage["stage"] == "denoise").unwrap();
        denoise["peak"].as_u64().unwrap()
    };
    let without: Value =
        serde_json::from_str(&plan("-s 3 --guidance 2 --captioner none --json")).unwrap();
    assert!(memory(&json) > memory(&without), "the plan counts no control");
    assert_eq!(json["controls"].as_array().unwrap().len(), 2);
}

const WORK: &str = ".out.png.cupscale";

#[test]
fn a_killed_job_goes_on_with_its_controls_and_another_control_is_another_job() {
    let shell = shell();
    let undisturbed = run(&shell, TWO);
    // A line of the journal, of some 35 bytes, for each region of each step.
    let slow = &format!("{TWO} --batch 1");
    let (mut kills, mut tries) = (0, 0);
    while kills < 6 {
        tries += 1;
        assert!(tries < 60, "no job lived long enough to be killed");
        fs::remove_file(shell.path("out.png")).unwrap();
        let mut child = command(&shell, slow).stdout(Stdio::null()).spawn().unwrap();
        let journal = shell.path(WORK).join("journal");
        let bytes = 100 + 110 * kills;
        while child.try_wait().unwrap().is_none() {
            if fs::metadata(&journal).is_ok_and(|file| file.len() >= bytes) {
                let _ = child.kill();
                break;
            }
            pause();
        }
        if child.wait().unwrap().success() {
            continue;
        }
        kills += 1;
        // What is done is that job's alone.
        for other in [
            TWO.replace("plain:0.5", "plain:0.4"),
            TWO.replace("0.2-0.9", "0-0.9"),
            TWO.replace("--control-kind blur", "--control-kind tile"),
            format!("{TWO} --control-image own.png"),
        ] {
            let line =
                shell.fail(&format!("in.png -o out.png --device cpu --model model {other}"), 2);
            assert!(line.contains("another job"), "{line}");
        }
        assert_eq!(run(&shell, TWO), undisturbed, "after kill {kills}");
    }
    // Other weights under the same name, too.
    fs::remove_file(shell.path("out.png")).unwrap();
    let mut child = command(&shell, slow).stdout(Stdio::null()).spawn().unwrap();
    let journal = shell.path(WORK).join("journal");
    while !fs::metadata(&journal).is_ok_and(|file| file.len() >= 200) {
        assert!(child.try_wait().unwrap().is_none(), "it was too fast to be killed");
        pause();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let (config, mut tensors) = of_tiny("plain");
    let name = "controlnet_mid_block.weight";
    tensors.insert(name.to_owned(), (&tensors[name] * 0.5).unwrap());
    crate::common::control::write_folder(&config, &tensors, &shell.path("plain"));
    let line = shell.fail(&format!("in.png -o out.png --device cpu --model model {TWO}"), 2);
    assert!(line.contains("another job"), "{line}");
}

#[test]
fn edges_and_blurs_are_those_of_opencv() {
    let path = fixture("control_method/filters.safetensors");
    let tensors = safetensors::load(path, &Device::Cpu).unwrap();
    let (height, width, _) = tensors["levels"].dims3().unwrap();
    let values = |x: &Tensor| {
        x.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let rgb: Vec<f32> = values(&tensors["levels"]).iter().map(|level| level / 255.0).collect();
    let found: Vec<f32> =
        canny(&rgb, width, height).chunks_exact(3).map(|pixel| pixel[0]).collect();
    assert_eq!(found, values(&tensors["edges"]));
    for side in [48, 256] {
        let ours = blurred(&rgb, width, height, 9.0 / 512.0 * f64::from(side));
        let expected = values(&tensors[&format!("blurred_{side}")]);
        let largest = ours.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(largest < 1e-6, "{side}: {largest}");
    }
}
