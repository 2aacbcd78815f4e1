//! ControlNets as a user names them: by options, by paths and by installed names, and what is said of those that cannot be.

use std::{fs, process::Output};

use candle_core::safetensors;
use serde_json::{Value, json};

use crate::common::{
    self, Shell,
    control::{of_tiny, write_folder, write_tiny},
    copy_folder, fixture,
    models_bench::{Bench, one_line},
    stderr, test_picture,
};

/// A folder with a picture, the tiny model as `model` and a ControlNet for it as `plain`.
fn shell() -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 24, 20);
    copy_folder(&fixture("img2img/model"), &shell.path("model"));
    write_tiny("plain", &shell.path("plain"));
    shell
}

#[test]
fn wrong_options_and_files_are_refused_in_one_line() {
    let shell = shell();
    let job = "in.png -o out.png -s 2 --model model";
    for (options, said) in [
        ("--control plain:-1", "the scale -1 is not from 0 to 10"),
        ("--control plain:1e9", "is not from 0 to 10"),
        (
            "--control plain:1:0.8-0.2",
            "`0.8-0.2`: a range of the steps is START below END within 0 to 1",
        ),
        ("--control plain:1:0-1.5", "within 0 to 1"),
        ("--control plain:0-0.5", "stands behind a scale: plain:1:0-0.5"),
        ("--control-kind canny", "--control-kind is for --control"),
        ("--control plain --control-kind depth", "depth"),
        ("--control plain --control-kind tile --control-kind tile", "2 times for 1 --control"),
    ] {
        let line = shell.fail(&format!("{job} {options}"), 2);
        assert!(line.contains(said), "{options}: {line}");
    }
    fs::write(shell.path("page.safetensors"), "<!DOCTYPE html>\n<html>").unwrap();
    let unet = "model/unet/diffusion_pytorch_model.safetensors";
    for (options, said) in [
        ("--control none.safetensors".to_owned(), "no such model"),
        (format!("--control {unet}"), "no ControlNet in it: a UNet"),
        ("--control model".to_owned(), "the ControlNet is missing (config.json)"),
        ("--control page.safetensors".to_owned(), "HTML page"),
        ("--control plain --control-image none.png".to_owned(), "none.png"),
    ] {
        let line = shell.fail(&format!("{job} {options}"), 1);
        assert!(line.contains(said), "{options}: {line}");
    }
    // Of other sizes than the model's.
    let (config, tensors) = of_tiny("union");
    let mut few = config.clone();
    few["num_control_type"] = 6.into();
    let mut cut = tensors.clone();
    for (name, dim) in [("task_embedding", 0), ("control_add_embedding.linear_1.weight", 1)] {
        let length = tensors[name].dims()[dim] / 8 * 6;
        cut.insert(
            name.to_owned(),
            tensors[name].narrow(dim, 0, length).unwrap().contiguous().unwrap(),
        );
    }
    write_folder(&few, &cut, &shell.path("few"));
    let line = shell.fail(&format!("{job} --control few"), 1);
    assert!(
        line.contains("the ControlNet few: it knows 6 kinds of pictures, tile is not among them"),
        "{line}"
    );
    shell.succeed(&format!("{job} --control few --control-kind canny"));
    let line = shell.fail("generate dusk -o out.png --model model --control plain", 2);
    assert!(line.contains("--control is for the enlargement"), "{line}");
    let line = shell.fail("in.png -o no.png --model plain", 1);
    assert!(line.contains("model_index.json"), "{line}");
}

#[test]
fn a_control_as_a_model_is_told_apart_with_advice() {
    let shell = shell();
    let (_, tensors) = of_tiny("plain");
    safetensors::save(&tensors, shell.path("a.safetensors")).unwrap();
    let line = shell.fail("in.png -o out.png --model a.safetensors", 1);
    assert!(
        line.contains("a ControlNet, not a model; use it beside a model (--control)"),
        "{line}"
    );
}

fn run(bench: &Bench, arguments: &str) -> Output {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("cupscale-fast"));
    bench.environment(&mut command);
    command.args(arguments.split_whitespace()).output().unwrap()
}

#[test]
fn controls_have_names_which_are_added_pulled_listed_and_reused() {
    let bench = Bench::new();
    let place = |name: &str| bench.dir.path().join(name);
    pictures::save(test_picture(24, 20).into(), &place("in.png"));
    write_tiny("plain", &place("folder"));
    for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
        let bytes = fs::read(place("folder").join(file)).unwrap();
        bench.hub.put(&format!("tests/control/{file}"), &bytes);
    }
    bench.registry(&|registry| {
        let file = |path: &str| json!({ "path": path, "size": null, "sha256": null });
        registry["models"].as_array_mut().unwrap().push(json!({
            "name": "tiny-control", "title": "A ControlNet", "kind": "control",
            "licence": { "name": "MIT", "url": "https://licence.example", "commercial": true, "accept": null },
            "sources": [{ "repository": "tests/control", "revision": null, "role": "control",
                          "files": [file("config.json"), file("diffusion_pytorch_model.safetensors")] }],
        }));
    });
    let line = one_line(&run(&bench, "in.png --control tiny-control"), 1);
    assert!(line.contains("models pull tiny-control"), "{line}");
    bench.succeed("pull tiny-control");
    bench.succeed("add own folder");
    bench.succeed(&format!("add mine {}", common::tiny().display()));
    let line = bench.fail("add wrong folder --steps 4");
    assert!(line.contains("a ControlNet stands beside a model"), "{line}");
    let list = bench.list();
    for name in ["tiny-control", "own"] {
        let mut models = list["models"].as_array().unwrap().iter();
        let model = models.find(|model| model["name"] == name).unwrap();
        assert_eq!((&model["kind"], &model["state"]), (&json!("control"), &json!("installed")));
    }
    let known: Vec<_> =
        ["sdxl-tile", "sdxl-union", "sd15-tile"].map(|name| bench.state(name)).into();
    assert_eq!(known, ["known"; 3]);

    let picture = |options: &str| {
        let output = run(&bench, &format!("in.png -o out.png -s 2 --captioner none {options}"));
        assert!(output.status.success(), "{options}: {}", stderr(&output));
        let settings = cupscale::image::read_settings(&place("out.png")).unwrap().unwrap();
        let settings: Value = serde_json::from_str(&settings).unwrap();
        (pictures::open(place("out.png")).to_rgb8().into_raw(), settings)
    };
    let without = picture("--model mine").0;
    let (named, settings) = picture("--model mine --control tiny-control:0.5:0-0.9");
    assert_eq!(
        settings["controls"],
        json!([{"model": "tiny-control", "scale": 0.5, "range": [0.0, 0.9], "kind": "tile"}])
    );
    assert!(named != without);
    assert!(picture("--model mine --control folder:0.5:0-0.9").0 == named);
    assert!(picture("--model mine --control own:0.5:0-0.9").0 == named);
    picture("--model mine --control tiny-control:0.5:0-0.9");
    fs::rename(place("out.png"), place("first.png")).unwrap();
    let (again, reused) = picture("--reuse first.png");
    assert!(again == named && reused["controls"] == settings["controls"]);
    let (other, _) = picture("--reuse first.png --control own:0");
    assert!(other == without);
    picture("--model mine --control folder --control-image in.png");
    fs::rename(place("out.png"), place("second.png")).unwrap();
    let line = one_line(&run(&bench, "in.png -o out.png --reuse second.png"), 2);
    assert!(line.contains("its ControlNet folder saw a picture of its own (in.png)"), "{line}");
    for (options, is, wanted) in
        [("--control mine", "diffusion", "control"), ("--model own", "control", "diffusion")]
    {
        let line = one_line(&run(&bench, &format!("in.png -o no.png {options}")), 2);
        let expected = format!("a model of kind {is}, where one of kind {wanted} is wanted");
        assert!(line.contains(&expected), "{options}: {line}");
    }
}
